"""A new head for a bundle."""
