"""The command score: its options, and the choice between one file, a directory, Ray and an object store."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from abonyx.cli.example import example
from abonyx.cli.one_file import carry_out, file_or_none, read
from abonyx.cli.options import (
    ASSAY,
    HEADS,
    KEEP,
    PATH_OR_URI,
    RESTART,
    SUMMARY,
    THRESHOLD,
    ObjectUri,
    names_of,
    prepare,
    run_options,
)
from abonyx.cli.table import TABLE_ROWS, FirstRows
from abonyx.errors import ConfigError
from abonyx.logs import LOGGER

if TYPE_CHECKING:
    from abonyx.run.scorer import DirectoryRequest

SCORE_EXAMPLE = "abonyx score examples/therapeutic_vh.csv -o scores.csv --table"
_KINDS = ("csv", "tsv", "csv.gz", "tsv.gz", "jsonl", "parquet")
_WITH = click.option(
    "--with",
    "with_columns",
    metavar="NAME,...",
    help="More columns: charge, pI, length, cdr3, nearest_identity (to the nearest training row), interval.",
)
_PANEL = click.option(
    "--panel", metavar="NAME", help="Panel of known antibodies, for percentiles.  [default: the bundle's first]"
)


@click.command(epilog=example(SCORE_EXAMPLE))
@click.argument("sources", metavar="INPUT...", nargs=-1, required=True, type=PATH_OR_URI)
@click.option(
    "-o",
    "--output",
    required=True,
    type=PATH_OR_URI,
    help="Output file; - is stdout. With several INPUTs, a directory.",
)
@run_options
@RESTART
@ASSAY
@THRESHOLD
@HEADS
@_PANEL
@KEEP
@_WITH
@click.option(
    "--format",
    "kind",
    type=click.Choice(_KINDS),
    help="Format of the output.  [default: OUTPUT's suffix; csv in a directory, parquet with --ray]",
)
@SUMMARY
@click.option("--table", is_flag=True, help=f"Also print the results to stderr, at most {TABLE_ROWS} rows.")
@click.option(
    "--ray",
    metavar="[ADDRESS]",
    is_flag=False,
    flag_value="",
    help="Score with Ray workers, on this machine or on the cluster at ADDRESS.",
)
def score(
    sources: tuple[Path | ObjectUri, ...],
    output: Path | ObjectUri,
    restart: bool,
    assay: str | None,
    threshold: float | None,
    heads: str | None,
    panel: str | None,
    kind: Any,
    table: bool,
    ray: str | None,
    summary: Path | None,
    **options: Any,
) -> None:
    """Score the antibody sequences of files.

    INPUT is FASTA, CSV, TSV or JSONL (each also as .gz), Parquet or .xlsx; - is stdin. If INPUT is several files, a
    directory or a quoted pattern, OUTPUT is a directory with one file for each. With --ray, all inputs and the
    output may be s3:// URIs.
    """
    from abonyx.output.kinds import score_kind
    from abonyx.run.resumed import score_run
    from abonyx.run.scorer import DirectoryRequest

    uris = _uris(sources, output, ray, table, summary)
    run = prepare(options)
    wanted = run.choose_heads(names_of("heads", heads), assay, threshold, panel)
    run = run.of_chains(wanted.chains)
    if uris:
        from abonyx.ray.store_run import score_in_store

        score_in_store(DirectoryRequest(run, Path(), kind or "parquet", wanted), uris, ray or "", restart)
        return
    paths, output = tuple(map(Path, sources)), Path(output)
    if ray is not None or _is_directory_run(paths, output):
        _check_directory_run(paths, output, table, summary)
        kind = kind or ("csv" if ray is None else "parquet")
        _score_directory(DirectoryRequest(run, output.absolute(), kind, wanted), paths, ray, restart)
        return
    target = file_or_none(output)
    chosen = score_kind(target, kind)
    checked = read(run, paths[0], target, summary=summary)
    first = FirstRows(len(checked.ids), wanted) if table else None
    file_run = score_run(run, checked, target, chosen, wanted, first.add if first else None)
    if run.check == "off":
        LOGGER.info("note: --domain off: chain and domain were not looked at; no record is flagged")
    carry_out(file_run, restart, wanted.summary(assay), first.print if first else None, summary)


def _uris(
    sources: tuple[Path | ObjectUri, ...], output: Path | ObjectUri, ray: str | None, table: bool, summary: Path | None
) -> list[str]:
    """The URIs of inputs and output if all of them are in an object store; [] if none is.

    Raises:
        ConfigError: only some are in an object store, or --ray is missing, or --table or --summary is given.
    """
    given = [*sources, output]
    found = [str(each) for each in given if isinstance(each, ObjectUri)]
    if not found:
        return []
    if ray is None:
        fix = "Add --ray (extra ray; it also works on one machine), or copy the files to a disk first."
        raise ConfigError(f"{found[0]}: only a run with --ray can read and write an object store", fix)
    if len(found) < len(given):
        path = next(each for each in given if not isinstance(each, ObjectUri))
        what = f"{found[0]} is in an object store and {path} is not: all inputs and the output must be in one"
        raise ConfigError(what, "Give an s3:// URI for each of them, or copy the files to a disk first.")
    if table:
        raise ConfigError("--table cannot be used with a directory of results", "Leave it out.")
    if summary is not None:
        what = f"--summary {summary} cannot be used with an object store"
        raise ConfigError(what, "Leave it out: the folder _abonyx beside the results gets a summary.json.")
    return found


def _is_directory_run(sources: tuple[Path, ...], output: Path) -> bool:
    """Whether the output is a directory with one file for each input."""
    source = sources[0]
    several = len(sources) > 1 or source.is_dir() or (glob.has_magic(str(source)) and not source.is_file())
    return several or (str(output) != "-" and output.is_dir())


def _check_directory_run(sources: tuple[Path, ...], output: Path, table: bool, summary: Path | None) -> None:
    """Raise a ConfigError for options that need one input and one output file."""
    if summary is not None:
        what = "--summary cannot be used with several inputs, a directory or --ray"
        raise ConfigError(what, f"Leave it out: {output / '_abonyx' / 'summary.json'} gets the figures of such a run.")
    if table:
        raise ConfigError("--table cannot be used with a directory of results", "Leave it out.")
    if Path("-") in (*sources, output):
        what = "-: standard input and output cannot be used with several inputs, a directory or --ray"
        raise ConfigError(what, "Name files or a directory of them, and a directory for -o.")
    if not output.is_dir() and output.name.lower().endswith(tuple(f".{kind}" for kind in _KINDS)):
        what = f"output {output}: this is the name of a file, but several inputs give several files"
        raise ConfigError(what, "Name a directory for -o, or give one input.")


def _score_directory(request: DirectoryRequest, sources: tuple[Path, ...], ray: str | None, restart: bool) -> None:
    """Score the files one after another, or with Ray's workers if `ray` is not None."""
    if ray is None:
        from abonyx.run.directory import score_directory

        score_directory(request, sources, restart)
    else:
        from abonyx.ray.command import score_by_ray

        score_by_ray(request, sources, ray, restart)
