"""`abonyx reference`: add a panel of known antibodies to a bundle, for percentiles of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from abonyx.cli.example import example
from abonyx.cli.options import BUNDLE, BUNDLE_OUTPUT_HELP, PATH, PATH_OR_DASH, prepare_with, run_options_beside_bundle
from abonyx.logs import LOGGER


@click.command(epilog=example("abonyx reference artifacts/mini examples/labelled.csv --name elisa -o panel"))
@click.argument("source_bundle", metavar="BUNDLE", type=BUNDLE)
@click.argument("source", metavar="FILE", type=PATH_OR_DASH)
@click.option("--name", required=True, help="Name of the panel; `score --panel NAME` chooses it.")
@click.option("--origin", help="Source of the antibodies, one line for readers.  [default: the name of FILE]")
@click.option("-o", "--output", required=True, type=PATH, help=BUNDLE_OUTPUT_HELP)
@run_options_beside_bundle
def reference(source_bundle: str, source: Path, name: str, origin: str | None, output: Path, **options: Any) -> None:
    """Add known antibodies to a bundle, for percentiles of scores.

    Scores the antibodies of FILE with every head of BUNDLE, and writes a new bundle that contains them as a panel.
    FILE may be - for stdin.
    """
    from abonyx.run.reference import ReferenceRequest, add_panel

    request = ReferenceRequest(
        run=prepare_with(source_bundle, options),
        source=None if str(source) == "-" else source,
        output=output,
        name=name,
        origin=origin,
    )
    panel = add_panel(request, LOGGER.info)
    LOGGER.info(f"wrote {output}; panel {panel.name}: {panel.rows} rows of {panel.source}")
