"""Find the columns of ids, sequences and labels in a table. It has over 300 lines, because all known names are here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from abonyx.bundle.manifest import RESIDUES
from abonyx.errors import ColumnUnclear, InputError, printable
from abonyx.input.cells import NO_CELLS, NO_LIGHT, Cells, is_missing, text
from abonyx.input.limits import check_width
from abonyx.wording import option

# Names of columns that are recognised, in lower case, without spaces, `_` and `-`. Ids' names are tried in this order.
_ID_NAMES = ("id", "sequenceid", "antibodyid", "name", "antibody", "clone", "sequenceidheavy", "antibodyname")
_HEAVY_NAMES = frozenset(
    {*("sequenceaaheavy", "sequencealignmentaaheavy", "sequenceheavy")}
    | {*("vh", "vhseq", "vhsequence", "vhproteinsequence", "vhaa", "sequencevh")}
    | {*("heavy", "heavyseq", "heavysequence", "heavychain", "heavychainsequence")}
)
_LIGHT_NAMES = frozenset(name.replace("heavy", "light").replace("vh", "vl") for name in _HEAVY_NAMES)
_ANY_NAMES = frozenset(
    {*("sequenceaa", "sequencealignmentaa", "aasequence", "proteinsequence", "aminoacidsequence")}
    | {*("vhh", "vhhsequence")}
)
_SEQUENCE_NAMES = _ANY_NAMES | _HEAVY_NAMES
# Names of a column that may have classes. The first one that exists is used.
_LABEL_NAMES = ("label", "labels", "y", "class")
# AIRR's columns of amino acids. The alignment comes first, because it ends where the variable domain ends.
_AIRR_RESIDUES = ("sequencealignmentaa", "sequenceaa")
_AIRR_MARKS = frozenset(
    {*("sequenceid", "revcomp", "productive", "locus", "vcall", "dcall", "jcall", "junction", "junctionaa")}
    | {*("sequencealignment", "germlinealignment", "vcigar", "dcigar", "jcigar")}
)
_FEWEST_MARKS = 3
# Keep all columns.
ALL = "all"
_SHOWN, _SHOWN_CHARS = 20, 1_500
# A name of so many letters of one case, of so many kinds, that are all residues is a sequence.
_SEQUENCE_CHARS, _SEQUENCE_KINDS = 40, 8
# An error offers the names for a choice only if there are at most this many, each with at most this many characters.
_OFFERED, _OFFERED_CHARS = 200, 100
_SURROGATE = re.compile("[\ud800-\udfff]")  # a byte that is not UTF-8
_NAME_IT = f"Name one of them with {option('sequence_column')}."


class Wanted(NamedTuple):
    """The names of columns, and of a workbook's sheet, that the user gives; None = not given.

    Attributes:
        id, label, sheet: names.
        sequence: column of the sequences; for pairs, of the heavy chains.
        keep: columns to copy to the output, or (ALL,).
        max_columns: largest number of columns in a header; None = any.
        light: for pairs, column of the light chains.
        chains: the chains that a record needs: ("H",), ("L",), or both.
        find_label: whether to also keep a column whose name is usual for labels.
    """

    id: str | None
    sequence: str | None
    label: str | None
    sheet: str | None = None
    keep: tuple[str, ...] = ()
    max_columns: int | None = None
    light: str | None = None
    chains: tuple[str, ...] = ("H",)
    find_label: bool = False

    @property
    def paired(self) -> bool:
        """Whether a record needs both chains."""
        return len(self.chains) > 1


class Columns(NamedTuple):
    """Positions of the columns in a table.

    Attributes:
        id: column of the ids; None = the ids are the numbers of the records.
        sequence: one column; or several aligned columns with one residue each.
        label: column of the labels; None = no labels.
        gapped: whether the one column of sequences is an alignment.
        kept: (position, name) of the columns to copy to the output.
        light: for pairs, column of the light chains; None = a record is one sequence.
        light_gapped: whether that column is an alignment.
        optional: the column of `kept` whose cell may be missing in a short row.
    """

    id: int | None
    sequence: range
    label: int | None
    gapped: bool = False
    kept: tuple[tuple[int, str], ...] = ()
    light: int | None = None
    light_gapped: bool = False
    optional: int | None = None

    @property
    def needed(self) -> list[int]:
        """Positions that a row must have, each once, in order."""
        return [place for place in self.used if place != self.optional]

    @property
    def used(self) -> list[int]:
        """All positions, each once, in order."""
        named = {place for place in (self.id, self.label, self.light) if place is not None}
        return sorted({*self.sequence} | named | {place for place, _ in self.kept})

    def cells(self, row: Sequence[object] | Mapping[int, object]) -> Cells:
        """The used cells of a row. Gaps of an alignment are left out."""
        if len(self.sequence) == 1:
            sequence = _chain(row[self.sequence.start], self.gapped)
        else:
            residues = (row[place] for place in self.sequence)
            sequence = "".join(text(cell) for cell in residues if not is_missing(cell) and text(cell) != ".")
        return Cells(
            "" if self.id is None else row[self.id],
            sequence,
            "" if self.label is None else row[self.label],
            {name: row[place] for place, name in self.kept} if self.kept else NO_CELLS,
            NO_LIGHT if self.light is None else _chain(row[self.light], self.light_gapped),
        )


def _chain(cell: object, gapped: bool) -> object:
    """The cell of a column of sequences, without gaps if the column is an alignment."""
    if gapped and isinstance(cell, str) and not is_missing(cell):
        return cell.replace("-", "").replace(".", "")
    return cell


def find_columns(
    header: Sequence[str], where: str, wanted: Wanted, notes: list[str] | None = None, *, in_text: bool = False
) -> Columns:
    """Find the requested columns in a header, or columns with known names.

    Args:
        header: the names in the file.
        where: file and line, for messages.
        wanted: the requested names. FIRST:LAST for the sequences is a range of columns, unless a column has that name.
        notes: a list to which lines for the user are added.
        in_text: whether the header is from a text file, which may have one sequence on each line and no header.

    Raises:
        ColumnUnclear: a column is missing, or more than one could be meant.
        InputError: a used name appears more than once, or a range ends before it starts.
        InputTooLarge: the header has more columns than wanted.max_columns.
    """
    check_width(len(header), where, wanted.max_columns)
    table = _Header([column.strip() for column in header], where, in_text)
    argument = "heavy_column" if wanted.paired else "sequence_column"
    if wanted.sequence is not None:
        sequence = table.named_range(wanted.sequence.strip(), argument)
    elif wanted.paired:
        sequence = table.chain(0)
    else:
        sequence = table.light() if wanted.chains == ("L",) else table.sequence()
    light = None
    if wanted.paired:
        light = table.chain(1).start if wanted.light is None else table.named(wanted.light.strip(), "light_column")
    id_ = table.id() if wanted.id is None else table.named(wanted.id.strip(), "id_column")
    label = None if wanted.label is None else table.named(wanted.label.strip(), "label_column")
    gapped = len(sequence) == 1 and table.is_alignment(sequence.start)
    columns = Columns(id_, sequence, label, gapped, (), light, light is not None and table.is_alignment(light))
    if light is not None and light in sequence:
        what = f"{where}: column {printable(table.names[light])!r} would be used for both chains"
        raise InputError(what, f"Name another column with {option('light_column')}.")
    columns = columns._replace(kept=table.kept(wanted.keep, columns.used))
    if wanted.find_label:
        label = table.possible_label(columns.used)
        if label is not None:
            columns = columns._replace(kept=(*columns.kept, (label, table.names[label])), optional=label)
            if notes is not None:
                notes += table.other_labels(columns.used, label)
    for place in columns.used:
        table.check_once(place)
    if notes is not None:
        notes += table.notes(columns, wanted)
    return columns


def key(name: str) -> str:
    """The name of a column in lower case, without spaces, `_` and `-`."""
    return re.sub("[ _-]+", "", name).lower()


def is_sequence_name(name: str) -> bool:
    """Whether this is a known name of a column of sequences."""
    return key(name) == "sequence" or key(name) in _SEQUENCE_NAMES


def _is_sequence(name: str) -> bool:
    """Whether this is a sequence in the place of a column's name: the file has no header."""
    letters = set(name.upper())
    one_case = name.isupper() or name.islower()
    return len(name) >= _SEQUENCE_CHARS and one_case and len(letters) >= _SEQUENCE_KINDS and letters <= set(RESIDUES)


class _Header:
    """The names in a table's header, and functions that find columns."""

    def __init__(self, names: list[str], where: str, in_text: bool) -> None:
        self.names, self.where, self.in_text = names, where, in_text
        self.keys = [key(name) for name in names]

    def shown(self) -> str:
        """The names, for a message."""
        return _shown(self.names)

    def named(self, name: str, argument: str) -> int:
        """The place of a requested column."""
        if name in self.names:
            if _is_sequence(name):  # its record would be lost
                raise self._unclear(f"column {name[:_SHOWN]!r}... is a sequence", self._header_fix())
            return self.names.index(name)
        similar = [printable(self.names[at]) for at in self._places(key(name))]
        if any(map(_is_sequence, self.names)):
            fix = self._header_fix()
        elif argument == "sequence_column" and len(self.names) == 1 and self.in_text:
            fix = "If the file has one sequence on each line and no header, add `sequence` as the first line. "
            fix += f"If the first line is a header, name its column with {option('sequence_column')} NAME."
        elif similar:
            fix = f"Did you mean {' or '.join(map(repr, similar))}? Give the name as the file has it."
        else:
            fix = f"Name one of them with {option(argument)}. docs/files.md lists the names that are recognised."
            if sum(map(bool, self.names)) == 1:
                fix += " If it is a title, delete the rows above the names of the columns."
        raise self._unclear(f"no column {printable(name)!r}; columns: {self.shown()}", fix)

    def _header_fix(self) -> str:
        names = "sequence" if len(self.names) == 1 else "id,sequence"
        return f"The names of the columns are those of a record, so there is no header. Add one, such as {names}."

    def named_range(self, name: str, argument: str = "sequence_column") -> range:
        """The places of the sequences: a column, or FIRST:LAST."""
        ends = [name] if name in self.names else name.split(":", 1)
        first, last = (self.named(end.strip(), argument) for end in (ends[0], ends[-1]))
        if first > last:
            what = f"{self.where}: column {printable(ends[0])!r} comes after {printable(ends[-1])!r}"
            raise InputError(what, "Give FIRST:LAST in the order of the file.")
        return range(first, last + 1)

    def id(self) -> int | None:
        """The place of the ids, by name, or the first column if it is the only one without a name; else None.

        It is also None if several columns have the same known name, and none of them is written exactly like it.
        """
        for known in _ID_NAMES:
            if place := self._places(known):
                exact = [at for at in place if self.names[at] == known]
                return exact[0] if exact else place[0] if len(place) == 1 else None
        # The index of pandas and the row names of R are a first column without a name.
        return 0 if len(self.names) > 1 and not self.names[0] and self.names.count("") == 1 else None

    def sequence(self) -> range:
        """The place of the sequences, by name.

        The column `sequence` of an AIRR table has nucleotides. It could be read by mistake, because A, C, G and T
        are also letters of residues.
        """
        airr = self._airr()
        places = airr if airr is not None else self._places("sequence")
        exact = [at for at in places if self.names[at] == "sequence"]
        if airr is None and exact:
            places = exact[:1]  # if there are others, check_once raises
        places = places or [at for at, known in enumerate(self.keys) if known in _SEQUENCE_NAMES]
        if len(places) > 1:
            candidates = _shown([self.names[at] for at in places])
            raise self._unclear(f"several columns could hold the sequences: {candidates}", _NAME_IT)
        at = places[0] if places else self.named("sequence", "sequence_column")
        return range(at, at + 1)

    def is_alignment(self, place: int) -> bool:
        """Whether a column has AIRR's name of an alignment, for any chain."""
        return self.keys[place].removesuffix("heavy").removesuffix("light") == _AIRR_RESIDUES[0]

    def chain(self, at: int) -> range:
        """The place of the heavy (0) or light (1) chains of pairs, by name."""
        word, argument = (("heavy", "heavy_column"), ("light", "light_column"))[at]
        # AIRR's `sequence_heavy` has nucleotides if the table also has a column of amino acids.
        known = [place for name in _AIRR_RESIDUES if (place := self._places(name + word))][:1]
        names = (_HEAVY_NAMES, _LIGHT_NAMES)[at]
        places = known[0] if known else [place for place, key_ in enumerate(self.keys) if key_ in names]
        if len(places) > 1:
            candidates = _shown([self.names[place] for place in places])
            what = f"several columns could hold the {word} chains: {candidates}"
            raise self._unclear(what, f"Name one of them with {option(argument)}.")
        if not places:
            what = f"no column was recognised as the {word} chains; columns: {self.shown()}"
            fix = f"The heads need both chains of a record. Name the column with {option(argument)}."
            raise self._unclear(what, fix)
        return range(places[0], places[0] + 1)

    def light(self) -> range:
        """The place of the sequences for heads that expect only light chains, by name."""
        exact = [at for at, name in enumerate(self.names) if name == "sequence"]
        if exact and not any(key_ in _LIGHT_NAMES for key_ in self.keys):
            return range(exact[0], exact[0] + 1)
        return self.chain(1)

    def _airr(self) -> list[int] | None:
        """The places of the amino acids in an AIRR table; None if it is not an AIRR table."""
        for suffix in ("", "heavy"):
            there = [self._places(known + suffix) for known in _AIRR_RESIDUES]
            nucleotides = self._places("sequence" + suffix)
            if any(there) and (all(there) or nucleotides):
                return next(place for place in there if place)
        marks = len(_AIRR_MARKS & {*self.keys})
        if "sequence" in self.keys and (marks >= _FEWEST_MARKS or "revcomp" in self.keys):
            what = "is an AIRR table without amino acids; its column 'sequence' has nucleotides"
            fix = (
                "Add sequence_aa or sequence_alignment_aa. If 'sequence' has amino acids, give "
                f"{option('sequence_column')} sequence."
            )
            raise self._unclear(what, fix)
        return None

    def kept(self, names: tuple[str, ...], used: list[int]) -> tuple[tuple[int, str], ...]:
        """(place, name) of the columns to keep: those named, or all that have a name and no other use."""
        if names == (ALL,):
            return tuple((at, name) for at, name in enumerate(self.names) if name and at not in used)
        places = dict.fromkeys(self.named(name.strip(), "keep") for name in names)
        return tuple((place, self.names[place]) for place in places)

    def possible_label(self, used: list[int]) -> int | None:
        """The place of the first unused column whose name is usual for labels, and unique; None if there is none."""
        found = (self._places(known) for known in _LABEL_NAMES)
        return next((places[0] for places in found if len(places) == 1 and places[0] not in used), None)

    def other_labels(self, used: list[int], label: int) -> list[str]:
        """A note if the names of other columns are usual for labels too."""
        places = [at for known in _LABEL_NAMES for at in self._places(known) if at not in used]
        if not places:
            return []
        others = _shown([self.names[at] for at in places])
        return [f"{self.where}: the labels are column {printable(self.names[label])!r}; not read as labels: {others}"]

    def _unclear(self, what: str, fix: str) -> ColumnUnclear:
        """The error, with the names that can be chosen: those that appear once and are valid text."""
        offered = len(self.names) <= _OFFERED and all(len(name) <= _OFFERED_CHARS for name in self.names)
        once = (name for name in self.names if name and self.names.count(name) == 1 and not _SURROGATE.search(name))
        return ColumnUnclear(f"{self.where}: {what}", fix, columns=tuple(once) if offered else ())

    def check_once(self, place: int) -> None:
        """Refuse a used column if another column has the same name."""
        name = self.names[place]
        if self.names.count(name) > 1:
            what = f"{self.where}: column {printable(name)!r} appears more than once; columns: {self.shown()}"
            raise InputError(what, "Rename or drop one of them.")

    def notes(self, columns: Columns, wanted: Wanted) -> list[str]:
        """Lines about the chosen columns, unless their names are just `id` and `sequence`."""
        lines = []
        place = columns.sequence.start
        if columns.light is not None and (wanted.sequence is None or wanted.light is None):
            heavy, light = (printable(self.names[at]) for at in (place, columns.light))
            lines.append(f"{self.where}: the heavy chains are column {heavy!r}, the light chains are column {light!r}")
        elif wanted.sequence is None and self.names[place] != "sequence":
            gaps = "; gaps are removed" if columns.gapped else ""
            lines.append(f"{self.where}: the sequences are column {printable(self.names[place])!r}{gaps}")
        if wanted.sequence is None and not wanted.paired:
            lines += self._left_out(place, wanted.chains)
        if wanted.id is None and columns.id is not None and not self.names[columns.id]:
            lines.append(f"{self.where}: the ids are the first column, which has no name")
        unnamed = sum(not name and at not in columns.used for at, name in enumerate(self.names))
        if unnamed and wanted.keep == (ALL,):
            lines.append(f"{self.where}: columns without a name are not kept: {unnamed}")
        others = [name for at, name in enumerate(self.names) if name and at not in columns.used]
        if columns.id is None and others:
            lines.append(
                f"{self.where}: no column was recognised as the ids, so they are 1, 2, 3, ...; "
                f"{option('id_column')} can name one of these: {_shown(others)}"
            )
        return lines

    def _left_out(self, place: int, chains: tuple[str, ...]) -> list[str]:
        """A note that the columns of the other chain are not scored, if the chosen column has a name of one chain."""
        words = (("heavy", _HEAVY_NAMES), ("light", _LIGHT_NAMES))
        (own, own_names), (other, other_names) = words if chains == ("H",) else words[::-1]
        left = [name for name, key_ in zip(self.names, self.keys, strict=True) if key_ in other_names]
        if not left or self.keys[place] not in own_names:
            return []
        what = f"{self.where}: the {other} chains ({_shown(left)}) are not scored"
        return [f"{what}: the heads expect only the {own} chain"]

    def _places(self, known: str) -> list[int]:
        return [at for at, name in enumerate(self.keys) if name == known]


def _shown(names: Sequence[str]) -> str:
    """The first names, for a message of limited length. A repr can be ten times as long as the name."""
    text = ", ".join(repr(name[:40]) for name in names[:_SHOWN])
    return text[:_SHOWN_CHARS] + (", ..." if len(names) > _SHOWN or len(text) > _SHOWN_CHARS else "")
