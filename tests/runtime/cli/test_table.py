"""What --table prints."""

from __future__ import annotations

import numpy as np
import pytest

from abonyx.bundle import open_bundle
from abonyx.bundle.chosen import choose_heads
from abonyx.cli.table import TABLE_ROWS, FirstRows

from ...conftest import MINI


def test_the_first_rows_of_all_windows_and_how_many_follow(capsys: pytest.CaptureFixture[str]) -> None:
    table = FirstRows(TABLE_ROWS + 5, choose_heads(open_bundle(MINI), None, threshold=0.25))
    for start, stop in ((0, TABLE_ROWS - 1), (TABLE_ROWS - 1, TABLE_ROWS + 5)):
        n = stop - start
        ids = [f"row{at}" for at in range(start, stop)]
        cells = {"p_nonspecific": np.full(n, 0.125, np.float32), "nonspecific": [None] * n}
        table.add(ids, cells, ["fragment"] * n)
    table.print()
    out, err = capsys.readouterr()
    assert out == ""
    assert "> 0.25" in err
    assert [f"row{at} " in err for at in (0, TABLE_ROWS - 1, TABLE_ROWS)] == [True, True, False]
    assert "... and 5 more" in err
