"""SentencePiece models: read the file, and build BPE and unigram tokenizers."""
