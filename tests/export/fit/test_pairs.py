"""`abonyx fit --chains H,L`: a head on the embeddings of both chains, alone and beside other heads."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the fit extra is not installed")
pytest.importorskip("onnx", reason="the fit extra is not installed")

from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression, RidgeCV

import abonyx
from abonyx.bundle import open_bundle
from abonyx.bundle.tolerances import FP32_GOAL_P
from abonyx.bundle.training_rows import training_rows
from abonyx.card.record import CardFile
from abonyx.errors import ConfigError, InputError, RecordsRejected
from abonyx.logs import to_stderr
from abonyx_export import cli

from ...conftest import EXAMPLES, MINI

LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDISNYLAWYQQKPGKAPKLLIYYTSKIHSGVPSRFSGSGSGTDYTFTISSLQPEDIATYYCQQGNTFPYTFGQGTKVEIK"
BOTH = ("--chains", "H,L", "--domain", "off")
REGRESSION = ("--task", "regression", "--unit", "min", "--direction", "higher-is-worse", "--head-name", "hic")
Pair = tuple[str, str]


def mutated(parent: str, rng: Any) -> str:
    letters = list(parent)
    for position in rng.choice(np.arange(25, 95), size=8, replace=False):
        letters[position] = "WRDE"[rng.integers(4)]
    return "".join(letters)


def made_pairs(count: int = 40) -> tuple[list[Pair], list[float]]:
    """Pairs, and a value that rises with the number of W and R in both chains. Light chains repeat."""
    with EXAMPLES.open(newline="") as file:
        parents = [row["sequence"] for row in csv.DictReader(file)]
    rng = np.random.default_rng(4)
    light = [mutated(LIGHT, rng) for _ in range(count // 2)]
    pairs = [(mutated(parents[at % len(parents)], rng), light[at % len(light)]) for at in range(count)]
    return pairs, [0.4 * sum(letter in "WR" for letter in "".join(pair)) + rng.normal() for pair in pairs]


def write(path: Path, labels: list[Any], pairs: list[Pair] | None = None) -> Path:
    rows = [(f"m{at}", *pair, label) for at, (pair, label) in enumerate(zip(pairs or PAIRS, labels, strict=True))]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "heavy", "light", "label"), *rows])
    return path


PAIRS, VALUES = made_pairs()
CLASSES = [int(value > float(np.median(VALUES))) for value in VALUES]


def run(command: Any, *arguments: Any) -> str:
    """Run the command; returns its stderr, and raises its error."""
    with to_stderr(as_json=False):
        result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    return result.stderr


def fit(source: Path, output: Path, *more: Any, bundle: Path) -> str:
    cache = ("--embedding-cache", source.parent / "embeddings")
    return run(cli.fit, source, "--bundle", bundle, "-o", output, "--cv", 3, "--cv-seeds", 1, *cache, *more)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pairs") / "pairs.csv", CLASSES)


@pytest.fixture(scope="module")
def fitted(classes: Path, mini: Path) -> Path:
    said = fit(classes, classes.parent / "bundle", *BOTH, "--C", "0.1,1", bundle=mini)
    assert "the head expects chains H and L" in said
    return classes.parent / "bundle"


def embeddings() -> Any:
    with abonyx.open_session(MINI) as session:
        return np.hstack([session.embed([pair[at] for pair in PAIRS]) for at in (0, 1)]).astype(np.float64)


def test_a_head_is_a_regression_on_both_embeddings(fitted: Path) -> None:
    head = open_bundle(fitted).manifest.head
    assert head.chains == ["H", "L"] and head.training is not None and head.training.rows == len(PAIRS)
    rows = embeddings()
    expected = LogisticRegression(C=head.training.c, max_iter=5000).fit(rows, CLASSES).predict_proba(rows)[:, 1]
    with abonyx.open_session(fitted, self_test="full") as session:
        found = session.score(PAIRS)
        swapped = session.score([(light, heavy) for heavy, light in PAIRS])
    assert np.abs(found - expected).max() <= FP32_GOAL_P
    assert np.abs(found - swapped).max() > 0.01, "each chain has weights of its own"


def test_values_and_a_scaler(classes: Path, mini: Path) -> None:
    source, output = write(classes.parent / "values.csv", VALUES), classes.parent / "values"
    fit(source, output, *BOTH, *REGRESSION, "--scale", "--alpha", "100,1000", bundle=mini)
    rows = embeddings()
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    expected = RidgeCV(alphas=(100, 1000)).fit(scaled, VALUES).predict(scaled)
    with abonyx.open_session(output) as session:
        assert np.abs(session.score(PAIRS) - expected).max() / np.std(VALUES) <= FP32_GOAL_P * 2


def test_the_card_is_of_pairs(fitted: Path, tmp_path: Path) -> None:
    """Each pair is one record. Two pairs are linked if both chains are similar; baselines use both chains."""
    bundle = open_bundle(fitted)
    records = ["|".join(pair) for pair in PAIRS]
    known = training_rows(bundle, [*records, PAIRS[0][0], f"{PAIRS[0][0]}|{PAIRS[1][1]}"])
    assert known is not None and known.tolist() == [True] * len(PAIRS) + [False, False]
    card = (fitted / "card.md").read_text()
    assert "length and charge" in card and "residue composition" in card


def test_pairs_of_one_heavy_chain_are_different_records(mini: Path, tmp_path: Path) -> None:
    """The card is of both chains: heavy chains alone would be one sequence, of which nothing can be said."""
    pairs = [(PAIRS[0][0], light) for _, light in made_pairs(80)[0][:40]]
    fit(write(tmp_path / "one.csv", CLASSES, pairs), tmp_path / "one", *BOTH, "--C", "1", bundle=mini)
    card = msgspec.json.decode((tmp_path / "one" / "metrics.json").read_bytes(), type=CardFile).card
    assert "different sequences" not in card.sentence and "AUC" in card.sentence


def test_beside_a_head_of_one_chain(classes: Path, mini: Path, tmp_path: Path) -> None:
    fit(classes, tmp_path / "two", *BOTH, "--C", "1", "--add", "--head-name", "both", bundle=mini)
    manifest = open_bundle(tmp_path / "two").manifest
    assert [(head.name, head.chains) for head in manifest.heads] == [("nonspecificity", ["H"]), ("both", ["H", "L"])]
    heavy = [pair[0] for pair in PAIRS]
    with abonyx.open_session(MINI) as session:
        before = session.score(heavy)
    with abonyx.open_session(tmp_path / "two", self_test="full") as session:
        np.testing.assert_array_equal(session.score(heavy), before)
        found = session.score(PAIRS, heads="all")
        np.testing.assert_allclose(found["nonspecificity"], before, atol=FP32_GOAL_P)
        with pytest.raises(InputError, match="is one sequence"):
            session.score(heavy, heads="both")
    # a head of light chains beside both; the default would be the first head's chains
    light = tmp_path / "light.csv"
    rows = enumerate(zip(PAIRS, CLASSES, strict=True))
    light.write_text("id,VL,label\n" + "".join(f"{at},{pair[1]},{label}\n" for at, (pair, label) in rows))
    more = ("--add", "--head-name", "light", "--chains", "L", "--C", "1", "--domain", "off")
    fit(light, tmp_path / "three", *more, bundle=tmp_path / "two")
    with abonyx.open_session(tmp_path / "three", self_test="full") as session:
        again = session.score(PAIRS, heads="all")
        for name in ("nonspecificity", "both"):
            np.testing.assert_array_equal(again[name], found[name])


def test_a_chain_that_is_missing(classes: Path, mini: Path, tmp_path: Path) -> None:
    source = tmp_path / "pairs.csv"
    source.write_text(classes.read_text() + f"alone,{PAIRS[0][0]},,1\n")
    with pytest.raises(RecordsRejected, match="alone: no light chain: the heads need both chains"):
        fit(source, tmp_path / "out", *BOTH, bundle=mini)
    said = fit(source, tmp_path / "out", *BOTH, "--C", "1", "--on-invalid", "skip", bundle=mini)
    assert "1 bad records are left out" in said
    assert "alone" in (tmp_path / "out.rejected.csv").read_text()


def test_flags_of_either_chain(classes: Path, mini: Path, tmp_path: Path) -> None:
    swapped = [(light, heavy) for heavy, light in PAIRS[:3]] + PAIRS[3:]
    source = write(tmp_path / "swapped.csv", CLASSES, swapped)
    said = fit(source, tmp_path / "out", "--chains", "H,L", "--C", "1", "--drop-flagged", bundle=mini)
    assert "heavy: light chain (kappa)" in said and "light: heavy chain" in said
    training = open_bundle(tmp_path / "out").manifest.head.training
    assert training is not None and training.dropped >= 3 and training.rows == len(PAIRS) - training.dropped


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--vary-ends",), "vary_ends=True with chains H,L: the option is only for heads of one chain"),
        (("--head-out", "head.npz"), "head_out with chains H,L"),
        (("--sequence-column", "heavy"), "sequence_column heavy: the heads need both chains"),
        (("--pooling", "upstream-batch", "--batch-size", "8"), "not possible for pairs"),
    ],
)
def test_options_of_heads_of_one_chain(
    classes: Path, mini: Path, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(classes, tmp_path / "out", *BOTH, *more, bundle=mini)
    assert not (tmp_path / "out").exists()


def test_pairs_calibrate_a_head(fitted: Path, tmp_path: Path) -> None:
    with abonyx.open_session(fitted) as session:
        before = session.score(PAIRS).astype(np.float64)
    chance = 1 / (1 + np.exp(-3 * np.log(before / (1 - before))))
    labels = (np.random.default_rng(2).random(len(PAIRS)) < chance).astype(int).tolist()
    controls = write(tmp_path / "controls.csv", labels)
    more = ("--domain", "off", "--embedding-cache", tmp_path / "cache")
    run(cli.calibrate, fitted, controls, "-o", tmp_path / "new", *more)
    scaling = open_bundle(tmp_path / "new").manifest.head.calibration
    assert scaling is not None and scaling.controls == len(PAIRS)
    logit = scaling.slope * np.log(before / (1 - before)) + scaling.intercept
    with abonyx.open_session(tmp_path / "new", self_test="full") as session:
        np.testing.assert_allclose(session.score(PAIRS), 1 / (1 + np.exp(-logit)), atol=FP32_GOAL_P)
