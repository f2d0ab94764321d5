"""`--summary FILE`: the summary of a run as JSON, for other programs. docs/runs.md describes it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from abonyx import __version__
from abonyx.errors import ConfigError, first_line
from abonyx.input.checked import Input
from abonyx.output.files import check_output, ids_path, partial_paths, rejected_path, replacing
from abonyx.output.journal import journal_path
from abonyx.wording import Interface, in_words, option

if TYPE_CHECKING:
    from abonyx.run.request import RunRequest
    from abonyx.run.resumed import FileRun
    from abonyx.run.windows import RunSummary

SCHEMA = 1
Command = Literal["score", "embed", "explain", "scan"]
# A reason has details of one record. Without numbers, and cut to this length, it is equal for many records.
_REASON_CHARS = 120


class SummaryBundle(msgspec.Struct, frozen=True):
    """The bundle of the run."""

    name: str
    sha256: str


class CommandSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of a run.

    Attributes:
        schema: version of this object.
        command: the command.
        records: number of records in the input: scored + rejected.
        scored: number of records in the output (scored, embedded, explained or scanned).
        mutants: number of mutants in the output; only for scan.
        earlier: number of the scored records that an interrupted run had done.
        rejected: number of rejected records.
        rejected_reasons: reason, with N instead of numbers -> number of rejected records.
        domain: value of the option --domain.
        flagged: number of scored records with a flag.
        without_call: number of flagged records without a call.
        flags: flag -> number of records that have it. A record can have several flags.
        seconds: seconds of scoring and writing in this process; null if there was nothing left to score. For explain it
            includes opening the model.
        open_seconds: seconds of hashing, loading and self-test; null as in `seconds`, and for explain.
        outputs: absolute paths of the written files or directory.
    """

    schema: int = SCHEMA
    command: Command
    abonyx: str = __version__
    records: int
    scored: int
    earlier: int
    rejected: int
    rejected_reasons: dict[str, int]
    domain: str
    flagged: int
    without_call: int
    flags: dict[str, int]
    seconds: float | None
    open_seconds: float | None
    bundle: SummaryBundle
    variant: str
    provider: str
    heads: list[str]
    outputs: list[str]
    notes: list[str]
    mutants: int | msgspec.UnsetType = msgspec.UNSET


def check_summary(summary: Path | None, output: Path | None, source: Path | None) -> None:
    """Raise a ConfigError if a summary cannot be written, or would replace the input or a file of the run.

    Args:
        summary: path of the summary; None = no summary.
        output, source: output and input of the run; None = a standard stream.
    """
    if summary is None:
        return
    if str(summary) == "-":
        fix = f"Name a file: {option('summary')} FILE."
        raise ConfigError(f"{option('summary')} -: standard output is for results", fix)
    check_output(summary, source)
    if output is None:
        return
    beside = [output]
    if not output.is_dir():
        beside += [ids_path(output), rejected_path(output), journal_path(output), *partial_paths(output)]
    place = os.path.realpath(summary)
    if place in map(os.path.realpath, beside) or Path(place).is_relative_to(os.path.realpath(output)):
        what = f"{option('summary')} {summary}: is the output, is in it, or is a file that the run keeps beside it"
        raise ConfigError(what, "Name another file.")


def summary_of(
    command: Command,
    run: RunRequest,
    checked: Input,
    *,
    heads: Sequence[str],
    earlier: int,
    seconds: float | None,
    open_seconds: float | None,
    outputs: Sequence[Path | None],
    notes: Sequence[str],
    mutants: int | msgspec.UnsetType = msgspec.UNSET,
) -> CommandSummary:
    """The summary of a run that succeeded. None in `outputs` is standard output, and left out."""
    judgements, rejected = checked.judgements, len(checked.rejected)
    reasons = Counter(_reason(one.reason) for one in checked.rejected)
    scores = command == "score"
    return CommandSummary(
        command=command,
        records=len(checked.ids) + rejected,
        scored=len(checked.ids),
        earlier=earlier,
        rejected=rejected,
        rejected_reasons=dict(reasons.most_common()),
        domain=run.check,
        flagged=sum(bool(judgement.flags) for judgement in judgements),
        without_call=sum(not judgement.trusted for judgement in judgements) if scores else 0,
        flags=dict(checked.flag_counts()),
        seconds=seconds,
        open_seconds=open_seconds,
        bundle=SummaryBundle(run.bundle.name, run.bundle.sha256),
        variant=run.bundle.variant(run.config.provider, run.config.variant)[0],
        provider=run.config.provider,
        heads=list(heads),
        outputs=[_shown(path.absolute()) for path in outputs if path is not None],
        notes=[in_words(note, Interface.COMMAND_LINE) for note in notes],
        mutants=mutants,
    )


def summary_of_file_run(file_run: FileRun, done: RunSummary | None) -> CommandSummary:
    """The summary of a run with one file. done: None = an earlier process had scored every row."""
    checked, target = file_run.records, file_run.target
    rejected = rejected_path(target) if target is not None and file_run.run.skip else None
    ids = ids_path(target) if target is not None and len(file_run.format.head) > 1 else None
    return summary_of(
        "embed" if file_run.heads is None else "score",
        file_run.run,
        checked,
        heads=file_run.heads or (),
        earlier=len(checked.ids) if done is None else done.earlier,
        seconds=None if done is None else done.run_seconds,
        open_seconds=None if done is None else done.open_seconds,
        outputs=[target, ids, rejected],
        notes=checked.notes if done is None else done.notes,
    )


def write_summary(path: Path, summary: CommandSummary) -> None:
    """Write a summary, whole or not at all. Raises a ConfigError if it cannot be written."""
    with replacing(path) as sink:
        sink.write(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")


def _reason(reason: str) -> str:
    return first_line(re.sub(r"\d+", "N", in_words(reason, Interface.COMMAND_LINE)), _REASON_CHARS)


def _shown(path: Path) -> str:
    """A path in valid UTF-8, for JSON."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
