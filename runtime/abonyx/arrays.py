"""Array types by dtype, and the text of a float32. The docstring of each function gives the shapes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def shortest_decimal(value: np.float32) -> str:
    """The shortest decimal that reads back as the same float32. Every output writes numbers this way."""
    return str(value)
