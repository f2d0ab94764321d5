"""evaluate --head: the metrics belong to the named head."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
sk = pytest.importorskip("sklearn.metrics")

import abonyx  # noqa: E402

from ..several import make_several  # noqa: E402


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose head psr was trained with another pooling than the first head."""
    bundle = make_several(tmp_path_factory.mktemp("heads") / "several", ("nonspecificity", "hic", "psr"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["heads"][2] |= {"pooling": "upstream-batch", "pooling_batch_size": 8}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


@pytest.fixture
def labelled(tmp_path: Path, sequences: list[str]) -> Path:
    path = tmp_path / "labelled.csv"
    rows = "".join(f"ab{at},{sequence},{at % 2}\n" for at, sequence in enumerate(sequences))
    path.write_text("id,sequence,label\n" + rows)
    return path


def test_the_head_that_is_named(run: Any, several: Path, labelled: Path, tmp_path: Path, sequences: list[str]) -> None:
    with abonyx.open_session(several) as session:
        p = session.score(sequences, heads="all")
    threshold = float(np.sort(p["psr"])[4])
    usual = ("evaluate", labelled, "--bundle", several, "--bootstrap", "20")
    code, _, err = run(*usual, "-o", tmp_path / "psr", "--head", "psr", "--threshold", threshold)
    assert code == 0 and "; head psr" in err
    assert run(*usual, "-o", tmp_path / "first")[0] == 0
    y = [at % 2 for at in range(len(sequences))]
    for folder, head, column in (("psr", "psr", "psr_p"), ("first", "nonspecificity", "p_nonspecific")):
        record = json.loads((tmp_path / folder / "metrics.json").read_text())
        assert record["head"] == head and record["threshold"] == (threshold if folder == "psr" else 0.5)
        pooled = any("the head was trained with pooling upstream-batch (batch 8)" in note for note in record["notes"])
        assert pooled == (folder == "psr"), "the note is of the head that is evaluated"
        assert record["metrics"]["roc_auc"]["value"] == pytest.approx(sk.roc_auc_score(y, p[head]))
        with (tmp_path / folder / "predictions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["id", "sequence", "y_true", "y_pred", column, "flag"]
        assert [float(row[column]) for row in rows] == pytest.approx(p[head].tolist(), abs=1e-6)
        assert f"<td>{head}" in (tmp_path / folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("binding", "--head: several has no head 'binding'"),
        ("all", "--head: several has no head 'all'"),
    ],
)
def test_heads_that_cannot_be_evaluated(
    head: str, said: str, run: Any, several: Path, labelled: Path, tmp_path: Path
) -> None:
    code, _, err = run("evaluate", labelled, "--bundle", several, "-o", tmp_path / "out", "--head", head)
    assert code == 2 and said in err and not (tmp_path / "out").exists()
