"""Fit from end to end on a tiny bundle: the head, the cache, linked files, refusals, and no leftover files."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import abonyx
from abonyx import extras
from abonyx.bundle import check_files, open_bundle, tolerances
from abonyx.bundle.heads import sigmoid
from abonyx.bundle.listed import card_sentence, read_listed
from abonyx.bundle.manifest import Difference
from abonyx.bundle.threshold import choose_calls
from abonyx.bundle.training_rows import training_rows
from abonyx.card.page import markdown
from abonyx.card.record import CardFile
from abonyx.cli import main
from abonyx.errors import (
    BundleError,
    ChecksumMismatch,
    ConfigError,
    EngineError,
    InputError,
    ParityError,
    RecordsRejected,
    SessionInUse,
)
from abonyx.logs import to_stderr
from abonyx.model import OpenModel
from abonyx.wording import Interface
from abonyx_export import cli
from abonyx_export.export import export_bundle
from abonyx_export.fit import assembly, cross_validation
from abonyx_export.fit import fit as fit_module
from abonyx_export.fit.card import FILES as CARD_FILES
from abonyx_export.head.head import read_head
from abonyx_export.request import ExportRequest

from ...conftest import EXAMPLES, MINI
from ..conftest import HALF_EXACT, CheckpointMaker, write_spread_head

Rows = list[tuple[str, str, str]]
QUICK = ("--cv", "3", "--cv-seeds", "2", "--C", "1,10")


@pytest.fixture(scope="module")
def parent(checkpoint: CheckpointMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an old pipeline's head and its assay thresholds; both variants have the same numbers."""
    directory, folder = checkpoint(HALF_EXACT), tmp_path_factory.mktemp("parent")
    head = write_spread_head(directory, folder / "head.npz")
    (folder / "head.json").write_text(json.dumps({"esm_model": "some/esm", "esm_revision": "main", "batch_size": 8}))
    request = ExportRequest(
        encoder=str(directory),
        encoder_id="some/esm",
        heads=(("nonspecificity", head),),
        output=folder / "bundle",
        variants=("fp32", "fp16-weights"),
        notice="not for use",
    )
    assert export_bundle(request).head.thresholds == {"elisa": 0.5, "psr": 0.5495}
    return folder / "bundle"


def made_rows(count: int = 48) -> Rows:
    """Mutants of the examples in several lengths. Mutations are to W and R for label 1, and to D and E for label 0.

    In every seventh row it is the opposite, so that no C separates the classes.
    """
    with EXAMPLES.open(newline="") as file:
        parents = [row["sequence"] for row in csv.DictReader(file)]
    rng = np.random.default_rng(11)
    rows = []
    for index in range(count):
        letters = list(parents[index % len(parents)][int(rng.integers(20)) : 60])
        charge = "WR" if (index % 2) != (index % 7 == 0) else "DE"
        for position in rng.choice(len(letters), size=6, replace=False):
            letters[position] = charge[rng.integers(2)]
        rows.append((f"m{index}", "".join(letters), f"{index % 2}.0"))
    return rows


def write(rows: Rows, path: Path) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "sequence", "label"), *rows])
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(made_rows(), tmp_path_factory.mktemp("labelled") / "rows.csv")


def fit(source: Path, parent: Path, output: Path, *more: str, quick: tuple[str, ...] = QUICK) -> str:
    """Run the command; returns its stderr, and raises its error."""
    arguments = [str(source), "--label-column", "label", "--bundle", str(parent), "-o", str(output), *quick, *more]
    with to_stderr(as_json=False):
        result = CliRunner().invoke(cli.fit, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.stderr
    return result.stderr


def everything(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(directory).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def embedded(parent: Path, rows: Rows, **config: Any) -> npt.NDArray[np.float64]:
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(parent), **config)) as session:
        return session.embed([sequence for _, sequence, _ in rows]).astype(np.float64)


def scored(bundle: Path, rows: Rows, **config: Any) -> npt.NDArray[np.float32]:
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(bundle), **config)) as session:
        return session.score([sequence for _, sequence, _ in rows])


def labels(rows: Rows) -> npt.NDArray[np.int64]:
    return np.array([int(float(label)) for *_, label in rows])


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets the folder of each opened bundle."""
    opened: list[str] = []
    real = OpenModel.open

    def counted(self: OpenModel, **keywords: Any) -> None:
        opened.append(Path(str(self.config.bundle)).name)
        real(self, **keywords)

    monkeypatch.setattr(OpenModel, "open", counted)
    return opened


# --- The written bundle.


@pytest.mark.parametrize(("flags", "scale", "balanced"), [((), False, False), (("--scale",), True, True)])
def test_scores_are_scikit_learns_own(
    flags: tuple[str, ...], scale: bool, balanced: bool, parent: Path, tmp_path: Path
) -> None:
    rows = made_rows()[:40] + made_rows(64)[48::2]  # 28 of class 0, 20 of class 1
    source = write(rows, tmp_path / "rows.csv")
    weight = ("--class-weight", "balanced") if balanced else ()
    said = fit(source, parent, tmp_path / "new", *flags, *weight)
    head = open_bundle(tmp_path / "new").manifest.head
    assert head.training is not None
    training = head.training
    estimator = LogisticRegression(C=training.c, max_iter=5000, class_weight="balanced" if balanced else None)
    model: Pipeline = make_pipeline(*([StandardScaler()] if scale else []), estimator)
    embedding = embedded(parent, rows)
    model.fit(embedding, labels(rows))
    expected = sigmoid(model.decision_function(embedding))
    assert np.abs(scored(tmp_path / "new", rows) - expected).max() <= tolerances.HEAD_P
    assert (
        np.abs(scored(tmp_path / "new", rows, variant="fp16-weights") - expected).max() <= tolerances.BATCH_NEIGHBOURS
    )

    assert (training.rows, training.positives, training.repeated_sequences) == (48, 20, 0)
    assert (training.folds, training.seeds, training.seed) == (3, 2, 0)
    assert (training.scaled, training.class_weight) == (scale, "balanced" if balanced else None)
    assert [candidate.c for candidate in training.candidates] == [1.0, 10.0]
    best = max(training.candidates, key=lambda candidate: candidate.roc_auc_mean)
    assert best.c == training.c and best.roc_auc_mean > 0.6
    assert f"fitting on all rows with C {training.c:g}" in said


def test_cross_validation_is_scikit_learns(parent: Path, labelled: Path, tmp_path: Path) -> None:
    from sklearn.model_selection import StratifiedKFold, cross_validate

    fit(labelled, parent, tmp_path / "new", "--scale", "--seed", "5", "--C", "0.1")
    training = open_bundle(tmp_path / "new").manifest.head.training
    assert training is not None
    found = training.candidates[0]
    rows, scores = made_rows(), []
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
    for seed in (5, 6):
        folds = StratifiedKFold(3, shuffle=True, random_state=seed)
        done = cross_validate(model, embedded(parent, rows), labels(rows), cv=folds, scoring=("accuracy", "roc_auc"))
        scores.append((done["test_accuracy"], done["test_roc_auc"]))
    accuracy, area = np.array(scores).transpose(1, 0, 2)  # (seeds, folds) each
    for name, values in (("accuracy", accuracy), ("roc_auc", area)):
        assert getattr(found, f"{name}_mean") == pytest.approx(values.mean())
        assert getattr(found, f"{name}_sd") == pytest.approx(values.std(ddof=1))
        assert getattr(found, f"{name}_seed_sd") == pytest.approx(values.mean(axis=1).std(ddof=1))


def test_out_of_fold_scores_are_counted_by_class(parent: Path, labelled: Path, tmp_path: Path) -> None:
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    fit(labelled, parent, tmp_path / "new", "--seed", "5", "--C", "0.1,1")
    training = open_bundle(tmp_path / "new").manifest.head.training
    assert training is not None and training.scores is not None
    counts, rows = training.scores, made_rows()
    model, folds = LogisticRegression(C=training.c, max_iter=5000), StratifiedKFold(3, shuffle=True, random_state=5)
    p = cross_val_predict(model, embedded(parent, rows), labels(rows), cv=folds, method="predict_proba")[:, 1]
    assert counts.bin_edges == [float(f"{index * 0.05:.2f}") for index in range(21)]
    for label, found in ((0, counts.specific), (1, counts.nonspecific)):
        assert found == np.histogram(p[labels(rows) == label], counts.bin_edges)[0].tolist()
        assert sum(found) == 24 and max(found) < 24


def test_the_new_bundle(parent: Path, labelled: Path, tmp_path: Path) -> None:
    before, new = everything(parent), tmp_path / "new"
    fit(labelled, parent, new)
    assert everything(parent) == before
    bundle, old = open_bundle(new), open_bundle(parent)
    manifest = bundle.manifest
    check_files(bundle, list(manifest.files), use_cache=False)
    assert {*everything(new)} == {"manifest.json", *manifest.files} == {*before, *CARD_FILES}
    for name in ("fp32/model.onnx.data", "fp16-weights/model.onnx.data"):
        assert (new / name).samefile(parent / name)
    for name in ("fp32/model.onnx", "head.onnx", "golden.npz"):
        assert (new / name).read_bytes() != (parent / name).read_bytes()
    assert (manifest.name, manifest.notice) == ("", "not for use")
    assert (bundle.name, open_bundle(new.rename(tmp_path / "moved")).name) == ("new", "moved")
    new = (tmp_path / "moved").rename(new)
    assert (manifest.encoder, manifest.golden_source) == (old.manifest.encoder, old.manifest.golden_source)
    assert manifest.default_variant == old.manifest.default_variant
    head = manifest.head
    assert (head.source_name, head.encoder, head.pooling) == ("rows.csv", "some/esm", "residues")
    assert (head.thresholds, head.default_threshold, head.intercept_shift) == ({}, 0.5, 0.0)
    assert old.manifest.head.training is None and '"training":' not in (parent / "manifest.json").read_text()
    for name, variant in manifest.variants.items():
        was, now = old.manifest.variants[name].parity, variant.parity
        assert was is not None and now is not None
        assert (now.torch, now.transformers, now.rows) == (was.torch, was.transformers, 44)
        assert now.max_p <= tolerances.FP32_GOAL_P
        assert variant.limits == old.manifest.variants[name].limits
    assert np.array_equal(bundle.golden().embedding, old.golden().embedding)
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(new)), self_test="full"):
        pass


def test_the_card_and_what_a_bundle_keeps_of_its_rows(parent: Path, labelled: Path, tmp_path: Path) -> None:
    """A bundle that is fitted from this one has its own card and rows."""
    said = fit(labelled, parent, tmp_path / "new", "--confidence", "0.7")
    bundle = open_bundle(tmp_path / "new")
    record = msgspec.json.decode((bundle.path / "metrics.json").read_bytes(), type=CardFile)
    assert record.schema_version == 1 and record.card.fitted and record.card.rows == 48
    assert f"card: {record.card.sentence}" in said
    assert (bundle.path / "card.md").read_text().splitlines()[0] == record.card.sentence
    assert record.card.folds is not None and record.card.folds.folds == 3
    assert card_sentence(bundle, bundle.manifest.head.name) == record.card.sentence  # as inspect shows it
    shown = read_listed(bundle, "card.md")
    assert shown is not None and shown.decode() == markdown(record.card)  # as /v1/model has it
    training = bundle.manifest.head.training
    assert training is not None and training.band is not None and training.band.confidence == 0.7
    assert (
        record.card.calls is None
        and "48 rows are flagged: without a call, but counted in all other figures" in record.card.notes
    )
    rule = choose_calls(bundle, None, None)
    assert rule.band == training.band and f"calls: {rule.text}" in said
    sequences = [sequence for _, sequence, _ in made_rows()]
    assert training_rows(bundle, [*sequences, "EVQLVESGG"]).tolist() == [True] * 48 + [False]  # type: ignore[union-attr]
    stored = b"".join(data for data, _ in everything(bundle.path).values())
    assert not [sequence for sequence in sequences if sequence.encode() in stored]
    fit(write(made_rows()[:30], tmp_path / "fewer.csv"), bundle.path, tmp_path / "newer")
    newer = open_bundle(tmp_path / "newer")
    assert training_rows(newer, sequences).tolist() == [True] * 30 + [False] * 18  # type: ignore[union-attr]
    assert msgspec.json.decode((newer.path / "metrics.json").read_bytes(), type=CardFile).card.rows == 30


@pytest.mark.parametrize("confidence", ["0", "1", "nan"])
def test_a_confidence_is_between_0_and_1(parent: Path, labelled: Path, tmp_path: Path, confidence: str) -> None:
    with pytest.raises(ConfigError, match="confidence"):
        fit(labelled, parent, tmp_path / "new", "--confidence", confidence)


def test_fewer_different_sequences_than_folds(parent: Path, tmp_path: Path) -> None:
    rows = [(f"r{index}", made_rows(2)[index % 2][1], str(index % 2)) for index in range(24)]
    with pytest.raises(InputError, match=r"24 rows hold 2 different sequences[^\n]*\n.*or use folds 2\.$"):
        fit(write(rows, tmp_path / "rows.csv"), parent, tmp_path / "new")
    same = [(f"r{index}", made_rows(2)[0][1], str(index % 2)) for index in range(24)]
    with pytest.raises(InputError, match=r"24 rows hold 1 different sequences[^\n]*\nAdd rows with other sequences\.$"):
        fit(write(same, tmp_path / "same.csv"), parent, tmp_path / "new")


def test_no_assay_is_declared_and_pooling_is_noted(parent: Path, labelled: Path, tmp_path: Path) -> None:
    fit(labelled, parent, tmp_path / "new", "--pooling", "upstream-batch", "--batch-size", "8")
    score = ["score", str(labelled), "-o", str(tmp_path / "scores.csv"), "--bundle", str(tmp_path / "new")]
    result = CliRunner().invoke(abonyx.cli.cli, [*score, "--assay", "elisa"])
    assert isinstance(result.exception, ConfigError)
    assert "declares no threshold for it (declared: none)" in str(result.exception)
    with to_stderr(as_json=False):
        result = CliRunner().invoke(abonyx.cli.cli, score)
    assert "threshold 0.5" in result.stderr
    assert "the head was trained with pooling upstream-batch (batch 8), but these scores use residues" in result.stderr


def test_same_input_same_bytes(parent: Path, labelled: Path, tmp_path: Path) -> None:
    names = ("a", "b")
    for name in names:
        cache = ("--embedding-cache", str(tmp_path / f"cache {name}"))
        fit(labelled, parent, tmp_path / name, "--name", "same", "--head-out", str(tmp_path / f"{name}.npz"), *cache)
    first, second = ({key: data for key, (data, _) in everything(tmp_path / name).items()} for name in names)
    assert first == second
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:  # no time in the file
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    fit(labelled, parent, tmp_path / "c", "--name", "same", "--C", "2")
    assert (tmp_path / "c" / "head.onnx").read_bytes() != first["head.onnx"]


def test_head_out_is_the_old_pipelines_layout(parent: Path, labelled: Path, tmp_path: Path) -> None:
    fit(labelled, parent, tmp_path / "new", "--scale", "--head-out", str(tmp_path / "head.npz"))
    with np.load(tmp_path / "head.npz") as arrays:
        kinds = {name: (values.shape, values.dtype.str[1:]) for name, values in arrays.items()}
        classes, iterations = arrays["classes"].tolist(), arrays["n_iter"].item()
    assert kinds == {
        "coef": ((1, 32), "f8"),
        "intercept": ((1,), "f8"),
        "classes": ((2,), "f8"),
        "n_features_in": ((1,), "i8"),
        "n_iter": ((1,), "i4"),
    }
    assert classes == [0.0, 1.0] and iterations > 0
    golden = open_bundle(tmp_path / "new").golden()
    head = read_head(tmp_path / "head.npz")
    assert head.scale is None
    np.testing.assert_array_equal(head.logit(golden.embedding), golden.value[:, 0])
    (tmp_path / "link.npz").symlink_to(tmp_path / "head.npz")
    fit(labelled, parent, tmp_path / "again", "--head-out", str(tmp_path / "link.npz"))
    assert (tmp_path / "link.npz").is_symlink() and read_head(tmp_path / "head.npz").coef[0] != head.coef[0]


def test_a_subset_of_variants_name_and_notice(parent: Path, labelled: Path, tmp_path: Path) -> None:
    more = ("--variants", "fp16-weights", "--name", "mine", "--notice", "")
    fit(labelled, parent, tmp_path / "new", *more)
    manifest = open_bundle(tmp_path / "new").manifest
    assert list(manifest.variants) == ["fp16-weights"]
    assert set(manifest.default_variant.values()) == {"fp16-weights"}
    assert (manifest.name, manifest.notice) == ("mine", "") and open_bundle(tmp_path / "new").name == "mine"
    assert {*everything(tmp_path / "new")} == {"manifest.json", *manifest.files}
    assert not (tmp_path / "new" / "fp32").exists()
    # a fit from the fitted bundle
    fit(labelled, tmp_path / "new", tmp_path / "newer", "--C", "1")
    newer = open_bundle(tmp_path / "newer").manifest
    assert newer.packages == manifest.packages and newer.head.training is not None
    assert scored(tmp_path / "newer", made_rows()).shape == (48,)


def test_files_are_copied_where_they_cannot_be_linked(
    parent: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> None:
        def link(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", link)

    refuse(errno.EXDEV)
    said = fit(labelled, parent, tmp_path / "new")
    assert "fp32/model.onnx.data, because it cannot be linked (" in said
    copied, original = (folder / "fp32" / "model.onnx.data" for folder in (tmp_path / "new", parent))
    assert copied.read_bytes() == original.read_bytes() and not copied.samefile(original)
    refuse(errno.ENOSPC)
    with pytest.raises(ConfigError, match=r"full: cannot be written: No space"):
        fit(labelled, parent, tmp_path / "full", "--head-out", str(tmp_path / "full.npz"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]


def test_skip_leaves_bad_rows_out_and_lists_them(parent: Path, tmp_path: Path) -> None:
    rows = made_rows()
    bad = [*rows[:3], ("blank", rows[3][1], ""), ("nan", rows[4][1], "nan"), ("gap", "EV-QL", "1"), *rows[3:], rows[0]]
    said = fit(write(bad, tmp_path / "bad.csv"), parent, tmp_path / "new", "--on-invalid", "skip")
    assert "3 bad records are left out" in said
    assert "1 rows repeat an earlier row's sequence" in said
    training = open_bundle(tmp_path / "new").manifest.head.training
    assert training is not None and (training.rows, training.repeated_sequences) == (49, 1)
    listed = (tmp_path / "new.rejected.csv").read_text().splitlines()
    assert listed[1] == "blank,5,no label"
    assert listed[2] == "5,6,no label"  # pandas writes a missing value as nan, also for an id
    assert listed[3].startswith("gap,7,")
    assert len(listed) == 4
    left_out = "3 of 52 records were rejected and left out; see the list of rejected records"
    assert left_out in (tmp_path / "new" / "card.md").read_text()


def whole_rows(count: int = 24) -> Rows:
    """The examples' complete domains with some changed residues in CDR 3, so that none is flagged."""
    with EXAMPLES.open(newline="") as file:
        parents = [row["sequence"] for row in csv.DictReader(file)]
    rng = np.random.default_rng(5)
    rows = []
    for index in range(count):
        letters = list(parents[index % len(parents)])
        for position in rng.choice(np.arange(98, 102), size=2, replace=False):
            letters[position] = "WR"[index // 12] if index % 2 else "DE"[index // 12]
        rows.append((f"w{index}", "".join(letters), str(index % 2)))
    return rows


def with_flags() -> tuple[Rows, Rows]:
    """Rows with three flagged ones, and the same rows without these."""
    kept = whole_rows()
    tagged = kept[4][1]
    light = (
        "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
    )
    flagged = [("tag", f"{tagged}HHHHHH", "1"), ("light", light, "0"), ("cut", tagged[30:], "0")]
    return [*kept[:3], flagged[0], *kept[3:10], flagged[1], *kept[10:], flagged[2]], kept


def test_flagged_rows_are_listed_and_kept_or_left_out(parent: Path, tmp_path: Path) -> None:
    rows, good = with_flags()
    source = write(rows, tmp_path / "rows.csv")
    said = fit(source, parent, tmp_path / "all")
    assert "3 of 27 rows are flagged and kept" in said
    for line in (
        "  row 4, id tag: 6 residues outside the domain",
        "  row 12, id light: light chain (kappa)",
        "  row 27, id cut: fragment",
    ):
        assert line in said
    assert "the head expects chain H" in said
    training = open_bundle(tmp_path / "all").manifest.head.training
    assert training is not None and (training.rows, training.flagged, training.dropped) == (27, 3, 0)
    said = fit(source, parent, tmp_path / "dropped", "--drop-flagged", "--name", "same")
    assert "3 of 27 rows are flagged and left out" in said and "row 12, id light" in said
    training = open_bundle(tmp_path / "dropped").manifest.head.training
    assert training is not None and (training.rows, training.flagged, training.dropped) == (24, 3, 3)
    card = (tmp_path / "dropped" / "card.md").read_text()
    assert re.search(r"3 of 27 rows were flagged and left out \(.*light chain.* 1.*\)", card)
    assert "left out" not in (tmp_path / "all" / "card.md").read_text()
    # The head equals the head of a file without those rows, so no label has moved to another row.
    said = fit(write(good, tmp_path / "rows2.csv"), parent, tmp_path / "good", "--name", "same")
    assert "none of the 24 rows is flagged" in said
    heads = [(tmp_path / name / "head.onnx").read_bytes() for name in ("dropped", "good", "all")]
    assert heads[0] == heads[1] != heads[2]
    hashes = [open_bundle(tmp_path / name).manifest.head.source_sha256 for name in ("dropped", "good", "all")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_training_row_with_a_tag_is_known_without_it(parent: Path, tmp_path: Path) -> None:
    rows = whole_rows()
    tagged = [(id_, sequence + "HHHHHH" * (at == 4), label) for at, (id_, sequence, label) in enumerate(rows)]
    fit(write(tagged, tmp_path / "rows.csv"), parent, tmp_path / "new")
    known = training_rows(open_bundle(tmp_path / "new"), [sequence for _, sequence, _ in (*rows, tagged[4])])
    assert known is not None and known.all()
    assert len((tmp_path / "new" / "training_rows.sha256").read_bytes().splitlines()) == len(rows) + 1


def test_rows_are_judged_for_the_new_heads_chains(parent: Path, tmp_path: Path) -> None:
    source = write(with_flags()[0], tmp_path / "rows.csv")
    said = fit(source, parent, tmp_path / "light", "--chains", "L")
    assert "26 of 27 rows are flagged and kept" in said
    assert "row 1, id w0: heavy chain" in said and "id light" not in said
    assert "  ... and 6 more" in said
    assert "the head expects chain L" in said
    head = open_bundle(tmp_path / "light").manifest.head
    assert (head.chains, head.training and head.training.flagged) == (["L"], 26)
    # also with a parent whose head is for light chains
    said = fit(source, tmp_path / "light", tmp_path / "heavy", "--chains", "H")
    assert "3 of 27 rows are flagged" in said


def test_drop_flagged_without_rows_or_without_checks(parent: Path, tmp_path: Path, opens: list[str]) -> None:
    rows = with_flags()[0]
    source = write(rows, tmp_path / "rows.csv")
    cut = write([(name, sequence[30:], label) for name, sequence, label in rows], tmp_path / "cut.csv")
    with pytest.raises(InputError, match="all 27 rows are flagged; drop_flagged leaves no row"):
        fit(cut, parent, tmp_path / "new", "--drop-flagged")
    with pytest.raises(ConfigError, match="drop_flagged with domain off"):
        fit(source, parent, tmp_path / "new", "--drop-flagged", "--domain", "off")
    with pytest.raises(RecordsRejected, match=r"rows.csv:5: tag: 6 residues outside the domain"):
        fit(source, parent, tmp_path / "new", "--domain", "require")
    assert opens == [] and not (tmp_path / "new").exists()
    assert "chains and domains are not checked" in fit(source, parent, tmp_path / "off", "--domain", "off")
    training = open_bundle(tmp_path / "off").manifest.head.training
    assert (
        training is not None
        and training.flagged is None
        and '"flagged"' not in (tmp_path / "off" / "manifest.json").read_text()
    )
    said = fit(source, parent, tmp_path / "trimmed", "--trim", "domain", "--drop-flagged")
    assert "2 of 27 rows are flagged and left out" in said and "id tag" not in said
    training = open_bundle(tmp_path / "trimmed").manifest.head.training
    assert training is not None and (training.rows, training.repeated_sequences) == (25, 1)


def test_standard_input(parent: Path, labelled: Path, tmp_path: Path) -> None:
    arguments = ["-", "--label-column", "label", "--bundle", str(parent), "-o", str(tmp_path / "new"), *QUICK]
    result = CliRunner().invoke(cli.fit, arguments, input=labelled.read_bytes())
    assert result.exit_code == 0, result.stderr
    fit(labelled, parent, tmp_path / "of file")
    heads = [open_bundle(tmp_path / name).manifest.head for name in ("new", "of file")]
    assert [head.source_name for head in heads] == ["standard input", "rows.csv"]
    assert heads[0].source_sha256 == heads[1].source_sha256


# --- The cache.


def entry_of(cache: Path) -> tuple[Path, Path]:
    (array,), (record,) = cache.glob("*.npy"), cache.glob("*.json")
    assert sorted(path.name for path in cache.iterdir()) == sorted([array.name, record.name])
    return array, record


def test_embeddings_are_kept_and_used_again(parent: Path, labelled: Path, tmp_path: Path, opens: list[str]) -> None:
    cache = tmp_path / "cache"
    said = fit(labelled, parent, tmp_path / "a", "--embedding-cache", str(cache))
    assert "embedding 48 sequences, variant fp32 on cpu" in said
    assert [name == "bundle" for name in opens] == [True, False, False]  # the parent, then each variant's check
    array, record = entry_of(cache)
    embedding = np.load(array, allow_pickle=False)
    assert embedding.dtype == np.float32
    assert np.array_equal(embedding, embedded(parent, made_rows()))
    del opens[:]
    said = fit(labelled, parent, tmp_path / "b", "--embedding-cache", str(cache), "--scale")
    assert f"embeddings of 48 sequences from {array}" in said
    assert len(opens) == 2 and "bundle" not in opens
    # Other sequences, another order, another pooling and another variant have separate entries.
    backwards = write(made_rows()[::-1], tmp_path / "backwards.csv")
    fit(backwards, parent, tmp_path / "c", "--embedding-cache", str(cache))
    fit(labelled, parent, tmp_path / "d", "--embedding-cache", str(cache), "--variant", "fp16-weights")
    batches = ("--pooling", "upstream-batch", "--batch-size", "8")
    fit(labelled, parent, tmp_path / "e", "--embedding-cache", str(cache), *batches)
    assert len(list(cache.glob("*.json"))) == 4
    # An array without its record is ignored, because a run may have been stopped before it wrote the record.
    record.unlink()
    assert "embedding 48 sequences" in fit(labelled, parent, tmp_path / "f", "--embedding-cache", str(cache))
    assert record.exists()


def test_a_cache_that_is_not_this_bundles_is_refused(parent: Path, labelled: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cached = ("--embedding-cache", str(cache))
    fit(labelled, parent, tmp_path / "new", *cached)
    array, record = entry_of(cache)
    good, facts = array.read_bytes(), json.loads(record.read_text())

    def refused(error: type[EngineError], message: str) -> None:
        with pytest.raises(error, match=message) as caught:
            fit(labelled, parent, tmp_path / "other", *cached, "--head-out", str(tmp_path / "other.npz"))
        assert caught.value.exit_code == 4 and "Remove " in caught.value.fix
        assert not list(tmp_path.glob("*other*"))

    for field, value in (("bundle_sha256", "0" * 64), ("variant", "int8"), ("onnxruntime", "1.0"), ("rows", 3)):
        changed = facts | {"identity": facts["identity"] | {field: value}}
        record.write_text(json.dumps(changed))
        name = field.removesuffix("_sha256")
        refused(BundleError, rf"{record.name}: the entry's {name} is {value}, expected {facts['identity'][field]}")
    record.write_text("{")
    refused(BundleError, "not an entry of an embedding cache")
    record.write_text(json.dumps(facts))
    array.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    refused(ChecksumMismatch, rf"{array.name}: sha256 [0-9a-f]+, {record.name} says {facts['npy_sha256']}")
    array.unlink()
    refused(BundleError, "missing")


def test_an_array_of_objects_is_never_unpickled(parent: Path, labelled: Path, tmp_path: Path) -> None:
    from abonyx.hashing import file_sha256

    cached = ("--embedding-cache", str(tmp_path / "cache"))
    fit(labelled, parent, tmp_path / "new", *cached)
    array, record = entry_of(tmp_path / "cache")
    for values, message in ((np.array([{}]), "not an array: Object arrays"), (np.zeros((48, 3)), "float64 .48, 3.")):
        np.save(array, values)
        facts = json.loads(record.read_text()) | {"npy_sha256": file_sha256(array)}
        record.write_text(json.dumps(facts))
        with pytest.raises(BundleError, match=message):
            fit(labelled, parent, tmp_path / "other", *cached)
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(parent: Path, labelled: Path, tmp_path: Path, opens: list[str]) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="embedding cache"):
        fit(labelled, parent, tmp_path / "new", "--embedding-cache", str(tmp_path / "cache"))
    assert opens == []


def test_a_cache_that_is_a_file(parent: Path, labelled: Path, tmp_path: Path, opens: list[str]) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ConfigError, match=r"embedding cache .* cannot be used: File exists"):
        fit(labelled, parent, tmp_path / "new", "--embedding-cache", str(tmp_path / "cache"))
    assert opens == [] and not (tmp_path / "new").exists()


# --- Refusals, before any model is opened and without any output.


def relabelled(*counts: int) -> Rows:
    """Rows with these numbers of class 0 and class 1."""
    rows = made_rows(sum(counts))
    return [(name, sequence, str(int(index >= counts[0]))) for index, (name, sequence, _) in enumerate(rows)]


def with_label(label: str) -> Rows:
    rows = made_rows()
    return [*rows[:5], (rows[5][0], rows[5][1], label), *rows[6:]]


BAD_ROWS: dict[str, tuple[Rows, type[EngineError], str]] = {
    "a single member": (relabelled(20, 1), InputError, "only one of 21 rows has class 1"),
    "all equal": (relabelled(20, 0), InputError, "all 20 labels are 0"),
    "one row": (relabelled(0, 1), InputError, "all 1 labels are 1"),
    "fewer rows than folds": (relabelled(2, 2), InputError, "class 0 has 2 rows of 4, --cv 3 needs at least 3"),
    "a class smaller than folds": (relabelled(20, 2), InputError, "class 1 has 2 rows of 22, --cv 3 needs at least 3"),
    "nan": (with_label("nan"), RecordsRejected, "rows.csv:7: m5: no label"),
    "NaN": (with_label("NaN"), RecordsRejected, "rows.csv:7: m5: no label"),
    "blank": (with_label(""), RecordsRejected, "rows.csv:7: m5: no label"),
    "two": (with_label("2"), RecordsRejected, "rows.csv:7: m5: the label is '2', not 0 or 1"),
    "no rows": ([], InputError, "rows.csv"),
}
BAD_OPTIONS: dict[str, tuple[tuple[str, ...], type[EngineError], str]] = {
    "C is a word": (("--C", "1,big"), ConfigError, "--C 1,big: could not convert"),
    "no C": (("--C", " , "), ConfigError, "--C has no value"),
    "C is 0": (("--C", "0,1"), ConfigError, "--C has 0"),
    "C below 0": (("--C", "-1"), ConfigError, "--C has -1"),
    "C infinite": (("--C", "inf"), ConfigError, "--C has inf"),
    "C is nan": (("--C", "nan"), ConfigError, "--C has nan"),
    "C twice": (("--C", "1,1.0"), ConfigError, "a value appears twice"),
    "one fold": (("--cv", "1"), ConfigError, "--cv is 1"),
    "no seeds": (("--cv-seeds", "0"), ConfigError, "--cv-seeds is 0"),
    "seed below 0": (("--seed", "-1"), ConfigError, "--seed -1"),
    "seed too large": (("--seed", "4294967295"), ConfigError, "seeds 4294967295 to 4294967296 are used"),
    "no such variant": (("--variants", "fp32,int8"), ConfigError, "no variant 'int8'"),
    "no variants": (("--variants", ","), ConfigError, "--variants names no variant"),
    "variant twice": (("--variants", "fp32,fp32"), ConfigError, "a variant appears twice"),
    "variant to embed with": (("--variant", "int8"), ConfigError, "no variant 'int8'"),
    "no such column": (("--label-column", "binder"), InputError, "binder"),
    "batches without a size": (("--pooling", "upstream-batch"), ConfigError, "batch_size is None"),
    "head-out without suffix": (("--head-out", "head"), ConfigError, "not an .npz file"),
    "head-out nowhere": (("--head-out", "no/where/head.npz"), ConfigError, "there is no directory"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_cannot_be_fitted(case: str, parent: Path, tmp_path: Path, opens: list[str]) -> None:
    rows, error, message = BAD_ROWS[case]
    source = write(rows, tmp_path / "rows.csv")
    with pytest.raises(error) as caught:
        fit(source, parent, tmp_path / "new", "--head-out", str(tmp_path / "head.npz"))
    assert message in caught.value.text(Interface.COMMAND_LINE) and caught.value.fix and caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == [source] and opens == []


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_options_that_are_refused(case: str, parent: Path, labelled: Path, tmp_path: Path, opens: list[str]) -> None:
    flags, error, message = BAD_OPTIONS[case]
    with pytest.raises(error) as caught:
        fit(labelled, parent, tmp_path / "new", *flags)
    assert message in caught.value.text(Interface.COMMAND_LINE) and caught.value.fix
    assert list(tmp_path.iterdir()) == [] and opens == []


def test_outputs_that_are_refused(parent: Path, labelled: Path, tmp_path: Path, opens: list[str]) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="taken: exists already"):
        fit(labelled, parent, tmp_path / "taken")
    with pytest.raises(ConfigError, match=r"rows\.csv is not a writable directory"):
        fit(labelled, parent, labelled / "where")
    with pytest.raises(ConfigError, match="would be inside the new bundle"):
        fit(labelled, parent, tmp_path / "taken.npz", "--head-out", str(tmp_path / "taken.npz"))
    with pytest.raises(ConfigError, match="there is no directory"):
        fit(labelled, parent, tmp_path / "new", "--head-out", str(tmp_path / "new" / "head.npz"))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"] and opens == []


def edited(parent: Path, copy: Path, edit: Any) -> Path:
    shutil.copytree(parent, copy)
    facts = json.loads((copy / "manifest.json").read_text())
    edit(facts)
    (copy / "manifest.json").write_text(json.dumps(facts))
    return copy


def test_parents_that_are_refused(parent: Path, labelled: Path, tmp_path: Path, opens: list[str]) -> None:
    forest = edited(parent, tmp_path / "forest", lambda facts: facts["heads"][0].update(kind="forest"))
    with pytest.raises(BundleError, match="head kind, unit or training_sd: has values that an export never writes"):
        fit(labelled, forest, tmp_path / "new")
    unchecked = edited(parent, tmp_path / "unchecked", lambda facts: facts["variants"]["fp32"].update(parity=None))
    with pytest.raises(BundleError, match="variant fp32 was never checked"):
        fit(labelled, unchecked, tmp_path / "new")
    damaged = Path(shutil.copytree(parent, tmp_path / "damaged"))
    weights = damaged / "fp16-weights" / "model.onnx.data"  # not the variant that embeds
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ChecksumMismatch, match="fp16-weights"):
        fit(labelled, damaged, tmp_path / "new")
    linked = Path(shutil.copytree(parent, tmp_path / "linked"))
    (linked / "fp32" / "model.onnx.data").unlink()
    (linked / "fp32" / "model.onnx.data").symlink_to(parent / "fp32" / "model.onnx.data")
    with pytest.raises(BundleError, match="symbolic link"):
        fit(labelled, linked, tmp_path / "new")
    with pytest.raises(BundleError, match="no such bundle"):
        fit(labelled, tmp_path / "none", tmp_path / "new")
    assert not list(tmp_path.glob("*new*")) and opens == []


def test_the_session_slot_is_needed(parent: Path, labelled: Path, tmp_path: Path) -> None:
    with abonyx.open_session(), pytest.raises(SessionInUse):
        fit(labelled, parent, tmp_path / "new", "--embedding-cache", str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").iterdir())
    assert not list(tmp_path.glob("*new*"))


@pytest.mark.parametrize(("flags", "advised"), [((), True), (("--scale",), False)])
def test_a_regression_that_does_not_converge(
    flags: tuple[str, ...],
    advised: bool,
    parent: Path,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cross_validation, "MAX_ITERATIONS", 1)
    with pytest.raises(ConfigError, match="grid 1: the regression did not converge in 1 iterations") as caught:
        fit(labelled, parent, tmp_path / "new", "--head-out", str(tmp_path / "head.npz"), *flags)
    assert ("scale=True" in caught.value.fix) == advised
    assert list(tmp_path.iterdir()) == []


def test_a_variant_over_its_limit(parent: Path, labelled: Path, tmp_path: Path) -> None:
    def tighten(facts: dict[str, Any]) -> None:
        facts["variants"]["fp16-weights"]["limits"].update(p=1e-12, logit=4e-12)

    strict = edited(parent, tmp_path / "strict", tighten)
    head_out = ("--head-out", str(tmp_path / "head.npz"))
    with pytest.raises(ParityError, match=r"variant fp16-weights: .* limit \de-12") as caught:
        fit(labelled, strict, tmp_path / "new", *head_out)
    assert all(advice in caught.value.fix for advice in ("smaller grid", "scale=True", "variants"))
    assert caught.value.exit_code == 6
    assert [path.name for path in tmp_path.iterdir()] == ["strict"]
    fit(labelled, strict, tmp_path / "new", *head_out, "--variants", "fp32")
    assert (tmp_path / "head.npz").exists()


def test_only_the_rounding_error_of_the_embedding_is_kept(parent: Path) -> None:
    bundle = open_bundle(parent)
    variant = bundle.manifest.variants["fp32"]
    assert variant.parity is not None
    cost = Difference(max=1e-3, mean=1e-4)
    record = msgspec.structs.replace(variant.parity, weight_rounding=dict.fromkeys(("embedding", "logit", "p"), cost))
    variants = {"fp16": msgspec.structs.replace(variant, parity=record), "fp32": variant}
    manifest = msgspec.structs.replace(bundle.manifest, variants=variants)
    golden = bundle.golden()
    references = [assembly._reference(manifest, name, golden, same_first=False) for name in variants]
    assert [reference.rounding for reference in references] == [{"embedding": cost}, None]


def test_the_smallest_c_is_chosen_among_equal_candidates() -> None:
    scores = np.full((2, 3), 0.5)
    candidates = [cross_validation._candidate(c, scores, scores) for c in (10.0, 0.1, 1.0)]
    assert cross_validation.choose(candidates).c == 0.1
    better = cross_validation._candidate(5.0, scores, scores + 0.1)
    assert cross_validation.choose([*candidates, better]).c == 5.0
    single = cross_validation._candidate(1.0, scores[:1], scores[:1])
    assert single.roc_auc_seed_sd is None and "(" not in cross_validation.table([single])[1]


@pytest.mark.parametrize(("flags", "code"), [((), 0), (("--C", "0"), 2), (("--label-column", "none"), 3)])
def test_exit_codes(
    flags: tuple[str, ...],
    code: int,
    parent: Path,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["abonyx", "fit", str(labelled), "--label-column", "label", "--bundle", str(parent)]
    monkeypatch.setattr(sys, "argv", [*command, "-o", str(tmp_path / "new"), *QUICK, *flags])
    if code:
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == code
        assert capsys.readouterr().err.startswith("abonyx: ")
    else:
        main()
    assert (tmp_path / "new").exists() == (code == 0)


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "optimum", "safetensors", "huggingface_hub"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
import abonyx.cli
sys.argv = ["abonyx", "fit", *sys.argv[1:]]
abonyx.cli.main()
"""


def test_neither_torch_nor_transformers_is_imported(
    labelled: Path, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABONYX_BUNDLE", str(mini))
    arguments = [str(labelled), "--label-column", "label", "-o", str(tmp_path / "new"), *QUICK]
    command = [sys.executable, "-c", BLOCKED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert open_bundle(tmp_path / "new").manifest.encoder == open_bundle(MINI).manifest.encoder


def test_without_the_extra_the_command_says_what_to_install(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = {"fit": ("fit", {"scipy": "scipy", "nobody-has-it": "a_package_nobody_has"})}
    monkeypatch.setattr(extras, "_NEEDED", needed)
    with pytest.raises(ConfigError, match=r"fit needs nobody-has-it \(not installed") as caught:
        fit(labelled, MINI, tmp_path / "new")
    assert "Install the extra fit: pip install " in caught.value.fix


def test_a_bundle_exported_without_a_head_embeds_and_is_fitted(
    checkpoint: CheckpointMaker, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    export_bundle(ExportRequest(encoder=str(checkpoint("esm1v")), output=bare, variants=("fp32",)))
    assert "no head yet" in open_bundle(bare).label()
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(bare))) as session:
        assert session.embed(["EVQL"]).shape == (1, 32)
        with pytest.raises(BundleError, match=r"exported without a head(.|\n)*abonyx fit"):
            session.score(["EVQL"])
    with pytest.raises(SystemExit) as exit_, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv", ["abonyx", "score", str(labelled), "-o", str(tmp_path / "o.csv"), "--bundle", str(bare)]
        )
        main()
    assert exit_.value.code == 4
    assert "exported without a head" in capsys.readouterr().err
    assert not (tmp_path / "o.csv").exists()
    fit(labelled, bare, tmp_path / "fitted")
    assert "no head yet" not in open_bundle(tmp_path / "fitted").label()
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(tmp_path / "fitted"))) as session:
        assert np.isfinite(session.score(["EVQLVESGG"])).all()


def test_a_head_that_scores_everything_the_same_is_refused(parent: Path, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"gives all \d+ golden rows the same logit"):
        fit(labelled, parent, tmp_path / "new", "--C", "1e-30")
    assert not list(tmp_path.iterdir())


def test_the_same_input_from_file_gzip_or_stdin_gives_the_same_head(
    parent: Path, labelled: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    shutil.copy(labelled, other)
    for source, output in ((labelled, "a"), (other, "b")):
        fit(source, parent, tmp_path / output)
    heads = [(tmp_path / output / "head.onnx").read_bytes() for output in "ab"]
    assert heads[0] == heads[1]


def test_the_cache_depends_on_the_content_not_on_the_bundles_path(
    parent: Path, labelled: Path, tmp_path: Path, opens: list[str]
) -> None:
    copy = Path(shutil.copytree(parent, tmp_path / "copy"))
    cache = ("--embedding-cache", str(tmp_path / "cache"))
    fit(labelled, parent, tmp_path / "a", *cache)
    fit(labelled, copy, tmp_path / "b", *cache)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_a_user_without_a_home_must_name_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("abonyx.cache.cache_dir", lambda: None)
    with pytest.raises(ConfigError, match=r"(?s)HOME is not set.*embedding_cache"):
        fit_module.embedding_cache(None)
    assert fit_module.embedding_cache(tmp_path) == tmp_path
