"""Heads on changed copies: the regression equals scikit-learn's, copies stay in their row's fold, and the rule."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
metrics = pytest.importorskip("sklearn.metrics")

import torch  # noqa: E402

import choose  # noqa: E402
import stable_head  # noqa: E402
from abonyx_export.fit.cross_validation import fit_once  # noqa: E402

from ..conftest import REPOSITORY  # noqa: E402

# Hash of corpus.txt without its last line end; records/corpus.json has the hash of the file.
CORPUS_SHA256 = "b326f01da2f31b459f3ba46295020d21359e7b0f831a14fbf46cf4714e88dcae"
RECORD = REPOSITORY / "training" / "records" / "choice.json"


def made(rows: int, columns: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns))
    return x, (x[:, 0] + 3 * rng.normal(size=rows) > 0).astype(np.int64)


@pytest.mark.parametrize("c", [0.001, 0.1])
def test_a_head_is_scikit_learns(c: float) -> None:
    x, y = made(300, 20)
    labels = torch.tensor(y, dtype=torch.float64)
    found = stable_head.fit_head(torch.tensor(x), labels, 1, c)
    theirs = fit_once(x, y, c, scale=True, balanced=False)
    # lbfgs stops at a gradient of 1e-4; Newton's method at 1e-8
    assert np.abs(found.decision(torch.tensor(x)).numpy() - theirs.decision(x)).max() < 1e-2
    assert stable_head.area(y, theirs.decision(x)) == pytest.approx(metrics.roc_auc_score(y, theirs.decision(x)))
    copies = stable_head.fit_head(torch.tensor(np.tile(x, (3, 1))), labels.repeat(3), 3, c)
    assert torch.allclose(copies.coef, found.coef, atol=1e-9)  # three copies of a row have its weight


def test_copies_stay_in_their_rows_fold() -> None:
    """Only a row and its copies have values in the row's columns. A copy in another fold would reveal the label."""
    rng = np.random.default_rng(1)
    x, y = torch.tensor(rng.normal(size=(60, 200))), torch.tensor(rng.permutation(60) % 2, dtype=torch.float64)
    folds = np.stack([rng.permutation(60) % 5 for _ in range(2)])
    found = stable_head.judge_setting(dict.fromkeys(stable_head.CHANGES, x), y, folds, copies=True, c=0.1)
    alone = stable_head.judge_setting(dict.fromkeys(stable_head.CHANGES, x), y, folds, copies=False, c=0.1)
    assert found["roc_auc"] == pytest.approx(alone["roc_auc"], abs=1e-3)
    assert 0.2 < found["roc_auc"] < 0.8
    assert not any(found["flips"].values())
    assert not any(found["mean_dp"].values())


def test_flips_are_counted_by_heads_that_have_not_seen_the_row() -> None:
    x, y = made(80, 5)
    features = dict.fromkeys(stable_head.CHANGES, torch.tensor(x)) | {"M in front": torch.tensor(-x)}
    folds = (np.arange(80) % 4)[None]
    found = stable_head.judge_setting(features, torch.tensor(y, dtype=torch.float64), folds, copies=False, c=0.1)
    flips = []
    for fold in range(4):
        head = fit_once(x[folds[0] != fold], y[folds[0] != fold], 0.1, scale=True, balanced=False)
        test = x[folds[0] == fold]
        flips += list((head.decision(test) > 0) != (head.decision(-test) > 0))
    assert found["flips"]["M in front"] == pytest.approx(np.mean(flips))
    assert found["flips"]["first residue cut"] == 0


def row(area: float, flips: float, c: float = 0.01) -> dict[str, Any]:
    return {"roc_auc": area, "flips": flips, "C": c}


@pytest.mark.parametrize(
    ("means", "chosen"),
    [
        ([row(0.72, 0.30), row(0.70, 0.07), row(0.696, 0.03), row(0.692, 0.01)], 2),  # the last one is not within 0.005
        ([row(0.72, 0.30), row(0.70, 0.20), row(0.69, 0.01)], 1),  # none meets both limits
        ([row(0.70, 0.05, 0.03), row(0.70, 0.05, 0.001)], 1),
        ([row(0.69, 0.05)], None),
    ],
)
def test_the_rule(means: list[dict[str, Any]], chosen: int | None) -> None:
    assert choose.choose(means) == (None if chosen is None else means[chosen])


def test_the_record_was_chosen_by_the_rule() -> None:
    record = json.loads(RECORD.read_text())
    means = choose.summarise(record["runs"])
    assert means == record["means"]
    assert choose.choose(means) == record["chosen"]
    assert {run["training"]["corpus_sha256"] for run in record["runs"].values()} == {CORPUS_SHA256}
