"""`abonyx scan`: its options, which are checked before a model is opened."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from abonyx.cli.example import example
from abonyx.cli.options import (
    HEADS_HELP,
    PATH,
    PATH_OR_DASH,
    SUMMARY,
    VALIDATED_HELP,
    can_draw,
    names_of,
    prepare,
    run_options,
)
from abonyx.logs import LOGGER


@click.command(epilog=example("abonyx scan examples/therapeutic_vh.csv --id trastuzumab -o scanned"))
@click.argument("source", metavar="INPUT", type=PATH_OR_DASH)
@click.option("-o", "--output", required=True, type=PATH, help="Directory to create.")
@click.option("--id", "id_", metavar="ID", help="Scan only this record.  [default: every record]")
@click.option(
    "--positions",
    metavar="cdr|framework|all|LIST",
    default="cdr",
    show_default=True,
    help="Positions to mutate; LIST: IMGT positions, e.g. 27,57,105-117.",
)
@click.option("--exclude", metavar="C,M", default="", help="Residues not to use as replacements.  [default: none]")
@click.option(
    "--heads",
    metavar="NAME,...|all",
    help=HEADS_HELP,
)
@click.option("--rank", is_flag=True, help="Also rank CDR mutants among mutants of equal charge; see docs/scan.md.")
@click.option(
    "--validated",
    metavar="METRICS.JSON",
    type=PATH,
    help=VALIDATED_HELP,
)
@click.option("--no-pictures", is_flag=True, help="Write only the tables; they need no extra.")
@click.option("--yes", is_flag=True, help="Allow more than 20,000 mutants.")
@SUMMARY
@click.option("--restart", is_flag=True, help="Discard what an interrupted scan left, and start again.")
@run_options
def scan(
    source: Path,
    output: Path,
    id_: str | None,
    positions: str,
    exclude: str,
    heads: str | None,
    rank: bool,
    validated: Path | None,
    no_pictures: bool,
    yes: bool,
    restart: bool,
    summary: Path | None,
    **options: Any,
) -> None:
    """Show what each single mutation does to scores and charge.

    Scans the sequences of INPUT; - is stdin. It recommends no mutation. Pictures need the extra explain.
    """
    from abonyx.explain.scan import scan_options
    from abonyx.explain.scan_files import refuse_output, scan_records
    from abonyx.explain.scan_request import ScanRequest
    from abonyx.run.summary_file import check_summary

    run = prepare(options)
    chosen = scan_options(run.bundle, run.config, names_of("heads", heads), positions, exclude, run.check, validated)
    run = run.of_chains(tuple(chosen.heads[0].chains))
    refuse_output(output)
    source_file = None if str(source) == "-" else source
    check_summary(summary, output, source_file)
    pictures = not no_pictures and can_draw("drawing a scan")
    # With --id, other records of the file may be invalid.
    read = run if id_ is None else dataclasses.replace(run, skip=True)
    checked = read.read(source_file)
    request = ScanRequest(run, chosen, output, id_, rank, pictures, yes, restart, summary)
    for line in scan_records(request, checked):
        LOGGER.info(line)
