"""Parts that several views draw with: heat maps, shades, numbers and token tables."""
