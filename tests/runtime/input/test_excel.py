from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import pytest

from abonyx.errors import ConfigError, InputError
from abonyx.input.cells import Record, RejectedRecord
from abonyx.input.limits import ReadLimits
from abonyx.input.records import read_records

from .workbook import Raw, one_sheet, sheet_xml, workbook

pytest.importorskip("python_calamine", reason="the extra excel is not installed")

FORMULA = Raw('<c r="WHERE" t="str"><f>A1</f></c>')
ERROR = Raw('<c r="WHERE" t="e"><v>#REF!</v></c>')


def read(data: bytes, notes: list[str] | None = None, **options: str) -> list[Record | RejectedRecord]:
    return list(read_records(None, stdin=io.BytesIO(data), notes=notes, name="x.xlsx", **options))


def refusal(data: bytes, **options: str) -> str:
    with pytest.raises(InputError) as caught:
        read(data, **options)
    assert caught.value.fix
    return str(caught.value)


def test_a_sheet(tmp_path: Path) -> None:
    data = one_sheet([["id", "sequence", "y"], ["a", "EVQ", 1], [], [None, "QLV", 0], ["c", "DIQ"], ["", "", ""]])
    expected = [Record("a", "EVQ", 2, "1.0"), Record("2", "QLV", 4, "0.0"), Record("c", "DIQ", 5)]
    assert read(data, label_column="y") == expected
    (tmp_path / "x.XLSX").write_bytes(data)
    assert list(read_records(tmp_path / "x.XLSX", label_column="y")) == expected


def test_rows_of_blank_cells_above_the_last_record_are_counted() -> None:
    rows = [["id", "sequence"], ["a", "EVQ"], [], [" ", ""], ["b", "QLV"], [""], [" "]]
    notes: list[str] = []
    assert read(one_sheet(rows), notes) == [Record("a", "EVQ", 2), Record("b", "QLV", 5)]
    assert notes == ["x.xlsx: 2 rows of blank cells are left out"]


def test_numbers_are_ids_again_and_long_ones_are_refused() -> None:
    rows = [["id", "sequence"], [7, "EVQ"], [7.5, "EVQ"], [10**15, "EVQ"], [999999999999999, "EVQ"], [True, "EVQ"]]
    whole, fraction, long, longest, truth = read(one_sheet(rows))
    assert whole == Record("7", "EVQ", 2)
    assert longest == Record("999999999999999", "EVQ", 5)
    assert isinstance(fraction, RejectedRecord) and "7.5" in fraction.reason
    assert isinstance(long, RejectedRecord) and "more than 15 digits" in long.reason
    assert isinstance(truth, RejectedRecord) and "bool" in truth.reason


def test_formulas_without_a_value_and_errors_are_missing() -> None:
    rows = [["id", "sequence", "y"], ["a", FORMULA, ERROR], ["b", ERROR, 1], [ERROR, "EVQ", FORMULA]]
    assert read(one_sheet(rows), label_column="y") == [
        Record("a", "", 2),
        Record("b", "", 3, "1.0"),
        Record("3", "EVQ", 4),
    ]


def test_an_alignment_with_numbers_as_names() -> None:
    data = one_sheet([["Id", 1, 2, 3], ["a", "E", None, "Q"], ["b", "-", "V", ERROR]])
    assert [record[:2] for record in read(data, sequence_column="1:3")] == [("a", "EQ"), ("b", "V")]


def test_comments_and_the_header_with_a_number_sign() -> None:
    data = one_sheet([["# made 2024"], ["#id", "sequence"], ["#1", "EVQ"], ["#2"]])
    assert read(data) == [Record("#1", "EVQ", 3), Record("#2", "", 4)]


def test_which_sheet() -> None:
    table = sheet_xml([["id", "sequence"], ["a", "EVQ"]])
    notes: list[str] = []
    assert read(workbook({"Empty": sheet_xml([]), "Data": table}), notes) == [Record("a", "EVQ", 2)]
    assert notes == ["x.xlsx: read from sheet 'Data' of 2"]
    two = workbook({"VH": table, "VL": sheet_xml([["id", "sequence"], ["b", "DIQ"]])})
    assert "has 2 sheets with values: 'VH', 'VL'" in refusal(two)
    assert read(two, sheet="VL") == [Record("b", "DIQ", 2)]
    assert "has no sheet 'VX'; sheets: 'VH', 'VL'" in refusal(two, sheet="VX")
    assert "which has no sheet 'VH'" in refusal(b"id,sequence\na,EVQ\n", sheet="VH")


def test_merged_cells_are_refused() -> None:
    message = refusal(one_sheet([["id", "sequence"], ["a", "EVQ"], [None, "QLV"]], merged="A2:A3"))
    assert "merged cells, the first at row 2, column 1" in message
    assert "Unmerge" in message


def test_nothing_in_it() -> None:
    assert "no cell with a value" in refusal(one_sheet([]))
    assert "a header, but no records" in refusal(one_sheet([["id", "sequence"]]))
    assert "no column 'sequence'" in refusal(one_sheet([["id", "seq"], ["a", "EVQ"]]))


def test_a_cell_far_out_is_refused_before_it_is_held() -> None:
    """The full rectangle would need 512 GiB."""
    far = Raw('<c r="XFD1048576" t="inlineStr"><is><t>x</t></is></c>')
    message = refusal(one_sheet([["id", "sequence"], ["a", "EVQ", far]]))
    assert "spans 1048576 rows and 16384 columns" in message


def test_a_workbook_that_unpacks_to_too_much_is_refused() -> None:
    data = workbook({"S": sheet_xml([["id", "sequence"], ["a", "EVQ"]])}, {"xl/media/x.bin": bytes(600 << 20)})
    assert len(data) < 1 << 20
    assert "unpacks to more than 536870912 bytes" in refusal(data)


def test_a_child_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dying = tmp_path / "dying.py"
    dying.write_text("import os, sys; sys.stdin.buffer.read(); os.abort()")
    monkeypatch.setattr("abonyx.input.excel._CHILD", dying)
    assert "the process that read it ended" in refusal(one_sheet([["id", "sequence"], ["a", "EVQ"]]))


@pytest.mark.parametrize("cut", [10, 60, 400])
def test_a_cut_workbook_is_an_error(cut: int) -> None:
    data = one_sheet([["id", "sequence"], ["a", "EVQ"]])
    assert refusal(data[:-cut])


def test_text_named_xlsx(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    path.write_text("id,sequence\na,EVQ\n")
    with pytest.raises(InputError, match=r"is not an \.xlsx workbook"):
        list(read_records(path))


def test_not_over_http_and_not_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = one_sheet([["id", "sequence"], ["a", "EVQ"]])
    with pytest.raises(InputError, match="is an Excel workbook, which is not accepted here"):
        list(read_records(None, stdin=io.BytesIO(data), limits=ReadLimits(*[1 << 30] * 7)))
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(ConfigError, match="Excel needs python-calamine") as caught:
        read(data)
    assert "Install the extra excel: pip install " in str(caught.value)


def test_a_reader_left_half_way_ends_its_child() -> None:
    rows = [["id", "sequence"], *([f"a{n}", "EVQ" * 400] for n in range(3000))]
    records = read_records(None, stdin=io.BytesIO(one_sheet(rows)))
    assert next(records) == Record("a0", "EVQ" * 400, 2)
    records.close()  # type: ignore[attr-defined]


def test_an_excel_date_is_not_an_id() -> None:
    styles = (
        '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><cellXfs count="2">'
        '<xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/></cellXfs></styleSheet>'
    )
    day = Raw('<c r="WHERE" s="1"><v>45352</v></c>')
    plain = workbook({"S": sheet_xml([["id", "sequence"], [day, "EVQ"]])})
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plain)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            text = source.read(name).decode()
            if name.endswith("workbook.xml.rels"):
                link = '<Relationship Id="s" Type="{}/styles" Target="styles.xml"/></Relationships>'
                office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
                text = text.replace("</Relationships>", link.format(office))
            target.writestr(name, text)
        target.writestr("xl/styles.xml", styles)
    (record,) = read(buffer.getvalue())
    assert record == RejectedRecord("1", 2, "the id is the Excel date 2024-03-01; store ids as text")
