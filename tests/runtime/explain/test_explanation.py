"""`abonyx explain`: tables that sum to the score, pictures, and inputs that are refused."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from abonyx import open_session
from abonyx.bundle import open_bundle
from abonyx.bundle.tolerances import CONTRIBUTION_SUM_GOAL
from abonyx.contributions import ChainContributions, Contributions
from abonyx.engine import slot
from abonyx.errors import ConfigError
from abonyx.explain import explanation
from abonyx.explain.explained import Explained, ExplainedChain
from abonyx.explain.places import places
from abonyx.run.request import prepare

from ...conftest import MINI
from ..paired import make_paired
from ..several import make_several

TRASTUZUMAB = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYC"
    "SRWGGDGFYAMDYWGQGTLVTVSS"
)
TRASTUZUMAB_LIGHT = (
    "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _table(path: Path, rows: list[tuple[str, ...]]) -> Path:
    path.write_text("\n".join(",".join(row) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def two(tmp_path: Path, sequences: list[str]) -> Path:
    return _table(tmp_path / "two.csv", [("id", "sequence"), ("her2/VH", TRASTUZUMAB), ("her2/VH", sequences[1])])


def test_tables_sum_to_the_score(run: Any, two: Path, tmp_path: Path, sequences: list[str]) -> None:
    done = run("explain", two, "-o", tmp_path / "out", "--no-pictures")
    assert done.code == 0, done.err
    assert "2 records explained, 0 rejected" in done.err
    residues, records = _read(tmp_path / "out" / "contributions.csv"), _read(tmp_path / "out" / "records.csv")
    regions = _read(tmp_path / "out" / "regions.csv")
    assert list(residues[0]) == ["id", "chain", "position", "imgt", "region", "residue", "nonspecificity", "record"]
    assert [row["record"] for row in records] == ["1", "2"] and records[0]["id"] == records[1]["id"]
    assert "".join(row["residue"] for row in residues) == TRASTUZUMAB + sequences[1]
    own = residues[: len(TRASTUZUMAB)]
    assert [row["position"] for row in own] == [str(at) for at in range(1, len(TRASTUZUMAB) + 1)]
    (cysteine,) = [row for row in own if row["imgt"] == "104"]
    assert (cysteine["residue"], cysteine["region"], cysteine["position"]) == ("C", "FR3", "96")
    with open_session() as session:
        (p,) = session.score([TRASTUZUMAB])
    first = records[0]
    added = sum(float(row["nonspecificity"]) for row in own)
    assert float(first["nonspecificity_contributions"]) == pytest.approx(added, abs=CONTRIBUTION_SUM_GOAL)
    logit = float(first["nonspecificity_baseline"]) + added
    assert float(first["nonspecificity_logit"]) == pytest.approx(logit, abs=CONTRIBUTION_SUM_GOAL)
    assert float(first["nonspecificity_p"]) == pytest.approx(p, abs=1e-6)
    assert (first["charge"], first["pI"], first["flag"]) == ("1.04", "8.75", "")
    of_first = [row for row in regions if row["id"] == "her2/VH"][:7]
    assert [row["region"] for row in of_first] == ["FR1", "CDR1", "FR2", "CDR2", "FR3", "CDR3", "FR4"]
    assert sum(int(row["residues"]) for row in of_first) == len(TRASTUZUMAB)
    assert sum(float(row["nonspecificity"]) for row in of_first) == pytest.approx(added, abs=CONTRIBUTION_SUM_GOAL)
    facts = json.loads((tmp_path / "out" / "explanation.json").read_text(encoding="utf-8"))
    assert "not the effect of a mutation" in facts["what"] and facts["units"] == {"nonspecificity": "logits"}


def test_the_summary_names_the_model(run: Any, two: Path, tmp_path: Path) -> None:
    one = _table(tmp_path / "one.csv", [("id", "sequence"), ("her2", TRASTUZUMAB)])
    done = run("explain", one, "-o", tmp_path / "out", "--no-pictures")
    assert "1 record explained, 0 rejected" in done.err
    assert "model: abonyx-mini (" in done.err
    assert "note: this is the small model that ships with abonyx" in done.err


def test_pictures_are_one_a_record_whatever_its_id(run: Any, two: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra explain is not installed")
    done = run("explain", two, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    names = sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir())
    assert names == ["001-her2_VH.png", "001-her2_VH.svg", "002-her2_VH.png", "002-her2_VH.svg"]
    assert (tmp_path / "out" / "pictures" / names[0]).read_bytes().startswith(b"\x89PNG")
    again = run("explain", two, "-o", tmp_path / "again")
    assert again.code == 0
    for name in names:
        picture = (tmp_path / "out" / "pictures" / name).read_bytes()
        assert picture == (tmp_path / "again" / "pictures" / name).read_bytes()


def test_heads_and_chains(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra explain is not installed")
    bundle = make_paired(tmp_path / "paired")
    rows = [("id", "heavy", "light"), ("her2", TRASTUZUMAB, TRASTUZUMAB_LIGHT)]
    source = _table(tmp_path / "pairs.csv", rows)
    done = run("explain", source, "-o", tmp_path / "out", "--bundle", bundle, "--heads", "psr,hic,light")
    assert done.code == 0, done.err
    residues = _read(tmp_path / "out" / "contributions.csv")
    assert {row["chain"] for row in residues} == {"H", "L"}
    assert all((row["light"] == "") == (row["chain"] == "H") for row in residues)
    (record,) = _read(tmp_path / "out" / "records.csv")
    assert record.keys() >= {"heavy_charge", "light_pI", "hic_value", "psr_p", "light_logit"}
    assert "hic_p" not in record
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2


def test_a_linear_head_is_in_its_unit(run: Any, two: Path, tmp_path: Path) -> None:
    bundle = make_several(tmp_path / "several", ("nonspecificity", "hic"))
    done = run("explain", two, "-o", tmp_path / "out", "--bundle", bundle, "--heads", "all", "--no-pictures")
    assert done.code == 0, done.err
    facts = json.loads((tmp_path / "out" / "explanation.json").read_text(encoding="utf-8"))
    assert facts["units"] == {"nonspecificity": "logits", "hic": "min"}


def test_the_end_token_has_a_row_under_upstream_batch(run: Any, two: Path, tmp_path: Path) -> None:
    options = ("--pooling", "upstream-batch", "--batch-size", 2, "--no-pictures")
    assert run("explain", two, "-o", tmp_path / "out", *options).code == 0
    rows = _read(tmp_path / "out" / "contributions.csv")
    ends = [row for row in rows if row["region"] == "end token"]
    assert len(ends) == 1 and ends[0]["position"] == "" and float(ends[0]["nonspecificity"]) != 0
    records = _read(tmp_path / "out" / "records.csv")
    added = sum(float(row["nonspecificity"]) for row in rows)
    assert sum(float(row["nonspecificity_contributions"]) for row in records) == pytest.approx(added, abs=2e-5)


def test_a_flagged_record_keeps_its_flag_and_has_no_region(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra explain is not installed")
    source = _table(tmp_path / "odd.csv", [("id", "sequence"), ("gfp", "MSKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYG")])
    done = run("explain", source, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    (record,) = _read(tmp_path / "out" / "records.csv")
    assert record["flag"] and (record["charge"], record["pI"]) == ("", "")
    assert {row["region"] for row in _read(tmp_path / "out" / "regions.csv")} == {"outside"}


def test_what_is_refused_leaves_nothing(run: Any, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = _table(tmp_path / "many.csv", [("id", "sequence"), *((f"r{at}", TRASTUZUMAB) for at in range(201))])
    done = run("explain", many, "-o", tmp_path / "out")
    assert done.code != 0 and "201 records: pictures of at most 200 records" in done.err and "--no-pictures" in done.err
    done = run("explain", two, "-o", tmp_path / "out", "--heads", "hic")
    assert done.code != 0 and "hic" in done.err
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run("explain", two, "-o", tmp_path / "out")
    assert done.code == 0
    assert "note: pictures are left out: " in done.err and "Install the extra explain: pip install " in done.err
    assert not (tmp_path / "out" / "pictures").exists()
    done = run("explain", two, "-o", tmp_path / "out", "--no-pictures")
    assert done.code != 0 and "exists already" in done.err


def test_an_error_while_it_writes_leaves_no_model_open(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(explanation, "_residue_rows", fail)
    request = explanation.ExplanationRequest(two, tmp_path / "out", None, pictures=False)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        explanation.explain_file(request, prepare())
    assert slot.holder() is None and not (tmp_path / "out").exists()


def test_the_picture_has_one_scale_and_names_what_lies_outside() -> None:
    pytest.importorskip("matplotlib", reason="the extra explain is not installed")
    from matplotlib.figure import Figure

    from abonyx.explain import bars

    head = open_bundle(MINI).manifest.head
    head = msgspec.structs.replace(head, chains=["H", "L"])
    chains = []
    for name, sequence, size in (("H", TRASTUZUMAB + "HHHHHH", 0.02), ("L", TRASTUZUMAB_LIGHT, 0.04)):
        part = ChainContributions(name, np.full((len(sequence), 1), size, np.float32), np.zeros(1, np.float32))
        chains.append(ExplainedChain(part, places(sequence), None, None))
    known = Contributions((head.name,), np.zeros(1), np.zeros(1), tuple(chain.part for chain in chains))
    record = Explained("her2", known, tuple(chains), "")
    drawn = []
    for chain in chains:
        axes = Figure().subplots()
        bars._paint(axes, chain, 0, head, bars._largest(record, 0, head))
        drawn.append((axes.get_ylim(), [text.get_text() for text in axes.texts]))
    assert drawn[0][0] == drawn[1][0]
    assert "outside" in drawn[0][1] and "outside" not in drawn[1][1]
    assert all(bars.draw_record(record, [head]))
