"""Large vocabularies as packed bytes, and tokenizers that are built from the part of one that a text needs."""
