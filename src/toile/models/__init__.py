"""Networks: one network and its frozen config per file."""
