"""The command evaluate."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from abonyx.cli.example import example
from abonyx.cli.options import ASSAY, PATH, THRESHOLD, prepare, run_options
from abonyx.extras import require
from abonyx.logs import LOGGER


@click.command(epilog=example("abonyx evaluate examples/labelled.csv -o evaluation"))
@click.argument("sources", metavar="INPUT...", nargs=-1, required=True, type=PATH)
@click.option(
    "-o",
    "--output",
    required=True,
    type=PATH,
    help="Directory to create. With several INPUTs, it has a directory for each.",
)
@click.option(
    "--label-column",
    default="label",
    show_default=True,
    help="Column of labels: 0 and 1, or measured values; a row with an empty cell has no label.",
)
@click.option("--head", metavar="NAME", help="Head to evaluate.  [default: the bundle's first]")
@run_options
@ASSAY
@THRESHOLD
@click.option("--bootstrap", type=click.IntRange(min=1), default=2000, show_default=True, help="Number of resamples.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling.")
@click.option(
    "--stability",
    is_flag=True,
    help="Also score changed copies of the sequences, to see how much calls and values move. Takes 8 times as long.",
)
@click.option(
    "--by",
    metavar="COLUMN",
    help="Column that names the parent of each antibody variant. Only variants of one parent are compared "
    "with each other.",
)
def evaluate(
    sources: tuple[Path, ...],
    output: Path,
    label_column: str,
    head: str | None,
    assay: str | None,
    threshold: float | None,
    bootstrap: int,
    seed: int,
    stability: bool,
    by: str | None,
    **options: Any,
) -> None:
    """Compare a head's scores with labels or measured values.

    Writes a card, metrics, predictions, pictures and a report. Needs the extra evaluate.
    """
    require("evaluate")
    from abonyx.evaluate.evaluation import EvaluationRequest, check_request, evaluate_files

    typed = shlex.join(["abonyx", *sys.argv[1:]])
    request = EvaluationRequest(
        sources, output, label_column, assay, threshold, bootstrap, seed, head, stability, by, typed
    )
    check_request(request)
    for line in evaluate_files(request, prepare(options)):
        LOGGER.info(line)
