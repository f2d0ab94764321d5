"""Fixtures: a scan of a few positions by the shipped model, a bundle of several heads, a model with known answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx.batching import EXACT
from abonyx.bundle import open_bundle
from abonyx.bundle.heads import HEAD_SUMS
from abonyx.explain.scan_result import Scan
from abonyx.scoring import TokenBudget

from ...conftest import MINI
from ..domain.proteins import VH

# Positions of VH: two in CDRs, a conserved one, and one where a mutation makes a motif.
FEW = "27,57,104,116"
_MADE: list[Scan] = []


@pytest.fixture
def few(isolated: None) -> Scan:
    """A scan of the FEW positions of VH by abonyx-mini. Tests must not change it."""
    if not _MADE:
        with abonyx.open_session() as session:
            _MADE.append(abonyx.scan(session, VH, positions=FEW))
    return _MADE[0]


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle on the shipped encoder with heads of heavy chains, of values, of light chains and of pairs."""
    pytest.importorskip("onnx", reason="the export extra is not installed")
    from ..paired import make_paired

    chains = {"nonspecificity": ("H",), "hic": ("H",), "light": ("L",), "psr": ("H", "L")}
    return make_paired(tmp_path_factory.mktemp("scan") / "heads", chains)


class KnownModel:
    """The shipped bundle with another model: `logit` of a sequence is the head's sum without the intercept.

    Attributes:
        scored: number of scored rows.
    """

    streams = 1
    static_shape = None
    grid = EXACT

    def __init__(self, logit: Callable[[str], float]) -> None:
        self.bundle = open_bundle(MINI)
        self.manifest = self.bundle.manifest
        self.budget = TokenBudget(4_000, "cpu", print)
        self.scored = 0
        self._logit = logit
        self._letters = {token: letter for letter, token in self.manifest.alphabet.residues.items()}

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        yield

    def run_batch(self, rows: Sequence[Any], _eos_pooled: Any, outputs: Sequence[str]) -> list[Any]:
        assert list(outputs) == [HEAD_SUMS]
        self.scored += len(rows)
        sequences = ["".join(self._letters[token] for token in row[1:-1].tolist()) for row in rows]
        sums = np.array([[self._logit(sequence)] for sequence in sequences]) - self.manifest.head.intercept
        return [sums.astype(np.float32)]
