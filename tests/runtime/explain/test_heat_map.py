"""The picture of a scan: two panels on one scale, the parent's residues, and the sentence."""

from __future__ import annotations

import dataclasses
import io
import re

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the explain extra is not installed")

import matplotlib as mpl
from matplotlib.figure import Figure

from abonyx.explain import heat_map
from abonyx.explain.heat_map import draw
from abonyx.explain.scan_result import NOT_VALIDATED, Scan


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """A list that gets the drawn figures."""
    made: list[Figure] = []

    def figure(**options: object) -> Figure:
        made.append(Figure(**options))
        return made[-1]

    monkeypatch.setattr(heat_map, "Figure", figure)
    return made


def test_both_panels_have_one_scale_with_no_change_in_its_middle(few: Scan, figures: list[Figure]) -> None:
    draw(few, "trastuzumab")
    (figure,) = figures
    changes, rest, bar = figure.axes
    for axes, values in ((changes, few.head().change), (rest, few.without_charge())):
        (mesh,) = axes.collections
        assert mesh.norm.vmin == -1 and mesh.norm.vmax == 1
        shown = np.ma.filled(mesh.get_array(), np.nan)
        expected = np.nan_to_num(few.grid(values), nan=0.0)  # the parent's residues change nothing
        assert np.allclose(shown, expected)
        (dots,) = axes.lines[:1]
        assert len(dots.get_xdata()) == 4
    assert "blue: lower, red: higher; both panels" in bar.get_ylabel()
    assert [tick.get_text() for tick in changes.get_xticklabels()] == ["27 G", "57 Y", "104 C", "116 D"]
    assert {"CDR1", "CDR2", "FR3", "CDR3"} >= {text.get_text() for text in changes.texts} != set()


def test_it_says_what_is_not_known(few: Scan, figures: list[Figure]) -> None:
    picture = draw(few, "trastuzumab")
    words = " ".join(text.get_text() for text in figures[0].texts).replace("\n", " ")
    for where in (words, picture.text):
        assert NOT_VALIDATED in where and "recommends no mutant" in where and "charge explains" in where
    assert "Single mutants of trastuzumab: nonspecificity, parent 0.4" in words


def test_two_formats_the_same_every_time(few: Scan) -> None:
    first, second = draw(few, "a"), draw(few, "a")
    assert first == second
    assert first.png.startswith(b"\x89PNG") and b"</svg>" in first.svg
    assert re.search(rb'<svg [^>]*width="[0-9.]+pt"', first.svg)
    image = mpl.image.imread(io.BytesIO(first.png))
    assert image.shape[1] > 1_000


def test_excluded_residues_are_grey_not_unchanged(few: Scan, figures: list[Figure]) -> None:
    kept = [at for at, mutant in enumerate(few.mutants) if mutant.residue != "W"]
    each = few.head()
    head = dataclasses.replace(each, change=each.change[kept], score=each.score[kept])
    changed = dataclasses.replace(
        few,
        mutants=tuple(few.mutants[at] for at in kept),
        heads=(head,),
        charge_change=few.charge_change[kept],
        pi_change=few.pi_change[kept],
    )
    draw(changed, "a")
    shown = figures[0].axes[0].collections[0].get_array()
    assert np.ma.getmaskarray(shown).sum() == 4


@pytest.mark.parametrize(("most", "sd", "end"), [(0.3, None, 1), (1.2, None, 1.5), (1.2, 4.0, 4), (900, None, 50)])
def test_the_scale_is_fixed_unless_changes_are_larger(
    few: Scan, figures: list[Figure], most: float, sd: float | None, end: float
) -> None:
    each = few.head()
    change = each.change * most / np.abs(each.change).max()
    head = dataclasses.replace(each, head=each.head._replace(sd=sd), change=change, fit=None)
    draw(dataclasses.replace(few, heads=(head,)), "a")
    panel, _bar = figures[0].axes  # charge cannot be taken out: one panel
    assert panel.collections[0].norm.vmax == end


def test_a_name_that_the_font_cannot_draw(few: Scan) -> None:
    picture = draw(few, "\u6297\u4f53 $x_1$ " + "n" * 200)
    assert "?? $x_1$ nnn" in picture.text and "..." in picture.text
