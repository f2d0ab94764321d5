"""Read a classifier from a file, and write it as the head of a graph."""

from abonyx_export.head.head import read_head

__all__ = ["read_head"]
