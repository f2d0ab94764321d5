"""The pictures of one labelled set of measured values; see drawing.py for their looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from abonyx.arrays import Float32Array, Float64Array
from abonyx.evaluate.drawing import BLUE, GREY, VERMILLION, Picture, add_legend, drawn, render, titled
from abonyx.evaluate.metrics import Measured

_MOST_BINS = 40
# More points than this are an image inside the SVG: as text, each takes a few hundred bytes.
_MOST_MARKS = 2_000
# Units can begin with a Greek mu; the font has the micro sign, which looks the same.
_SAME_LOOKS = str.maketrans({"\u03bc": "\u00b5"})


@dataclass(frozen=True)
class ValueSubject:
    """What is drawn.

    Attributes:
        name: of the input.
        head: name of the head. unit: of its values.
        y, predicted: measured and predicted values of the labelled rows, (n,) each.
    """

    name: str
    head: str
    unit: str
    y: Float64Array
    predicted: Float32Array
    measured: Measured

    @property
    def off(self) -> Float64Array:
        """Measured minus predicted, (n,)."""
        return self.y - self.predicted

    def name_axis(self, name: Callable[..., object], what: str) -> None:
        """Name an axis by what it shows and the unit. A $ in the unit does not begin a formula."""
        name(f"{what} ({drawn(self.unit.translate(_SAME_LOOKS))})", parse_math=False)


def draw_values(subject: ValueSubject) -> Iterator[Picture]:
    """Yield each picture."""
    error = subject.measured.metrics["mae"].text(".4g")
    text = (
        f"Predicted against measured {subject.head} of {len(subject.y)} rows: Spearman "
        f"{subject.measured.metrics['spearman'].text()}, mean absolute error {error} {subject.unit}."
    )
    yield render("predicted_measured", text, lambda axes: _paint_scatter(axes, subject))
    text = f"Histogram of measured minus predicted {subject.head}: median {np.median(subject.off):.4g} {subject.unit}."
    yield render("residuals", text, lambda axes: _paint_residuals(axes, subject))


def _paint_scatter(axes: Axes, subject: ValueSubject) -> None:
    y, predicted = subject.y, subject.predicted.astype(np.float64)
    low, high = float(min(y.min(), predicted.min())), float(max(y.max(), predicted.max()))
    margin = 0.04 * (high - low) or 0.5  # a single value has no range
    ends = (low - margin, high + margin)
    axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, label="predicted = measured")
    axes.axhline(float(y.mean()), color=VERMILLION, linestyle=":", linewidth=1.5, label="mean of the measured values")
    axes.plot(
        y,
        predicted,
        "o",
        color=BLUE,
        markersize=5,
        alpha=0.6 if len(y) <= _MOST_MARKS else 0.2,
        markeredgewidth=0,
        label="a row",
        rasterized=len(y) > _MOST_MARKS,
    )
    # Both axes have the same scale, so that it is visible if predictions vary little.
    axes.set(xlim=ends, ylim=ends)
    subject.name_axis(axes.set_xlabel, "measured")
    subject.name_axis(axes.set_ylabel, "predicted")
    axes.set_aspect("equal", adjustable="box")
    axes.ticklabel_format(scilimits=(-3, 4))  # longer numbers below the axis would touch
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    add_legend(axes)
    titled(axes, f"{subject.head}, predicted and measured", subject.name, len(y))


def _paint_residuals(axes: Axes, subject: ValueSubject) -> None:
    bins = int(np.clip(2 * np.sqrt(len(subject.y)), 10, _MOST_BINS))
    axes.hist(subject.off, bins, histtype="stepfilled", facecolor=(BLUE, 0.15), edgecolor=BLUE, linewidth=2)
    axes.axvline(0, color="black", linestyle=":", linewidth=2, label="predicted = measured")
    subject.name_axis(axes.set_xlabel, "measured minus predicted")
    axes.set_ylabel("rows")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(axes)
    titled(axes, f"{subject.head}, errors", subject.name, len(subject.y))
