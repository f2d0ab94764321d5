"""A classifier file as the head of a graph."""
