"""The command line."""

from abonyx.cli.commands import cli, main

__all__ = ["cli", "main"]
