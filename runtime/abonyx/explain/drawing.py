"""How the pictures of this package look, and their bytes. Imports matplotlib: needs the extra explain."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

# Of Okabe and Ito's palette, which every kind of colour vision tells apart.
BLUE, VERMILLION, GREY, SHADE = "#0072B2", "#D55E00", "#595959", "#EFEFEF"
# Over matplotlib's own defaults, so that a user's matplotlibrc changes nothing. The salt fixes the SVG's ids.
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "abonyx",
}
_DPI = 150
# The bundled font draws the letters before this one; others would be empty boxes and a warning each.
_FIRST_UNDRAWN = "\u0250"


class Picture(NamedTuple):
    """One picture in both formats."""

    png: bytes
    svg: bytes


@contextmanager
def style() -> Iterator[None]:
    """Within it, figures look as this package's do."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def encode(figure: Figure) -> Picture:
    """The bytes of a figure: the same for the same figure and version of matplotlib."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(png.getvalue(), svg.getvalue())


def drawable(text: str, most: int) -> str:
    """A user's text as the font and the width allow it: other characters as ?, and cut with ... at `most`."""
    drawn = "".join(char if char.isprintable() and char < _FIRST_UNDRAWN else "?" for char in text)
    return drawn if len(drawn) <= most else f"{drawn[: most - 3]}..."
