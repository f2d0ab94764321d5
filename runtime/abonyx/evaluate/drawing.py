"""How pictures look, by matplotlib: readable at 600 pixels, and without telling colours apart."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Of Okabe and Ito's palette, which every kind of colour vision tells apart; line styles and hatches say it again.
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#595959"
# Over matplotlib's own defaults, so that a user's matplotlibrc changes nothing. The salt fixes the SVG's ids.
_STYLE = {
    "font.size": 11,
    "axes.titlesize": 11,
    "legend.fontsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "abonyx",
}
_SIZE_INCHES, _DPI = (6.0, 4.8), 150
_NAME_LENGTH = 36
# The bundled font draws the letters before this one; others would be empty boxes and a warning each.
_FIRST_UNDRAWN = "\u0250"


class Picture(NamedTuple):
    """One picture: its file's name without a suffix, alternative text, and both files' bytes."""

    name: str
    text: str
    png: bytes
    svg: bytes


def render(name: str, text: str, paint: Callable[[Axes], None]) -> Picture:
    """What `paint` puts on empty axes, the same bytes each time."""
    with _style():
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        paint(figure.add_subplot())
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(name, text, png.getvalue(), svg.getvalue())


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def titled(axes: Axes, what: str, name: str, rows: int) -> None:
    """What is drawn; below it the input's name, as far as the font and the width go, and its rows."""
    short = name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 3]}..."
    axes.set_title(f"{what}\n{drawn(short)}, n = {rows:,}", parse_math=False)  # a $ in a file's name is no formula


def drawn(text: str) -> str:
    """Text with a question mark for each character that the font does not have."""
    return "".join(char if char.isprintable() and char < _FIRST_UNDRAWN else "?" for char in text)


def add_legend(axes: Axes) -> None:
    """Below the axes: there is no corner that no curve passes."""
    axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, columnspacing=1.2)
