"""Reads run directories; knows nothing of how they come to be."""
