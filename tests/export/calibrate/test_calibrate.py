"""`abonyx calibrate` changes every file that describes the head, or refuses the controls."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn", reason="the fit extra is not installed")
pytest.importorskip("onnx", reason="the fit extra is not installed")

from click.testing import CliRunner

import abonyx
from abonyx.bundle import check_files, open_bundle
from abonyx.bundle.heads import sigmoid
from abonyx.bundle.listed import card_sentence
from abonyx.bundle.training_rows import write_training_rows
from abonyx.card.record import CardFile
from abonyx.cli import cli as abonyx_cli
from abonyx.errors import BundleError, ConfigError, InputError
from abonyx.logs import to_stderr
from abonyx_export import cli
from abonyx_export.calibrate.scaling import Scaling, fit_scaling, measure, predict_left_out

from ...conftest import MINI
from ...runtime.hostile import relist
from ...runtime.several import make_several
from ..fit.test_values import REGRESSION, fit, made_rows, write

Floats = npt.NDArray[np.float64]
SEQUENCES = [sequence for _, sequence, _ in made_rows(40)]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_several(tmp_path_factory.mktemp("heads") / "several", ("nonspecificity", "hic", "psr"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


def calibrate(bundle: Path, labels: list[Any], output: Path, *more: str, count: int = 40) -> str:
    """Run the command; returns its stderr, and raises its error."""
    rows = [
        (f"c{at}", sequence, str(label)) for at, (sequence, label) in enumerate(zip(SEQUENCES, labels, strict=False))
    ]
    source = write(rows[:count], output.parent / f"{output.name}.csv")
    with to_stderr(as_json=False):
        result = CliRunner().invoke(cli.calibrate, [str(bundle), str(source), "-o", str(output), *more])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.stderr
    return result.stderr


def scored(bundle: Path) -> dict[str, npt.NDArray[np.float32]]:
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(bundle))) as session:
        return session.score(SEQUENCES, heads="all")


def logit(p: npt.NDArray[Any]) -> Floats:
    wide = p.astype(np.float64)
    return np.log(wide) - np.log1p(-wide)


def classes(bundle: Path, head: str, slope: float, shift: float) -> list[int]:
    """Random labels from the head's scaled logits."""
    p = sigmoid(slope * logit(scored(bundle)[head]) + shift)
    return (np.random.default_rng(5).random(len(p)) < p).astype(int).tolist()


def test_values_of_one_head_among_several(several: Path, cache: Path, tmp_path: Path) -> None:
    before = scored(several)
    values = [float(f"{2.5 * v - 3 + noise:.4f}") for v, noise in zip(before["hic"], _noise(40), strict=True)]
    said = calibrate(several, values, tmp_path / "new", "--head", "hic", "--embedding-cache", str(cache))
    bundle = open_bundle(tmp_path / "new")
    spec = bundle.manifest.heads[1]
    found = spec.calibration
    assert found is not None
    slope, intercept = np.polyfit(before["hic"].astype(float), values, 1)
    assert (found.slope, found.intercept) == (pytest.approx(slope, rel=1e-4), pytest.approx(intercept, rel=1e-4))
    assert (found.controls, found.positives, found.source_name) == (40, None, "new.csv")
    after = scored(tmp_path / "new")
    sd = spec.training_sd
    assert sd == pytest.approx(open_bundle(several).manifest.heads[1].training_sd * found.slope)  # type: ignore[operator]
    np.testing.assert_allclose(after["hic"], found.slope * before["hic"] + found.intercept, atol=1e-4 * sd)
    for other in ("nonspecificity", "psr"):
        np.testing.assert_array_equal(after[other], before[other])
    assert f"MAE {found.before['mae']:.4g} before, {found.after['mae']:.4g} after (on left-out controls)" in said
    assert found.before["mae"] == pytest.approx(np.abs(before["hic"] - values).mean(), rel=1e-4)
    assert [head for head in bundle.manifest.heads if head.calibration] == [spec]
    check_files(bundle, list(bundle.manifest.files))


def test_the_interval_of_a_value_is_left_out(cache: Path, mini: Path, tmp_path: Path) -> None:
    """Its residuals are of other values: scaled, it holds any share of the controls."""
    source = write(made_rows(), tmp_path / "rows.csv")
    parent = tmp_path / "fitted"
    fit(source, parent, *REGRESSION, "--alpha", "10", bundle=mini, cache=cache)
    values = (3 * scored(parent)["hic"] + 1 + _noise(40)).tolist()
    said = calibrate(parent, values, tmp_path / "new", "--embedding-cache", str(cache))
    old, new = (open_bundle(bundle).manifest.heads[0] for bundle in (parent, tmp_path / "new"))
    assert old.training and old.training.interval and new.training
    assert new.training.interval is None
    assert "note: the interval around the head's values is removed" in said


def _noise(count: int) -> Floats:
    return np.random.default_rng(2).normal(0, 0.05, count)


def test_a_probability_and_all_that_goes_by_it(cache: Path, mini: Path, tmp_path: Path) -> None:
    """Band, declared thresholds and card move with the scores; what was of the old scores is gone."""
    rows = write(made_rows(), tmp_path / "rows.csv")
    fit(rows, tmp_path / "fitted", "--positive-above", "12", "--C", "1", bundle=mini, cache=cache)
    parent = tmp_path / "fitted"
    path = parent / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["heads"][0]["thresholds"] = {"psr": 0.25}
    path.write_text(json.dumps(manifest))
    old, before = open_bundle(parent).manifest.heads[0], scored(parent)["nonspecificity"]
    labels = classes(parent, "nonspecificity", 0.5, -2.0)
    said = calibrate(parent, labels, tmp_path / "new", "--embedding-cache", str(cache))
    bundle = open_bundle(tmp_path / "new")
    new, after = bundle.manifest.heads[0], scored(tmp_path / "new")["nonspecificity"]
    found = new.calibration
    assert found is not None and found.positives == sum(labels)
    move = Scaling(found.slope, found.intercept)
    np.testing.assert_allclose(after, sigmoid(move.apply(logit(before))), atol=1e-5)
    assert new.thresholds == {"psr": pytest.approx(float(sigmoid(move.apply(logit(np.array(0.25))))))}
    assert new.default_threshold == 0.5
    assert old.training and new.training and old.training.band and new.training.band
    assert old.training.scores is not None and new.training.scores is None
    for end in ("low", "high"):
        ends = [getattr(head.training.band, end) for head in (old, new)]  # type: ignore[union-attr]
        assert ends[1] == pytest.approx(float(sigmoid(move.apply(logit(np.array(ends[0]))))))
    assert (old.training.band.calls(before) == new.training.band.calls(after)).all()
    assert found.after["log_loss"] < found.before["log_loss"]
    assert f"Brier {found.before['brier']:.4g} before" in said and "ECE" in said
    assert card_sentence(bundle, "nonspecificity") == card_sentence(open_bundle(parent), "nonspecificity")
    card = msgspec.json.decode((tmp_path / "new" / "metrics.json").read_bytes(), type=CardFile).card
    assert card.notes[0].startswith("This head was calibrated later with 40 controls.")
    assert "This head was calibrated later" in (tmp_path / "new" / "card.md").read_text()
    assert (tmp_path / "new" / "training_rows.sha256").read_bytes() == (parent / "training_rows.sha256").read_bytes()
    again = classes(tmp_path / "new", "nonspecificity", 2.0, 1.0)
    calibrate(tmp_path / "new", again, tmp_path / "newer", "--embedding-cache", str(cache))
    total = open_bundle(tmp_path / "newer").manifest.heads[0].calibration
    assert total is not None
    whole = Scaling(total.slope, total.intercept)
    newest = scored(tmp_path / "newer")["nonspecificity"]
    np.testing.assert_allclose(newest, sigmoid(whole.apply(logit(before))), atol=1e-5)


def test_inspect_names_it(several: Path, tmp_path: Path) -> None:
    values = (2 * scored(several)["hic"] + 1).tolist()
    calibrate(several, values, tmp_path / "new", "--head", "hic")
    result = CliRunner().invoke(abonyx_cli, ["inspect", str(tmp_path / "new")], catch_exceptions=False)
    out = " ".join(result.output.split())
    assert "40 controls of new.csv: slope 2, intercept 1, MAE" in out


REFUSED: dict[str, tuple[list[Any], int, str]] = {
    "fewer than 20": ([0, 1] * 20, 19, "19 different sequences can be used, at least 20 are needed"),
    "one class": ([1] * 40, 40, "all 40 labels are 1"),
    "values for classes": ([f"{v}.5" for v in range(40)], 40, "40 of 40 labels are not 0 or 1, e.g. '0.5'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_controls_that_are_refused(case: str, tmp_path: Path) -> None:
    labels, count, said = REFUSED[case]
    with pytest.raises(InputError) as caught:
        calibrate(MINI, labels, tmp_path / "new", count=count)
    assert said in caught.value.what and not (tmp_path / "new").exists()
    if case == "values for classes":
        assert caught.value.fix.startswith("Head nonspecificity gives a probability and needs labels 0 and 1.")


def test_controls_that_do_not_support_it(several: Path, cache: Path, tmp_path: Path) -> None:
    more = ("--embedding-cache", str(cache))
    p = scored(several)["nonspecificity"]
    against = (p < np.median(p)).astype(int).tolist()
    with pytest.raises(
        InputError, match=r"the slope is -.*nonspecificity ranks the controls in the opposite order of their labels"
    ):
        calibrate(several, against, tmp_path / "new", *more)
    exact = scored(several)["hic"].tolist()
    noisy = [
        float(value + noise) for value, noise in zip(exact, np.random.default_rng(0).normal(0, 0.5, 40), strict=True)
    ]
    with pytest.raises(InputError, match=r"on left-out controls, the squared error is .* before and .* after"):
        calibrate(several, noisy, tmp_path / "new", "--head", "hic", *more)
    with pytest.raises(InputError, match="all 40 values are 3 min"):
        calibrate(several, [3.0] * 40, tmp_path / "new", "--head", "hic", *more)
    with pytest.raises(InputError, match="all 40 labels are classes") as caught:
        calibrate(several, [0, 1] * 20, tmp_path / "new", "--head", "hic", *more)
    assert caught.value.fix.startswith("Head hic gives values in min")
    with pytest.raises(ConfigError, match="several has no head 'hicc'"):
        calibrate(several, [0, 1] * 20, tmp_path / "new", "--head", "hicc", *more)
    with pytest.raises(ConfigError, match="--bundle"):
        calibrate(several, [0, 1] * 20, tmp_path / "new", "--bundle", str(MINI))
    assert not (tmp_path / "new").exists()


def test_controls_that_are_training_rows_are_counted(
    several: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only rows of the calibrated head count; the bundle's first head records none. A tag does not hide the seventh."""
    bundle = Path(shutil.copytree(several, tmp_path / "bundle"))
    write_training_rows(SEQUENCES[:7], bundle / "training_rows.hic.sha256")
    relist(bundle)
    monkeypatch.setattr(f"{__name__}.SEQUENCES", [*SEQUENCES[:6], f"{SEQUENCES[6]}HHHHHH", *SEQUENCES[7:]])
    values = [float(2.5 * value - 3 + noise) for value, noise in zip(scored(bundle)["hic"], _noise(40), strict=True)]
    said = calibrate(bundle, values, tmp_path / "new", "--head", "hic", "--embedding-cache", str(cache))
    assert "note: 7 of 40 controls are training rows of the head, so the head looks better than it is" in said


def test_controls_of_one_score_are_refused(several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    width = open_bundle(several).manifest.embedding_width
    monkeypatch.setattr("abonyx_export.calibrate.calibrate.embed_records", lambda *_: np.ones((40, width), np.float32))
    with pytest.raises(InputError, match="head nonspecificity gives all 40 controls the same"):
        calibrate(several, [0, 1] * 20, tmp_path / "new")


def test_a_record_of_another_kind_is_not_a_valid_manifest(several: Path, tmp_path: Path) -> None:
    values = (2 * scored(several)["hic"] + 1).tolist()
    calibrate(several, values, tmp_path / "new", "--head", "hic")
    path = tmp_path / "new" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["heads"][1]["calibration"]["slope"] = -1.0
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="head calibration: has values that an export never writes"):
        open_bundle(tmp_path / "new")


def test_separated_classes_have_a_finite_slope() -> None:
    old = np.concatenate([np.linspace(-2, -1, 10), np.linspace(1, 2, 10)])
    labels = (old > 0).astype(float)
    found = fit_scaling(old, labels, logistic=True)
    assert 0 < found.slope < 10
    new = predict_left_out(old, labels, [str(at) for at in range(20)], logistic=True)
    assert measure(new, labels, logistic=True)["log_loss"] < measure(old, labels, logistic=True)["log_loss"]


def test_a_repeated_control_is_left_out_with_its_copies() -> None:
    old, labels = np.array([0.0, 1, 2, 3, 3]), np.array([0.0, 1, 2, 9, 9])
    new = predict_left_out(old, labels, ["a", "b", "c", "d", "d"], logistic=False)
    assert new[3:] == pytest.approx([3, 3])


def test_metrics_against_scikit_learn() -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    rng = np.random.default_rng(1)
    old = rng.normal(0, 2, 200)
    labels = (rng.random(200) < sigmoid(old)).astype(float)
    found = measure(old, labels, logistic=True)
    p = sigmoid(old)
    assert found["log_loss"] == pytest.approx(log_loss(labels, p))
    assert found["brier"] == pytest.approx(brier_score_loss(labels, p))
    assert found["ece"] < 0.15 < measure(old + 3, labels, logistic=True)["ece"]
