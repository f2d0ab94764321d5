"""How stable a call is: the share of calls that flip if a sequence is changed at its ends, or has one X."""

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
        flips: share of the rows whose call at the threshold is another one.
        mean_dp: mean absolute difference of p.
    """

    flips: float
    mean_dp: float


class Stability(msgspec.Struct, frozen=True):
    """How often calls flip, whatever the labels are.

    Attributes:
        rows: that were changed: scored rows, with a label or without, flagged or not.
        left_out: scored rows of which the bundle cannot take every variation.
        variations: by the names of VARIATIONS.
    """

    rows: int
    left_out: int
    variations: dict[str, Variation]

    def line(self) -> str:
        """What the summary says."""
        shares = ", ".join(f"{name} {each.flips:.1%}" for name, each in self.variations.items())
        return f"calls of {self.rows} rows that flip: {shares}"


@dataclass(frozen=True)
class Varied:
    """The variations of one input's rows; `p` is filled while scoring.

    Attributes:
        kept: (n,) which of the input's rows are changed, k of them.
        inputs: one a variation, k rows each.
        p: (variations, k).
    """

    kept: BoolArray
    inputs: tuple[Input, ...]
    p: Float32Array

    @classmethod
    def of(cls, checked: Input, limit: SequenceLimit, name: str) -> Varied:
        """The variations of the rows of which the bundle can take every one.

        Raises:
            InputError: there is no such row.
        """
        changed = [[vary(sequence) for vary in VARIATIONS.values()] for sequence in checked.sequences]
        kept = np.array([all(each and limit.problem(each) is None for each in row) for row in changed], bool)
        if not kept.any():
            what = f"{name}: none of {len(kept)} rows can be changed in every way that {option('stability')} measures"
            fix = (
                f"Leave out {option('stability')}: the rows are too short, or the bundle takes no X or nothing longer."
            )
            raise InputError(what, fix)
        rows = [row for row, keep in zip(changed, kept, strict=True) if keep]
        ids = [id_ for id_, keep in zip(checked.ids, kept, strict=True) if keep]
        inputs = tuple(Input(ids=ids, sequences=list(column)) for column in zip(*rows, strict=True))
        return cls(kept, inputs, np.empty((len(inputs), len(rows)), np.float32))

    def jobs(self) -> list[Job]:
        """One a variation."""
        return [Job(each, ArraySink(p[:, None])) for each, p in zip(self.inputs, self.p, strict=True)]

    def measure(self, p: Float32Array, threshold: float) -> Stability:
        """Compare with p (n,) of the input's rows as they are."""
        whole = p[self.kept]
        flips = is_nonspecific(self.p, threshold) != is_nonspecific(whole, threshold)
        moved = np.abs(self.p.astype(np.float64) - whole.astype(np.float64))
        found = zip(VARIATIONS, flips.mean(axis=1).tolist(), moved.mean(axis=1).tolist(), strict=True)
        variations = {name: Variation(share, mean) for name, share, mean in found}
        return Stability(len(whole), len(self.kept) - len(whole), variations)
