"""The pictures of one labelled set of classes; see drawing.py for their looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from sklearn.metrics import precision_recall_curve, roc_curve

from abonyx.arrays import Float32Array, Int64Array
from abonyx.evaluate.drawing import BLUE, GREY, VERMILLION, Picture, add_legend, render, titled
from abonyx.evaluate.metrics import MeasuredClasses

CLASSES = ("specific (0)", "non-specific (1)")
_MOST_BINS = 40
# Up to this many rows, each row is a dot, in bins of 1 / _DOT_BINS.
_MOST_DOTS, _DOT_BINS = 200, 40


@dataclass(frozen=True)
class Subject:
    """What is drawn.

    Attributes:
        name: of the input.
        y, p: labels 0/1 and probabilities of the labelled rows.
    """

    name: str
    y: Int64Array
    p: Float32Array
    threshold: float
    measured: MeasuredClasses

    @property
    def ranked(self) -> bool:
        """Whether both classes occur: a curve needs both."""
        return self.measured.metrics["roc_auc"].value is not None


def draw(subject: Subject) -> Iterator[Picture]:
    """Yield each picture that the rows allow."""
    for name, (describe, paint, needs_both) in _PICTURES.items():
        if needs_both and not subject.ranked:
            continue
        yield render(name, describe(subject), partial(paint, subject=subject))


def _set_title(axes: Axes, what: str, subject: Subject) -> None:
    titled(axes, what, subject.name, len(subject.y))


def _paint_confusion(axes: Axes, subject: Subject) -> None:
    counts = np.array(subject.measured.confusion)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5), aspect="equal")
    for (row, column), count in np.ndenumerate(counts):
        # Errors have their own colour, hatch and word. A deeper colour is a larger share of the row.
        right = row == column
        colour, depth = BLUE if right else VERMILLION, 0.12 + 0.5 * float(shares[row, column])
        cell = Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, facecolor=(colour, depth), edgecolor=(colour, 0.6))
        cell.set(hatch=None if right else "//", linewidth=1)
        axes.add_patch(cell)
        share = f"{shares[row, column]:.1%} of the row" if totals[row, 0] else "no such label"
        text = f"{'right' if right else 'wrong'}\n{count:,}\n{share}"
        label = axes.text(column, row, text, ha="center", va="center", color="black", fontsize=13)
        label.set_bbox({"facecolor": (1, 1, 1, 0.7), "edgecolor": "none", "pad": 2})
    axes.set_xticks([0, 1], CLASSES)
    axes.set_yticks([0, 1], CLASSES, rotation=90, va="center")
    axes.set_xlabel("called")
    axes.set_ylabel("labelled")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _set_title(axes, f"Confusion matrix at p > {subject.threshold:g}", subject)


def _paint_roc(axes: Axes, subject: Subject) -> None:
    false, true, _ = roc_curve(subject.y, subject.p)
    (tn, fp), (fn, tp) = subject.measured.confusion
    axes.plot(false, true, color=BLUE, linewidth=2, label=f"AUC {subject.measured.metrics['roc_auc'].text()}")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    _mark(axes, fp / (fp + tn), tp / (tp + fn), subject.threshold)
    _unit_square(axes, "false positive rate (1 - specificity)", "true positive rate (recall)")
    _set_title(axes, "ROC curve", subject)


def _paint_precision_recall(axes: Axes, subject: Subject) -> None:
    precision, recall, _ = precision_recall_curve(subject.y, subject.p, drop_intermediate=True)
    (_, fp), (fn, tp) = subject.measured.confusion
    label = f"AUC {subject.measured.metrics['pr_auc'].text()}"
    # The area is a sum of steps: each step has the precision at its right end. The first step begins at recall 0:
    # scikit-learn's point of precision 1 at recall 0, and negatives above the first positive, are left out.
    start = int(np.flatnonzero(recall)[-1])
    precision, recall = np.append(precision[: start + 1], precision[start]), np.append(recall[: start + 1], 0)
    axes.plot(recall, precision, drawstyle="steps-post", color=BLUE, linewidth=2, label=label)
    share = float(subject.y.mean())
    axes.axhline(share, color=GREY, linestyle="--", linewidth=1, label=f"chance ({share:.3f})")
    if tp + fp:
        _mark(axes, tp / (tp + fn), tp / (tp + fp), subject.threshold)
    _unit_square(axes, "recall", "precision")
    _set_title(axes, "Precision-recall curve", subject)


def _mark(axes: Axes, x: float, y: float, threshold: float) -> None:
    label = f"p > {threshold:g}"
    axes.plot(
        [x],
        [y],
        "D",
        color=VERMILLION,
        markeredgecolor="black",
        markersize=8,
        linestyle="",
        label=label,
        clip_on=False,
        zorder=5,
    )


def _unit_square(axes: Axes, across: str, up: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=across, ylabel=up)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    add_legend(axes)


def _paint_scores(axes: Axes, subject: Subject) -> None:
    """Draw a dot for each row if there are few, otherwise a histogram of each class."""
    few = len(subject.y) <= _MOST_DOTS
    (_paint_dots if few else _paint_histograms)(axes, subject)
    axes.axvline(subject.threshold, color="black", linestyle=":", linewidth=2, label=f"threshold {subject.threshold:g}")
    axes.set(xlim=(-0.02, 1.02), xlabel="p_nonspecific")
    add_legend(axes)
    _set_title(axes, "Scores by label", subject)


def _paint_dots(axes: Axes, subject: Subject) -> None:
    """Stack the dots of each bin: non-specific rows upwards from the line, specific rows downwards."""
    highest = 0
    for value, (colour, marker) in enumerate(((BLUE, "o"), (VERMILLION, "^"))):
        scores = np.sort(subject.p[subject.y == value].astype(np.float64))
        bins = np.minimum((scores * _DOT_BINS).astype(np.int64), _DOT_BINS - 1)
        height = np.arange(len(bins)) - np.searchsorted(bins, bins) + 1
        highest = max(highest, int(height.max(initial=0)))
        label = f"{CLASSES[value]}, n = {len(scores):,}"
        up = 1 if value else -1
        places, heights = (bins + 0.5) / _DOT_BINS, up * (height - 0.4)
        axes.plot(
            places,
            heights,
            marker,
            color=colour,
            markersize=_dot_size(len(subject.y)),
            markeredgecolor="white",
            label=label,
        )
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(ylim=(-highest - 1, highest + 1), ylabel=f"rows per step of {1 / _DOT_BINS:g}")
    ticks = axes.get_yticks()
    axes.set_yticks(ticks, [f"{abs(tick):.0f}" if tick == round(tick) else "" for tick in ticks])
    axes.set_ylim(-highest - 1, highest + 1)


def _dot_size(rows: int) -> float:
    return 9.0 if rows <= _MOST_DOTS // 4 else 6.0


def _paint_histograms(axes: Axes, subject: Subject) -> None:
    bins = np.linspace(0, 1, int(np.clip(2 * np.sqrt(len(subject.y)), 10, _MOST_BINS)) + 1).tolist()
    looks = ((BLUE, "-", "///"), (VERMILLION, "--", "\\\\\\"))
    for value, (colour, line, hatch) in enumerate(looks):
        scores = subject.p[subject.y == value]
        if not len(scores):
            continue
        axes.hist(
            scores,
            bins,
            weights=np.full(len(scores), 1 / len(scores)),
            histtype="stepfilled",
            facecolor=(colour, 0.15),
            edgecolor=colour,
            linestyle=line,
            linewidth=2,
            hatch=hatch,
            label=f"{CLASSES[value]}, n = {len(scores):,}",
        )
    axes.set_ylabel("share of the class")


def _describe_confusion(subject: Subject) -> str:
    (tn, fp), (fn, tp) = subject.measured.confusion
    return f"Confusion matrix: {tn} true negatives, {fp} false positives, {fn} false negatives, {tp} true positives."


def _describe_roc(subject: Subject) -> str:
    return f"ROC curve, area {subject.measured.metrics['roc_auc'].text()}."


def _describe_precision_recall(subject: Subject) -> str:
    return f"Precision-recall curve, area {subject.measured.metrics['pr_auc'].text()}."


def _describe_scores(subject: Subject) -> str:
    medians = [
        f"{CLASSES[value]} has median {np.median(subject.p[subject.y == value]):.3f}"
        for value in (0, 1)
        if (subject.y == value).any()
    ]
    return f"Distribution of p_nonspecific by label: {', '.join(medians)}; the threshold is {subject.threshold:g}."


_PICTURES: dict[str, tuple[Callable[[Subject], str], Callable[..., None], bool]] = {
    "confusion_matrix": (_describe_confusion, _paint_confusion, False),
    "roc": (_describe_roc, _paint_roc, True),
    "precision_recall": (_describe_precision_recall, _paint_precision_recall, True),
    "score_distribution": (_describe_scores, _paint_scores, False),
}
