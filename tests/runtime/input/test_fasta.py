from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from abonyx.errors import InputError
from abonyx.input.cells import Record, RejectedRecord
from abonyx.input.records import read_records


def read(text: str, notes: list[str] | None = None) -> list[Record | RejectedRecord]:
    return list(read_records(None, stdin=io.BytesIO(text.encode()), notes=notes))


@pytest.mark.parametrize("mark", ["#", ";"])
def test_comment_lines(mark: str) -> None:
    text = f"{mark} exported\n>a x\n{mark}in between\nEV\n  {mark} indented\nQL\n{mark}\n>b\nDI\n{mark}end\n"
    assert [record[:3] for record in read(text)] == [("a", "EVQL", 2), ("b", "DI", 8)]


def test_text_before_the_first_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.fasta"
    path.write_text("; a comment\nEVQ\n>a\nEV\n")
    with pytest.raises(InputError, match=r"x\.fasta:2: 'EVQ' is before the first '>'"):
        list(read_records(path))


def test_first_words_are_ids() -> None:
    notes: list[str] = []
    assert read(">a heavy chain \nEV\n>b\tx\nQL\n>  c\nDI\n>\nMT\n>-\nSS\n", notes) == [
        Record("a", "EV", 1),
        Record("b", "QL", 3),
        Record("c", "DI", 5),
        Record("4", "MT", 7),
        Record("-", "SS", 9),
    ]
    assert notes == []


def test_ids_that_collide_when_cut_are_whole_headers() -> None:
    notes: list[str] = []
    found = read(">ab heavy\nEV\n>ab light\nDI\n>other chain\nQL\n>\nMT\n", notes)
    assert [record.id for record in found] == ["ab heavy", "ab light", "other chain", "4"]
    assert notes == ["standard input: the first words of some headers are equal, so every id is the whole header"]
    notes = []
    assert [record.id for record in read(">ab\nEV\n>ab\nDI\n", notes)] == ["ab", "ab"]
    assert notes == [], "whole headers are no other ids"


def test_a_cut_file_says_how_far_it_was_read() -> None:
    text = "".join(f">r{n}\n{hash((n, 1)):020d}{hash((n, 2)):020d}\n" for n in range(20_000))
    data = gzip.compress(text.encode(), mtime=0)[:-2000]
    with pytest.raises(InputError, match=r"truncated or corrupt gzip data after line [1-9]"):
        list(read_records(None, stdin=io.BytesIO(data)))


@pytest.mark.parametrize("keep", ["all", "description"])
def test_the_rest_of_a_header_is_kept_if_it_is_wanted(tmp_path: Path, keep: str) -> None:
    path = tmp_path / "x.fasta"
    path.write_text(">a heavy chain \nEV\n>b\tx\nQL\n>  c\nDI\n")
    kept = [record.kept for record in read_records(path, keep=(keep,)) if isinstance(record, Record)]
    assert kept == [{"description": text} for text in ("heavy chain", "x", "")]
