"""SentencePiece models: reading the file, and BPE by scores."""
