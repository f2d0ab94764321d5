"""The heads of one bundle over HTTP: each answer has the values of the requested heads only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.bundle.tolerances import BATCH_NEIGHBOURS  # noqa: E402
from abonyx.config import RuntimeConfig  # noqa: E402

from ..domain.proteins import KAPPA, VH  # noqa: E402
from ..several import make_several  # noqa: E402
from .serving import CSV, Running, at_once, refused, service  # noqa: E402

ORDER = ("nonspecificity", "hic", "psr")
# Tolerance of values of "hic", whose sd is some minutes.
CLOSE = {"rtol": 0, "atol": 50 * BATCH_NEIGHBOURS}
PSR = ["psr_p", "psr_nonspecific", "psr_call", "psr_percentile"]
HIC = ["hic_value", "hic_percentile"]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_several(tmp_path_factory.mktemp("heads") / "several", ORDER)


@pytest.fixture(scope="module")
def shared(several: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        with service(RuntimeConfig(bundle=str(several))) as running:
            yield running


@pytest.fixture(autouse=True)
def isolated() -> None:
    """Replaces conftest's fixture: the module's service keeps its session open."""


CHOICES: dict[str, tuple[Any, list[str]]] = {
    "the first": (None, []),
    "the first by name": (["nonspecificity"], []),
    "all": ("all", [*HIC, *PSR]),
    "all in a list": (["all"], [*HIC, *PSR]),
    "in another order": (["psr", "nonspecificity"], PSR),
    "others alone": (["psr", "hic"], [*PSR, *HIC]),
}


@pytest.mark.parametrize("case", CHOICES)
def test_results_have_the_heads_that_are_named(case: str, shared: Running, sequences: list[str]) -> None:
    names, columns = CHOICES[case]
    answer = shared.score(sequences, heads=names).json
    expected = dict(zip(ORDER, shared.session.score(sequences, ORDER).T, strict=True))
    with_first = names is None or names == "all" or "all" in names or "nonspecificity" in names
    for at, row in enumerate(answer["results"]):
        assert list(row.get("heads", {})) == columns
        if with_first:
            np.testing.assert_allclose(row["p_nonspecific"], expected["nonspecificity"][at], **CLOSE)
            assert row["nonspecific"] == int(row["p_nonspecific"] > 0.5)
        else:
            assert row["p_nonspecific"] is None and row["nonspecific"] is None and row["call"] is None
        for column in columns:
            if column == "psr_nonspecific":
                assert row["heads"][column] == int(row["heads"]["psr_p"] > 0.5)
            elif column.endswith("percentile"):
                assert row["heads"][column] is None, "there is no panel"
            elif column == "psr_call":
                assert row["heads"][column] == ("non-specific" if row["heads"]["psr_p"] > 0.5 else "specific")
            else:
                np.testing.assert_allclose(row["heads"][column], expected[column.rpartition("_")[0]][at], **CLOSE)
    assert answer["threshold"] == (0.5 if with_first else None)
    facts = {each["name"]: each for each in answer["heads"]}
    if "hic_value" in columns:
        wanted = {"name": "hic", "kind": "linear", "unit": "min", "higher_is_worse": True}
        assert facts["hic"] == wanted | {"threshold": None, "band": None, "chains": ["H"]}


def test_a_file_names_them_in_its_query(shared: Running) -> None:
    body = f"id,sequence\na,{VH}\nb,{KAPPA}\n".encode()
    (heavy, light) = shared.ask("POST", "/v1/score?heads=hic,%20psr", body, CSV).json["results"]
    assert list(heavy["heads"]) == [*HIC, *PSR]
    assert heavy["heads"]["psr_nonspecific"] in (0, 1)
    assert light["flag"] and light["heads"]["psr_nonspecific"] is None and light["heads"]["psr_p"] > 0
    assert light["heads"]["psr_call"] is None
    assert shared.ask("POST", "/v1/score?heads=all", body, CSV).json["heads"][0]["name"] == ORDER[0]


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ({"heads": ["binding"]}, "heads: several has no head 'binding'"),
        ({"heads": ["hic", "hic"]}, "heads: hic is given twice"),
        ({"heads": []}, "heads is empty"),
        ({"heads": "hic"}, "allowed: 'all', a list, null"),
        ({"heads": 3}, "$.heads"),
        (
            {"heads": ["hic"], "threshold": 0.3},
            "threshold is only for the first head of several, nonspecificity, which is not",
        ),
    ],
)
def test_heads_that_are_refused(asked: dict[str, Any], part: str, shared: Running) -> None:
    refused(shared.score([VH], **asked), 422, part)


def test_requests_for_different_heads_share_batches(shared: Running, sequences: list[str]) -> None:
    choices: list[Any] = [["hic"], ["psr"], None, "all"]
    expected = dict(zip(ORDER, shared.session.score(sequences, ORDER).T, strict=True))

    def ask(number: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = shared.score(sequences, heads=choices[number % 4]).json["results"]
        return found

    for number, rows in enumerate(at_once(ask, 8)):
        name = ("hic", "psr", "nonspecificity", "hic")[number % 4]
        column = {"hic": "hic_value", "psr": "psr_p"}.get(name)
        values = [row["heads"][column] if column else row["p_nonspecific"] for row in rows]
        np.testing.assert_allclose(values, expected[name], **CLOSE)


def test_the_model_names_its_heads(shared: Running) -> None:
    found = shared.ask("GET", "/v1/model").json["heads"]
    assert [(head["name"], head["kind"], head["unit"], head["threshold"]) for head in found] == [
        ("nonspecificity", "logistic", None, 0.5),
        ("hic", "linear", "min", None),
        ("psr", "logistic", None, 0.5),
    ]
