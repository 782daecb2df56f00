"""Several runs laid over each other."""
