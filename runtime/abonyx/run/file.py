"""`abonyx score` as a function: one file in, its scores in a file or in memory."""

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

# Called with how many records are scored, and how many are to be scored in all.
Progress = Callable[[int, int], object]


class ScoreRow(NamedTuple):
    """One scored record, as a line of a result file.

    Attributes:
        sequence: as the input has it, cleaned; of a pair the heavy chain.
        p_nonspecific: a float32's value, of the first head; None if that is linear or not among `heads`.
        nonspecific: 1 or 0; None for a score that has a flag and no call, or without p_nonspecific.
        call: "specific", "non-specific" or "uncertain"; None as in `nonspecific`.
        percentile: interval of the share of a panel that scores lower, in percent, "FIRST-LAST"; followed by
            " (in panel)" if the record is in the panel itself; None as in `nonspecific`, or without a panel.
        flag: why the score should not be trusted, "" = nothing is wrong.
        domain: of a trimmed record, the residues that were scored, FIRST-LAST from 1; "" = no domain to trim to.
        kept: name -> text of the columns that were to be kept.
        heads: the columns of other heads, and of a linear first one, by name: float32's values, calls and
            percentiles.
        added: the columns that `with_columns` names, by name.
        light: of a pair the light chain; "" of a record that is one sequence.
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
    """What score_file did.

    Attributes:
        output: the file of scores; None = the scores are in `rows`.
        records: records scored in all, those of an interrupted run included.
        earlier: records of these that an interrupted run had scored.
        rejected: records that were not scored; records + rejected = the records of the input.
        problems: one for each of these: id, line, reason.
        flags: why scores should not be trusted -> records that have this reason.
        threshold: p strictly above it is called non-specific; None if the first head makes no calls.
        band: the head's quantiles, between which `call` is "uncertain"; None = it has two values, by the threshold.
        panel: of the percentiles; None = there are none.
        notes: what else the caller should know, a line each.
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
    """Score a file of sequences as `abonyx score` does: same checks, same results, same bytes.

    If an earlier run with the same output was interrupted, by a signal, an exception or a kill, it is resumed.

    Args:
        source: FASTA, CSV, TSV, JSONL, Parquet or xlsx; docs/files.md.
        output: the file to write; None = no file, the scores are in the answer's `rows`.
        session: what to score with; None = a session is opened with `config`, and closed.
        config: as open_session takes it.
        threshold: call p strictly above it non-specific, and nothing uncertain; None = the assay's, or the head's
            default.
        assay: use the threshold that the head declares for it.
        heads: names of the bundle's heads, or "all"; None = the first. threshold and assay are the first head's.
        panel: whose percentiles are given; None = the bundle's first.
        format: of the output; None = what its suffix names.
        id_column, sequence_column: columns of a table; None = those with a known name.
        heavy_column, light_column: of heads that need both chains, columns of a table; None = those with a known name.
        sheet: of an Excel workbook.
        gaps: "strip" takes `-`, `.` and a final `*` out of the sequences.
        keep: columns of the input that go to the output, or to the rows' `kept`, as they are; of FASTA ["description"].
        with_columns: of "charge", "pI", "length", "cdr3", "nearest_identity" and "interval":
            docs/files.md.
        skip_invalid: score the rest if records cannot be scored; they are in `problems`, and with an output in
            OUTPUT.rejected.csv.
        domain: "check" flags records that the head was not trained on, "require" rejects them, "off" does not look.
        trim: "domain" scores the variable domain inside a longer record.
        restart: drop what an interrupted run left.
        progress: called with (records scored, records to score), first before the model is opened and then after each
            batch. What it raises ends the run; with an output, whole windows are kept.

    Raises:
        InputError: the file cannot be read, or (RecordsRejected) has records that cannot be scored; nothing was scored.
        ConfigError: an option, the config or the output; OutputInUse, ResumeRefused: another run has the output.
        RunInterrupted: a signal, in the main thread and with an output, ended the run at the end of a window.
        BundleError, ProviderError, SessionError, SelfTestError, ScoreNotFinite: as open_session and Session.score.
    """
    refuse_rule(domain, trim)
    source, target = Path(source), None if output is None else Path(output)
    if target is None and (format is not None or restart):
        what = f"{option('format' if format is not None else 'restart')} was given, and no {option('output')}"
        raise ConfigError(what, "Name a file to write, or leave it out.")
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
    """Columns of as many cells by name, as a mapping a row."""
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
    """In place of the command line's bar."""

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
