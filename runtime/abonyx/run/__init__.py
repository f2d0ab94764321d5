"""One run from input to output."""
