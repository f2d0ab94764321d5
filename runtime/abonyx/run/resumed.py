"""One run of `score` or `embed`: checked records in, a whole output out, or one that can be gone on with."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from abonyx import __version__
from abonyx.bundle.threshold import is_nonspecific
from abonyx.engine.providers import ENGINE_DISTRIBUTIONS, token_budget, window_size
from abonyx.errors import RunInterrupted
from abonyx.input.checked import Input
from abonyx.logs import LOGGER
from abonyx.output import formats as results
from abonyx.output.files import ids_path, rejected_path
from abonyx.output.formats import Columns, Format, rejected_bytes
from abonyx.output.journal import Fact, Header
from abonyx.output.resumable import ResumableOutput, Stream, open_resumable, open_stream
from abonyx.run.interrupts import Stop, handled
from abonyx.run.progress import progress
from abonyx.run.windows import Job, Opening, RunSummary, run_windows

if TYPE_CHECKING:
    import numpy.typing as npt

    from abonyx.cli.options import RunRequest


@dataclasses.dataclass(frozen=True)
class Destination:
    """Where a run's rows go, and as what.

    Attributes:
        target: the file; None = standard output.
        output: the graph's output, "p_nonspecific" or "embedding".
        columns: (start, stop) of a window and its values -> what the format takes.
        facts: what else makes the file what it is: command, format, threshold.
    """

    target: Path | None
    format: Format
    output: str
    columns: Callable[[int, int, npt.NDArray[np.float32]], Columns]
    facts: dict[str, Fact]


# Rows' ids, p and whether they are called non-specific, as a window is done.
Seen = Callable[["list[str]", "npt.NDArray[np.float32]", "npt.NDArray[np.bool_]"], None]


def score_destination(
    target: Path | None,
    run: RunRequest,
    checked: Input,
    kind: Literal["csv", "jsonl", "parquet"],
    threshold: float,
    seen: Seen | None = None,
) -> Destination:
    """Where the scores of an input go; `seen` is shown each window.

    Raises:
        ConfigError: Parquet without pyarrow.
    """

    def columns(start: int, stop: int, p: npt.NDArray[np.float32]) -> Columns:
        called = is_nonspecific(p, threshold)
        if seen:
            seen(checked.ids[start:stop], p, called)
        return results.score_columns(checked.ids[start:stop], checked.sequences[start:stop], p, called)

    format_ = results.results_format(kind, run.metadata() | {"threshold": repr(threshold)})
    return Destination(target, format_, "p_nonspecific", columns, score_facts(kind, threshold))


def score_facts(kind: str, threshold: float) -> dict[str, Fact]:
    """What makes a file of scores what it is, beside the run's identity."""
    return {"command": "score", "--format": kind, "threshold": threshold}


def run_to(
    destination: Destination,
    run: RunRequest,
    checked: Input,
    *,
    restart: bool = False,
    opening: Opening | None = None,
    budget: int | None = None,
) -> RunSummary | None:
    """Score what the destination does not hold yet, and put it in its place.

    Args:
        restart: begin anew where an interrupted run left rows.
        opening: gives the session, in place of open_session; called with the token budget that the rows are due.
        budget: tokens a batch where no earlier run left rows; None = providers.token_budget, which on CUDA goes by the
            card's free memory: not for a process that has its model there already.

    Returns:
        What was done; None where an earlier process had scored everything, and only the renames were left.

    Raises:
        RunInterrupted: by a signal; at the end of a window, or at once at the second.
        OutputInUse, ResumeRefused: see resumable.open_resumable.
        ConfigError: the output cannot be written.
    """
    stop = Stop()
    with handled(stop):
        try:
            return _run(destination, run, checked, restart, stop, opening, budget)
        except KeyboardInterrupt:
            raise RunInterrupted(f"{stop.asked or 'interrupted'}: ended at once") from None


def _run(
    destination: Destination,
    run: RunRequest,
    checked: Input,
    restart: bool,
    stop: Stop,
    opening: Opening | None,
    budget: int | None,
) -> RunSummary | None:
    count = len(checked.sequences)
    with _opened(destination, run, checked, restart, budget) as out:
        if out.rows_done == count:
            return None
        config = dataclasses.replace(run.config, token_budget=out.token_budget, window_size=out.window_size)
        if out.rows_done:
            LOGGER.info(f"going on after row {out.rows_done} of {count}, which an interrupted run left")

        def write(start: int, end: int, values: npt.NDArray[np.float32]) -> None:
            out.append(end, destination.columns(start, end, values))

        def before_window(start: int) -> None:
            if stop.asked:
                raise RunInterrupted(f"{stop.asked}: ended after {start} of {count} rows")

        job = Job(checked, write, out.rows_done, before_window, out.halved)
        try:
            with progress(count, out.rows_done) as bar:
                summary = run_windows(run.bundle, [job], config, destination.output, _watch(stop, bar), opening)
        except BaseException:
            LOGGER.info(_kept(out))
            raise
        return dataclasses.replace(summary, notes=[*out.notes, *summary.notes])


def _watch(stop: Stop, bar: Callable[[int], None] | None) -> Callable[[int], None]:
    """Say once, after a batch, that a signal has come; and move the bar."""
    said = False

    def on_batch(sequences: int) -> None:
        nonlocal said
        if stop.asked and not said:
            said = True
            LOGGER.info(f"{stop.asked}: finishing the window in hand; a second signal ends at once")
        if bar:
            bar(sequences)

    return on_batch


def _kept(out: ResumableOutput | Stream) -> str:
    """What becomes of a run that ends here."""
    if isinstance(out, Stream):
        return f"standard output has {out.rows_done} of {out.rows} rows and cannot be gone on with; -o FILE can"
    if out.rows_done == 0:
        return "no row was done; nothing is left behind"
    return f"{out.rows_done} of {out.rows} rows are kept: the same command goes on from there, --restart begins anew"


@contextmanager
def _opened(
    destination: Destination, run: RunRequest, checked: Input, restart: bool, budget: int | None
) -> Iterator[ResumableOutput | Stream]:
    config, target, format = run.config, destination.target, destination.format
    header = Header(
        identity=destination.facts | _of_input(checked) | identity(run),
        config_sha256=config.sha256(),
        rows=len(checked.sequences),
        rejected=len(checked.rejected),
        token_budget=token_budget(config, run.bundle) if budget is None else budget,
        window_size=window_size(config),
    )
    if target is None:
        with open_stream(format, header) as stream:
            yield stream
        return
    targets = [ids_path(target), target] if len(format.head) > 1 else [target]
    if run.skip:
        targets, format = [rejected_path(target), *targets], format.beside(rejected_bytes(checked.rejected))
    with open_resumable(targets, format, header, restart=restart) as output:
        yield output


def _of_input(checked: Input) -> dict[str, Fact]:
    return {
        "input, sha256 of its records": checked.sha256(),
        "records to score": len(checked.sequences),
        "records rejected": len(checked.rejected),
    }


def identity(run: RunRequest) -> dict[str, Fact]:
    """What rows depend on beside the input, by the name a user knows it by. Where the bundle lies is none of it."""
    return {
        "--on-invalid": "skip" if run.skip else "fail",
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
