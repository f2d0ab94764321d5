"""The command line. Each command imports what it needs when it runs: --help loads neither numpy nor an engine."""

from __future__ import annotations

import importlib.metadata
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from abonyx import __version__, cli_bundle
from abonyx.errors import ConfigError, EngineError
from abonyx.options import PATH, PATH_OR_DASH, Run, prepare, run_options
from abonyx.progress import progress

if TYPE_CHECKING:
    from abonyx.pipeline import Input, Summary

# Other packages of the distribution add commands here (abonyx_export: `export`); the runtime never imports them.
COMMANDS_GROUP = "abonyx.commands"
EXIT_INTERRUPTED = 130
# Rows --table prints; the file has them all.
TABLE_ROWS = 40


class _Commands(click.Group):
    """Commands of this module, and those that installed packages register."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(entry.name for entry in _registered())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        for entry in _registered() if command is None else ():
            if entry.name == cmd_name:
                loaded: click.Command = entry.load()
                return loaded
        return command


def _registered() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=COMMANDS_GROUP)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="abonyx")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Score antibody sequences for non-specificity (polyreactivity), without PyTorch."""


for _command in (cli_bundle.doctor, cli_bundle.verify, cli_bundle.inspect):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; exits with the code of errors.py, or 128 + the number of a signal that ends it."""
    # A scheduler's or a closed terminal's signal unwinds like Ctrl-C, so that partial files are removed.
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, _end) for number in signals}
    try:
        cli.main(standalone_mode=False)
    except EngineError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        click.echo(f"abonyx: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("abonyx: interrupted; no output was written", err=True)
        sys.exit(EXIT_INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


_SOURCE = click.argument("source", metavar="INPUT", type=PATH_OR_DASH)
_OUTPUT = click.option("-o", "--output", required=True, type=PATH_OR_DASH, help="Output file; - is stdout.")
_ASSAY = click.option("--assay", help="Use the threshold that the head declares for this assay, e.g. elisa, psr.")
_THRESHOLD = click.option("--threshold", type=float, help="Call p strictly above this non-specific.")


@cli.command()
@_SOURCE
@_OUTPUT
@run_options
@_ASSAY
@_THRESHOLD
@click.option("--format", "kind", type=click.Choice(["csv", "jsonl", "parquet"]), help="[default: OUTPUT's suffix]")
@click.option("--table", is_flag=True, help=f"Also print the results (at most {TABLE_ROWS} rows).")
def score(
    source: Path,
    output: Path,
    assay: str | None,
    threshold: float | None,
    kind: Any,
    table: bool,
    **options: Any,
) -> None:
    """Score the sequences of INPUT (FASTA, CSV, TSV, Parquet, .gz of them; - is stdin)."""
    import numpy as np

    from abonyx import results
    from abonyx.pipeline import choose_threshold

    target = _target(output)
    chosen = kind or _suffix(output, {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}, "csv")
    run, checked = _prepare(source, target, options)
    limit = choose_threshold(run.bundle, assay, threshold)
    metadata = run.metadata() | {"threshold": repr(limit)}
    rows: list[tuple[str, float, bool]] = []
    with results.open_results(target, chosen, metadata) as writer:

        def write(start: int, stop: int, p: Any) -> None:
            called = p > np.float32(limit)  # both as float32, as the file prints them; strictly greater
            writer.write(checked.ids[start:stop], checked.sequences[start:stop], p, called)
            rows.extend(zip(checked.ids[start:stop], p.tolist(), called.tolist(), strict=True) if table else ())

        summary = _go(run, checked, "p_nonspecific", write)
    if table:
        _print_table(rows, limit, to_stderr=target is None)  # stdout then holds the results
    _finish(run, checked, target, summary, f"threshold {limit:g}" + (f" ({assay})" if assay else ""))


@cli.command()
@_SOURCE
@_OUTPUT
@run_options
def embed(source: Path, output: Path, **options: Any) -> None:
    """Write the pooled embeddings of INPUT's sequences to a .npy (ids beside it) or .parquet file."""
    from abonyx import results

    target = _target(output)
    if target is None:
        raise ConfigError("embed -o -: embeddings are not text", "Give a .npy or .parquet file.")
    kind = _suffix(output, {".npy": "npy", ".parquet": "parquet"}, None)
    run, checked = _prepare(source, target, options, [results.ids_path(target)] if kind == "npy" else [])
    width = run.bundle.manifest.embedding_width
    with results.open_embeddings(target, kind, len(checked.ids), width, run.metadata()) as writer:

        def write(start: int, stop: int, embedding: Any) -> None:
            writer.write(checked.ids[start:stop], embedding)

        summary = _go(run, checked, "embedding", write)
    _finish(run, checked, target, summary, f"{width} columns")


@cli.command()
@click.argument("sources", metavar="INPUT...", nargs=-1, required=True, type=PATH)
@click.option(
    "-o", "--output", required=True, type=PATH, help="Directory to make; with several INPUTs, one in it each."
)
@click.option("--label-column", default="label", show_default=True, help="Column of 0, 1 or blank (not labelled).")
@run_options
@_ASSAY
@_THRESHOLD
@click.option("--bootstrap", type=click.IntRange(min=1), default=2000, show_default=True, help="Resamples.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the resampling.")
def evaluate(
    sources: tuple[Path, ...],
    output: Path,
    label_column: str,
    assay: str | None,
    threshold: float | None,
    bootstrap: int,
    seed: int,
    **options: Any,
) -> None:
    """Compare scores with labels: metrics, predictions, pictures and a report.  Needs the extra evaluate."""
    from abonyx.evaluate import require_extra

    require_extra()
    from abonyx.evaluate.evaluation import Request, check_request, evaluate_files

    request = Request(sources, output, label_column, assay, threshold, bootstrap, seed)
    check_request(request)
    for line in evaluate_files(request, prepare(options)):
        click.echo(line, err=True)


def _prepare(
    source: Path, target: Path | None, options: dict[str, Any], beside: Sequence[Path] = ()
) -> tuple[Run, Input]:
    """Everything that can go wrong before the model is opened; `beside` are files written next to the target."""
    from abonyx.results import check_output, rejected_path

    source_file = _target(source)
    run = prepare(options)
    for written in (target, *beside, *([rejected_path(target)] if run.skip and target else [])):
        check_output(written, source_file)
    return run, run.read(source_file)


def _go(run: Run, checked: Input, output: str, write: Callable[[int, int, Any], None]) -> Summary:
    from abonyx.pipeline import run_windows

    with progress(len(checked.sequences)) as on_batch:
        return run_windows(run.bundle, [(checked, write)], run.config, output, on_batch)


def _finish(run: Run, checked: Input, target: Path | None, summary: Summary, detail: str) -> None:
    """Write the rejected records and the summary."""
    from abonyx.pipeline import printable
    from abonyx.results import rejected_path, write_rejected

    for line in summary.lines():
        click.echo(line, err=True)
    if target is None:
        for problem in checked.rejected:
            click.echo(f"rejected: line {problem.line}: {printable(problem.id)}: {problem.reason}", err=True)
        return
    click.echo(f"wrote {target}; {detail}", err=True)
    if run.skip:
        rejected = rejected_path(target)
        write_rejected(rejected, checked.rejected)
        click.echo(f"wrote {rejected}; {len(checked.rejected)} rejected", err=True)


def _target(path: Path) -> Path | None:
    return None if str(path) == "-" else path


def _suffix(output: Path, kinds: dict[str, str], stdout_kind: str | None) -> Any:
    if stdout_kind and str(output) == "-":
        return stdout_kind
    kind = kinds.get(output.suffix.lower())
    if kind is None:
        raise ConfigError(
            f"output {output}: suffix {output.suffix or '(none)'} names no format",
            f"Use {', '.join(kinds)}" + (" or --format." if stdout_kind else "."),
        )
    return kind


def _print_table(rows: list[tuple[str, float, bool]], threshold: float, *, to_stderr: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from abonyx.pipeline import printable

    table = Table()
    table.add_column("id")
    table.add_column("p_nonspecific", justify="right")
    table.add_column(f"> {threshold:g}")
    for name, p, called in rows[:TABLE_ROWS]:
        table.add_row(Text(printable(name)), f"{p:.4f}", "non-specific" if called else "specific")
    console = Console(stderr=to_stderr)
    console.print(table)
    if len(rows) > TABLE_ROWS:
        console.print(f"... and {len(rows) - TABLE_ROWS} more")
