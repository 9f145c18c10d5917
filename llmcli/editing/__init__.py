"""Model editing: change one fact by a rank-one weight update (ROME), and measure its effects."""
