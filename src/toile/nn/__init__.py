"""Building blocks of the networks: attention, residual blocks, embeddings."""
