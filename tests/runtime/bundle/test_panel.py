"""Percentiles in a panel: ranks, intervals, and the stored quantiles."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from abonyx.bundle import open_bundle
from abonyx.bundle.chosen import ChosenHead
from abonyx.bundle.panel import (
    HeadPanel,
    Panel,
    PanelScores,
    are_sound,
    kept_panels,
    member_hash,
    member_lines,
    panel_file,
    percentile_band,
    quantiles_of,
    share_below,
)
from abonyx.bundle.threshold import own_rule

from ...conftest import MINI

FEW = np.array([1, 2, 2, 4], np.float32)


def test_ranks_counted_by_hand() -> None:
    values = np.array([0, 1, 1.5, 2, 3, 4, 5], np.float32)
    # Ranks 0, 1, 2, 3 of four scores; equal ones share the middle of their ranks.
    expected = np.array([0, 0, 0.5, 1.5, 2.5, 3, 3]) / 3
    assert share_below(FEW, values) == pytest.approx(expected)


def test_wilsons_interval_of_a_textbook() -> None:
    """Newcombe 1998, table I: 81 of 263 is 0.2553 to 0.3662, and 0 of 20 is 0.0000 to 0.1611."""
    low, high = percentile_band(np.array([81 / 263]), 263)
    assert (round(low[0], 4), round(high[0], 4)) == (0.2553, 0.3662)
    low, high = percentile_band(np.array([0.0]), 20)
    assert (round(low[0], 4), round(high[0], 4)) == (0.0, 0.1611)


def test_at_137_rows_a_percentile_is_uncertain_by_about_8_points() -> None:
    low, high = percentile_band(np.array([0.5]), 137)
    assert (high[0] - low[0]) / 2 == pytest.approx(0.083, abs=0.002)


def test_up_to_101_scores_are_stored_as_they_are() -> None:
    scores = np.random.default_rng(0).random(101).astype(np.float32)
    assert quantiles_of(scores) == sorted(scores.tolist())
    many = quantiles_of(np.random.default_rng(0).random(1000).astype(np.float32))
    assert len(many) == 101 and many == sorted(many)


def test_101_quantiles_give_the_rank_of_all_rows_to_a_hundredth() -> None:
    scores = np.random.default_rng(1).beta(2, 5, 2000).astype(np.float32)
    stored = np.array(quantiles_of(scores), np.float32)
    counted = np.array([(scores < value).mean() for value in scores])
    assert np.abs(share_below(stored, scores) - counted).max() < 0.01


def test_cells() -> None:
    scores = np.linspace(0, 1, 137).astype(np.float32)
    panel = HeadPanel("known", 137, "here", np.array(quantiles_of(scores), np.float32), frozenset([member_hash("ACD")]))
    found = panel.cells(np.array([0.48, 0, 1, 0.5], np.float32), [True, True, True, False], ["A", "ACD", "C", "D"])
    assert found == ["40-56", "0-3 (in panel)", "97-100", None]


@pytest.mark.parametrize(
    ("chains", "member", "expected"),
    [
        (["H"], "EVQ", ["EVQ|DIQ", "EVQ|SYV", "EVQ"]),
        (["L"], "DIQ", ["EVQ|DIQ", "QVQ|DIQ", "DIQ"]),
        (["H", "L"], "EVQ|DIQ", ["EVQ|DIQ"]),
    ],
)
def test_of_a_pair_a_panel_knows_what_the_head_scores(chains: list[str], member: str, expected: list[str]) -> None:
    """A head on one chain compares that chain of a pair, a head on both the pair."""
    head = msgspec.structs.replace(open_bundle(MINI).manifest.head, chains=chains)
    panel = HeadPanel("known", 137, "here", FEW, frozenset([member_hash(member)]))
    records = ["EVQ|DIQ", "EVQ|SYV", "QVQ|DIQ", "EVQ", "DIQ", "DIQ|EVQ"]
    chosen = ChosenHead(head, True, own_rule(head), panel)
    cells = chosen.cells(np.zeros(6, np.float32), [True] * 6, records)["percentile"]
    assert [
        record for record, cell in zip(records, cells, strict=True) if str(cell).endswith(" (in panel)")
    ] == expected


def test_the_hashes_are_short_sorted_and_distinct() -> None:
    lines = member_lines(["B", "A", "B"]).splitlines()
    assert lines == sorted({member_hash("A"), member_hash("B")}) and {len(line) for line in lines} == {16}


def panel(name: str = "known", rows: int = 20, **scores: object) -> Panel:
    usual: dict[str, object] = {"head": "h", "variant": "v", "pooling": "residues", "pooling_batch_size": None}
    stored = PanelScores(**(usual | {"quantiles": [0.0, 1.0]} | scores))  # type: ignore[arg-type]
    return Panel(name=name, rows=rows, source="s", rows_sha256="r", encoder_sha256="e", scores=[stored])


@pytest.mark.parametrize(
    ("panels", "sound"),
    [
        ([panel()], True),
        ([panel(), panel("other")], True),
        ([panel(), panel("Known")], False),
        ([panel("../x")], False),
        ([panel(rows=19)], False),
        ([panel(head="x")], False),
        ([panel(variant="x")], False),
        ([panel(pooling="upstream-batch")], False),
        ([panel(quantiles=[1.0, 0.0])], False),
        ([panel(quantiles=[0.0])], False),
        ([panel(quantiles=[0.0, float("nan")])], False),
    ],
)
def test_what_a_manifest_may_hold(panels: list[Panel], sound: bool) -> None:
    files = [panel_file(each.name) for each in panels]
    assert are_sound(panels, ["h"], ["v"], files) is sound
    assert not are_sound(panels, ["h"], ["v"], [])


def test_panels_of_other_heads_are_dropped() -> None:
    assert kept_panels([panel()], ["h"], ["v"]) == [panel()]
    assert kept_panels([panel()], ["h"], []) == kept_panels([panel()], [], ["v"]) == []
