"""`abonyx fit` on measured values and beside existing heads: regressions, classes of values, --add."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn", reason="the fit extra is not installed")
pytest.importorskip("onnx", reason="the fit extra is not installed")

from click.testing import CliRunner
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold

import abonyx
from abonyx.bundle import check_files, open_bundle
from abonyx.bundle.listed import card_sentence
from abonyx.bundle.manifest import LinearParity
from abonyx.bundle.tolerances import FP32
from abonyx.bundle.training_rows import training_rows, training_sequences
from abonyx.card.record import CardFile
from abonyx.cli import cli as abonyx_cli
from abonyx.errors import ConfigError, EngineError, InputError, RecordsRejected
from abonyx.logs import to_stderr
from abonyx.wording import Interface
from abonyx_export import cli
from abonyx_export.fit.ridge import cross_validate_ridge

from ...conftest import EXAMPLES

Rows = list[tuple[str, str, str]]
REGRESSION = ("--task", "regression", "--unit", "min", "--direction", "higher-is-worse", "--head-name", "hic")
ALPHAS = (0.1, 10.0, 1000.0)


def made_rows(count: int = 36) -> Rows:
    """Mutants of the examples; the value rises with the number of W and R, and has noise."""
    with EXAMPLES.open(newline="") as file:
        parents = [row["sequence"] for row in csv.DictReader(file)]
    rng = np.random.default_rng(3)
    rows = []
    for index in range(count):
        letters = list(parents[index % len(parents)])
        for position in rng.choice(np.arange(30, 100), size=6, replace=False):
            letters[position] = "WRDE"[rng.integers(4)]
        value = 8 + 0.3 * sum(letters.count(letter) for letter in "WR") + rng.normal()
        rows.append((f"m{index}", "".join(letters), f"{value:.3f}"))
    return rows


def write(rows: Rows, path: Path) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "sequence", "label"), *rows])
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(made_rows(), tmp_path_factory.mktemp("measured") / "rows.csv")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


def fit(source: Path, output: Path, *more: str, bundle: Path, cache: Path | None = None) -> str:
    """What the command wrote to stderr; raises its error."""
    arguments = [str(source), "--bundle", str(bundle), "-o", str(output), "--cv", "3", "--cv-seeds", "2", *more]
    if cache is not None:
        arguments += ["--embedding-cache", str(cache)]
    with to_stderr(as_json=False):
        result = CliRunner().invoke(cli.fit, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.stderr
    return result.stderr


def values_of(rows: Rows) -> npt.NDArray[np.float64]:
    return np.array([float(value) for *_, value in rows])


def embedded(bundle: Path, rows: Rows) -> npt.NDArray[np.float64]:
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(bundle))) as session:
        return session.embed([sequence for _, sequence, _ in rows]).astype(np.float64)


def scored(bundle: Path, rows: Rows) -> dict[str, npt.NDArray[np.float32]]:
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(bundle))) as session:
        return session.score([sequence for _, sequence, _ in rows], heads="all")


@pytest.fixture(scope="module")
def regression(measured: Path, cache: Path, bare: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A bundle with a regression beside mini's head, and what the command wrote."""
    output = tmp_path_factory.mktemp("fitted") / "bundle"
    return output, fit(measured, output, "--add", *REGRESSION, "--alpha", "0.1,10,1000", bundle=bare, cache=cache)


def test_a_regression_beside_the_parents_head(regression: tuple[Path, str]) -> None:
    output, said = regression
    rows, bundle = made_rows(), open_bundle(output)
    new = bundle.manifest.heads[1]
    assert (new.name, new.kind, new.unit, new.higher_is_worse, new.chains) == ("hic", "linear", "min", True, ["H"])
    values, embedding = values_of(rows), embedded(output, rows)
    assert new.training_sd == pytest.approx(values.std(ddof=1), rel=1e-12)
    model = RidgeCV(alphas=ALPHAS).fit(embedding, values)
    training = new.training
    assert training is not None and training.ridge is not None
    assert (training.rows, training.positives, training.c, training.folds, training.seeds) == (36, None, None, 3, 2)
    assert training.ridge.alpha == model.alpha_ and training.ridge.alphas == list(ALPHAS)
    assert sum(training.ridge.alphas_of_folds) == 3 * 2
    found = scored(output, rows)["hic"]
    assert np.abs(found - model.predict(embedding)).max() <= FP32.value * new.training_sd
    for variant in bundle.manifest.variants.values():
        assert variant.parity is not None and list(variant.parity.heads) == ["nonspecificity", "hic"]
        record = variant.parity.heads["hic"]
        assert isinstance(record, LinearParity)
        assert 0 < record.value.max <= variant.limits.value
    # test_card tests the card's folds, alphas and residuals. The stored interval equals the card's.
    card = json.loads((output / "metrics.hic.json").read_text())["card"]
    assert training.interval is not None and training.band is None
    assert (training.interval.low, training.interval.high) == (card["interval"]["low"], card["interval"]["high"])
    assert "times the" in (output / "card.hic.md").read_text()
    rows_of = abonyx.score_file(EXAMPLES, config=output, heads="hic", with_columns="interval").rows
    for row in rows_of:
        ends = [row.heads[name] for name in ("hic_low", "hic_high")]
        value = row.heads["hic_value"]
        assert isinstance(value, float)
        expected = [value + training.interval.low, value + training.interval.high]
        assert ends == pytest.approx(expected, rel=1e-5)
    assert "score it with --heads hic" in said and "if every prediction is the mean" in said


def test_each_head_has_a_card_and_rows_of_its_own(
    regression: tuple[Path, str], measured: Path, cache: Path, tmp_path: Path
) -> None:
    output, said = regression
    bundle, sequences = open_bundle(output), [sequence for _, sequence, _ in made_rows()]
    record = msgspec.json.decode((output / "metrics.hic.json").read_bytes(), type=CardFile).card
    assert (record.task, record.rows, record.fitted) == ("values", 36, True)
    assert set(record.predictors[0].clusters) >= {"spearman"}
    assert f"card: {record.sentence}" in said
    assert card_sentence(bundle, "hic") == record.sentence and card_sentence(bundle, "nonspecificity") is None
    known = training_rows(bundle, [*sequences, "EVQL"], "hic")
    assert known is not None and known.tolist() == [True] * 36 + [False]
    assert training_rows(bundle, sequences) is None, "the parent has no such file"
    assert bundle.manifest.heads[1].training.band is None  # type: ignore[union-attr]
    more = ("--add", "--positive-above", "12", "--head-name", "sticky", "--C", "1")
    fit(measured, tmp_path / "three", *more, bundle=output, cache=cache)
    three = open_bundle(tmp_path / "three")
    assert card_sentence(three, "hic") == record.sentence, "kept"
    assert card_sentence(three, "sticky") and three.manifest.heads[2].training.band  # type: ignore[union-attr]
    check_files(three, list(three.manifest.files))
    fit(measured, tmp_path / "one", "--positive-above", "12", "--C", "1", bundle=three.path, cache=cache)
    own = {"card.md", "card.html", "metrics.json", "training_rows.sha256"}
    assert {path.name for path in (tmp_path / "one").glob("*.*")} & own == own
    assert not [path.name for path in (tmp_path / "one").iterdir() if "hic" in path.name or "sticky" in path.name]


def test_training_sequences_are_stored_on_request_alone(
    regression: tuple[Path, str], measured: Path, cache: Path, mini: Path, tmp_path: Path
) -> None:
    sequences = {sequence for _, sequence, _ in made_rows()}
    plain, _ = regression
    assert not list(plain.glob("training_sequences*"))
    fit(measured, tmp_path / "first", *REGRESSION, "--alpha", "10", "--store-sequences", bundle=mini, cache=cache)
    first = open_bundle(tmp_path / "first")
    assert set(training_sequences(first, "hic") or ()) == sequences
    assert "training_sequences.txt" in first.manifest.files
    more = ("--positive-above", "12", "--head-name", "cut", "--C", "1")
    fit(measured, tmp_path / "add", "--add", *more, "--store-sequences", bundle=tmp_path / "first", cache=cache)
    added = open_bundle(tmp_path / "add")
    assert set(training_sequences(added, "cut") or ()) == set(training_sequences(added, "hic") or ()) == sequences
    fit(measured, tmp_path / "alone", *more, bundle=tmp_path / "add", cache=cache)
    assert not list((tmp_path / "alone").glob("training_sequences*")), "a new head alone does not inherit them"
    few = write(made_rows(6), tmp_path / "few.csv")
    rows = abonyx.score_file(few, config=tmp_path / "add", heads="all", with_columns=["nearest_identity"]).rows
    assert {tuple(row.added.values()) for row in rows if not row.flag} <= {(100.0, 100.0)}


def test_evaluate_on_the_training_rows_says_so(regression: tuple[Path, str], measured: Path, tmp_path: Path) -> None:
    """The card counts the training rows, and says how many of them are inside the stored interval."""
    pytest.importorskip("matplotlib", reason="the extra evaluate is not installed")
    bundle = open_bundle(regression[0])
    command = ["evaluate", str(measured), "--bundle", str(bundle.path), "--head", "hic", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(abonyx_cli, [*command, "--bootstrap", "200"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "out" / "metrics.json").read_text())["card"]
    assert card["shared"] == 36 and card["sentence"].startswith("Trained on 36 of these 36 rows")
    band = bundle.manifest.heads[1].training.interval  # type: ignore[union-attr]
    assert band is not None
    off = values_of(made_rows()) - scored(bundle.path, made_rows())["hic"]
    assert card["interval"]["covered"] == pytest.approx(((band.low <= off) & (off <= band.high)).mean())


def test_inspect_names_every_head(regression: tuple[Path, str]) -> None:
    output, _ = regression
    found = CliRunner().invoke(abonyx_cli, ["inspect", str(output)]).stdout
    assert "nonspecificity: logistic" in found and "value in min, higher is worse" in found
    assert "36 rows, alpha " in found and "probability, threshold 0.5" in found


def test_existing_heads_keep_their_numbers(regression: tuple[Path, str], bare: Path) -> None:
    output, _ = regression
    before, after = open_bundle(bare), open_bundle(output)
    assert after.manifest.heads[0] == before.manifest.heads[0]
    old, new = before.golden(), after.golden()
    for name in ("value", "head_coef", "head_intercept"):
        column = (slice(None), 0) if name == "value" else 0
        assert np.array_equal(getattr(new, name)[column], getattr(old, name)[column])
    assert np.array_equal(new.head_mean, old.head_mean)
    rows = made_rows(20)
    assert np.array_equal(scored(output, rows)["nonspecificity"], scored(bare, rows)["nonspecificity"])


def test_a_third_head_and_names_that_are_taken(
    regression: tuple[Path, str], measured: Path, cache: Path, tmp_path: Path
) -> None:
    parent, _ = regression
    more = ("--add", "--positive-above", "12", "--C", "1")
    fit(measured, tmp_path / "three", *more, "--head-name", "sticky", bundle=parent, cache=cache)
    heads = open_bundle(tmp_path / "three").manifest.heads
    assert [head.name for head in heads] == ["nonspecificity", "hic", "sticky"]
    rows = made_rows(20)
    before, after = scored(parent, rows), scored(tmp_path / "three", rows)
    assert all(np.array_equal(after[name], before[name]) for name in before)
    for name in ("hic", "HIC"):
        with pytest.raises(ConfigError, match=r"two heads are called (?i:hic): nonspecificity, hic, (?i:hic)"):
            fit(measured, tmp_path / "twice", *more, "--head-name", name, bundle=parent, cache=cache)
    with pytest.raises(ConfigError, match="two heads are called nonspecificity"):
        fit(measured, tmp_path / "twice", *more, bundle=parent, cache=cache)
    said = fit(measured, tmp_path / "alone", "--positive-above", "12", "--C", "1", bundle=parent, cache=cache)
    assert "the new bundle has only the new head; --add keeps the heads of bundle: nonspecificity, hic" in said
    assert [head.name for head in open_bundle(tmp_path / "alone").manifest.heads] == ["nonspecificity"]


@pytest.mark.parametrize(("flag", "above"), [("--positive-above", True), ("--positive-below", False)])
def test_classes_of_values(flag: str, above: bool, measured: Path, cache: Path, mini: Path, tmp_path: Path) -> None:
    rows = made_rows()
    values = values_of(rows)
    cut = float(np.sort(values)[17])  # a value of the data: strictly beyond it
    fit(measured, tmp_path / "cut", flag, repr(cut), "--C", "1", "--name", "same", bundle=mini, cache=cache)
    head = open_bundle(tmp_path / "cut").manifest.head
    classes = values > cut if above else values < cut
    assert head.training is not None and head.training.cut is not None
    assert (head.kind, head.training.positives) == ("logistic", int(classes.sum()))
    assert (head.training.cut.value, head.training.cut.above) == (cut, above)
    labelled = [(id_, sequence, str(int(label))) for (id_, sequence, _), label in zip(rows, classes, strict=True)]
    source = write(labelled, tmp_path / "rows.csv")
    fit(source, tmp_path / "classes", "--C", "1", "--name", "same", bundle=mini, cache=cache)
    of_classes = open_bundle(tmp_path / "classes").golden()
    assert np.array_equal(open_bundle(tmp_path / "cut").golden().value, of_classes.value)


def test_alpha_is_chosen_without_the_rows_left_out() -> None:
    """The nested estimate equals RidgeCV on each fold's training rows, pooled after subtracting the training mean."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng(5)
    rows = rng.standard_normal((60, 8))
    values = rows[:, 0] + rng.normal(size=60)
    found = cross_validate_ridge(rows, values, ALPHAS, folds=4, seeds=[7], scale=False)
    centred, errors, chosen = np.empty(60), np.empty(60), []
    for training, test in KFold(4, shuffle=True, random_state=7).split(rows):
        model = RidgeCV(alphas=ALPHAS).fit(rows[training], values[training])
        chosen.append(float(model.alpha_))
        centred[test] = model.predict(rows[test]) - values[training].mean()
        errors[test] = model.predict(rows[test]) - values[test]
    assert found.spearman_mean == pytest.approx(spearmanr(centred, values).statistic, rel=1e-9)
    assert found.mae_mean == pytest.approx(np.abs(errors).mean(), rel=1e-9)
    assert found.alphas_of_folds == [chosen.count(alpha) for alpha in ALPHAS]
    assert found.spearman_seed_sd is None and found.mae_mean < found.mae_of_mean


def test_a_head_without_signal_is_not_ranked_by_its_folds_means() -> None:
    values = np.random.default_rng(1).normal(size=40)
    found = cross_validate_ridge(np.zeros((40, 3)), values, [1.0], folds=10, seeds=[0, 1], scale=False)
    assert found.spearman_mean == 0.0  # the training means alone would give about -0.3
    assert abs(found.r2_mean) < 1e-12


# --- Bad input is refused before any model is opened, without any output.


def with_value(text: str) -> Rows:
    rows = made_rows()
    return [*rows[:5], (rows[5][0], rows[5][1], text), *rows[6:]]


def relabelled(words: Callable[[int], str]) -> Rows:
    return [(id_, sequence, words(at)) for at, (id_, sequence, _) in enumerate(made_rows())]


BAD_ROWS: dict[str, tuple[Rows, tuple[str, ...], type[EngineError], str]] = {
    "values as classes": (
        made_rows(),
        (),
        InputError,
        "36 of 36 labels are not 0 or 1, e.g. ",
    ),
    "values as classes, skipped": (
        made_rows(),
        ("--on-invalid", "skip"),
        InputError,
        "give --task regression. To turn them into classes, give --positive-above or --positive-below",
    ),
    "one value as classes": (
        relabelled(lambda at: "10"),
        (),
        InputError,
        "36 of 36 labels are not 0 or 1, e.g. '10'",
    ),
    "halves among classes": (
        relabelled(lambda at: ("0", "1", "0.5")[at % 3]),
        (),
        InputError,
        "For measured values give --task regression",
    ),
    "a slip among classes": (
        relabelled(lambda at: "2" if at == 5 else str(at % 2)),
        (),
        RecordsRejected,
        "the label is '2', not 0 or 1",
    ),
    "classes as values": (
        relabelled(lambda at: str(at % 2)),
        REGRESSION,
        InputError,
        "all 36 labels are classes, e.g. '0', not measured values",
    ),
    "words as values": (
        relabelled(lambda at: ("specific", "non-specific")[at % 2]),
        REGRESSION,
        InputError,
        "Leave out --task regression, --positive-above and --positive-below.",
    ),
    "classes cut": (relabelled(lambda at: str(at % 2)), ("--positive-above", "0.5"), InputError, "labels are classes"),
    "a unit in a cell": (
        with_value("12.3 mg/mL"),
        REGRESSION,
        RecordsRejected,
        "rows.csv:7: m5: the label is '12.3 mg/mL', a number with other text: remove 'mg/mL' from the cell",
    ),
    "a decimal comma": (with_value("12,3"), REGRESSION, RecordsRejected, "'12,3', not a number: write a decimal point"),
    "a limit of detection": (
        with_value("<0.5"),
        REGRESSION,
        RecordsRejected,
        "m5: the label is '<0.5', not a finite number",
    ),
    "an infinite value": (
        with_value("inf"),
        REGRESSION,
        RecordsRejected,
        "m5: the label is 'inf', not a finite number",
    ),
    "too large": (with_value("1e999"), REGRESSION, RecordsRejected, "m5: the label is '1e999', not a finite number"),
    "a class among values": (with_value("true"), REGRESSION, RecordsRejected, "'true', a class and not a measured"),
    "a blank cell": (with_value(""), REGRESSION, RecordsRejected, "rows.csv:7: m5: no label"),
    "a footnote": (
        [*made_rows(), ("a Measured in triplicate", "", "")],
        REGRESSION,
        RecordsRejected,
        "rows.csv:38: a Measured in triplicate: no sequence and no label, as in a footnote below the table",
    ),
    "constant values": (relabelled(lambda at: "5.5"), REGRESSION, InputError, "all 36 values are 5.5 min"),
    "fewer rows than folds": (made_rows(2), REGRESSION, InputError, "2 rows, --cv 3 needs at least 3"),
    "nothing above": (
        made_rows(),
        ("--positive-above", "99"),
        InputError,
        "none of 36 values are above --positive-above 99",
    ),
    "all below": (
        made_rows(),
        ("--positive-below", "99"),
        InputError,
        "all of 36 values are below --positive-below 99",
    ),
}
WITHOUT_UNIT = ("--task", "regression", "--direction", "higher-is-worse", "--head-name", "hic")
BAD_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "no unit": (WITHOUT_UNIT, "--task regression needs --unit"),
    "blank unit": ((*WITHOUT_UNIT, "--unit", " "), "--task regression needs --unit"),
    "a unit of control characters": ((*WITHOUT_UNIT, "--unit", "a\x1bb"), "--unit is "),
    "no direction": (("--task", "regression", "--unit", "h", "--head-name", "hic"), "needs --direction"),
    "another direction": ((*WITHOUT_UNIT, "--unit", "h", "--direction", "up"), "--direction is 'up'"),
    "no name": (("--task", "regression", "--unit", "h", "--direction", "lower-is-worse"), "needs --head-name"),
    "C of a regression": ((*REGRESSION, "--C", "1"), "--C with --task regression: the option is only for a cl"),
    "alpha of a classification": (("--alpha", "1"), "--alpha with --task classification: the option is only"),
    "a unit of classes": (("--unit", "min"), "--unit with --task classification"),
    "classes of a regression": ((*REGRESSION, "--positive-above", "3"), "--positive-above with --task regression"),
    "weights of a regression": ((*REGRESSION, "--class-weight", "balanced"), "--class-weight with --task regression"),
    "a head file": ((*REGRESSION, "--head-out", "x.npz"), "--head-out with --task regression"),
    "two ends": (("--positive-above", "1", "--positive-below", "3"), "only one threshold is possible"),
    "an end that is not finite": (("--positive-above", "nan"), "--positive-above is nan"),
    "alpha is 0": ((*REGRESSION, "--alpha", "0,1"), "--alpha has 0"),
    "alpha is a word": ((*REGRESSION, "--alpha", "1,big"), "--alpha 1,big: could not convert"),
    "a reserved name": ((*REGRESSION[:-1], "all"), "--head-name: 'all' is not a valid head name"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_cannot_be_fitted(case: str, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, flags, error, message = BAD_ROWS[case]
    monkeypatch.setattr("abonyx.model.open_model", _refuse)
    source = write(rows, tmp_path / "rows.csv")
    with pytest.raises(error) as caught:
        fit(source, tmp_path / "new", *flags, bundle=mini)
    assert message in caught.value.text(Interface.COMMAND_LINE) and caught.value.fix
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_options_that_are_refused(
    case: str, measured: Path, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, message = BAD_OPTIONS[case]
    monkeypatch.setattr("abonyx.model.open_model", _refuse)
    with pytest.raises(ConfigError) as caught:
        fit(measured, tmp_path / "new", *flags, bundle=mini)
    assert message in caught.value.text(Interface.COMMAND_LINE) and caught.value.fix
    assert list(tmp_path.iterdir()) == []


def _refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("a model was opened")


def test_a_unit_that_differs_from_the_parents(regression: tuple[Path, str], measured: Path, tmp_path: Path) -> None:
    parent, _ = regression
    other = [*REGRESSION]
    other[other.index("min")] = "s"
    with pytest.raises(ConfigError, match="hic would give values in s; the head hic in bundle gives values"):
        fit(measured, tmp_path / "new", *other, bundle=parent)
    with pytest.raises(ConfigError, match="hic would give a probability; the head hic in bundle gives"):
        fit(measured, tmp_path / "new", "--head-name", "hic", "--positive-above", "9", bundle=parent)


def test_a_direction_that_differs_from_the_parents(
    regression: tuple[Path, str], measured: Path, tmp_path: Path
) -> None:
    parent, _ = regression
    other = [*REGRESSION]
    other[other.index("higher-is-worse")] = "lower-is-worse"
    with pytest.raises(ConfigError, match="lower-is-worse: head hic of bundle has higher-is-worse"):
        fit(measured, tmp_path / "new", *other, bundle=parent)


def test_a_footnote_in_a_workbook(mini: Path, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [("id", "sequence", "label"), *((a, b, float(c)) for a, b, c in made_rows()), ("aArbitrary",)]:
        book.active.append(row)
    book.save(tmp_path / "assay.xlsx")
    with pytest.raises(
        RecordsRejected, match=r"assay\.xlsx:38: aArbitrary: no sequence and no label, as in a footnote"
    ):
        fit(tmp_path / "assay.xlsx", tmp_path / "new", *REGRESSION, bundle=mini)
