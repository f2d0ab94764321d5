"""The command explain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from abonyx.cli.example import example
from abonyx.cli.one_file import file_or_none
from abonyx.cli.options import HEADS, PATH, SOURCE, SUMMARY, can_draw, names_of, prepare, run_options
from abonyx.logs import LOGGER


@click.command(epilog=example("abonyx explain examples/therapeutic_vh.csv -o explained"))
@SOURCE
@click.option("-o", "--output", required=True, type=PATH, help="Directory to create.")
@HEADS
@click.option("--no-pictures", is_flag=True, help="Write only the tables; they need no extra.")
@SUMMARY
@run_options
def explain(
    source: Path, output: Path, heads: str | None, no_pictures: bool, summary: Path | None, **options: Any
) -> None:
    """Show what each residue adds to the score of its record.

    INPUT is a file of sequences; - is stdin. The command writes tables, and a picture of each record. Pictures need
    the extra explain.
    """
    from abonyx.explain.explanation import ExplanationRequest, explain_file

    wanted = names_of("heads", heads)
    chosen = "all" if wanted == ("all",) else wanted
    pictures = not no_pictures and can_draw("drawing contributions")
    request = ExplanationRequest(file_or_none(source), output, chosen, pictures, summary)
    for line in explain_file(request, prepare(options)):
        LOGGER.info(line)
