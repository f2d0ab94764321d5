from __future__ import annotations

import csv
import gzip
import io
import os
import sys
import threading
from pathlib import Path

import pytest

from abonyx.errors import ConfigError, InputError
from abonyx.input.records import Record, RejectedRecord, read_records

HEAVY = "EVQLVESGGGLVQPGG"
LIGHT = "DIQMTQSPSSLSASVG"


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, 1, mtime=0) if name.lower().endswith(".gz") else data)
    return path


def read(path: Path, **columns: str) -> list[Record | RejectedRecord]:
    return list(read_records(path, **columns))


def refusal(path: Path, **columns: str) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **columns)
    assert caught.value.what.startswith(str(path)), "every message starts with the file"
    assert caught.value.fix, "every message says what to do next"
    return str(caught.value)


class Pipe(io.RawIOBase):
    """A stream that gives a few bytes at a time and cannot be rewound, like a pipe with a slow writer."""

    def __init__(self, data: bytes, step: int = 3) -> None:
        self.data, self.step = data, step

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        given = self.data[: min(self.step, len(buffer))]
        buffer[: len(given)] = given
        self.data = self.data[len(given) :]
        return len(given)

    def seek(self, *_: object) -> int:
        raise AssertionError("standard input was rewound")


TWO = {
    "fasta": f">a heavy chain\n{HEAVY[:8]}\n{HEAVY[8:]}\n>b\n{LIGHT}\n",
    "csv": f"id,sequence\na,{HEAVY}\nb,{LIGHT}\n",
    "tsv": f"id\tsequence\na\t{HEAVY}\nb\t{LIGHT}\n",
}
LINES = {"fasta": (1, 4), "csv": (2, 3), "tsv": (2, 3)}


def two(kind: str) -> list[Record]:
    first, second = LINES[kind]
    return [Record("a", HEAVY, first), Record("b", LIGHT, second)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.fasta", "fasta"),
        ("x.fa", "fasta"),
        ("x.faa", "fasta"),
        ("x.FAS", "fasta"),
        ("x.csv", "csv"),
        ("x.TSV", "tsv"),
        ("x.fasta.gz", "fasta"),
        ("x.csv.GZ", "csv"),
        ("x.tsv.gz", "tsv"),
        ("x.y.csv", "csv"),
        # recognised by content
        ("x.txt", "fasta"),
        ("x", "csv"),
        ("x.dat", "tsv"),
        ("x.gz", "fasta"),
        ("x.txt.gz", "tsv"),
    ],
)
def test_each_suffix(tmp_path: Path, name: str, kind: str) -> None:
    assert read(put(tmp_path, name, TWO[kind])) == two(kind)


@pytest.mark.parametrize("kind", TWO)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_mark(tmp_path: Path, kind: str, newline: str, mark: str) -> None:
    assert read(put(tmp_path, f"x.{kind}", mark + TWO[kind].replace("\n", newline))) == two(kind)


@pytest.mark.parametrize("kind", TWO)
def test_no_line_end_at_the_end(tmp_path: Path, kind: str) -> None:
    assert read(put(tmp_path, f"x.{kind}", TWO[kind].rstrip())) == two(kind)


@pytest.mark.parametrize("kind", TWO)
@pytest.mark.parametrize("lead", ["", "\ufeff", "\n \r\n"])
@pytest.mark.parametrize("zipped", [False, True])
def test_standard_input_is_recognised_and_left_open(kind: str, lead: str, zipped: bool) -> None:
    data = (lead + TWO[kind]).encode()
    pipe = Pipe(gzip.compress(data, mtime=0) if zipped else data)
    records = list(read_records(None, stdin=pipe))  # type: ignore[arg-type]
    assert [(record.id, record[1]) for record in records] == [("a", HEAVY), ("b", LIGHT)]
    assert not pipe.closed
    pipe.close()


def test_standard_input_by_default_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with io.TextIOWrapper(io.BytesIO(TWO["csv"].encode())) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert list(read_records(None)) == two("csv")
        assert not stdin.closed


def test_a_fault_on_standard_input_names_it() -> None:
    with pytest.raises(InputError, match="standard input:1: no column 'sequence'"):
        list(read_records(None, stdin=io.BytesIO(b"id,seq\na,EV\n")))


def test_named_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(TWO["tsv"],))
    writer.start()
    assert read(path) == two("tsv")
    writer.join()


def test_long_file_goes_past_the_sniffed_bytes(tmp_path: Path) -> None:
    expected = [Record(f"r{n}", HEAVY * 9, n + 1) for n in range(1, 3001)]
    text = "id,sequence\n" + "".join(f"{record.id},{record.sequence}\n" for record in expected)
    assert read(put(tmp_path, "x.csv", text)) == expected
    assert list(read_records(None, stdin=Pipe(gzip.compress(text.encode(), mtime=0), 4096))) == expected  # type: ignore[arg-type]


# FASTA


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (">\nEV\n>  \nQL\n", [("1", "EV", 1), ("2", "QL", 3)]),
        ("> spaced id\nEV\n", [("spaced", "EV", 1)]),
        (">tab\tmore\nEV\n", [("tab", "EV", 1)]),
        (">a\n>b\nEV\n>c\n", [("a", "", 1), ("b", "EV", 2), ("c", "", 4)]),
        ("\n\n>a\n\nEV\n  \nQL  \n\n", [("a", "EVQL", 3)]),
        (">a\nEV\n>a\nQL\n", [("a", "EV", 1), ("a", "QL", 3)]),
        (">a\nE V\n", [("a", "E V", 1)]),
        (">a\nE\0V\n", [("a", "E\0V", 1)]),
    ],
)
def test_fasta(tmp_path: Path, text: str, expected: list[tuple[str, str, int]]) -> None:
    assert [record[:3] for record in read(put(tmp_path, "x.fasta", text))] == expected
    assert [record[:3] for record in read(put(tmp_path, "x.txt", text))] == expected


@pytest.mark.parametrize(
    ("text", "line", "shown"),
    [("EVQL\n>a\nEV\n", 1, "EVQL"), ("\n# note\nEV\n>a\nEV\n", 3, "EV"), ("id,sequence\n", 1, "id,")],
)
def test_text_before_the_first_fasta_header(tmp_path: Path, text: str, line: int, shown: str) -> None:
    message = refusal(put(tmp_path, "x.fa", text))
    assert f"x.fa:{line}: '{shown}" in message
    assert "before the first '>'" in message


# CSV and TSV


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sequence\nEV\nQL\n", [("1", "EV", 2), ("2", "QL", 3)]),
        (" id , sequence \na,EV\n", [("a", "EV", 2)]),
        ('"id","sequence"\n"a, b","EV"\n', [("a, b", "EV", 2)]),
        ("id,sequence\n,EV\n  ,QL\nc,DI\n", [("1", "EV", 2), ("2", "QL", 3), ("c", "DI", 4)]),
        ("id,sequence\na,EV\na,QL\n", [("a", "EV", 2), ("a", "QL", 3)]),
        ("id,sequence\n\na,EV\n   \n\nb,QL\n", [("a", "EV", 3), ("b", "QL", 6)]),
        ("# one\n#two, three\n\nid,sequence\na,EV\n", [("a", "EV", 5)]),
        ("id,sequence\n#a,EV\n", [("#a", "EV", 2)]),
        ('id,note,sequence\na,"two\nlines",EV\nb,,QL\n', [("a", "EV", 2), ("b", "QL", 4)]),
        ('# c\n"i\nd",sequence\na,EV\n', [("1", "EV", 4)]),
        ('id,sequence\n"a\r\nb","E\rV"\n', [("a\r\nb", "E\rV", 2)]),
        ('id,sequence\n"say ""hi""",EV\n', [('say "hi"', "EV", 2)]),
        ("id,sequence\na, ev \n", [("a", " ev ", 2)]),
        ("id,sequence\na,\n", [("a", "", 2)]),
        ('sequence\n""\n', [("1", "", 2)]),
        (",id,sequence,\n0,a,EV,\n", [("a", "EV", 2)]),
        ("id,sequence\na,E\0V\n\0,QL\n", [("a", "E\0V", 2), ("\0", "QL", 3)]),
        ("id,sequence\nä\u2028ß,EV\n", [("ä\u2028ß", "EV", 2)]),
    ],
)
def test_csv(tmp_path: Path, text: str, expected: list[tuple[str, str, int]]) -> None:
    assert [record[:3] for record in read(put(tmp_path, "x.csv", text))] == expected


def test_tsv_keeps_commas_and_quotes_inside_a_cell(tmp_path: Path) -> None:
    assert read(put(tmp_path, "x.tsv", 'id\tsequence\n5" a,b\tEV\n')) == [Record('5" a,b', "EV", 2)]


@pytest.mark.parametrize("name", ["x.csv", "x"])
def test_chosen_columns(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name, "id,VH,name\n1,EV,mab\n")
    assert read(path) == [Record("1", "EV", 2)]
    assert read(path, sequence_column="VH") == [Record("1", "EV", 2)]
    assert read(path, sequence_column="VH", id_column="name") == [Record("mab", "EV", 2)]
    assert read(path, sequence_column="VH", id_column="VH") == [Record("EV", "EV", 2)]


@pytest.mark.parametrize(
    ("columns", "missing", "option"),
    [
        ({"sequence_column": "VL"}, "VL", "sequence_column"),
        ({"sequence_column": "VH", "id_column": "nom"}, "nom", "id_column"),
        ({"sequence_column": "VH", "id_column": "id"}, "id", "id_column"),
    ],
)
def test_missing_column(tmp_path: Path, columns: dict[str, str], missing: str, option: str) -> None:
    message = refusal(put(tmp_path, "x.csv", "# c\nname,VH\nmab,EV\n"), **columns)
    assert f"x.csv:2: no column '{missing}'" in message
    assert "'name', 'VH'" in message
    assert f"with {option}." in message


def test_a_used_column_that_appears_more_than_once(tmp_path: Path) -> None:
    message = refusal(put(tmp_path, "x.csv", "id,sequence,sequence \na,EV,QL\n"))
    assert "x.csv:1: column 'sequence' appears more than once" in message


def test_rows_of_another_width_are_problems(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", "sequence,id\nEV,a\nQL\nDI,c,more\nMT,d\nMT,e,\n")
    assert read(path) == [
        Record("a", "EV", 2),
        RejectedRecord("2", 3, "the row has 1 columns, the header has 2"),
        RejectedRecord("c", 4, "the row has 3 columns, the header has 2"),
        Record("d", "MT", 5),
        Record("e", "MT", 6),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('id,sequence\na,EV\n"b,QL\nc,DI\n', 3),
        ('id,sequence\na,EV\n"b"x,QL\n', 3),
        ('# c\n"id,sequence\na,EV\n', 2),
        ('id,sequence\na,EV\n\n\n"b,QL\n"c",DI\n', 5),
    ],
)
def test_quotes_that_do_not_match(tmp_path: Path, text: str, line: int) -> None:
    message = refusal(put(tmp_path, "x.csv", text))
    assert f"x.csv:{line}: the record that starts here is not CSV" in message


def test_field_over_the_limit_of_csv_and_the_limit_left_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "E" * (before + 1)
    records = read_records(put(tmp_path, "x.csv", f"id,sequence\na,{long}\nb,EV\n"))
    assert next(records) == Record("a", long, 2)
    assert csv.field_size_limit() == before, "while the reader is suspended"
    assert next(records) == Record("b", "EV", 3)
    message = refusal(put(tmp_path, "y.csv", f'id,sequence\na,EV\n"{"E" * (1 << 24)}\n'))
    assert "y.csv:3" in message
    assert csv.field_size_limit() == before, "after an error"


# Bytes that are not UTF-8


@pytest.mark.parametrize(
    ("name", "data", "lines"),
    [
        ("x.csv", b"id,sequence\ncaf\xe9,EV\nb,Q\xffL\n", (2, 3)),
        ("x.tsv", b"id\tsequence\ncaf\xe9\tEV\nb\tQ\xffL\n", (2, 3)),
        ("x.fa", b">caf\xe9 x\nEV\n>b\nQ\xffL\n", (1, 3)),
    ],
)
def test_bytes_that_are_not_utf8(tmp_path: Path, name: str, data: bytes, lines: tuple[int, int]) -> None:
    bad, good = read(put(tmp_path, name, data))
    assert bad == RejectedRecord("caf\\xe9", lines[0], "the id is not valid UTF-8")
    assert good == Record("b", "Q\udcffL", lines[1])


@pytest.mark.parametrize("name", ["x.csv", "x.txt"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16(tmp_path: Path, name: str, encoding: str) -> None:
    assert "UTF-16" in refusal(put(tmp_path, name, ("\ufeff" + TWO["csv"]).encode(encoding)))


# Files that are not what they should be


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.fasta", "x.parquet", "x.txt", "x.csv.gz", "x.gz"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    assert f"{name}: is empty" in refusal(put(tmp_path, name, b""))
    (tmp_path / name).write_bytes(b"")  # a .gz of no bytes at all
    assert f"{name}: is empty" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("x.csv", "id,sequence\n", "x.csv:1: has a header, but no records"),
        ("x.csv", "# c\nid,sequence\n\n  \n", "x.csv:2: has a header, but no records"),
        ("x.csv", "# c\n\n", "x.csv:2: the file has no header"),
        ("x.csv", "\ufeff", "x.csv:1: the file has no header"),
        ("x.fasta", "\n\n", "x.fasta: has only blank lines"),
        ("x.csv.gz", "id,sequence\n", "x.csv.gz:1: has a header, but no records"),
    ],
)
def test_no_records(tmp_path: Path, name: str, text: str, parts: str) -> None:
    assert parts in refusal(put(tmp_path, name, text))


def test_missing_file(tmp_path: Path) -> None:
    assert "no.csv: cannot be read: No such file" in refusal(tmp_path / "no.csv")


def test_directory(tmp_path: Path) -> None:
    folder = tmp_path / "x.csv"
    folder.mkdir()
    assert "x.csv: is a directory" in refusal(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", TWO["csv"])
    path.chmod(0)
    assert "x.csv: cannot be read: Permission denied" in refusal(path)


def test_unreadable_file_as_any_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    path = put(tmp_path, "x.csv", TWO["csv"])
    monkeypatch.setattr(Path, "open", deny)
    message = refusal(path)
    assert "x.csv: cannot be read: Permission denied" in message
    assert "chmod u+r" in message


def test_disk_that_fails_half_way() -> None:
    class Failing(Pipe):
        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            if len(self.data) < 100:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)

    data = TWO["csv"].encode() * 9000
    with pytest.raises(InputError, match="standard input: cannot be read: Input/output error"):
        list(read_records(None, stdin=Failing(data, 4096)))  # type: ignore[arg-type]


def incompressible(rows: int) -> str:
    values = [f"{(n * 2654435761) % 2**32:032b}".replace("0", "EV").replace("1", "QL") for n in range(rows)]
    return "id,sequence\n" + "".join(f"{n},{value}\n" for n, value in enumerate(values))


@pytest.mark.parametrize("rows", [3, 9000])
@pytest.mark.parametrize("name", ["x.csv.gz", "x.gz"])
def test_truncated_gzip(tmp_path: Path, name: str, rows: int) -> None:
    path = put(tmp_path, name, incompressible(rows))
    path.write_bytes(path.read_bytes()[:-12])
    message = refusal(path)
    assert f"{name}: truncated or corrupt gzip data" in message
    if rows > 3:
        line = int(message.split("after line ")[1].split(":")[0])
        assert 1000 < line <= rows + 1, "names the last good line"


def test_damaged_gzip(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv.gz", incompressible(900))
    data = bytearray(path.read_bytes())
    data[20:60] = b"\xff" * 40
    path.write_bytes(data)
    assert "x.csv.gz: truncated or corrupt gzip data at line 1" in refusal(path)


def test_gzip_with_a_wrong_checksum(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv.gz", TWO["csv"])
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    assert "CRC" in refusal(path)


def test_plain_text_named_gz(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_text(TWO["csv"])
    message = refusal(path)
    assert "x.csv.gz: ends with .gz, but is not gzip data; it begins with b'id" in message
    assert "Rename it without .gz" in message


def test_gzip_named_plain(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(gzip.compress(TWO["csv"].encode(), mtime=0))
    assert "x.csv: is gzip data, not csv" in refusal(path)


@pytest.mark.parametrize("data", [b"\x7fELF\x02\x01\x01\0", b"a\0b,c\n"])
def test_binary_of_unknown_suffix(tmp_path: Path, data: bytes) -> None:
    message = refusal(put(tmp_path, "x.bin", data))
    assert "x.bin: is binary data" in message
    assert ".fasta" in message
    assert ".parquet" in message


def test_text_of_unknown_suffix_without_the_column(tmp_path: Path) -> None:
    assert "x.md:1: no column 'sequence'; columns: 'Dear all'" in refusal(put(tmp_path, "x.md", "Dear all\n"))


@pytest.mark.parametrize("name", ["x.csv", "x.fasta", "x.csv.gz", "x.parquet"])
@pytest.mark.parametrize("way", ["closed", "dropped"])
def test_reader_left_half_way_closes_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    if name == "x.parquet":
        parquet(tmp_path, {"sequence": [HEAVY] * 9})
    else:
        put(tmp_path, name, TWO["fasta" if "fasta" in name else "csv"])
    opened = []
    original = Path.open

    def spy(self: Path, mode: str) -> object:
        opened.append(original(self, mode))
        return opened[-1]

    monkeypatch.setattr(Path, "open", spy)
    records = read_records(tmp_path / name)
    next(records)
    assert not opened[0].closed
    if way == "closed":
        records.close()  # type: ignore[attr-defined]
    else:
        del records
    assert opened[0].closed


# Parquet


def parquet(folder: Path, columns: dict[str, object], name: str = "x.parquet") -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), folder / name)
    return folder / name


@pytest.mark.parametrize("name", ["x.parquet", "x.PQ", "x.dat"])
def test_parquet(tmp_path: Path, name: str) -> None:
    path = parquet(tmp_path, {"other": [1, 2], "sequence": [HEAVY, LIGHT], "id": ["a", "b"]}, name)
    expected = [Record("a", HEAVY, 1), Record("b", LIGHT, 2)]
    assert read(path) == expected
    assert list(read_records(None, stdin=Pipe(path.read_bytes(), 999))) == expected  # type: ignore[arg-type]
    assert read(put(tmp_path, "y.parquet.gz", path.read_bytes())) == expected


def test_parquet_in_many_batches(tmp_path: Path) -> None:
    count = 150_000
    path = parquet(tmp_path, {" sequence": [HEAVY] * count})
    records = read(path)
    assert len(records) == count
    assert records[0] == Record("1", HEAVY, 1)
    assert records[-1] == Record(str(count), HEAVY, count)


def test_parquet_chosen_columns(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"VH": [HEAVY], "name": ["mab"]})
    assert read(path, sequence_column="VH", id_column="name") == [Record("mab", HEAVY, 1)]
    assert read(path, sequence_column="VH", id_column="VH") == [Record(HEAVY, HEAVY, 1)]


def test_parquet_values_that_are_not_text(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"id": ["a", None, "", "d"], "sequence": [None, "EV", "QL", "DI"]})
    assert read(path) == [
        RejectedRecord("a", 1, "the sequence is null, not text"),
        Record("2", "EV", 2),
        Record("3", "QL", 3),
        Record("d", "DI", 4),
    ]
    path = parquet(tmp_path, {"id": [7, 8], "sequence": [1.5, None]})
    assert read(path) == [
        RejectedRecord("7", 1, "the sequence is float, not text"),
        RejectedRecord("8", 2, "the sequence is null, not text"),
    ]
    path = parquet(tmp_path, {"id": [1.5, 2.0, 1e15, float("nan")], "sequence": ["EV", "QL", "DI", "MT"]})
    assert read(path) == [
        RejectedRecord("1", 1, "the id is the number 1.5; store ids as text"),
        Record("2", "QL", 2),
        RejectedRecord("3", 3, "the id is the number 1000000000000000.0, of more than 15 digits; store ids as text"),
        Record("4", "MT", 4),
    ]
    path = parquet(tmp_path, {"id": [True, False], "sequence": ["EV", "QL"]})
    assert read(path)[0] == RejectedRecord("1", 1, "the id is bool; store ids as text")


def test_parquet_whole_numbers_and_categories(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    path = parquet(tmp_path, {"id": [7, 8], "sequence": pa.array(["EV", "EV"]).dictionary_encode()})
    assert read(path) == [Record("7", "EV", 1), Record("8", "EV", 2)]


def test_parquet_missing_and_double_columns(tmp_path: Path) -> None:
    message = refusal(parquet(tmp_path, {"name": ["a"], "VX": ["EV"]}))
    assert "x.parquet, header: no column 'sequence'; columns: 'name', 'VX'" in message
    message = refusal(parquet(tmp_path, {"sequence": ["a"], "sequence ": ["EV"]}))
    assert "x.parquet, header: column 'sequence' appears more than once" in message


def test_parquet_without_records(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    assert "x.parquet: has columns, but no records" in refusal(
        parquet(tmp_path, {"sequence": pa.array([], pa.string())})
    )


@pytest.mark.parametrize("damage", ["truncated", "page", "text"])
def test_corrupt_parquet(tmp_path: Path, damage: str) -> None:
    path = parquet(tmp_path, {"sequence": [HEAVY + str(n) for n in range(5000)]})
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        del data[-30:]
    elif damage == "page":
        data[4:400] = b"\xff" * 396
    else:
        data = bytearray(b"id,sequence\na,EV\n")
    path.write_bytes(data)
    assert "x.parquet: cannot be read as Parquet" in refusal(path)


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    path = parquet(tmp_path, {"sequence": pa.array([b"EV", b"Q\xff"]).view(pa.string())})
    assert "x.parquet: cannot be read as Parquet after row 0" in refusal(path)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match="Parquet needs pyarrow") as caught:
        read(put(tmp_path, "x.parquet", b"PAR1"))
    assert "Install the extra parquet: pip install " in str(caught.value)


def test_labels_come_as_text(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", "# a\nid,y,sequence\na, 1.0 ,EV\n# between the rows\nb,,QL\nc,maybe,DI\n")
    assert [record[:4] for record in read(path, label_column="y")] == [
        ("a", "EV", 3, "1.0"),
        ("b", "QL", 5, ""),
        ("c", "DI", 6, "maybe"),
    ]
    with pytest.raises(InputError, match=r"x.csv:2: no column 'z'(.|\n)*label_column"):
        read(path, label_column="z")
    with pytest.raises(InputError, match="is FASTA, which has no column 'y'"):
        read(put(tmp_path, "x.fasta", ">a\nEV\n"), label_column="y")


def test_labels_in_parquet(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    labels = {"int": [1, None], "float": [0.0, float("nan")], "text": ["0", ""]}
    for name, values in labels.items():
        pq.write_table(pa.table({"sequence": ["EV", "QL"], "y": values}), tmp_path / f"{name}.parquet")
    found = {name: [record.label for record in read(tmp_path / f"{name}.parquet", label_column="y")] for name in labels}
    assert found == {"int": ["1", ""], "float": ["0.0", "nan"], "text": ["0", ""]}


def test_a_sequence_spread_over_the_columns_of_an_alignment(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", "Id,1,2,2A,3\na,E,-,V,Q\nb,-,-,-,-\n")
    found = read(path, sequence_column="1:3", id_column="Id")
    assert [record[:2] for record in found] == [("a", "EVQ"), ("b", "")]
    with pytest.raises(InputError, match="no column '4'"):
        read(path, sequence_column="1:4")
    with pytest.raises(InputError, match="column '3' comes after '1'"):
        read(path, sequence_column="3:1")
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"1": ["E", "-"], "2": [None, "V"], "3": ["Q", "-"]}), tmp_path / "x.parquet")
    assert [record.sequence for record in read(tmp_path / "x.parquet", sequence_column="1:3")] == ["EQ", "V"]
