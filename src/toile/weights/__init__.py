"""Files that hold weights: single tensors files, component folders, training state."""
