"""training/: the card agrees with the records, and the corpus has no rows that are similar to test rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from abonyx.bundle import open_bundle

from ..conftest import MINI, REPOSITORY

RECORDS = REPOSITORY / "training" / "records"


def record(name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((RECORDS / f"{name}.json").read_text())
    return found


def test_the_card_is_of_the_shipped_bundle_and_quotes_its_record() -> None:
    pytest.importorskip("torch", reason="training/ needs the export extra")
    pytest.importorskip("matplotlib")
    import card

    figures = record("card")
    mini = figures["mini"]
    assert isinstance(mini, dict)
    bundle = open_bundle(MINI)
    shipped = {name: bundle.manifest.files[name].sha256 for name in card.MODEL_FILES}
    assert mini["model_files"] == shipped
    text = (MINI / "README.md").read_text(encoding="utf-8")
    assert card.table(figures) in text
    parity = bundle.manifest.variants["fp16-weights"].parity
    assert parity is not None
    assert f"{parity.max_p:.1e}".replace("e-0", "e-") in text


def test_the_shipped_scores_agree_with_the_shipped_cross_validation() -> None:
    training = open_bundle(MINI).manifest.head.training
    assert training is not None and training.scores is not None
    half = training.scores.bin_edges.index(0.5)
    right = sum(training.scores.specific[:half]) + sum(training.scores.nonspecific[half:])
    (candidate,) = training.candidates
    assert candidate.accuracy_seed_sd is not None
    assert abs(right / training.rows - candidate.accuracy_mean) < 3 * candidate.accuracy_seed_sd


def test_the_shipped_seed_is_the_median_of_five() -> None:
    pytest.importorskip("torch", reason="training/ needs the export extra")
    import choose

    seeds = record("seeds")
    runs = seeds["runs"]
    assert isinstance(runs, dict) and len(runs) == 5
    areas = {
        run["training"]["seed"]: choose.setting_of(run, seeds["chosen"])["roc_auc"]  # type: ignore[arg-type]
        for run in runs.values()
    }
    shipped = record("pretrain")
    assert areas[shipped["seed"]] == np.median(list(areas.values()))
    assert sorted(areas) == [10, 11, 12, 13, 14]
    recipes = [run["training"]["recipe"] for run in runs.values()]
    assert all(recipe == shipped["recipe"] for recipe in recipes)


def test_near_duplicates_of_test_sequences_are_found() -> None:
    pytest.importorskip("rapidfuzz")
    import corpus

    test = "EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQ"
    four_changed = test.replace("EVQL", "QWQM").replace("DDYAMH", "SDYAMH")
    five_changed = four_changed.replace("HIDY", "HIDW")
    cases = [test, test[15:], f"{test}WGQGT", four_changed, five_changed, test[::-1]]
    # 82 residues: 4 changes leave 95.1 % identical, 5 leave 93.9 %
    assert corpus.near(cases, [test, "A" * 100]).tolist() == [True, True, True, True, False, False]


def test_the_corpus_holds_no_row_of_the_non_commercial_sets() -> None:
    kept = record("corpus")["kept_by_source"]
    assert isinstance(kept, dict)
    assert not [source for source in kept if source.startswith(("avida", "vhhcorpus"))]
    assert record("corpus")["longest_residues"] == open_bundle(MINI).manifest.max_residues


def test_the_panels_have_only_complete_human_domains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: Path
) -> None:
    import gzip
    import sys

    import panels

    examples = (REPOSITORY / "examples" / "therapeutic_vh.csv").read_text(encoding="utf-8").splitlines()[1:]
    sequences = [line.split(",")[1] for line in examples]
    sequences += [sequence[:9] + "T" + sequence[10:] for sequence in sequences]
    data = tmp_path / "data"
    (data / "jain").mkdir(parents=True)
    (data / "repertoire").mkdir()
    rows = "".join(f"r{at},{sequence}\n" for at, sequence in enumerate(sequences))
    (data / panels.CLINICAL).write_text(f"id,sequence\n{rows}", encoding="utf-8")
    wanted = [f"{at},{each[:4]}I{each[5:]},VH,{panels.STUDY}" for at, each in enumerate(sequences)]
    others = [f"x,{sequences[0]},VHH,tnp_vhh_oas", f"y,{sequences[1][15:]},VH,oas_briney2019_igm"]
    table = "\n".join(["id,sequence,domain,source", *others, *wanted])
    (data / panels.REPERTOIRE).write_bytes(gzip.compress(table.encode()))
    assert {id_ for id_, _ in panels.repertoire_sample(data / panels.REPERTOIRE)} == {str(at) for at in range(24)}
    output = tmp_path / "new"
    monkeypatch.setattr(sys, "argv", ["panels.py", str(bare), str(data), "-o", str(output)])
    panels.main()
    assert [(each.name, each.rows) for each in open_bundle(output).manifest.panels] == [
        ("clinical", 24),
        ("repertoire", 24),
    ]
