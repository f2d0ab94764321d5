"""The look of all pictures, also those of explain: readable at 600 pixels, and without telling colours apart."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# From the palette of Okabe and Ito, which every kind of colour vision tells apart. Line styles and hatches differ, too.
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#595959"
# These override matplotlib's own defaults, so that a user's matplotlibrc changes nothing. The salt fixes the SVG's ids.
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
# The bundled font has the letters before this one. Each other letter would be an empty box and a warning.
_FIRST_UNDRAWN = "\u0250"


class Picture(NamedTuple):
    """One picture: its file's name without a suffix, alternative text, and both files' bytes."""

    name: str
    text: str
    png: bytes
    svg: bytes


def render(name: str, text: str, paint: Callable[[Axes], None]) -> Picture:
    """A picture of what `paint` draws on empty axes: the same bytes each time."""
    with style():
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        paint(figure.add_subplot())
        return Picture(name, text, *encode(figure))


def encode(figure: Figure) -> tuple[bytes, bytes]:
    """A figure as PNG and SVG: the same bytes each time."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return png.getvalue(), svg.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Within this context, figures look the same whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def titled(axes: Axes, what: str, name: str, rows: int) -> None:
    """Set a title: what is drawn, then the input's name, as far as font and width allow, and its rows."""
    # parse_math: a $ in a file's name must not begin a formula
    axes.set_title(f"{what}\n{drawn(shortened(name, _NAME_LENGTH))}, n = {rows:,}", parse_math=False)


def shortened(text: str, most: int) -> str:
    """Text of at most so many characters, ... at its end if it was longer."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def drawn(text: str) -> str:
    """Text with a question mark for each character that the font does not have."""
    return "".join(char if char.isprintable() and char < _FIRST_UNDRAWN else "?" for char in text)


def add_legend(axes: Axes) -> None:
    """Add a legend below the axes: curves pass through every corner inside."""
    axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, columnspacing=1.2)
