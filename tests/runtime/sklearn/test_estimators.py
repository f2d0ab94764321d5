"""Embedder and Scorer as a user uses them: numbers, sessions, pickles, pipelines, wrong inputs."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn", reason="the evaluate extra is not installed")

from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

import abonyx
from abonyx.engine import slot
from abonyx.errors import BundleError, ConfigError, InputError, SessionInUse
from abonyx.extras import install_command
from abonyx.model import OpenModel
from abonyx.sklearn import Embedder, Scorer, pinned

from ..domain.proteins import VH
from ..paired import make_paired
from ..serve.serving import made_up
from ..several import make_several

TEXTS = made_up(12, seed=3)
LABELS = [0, 1] * 6


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One item for each model that an estimator opens."""
    found: list[str] = []

    def counted(config: Any) -> OpenModel:
        found.append(str(config.bundle))
        return abonyx.model.open_model(config)  # type: ignore[attr-defined,no-any-return]

    monkeypatch.setattr(pinned, "open_model", counted)
    return found


def test_numbers_are_the_sessions() -> None:
    with abonyx.open_session() as session:
        embedding, p = session.embed(TEXTS), session.score(TEXTS)
    found = Embedder().fit(TEXTS).transform(TEXTS)
    assert (found.dtype, found.shape) == (np.float32, (12, 640))
    np.testing.assert_array_equal(found, embedding)
    scorer = Scorer().fit(TEXTS, LABELS)
    np.testing.assert_array_equal(scorer.transform(TEXTS), p[:, None])
    proba = scorer.predict_proba(TEXTS)
    assert proba.shape == (12, 2) and proba.sum(axis=1) == pytest.approx(1)
    np.testing.assert_array_equal(proba[:, 1].astype(np.float32), p)
    assert scorer.classes_.tolist() == [0, 1]


def test_a_session_is_opened_for_a_call_and_closed_after_it(opens: list[str]) -> None:
    embedder = Embedder().fit(TEXTS)
    assert slot.holder() is None and not opens  # fit opens nothing
    for _ in range(2):
        embedder.transform(TEXTS[:2])
        assert slot.holder() is None
    assert len(opens) == 2
    with pytest.raises(ValueError, match=r"X\[1\]: character '\*'"):
        embedder.transform(["EVQL", "EV*QL"])
    assert slot.holder() is None


def test_the_open_session_is_used_and_left_open(opens: list[str]) -> None:
    embedder = Embedder().fit(TEXTS)
    with abonyx.open_session() as session:
        scores = cross_val_score(make_pipeline(embedder, LogisticRegression()), TEXTS, LABELS, cv=2)
        assert len(scores) == 2 and not opens
        assert session.score([VH]).shape == (1,)
    embedder.transform(TEXTS[:1])
    assert len(opens) == 1


def test_an_open_session_of_something_else_is_refused() -> None:
    embedder = Embedder().fit(TEXTS)
    other = abonyx.RuntimeConfig(pooling="upstream-batch", batch_size=8)
    with abonyx.open_session(other), pytest.raises(SessionInUse, match="pooling 'upstream-batch', not 'residues'"):
        embedder.transform(TEXTS)
    with abonyx.open_session(other):
        assert Embedder(config=other).fit(TEXTS).transform(TEXTS[:1]).shape == (1, 640)
    threads = abonyx.RuntimeConfig(token_budget=600)  # decides no number
    with abonyx.open_session(threads):
        assert embedder.transform(TEXTS[:1]).shape == (1, 640)


def test_threads_take_turns() -> None:
    embedder = Embedder().fit(TEXTS)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(embedder.transform(TEXTS[:3]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(np.array_equal(found[0], each) for each in found)
    assert slot.holder() is None


def test_a_pickle_holds_the_name_and_hash_and_opening_it_loads_nothing(tmp_path: Path) -> None:
    embedder = Embedder().fit(TEXTS)
    embedder.transform(TEXTS[:1])
    with abonyx.open_session():
        embedder.transform(TEXTS[:1])
        data = pickle.dumps(embedder)
    assert len(data) < 1_000 and set(vars(embedder)) == {
        *("bundle", "config", "bundle_name_", "bundle_sha256_", "variant_", "embedding_width_")
    }
    (tmp_path / "it.pickle").write_bytes(data)
    code = (
        "import pickle, sys; e = pickle.load(open('it.pickle', 'rb')); from abonyx.engine import slot; "
        "print(e.bundle_name_, len(e.bundle_sha256_), slot.holder(), 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["abonyx-mini", "64", "None", "False"]
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.transform(TEXTS), embedder.transform(TEXTS))


def test_another_bundle_than_at_fit_is_refused(opens: list[str]) -> None:
    for estimator in (Embedder().fit(TEXTS), Scorer().fit(TEXTS)):
        estimator.bundle_sha256_ = "0" * 64
        with pytest.raises(
            BundleError, match=r"fitted with abonyx-mini \(0{12}\), variant .*, but .* is abonyx-mini \("
        ):
            estimator.transform(TEXTS)
        with abonyx.open_session(), pytest.raises(SessionInUse, match="bundle"):
            estimator.transform(TEXTS)
        estimator.fit(TEXTS).variant_ = "fp32"
        with pytest.raises(BundleError, match=r"variant fp32, but .*, variant fp16-weights"):
            estimator.transform(TEXTS)
    assert not opens


def test_cross_validation_of_a_pipeline() -> None:
    model = make_pipeline(Embedder(), LogisticRegression())
    scores = cross_val_score(model, np.array(TEXTS, object), LABELS, cv=2, scoring="roc_auc")
    assert scores.shape == (2,) and np.isfinite(scores).all()
    assert slot.holder() is None


PROCESSES = """
import sys, json
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from abonyx.sklearn import Embedder

texts, labels = json.load(sys.stdin)
model = make_pipeline(Embedder(), LogisticRegression())
print(*cross_val_score(model, np.array(texts, object), labels, cv=2, n_jobs=2, scoring="roc_auc"))
"""


def test_cross_validation_in_two_processes() -> None:
    """This runs in a separate process, because joblib keeps its workers until the process ends."""
    asked = json.dumps([list(TEXTS), [int(label) for label in LABELS]])
    command = [sys.executable, "-c", PROCESSES]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scores = [float(score) for score in done.stdout.split()]
    assert len(scores) == 2 and np.isfinite(scores).all()


def test_a_heads_own_scores_can_be_cross_validated() -> None:
    with abonyx.open_session() as session:
        p = session.score(TEXTS)
        found = cross_val_score(Scorer(), TEXTS, LABELS, cv=2, scoring="neg_brier_score", error_score="raise")
    brier = (p - np.array(LABELS)) ** 2
    assert -found.mean() == pytest.approx(brier.mean(), abs=1e-5)


def test_columns_of_a_table() -> None:
    frame = pd.DataFrame({"VH": TEXTS, "dose": range(12)}, index=[f"r{row}" for row in range(12)])
    plain = Embedder().fit_transform(TEXTS)
    np.testing.assert_array_equal(Embedder().fit_transform(frame["VH"]), plain)
    np.testing.assert_array_equal(Embedder().fit_transform(frame[["VH"]]), plain)
    columns = ColumnTransformer([("vh", Embedder(), ["VH"]), ("rest", "passthrough", ["dose"])])
    np.testing.assert_allclose(columns.fit_transform(frame)[:, :-1], plain)
    table = Embedder().set_output(transform="pandas").fit_transform(frame[["VH"]])
    assert list(table.columns[:2]) == ["embedder0", "embedder1"] and list(table.index[:2]) == ["r0", "r1"]
    scores = Scorer().set_output(transform="pandas").fit_transform(frame[["VH"]])
    assert list(scores.columns) == ["nonspecificity"]


def test_parameters() -> None:
    config = abonyx.RuntimeConfig(variant="fp16-weights")
    embedder = clone(Embedder("folder", config=config))
    assert embedder.get_params() == {"bundle": "folder", "config": config}
    assert embedder.set_params(bundle=None).fit(TEXTS).variant_ == "fp16-weights"
    scorer = clone(Scorer(heads=["nonspecificity"], threshold=0.3, domain="off"))
    assert scorer.fit(TEXTS).heads_ == ("nonspecificity",)
    np.testing.assert_array_equal(scorer.predict(TEXTS), scorer.predict_proba(TEXTS)[:, 1] > np.float32(0.3))


def test_a_flagged_sequence_has_numbers_and_no_call() -> None:
    scorer = Scorer().fit([VH])
    assert scorer.predict([VH]).dtype == np.int64
    assert scorer.predict_proba([VH, VH[:60]]).shape == (2, 2)
    with pytest.raises(InputError, match=r"that have a flag and get no call: 1 of 2: X\[1\]: fragment"):
        scorer.predict([VH, VH[:60]])
    assert scorer.set_params(domain="off").predict([VH, VH[:60]]).shape == (2,)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_several(tmp_path_factory.mktemp("several") / "bundle", ("hic", "nonspecificity", "psr"))


def test_heads_that_give_values_are_columns_and_no_classes(several: Path) -> None:
    with abonyx.open_session(several) as session:
        expected = session.score(TEXTS, heads="all")
    scorer = Scorer(several, heads="all").fit(TEXTS)
    assert scorer.get_feature_names_out().tolist() == ["hic", "nonspecificity", "psr"]
    np.testing.assert_array_equal(scorer.transform(TEXTS), np.stack(list(expected.values()), axis=1))
    for method in (scorer.predict, scorer.predict_proba, Scorer(several, heads=["psr"]).fit(TEXTS).predict_proba):
        with pytest.raises(ConfigError, match="need probabilities"):
            method(TEXTS)


def test_pairs(tmp_path: Path) -> None:
    bundle = make_paired(tmp_path / "bundle")
    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    with abonyx.open_session(bundle) as session:
        expected = session.score(pairs)
    scorer = Scorer(bundle, domain="off").fit(pairs)
    table = pd.DataFrame(pairs, columns=["VH", "VL"])
    for given in (pairs, table, table.to_numpy()):
        np.testing.assert_array_equal(scorer.transform(given)[:, 0], expected)
    with pytest.raises(InputError, match="one sequence"):
        scorer.transform(TEXTS)
    assert scorer.set_params(domain="check").predict_proba(pairs).shape == (12, 2)
    with pytest.raises(InputError, match="have a flag and get no call"):
        scorer.predict(pairs)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (VH, "X is one str"),
        ([], "0 sample"),
        ([VH, None], r"X\[1\] is None"),
        ([VH, float("nan")], "missing value"),
        ([1, 2], "not text"),
        (np.zeros((3, 2)), "2 dimensions"),
        (pd.DataFrame({"a": [VH], "b": [VH]}), "DataFrame"),
    ],
)
def test_what_is_not_a_list_of_sequences(given: Any, part: str) -> None:
    for estimator in (Embedder(), Scorer()):
        with pytest.raises(InputError, match=part) as caught:
            estimator.fit(given)
        assert isinstance(caught.value, ValueError)


def test_what_is_refused_at_fit() -> None:
    for wrong, kind, part in (
        (Embedder("no-such-folder"), BundleError, "no-such-folder"),
        (Embedder("folder", config=abonyx.RuntimeConfig(bundle="other")), ConfigError, "bundle is 'folder'"),
        (Embedder(config="folder"), ConfigError, "config is 'folder'"),  # type: ignore[arg-type]
        (Embedder(config=abonyx.RuntimeConfig(variant="fp8")), (BundleError, ConfigError), "fp8"),
        (Scorer(heads="psr"), ConfigError, "psr"),
        (Scorer(assay="none"), ConfigError, "assay none"),
        (Scorer(domain="require"), ConfigError, "domain is 'require'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(kind, match=part):
            wrong.fit(TEXTS)
    for labels, part in (([0, 1], "2 labels"), ([1, 2] * 6, "y has 2"), (["a", "b"] * 6, "y has 'a', 'b'")):
        with pytest.raises(ValueError, match=part):
            Scorer().fit(TEXTS, labels)
    with pytest.raises(NotFittedError):
        Embedder().transform(TEXTS)
    with pytest.raises(NotFittedError):
        Scorer().predict(TEXTS)


def test_without_scikit_learn_the_extra_is_named() -> None:
    code = "import sys; sys.modules['sklearn'] = None\ntry:\n import abonyx.sklearn\nexcept Exception as e:\n print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert install_command("evaluate") in done.stdout
