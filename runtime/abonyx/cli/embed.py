"""The command embed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from abonyx.cli.example import example
from abonyx.cli.one_file import carry_out, file_or_none, read
from abonyx.cli.options import KEEP, PATH_OR_DASH, RESTART, SOURCE, SUMMARY, prepare, run_options
from abonyx.errors import ConfigError

_OUTPUT = click.option("-o", "--output", required=True, type=PATH_OR_DASH, help="Output file, .npy or .parquet.")


@click.command(epilog=example("abonyx embed examples/therapeutic_vh.csv -o embeddings.npy"))
@SOURCE
@_OUTPUT
@run_options
@RESTART
@KEEP
@SUMMARY
def embed(source: Path, output: Path, restart: bool, summary: Path | None, **options: Any) -> None:
    """Write the embeddings of sequences.

    INPUT is a file as for `score`; - is stdin. The output has one pooled embedding for each sequence. For a .npy
    file, a second file beside it lists the ids.
    """
    from abonyx.output.kinds import named_kind
    from abonyx.run.resumed import embed_run

    target = file_or_none(output)
    if target is None:
        raise ConfigError("-o -: embeddings are not text and cannot go to stdout", "Give a .npy or .parquet file.")
    kind: Any = named_kind(output, ("npy", "parquet"))
    run = prepare(options)
    checked = read(run, source, target, single=True, summary=summary)
    width = f"{run.bundle.manifest.embedding_width} columns"
    carry_out(embed_run(run, checked, target, kind), restart, width, summary_file=summary)
