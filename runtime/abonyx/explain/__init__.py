"""Why a score is what it is, and what a mutation does to it."""
