"""The command line. Each command imports what it needs when it runs: --help loads neither numpy nor an engine."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from abonyx import __version__
from abonyx.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from abonyx.bundle import Bundle
    from abonyx.config import RuntimeConfig
    from abonyx.pipeline import Input, OnBatch, Summary

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


def _file(**kwargs: Any) -> click.Path:
    return click.Path(path_type=Path, **kwargs)


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that score and embed share."""
    options = [
        click.argument("source", metavar="INPUT", type=_file(allow_dash=True)),
        click.option("-o", "--output", required=True, type=_file(allow_dash=True), help="Output file; - is stdout."),
        click.option("--bundle", type=_file(), help="Bundle directory.  [default: the shipped mini bundle]"),
        click.option("--provider", help="cpu, cuda, coreml or openvino: what runs, or an error.  [default: cpu]"),
        click.option("--variant", help="A variant of the bundle.  [default: the bundle's own for the provider]"),
        click.option("--config", "config_file", type=_file(), help="TOML file; see configs/."),
        click.option("--pooling", help="residues, or upstream-batch (the old pipeline's).  [default: residues]"),
        click.option("--batch-size", type=int, help="The old pipeline's batch size; with upstream-batch only."),
        click.option("--id-column", help="CSV/TSV/Parquet column.  [default: id, else the record's number]"),
        click.option("--sequence-column", help="CSV/TSV/Parquet column.  [default: sequence]"),
        click.option(
            "--on-invalid",
            type=click.Choice(["fail", "skip"]),
            default="fail",
            show_default=True,
            help="skip: score the rest and list the bad records in OUTPUT.rejected.csv.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@_run_options
@click.option("--assay", help="Use the threshold that the head declares for this assay, e.g. elisa, psr.")
@click.option("--threshold", type=float, help="Call p strictly above this non-specific.")
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
    run = _prepare(source, target, options)
    limit = choose_threshold(run.bundle, assay, threshold)
    metadata = run.metadata() | {"threshold": repr(limit)}
    rows: list[tuple[str, float, bool]] = []
    with results.open_results(target, chosen, metadata) as writer:

        def write(start: int, stop: int, p: Any) -> None:
            called = p > np.float32(limit)  # both as float32, as the file prints them; strictly greater
            writer.write(run.input.ids[start:stop], run.input.sequences[start:stop], p, called)
            rows.extend(zip(run.input.ids[start:stop], p.tolist(), called.tolist(), strict=True) if table else ())

        summary = run.go("p_nonspecific", write)
    if table:
        _print_table(rows, limit, to_stderr=target is None)  # stdout then holds the results
    run.finish(summary, f"threshold {limit:g}" + (f" ({assay})" if assay else ""))


@cli.command()
@_run_options
def embed(source: Path, output: Path, **options: Any) -> None:
    """Write the pooled embeddings of INPUT's sequences to a .npy (ids beside it) or .parquet file."""
    from abonyx import results

    target = _target(output)
    if target is None:
        raise ConfigError("embed -o -: embeddings are not text", "Give a .npy or .parquet file.")
    kind = _suffix(output, {".npy": "npy", ".parquet": "parquet"}, None)
    run = _prepare(source, target, options, [results.ids_path(target)] if kind == "npy" else [])
    width = run.bundle.manifest.embedding_width
    with results.open_embeddings(target, kind, len(run.input.ids), width, run.metadata()) as writer:

        def write(start: int, stop: int, embedding: Any) -> None:
            writer.write(run.input.ids[start:stop], embedding)

        summary = run.go("embedding", write)
    run.finish(summary, f"{width} columns")


class _Run:
    """One score or embed command: its checked input and how to run and report it."""

    def __init__(self, config: RuntimeConfig, bundle: Bundle, checked: Input, target: Path | None, skip: bool) -> None:
        self.config, self.bundle, self.input, self.target, self.skip = config, bundle, checked, target, skip

    def metadata(self) -> dict[str, str]:
        """What a result file says of its making."""
        variant, _ = self.bundle.variant(self.config.provider, self.config.variant)
        return {
            "version": __version__,
            "bundle": self.bundle.manifest.name,
            "bundle_sha256": self.bundle.sha256,
            "config_sha256": self.config.sha256(),
            "provider": self.config.provider,
            "variant": variant,
        }

    def go(self, output: str, write: Callable[[int, int, Any], None]) -> Summary:
        from abonyx.pipeline import run_windows

        with _progress(len(self.input.sequences)) as on_batch:
            return run_windows(self.bundle, self.input, self.config, output, write, on_batch)

    def finish(self, summary: Summary, detail: str) -> None:
        """Write the rejected records and the summary."""
        from abonyx.pipeline import printable
        from abonyx.results import rejected_path, write_rejected

        for line in summary.lines():
            click.echo(line, err=True)
        if self.target is None:
            for problem in self.input.rejected:
                click.echo(f"rejected: line {problem.line}: {printable(problem.id)}: {problem.reason}", err=True)
            return
        click.echo(f"wrote {self.target}; {detail}", err=True)
        if self.skip:
            rejected = rejected_path(self.target)
            write_rejected(rejected, self.input.rejected)
            click.echo(f"wrote {rejected}; {len(self.input.rejected)} rejected", err=True)


def _prepare(source: Path, target: Path | None, options: dict[str, Any], beside: Sequence[Path] = ()) -> _Run:
    """Everything that can go wrong before the model is opened; `beside` are files written next to the target."""
    from abonyx.bundle import open_bundle
    from abonyx.config import load_config
    from abonyx.pipeline import read_input
    from abonyx.results import check_output, rejected_path

    columns = {key: options.pop(key) for key in ("id_column", "sequence_column")}
    skip = options.pop("on_invalid") == "skip"
    config_file = options.pop("config_file")
    flags = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    config = load_config(config_file, flags=flags)
    source_file = None if str(source) == "-" else source
    for written in (target, *beside, *([rejected_path(target)] if skip and target else [])):
        check_output(written, source_file)
    bundle = open_bundle(config.bundle)
    bundle.variant(config.provider, config.variant)
    checked = read_input(source_file, bundle.manifest.max_residues, skip_invalid=skip, **columns)
    return _Run(config, bundle, checked, target, skip)


def _target(output: Path) -> Path | None:
    return None if str(output) == "-" else output


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


@contextlib.contextmanager
def _progress(total: int) -> Iterator[OnBatch | None]:
    """A bar with rate and time left on a terminal's stderr; nothing otherwise."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} seq/s" if task.speed else "opening the model")

    columns = (BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("scoring", total=total)
        yield functools.partial(progress.advance, task)


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
