"""`abonyx calibrate`. Heavy imports wait until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from abonyx.cli.example import example
from abonyx.cli.options import BUNDLE, BUNDLE_OUTPUT_HELP, PATH, PATH_OR_DASH, prepare_with, run_options_beside_bundle
from abonyx.extras import require
from abonyx.logs import LOGGER
from abonyx_export.help_texts import CACHE_HELP, LABEL_HELP, NAME_HELP, NOTICE_HELP


@click.command(epilog=example("abonyx calibrate artifacts/mini examples/labelled.csv -o calibrated"))
@click.argument("source_bundle", metavar="BUNDLE", type=BUNDLE)
@click.argument("source", metavar="CONTROLS", type=PATH_OR_DASH)
@click.option("--label-column", default="label", show_default=True, help=LABEL_HELP)
@click.option("-o", "--output", required=True, type=PATH, help=BUNDLE_OUTPUT_HELP)
@click.option("--head", help="Head of the bundle to calibrate.  [default: the first]")
@run_options_beside_bundle
@click.option("--name", help=NAME_HELP)
@click.option("--notice", help=NOTICE_HELP)
@click.option("--embedding-cache", type=PATH, help=CACHE_HELP)
def calibrate(
    source_bundle: str,
    source: Path,
    label_column: str,
    output: Path,
    head: str | None,
    name: str | None,
    notice: str | None,
    embedding_cache: Path | None,
    **options: Any,
) -> None:
    """Adjust a head's scores to controls that you have measured.

    CONTROLS is a file of 20 or more labelled sequences; - is stdin. The command fits a slope and an intercept for
    one head of BUNDLE, and writes a new bundle. It needs the extra fit, and no PyTorch.
    """
    require("calibrate")
    from abonyx_export.calibrate.calibrate import calibrate_bundle
    from abonyx_export.calibrate.request import CalibrateRequest

    request = CalibrateRequest(
        run=prepare_with(source_bundle, options),
        source=None if str(source) == "-" else source,
        label_column=label_column,
        output=output,
        head=head,
        name=name,
        notice=notice,
        embedding_cache=embedding_cache,
    )
    calibrate_bundle(request, LOGGER.info)
    LOGGER.info(f"wrote {output}; head {request.spec.name} is calibrated with {request.source_name}")
