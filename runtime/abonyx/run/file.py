"""`abonyx score` as a function: score one file, with the results in a file or in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from abonyx.bundle.band import CallBand
from abonyx.bundle.chosen import ChosenHeads, P
from abonyx.bundle.panel import PERCENTILE
from abonyx.bundle.threshold import CALL, CALLED
from abonyx.config import RuntimeConfig
from abonyx.domain import Check, refuse_rule
from abonyx.errors import ConfigError
from abonyx.input.cells import NO_CELLS, RejectedRecord
from abonyx.input.sequences import Gaps
from abonyx.output.beside import column_cells
from abonyx.output.kinds import ScoreKind, score_kind
from abonyx.run.opening import ChosenModel, chosen_model
from abonyx.run.progress import Bar
from abonyx.run.request import RunRequest, prepare
from abonyx.run.resumed import run_file, score_run
from abonyx.run.windows import OnBatch, score_input
from abonyx.wording import Interface, in_words, option

if TYPE_CHECKING:
    from abonyx.input.checked import Input
    from abonyx.session import Session

# Called with (number of scored records, number of all records to score).
Progress = Callable[[int, int], object]


class ScoreRow(NamedTuple):
    """One scored record. It has the same fields as a line of a result file.

    Attributes:
        id: id of the record.
        sequence: the cleaned sequence of the input; for a pair, the heavy chain.
        p_nonspecific: probability by the first head, with the precision of float32; None if that head is linear or was
            not chosen.
        nonspecific: 1 or 0; None for a score that has a flag and no call, or if there is no p_nonspecific.
        call: "specific", "non-specific" or "uncertain"; None as in `nonspecific`.
        percentile: "FIRST-LAST", an interval for the percentage of the panel that scores lower; with " (in panel)" if
            the record is in the panel. None as in `nonspecific`, or without a panel.
        flag: why the score should not be trusted; "" if nothing is wrong.
        domain: for a trimmed record, the residues that were scored, FIRST-LAST from 1; "" if no domain was found.
        kept: name -> text of the kept columns.
        heads: name -> cell of the columns of other heads, and of a first head that is linear.
        added: name -> cell of the columns in `with_columns`.
        light: the light chain of a pair; else "".
    """

    id: str
    sequence: str
    p_nonspecific: float | None
    nonspecific: int | None
    call: str | None
    percentile: str | None
    flag: str
    domain: str = ""
    kept: Mapping[str, str] = NO_CELLS
    heads: Mapping[str, float | int | str | None] = MappingProxyType({})
    added: Mapping[str, float | int | str | None] = MappingProxyType({})
    light: str = ""


@dataclass(frozen=True)
class ScoreSummary:
    """The result of score_file.

    Attributes:
        output: the file of scores; None = the scores are in `rows`.
        records: number of scored records, with those of an interrupted run.
        earlier: number of these that an interrupted run had scored.
        rejected: number of records that were not scored. records + rejected = all records of the input.
        problems: (id, line, reason) of each rejected record.
        flags: flag -> number of records that have it.
        threshold: p strictly above this is non-specific; None if the first head makes no calls.
        band: the range of p with uncertain calls; None = calls depend only on the threshold.
        panel: name of the panel for percentiles; None = there are no percentiles.
        notes: further lines for the user.
        rows: the scores in file order if no output was given; else empty.
    """

    output: Path | None
    records: int
    earlier: int
    rejected: int
    problems: list[RejectedRecord]
    flags: dict[str, int]
    threshold: float | None
    band: CallBand | None
    panel: str | None
    notes: list[str]
    rows: list[ScoreRow]


def score_file(
    source: str | Path,
    output: str | Path | None = None,
    *,
    session: Session | None = None,
    config: RuntimeConfig | str | Path | None = None,
    threshold: float | None = None,
    assay: str | None = None,
    heads: Sequence[str] | str | None = None,
    panel: str | None = None,
    format: ScoreKind | None = None,
    id_column: str | None = None,
    sequence_column: str | None = None,
    heavy_column: str | None = None,
    light_column: str | None = None,
    sheet: str | None = None,
    gaps: Gaps = "refuse",
    keep: Sequence[str] | Literal["all"] = (),
    with_columns: Sequence[str] = (),
    skip_invalid: bool = False,
    domain: Check = "check",
    trim: Literal["domain"] | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Score a file of sequences, as `abonyx score` does: with the same checks, results and bytes.

    If a run with the same output was interrupted (by a signal, an exception or a kill), it is resumed.

    Args:
        source: FASTA, CSV, TSV, JSONL, Parquet or xlsx (docs/files.md).
        output: the file to write; None = no file; the scores are in `rows` of the result.
        session: the session that scores; None = open a session with `config`, and close it.
        config: as for open_session.
        threshold: a record is non-specific if its p is strictly above this, and no record is uncertain; None = the
            threshold of `assay`, or the head's default.
        assay: use the threshold that the head declares for this assay.
        heads: names of the bundle's heads, or "all"; None = the first. `threshold` and `assay` are for the first head.
        panel: name of the panel for percentiles; None = the bundle's first.
        format: format of the output; None = by its suffix.
        id_column, sequence_column: columns of a table; None = columns with a known name.
        heavy_column, light_column: for heads that need both chains, columns of a table; None = columns with a known
            name.
        sheet: sheet of an Excel workbook.
        gaps: "strip" removes `-`, `.` and a final `*` from the sequences; "refuse" rejects records that have them.
        keep: columns of the input to copy to the output, or to `kept` of the rows; for FASTA ["description"].
        with_columns: more columns, of "charge", "pI", "length", "cdr3", "nearest_identity" and "interval"
            (docs/files.md).
        skip_invalid: if some records cannot be scored, score the others. The rejected records are in `problems`, and
            with an output also in OUTPUT.rejected.csv.
        domain: "check" flags records unlike the head's training set, "require" rejects them, "off" does not check.
        trim: "domain" scores only the variable domain of a longer record.
        restart: whether to discard the rows of an interrupted run.
        progress: called with (number of scored records, number of all records), before the model is opened and after
            each batch. An exception that it raises ends the run; with an output, whole windows are kept.

    Returns:
        The counts, the notes and, without an output, the scores.

    Raises:
        InputError: the file cannot be read, or has records that cannot be scored (RecordsRejected). Nothing was scored.
        ConfigError: an option, the config or the output cannot be used.
        OutputInUse, ResumeRefused: another run is writing the output, or left rows in it.
        RunInterrupted: a signal ended the run at the end of a window (only in the main thread and with an output).
        BundleError, ProviderError, SessionError, SelfTestError, ScoreNotFinite: as for open_session and Session.score.
    """
    refuse_rule(domain, trim)
    source, target = Path(source), None if output is None else Path(output)
    if target is None and (format is not None or restart):
        given = option("format" if format is not None else "restart")
        what = f"{given} was given without {option('output')}"
        raise ConfigError(what, f"Name a file to write, or leave {given} out.")
    with chosen_model(session, config) as chosen:
        run = prepare(
            config=chosen.config,
            bundle=chosen.bundle,
            id_column=id_column,
            sequence_column=sequence_column,
            heavy_column=heavy_column,
            light_column=light_column,
            skip=skip_invalid,
            check=domain,
            trim=trim is not None,
            gaps=gaps,
            sheet=sheet,
            keep=(keep,) if isinstance(keep, str) else tuple(keep),
            with_columns=with_columns,
        )
        wanted = run.choose_heads(heads, assay, threshold, panel)
        run = run.of_chains(wanted.chains)
        if target is None:
            return _in_memory(run, run.read(source), wanted, chosen, progress)
        kind = score_kind(target, format)
        run.check_outputs(target, source)
        file_run = score_run(run, run.read(source), target, kind, wanted)
        shown, checked = _told(progress), file_run.records
        summary = run_file(file_run, restart=restart, opening=chosen.opening, budget=chosen.budget, shown=shown)
        earlier = summary.earlier if summary else len(checked.ids)
        return _summary(checked, target, wanted, earlier, summary.notes if summary else checked.notes)


def _in_memory(
    run: RunRequest, checked: Input, heads: ChosenHeads, chosen: ChosenModel, progress: Progress | None
) -> ScoreSummary:
    with _told(progress)(len(checked.ids), 0) as on_batch:
        values, summary = score_input(run.bundle, checked, run.config, heads.names, on_batch, chosen.opening)
    judgements = checked.judgements
    cells = heads.cells(values, [judgement.trusted for judgement in judgements], checked.records)
    scores = {name: column.tolist() if isinstance(column, np.ndarray) else column for name, column in cells.items()}
    empty: list[None] = [None] * len(judgements)
    usual = [scores.pop(name, empty) for name in (P, CALLED, CALL, PERCENTILE)]
    columns: list[Sequence[Any]] = [
        *(checked.ids, checked.shown, *usual),
        [judgement.text for judgement in judgements],
        checked.places if run.trim else [""] * len(judgements),
        [dict(zip(checked.kept, cells, strict=True)) for cells in zip(*checked.kept.values(), strict=True)]
        if checked.kept
        else [NO_CELLS] * len(judgements),
        _by_row(scores, len(judgements)),
        _by_row(column_cells(run.with_columns, checked.sequences, judgements, heads), len(judgements)),
        checked.shown_light or [""] * len(judgements),
    ]
    rows = [ScoreRow(*row) for row in zip(*columns, strict=True)]
    return _summary(checked, None, heads, 0, summary.notes, rows)


def _by_row(columns: Mapping[str, Sequence[Any]], count: int) -> list[Mapping[str, Any]]:
    """Turn columns, name -> cells, into one mapping for each row."""
    if not columns:
        return [MappingProxyType({})] * count
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _summary(
    checked: Input,
    output: Path | None,
    heads: ChosenHeads,
    earlier: int,
    notes: Sequence[str],
    rows: Sequence[ScoreRow] = (),
) -> ScoreSummary:
    rule = heads.rule
    return ScoreSummary(
        output=output,
        records=len(checked.ids),
        earlier=earlier,
        rejected=len(checked.rejected),
        problems=[one._replace(reason=in_words(one.reason, Interface.PYTHON)) for one in checked.rejected],
        flags=dict(checked.flag_counts()),
        threshold=None if rule is None else rule.threshold,
        band=None if rule is None else rule.band,
        panel=None if heads.panel is None else heads.panel.name,
        notes=[in_words(note, Interface.PYTHON) for note in notes],
        rows=list(rows),
    )


def _told(progress: Progress | None) -> Bar:
    """A Bar that calls `progress`."""

    @contextmanager
    def told(total: int, done: int) -> Iterator[OnBatch | None]:
        def on_batch(records: int) -> None:
            nonlocal done
            done += records
            if progress is not None:
                progress(done, total)

        on_batch(0)
        yield on_batch

    return told
