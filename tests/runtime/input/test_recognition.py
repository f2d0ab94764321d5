from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from pathlib import Path

import pytest

from abonyx.errors import InputError
from abonyx.input.records import read_records

from .workbook import one_sheet


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name in names:
            made.writestr(name, "application/vnd.oasis.opendocument.spreadsheet" if name == "mimetype" else "x")
    return buffer.getvalue()


FOREIGN = {
    "bzip2": (b"BZh91AY&SY" + bytes(40), "bunzip2"),
    "xz": (b"\xfd7zXZ\0\0\x04" + bytes(40), "xz -dk"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(40), "zstd -d"),
    "zip archive": (archive("a.csv"), "unzip"),
    "Word document": (archive("[Content_Types].xml", "word/document.xml"), "Copy"),
    "OpenDocument": (archive("mimetype"), ".xlsx"),
    "old or encrypted Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(40), ".xlsx"),
    "FASTQ": (b"@r1 x\nACGT\n+\nIIII\n", "Translate"),
    "GenBank": (b"LOCUS       AAA 119 aa\nORIGIN\n        1 evq\n//\n", "genbank"),
    "EMBL or UniProt": (b"ID   HV01_HUMAN   Reviewed;   117 AA.\nAC   P01762;\n", "swiss"),
    "PDB": (b"HEADER    IMMUNE SYSTEM\nSEQRES   1 A  10  GLU\n", "pdb-seqres"),
    "PDB, a": (b"REMARK   1 REFERENCE 1\n", "pdb-seqres"),
    "PDB, a structure": (b"ATOM      1  N   GLU A   1      11.1  22.2  33.3\n", "pdb-seqres"),
    "EMBL": (b"ID   X56734; SV 1; linear; mRNA; STD; PLN; 1859 BP.\nXX\n", "swiss"),
    "mmCIF": (b"data_1ABC\n#\n_entry.id 1ABC\n", "cif-seqres"),
    "Clustal": (b"CLUSTAL W (1.81)\n\na EVQ\n", "clustal"),
    "Stockholm": (b"# STOCKHOLM 1.0\na EVQ\n//\n", "stockholm"),
    "JSON": (b'{\n  "id": "a",\n  "sequence": "EVQ"\n}\n', "jq"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "git-annex pointer": (b"/annex/objects/SHA256E-s9--0.csv\n", "git annex get"),
    "pickle": (pickle.dumps([1]), "to_csv"),
    "HTML": (b"<!DOCTYPE html>\n<html>", "raw file"),
    "PDF": (b"%PDF-1.7\n", "Copy"),
    "NumPy": (b"\x93NUMPY\x01\0v\0{", "CSV or Parquet"),
    "UTF-16LE": ("id,sequence\na,EVQ\n".encode("utf-16-le"), "iconv"),
    "UTF-16BE": ("id,sequence\na,EVQ\n".encode("utf-16-be"), "iconv"),
    "UTF-16,": ("\ufeffid,sequence\na,EVQ\n".encode("utf-16-le"), "iconv"),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.fasta", "x.txt", "x.parquet", "x.csv.gz", None])
def test_a_file_of_another_kind_is_named(tmp_path: Path, what: str, name: str | None) -> None:
    data, convert = FOREIGN[what]
    with pytest.raises(InputError) as caught:
        if name is None:
            list(read_records(None, stdin=io.BytesIO(data)))
        else:
            (tmp_path / name).write_bytes(data)
            list(read_records(tmp_path / name))
    assert what.strip(",") in caught.value.what
    assert convert in caught.value.fix
    assert "\n" not in caught.value.fix


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", None])
def test_a_wrong_encoding_is_named_whatever_the_kind(tmp_path: Path, name: str | None) -> None:
    path = tmp_path / (name or "x")
    path.write_bytes(FOREIGN["UTF-16LE"][0])
    with pytest.raises(InputError) as caught:
        list(read_records(path))
    assert caught.value.what == f"{path}: is text in UTF-16LE, not in UTF-8"


@pytest.mark.parametrize(
    "text",
    [
        "id,sequence\n@r1,EVQ\n",
        "locus,sequence\nLOCUS  1,EVQ\n",
        "Title,sequence\nx,EVQ\n",
        "header,sequence\nx,EVQ\n",
        "[id],sequence\nx,EVQ\n",
        "CLUSTAL_id,sequence\nx,EVQ\n",
        "HEADER  x,sequence\nx,EVQ\n",
        "TITLE of clone,sequence\nx,EVQ\n",
        "MODEL  name,sequence\nx,EVQ\n",
        "ID   x;sequence\nx;EVQ\n",
        "LOCUS  name,sequence\nx,EVQ\n",
    ],
)
def test_tables_are_not_taken_for_it(text: str) -> None:
    (record,) = read_records(None, stdin=io.BytesIO(text.encode()))
    assert record[1] == "EVQ"


@pytest.mark.parametrize("name", ["x.csv", "x.fasta"])
def test_an_accepted_kind_under_another_kinds_name(tmp_path: Path, name: str) -> None:
    for data, what in [
        (b'{"id": "a", "sequence": "EVQ"}\n', "JSONL"),
        (one_sheet([["id"]]), "an Excel workbook"),
        (b"PAR1" + bytes(9), "Parquet"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"is {what}"):
            list(read_records(tmp_path / name))


def test_gzip_inside_gzip() -> None:
    data = gzip.compress(gzip.compress(b"id,sequence\na,EVQ\n", mtime=0), mtime=0)
    with pytest.raises(InputError, match="is gzip data inside gzip data"):
        list(read_records(None, stdin=io.BytesIO(data)))
