"""From labelled files to a directory of metrics, a card, predictions, pictures and a report; or to an error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypedDict

import msgspec
import numpy as np

from abonyx.arrays import BoolArray, shortest_decimal
from abonyx.bundle.bundle import Bundle
from abonyx.bundle.manifest import HeadSpec
from abonyx.bundle.threshold import pooling_notes
from abonyx.bundle.training_rows import training_rows
from abonyx.card.labelled import LabelledSet, unjudged
from abonyx.card.record import SCHEMA_VERSION, Card
from abonyx.card.writing import METRICS_JSON, write_pages
from abonyx.errors import printable
from abonyx.evaluate.heads import EvaluatedHead, evaluated_head
from abonyx.evaluate.lists import SHORTLIST_CSV, Table, shortlist, wrong_rows
from abonyx.evaluate.metrics import Measured
from abonyx.evaluate.parents import PARENTS_CSV, ByParent, Parent, measure_by_parent
from abonyx.evaluate.record import Bootstrap, EvaluationRecord, Unflagged
from abonyx.evaluate.report import Lists, report
from abonyx.evaluate.request import EvaluationRequest, check_request
from abonyx.evaluate.sets import EvaluatedSet, LabelledRows, read_set
from abonyx.evaluate.stability import Stability, ValueStability
from abonyx.output.directory import staged
from abonyx.output.formats import PAIR_COLUMNS, write_rejected, write_table
from abonyx.run.progress import progress
from abonyx.run.request import RunRequest
from abonyx.run.windows import ArraySink, Job, run_windows

__all__ = ["EvaluationRequest", "check_request", "evaluate_files"]


class _Evaluation(NamedTuple):
    """What is the same for every input."""

    request: EvaluationRequest
    run: RunRequest
    head: EvaluatedHead


class _Both(NamedTuple):
    """What was measured on all labelled rows, and without flagged rows; None if none is left, or flags are unknown."""

    rows: LabelledRows
    measured: Measured
    unflagged: LabelledRows
    measured_unflagged: Measured | None


def evaluate_files(request: EvaluationRequest, run: RunRequest) -> list[str]:
    """Read every input, open the model once, score, measure, and write the directory.

    Returns:
        The lines that the command line prints.

    Raises:
        BundleError, ConfigError: see check_request and evaluated_head; or the directory cannot be written.
        InputError: an input that cannot be read, has no label, or has labels of a kind that does not fit the head.
    """
    head = evaluated_head(request, run)
    run = replace(run.of_chains(head.spec.chains), keep=() if request.by is None else (request.by,))
    each_input = _Evaluation(request, run, head)
    sets = [read_set(source, request, run, head.spec) for source in request.sources]
    jobs = [Job(each.checked, ArraySink(each.scores[:, None])) for each in sets]
    jobs += [job for each in sets if each.varied for job in each.varied.jobs()]
    with progress(sum(len(job.checked.sequences) for job in jobs)) as on_batch:
        summary = run_windows(run.bundle, jobs, run.config, [head.spec.name], on_batch)
    lines = summary.lines()
    cards = [_labelled_set(each, each_input) for each in sets]
    comparisons = max(1, sum(not unjudged(each) for each in cards))
    with staged(request.output) as staging:
        for each, labelled in zip(sets, cards, strict=True):
            directory = staging / each.stem if len(sets) > 1 else staging
            directory.mkdir(exist_ok=True)
            lines += _write(each, directory, each_input, replace(labelled, comparisons=comparisons))
    used = head.used + (f"; head {head.spec.name}" if len(run.bundle.manifest.heads) > 1 else "")
    return [*lines, f"wrote {request.output}; {used}"]


def _write(each: EvaluatedSet, directory: Path, evaluation: _Evaluation, labelled: LabelledSet) -> list[str]:
    """Write one input's files, and return its lines of the summary."""
    run, head = evaluation.run, evaluation.head
    both = _measure(each, evaluation)
    stability = head.stability(each.varied, each.scores) if each.varied else None
    card = head.card(labelled, both.rows)
    by_parent = _by_parent(each, both.rows, evaluation, labelled.shared)
    notes = [measured.line() for measured in (stability, by_parent) if measured is not None]
    if run.check == "off" and labelled.shared is not None:
        notes.append("domains were not looked for: a training row with a tag is not recognised")
    card = msgspec.structs.replace(card, notes=[*card.notes, *notes])
    record = _record(each, both, evaluation, card, stability, by_parent)
    (directory / METRICS_JSON).write_bytes(record.encode())
    write_pages(record.card, directory)
    _write_predictions(directory / "predictions.csv", each, run, head)
    if by_parent is not None:
        write_table(directory / PARENTS_CSV, Parent.__struct_fields__, map(msgspec.structs.astuple, by_parent.parents))
    if run.skip:
        write_rejected(directory / "rejected.csv", each.checked.rejected)
    pictures = []
    for name, text, png, svg in head.draw(each.stem, both.rows, both.measured):
        (directory / f"{name}.png").write_bytes(png)
        (directory / f"{name}.svg").write_bytes(svg)
        pictures.append((text, svg))
    best = shortlist(each, run, head)
    write_table(directory / SHORTLIST_CSV, best.header, best.rows)
    lists = Lists(best, wrong_rows(each, head), _flagged_rows(each, head))
    page = report(f"{run.bundle.name} on {each.name}", record, lists, pictures)
    (directory / "report.html").write_bytes(page.encode("utf-8", "backslashreplace"))
    return record.lines(printable(each.stem))


def _by_parent(
    each: EvaluatedSet, rows: LabelledRows, evaluation: _Evaluation, shared: BoolArray | None
) -> ByParent | None:
    """The agreement among variants of one parent, if it was requested."""
    request = evaluation.request
    if request.by is None:
        return None
    flagged = None
    if evaluation.run.check != "off":
        flagged = [not judged.trusted for judged in each.of_labelled(each.checked.judgements)]
        shared = None if shared is None else shared & ~np.array(flagged, bool)
    parents = each.of_labelled(each.checked.kept[request.by])
    if shared is not None:  # rows without a parent are not compared
        shared = shared & np.array([bool(parent.strip()) for parent in parents], bool)
    return measure_by_parent(
        request.by,
        parents,
        each.of_labelled(each.checked.records),
        rows.y,
        rows.scores.astype(np.float64),
        classes=evaluation.head.task == "classes",
        resamples=request.bootstrap,
        seed=request.seed,
        shared=None if shared is None else int(np.sum(shared)),
        flagged=flagged,
    )


def _measure(each: EvaluatedSet, evaluation: _Evaluation) -> _Both:
    """Measure with and without the flagged rows, with the same seed."""
    request = evaluation.request

    def measured(rows: LabelledRows) -> Measured:
        return evaluation.head.measure(rows, request.bootstrap, request.seed)

    rows, unflagged = each.rows(), each.rows(unflagged=True)
    of_all = measured(rows)
    if evaluation.run.check == "off" or not len(unflagged.y):
        return _Both(rows, of_all, unflagged, None)
    return _Both(rows, of_all, unflagged, of_all if len(unflagged.y) == len(rows.y) else measured(unflagged))


def _record(
    each: EvaluatedSet,
    both: _Both,
    evaluation: _Evaluation,
    card: Card,
    stability: Stability | ValueStability | None,
    by_parent: ByParent | None,
) -> EvaluationRecord:
    request, run, head = evaluation
    batch = f" (batch {run.config.batch_size})" if run.config.batch_size else ""
    rows, without, metadata = both.rows, both.unflagged, run.metadata()
    del metadata["domain"]  # it is one text; the record has its parts
    return EvaluationRecord(
        input=each.name,
        input_sha256=each.sha256,
        head=head.spec.name,
        values=head.facts(rows),
        **_counts(rows, head),
        n_unlabelled=len(each.scores) - len(rows.y),
        n_rejected=len(each.checked.rejected),
        n_flagged=None if run.check == "off" else len(rows.y) - len(without.y),
        flags=dict(each.checked.flag_counts()),
        threshold=head.threshold,
        assay=request.assay,
        metrics=both.measured.metrics,
        confusion_matrix=both.measured.confusion,
        unflagged=_unflagged(without, both.measured_unflagged, head),
        bootstrap=Bootstrap(resamples=request.bootstrap, seed=request.seed),
        pooling=f"{run.config.pooling}{batch}",
        domain=run.rule.facts(),
        notes=[*_notes(each, both, run, head.spec), *both.measured.notes],
        card=card,
        stability=stability,
        by_parent=by_parent,
        schema_version=SCHEMA_VERSION,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=request.command,
        **metadata,
    )


class _Counts(TypedDict):
    """How many labelled rows, and how many of each class; None for values."""

    n: int
    n_positive: int | None
    n_negative: int | None


def _counts(rows: LabelledRows, head: EvaluatedHead) -> _Counts:
    n = len(rows.y)
    if head.task == "values":
        return {"n": n, "n_positive": None, "n_negative": None}
    positive = int(rows.y.sum())
    return {"n": n, "n_positive": positive, "n_negative": n - positive}


def _labelled_set(each: EvaluatedSet, evaluation: _Evaluation) -> LabelledSet:
    """The rows of the card: all labelled rows, flagged or not, as in `metrics`."""
    checked, (request, run, head) = each.checked, evaluation
    return LabelledSet(
        name=each.name,
        head=_evaluated(run.bundle, head.spec),
        chains=tuple(each.of_labelled(chain) for chain in checked.chains),
        labels=np.array(each.of_labelled(each.labels), np.float64),
        task=head.task,
        shared=training_rows(
            run.bundle, each.of_labelled(checked.records), head.spec.name, each.of_labelled(checked.domains)
        ),
        trusted=np.array([judged.trusted for judged in each.of_labelled(checked.judgements)], bool),
        left_out=tuple(_rejected(each)),
        draws=request.bootstrap,
        seed=request.seed,
    )


def _evaluated(bundle: Bundle, head: HeadSpec) -> str:
    """What the card judges: the bundle, and its head if it has several."""
    named = f"{bundle.name} ({bundle.sha256[:12]})"
    return named if len(bundle.manifest.heads) == 1 else f"head {head.name} of {named}"


def _unflagged(rows: LabelledRows, measured: Measured | None, head: EvaluatedHead) -> Unflagged | None:
    if measured is None:
        return None
    return Unflagged(**_counts(rows, head), metrics=measured.metrics, confusion_matrix=measured.confusion)


def _notes(each: EvaluatedSet, both: _Both, run: RunRequest, head: HeadSpec) -> list[str]:
    """What a reader of the metrics must know of the rows and the bundle."""
    rows, labelled = len(each.scores), len(both.rows.y)
    notes = run.bundle.notes() + pooling_notes(run.bundle, run.config, head)
    if labelled < rows:
        notes.append(f"{rows - labelled} of {rows} rows have no label: scored, and left out of the metrics")
    notes += _rejected(each)
    if head.calibration is not None:
        controls = f"{head.calibration.controls} controls of {head.calibration.source_name}"
        flatter = "if they are among these rows, the figures look better than they are"
        notes.append(f"head {head.name} was calibrated to {controls}: {flatter}")
    if run.check == "off":
        notes.append("chain and domain were not looked at: no row is flagged")
    elif flagged := labelled - len(both.unflagged.y):
        notes.append(f"{flagged} of {labelled} labelled rows are flagged: only the first table of metrics has them")
        others = both.measured_unflagged.notes if both.measured_unflagged else []
        notes += [f"without flagged rows: {note}" for note in others if note not in both.measured.notes]
    return notes


def _rejected(each: EvaluatedSet) -> list[str]:
    """A note on rejected records, if there are any."""
    rejected, total = len(each.checked.rejected), len(each.checked.rejected) + len(each.scores)
    return [f"{rejected} of {total} records were rejected and not scored: see rejected.csv"] if rejected else []


def _flagged_rows(each: EvaluatedSet, head: EvaluatedHead) -> Table:
    """The rows whose score should not be trusted, in file order."""
    checked = each.checked
    labels = ["" if label is None else str(label) for label in each.labels]
    rows = zip(checked.ids, labels, each.scores, checked.judgements, strict=True)
    flagged = [(id_, y, shortest_decimal(score), each.text) for id_, y, score, each in rows if not each.trusted]
    return Table(("id", "label", head.column, "flag"), flagged)


def _write_predictions(path: Path, each: EvaluatedSet, run: RunRequest, head: EvaluatedHead) -> None:
    """Write the columns of results, with y_true and what it is compared with before the flag."""
    checked = each.checked
    shown: dict[str, Iterable[object]] = {"sequence": checked.shown}
    if checked.light:
        shown = dict(zip(PAIR_COLUMNS, (checked.shown, checked.shown_light), strict=True))
    columns: dict[str, Iterable[object]] = {
        "id": checked.ids,
        **shown,
        "y_true": ["" if label is None else label for label in each.labels],
        **head.columns(each.scores),
        "flag": [judgement.text for judgement in checked.judgements],
        **({"domain": checked.places} if run.trim else {}),
    }
    write_table(path, tuple(columns), zip(*columns.values(), strict=True))
