from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from abonyx.errors import InputError
from abonyx.input.cells import Record, RejectedRecord
from abonyx.input.records import read_records


def read(text: str, **options: Any) -> list[Record | RejectedRecord]:
    return list(read_records(None, stdin=io.BytesIO(text.encode()), **options))


def test_objects_become_records() -> None:
    text = '{"id": "a", "sequence": "EV"}\n\n{"sequence": "QL", "id": 7}\n{"id": null, "sequence": "DI", "more": []}\n'
    expected = [Record("a", "EV", 1), Record("7", "QL", 3), Record("3", "DI", 4)]
    assert read(text) == read("\ufeff" + text) == read(text.replace("\n", "\r\n")) == expected


@pytest.mark.parametrize("name", ["x.jsonl", "x.NDJSON", "x.jsonl.gz", "x.json", "x"])
def test_by_suffix_and_by_content(tmp_path: Path, name: str) -> None:
    data = b'{"id": "a", "VH": "EV"}\n'
    (tmp_path / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    assert list(read_records(tmp_path / name)) == [Record("a", "EV", 1)]


def test_what_is_not_a_record_is_rejected_by_itself() -> None:
    text = '{"sequence": "EV"}\n{"id": "b"}\n{broken\n[1]\n{"id": 1.5, "sequence": "EV"}\n{"id": "f", "sequence": 3}\n'
    good, empty, broken, array, fraction, number = read(text)
    assert good == Record("1", "EV", 1)
    assert empty == RejectedRecord("b", 2, "the sequence is null, not text")
    assert isinstance(broken, RejectedRecord) and broken[:2] == ("3", 3) and "is not JSON" in broken.reason
    assert array == RejectedRecord("4", 4, "the line is list, not a JSON object")
    assert fraction == RejectedRecord("5", 5, "the id is the number 1.5; store ids as text")
    assert number == RejectedRecord("f", 6, "the sequence is int, not text")


def test_labels_of_any_type() -> None:
    text = '{"sequence": "EV", "y": true}\n{"sequence": "EV", "y": 0}\n{"sequence": "EV"}\n'
    assert [record.label for record in read(text, label_column="y") if isinstance(record, Record)] == ["True", "0", ""]


def test_one_object_around_all_is_not_jsonl() -> None:
    with pytest.raises(InputError, match="in one object, under the key 'sequences'"):
        read('{"sequences": [{"id": "a", "sequence": "EV"}]}')
    for text in ('{\n "id": "a"}\n', '[{"id": "a", "sequence": "EV"}]'):
        with pytest.raises(InputError, match=r"is JSON(.|\n)*jq -c"):
            read(text)
