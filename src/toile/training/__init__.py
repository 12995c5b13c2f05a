"""Training: one loop for every objective, runs that resume bit for bit."""
