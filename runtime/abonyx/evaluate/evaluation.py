"""From labelled files to a directory of metrics, a card, predictions, pictures and a report, or nothing at all.

Over 300 lines: the steps of one command, in their order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np

from abonyx.alphabet import SequenceLimit
from abonyx.arrays import Float32Array, Int64Array, shortest_decimal
from abonyx.bundle.bundle import Bundle
from abonyx.bundle.chosen import P
from abonyx.bundle.manifest import LOGISTIC, HeadSpec
from abonyx.bundle.threshold import CallRule, choose_calls, is_nonspecific, pooling_notes
from abonyx.bundle.training_rows import training_rows
from abonyx.card.card import card_of_scores
from abonyx.card.labelled import LabelledSet, unjudged
from abonyx.card.record import SCHEMA_VERSION, Card
from abonyx.card.writing import METRICS_JSON, write_pages
from abonyx.errors import ConfigError, InputError, printable
from abonyx.evaluate.metrics import Measured, measure
from abonyx.evaluate.pictures import Subject, draw
from abonyx.evaluate.record import Bootstrap, EvaluationRecord, Unflagged
from abonyx.evaluate.report import FlaggedRow, report
from abonyx.evaluate.stability import Stability, Varied
from abonyx.hashing import file_sha256
from abonyx.input.checked import Input
from abonyx.output.directory import check_directory, staged
from abonyx.output.files import input_stem
from abonyx.output.formats import PAIR_COLUMNS, write_rejected, write_table
from abonyx.run.progress import progress
from abonyx.run.request import RunRequest
from abonyx.run.windows import ArraySink, Job, run_windows
from abonyx.wording import option

Value = TypeVar("Value")
# y_pred is what is compared with y_true: a flagged row has it too, though `score` would not call it.
PREDICTION_COLUMNS = ("id", "sequence", "y_true", "y_pred", "p_nonspecific", "flag")
# With --trim domain, as results have it.
TRIMMED_COLUMNS = (*PREDICTION_COLUMNS, "domain")


@dataclass(frozen=True)
class EvaluationRequest:
    """What the command was asked, run_options apart.

    Attributes:
        output: directory to make.
        head: name of the head that is evaluated, None = the bundle's first; assay and threshold are its own.
        bootstrap, seed: resamples of the intervals, and their generator's seed.
        stability: score changed sequences, too, and say how many calls flip.
    """

    sources: tuple[Path, ...]
    output: Path
    label_column: str
    assay: str | None
    threshold: float | None
    bootstrap: int
    seed: int
    head: str | None = None
    stability: bool = False


@dataclass(frozen=True)
class _Set:
    """One input, read; `p` is filled while scoring. `varied`: its changed rows, if they are scored, too."""

    name: str
    stem: str
    sha256: str
    checked: Input
    p: Float32Array
    varied: Varied | None

    def of_labelled(self, column: Sequence[Value]) -> list[Value]:
        """Of a column of all rows, the cells of the labelled ones."""
        return [cell for cell, label in zip(column, self.checked.labels, strict=True) if label is not None]

    def labels(self, *, unflagged: bool = False) -> _Labelled:
        """The labelled rows; unflagged: without those whose score has no call."""
        rows = zip(self.checked.labels, self.checked.judgements, strict=True)
        kept = np.array([label is not None and (judged.trusted or not unflagged) for label, judged in rows], bool)
        y = np.array([-1 if label is None else label for label in self.checked.labels], np.int64)
        return _Labelled(y[kept], self.p[kept])


class _Labelled(NamedTuple):
    """Labels 0/1 and probabilities of k rows, (k,) each."""

    y: Int64Array
    p: Float32Array


class _Both(NamedTuple):
    """What was measured on all labelled rows, and without the flagged ones; None if nothing is left or known."""

    rows: _Labelled
    measured: Measured
    unflagged: _Labelled
    measured_unflagged: Measured | None


def check_request(request: EvaluationRequest) -> None:
    """Refuse what can be refused before anything is read.

    Raises:
        ConfigError: an output that cannot be made, or two inputs whose files would be in one place.
    """
    output = request.output
    if Path("-") in request.sources:
        raise ConfigError(
            "evaluate -: standard input cannot be evaluated", "Give a file: its name and hash are recorded."
        )
    check_directory(output)
    seen: dict[str, Path] = {}
    for source in request.sources:
        key = input_stem(source).casefold()  # some file systems hold only one of A and a
        if key in seen:
            what = f"{seen[key]} and {source}: both would be written to {output / input_stem(source)}"
            raise ConfigError(what, "Rename one of them, or evaluate it in a call of its own.")
        seen[key] = source


def evaluate_files(request: EvaluationRequest, run: RunRequest) -> list[str]:
    """Read every input, open the model once, score, measure, and write the directory.

    Returns:
        The lines that the command line prints.

    Raises:
        ConfigError: see check_request and choose_calls; a head that is not there, or gives values and no
            probability; or the directory cannot be written.
        InputError: an input that cannot be read or has no label.
    """
    head = _head(request, run)
    run = run.of_chains(head.chains)
    if request.stability and len(head.chains) > 1:
        what = f"{option('stability')}: head {head.name} expects both chains of a record"
        raise ConfigError(what, f"Leave {option('stability')} out: it changes the one sequence of a record.")
    rule = choose_calls(run.bundle, request.assay, request.threshold, head)
    sets = [_read(source, request, run) for source in request.sources]
    jobs = [Job(each.checked, ArraySink(each.p[:, None])) for each in sets]
    jobs += [job for each in sets if each.varied for job in each.varied.jobs()]
    with progress(sum(len(job.checked.sequences) for job in jobs)) as on_batch:
        summary = run_windows(run.bundle, jobs, run.config, [head.name], on_batch)
    lines = summary.lines()
    cards = [_labelled_set(each, request, run) for each in sets]
    comparisons = max(1, sum(not unjudged(each) for each in cards))
    with staged(request.output) as staging:
        for each, labelled in zip(sets, cards, strict=True):
            directory = staging / each.stem if len(sets) > 1 else staging
            directory.mkdir(exist_ok=True)
            lines += _write(each, directory, rule, request, run, replace(labelled, comparisons=comparisons))
    used = f"threshold {rule.threshold:g}" + (f" ({request.assay})" if request.assay else "")
    used += f"; head {head.name}" if len(run.bundle.manifest.heads) > 1 else ""
    return [*lines, f"wrote {request.output}; {used}"]


def _head(request: EvaluationRequest, run: RunRequest) -> HeadSpec:
    """The head that is evaluated."""
    heads, bundle = {head.name: head for head in run.bundle.manifest.heads}, run.bundle
    bundle.refuse_placeholder()
    if request.head is not None and request.head not in heads:
        what = f"{option('head')}: {bundle.name} has no head {printable(request.head)!r}"
        raise ConfigError(what, f"It has: {', '.join(heads)}.")
    head = bundle.manifest.head if request.head is None else heads[request.head]
    if head.kind != LOGISTIC:
        what = f"{option('head')}: {head.name} of {bundle.name} gives a value in {head.unit}, and no probability"
        raise ConfigError(what, "Name a head that gives a probability: the labels are classes.")
    return head


def _read(source: Path, request: EvaluationRequest, run: RunRequest) -> _Set:
    regular = os.path.isfile(source) or os.path.isdir(source)  # noqa: PTH112, PTH113
    if os.path.exists(source) and not regular:  # noqa: PTH110 (what is missing, or a directory, the reader reports)
        what = f"{source}: is a device or a pipe, which cannot be read twice"
        raise InputError(what, "Give a file: its sha256 is recorded beside the metrics.")
    checked = run.read(source, request.label_column)
    if all(label is None for label in checked.labels):
        what = f"{source}: none of {len(checked.labels)} rows has a label in column {printable(request.label_column)!r}"
        raise InputError(
            what, f"Name the column of labels 0 and 1 with {option('label_column')}, or use `abonyx score`."
        )
    name = source.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")  # as JSON can hold it
    limit = SequenceLimit.of(run.bundle.manifest, run.config)
    varied = Varied.of(checked, limit, name) if request.stability else None
    return _Set(name, input_stem(source), file_sha256(source), checked, np.empty(len(checked.ids), np.float32), varied)


def _write(
    each: _Set, directory: Path, rule: CallRule, request: EvaluationRequest, run: RunRequest, labelled: LabelledSet
) -> list[str]:
    """Write one input's files, and return its lines of the summary."""
    checked, limit = each.checked, rule.threshold
    both = _measure(each, limit, request, run)
    stability = each.varied.measure(each.p, limit) if each.varied else None
    card = _card(labelled, both.rows, rule, stability)
    record = _record(each, both, limit, request, run, card, stability)
    (directory / METRICS_JSON).write_bytes(record.encode())
    write_pages(record.card, directory)
    head = _head(request, run)
    _write_predictions(directory / "predictions.csv", each, limit, run, head)
    if run.skip:
        write_rejected(directory / "rejected.csv", checked.rejected)
    pictures = []
    for name, text, png, svg in draw(Subject(each.stem, *both.rows, limit, both.measured)):
        (directory / f"{name}.png").write_bytes(png)
        (directory / f"{name}.svg").write_bytes(svg)
        pictures.append((text, svg))
    page = report(each.name, record, _flagged_rows(each), pictures)
    (directory / "report.html").write_bytes(page.encode("utf-8", "backslashreplace"))
    return record.lines(printable(each.stem))


def _measure(each: _Set, limit: float, request: EvaluationRequest, run: RunRequest) -> _Both:
    """Measure with and without the flagged rows, by the same seed."""

    def measured(rows: _Labelled) -> Measured:
        return measure(*rows, limit, request.bootstrap, request.seed)

    rows, unflagged = each.labels(), each.labels(unflagged=True)
    of_all = measured(rows)
    if run.check == "off" or not len(unflagged.y):
        return _Both(rows, of_all, unflagged, None)
    return _Both(rows, of_all, unflagged, of_all if len(unflagged.y) == len(rows.y) else measured(unflagged))


def _record(
    each: _Set,
    both: _Both,
    limit: float,
    request: EvaluationRequest,
    run: RunRequest,
    card: Card,
    stability: Stability | None,
) -> EvaluationRecord:
    batch = f" (batch {run.config.batch_size})" if run.config.batch_size else ""
    y, without, metadata = both.rows.y, both.unflagged.y, run.metadata()
    del metadata["domain"]  # as text, for formats that hold nothing else
    return EvaluationRecord(
        input=each.name,
        input_sha256=each.sha256,
        head=_head(request, run).name,
        n=len(y),
        n_positive=int(y.sum()),
        n_negative=int(len(y) - y.sum()),
        n_unlabelled=len(each.p) - len(y),
        n_rejected=len(each.checked.rejected),
        n_flagged=None if run.check == "off" else len(y) - len(without),
        flags=dict(each.checked.flag_counts()),
        threshold=limit,
        assay=request.assay,
        metrics=both.measured.metrics,
        confusion_matrix=both.measured.confusion,
        unflagged=_unflagged(without, both.measured_unflagged),
        bootstrap=Bootstrap(resamples=request.bootstrap, seed=request.seed),
        pooling=f"{run.config.pooling}{batch}",
        domain=run.rule.facts(),
        notes=[*_notes(each, both, request, run), *both.measured.notes],
        card=card,
        stability=stability,
        schema_version=SCHEMA_VERSION,
        **metadata,
    )


def _labelled_set(each: _Set, request: EvaluationRequest, run: RunRequest) -> LabelledSet:
    """What the card is of: all labelled rows, flagged or not, as `metrics` is."""
    checked, head = each.checked, _head(request, run)
    return LabelledSet(
        name=each.name,
        head=_evaluated(run.bundle, head),
        chains=tuple(each.of_labelled(chain) for chain in checked.chains),
        labels=np.array(each.of_labelled(checked.labels), np.float64),
        shared=training_rows(run.bundle, each.of_labelled(checked.records), head.name),
        trusted=np.array([judged.trusted for judged in each.of_labelled(checked.judgements)], bool),
        left_out=tuple(_rejected(each)),
        draws=request.bootstrap,
        seed=request.seed,
    )


def _evaluated(bundle: Bundle, head: HeadSpec) -> str:
    """What the card is of: the bundle, and which of its heads if it has several."""
    named = f"{bundle.name} ({bundle.sha256[:12]})"
    return named if len(bundle.manifest.heads) == 1 else f"head {head.name} of {named}"


def _card(labelled: LabelledSet, rows: _Labelled, rule: CallRule, stability: Stability | None) -> Card:
    card = card_of_scores(labelled, rows.p.astype(np.float64), is_nonspecific(rows.p, rule.threshold), rule.band)
    return card if stability is None else msgspec.structs.replace(card, notes=[*card.notes, stability.line()])


def _unflagged(y: Int64Array, measured: Measured | None) -> Unflagged | None:
    if measured is None:
        return None
    positive = int(y.sum())
    counts = {"n": len(y), "n_positive": positive, "n_negative": len(y) - positive}
    return Unflagged(**counts, metrics=measured.metrics, confusion_matrix=measured.confusion)


def _notes(each: _Set, both: _Both, request: EvaluationRequest, run: RunRequest) -> list[str]:
    """What a reader of the metrics must know of the rows and the bundle."""
    rows, labelled = len(each.p), len(both.rows.y)
    notes = run.bundle.notes() + pooling_notes(run.bundle, run.config, _head(request, run))
    if labelled < rows:
        notes.append(f"{rows - labelled} of {rows} rows have no label: scored, and left out of the metrics")
    notes += _rejected(each)
    if run.check == "off":
        notes.append("chain and domain were not looked at: no row is flagged")
    elif flagged := labelled - len(both.unflagged.y):
        notes.append(f"{flagged} of {labelled} labelled rows are flagged: in `metrics`, and left out of `unflagged`")
        others = both.measured_unflagged.notes if both.measured_unflagged else []
        notes += [f"without flagged rows: {note}" for note in others if note not in both.measured.notes]
    return notes


def _rejected(each: _Set) -> list[str]:
    """That records were rejected, if any were."""
    rejected, total = len(each.checked.rejected), len(each.checked.rejected) + len(each.p)
    return [f"{rejected} of {total} records were rejected and not scored: see rejected.csv"] if rejected else []


def _flagged_rows(each: _Set) -> list[FlaggedRow]:
    """The rows whose score has no call, in file order."""
    checked = each.checked
    labels = ["" if label is None else str(label) for label in checked.labels]
    rows = zip(checked.ids, labels, each.p, checked.judgements, strict=True)
    return [FlaggedRow(id_, y, shortest_decimal(p), judged.text) for id_, y, p, judged in rows if not judged.trusted]


def _write_predictions(path: Path, each: _Set, limit: float, run: RunRequest, head: HeadSpec) -> None:
    checked = each.checked
    truth = ["" if label is None else label for label in checked.labels]
    called = is_nonspecific(each.p, limit).astype(np.int8).tolist()
    flags = [judgement.text for judgement in checked.judgements]
    # str of a numpy float32 is the shortest decimal that reads back as it, and what score writes.
    shown: list[Iterable[object]] = [checked.shown, checked.shown_light] if checked.light else [checked.shown]
    columns: list[Iterable[object]] = [checked.ids, *shown, truth, called, map(shortest_decimal, each.p), flags]
    if run.trim:
        columns.append(checked.places)
    names: tuple[str, ...] = TRIMMED_COLUMNS if run.trim else PREDICTION_COLUMNS
    if checked.light:
        names = (names[0], *PAIR_COLUMNS, *names[2:])
    if head is not run.bundle.manifest.head:  # as in results
        names = tuple(f"{head.name}_p" if name == P else name for name in names)
    write_table(path, names, zip(*columns, strict=True))
