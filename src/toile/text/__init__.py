"""Text: the grammar of prompts, byte-pair tokens in rows, weights of words."""
