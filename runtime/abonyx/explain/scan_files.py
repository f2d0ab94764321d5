"""`abonyx scan`: scan the parents of a file one after another, and write tables and pictures to a directory.

The rows and pictures of a parent are written when all of its mutants are scored. The same command resumes after the
last parent that is finished.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from abonyx.engine.providers import token_budget, window_size
from abonyx.errors import ConfigError, RunInterrupted
from abonyx.explain.scan import run_scan
from abonyx.explain.scan_parents import Parent, choose_parents, last_rows, plan_parents
from abonyx.explain.scan_request import PARENTS_CSV, ScanRequest
from abonyx.explain.scan_result import Scan, refuse_ranks, statements
from abonyx.explain.scan_summary import Ran, summary_of_scan
from abonyx.explain.scan_tables import scan_facts, scan_format
from abonyx.input.checked import Input
from abonyx.logs import LOGGER
from abonyx.output.files import replacing
from abonyx.output.formats import rejected_bytes
from abonyx.output.journal import Header, journal_path
from abonyx.output.resumable import ResumableOutput, open_resumable
from abonyx.run.interrupts import Stop, handled
from abonyx.run.progress import progress
from abonyx.run.resumed import identity, input_facts
from abonyx.run.summary_file import write_summary
from abonyx.wording import option

SCAN_CSV, REJECTED_CSV, FACTS_JSON = "scan.csv", "rejected.csv", "scan.json"
# A scan of more mutants has to be confirmed. This is about ten VH, or half an hour of a large model on a CPU.
MOST_UNASKED = 20_000
# How many mutants are scored to estimate the time for all of them.
_TIMED = 64


def scan_records(request: ScanRequest, checked: Input) -> list[str]:
    """Scan the parents of a checked input.

    Returns:
        The lines that the command line prints.

    Raises:
        InputError: an id that is missing or appears twice; a flagged parent.
        ConfigError: positions that a parent does not have; too many mutants without confirmation; an unusable output.
        RunInterrupted: by a signal; finished parents are kept.
    """
    chosen = choose_parents(checked, request.id)
    refuse_output(request.output)
    parents = plan_parents(chosen, request.options)
    _refuse_ranks(request, parents)
    mutants = sum(parent.plan.n_mutants for parent in parents)
    if mutants > MOST_UNASKED and not request.confirmed:
        raise _unconfirmed(request, parents, mutants)
    stop = Stop()
    with handled(stop):
        try:
            return _run(request, chosen, parents, stop)
        except KeyboardInterrupt:
            raise RunInterrupted(f"{stop.asked or 'interrupted'}: the scan ended at once") from None


def refuse_output(output: Path) -> None:
    """Raise a ConfigError if the directory holds anything but an interrupted scan."""
    if output.is_dir():
        if any(output.iterdir()) and not journal_path(output / SCAN_CSV).exists():
            raise ConfigError(f"output {output}: is not empty", "Name a new directory, or remove this one.")
        return
    if output.exists() or output.is_symlink():
        raise ConfigError(f"output {output}: is not a directory", "A scan writes a directory: name a new one.")


def _refuse_ranks(request: ScanRequest, parents: Sequence[Parent]) -> None:
    """Refuse, by a ConfigError, ranks that a parent cannot have, before anything is scored."""
    for parent in parents if request.rank else ():
        refuse_ranks(parent.plan.judgement.chain, parent.plan.in_cdrs, parent.plan.name)


def _unconfirmed(request: ScanRequest, parents: Sequence[Parent], mutants: int) -> ConfigError:
    """The error for a scan that has to be confirmed; it says how long the scan would take."""
    from abonyx.model import open_model

    plan, options = parents[0].plan, request.options
    few = [mutant.of(plan.sequence) for mutant in plan.make_mutants(options)[1][:_TIMED]]
    with open_model(request.run.config) as model:
        model.score(few, options.names)  # the first batch is slower
        started = time.perf_counter()
        model.score(few, options.names)
        seconds = (time.perf_counter() - started) * mutants / len(few)
    have = "parent has" if len(parents) == 1 else "parents have"
    what = f"{len(parents):,} {have} {mutants:,} mutants: about {_duration(seconds)} on this machine"
    fix = f"Give {option('yes')} to scan them all, or choose fewer with {option('id')} and {option('positions')}."
    return ConfigError(what, fix)


def _duration(seconds: float) -> str:
    """A time as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _run(request: ScanRequest, chosen: Input, parents: list[Parent], stop: Stop) -> list[str]:
    said = statements(request.options.validated, request.options.names)
    with _opened(request, chosen, parents) as out:
        done = last_rows(parents).index(out.rows_done) + 1 if out.rows_done else 0
        if done:
            LOGGER.info(f"resuming after {done} of {len(parents)} parents, which an interrupted scan finished")
        if done == len(parents):
            ran = None
            lines = ["an interrupted run had scanned every parent; the files in the output are complete", *said]
        else:
            ran = _scan_rest(request, out, parents, done, stop)
            lines = [*ran.lines(request, parents[done:]), *ran.notes(request, chosen), *said, _wrote(request, parents)]
        _write_facts(request, chosen)
    if request.summary is not None:
        mutants = sum(parent.plan.n_mutants for parent in parents)
        notes = [*(() if ran is None else ran.notes(request, chosen)), *said]
        summary = summary_of_scan(request, chosen, mutants, done, ran, notes)
        write_summary(request.summary, summary)
    return lines


def _scan_rest(request: ScanRequest, out: ResumableOutput, parents: list[Parent], done: int, stop: Stop) -> Ran:
    """Scan the parents from number `done` on; an interrupted scan had finished those before."""
    from abonyx.model import open_model  # not before the input was found good

    started = time.perf_counter()
    charge: list[str] = []
    config = dataclasses.replace(request.run.config, token_budget=out.token_budget)
    with open_model(config) as model, progress(out.rows + len(parents), out.rows_done + done) as bar:
        opened = time.perf_counter()
        for parent, end in list(zip(parents, last_rows(parents), strict=True))[done:]:
            found = run_scan(model, parent.plan, request.options, _watch(stop, bar, done, len(parents)))
            _draw(request, parent, found)
            if model.budget.tokens != out.token_budget:
                out.token_budget = model.budget.tokens
                out.halved(model.budget.tokens, "the device ran out of memory")
            out.append(end, (parent.id, found))
            done += 1
            explained = [each.sentence() for each in found.heads]
            charge += explained if len(parents) == 1 else [f"{parent.plan.name}: {explained[0]}"]
        ended = time.perf_counter()
        return Ran(model.bundle.label(), [*model.opening_notes], charge, opened - started, ended - opened)


def _wrote(request: ScanRequest, parents: Sequence[Parent]) -> str:
    """The last line: what is in the directory, including the files of an interrupted scan."""
    pictures = len(parents) * len(request.options.heads) * request.pictures
    drawn = f", {pictures} picture{'s' * (pictures > 1)}, each as SVG and PNG" if pictures else ""
    return f"wrote {request.output}: {SCAN_CSV}, {PARENTS_CSV}, {FACTS_JSON}{drawn}"


def _write_facts(request: ScanRequest, chosen: Input) -> None:
    """Write scan.json, which says how the tables were made."""
    facts = scan_facts(request.options, input_facts(chosen), request.run.metadata(), rank=request.rank)
    with replacing(request.output / FACTS_JSON) as sink:
        sink.write(facts)


def _watch(stop: Stop, bar: Callable[[int], None] | None, done: int, parents: int) -> Callable[[int], None]:
    """What to call after each batch: it ends the scan if a signal came, and moves the progress bar."""

    def on_batch(sequences: int) -> None:
        if stop.asked:
            if done:
                what = f"{stop.asked}: {done} of {parents} parents are kept"
                raise RunInterrupted(what, f"The same command resumes from there, {option('restart')} starts again.")
            raise RunInterrupted(f"{stop.asked}: no parent was finished, so nothing is kept")
        if bar:
            bar(sequences)

    return on_batch


def _draw(request: ScanRequest, parent: Parent, found: Scan) -> None:
    """Write the pictures of a parent, if they are wanted."""
    if not request.pictures:
        return
    from abonyx.explain.heat_map import draw

    for each in found.heads:
        name = parent.stem if len(found.heads) == 1 else f"{parent.stem}.{each.head.name}"
        picture = draw(found, parent.id, each.head.name)
        for suffix, data in ((".scan.png", picture.png), (".scan.svg", picture.svg)):
            with replacing(request.output / f"{name}{suffix}") as sink:
                sink.write(data)


@contextmanager
def _opened(request: ScanRequest, chosen: Input, parents: Sequence[Parent]) -> Iterator[ResumableOutput]:
    run, output = request.run, request.output
    facts = {
        "command": "scan",
        "--heads": ", ".join(request.options.names),
        "--positions": request.options.positions,
        "--exclude": request.options.excluded or None,
        "--rank": request.rank,
        "--no-pictures": not request.pictures,
        "--validated": None if request.options.validated is None else request.options.validated.sentence,
    }
    header = Header(
        identity=facts | input_facts(chosen) | identity(run),
        config_sha256=run.config.sha256(),
        rows=sum(parent.plan.n_mutants for parent in parents),
        rejected=len(chosen.rejected),
        token_budget=token_budget(run.config, run.bundle),
        window_size=window_size(run.config),
    )
    targets, format = [output / PARENTS_CSV, output / SCAN_CSV], scan_format(rank=request.rank)
    if run.skip:
        targets, format = [output / REJECTED_CSV, *targets], format.beside(rejected_bytes(chosen.rejected))
    made = not output.exists()
    try:
        output.mkdir(exist_ok=True)
        if request.restart:
            for picture in (*output.glob("*.scan.png"), *output.glob("*.scan.svg")):
                picture.unlink()
    except OSError as error:
        what = f"output {output}: cannot be created: {error.strerror}"
        raise ConfigError(what, "Name a new directory inside an existing one.") from error
    try:
        with open_resumable(targets, format, header, restart=request.restart) as out:
            yield out
    except BaseException:
        if made and not any(output.iterdir()):
            output.rmdir()
        raise
