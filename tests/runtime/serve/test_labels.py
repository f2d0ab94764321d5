"""Labels in a file over HTTP: the column of labels, their values, and columns that are not labels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.bundle.training_rows import training_sequences  # noqa: E402

from ..domain.proteins import KAPPA, VH  # noqa: E402
from .serving import CSV, JSON, Running, refused, service  # noqa: E402


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        with service() as running:
            yield running


@pytest.fixture(autouse=True)
def isolated() -> None:
    """Replaces conftest's fixture: the module's service keeps its session open."""


FIND = "/v1/score?on_invalid=skip&labels=find"


@pytest.mark.parametrize("name", ["label", "Labels", "y", "class"])
def test_labels_of_a_file_come_back_with_the_scores(shared: Running, name: str) -> None:
    table = f"id,sequence,{name}\na,{VH},1\nb,{KAPPA},0.0\ngap,EV-QL,1\nc,{VH},NA\nd,{VH}\n"
    found = shared.ask("POST", FIND, table.encode(), CSV).json
    assert found["labels"] == name
    assert [(row["id"], row["label"]) for row in found["results"]] == [("a", 1), ("b", 0), ("c", None), ("d", None)]
    assert found["notes"] == []


@pytest.mark.parametrize(
    ("table", "note"),
    [
        (f"id,sequence,class\na,{VH},IgG1\nb,{VH},1\n", "'class' is not read as labels: 1 of 2 cells are not 0 or 1"),
        (f"id,sequence,y\na,{VH},\nb,{VH},\n", "column 'y' is not read as labels: all of its cells are blank"),
        (f"id,sequence,label,Label\na,{VH},0,1\n", ""),
        (f"id,sequence,group\na,{VH},1\n", ""),
        (f">a\n{VH}\n", ""),
    ],
)
def test_what_is_no_label_is_left_alone(shared: Running, table: str, note: str) -> None:
    found = shared.ask("POST", FIND, table.encode(), CSV).json
    assert found["labels"] is None and "label" not in found["results"][0]
    assert any(note in each for each in found["notes"]) if note else found["notes"] == []


def test_another_column_that_could_be_labels_is_named(shared: Running) -> None:
    table = f"id,sequence,y,label\na,{VH},0,1\nb,{VH},1,0\n"
    found = shared.ask("POST", FIND, table.encode(), CSV).json
    assert found["labels"] == "label" and [row["label"] for row in found["results"]] == [1, 0]
    (note,) = found["notes"]
    assert "the labels are column 'label'; not read as labels: y" in note.replace("'y'", "y")


def test_labels_are_read_on_request_alone(shared: Running) -> None:
    table = f"id,sequence,label\na,{VH},1\n".encode()
    found = shared.ask("POST", "/v1/score", table, CSV).json
    assert found["labels"] is None and "label" not in found["results"][0]
    refused(shared.ask("POST", "/v1/embed?labels=find", table, CSV), 422, "labels")
    refused(shared.ask("POST", FIND, b"[]", JSON), 422, "labels, on_invalid in the query of a JSON request")


def test_an_id_column_of_that_name_stays_the_ids(shared: Running) -> None:
    table = f"label,sequence,y\n1,{VH},0\n".encode()
    found = shared.ask("POST", f"{FIND}&id_column=label", table, CSV).json
    assert (found["labels"], found["results"][0]["id"], found["results"][0]["label"]) == ("y", "1", 0)


def test_lines_of_json_have_labels_too(shared: Running) -> None:
    lines = f'{{"id": "a", "sequence": "{VH}", "label": 1}}\n{{"id": "b", "sequence": "{VH}"}}\n'
    found = shared.ask("POST", FIND, lines.encode(), {"Content-Type": "application/octet-stream"}).json
    assert (found["labels"], [row["label"] for row in found["results"]]) == ("label", [1, None])


def test_a_training_row_is_said_to_be_one(shared: Running) -> None:
    trained = training_sequences(shared.session.bundle, "nonspecificity")
    assert trained is not None
    table = f"id,sequence,label\na,{trained[0]},1\nb,{VH},0\nc,{trained[1]},\n".encode()
    found = shared.ask("POST", FIND, table, CSV).json
    assert [row["training_row"] for row in found["results"]] == [True, VH in trained, True]
    assert "training_row" not in shared.ask("POST", "/v1/score", table, CSV).json["results"][0]


def test_without_domains_a_training_row_with_a_tag_is_not_said_to_be_new(shared: Running) -> None:
    trained = training_sequences(shared.session.bundle, "nonspecificity")
    assert trained is not None
    table = f"id,sequence,label\na,{trained[0]}HHHHHH,1\nb,{trained[1]},0\n".encode()
    found = shared.ask("POST", FIND, table, CSV).json
    assert [row["training_row"] for row in found["results"]] == [True, True]
    unjudged = shared.ask("POST", f"{FIND}&domain=off", table, CSV).json
    assert [row["training_row"] for row in unjudged["results"]] == [None, True]
