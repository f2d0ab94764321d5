"""From values to whole files."""
