"""Text: byte-pair tokens."""
