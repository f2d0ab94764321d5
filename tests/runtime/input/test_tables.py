from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from abonyx.errors import InputError
from abonyx.input.records import RejectedRecord, read_records

V, W = "EVQLVESGG", "QVQLQESGP"


def read(text: str, name: str = "x.csv", **options: Any) -> tuple[list[tuple[str, str, int]], list[str]]:
    notes: list[str] = []
    records = list(read_records(None, stdin=io.BytesIO(text.encode()), name=name, notes=notes, **options))
    rows = [(r.id, r.reason if isinstance(r, RejectedRecord) else r.sequence, r.line) for r in records]
    return rows, notes


def read_named(tmp_path: Any, name: str, text: str, **options: Any) -> tuple[list[tuple[str, str]], list[str]]:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if name.endswith(".gz") else text.encode())
    notes: list[str] = []
    records = list(read_records(path, notes=notes, **options))
    rows = [(r.id, r.reason if isinstance(r, RejectedRecord) else r.sequence) for r in records]
    return rows, [note.removeprefix(f"{tmp_path}/") for note in notes]


@pytest.mark.parametrize(
    ("delimiter", "word"), [(",", None), (";", "semicolons"), ("\t", "tabs")], ids=["comma", "semicolon", "tab"]
)
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("name", ["x.csv", "x.txt", "x.csv.gz"])
def test_the_delimiter_is_found(tmp_path: Any, delimiter: str, word: str | None, declared: bool, name: str) -> None:
    rows = [["id", "sequence", "kd"], ["a", V, "1.5"], ["b", W, "2.5"]]
    text = f"sep={delimiter}\r\n" * declared + "".join(delimiter.join(row) + "\r\n" for row in rows)
    found, notes = read_named(tmp_path, name, text)
    assert found == [("a", V), ("b", W)]
    assert notes == ([f"{name}: cells are split at {word}"] if word else [])


def test_the_delimiter_is_the_one_that_gives_the_columns() -> None:
    assert read(f"id;sequence;a, b, c, d\nx;{V};1,5\n")[0] == [("x", V, 2)]
    assert read(f"id,sequence,a;b;c;d\nx,{V},1\n")[0] == [("x", V, 2)]
    assert read(f'id,"sequence",a\tb\nx,{V},1\n')[0] == [("x", V, 2)]
    assert read(f"mab;chain\nx;{V}\n", sequence_column="chain", id_column="mab")[0] == [("x", V, 2)]
    with pytest.raises(InputError, match=r"declares the delimiter '\|'"):
        read("sep=|\nid|sequence\n")


@pytest.mark.parametrize("line", ["sep=;;;", "SEP=;", '"sep=;";;', '"sep=;"', "sep=;"])
def test_a_declared_delimiter_that_excel_saved_again(line: str) -> None:
    assert read(f"{line}\nid;sequence;kd\na;{V};1,5\n")[0] == [("a", V, 3)]
    assert read(f"{line.replace(';', chr(9))}\nid\tsequence\tkd\na\t{V}\t1,5\n")[0] == [("a", V, 3)]


def test_semicolons_keep_their_quotes() -> None:
    assert read(f'id;note;sequence\n"a;b";"two\nlines";{V}\n')[0] == [("a;b", V, 2)]


@pytest.mark.parametrize("note", ['"best" binder', '"unclosed', '5" x', 'closed"', '"', '""', '"a""b"'])
def test_a_quote_in_a_tsv_cell_swallows_nothing(tmp_path: Any, note: str) -> None:
    text = f"id\tsequence\tnote\na\t{V}\t{note}\nb\t{W}\tx\nc\t{V}\t{note}\n"
    assert read_named(tmp_path, "x.tsv", text)[0] == [("a", V), ("b", W), ("c", V)]
    first = f"note\tid\tsequence\n{note}\ta\t{V}\nx\tb\t{W}\n{note}\tc\t{V}\n"
    assert read_named(tmp_path, "x.tsv", first)[0] == [("a", V), ("b", W), ("c", V)]


def test_tsv_cells_that_are_quoted_as_a_whole(tmp_path: Any) -> None:
    text = f'"id"\t"sequence"\t"note"\n"say ""a"""\t"{V}"\t"x"\n"b\tb"\t"{W}"\t""\n'
    assert read_named(tmp_path, "x.tsv", text)[0] == [('say "a"', V), ("b\tb", W)]


def test_a_comment_has_one_cell() -> None:
    text = f"id,sequence,note\n#1,{V},x\n#2,{W}\n# a comment\n#3,,\n#4,{V},,\n"
    assert read(text)[0] == [("#1", V, 2), ("#2", W, 3), ("#3", "", 5), ("#4", V, 6)]
    assert read(f"sequence\n{V}\n#abc\n")[0] == [("1", V, 2), ("2", "#abc", 3)]


@pytest.mark.parametrize("tab", [",", "\t"])
def test_a_header_that_begins_with_a_number_sign(tab: str) -> None:
    text = f"# made 2024\n#id,sequence\nab1,{V}\nab2,{W}\n".replace(",", tab)
    assert read(text)[0] == [("ab1", V, 3), ("ab2", W, 4)]
    assert read(f"# id,sequence\nid,sequence\nab1,{V}\n".replace(",", tab))[0] == [("ab1", V, 3)]
    with pytest.raises(InputError, match=r"x\.csv:2: no column 'sequence'"):
        read(f"#id,seq\nab1,{V}\n".replace(",", tab))


def test_short_and_long_rows_matter_only_in_used_columns() -> None:
    text = f"id,sequence,y,note\na,{V}\nb\nc,{V},1,n,,\nd,{V},1,n,more\n"
    short, one, blank, long = read(text)[0]
    assert (short, blank) == (("a", V, 2), ("c", V, 4))
    assert one == ("b", "the row has 1 columns, the header has 4", 3)
    assert long == ("d", "the row has 5 columns, the header has 4", 5)
    assert read(text, label_column="y")[0][0] == ("a", "the row has 2 columns, the header has 4", 2)


def test_rows_of_blank_cells_are_left_out_with_a_note() -> None:
    rows, notes = read(f"id,sequence,x\na,{V},1\n,,\n  , ,\nb,{W},\n,,\n,,,,\n")
    assert rows == [("a", V, 2), ("b", W, 5)]
    assert notes == ["x.csv: 4 rows of blank cells are left out"]


def test_row_names_of_r() -> None:
    rows, _ = read(f'"mab"\t"sequence"\n"1"\t"a"\t"{V}"\n"2"\t"b"\t"{W}"\n')
    assert [row[0] for row in rows] == ["1", "2"]
    for _, reason, _ in rows:
        assert "the row has 3 columns, the header has 2: R may have written row names" in reason
        assert "row.names=FALSE" in reason


@pytest.mark.parametrize("name", ["oas.csv", "oas.csv.gz", "oas.gz"])
@pytest.mark.parametrize("quoted", [False, True])
def test_oas_metadata_are_skipped(tmp_path: Any, name: str, quoted: bool) -> None:
    metadata = '{"Run": "SRR1", "Author": "A et al., 2020"}'
    first = '"' + metadata.replace('"', '""') + '"' if quoted else metadata
    text = f"{first}\nsequence,locus,sequence_alignment_aa\nGAGGTG,H,EV-Q\n"
    rows, notes = read_named(tmp_path, name, text)
    assert rows == [("1", "EVQ")]
    assert len(notes) == 2


@pytest.mark.parametrize("word", ["NA", "nan", "NaN", "None", "null", "N/A", "#N/A", "", " ", "-"])
def test_a_missing_id_is_the_records_number(word: str) -> None:
    assert read(f"id,sequence\n{word},{V}\nb,{W}\n")[0] == [("1", V, 2), ("b", W, 3)]


def test_one_sequence_a_line() -> None:
    with pytest.raises(InputError, match="and no header"):
        read(f"{V}\n{W}\n")


@pytest.mark.parametrize(("name", "delimiter"), [("x.tsv", "\t"), ("x.csv", ",")])
@pytest.mark.parametrize("word", ["heavy", "VHH", "sequence"])
def test_a_record_with_a_known_name_in_a_cell_is_not_the_header(
    tmp_path: Path, name: str, delimiter: str, word: str
) -> None:
    text = f"#id,chain,sequence\nab1,{word},{V}\nab2,{word},{W}\n".replace(",", delimiter)
    assert read_named(tmp_path, name, text)[0] == [("ab1", V), ("ab2", W)]
    commented = f"#id,chain,sequence\nid,{word}_,sequence\nab1,{word},{V}\n".replace(",", delimiter)
    assert read_named(tmp_path, name, commented)[0] == [("ab1", V)]


@pytest.mark.parametrize("header", [",VH", '"",VH', "#,VH"])
def test_the_first_column_without_a_name_has_the_ids(tmp_path: Path, header: str) -> None:
    rows, notes = read_named(tmp_path, "x.csv", f"{header}\ntrastuzumab,{V}\nada,{W}\n")
    assert rows == [("trastuzumab", V), ("ada", W)]
    assert any("the ids are the first column, which has no name" in note for note in notes)


def test_a_spare_delimiter_in_the_first_row_is_not_r(tmp_path: Path) -> None:
    (problem,) = [row for row in read_named(tmp_path, "x.csv", f"id,sequence\na,{V},\nb,{W},x\n")[0] if row[0] == "b"]
    assert "R may have written" not in problem[-1]
