"""Batches are rounded up to few shapes, as on a GPU. Here they run on the CPU and equal the path without a grid."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx.batching import ShapeGrid
from abonyx.bundle import tolerances
from abonyx.engine import onnx, providers
from abonyx.session import open_session

GRID = ShapeGrid(tokens=4, rows=8)


@pytest.fixture
def gridded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The CPU with a GPU's grid; a list that gets the shapes of the engine's batches."""
    cpu = dataclasses.replace(providers.PROVIDERS["cpu"], grid=GRID)
    monkeypatch.setitem(providers.PROVIDERS, "cpu", cpu)
    shapes: list[tuple[int, int]] = []
    run = onnx.run

    def noted(native: Any, outputs: Any, feed: Any, *rest: Any) -> Any:
        shapes.append(feed["input_ids"].shape)
        return run(native, outputs, feed, *rest)

    monkeypatch.setattr(onnx, "run", noted)
    return shapes


def mixed(sequences: list[str]) -> list[str]:
    return [sequence[: 40 + 7 * index + extra] for index, sequence in enumerate(sequences) for extra in range(5)]


def test_a_card_has_a_grid_and_the_others_have_none() -> None:
    assert providers.PROVIDERS["cuda"].grid == GRID
    assert {provider.grid for name, provider in providers.PROVIDERS.items() if name != "cuda"} == {ShapeGrid()}


def test_equals_the_path_without(sequences: list[str], request: pytest.FixtureRequest) -> None:
    texts = mixed(sequences)
    config = abonyx.RuntimeConfig(token_budget=2_000)
    with open_session(config) as session:
        p, embedding, parts = session.score(texts), session.embed(texts), session.contributions(texts)
    shapes = request.getfixturevalue("gridded")
    with open_session(config) as session:
        shapes.clear()
        assert np.abs(session.score(texts) - p).max() <= tolerances.BATCH_NEIGHBOURS
        assert np.abs(session.embed(texts) - embedding).max() <= tolerances.BATCH_NEIGHBOURS
        assert all(length % 4 == 0 and (rows <= 8 or rows % 8 == 0) for rows, length in shapes)
        assert all(rows * length <= 2_000 for rows, length in shapes)
        for found, expected in zip(session.contributions(texts), parts, strict=True):
            residues = found.chains[0].residues
            assert residues.shape == expected.chains[0].residues.shape
            assert np.abs(residues - expected.chains[0].residues).max() <= tolerances.BATCH_NEIGHBOURS


def test_equals_the_path_without_where_the_old_pipeline_s_rule_pools(
    sequences: list[str], request: pytest.FixtureRequest
) -> None:
    config = abonyx.RuntimeConfig(pooling="upstream-batch", batch_size=4)
    with open_session(config) as session:
        p = session.score(mixed(sequences))
    request.getfixturevalue("gridded")
    with open_session(config) as session:
        assert np.abs(session.score(mixed(sequences)) - p).max() <= tolerances.BATCH_NEIGHBOURS
