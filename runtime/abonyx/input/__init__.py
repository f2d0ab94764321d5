"""Read files and check their records."""
