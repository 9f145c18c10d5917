"""What recurrent layers remember of a text."""
