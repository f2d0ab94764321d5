"""nearest_identity: identity to the closest training row, only for heads with stored sequences."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx.bundle import open_bundle
from abonyx.bundle.chosen import choose_heads
from abonyx.bundle.training_rows import TRAINING_SEQUENCES_NAME, training_sequences, write_training_sequences
from abonyx.card.identity import identity_blocks, identity_with, number_rows
from abonyx.domain.numbering import imgt_positions
from abonyx.errors import BundleError

from ...conftest import EXAMPLES, MINI
from ..domain.proteins import GFP, KAPPA, NANOBODY, VH

CHANGED = VH[:59] + "S" + VH[60:]  # one of 120 residues
WITH_X = VH[:30] + "X" + VH[31:]
TRAINING = [VH, NANOBODY, WITH_X]
NEAREST = round(100 * 119 / 120, 1)


def stored(directory: Path, source: Path = MINI, name: str = TRAINING_SEQUENCES_NAME) -> Path:
    """A copy of a bundle that stores TRAINING."""
    bundle = Path(shutil.copytree(source, directory))
    path = bundle / name
    write_training_sequences(TRAINING, path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    data = path.read_bytes()
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("stored") / "bundle")


def test_identity_is_the_cards_own() -> None:
    sequences = [VH, CHANGED, NANOBODY, KAPPA]
    ((_, expected),) = identity_blocks(number_rows([sequences]))
    numbered = [imgt_positions(each) for each in sequences]
    found = identity_with(numbered[:2], numbered)
    assert np.allclose(found, expected[:2]) and found[1, 0] == pytest.approx(100 * 119 / 120)
    assert (identity_with([{}], numbered) == 0).all()


def test_values_counted_by_hand(run: Any, bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    rows = {"same": VH, "one": CHANGED, "tagged": f"{VH}HHHHHH", "x": WITH_X, "gfp": GFP[:140]}
    source.write_text("id,sequence\n" + "".join(f"{name},{each}\n" for name, each in rows.items()))
    out = tmp_path / "out.csv"
    done = run("score", source, "-o", out, "--bundle", bundle, "--with", "nearest_identity,length")
    assert done.code == 0, done.err
    with out.open(newline="") as file:
        found = {row["id"]: row["nearest_identity"] for row in csv.DictReader(file)}
    assert found == {"same": "100.0", "one": str(NEAREST), "tagged": "100.0", "x": "100.0", "gfp": ""}
    assert f"of head nonspecificity in {TRAINING_SEQUENCES_NAME}" in run("inspect", bundle).out


def test_python_frames_and_http(bundle: Path) -> None:
    pd = pytest.importorskip("pandas")
    scored = abonyx.score_frame(pd.DataFrame({"VH": [CHANGED]}), config=bundle, with_columns="nearest_identity")
    assert scored["nearest_identity"].tolist() == pytest.approx([NEAREST])
    chosen = choose_heads(open_bundle(bundle), None, with_columns=["nearest_identity"])
    assert pickle.loads(pickle.dumps(chosen)).heads[0].training == tuple(sorted(TRAINING))
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from ..serve.serving import service

    with service(abonyx.RuntimeConfig(bundle=str(bundle))) as running:
        (row,) = running.score([CHANGED], **{"with": ["nearest_identity"]}).json["results"]
        assert row["added"] == {"nearest_identity": NEAREST}


def test_without_the_sequences_it_is_refused_with_the_reason(run: Any, bare: Path, tmp_path: Path) -> None:
    options = ("--bundle", bare, "--with", "nearest_identity")
    done = run("score", EXAMPLES, "-o", tmp_path / "out.csv", *options)
    assert done.code == 2
    assert "--with nearest_identity: abonyx-mini does not store the training sequences of head nonspec" in done.err
    assert "Fit the head with --store-sequences: `abonyx fit` stores its sequences only on request." in done.err
    off = run("score", EXAMPLES, "-o", tmp_path / "out.csv", *options, "--domain", "off")
    assert off.code == 2 and "these columns need the domain" in off.err


def test_each_head_has_its_own(run: Any, tmp_path: Path) -> None:
    from ..several import make_several

    several = make_several(tmp_path / "several", ("nonspecificity", "psr"))
    both = stored(tmp_path / "both", several, "training_sequences.psr.txt")
    refused = run("score", EXAMPLES, "-o", tmp_path / "a.csv", "--bundle", both, "--with", "nearest_identity")
    assert refused.code == 2 and "of head nonspecificity" in refused.err
    options = ("--bundle", both, "--heads", "psr", "--with", "nearest_identity")
    assert run("score", EXAMPLES, "-o", tmp_path / "b.csv", *options).code == 0
    assert (tmp_path / "b.csv").read_text().splitlines()[0].endswith(",psr_nearest_identity")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    bundle = stored(tmp_path / "bundle")
    (bundle / TRAINING_SEQUENCES_NAME).write_text("EVQL\n")
    with pytest.raises(BundleError, match=TRAINING_SEQUENCES_NAME):
        training_sequences(open_bundle(bundle), "nonspecificity")
