"""Evaluation: scores with intervals, of pictures against real pictures that nobody trained on."""
