"""What an evaluation takes where nothing else is said: plain values, for command lines that load no networks yet."""

from __future__ import annotations

NUM_PICTURES, NUM_SETS = 1300, 5
SIZE = (64, 80)  # width and height
NETWORKS = ("attributes", "words", "random")
"""Of pictures with labels of articles; others get a random network as wide as their number allows."""
