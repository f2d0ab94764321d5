"""The output of --table."""

from __future__ import annotations

import numpy as np
import pytest

from abonyx.bundle import open_bundle
from abonyx.bundle.band import CallBand
from abonyx.bundle.chosen import ChosenHead, ChosenHeads, choose_heads
from abonyx.bundle.threshold import CallRule
from abonyx.cli.table import TABLE_ROWS, FirstRows

from ...conftest import MINI


def test_the_first_rows_of_all_windows_and_how_many_follow(capsys: pytest.CaptureFixture[str]) -> None:
    table = FirstRows(TABLE_ROWS + 5, choose_heads(open_bundle(MINI), None, threshold=0.25))
    for start, stop in ((0, TABLE_ROWS - 1), (TABLE_ROWS - 1, TABLE_ROWS + 5)):
        n = stop - start
        ids = [f"row{at}" for at in range(start, stop)]
        cells = {"p_nonspecific": np.full(n, 0.125, np.float32), "nonspecific": [None] * n, "call": [None] * n}
        table.add(ids, cells, ["fragment"] * n)
    table.print()
    out, err = capsys.readouterr()
    assert out == ""
    assert "> 0.25" in err
    assert [f"row{at} " in err for at in (0, TABLE_ROWS - 1, TABLE_ROWS)] == [True, True, False]
    assert "... and 5 more" in err


def test_calls_by_a_band(capsys: pytest.CaptureFixture[str]) -> None:
    rule = CallRule(0.5, CallBand(confidence=0.8, low=0.4, high=0.6))
    table = FirstRows(1, ChosenHeads((ChosenHead(open_bundle(MINI).manifest.head, first=True, rule=rule),)))
    cells = {"p_nonspecific": np.full(1, 0.5, np.float32), "nonspecific": [0], "call": ["uncertain"]}
    table.add(["a"], cells, [""])
    table.print()
    err = capsys.readouterr().err
    assert "call" in err and "uncertain" in err and "> 0.5" not in err
