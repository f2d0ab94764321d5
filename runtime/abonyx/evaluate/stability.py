"""How stable a score is if a sequence is changed at its ends, or has one X: calls that flip, or how far values move."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from abonyx.alphabet import SequenceLimit
from abonyx.arrays import BoolArray, Float32Array
from abonyx.bundle.threshold import is_nonspecific
from abonyx.errors import InputError
from abonyx.evaluate.variations import VARIATIONS
from abonyx.input.checked import Input
from abonyx.run.windows import ArraySink, Job
from abonyx.wording import option


class Variation(msgspec.Struct, frozen=True):
    """What one change does.

    Attributes:
        flips: share of the rows whose call at the threshold changes.
        mean_dp: mean absolute difference of p.
    """

    flips: float
    mean_dp: float


class Stability(msgspec.Struct, frozen=True):
    """How often calls flip; labels do not matter.

    Attributes:
        rows: how many rows were changed: scored rows, with or without a label, flagged or not.
        left_out: how many scored rows have a variation that the bundle cannot score.
        variations: by the names of VARIATIONS.
    """

    rows: int
    left_out: int
    variations: dict[str, Variation]

    def line(self) -> str:
        """What the summary says."""
        shares = ", ".join(f"{name} {each.flips:.1%}" for name, each in self.variations.items())
        return f"share of the calls of {self.rows} rows that flip: {shares}"

    def table(self) -> tuple[str, list[list[str]]]:
        """What the report shows: a heading, and a header followed by a row for each variation."""
        rows = [[name, f"{100 * each.flips:.1f} %", f"{each.mean_dp:.4f}"] for name, each in self.variations.items()]
        return "How stable a call is", [["change", "calls that flip", "mean difference of p"], *rows]


class MovedValue(msgspec.Struct, frozen=True):
    """What one change does to a head's values.

    Attributes:
        mean_change: mean absolute difference, in the head's unit.
        training_sds: the same, divided by the standard deviation of the head's training values.
    """

    mean_change: float
    training_sds: float


class ValueStability(msgspec.Struct, frozen=True):
    """How far values move; measured values do not matter.

    Attributes:
        rows, left_out: as in Stability.
        unit: of the values.
        training_sd: standard deviation of the head's training values, in the unit.
        variations: by the names of VARIATIONS.
    """

    rows: int
    left_out: int
    unit: str
    training_sd: float
    variations: dict[str, MovedValue]

    def line(self) -> str:
        """What the summary says."""
        moved = ", ".join(f"{name} {each.training_sds:.2f}" for name, each in self.variations.items())
        sd = f"the training values' standard deviation ({self.training_sd:.4g} {self.unit})"
        return f"mean change of {self.rows} values, in units of {sd}: {moved}"

    def table(self) -> tuple[str, list[list[str]]]:
        """As Stability.table."""
        rows = [[name, f"{each.mean_change:.4g}", f"{each.training_sds:.2f}"] for name, each in self.variations.items()]
        header = ["change", f"mean change ({self.unit})", f"in training standard deviations ({self.training_sd:.4g})"]
        return "How stable a value is", [header, *rows]


@dataclass(frozen=True)
class Varied:
    """The variations of one input's rows; `scores` is filled while scoring.

    Attributes:
        kept: (n,) which of the input's rows are changed, k in all.
        inputs: one for each variation, with k rows.
        scores: (variations, k), probabilities or values.
    """

    kept: BoolArray
    inputs: tuple[Input, ...]
    scores: Float32Array

    @classmethod
    def of(cls, checked: Input, limit: SequenceLimit, name: str) -> Varied:
        """The variations of the rows for which the bundle can score every variation.

        Raises:
            InputError: there is no such row.
        """
        changed = [[vary(sequence) for vary in VARIATIONS.values()] for sequence in checked.sequences]
        kept = np.array([all(each and limit.problem(each) is None for each in row) for row in changed], bool)
        if not kept.any():
            what = f"{name}: none of {len(kept)} rows can be changed in every way that {option('stability')} measures"
            why = "the rows are too short, or the bundle does not accept X or longer sequences"
            fix = f"Leave out {option('stability')}: {why}."
            raise InputError(what, fix)
        rows = [row for row, keep in zip(changed, kept, strict=True) if keep]
        ids = [id_ for id_, keep in zip(checked.ids, kept, strict=True) if keep]
        inputs = tuple(Input(ids=ids, sequences=list(column)) for column in zip(*rows, strict=True))
        return cls(kept, inputs, np.empty((len(inputs), len(rows)), np.float32))

    def jobs(self) -> list[Job]:
        """One job for each variation."""
        each = zip(self.inputs, self.scores, strict=True)
        return [Job(changed, ArraySink(row[:, None]), altered=True) for changed, row in each]

    def measure(self, p: Float32Array, threshold: float) -> Stability:
        """Compare with probabilities (n,) of the unchanged rows."""
        flips = is_nonspecific(self.scores, threshold) != is_nonspecific(p[self.kept], threshold)
        found = zip(VARIATIONS, flips.mean(axis=1).tolist(), self._moved(p), strict=True)
        return Stability(*self._counts, {name: Variation(share, mean) for name, share, mean in found})

    def measure_values(self, values: Float32Array, training_sd: float, unit: str) -> ValueStability:
        """Compare with values (n,) of the unchanged rows."""
        found = zip(VARIATIONS, self._moved(values), strict=True)
        variations = {name: MovedValue(mean, mean / training_sd) for name, mean in found}
        return ValueStability(*self._counts, unit, training_sd, variations)

    @property
    def _counts(self) -> tuple[int, int]:
        """Rows that were changed, and rows left out."""
        return int(self.kept.sum()), int((~self.kept).sum())

    def _moved(self, scores: Float32Array) -> list[float]:
        """The mean absolute difference of each variation."""
        moved = np.abs(self.scores.astype(np.float64) - scores[self.kept].astype(np.float64))
        found: list[float] = moved.mean(axis=1).tolist()
        return found
