"""The command line. Each command imports what it needs when it runs: --help loads neither numpy nor an engine."""

from __future__ import annotations

import glob
import importlib.metadata
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from abonyx import __version__
from abonyx.cli import bundle as cli_bundle
from abonyx.cli import push as cli_push
from abonyx.cli import reference as cli_reference
from abonyx.cli import scan as cli_scan
from abonyx.cli import serve as cli_serve
from abonyx.cli.example import example
from abonyx.cli.options import (
    HEADS_HELP,
    PATH,
    PATH_OR_DASH,
    PATH_OR_URI,
    SUMMARY,
    ObjectUri,
    can_draw,
    names_of,
    prepare,
    run_options,
)
from abonyx.cli.table import TABLE_ROWS, FirstRows
from abonyx.errors import ConfigError, EngineError, printable
from abonyx.extras import require
from abonyx.logs import LOGGER, to_stderr, verbose
from abonyx.pages import pages_folder
from abonyx.run.interrupts import ENDING, handled
from abonyx.wording import Interface

if TYPE_CHECKING:
    from collections.abc import Callable

    from abonyx.input.checked import Input
    from abonyx.run.request import RunRequest
    from abonyx.run.resumed import FileRun
    from abonyx.run.scorer import DirectoryRequest

# Other packages of the distribution add commands here (abonyx_export: `export`); the runtime never imports them.
COMMANDS_GROUP = "abonyx.commands"
EXIT_INTERRUPTED = 130
_LOG_JSON = "--log-json"
_SCORE_EXAMPLE = "abonyx score examples/therapeutic_vh.csv -o scores.csv --table"


class _Commands(click.Group):
    """Commands of this module, and those that installed packages register."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(entry.name for entry in _registered())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        for entry in _registered() if command is None else ():
            if entry.name == cmd_name:
                command = entry.load()
        if command is not None and _LOG_OPTIONS[0] not in command.params:
            command.params += _LOG_OPTIONS
        return command


def _registered() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=COMMANDS_GROUP)


def _verbose(_context: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        verbose()


# Of every command. main() looks for --log-json itself: an error about the options, too, is a line of JSON then.
_LOG_OPTIONS = [
    click.Option(
        ["-v", "--verbose"], is_flag=True, expose_value=False, callback=_verbose, help="Log each step to stderr."
    ),
    click.Option([_LOG_JSON], is_flag=True, expose_value=False, help="Log to stderr as JSON, one object per line."),
]


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Pages that messages name as docs/NAME.md are in {pages_folder()}\n\n{example(_SCORE_EXAMPLE)}",
)
@click.version_option(__version__, prog_name="abonyx")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Score antibody sequences for non-specificity (polyreactivity), without PyTorch.

    `abonyx COMMAND --help` describes a command and ends with an example.
    """


for _command in (
    *(cli_bundle.doctor, cli_bundle.verify, cli_bundle.inspect),
    *(cli_serve.serve, cli_reference.reference, cli_scan.scan, cli_push.push),
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; exits with the code of errors.py, or EXIT_INTERRUPTED after a signal."""
    # A scheduler's or a closed terminal's signal unwinds like Ctrl-C, so that partial files are removed.
    as_json = _LOG_JSON in sys.argv
    with to_stderr(as_json=as_json), handled(_end, ENDING[1:]):
        try:
            cli.main(standalone_mode=False)
        except EngineError as error:
            LOGGER.error(error.text(Interface.COMMAND_LINE), exc_info="--debug" in sys.argv)
            sys.exit(error.exit_code)
        except click.exceptions.Exit as exit_:
            sys.exit(exit_.exit_code)
        except click.ClickException as error:
            if as_json:
                LOGGER.error(error.format_message())
            else:
                error.show()
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            LOGGER.error("interrupted")
            sys.exit(EXIT_INTERRUPTED)


def _end(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


_SOURCE = click.argument("source", metavar="INPUT", type=PATH_OR_DASH)
_OUTPUT = click.option("-o", "--output", required=True, type=PATH_OR_DASH, help="Output file, .npy or .parquet.")
_RESTART = click.option("--restart", is_flag=True, help="Discard what an interrupted run left, and start again.")
_KINDS = ("csv", "tsv", "csv.gz", "tsv.gz", "jsonl", "parquet")
_KEEP = click.option(
    "--keep",
    metavar="COLUMN,...|all",
    help="Columns of INPUT to copy to the output; of FASTA: description.",
)
_WITH = click.option(
    "--with",
    "with_columns",
    metavar="NAME,...",
    help="More columns: charge, pI, length, cdr3, nearest_identity (with the training rows), interval.",
)
_ASSAY = click.option("--assay", help="Use the threshold that the head declares for this assay, e.g. elisa, psr.")
_HEADS = click.option(
    "--heads",
    metavar="NAME,...|all",
    help=HEADS_HELP,
)
_PANEL = click.option(
    "--panel", metavar="NAME", help="Panel of known antibodies, for percentiles.  [default: the bundle's first]"
)
_THRESHOLD = click.option("--threshold", type=float, help="A record is non-specific if its p is strictly above this.")


@cli.command(epilog=example(_SCORE_EXAMPLE))
@click.argument("sources", metavar="INPUT...", nargs=-1, required=True, type=PATH_OR_URI)
@click.option(
    "-o",
    "--output",
    required=True,
    type=PATH_OR_URI,
    help="Output file; - is stdout. With several INPUTs, a directory.",
)
@run_options
@_RESTART
@_ASSAY
@_THRESHOLD
@_HEADS
@_PANEL
@_KEEP
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
    help="Score by Ray workers, on this machine or on the cluster at ADDRESS.",
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
    directory or a quoted pattern, OUTPUT is a directory with one file for each. With --ray, all of them may be
    s3:// URIs.
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
    target = _target(output)
    chosen = score_kind(target, kind)
    checked = _read(run, paths[0], target, summary=summary)
    first = FirstRows(len(checked.ids), wanted) if table else None
    file_run = score_run(run, checked, target, chosen, wanted, first.add if first else None)
    if run.check == "off":
        LOGGER.info("note: --domain off: chain and domain were not looked at; no record is flagged")
    _go(file_run, restart, wanted.summary(assay), first.print if first else None, summary)


def _uris(
    sources: tuple[Path | ObjectUri, ...], output: Path | ObjectUri, ray: str | None, table: bool, summary: Path | None
) -> list[str]:
    """The URIs of inputs and output, if they are of an object store; [] if none is.

    Raises:
        ConfigError: some are and some are not; a run without Ray; --table; --summary.
    """
    given = [*sources, output]
    found = [str(each) for each in given if isinstance(each, ObjectUri)]
    if not found:
        return []
    if ray is None:
        fix = "Add --ray (extra ray; it also works on one machine), or copy the files to a disk first."
        raise ConfigError(f"{found[0]}: an object store is read and written by Ray's workers alone", fix)
    if len(found) < len(given):
        path = next(each for each in given if not isinstance(each, ObjectUri))
        what = f"{found[0]} and {path}: with an object store all inputs and the output have to be there"
        raise ConfigError(what, "Give s3:// for each of them, or copy the files to a disk first.")
    if table:
        raise ConfigError("--table with a directory of results", "Leave it out: the results are not shown as a table.")
    if summary is not None:
        what = f"--summary {summary} with an object store"
        raise ConfigError(what, "Leave it out: a summary.json lies beside the results, in _abonyx.")
    return found


def _is_directory_run(sources: tuple[Path, ...], output: Path) -> bool:
    """Whether results go to a directory, a file for each input."""
    source = sources[0]
    several = len(sources) > 1 or source.is_dir() or (glob.has_magic(str(source)) and not source.is_file())
    return several or (str(output) != "-" and output.is_dir())


def _check_directory_run(sources: tuple[Path, ...], output: Path, table: bool, summary: Path | None) -> None:
    """Refuse, by a ConfigError, what only a run of one file to one file can do."""
    if summary is not None:
        what = "--summary with several inputs, a directory or --ray"
        raise ConfigError(what, f"Leave it out: {output / '_abonyx' / 'summary.json'} has the figures of such a run.")
    if table:
        raise ConfigError("--table with a directory of results", "Leave it out: the results are not shown as a table.")
    if Path("-") in (*sources, output):
        what = "-: standard input and output cannot be used with several inputs, a directory or --ray"
        raise ConfigError(what, "Name files or a directory of them, and a directory for -o.")
    if not output.is_dir() and output.name.lower().endswith(tuple(f".{kind}" for kind in _KINDS)):
        what = f"output {output}: has the name of a file, and several inputs give a file each"
        raise ConfigError(what, "Name a directory for -o, or give one input.")


def _score_directory(request: DirectoryRequest, sources: tuple[Path, ...], ray: str | None, restart: bool) -> None:
    """Score the files one after another, or, if `ray` is not None, by Ray's workers."""
    if ray is None:
        from abonyx.run.directory import score_directory

        score_directory(request, sources, restart)
    else:
        from abonyx.ray.command import score_by_ray

        score_by_ray(request, sources, ray, restart)


@cli.command(epilog=example("abonyx embed examples/therapeutic_vh.csv -o embeddings.npy"))
@_SOURCE
@_OUTPUT
@run_options
@_RESTART
@_KEEP
@SUMMARY
def embed(source: Path, output: Path, restart: bool, summary: Path | None, **options: Any) -> None:
    """Write the embeddings of sequences.

    INPUT is a file as for `score`; - is stdin. The output has one pooled embedding for each sequence. A .npy file
    has its ids in a file beside it.
    """
    from abonyx.output.kinds import named_kind
    from abonyx.run.resumed import embed_run

    target = _target(output)
    if target is None:
        raise ConfigError("embed -o -: embeddings are not text", "Give a .npy or .parquet file.")
    kind: Any = named_kind(output, ("npy", "parquet"))
    run = prepare(options)
    checked = _read(run, source, target, single=True, summary=summary)
    width = f"{run.bundle.manifest.embedding_width} columns"
    _go(embed_run(run, checked, target, kind), restart, width, summary_file=summary)


@cli.command(epilog=example("abonyx evaluate examples/labelled.csv -o evaluation"))
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
    help="Column of labels: 0 and 1, or measured values; an empty cell is no label.",
)
@click.option("--head", metavar="NAME", help="Head to evaluate.  [default: the bundle's first]")
@run_options
@_ASSAY
@_THRESHOLD
@click.option("--bootstrap", type=click.IntRange(min=1), default=2000, show_default=True, help="Number of resamples.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling.")
@click.option(
    "--stability",
    is_flag=True,
    help="Also score changed copies of the sequences: do calls flip, do values move? It is 8 times the work.",
)
@click.option(
    "--by",
    metavar="COLUMN",
    help="Column that names each variant's parent. Only variants of one parent are compared with each other.",
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


@cli.command(epilog=example("abonyx explain examples/therapeutic_vh.csv -o explained"))
@_SOURCE
@click.option("-o", "--output", required=True, type=PATH, help="Directory to create.")
@_HEADS
@click.option("--no-pictures", is_flag=True, help="Write only the tables; they need no extra.")
@SUMMARY
@run_options
def explain(
    source: Path, output: Path, heads: str | None, no_pictures: bool, summary: Path | None, **options: Any
) -> None:
    """Show what each residue adds to the score of its record.

    Writes tables, and a picture of each record of INPUT; - is stdin. Pictures need the extra explain.
    """
    from abonyx.explain.explanation import ExplanationRequest, explain_file

    wanted = names_of("heads", heads)
    chosen = "all" if wanted == ("all",) else wanted
    pictures = not no_pictures and can_draw("drawing contributions")
    request = ExplanationRequest(_target(source), output, chosen, pictures, summary)
    for line in explain_file(request, prepare(options)):
        LOGGER.info(line)


def _read(
    run: RunRequest, source: Path, target: Path | None, *, single: bool = False, summary: Path | None = None
) -> Input:
    """Everything that can go wrong with the files before the model is opened."""
    from abonyx.run.summary_file import check_summary

    source_file = _target(source)
    check_summary(summary, target, source_file)
    run.check_outputs(target, source_file)
    checked = run.read(source_file, single=single)
    LOGGER.debug(f"read {source}: {len(checked.ids)} records to score, {len(checked.rejected)} rejected")
    return checked


def _go(
    file_run: FileRun,
    restart: bool,
    detail: str,
    before_summary: Callable[[], None] | None = None,
    summary_file: Path | None = None,
) -> None:
    """Run, and say what came of it."""
    from abonyx.output.files import rejected_path
    from abonyx.run.resumed import run_file
    from abonyx.run.summary_file import summary_of_file_run, write_summary

    target, rejected = file_run.target, file_run.records.rejected
    summary = run_file(file_run, restart=restart)
    if summary_file is not None:
        write_summary(summary_file, summary_of_file_run(file_run, summary))
    if before_summary:
        before_summary()
    for line in summary.lines() if summary else ["every row was scored by an interrupted run; its files are in place"]:
        LOGGER.info(line)
    if target is None:
        for problem in rejected:
            LOGGER.info(f"rejected: line {problem.line}: {printable(problem.id)}: {problem.reason}")
        return
    LOGGER.info(f"wrote {target}; {detail}")
    if file_run.run.skip:
        LOGGER.info(f"wrote {rejected_path(target)}; {len(rejected)} rejected")


def _target(path: Path) -> Path | None:
    return None if str(path) == "-" else path
