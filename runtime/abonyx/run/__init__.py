"""Runs, from an input to an output."""
