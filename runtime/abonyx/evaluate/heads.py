"""How an evaluation uses a head that gives a probability, and a head that gives a value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np

from abonyx.arrays import Float32Array, shortest_decimal
from abonyx.bundle.chosen import P
from abonyx.bundle.manifest import LOGISTIC, HeadSpec
from abonyx.bundle.threshold import CallRule, choose_calls, is_nonspecific
from abonyx.card.card import card_of_scores, card_of_values
from abonyx.card.labelled import LabelledSet
from abonyx.card.linear import Task
from abonyx.card.record import Card
from abonyx.errors import ConfigError
from abonyx.evaluate.drawing import Picture
from abonyx.evaluate.metrics import Measured, MeasuredClasses, measure
from abonyx.evaluate.pictures import Subject, draw
from abonyx.evaluate.record import ValueFacts
from abonyx.evaluate.request import EvaluationRequest, choose_head
from abonyx.evaluate.sets import LabelledRows
from abonyx.evaluate.stability import Stability, ValueStability, Varied
from abonyx.evaluate.value_metrics import measure_values
from abonyx.evaluate.value_pictures import ValueSubject, draw_values
from abonyx.run.request import RunRequest
from abonyx.wording import option

# If less than this share of the labels lies in the head's interval, they probably have another unit: in the right unit,
# even random labels lie in it several times as often.
_FEW_COVERED = 0.1


class EvaluatedHead(Protocol):
    """A head as an evaluation uses it.

    Attributes:
        first: whether it is the bundle's first.
        rule: the rule of its calls; None = it makes none.
        task: the kind of its labels.
        threshold: of its calls; None = it makes none.
        column: the column of its scores in predictions.csv, named as in results.
        used: what the last line of the summary names: the threshold, or the unit.
    """

    @property
    def spec(self) -> HeadSpec: ...
    @property
    def first(self) -> bool: ...
    @property
    def rule(self) -> CallRule | None: ...
    @property
    def task(self) -> Task: ...
    @property
    def threshold(self) -> float | None: ...
    @property
    def column(self) -> str: ...
    @property
    def used(self) -> str: ...

    def measure(self, rows: LabelledRows, resamples: int, seed: int) -> Measured:
        """The metrics of labelled rows."""

    def card(self, labelled: LabelledSet, rows: LabelledRows) -> Card:
        """The card of the same rows."""

    def stability(self, varied: Varied, scores: Float32Array) -> Stability | ValueStability:
        """How scores (n,) change if the sequences are changed."""

    def draw(self, name: str, rows: LabelledRows, measured: Measured) -> Iterator[Picture]:
        """The pictures of the input with that name."""

    def facts(self, rows: LabelledRows) -> ValueFacts | None:
        """Facts about the values; None for classes."""

    def columns(self, scores: Float32Array) -> dict[str, Iterable[object]]:
        """Name -> cells of n rows, between y_true and flag in predictions.csv."""


@dataclass(frozen=True)
class ClassHead:
    """A head that gives a probability, and its calls."""

    spec: HeadSpec
    first: bool
    rule: CallRule
    assay: str | None

    task: Task = "classes"

    @property
    def threshold(self) -> float:
        """The threshold of the calls."""
        return self.rule.threshold

    @property
    def column(self) -> str:
        """The name of the column in results."""
        return P if self.first else f"{self.spec.name}_p"

    @property
    def used(self) -> str:
        """The threshold, and whose it is."""
        return f"threshold {self.threshold:g}" + (f" ({self.assay})" if self.assay else "")

    def measure(self, rows: LabelledRows, resamples: int, seed: int) -> Measured:
        """See EvaluatedHead."""
        return measure(rows.y.astype(np.int64), rows.scores, self.threshold, resamples, seed)

    def card(self, labelled: LabelledSet, rows: LabelledRows) -> Card:
        """See EvaluatedHead."""
        called = is_nonspecific(rows.scores, self.threshold)
        return card_of_scores(labelled, rows.scores.astype(np.float64), called, self.rule.band)

    def stability(self, varied: Varied, scores: Float32Array) -> Stability:
        """See EvaluatedHead."""
        return varied.measure(scores, self.threshold)

    def draw(self, name: str, rows: LabelledRows, measured: Measured) -> Iterator[Picture]:
        """See EvaluatedHead."""
        assert isinstance(measured, MeasuredClasses)  # of self.measure
        return draw(Subject(name, rows.y.astype(np.int64), rows.scores, self.threshold, measured))

    def facts(self, rows: LabelledRows) -> None:
        """See EvaluatedHead."""

    def columns(self, scores: Float32Array) -> dict[str, Iterable[object]]:
        """See EvaluatedHead. y_pred is compared with y_true, so flagged rows have it, too, unlike in results."""
        called = is_nonspecific(scores, self.threshold).astype(np.int8).tolist()
        return {"y_pred": called, self.column: map(shortest_decimal, scores)}


@dataclass(frozen=True)
class ValueHead:
    """A head that gives a value in its unit."""

    spec: HeadSpec
    first: bool

    task: Task = "values"
    threshold: None = None
    rule: None = None

    @property
    def column(self) -> str:
        """The name of the column in results."""
        return f"{self.spec.name}_value"

    @property
    def used(self) -> str:
        """The unit."""
        return f"value in {self._unit}"

    @property
    def _unit(self) -> str:
        return str(self.spec.unit)

    def measure(self, rows: LabelledRows, resamples: int, seed: int) -> Measured:
        """See EvaluatedHead."""
        return measure_values(rows.y, rows.scores, resamples, seed)

    def card(self, labelled: LabelledSet, rows: LabelledRows) -> Card:
        """See EvaluatedHead."""
        training = self.spec.training
        interval = None if training is None else training.interval
        card = card_of_values(labelled, rows.scores.astype(np.float64), interval)
        notes = [f"the head gives a {self.facts(rows).words}"]
        found = card.interval
        if found is not None and found.covered is not None and found.covered < _FEW_COVERED:
            held = f"only {found.covered:.0%} of the labels lie in the head's {found.confidence:.0%} interval"
            notes.append(f"{held}: check that the labels are in {self._unit}")
        return msgspec.structs.replace(card, notes=[*card.notes, *notes])

    def stability(self, varied: Varied, scores: Float32Array) -> ValueStability:
        """See EvaluatedHead."""
        assert self.spec.training_sd is not None  # a checked manifest has it for every linear head
        return varied.measure_values(scores, self.spec.training_sd, self._unit)

    def draw(self, name: str, rows: LabelledRows, measured: Measured) -> Iterator[Picture]:
        """See EvaluatedHead."""
        return draw_values(ValueSubject(name, self.spec.name, self._unit, rows.y, rows.scores, measured))

    def facts(self, rows: LabelledRows) -> ValueFacts:
        """See EvaluatedHead."""
        return ValueFacts(
            unit=self._unit,
            higher_is_worse=self.spec.higher_is_worse,
            lowest=float(rows.y.min()),
            highest=float(rows.y.max()),
        )

    def columns(self, scores: Float32Array) -> dict[str, Iterable[object]]:
        """See EvaluatedHead."""
        return {self.column: map(shortest_decimal, scores)}


def evaluated_head(request: EvaluationRequest, run: RunRequest) -> EvaluatedHead:
    """The head that is evaluated.

    Raises:
        BundleError, ConfigError: see choose_head and choose_calls; or an assay or threshold for a head of values.
    """
    head = choose_head(request, run.bundle)
    first = head is run.bundle.manifest.head
    if head.kind == LOGISTIC:
        return ClassHead(head, first, choose_calls(run.bundle, request.assay, request.threshold, head), request.assay)
    given = next((name for name in ("assay", "threshold") if getattr(request, name) is not None), None)
    if given:
        what = f"{option(given)}: head {head.name} of {run.bundle.name} gives a value in {head.unit}, not a probability"
        raise ConfigError(what, f"Leave it out, or name a head that gives a probability with {option('head')}.")
    return ValueHead(head, first)
