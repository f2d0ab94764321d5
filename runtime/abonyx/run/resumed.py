"""One run of `score` or `embed`: from checked records to an output that is whole, or that can be resumed."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from abonyx import __version__
from abonyx.arrays import Float32Array
from abonyx.bundle.chosen import ChosenHeads
from abonyx.engine.providers import ENGINE_DISTRIBUTIONS, token_budget, window_size
from abonyx.errors import RunInterrupted
from abonyx.input.checked import Input
from abonyx.logs import LOGGER
from abonyx.output import formats
from abonyx.output.beside import column_cells, column_kinds
from abonyx.output.files import ids_path, rejected_path
from abonyx.output.formats import Columns, Format, rejected_bytes
from abonyx.output.journal import Fact, Header
from abonyx.output.kinds import ScoreKind
from abonyx.output.resumable import ResumableOutput, open_resumable
from abonyx.output.stream import Stream, open_stream
from abonyx.run.interrupts import Stop, handled
from abonyx.run.progress import Bar, progress
from abonyx.run.request import RunRequest
from abonyx.run.windows import Job, Opening, RunSummary, run_windows
from abonyx.wording import option


@dataclasses.dataclass(frozen=True)
class FileRun:
    """A run with one input and one output.

    Attributes:
        run: the run.
        records: the checked input.
        target: the output file; None = standard output.
        format: format of the output.
        heads: names of the heads whose values are written; None = embeddings are written.
        columns: (start, stop, values) of a window -> columns for the format.
        facts: further facts that the file depends on: command, format, threshold.
        rejected: path of the list of rejected records; None = beside the target.
    """

    run: RunRequest
    records: Input
    target: Path | None
    format: Format
    heads: tuple[str, ...] | None
    columns: Callable[[int, int, Float32Array], Columns]
    facts: dict[str, Fact]
    rejected: Path | None = None


# Called after each window with (ids, name -> cells of the heads' columns, flags).
Seen = Callable[[list[str], dict[str, Any], list[str]], None]


def score_run(
    run: RunRequest,
    records: Input,
    target: Path | None,
    kind: ScoreKind,
    heads: ChosenHeads,
    seen: Seen | None = None,
) -> FileRun:
    """The FileRun that scores an input. `seen` is called after each window.

    Raises:
        ConfigError: pyarrow is missing for Parquet, or two columns have the same name.
    """

    def columns(start: int, stop: int, values: Float32Array) -> Columns:
        window = slice(start, stop)
        judgements = records.judgements[window]
        found: dict[str, Any] = heads.cells(values, [judgement.trusted for judgement in judgements], scored[window])
        flags = [judgement.text for judgement in judgements]
        if seen:
            seen(records.ids[window], found, flags)
        extra = [cells[window] for _, cells in added]
        leading, behind = ({name: found[name] for name in names} for names in (heads.leading, heads.following))
        behind |= column_cells(run.with_columns, records.sequences[window], judgements, heads)
        light = records.shown_light[window] if paired else None
        shown = records.shown[window]
        return formats.value_columns(records.ids[window], shown, leading, flags, behind, extra, light)

    following = heads.following | column_kinds(run.with_columns, heads)
    added, paired, scored = _added(run, records), len(heads.chains) > 1, records.records
    metadata = run.metadata() | heads.metadata()
    chains = formats.PAIR_COLUMNS if paired else ("sequence",)
    format_ = formats.results_format(kind, metadata, _names(added), heads.leading, following, chains)
    formats.refuse_line_ends(kind, {"id": records.ids} | dict(added))
    return FileRun(run, records, target, format_, heads.names, columns, score_facts(kind, heads))


def embed_run(run: RunRequest, records: Input, target: Path, kind: Literal["npy", "parquet"]) -> FileRun:
    """The FileRun that embeds an input.

    Raises:
        ConfigError: pyarrow is missing for Parquet, or two columns have the same name.
    """
    width = run.bundle.manifest.embedding_width

    def columns(start: int, stop: int, embedding: Float32Array) -> Columns:
        window = slice(start, stop)
        flags = [judgement.text for judgement in records.judgements[window]]
        extra = [cells[window] for _, cells in added]
        return formats.embedding_columns(records.ids[window], embedding, width, flags, extra)

    added = _added(run, records)
    format_ = formats.embeddings_format(kind, len(records.ids), width, run.metadata(), _names(added))
    return FileRun(run, records, target, format_, None, columns, {"command": "embed", "format": kind})


def _added(run: RunRequest, records: Input) -> list[tuple[str, list[str]]]:
    """(name, cells) of further columns: the residues that were scored, and the kept columns."""
    places = [(formats.PLACE_COLUMN, records.places)] if run.trim else []
    return [*places, *records.kept.items()]


def _names(columns: list[tuple[str, list[str]]]) -> list[str]:
    return [name for name, _ in columns]


def score_facts(kind: str, heads: ChosenHeads) -> dict[str, Fact]:
    """Facts that a file of scores depends on, besides the run's identity."""
    return {"command": "score", "--format": kind, **heads.facts()}


def run_file(
    file_run: FileRun,
    *,
    restart: bool = False,
    opening: Opening | None = None,
    budget: int | None = None,
    shown: Bar = progress,
) -> RunSummary | None:
    """Score the rows that are missing in the output, and give the output its final name.

    Args:
        file_run: the run.
        restart: whether to discard the rows of an interrupted run.
        opening: gives the model; None = open_model. It is called with the config that the rows need.
        budget: token budget if no interrupted run left rows; None = providers.token_budget. On CUDA its result
            depends on the GPU's free memory, so a process that already has a model there must give the budget.
        shown: shows the progress; the default is a bar on a terminal.

    Returns:
        The summary; None if an earlier process had scored all rows, so that only renames were missing.

    Raises:
        RunInterrupted: a signal ended the run at the end of a window, or a second signal ended it at once.
        OutputInUse, ResumeRefused: see resumable.open_resumable.
        ConfigError: the output cannot be written.
    """
    stop = Stop()
    with handled(stop):
        try:
            return _run(file_run, restart, stop, opening, budget, shown)
        except KeyboardInterrupt:
            raise RunInterrupted(f"{stop.asked or 'interrupted'}: stopped at once") from None


class _FileSink:
    """The WindowSink of a file: formats each window. After a signal, it ends the run before the next window."""

    def __init__(self, file_run: FileRun, out: ResumableOutput | Stream, stop: Stop) -> None:
        self._columns, self._out, self._stop = file_run.columns, out, stop
        self.first_row = out.rows_done

    def begin(self, start: int) -> None:
        if self._stop.asked:
            raise RunInterrupted(f"{self._stop.asked}: stopped after {start} of {self._out.rows} rows")

    def write(self, start: int, stop: int, values: Float32Array) -> None:
        self._out.append(stop, self._columns(start, stop, values))

    def halved(self, token_budget: int, note: str) -> None:
        self._out.halved(token_budget, note)


def _run(
    file_run: FileRun, restart: bool, stop: Stop, opening: Opening | None, budget: int | None, shown: Bar
) -> RunSummary | None:
    run, records = file_run.run, file_run.records
    count = len(records.sequences)
    with _opened(file_run, restart, budget) as out:
        if out.rows_done == count:
            return None
        config = dataclasses.replace(run.config, token_budget=out.token_budget, window_size=out.window_size)
        if out.rows_done:
            LOGGER.info(f"resuming after row {out.rows_done} of {count}; an interrupted run had scored these rows")
        earlier_notes = list(out.notes)
        job = Job(records, _FileSink(file_run, out, stop))
        try:
            with shown(count, out.rows_done) as bar:
                summary = run_windows(run.bundle, [job], config, file_run.heads, _watch(stop, bar), opening)
        except BaseException:
            LOGGER.info(_kept(out))
            raise
        return dataclasses.replace(summary, notes=[*earlier_notes, *summary.notes])


def _watch(stop: Stop, bar: Callable[[int], None] | None) -> Callable[[int], None]:
    """A function to call after each batch: it moves the bar, and logs once that a signal has come."""
    logged = False

    def on_batch(sequences: int) -> None:
        nonlocal logged
        if stop.asked and not logged:
            logged = True
            LOGGER.info(f"{stop.asked}: finishing the current window; a second signal stops at once")
        if bar:
            bar(sequences)

    return on_batch


def _kept(out: ResumableOutput | Stream) -> str:
    """A line about the rows of a run that ends early."""
    if isinstance(out, Stream):
        written = f"standard output has {out.rows_done} of {out.rows} rows"
        return f"{written}; such a run cannot be resumed. A run with {option('output')} FILE can be resumed"
    if out.rows_done == 0:
        return "no row was written; no files were kept"
    kept = f"{out.rows_done} of {out.rows} rows are kept"
    return f"{kept}; the same command resumes the run, {option('restart')} starts it again"


@contextmanager
def _opened(file_run: FileRun, restart: bool, budget: int | None) -> Iterator[ResumableOutput | Stream]:
    run, records, target, format = file_run.run, file_run.records, file_run.target, file_run.format
    header = Header(
        identity=file_run.facts | input_facts(records) | identity(run),
        config_sha256=run.config.sha256(),
        rows=len(records.sequences),
        rejected=len(records.rejected),
        token_budget=token_budget(run.config, run.bundle) if budget is None else budget,
        window_size=window_size(run.config),
    )
    if target is None:
        with open_stream(format, header) as stream:
            yield stream
        return
    targets = [ids_path(target), target] if len(format.head) > 1 else [target]
    if run.skip:
        rejected = file_run.rejected or rejected_path(target)
        targets, format = [rejected, *targets], format.beside(rejected_bytes(records.rejected))
    with open_resumable(targets, format, header, restart=restart) as output:
        yield output


def input_facts(checked: Input) -> dict[str, Fact]:
    """Facts about the input that rows depend on."""
    return {
        "input, sha256 of its records": checked.sha256(),
        "records to score": len(checked.sequences),
        "records rejected": len(checked.rejected),
    }


def identity(run: RunRequest) -> dict[str, Fact]:
    """Facts that rows depend on, besides the input, with names that a user knows. The bundle's path is not a fact."""
    return {
        "--on-invalid": "skip" if run.skip else "fail",
        **run.rule.facts(),
        "--gaps": run.gaps,
        "--keep": ", ".join(run.keep) or None,
        "--with": ", ".join(run.with_columns) or None,
        "bundle, sha256": run.bundle.sha256,
        **dict(_flat("", dataclasses.asdict(dataclasses.replace(run.config, bundle=None)))),
        "abonyx": __version__,
        "engine": ", ".join(_engines()),
    }


def _flat(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, Fact]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"config: {prefix}{key}", value


def _engines() -> Iterator[str]:
    for name in ENGINE_DISTRIBUTIONS:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
