"""Recognise the kind of a file by its suffix and its first bytes, and give advice for kinds that are not read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from abonyx.errors import InputError

ACCEPTED = ".fasta .fa .faa .fas .csv .tsv .jsonl .ndjson (each also with .gz) .parquet .pq .xlsx"

_KINDS = {
    **dict.fromkeys((".fasta", ".fa", ".faa", ".fas"), "fasta"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".xlsx": "xlsx",
}
GZIP, PARQUET, ZIP = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
_READ = {GZIP: "gzip data", PARQUET: "Parquet"}


class Foreign(NamedTuple):
    """A kind of file that is not read.

    Attributes:
        what: name of the kind.
        convert: how to convert it.
        encoding: whether only its encoding is wrong.
    """

    what: str
    convert: str
    encoding: bool = False


_DOWNLOAD = "Download the file itself: run `git lfs pull` for Git LFS, or use the link to the raw file on a web page."
_UNPACK = "Unpack it first"
_AS_XLSX = "Save it as .xlsx or as CSV UTF-8."
_AS_TABLE = "Write the table as CSV or Parquet, e.g. pandas' df.to_csv(FILE, index=False)."
_AS_FASTA = "Write its amino acids as FASTA, e.g. Bio.SeqIO.convert(FILE, {!r}, 'x.fasta', 'fasta')."

_BYTES = {
    b"BZh": Foreign("bzip2 data", f"{_UNPACK}: bunzip2 -k FILE."),
    b"\xfd7zXZ\0": Foreign("xz data", f"{_UNPACK}: xz -dk FILE."),
    b"\x28\xb5\x2f\xfd": Foreign("zstd data", f"{_UNPACK}: zstd -d FILE."),
    b"7z\xbc\xaf\x27\x1c": Foreign("a 7z archive", f"{_UNPACK}: 7z x FILE."),
    b"Rar!": Foreign("a RAR archive", f"{_UNPACK}: unrar x FILE."),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": Foreign("an old or encrypted Excel file", _AS_XLSX),
    b"\x93NUMPY": Foreign("a NumPy array", _AS_TABLE),
    b"\x89HDF": Foreign("HDF5", _AS_TABLE),
    b"ARROW1": Foreign("Arrow (Feather)", _AS_TABLE),
    b"SQLite format 3": Foreign("an SQLite database", _AS_TABLE),
    b"%PDF": Foreign("a PDF", "Copy the sequences into a CSV or FASTA file."),
    b"version https://git-lfs.github.com/": Foreign("a Git LFS pointer, not the file itself", _DOWNLOAD),
}
_PATTERNS = {
    rb"/annex/objects/|(\.\./)*\.git/annex/": Foreign(
        "a git-annex pointer", "Get the file itself: git annex get FILE."
    ),
    rb"@[^\n]*\r?\n[A-Za-z.*-]+\r?\n\+": Foreign(
        "FASTQ, sequencing reads", "Translate the reads, then give the amino acids as FASTA or CSV."
    ),
    rb"LOCUS {2,}\S[^\r\n]*\d (bp|aa)\b": Foreign("GenBank", _AS_FASTA.format("genbank")),
    rb"ID {3}\S[^\r\n]*\d (BP|AA)\.": Foreign("EMBL or UniProt text", _AS_FASTA.format("swiss")),
    # With PDB's exact columns, because the header of a table may begin with such a word.
    rb"(HEADER {4}|TITLE {5}|(REMARK|CRYST1|SEQRES|ATOM  |HETATM|MODEL ) *\d)": Foreign(
        "PDB, a structure", _AS_FASTA.format("pdb-seqres")
    ),
    rb"data_\S+\s+(#|_|loop_)": Foreign("mmCIF, a structure", _AS_FASTA.format("cif-seqres")),
    rb"CLUSTAL[ OW]": Foreign("a Clustal alignment", _AS_FASTA.format("clustal")),
    rb"# STOCKHOLM": Foreign("a Stockholm alignment", _AS_FASTA.format("stockholm")),
    rb"(?i:<!doctype html|<html)": Foreign("a web page (HTML)", _DOWNLOAD),
    rb"<\?xml": Foreign("XML", "Write its sequences as FASTA or CSV."),
    rb"\[\s*[\[{\"\]]": Foreign("JSON", "Write one object on each line: jq -c '.[]' FILE > FILE.jsonl."),
    rb"\{\\rtf": Foreign("RTF, a text document", "Save it as plain text (UTF-8)."),
}
_COMPILED = [(re.compile(pattern), foreign) for pattern, foreign in _PATTERNS.items()]
_JSON = Foreign(
    "JSON",
    'Write one object on each line, {"id": ..., "sequence": ...}: jq -c \'.sequences[]\' FILE > FILE.jsonl.',
)


def named_kind(source: Path | None) -> tuple[str | None, bool]:
    """(format by the suffix, or None if it is unknown; whether the suffix says gzip)."""
    suffixes = [suffix.lower() for suffix in source.suffixes] if source is not None else []
    zipped = suffixes[-1:] == [".gz"]
    return _KINDS.get("".join(suffixes[-2:-1] if zipped else suffixes[-1:])), zipped


def recognise(head: bytes) -> Foreign | None:
    """The kind of a file that is not read, by its first bytes; None if the file may be of an accepted kind."""
    for mark, foreign in _BYTES.items():
        if head.startswith(mark):
            return foreign
    if head.startswith((ZIP, b"PK\x05\x06")):
        return _zip(head)
    if re.match(rb"\x80[\x02-\x05]", head):
        return Foreign("a Python pickle, which is not read because it may run code", _AS_TABLE)
    if wide := _wide(head):
        convert = f"Save it as UTF-8: iconv -f {wide} -t UTF-8 FILE > FILE.utf8."
        return Foreign(f"text in {wide}, not in UTF-8", convert, encoding=True)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((foreign for pattern, foreign in _COMPILED if pattern.match(text)), None)


def _zip(head: bytes) -> Foreign | None:
    """The kind of a zip file; None if it is a workbook that the xlsx reader accepts."""
    if b"[Content_Types].xml" in head or b"xl/" in head:
        if b"word/" in head:
            return Foreign("a Word document", "Copy the sequences into a CSV or FASTA file.")
        return Foreign("an .xlsb workbook", _AS_XLSX) if b"xl/workbook.bin" in head else None
    if b"opendocument.spreadsheet" in head:
        return Foreign("an OpenDocument spreadsheet", _AS_XLSX)
    return Foreign("a zip archive", f"{_UNPACK}: unzip FILE.")


def _wide(head: bytes) -> str | None:
    """The encoding, if it is UTF-16 or UTF-32; else None.

    Without a byte order mark, UTF-16 is recognised by its NUL bytes: in ASCII text, every second byte is NUL.
    """
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    start = head[:64]
    if len(start) >= 4:
        for name, first in (("UTF-16LE", 1), ("UTF-16BE", 0)):
            if not any(start[first::2]) and all(start[1 - first :: 2]):
                return name
    return None


def sniff(head: bytes, name: str) -> str:
    """The kind of a file whose suffix is unknown."""
    if head.startswith(PARQUET):
        return "parquet"
    if head.startswith(ZIP):
        return "xlsx"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lines = [line for line in re.split(rb"[\r\n]+", text) if line.strip()]
    header = next((line for line in lines if not line.startswith((b"#", b";"))), b"")
    if header.startswith(b">"):
        return "fasta"
    if is_jsonl(head):
        return "jsonl"
    header = next((line for line in lines if not line.startswith(b"#")), b"")
    if b"\0" in header or b"\0" in head[:16]:
        what = f"{name}: is binary data, not FASTA, CSV, TSV, JSONL, Parquet or xlsx"
        raise InputError(what, f"Accepted: {ACCEPTED}.")
    return "table"


def is_jsonl(head: bytes) -> bool:
    """Whether the first two lines are objects. OAS files have an object only in the first line."""
    lines = [line for line in re.split(rb"[\r\n]+", head.removeprefix(b"\xef\xbb\xbf")) if line.strip()][:2]
    objects = [line.lstrip().startswith(b"{") for line in lines]
    return bool(lines) and all(objects) and (len(lines) > 1 or _closed(lines[0], head))


def _closed(line: bytes, head: bytes) -> bool:
    """Whether a single line can be a whole object: it ends with }, or its end was not read."""
    return line.rstrip().endswith(b"}") or len(line) + 1 >= len(head)


def check_kind(head: bytes, kind: str | None, name: str) -> None:
    """Refuse a file that is not of the kind that its suffix says, or not of an accepted kind.

    Args:
        head: the first bytes.
        kind: the kind by the suffix; None if it is unknown.
        name: name of the file in messages.

    Raises:
        InputError: the file is of another kind. The message says which, and how to convert it.
    """
    foreign = recognise(head)
    if foreign is None and kind not in ("parquet", "xlsx"):
        found = next((found for mark, found in _READ.items() if kind and head.startswith(mark)), None)
        if kind is None and head.startswith(GZIP):  # the caller has already unpacked it
            raise InputError(f"{name}: is gzip data inside gzip data", f"{_UNPACK}: gunzip FILE.gz.")
        if found is None and kind and head.startswith(ZIP):
            found = "an Excel workbook (.xlsx)"
        if found is None and kind in ("csv", "tsv", "fasta") and is_jsonl(head):
            found = "JSONL"
        if found:
            fix = f"Convert or rename it. Accepted: {ACCEPTED}."
            raise InputError(f"{name}: is {found}, not {kind} in UTF-8", fix)
    if foreign is None and _json_object(head) and not is_jsonl(head):
        foreign = _JSON
    if foreign is None and kind == "xlsx" and not head.startswith(ZIP):
        what = f"{name}: is not an .xlsx workbook, which begins with {ZIP!r}; it begins with {head[:16]!r}"
        raise InputError(what, "Save it again as .xlsx. If it is a text table, name it .csv.")
    if foreign:
        instead = f", not {kind}" if kind and not foreign.encoding else ""
        raise InputError(f"{name}: is {foreign.what}{instead}", foreign.convert)


def _json_object(head: bytes) -> bool:
    """Whether the text is an object over several lines: the first line begins with { and does not end with }."""
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0].strip()
    return first.startswith(b"{") and not first.endswith(b"}")
