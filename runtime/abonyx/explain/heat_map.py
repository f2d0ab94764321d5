"""The heat map of a scan, residues by IMGT positions, and below it what charge does not explain, on the same scale."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from abonyx.arrays import Float64Array
from abonyx.explain.places import CDRS
from abonyx.explain.scan_mutants import AMINO_ACIDS
from abonyx.explain.scan_result import HeadScan, Scan, statement_of

# Red, white and blue: every kind of colour vision tells them apart.
_COLOURS = "RdBu_r"
_NOT_SCANNED, _CDR_SHADE, _FRAMEWORK_SHADE = "#d0d0d0", "#595959", "#e6e6e6"
# These override matplotlib's own defaults, so that a user's matplotlibrc changes nothing. The salt fixes the SVG's ids.
_STYLE = {"font.size": 11, "svg.hashsalt": "abonyx", "axes.linewidth": 0.6}
_DPI = 150
# Inches: the size of a cell, the least width of all cells together, the margins left and right of the cells; the
# margins above and below the cells of a panel, and above all panels; a line and a character of the caption.
_CELL, _LEAST_WIDTH, _LEFT, _RIGHT = 0.21, 5.5, 0.8, 1.9
_PANEL_ABOVE, _PANEL_BELOW, _TOP = 0.75, 0.75, 0.45
_LINE, _CHARACTER = 0.19, 0.083
# In inches; a narrower region is labelled with its number only.
_LABELLED = 0.55
# The colours end at the first of these that no change exceeds: in logits or, for a linear head, in standard deviations
# of its training values. Most scans end at the first one, so that their pictures can be compared.
_ENDS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
_NAME_LENGTH = 60
# The bundled font has the letters before this one. Each other letter would be an empty box and a warning.
_FIRST_UNDRAWN = "\u0250"


class Picture(NamedTuple):
    """One picture in two formats, and its content in words for readers who cannot see it."""

    png: bytes
    svg: bytes
    text: str


class _Panel(NamedTuple):
    """What one heat map shows."""

    title: str
    values: Float64Array


def draw(scan: Scan, name: str, head: str | None = None) -> Picture:
    """The picture of one head's changes.

    Args:
        name: of the parent.
        head: its name; None = the first that was requested.
    """
    each = scan.head(head)
    unit = each.head.change_unit
    panels = [_Panel("Change of the score, mutant minus parent", scan.grid(each.change))]
    if each.fit is not None:
        panels.append(_Panel("What the change of charge does not explain", scan.grid(scan.without_charge(head))))
    end = _end(panels, each.head.sd or 1.0)
    columns, rows = len(scan.scanned), len(AMINO_ACIDS) * _CELL
    inside = max(_LEAST_WIDTH, _CELL * columns)
    width = _LEFT + inside + _RIGHT
    caption = textwrap.wrap(_drawable(" ".join(_lines(scan, each))), int((width - 0.4) / _CHARACTER))
    below = _LINE * (len(caption) + 1)
    panel_height = _PANEL_ABOVE + rows + _PANEL_BELOW
    height = _TOP + panel_height * len(panels) + below
    with _style():
        figure = Figure(figsize=(width, height))

        def place(left: float, top: float, wide: float, high: float) -> Axes:
            return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

        figure.text(_LEFT / width, 1 - 0.3 / height, _heading(each, name), fontsize=13, parse_math=False)
        for number, panel in enumerate(panels):
            _paint(place(_LEFT, _TOP + number * panel_height + _PANEL_ABOVE, inside, rows), scan, panel, end)
        scale = place(_LEFT + inside + 0.3, _TOP + _PANEL_ABOVE, 0.22, rows)
        bar = figure.colorbar(ScalarMappable(Normalize(-end, end), _COLOURS), cax=scale)
        bar.set_label(f"change of {each.head.name} ({unit})\nblue: lower, red: higher; both panels", parse_math=False)
        figure.text(0.2 / width, 0.12 / height, "\n".join(caption), fontsize=10, va="bottom", parse_math=False)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(png.getvalue(), svg.getvalue(), f"{_heading(each, name)}. {' '.join(_lines(scan, each))}")


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def _end(panels: list[_Panel], sd: float) -> float:
    """Where the colours end, the same on both sides and in both panels."""
    most = max(float(np.nanmax(np.abs(panel.values))) for panel in panels)
    return next((end * sd for end in _ENDS if most <= end * sd), _ENDS[-1] * sd)


def _paint(axes: Axes, scan: Scan, panel: _Panel, end: float) -> None:
    places = scan.scanned
    count = len(places)
    axes.set_facecolor(_NOT_SCANNED)
    own = [(column, AMINO_ACIDS.index(at.residue)) for column, at in enumerate(places) if at.residue in AMINO_ACIDS]
    values = panel.values.copy()
    values[[row for _, row in own], [column for column, _ in own]] = 0.0  # the parent's own residues change nothing
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=_COLOURS, vmin=-end, vmax=end, edgecolors="none")
    axes.set(xlim=(0, count), ylim=(len(AMINO_ACIDS), 0))
    across, down = [column + 0.5 for column, _ in own], [row + 0.5 for _, row in own]
    axes.plot(across, down, "o", color="black", markersize=4, linestyle="")
    axes.set_xticks(np.arange(count) + 0.5, [f"{place.imgt or place.index + 1} {place.residue}" for place in places])
    axes.tick_params(axis="x", rotation=90, labelsize=9, length=2)
    axes.set_yticks(np.arange(len(AMINO_ACIDS)) + 0.5, list(AMINO_ACIDS))
    axes.tick_params(axis="y", labelsize=10, length=2)
    axes.set_ylabel("new residue")
    _shade_regions(axes, [place.region for place in places])
    axes.set_title(panel.title, loc="left", pad=25)


def _shade_regions(axes: Axes, regions: list[str]) -> None:
    """Draw a strip above the cells with the name of each region, and a line where a region begins."""
    starts = [at for at, region in enumerate(regions) if at == 0 or region != regions[at - 1]]
    for start, stop in zip(starts, [*starts[1:], len(regions)], strict=True):
        region = regions[start]
        is_cdr = region in CDRS
        shade = _CDR_SHADE if is_cdr else _FRAMEWORK_SHADE
        strip = mpl.patches.Rectangle((start, -1.35), stop - start, 1.1, facecolor=shade, clip_on=False, linewidth=0)
        axes.add_patch(strip)
        wide = (stop - start) * max(_CELL, _LEAST_WIDTH / len(regions))
        label = region if wide >= _LABELLED else region[-1:]
        colour = "white" if is_cdr else "black"
        axes.text((start + stop) / 2, -0.8, label, ha="center", va="center", fontsize=10, color=colour)
        if start:
            axes.axvline(start, color="black", linewidth=0.8)


def _heading(each: HeadScan, name: str) -> str:
    drawn = _drawable(name)
    short = drawn if len(drawn) <= _NAME_LENGTH else f"{drawn[: _NAME_LENGTH - 3]}..."
    unit = f" {each.head.unit}" if each.head.unit else ""
    return f"Single mutants of {short}: {each.head.name}, parent {each.parent:.3g}{unit}"


def _drawable(text: str) -> str:
    """The text with a question mark for each character that the picture's font lacks."""
    return "".join(char if char.isprintable() and char < _FIRST_UNDRAWN else "?" for char in text)


def _lines(scan: Scan, each: HeadScan) -> list[str]:
    """What a reader of the picture must know."""
    dot = "Black dot: the parent's residue; the axis shows its IMGT position and its letter."
    return [f"{statement_of(scan.validated, each.head.name)} A scan recommends no mutant.", f"{each.sentence()}.", dot]
