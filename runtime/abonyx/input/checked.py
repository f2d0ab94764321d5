"""Read and check the whole input of a run before a model is opened."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from abonyx.alphabet import SequenceLimit
from abonyx.domain import (
    NO_RULE,
    DomainRule,
    Judge,
    Judgement,
    LaterJudgements,
    can_wait,
    judge_in_children,
    judge_in_turn,
    judge_long,
    reason,
    scored_part,
)
from abonyx.errors import RecordsRejected, printable
from abonyx.input.labels import LabelKind, class_of, label_of, label_problem, refuse_other_kind, value_of
from abonyx.input.limits import no_step
from abonyx.input.pairs import judge_pair, part_of_record, record_problem, rules_of_chains
from abonyx.input.records import Record, RejectedRecord, read_records
from abonyx.input.sequences import Gaps, judge
from abonyx.wording import option

# Largest number of problems in the error message. With --on-invalid skip, OUT.rejected.csv has all of them.
SHOWN_PROBLEMS = 10
_HASHED_ROWS = 4_096


@dataclass(frozen=True)
class Input:
    """A checked input: n records that can be scored, in file order, and the rejected records.

    Attributes:
        ids: n ids.
        sequences: the n sequences to score; for pairs, the heavy chains. They are cleaned, and trimmed to the variable
            domain if the rule says so.
        rejected: the records that cannot be scored.
        labels: n labels, 0 specific, 1 non-specific, None not labelled; empty if no classes were requested.
        values: n measured values, None not labelled; empty if no values were requested.
        judgements: n judgements about the chain and the domain. Some may be made when they are first read
            (LaterJudgements).
        originals: the n cleaned sequences before trimming; empty if nothing is trimmed.
        places: for each sequence its place in the original, "FIRST-LAST" from 1; "" if no domain was found; empty if
            nothing is trimmed. For a pair "heavy FIRST-LAST; light FIRST-LAST"; a chain without a place is left out.
        kept: name -> n cells, for columns that are copied to the output.
        notes: lines about how the file was read.
        light: for pairs, the n light chains; else empty.
        light_originals: as `originals`, for the light chains.
    """

    ids: list[str] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)
    judgements: Sequence[Judgement] = field(default_factory=list)
    originals: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    kept: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    light: list[str] = field(default_factory=list)
    light_originals: list[str] = field(default_factory=list)

    @property
    def chains(self) -> tuple[list[str], ...]:
        """The sequences to score, one list for each chain."""
        return (self.sequences, self.light) if self.light else (self.sequences,)

    @property
    def records(self) -> list[str]:
        """The scored part of each record as one text. The chains of a pair are joined with a bar."""
        return ["|".join(record) for record in zip(*self.chains, strict=True)] if self.light else self.sequences

    @property
    def domains(self) -> list[str]:
        """The variable domain in the scored part of each record; "" for a pair, or if no domain is known."""
        if self.light or not self.judgements:
            return [""] * len(self.sequences)
        found = zip(self.sequences, self.judgements, strict=True)
        return ["" if judged.start is None else sequence[judged.start : judged.end] for sequence, judged in found]

    @property
    def shown(self) -> list[str]:
        """The sequences that results show: the whole sequences of the input, even if only a part is scored."""
        return self.originals or self.sequences

    @property
    def shown_light(self) -> list[str]:
        """As `shown`, for the light chains of pairs."""
        return self.light_originals or self.light

    def flag_counts(self) -> list[tuple[str, int]]:
        """(flag, number of records that have it), most frequent first. Numbers inside a flag are left out."""
        counts = Counter(reason(flag) for judgement in self.judgements for flag in judgement.flags)
        return counts.most_common()

    def sha256(self) -> str:
        """Hash of ids, sequences, kept columns and rejected records.

        It does not depend on the format of the file, except for the line numbers of rejected records.
        """
        digest = hashlib.sha256()
        for start in range(0, len(self.ids), _HASHED_ROWS):
            # ascii() gives the same text for any id in every version of Python.
            rows = (self.ids[start : start + _HASHED_ROWS], self.sequences[start : start + _HASHED_ROWS])
            digest.update(ascii(rows).encode())
        if self.originals:
            digest.update(ascii(self.originals).encode())
        for part in (self.light, self.light_originals):
            if part:
                digest.update(ascii(part).encode())
        for column in self.kept.items():
            digest.update(ascii(column).encode())
        digest.update(ascii([tuple(problem) for problem in self.rejected]).encode())
        return digest.hexdigest()


def read_input(
    source: Path | None,
    limit: SequenceLimit,
    *,
    id_column: str | None = None,
    sequence_column: str | None = None,
    light_column: str | None = None,
    chains: tuple[str, ...] = ("H",),
    label_column: str | None = None,
    label_required: bool = False,
    label_kind: LabelKind = "classes",
    skip_invalid: bool = False,
    rule: DomainRule = NO_RULE,
    in_children: bool = True,
    gaps: Gaps = "refuse",
    sheet: str | None = None,
    keep: tuple[str, ...] = (),
) -> Input:
    """Read and check a whole input before a model is opened.

    Args:
        source: a file; None = standard input.
        limit: how long a sequence may be.
        id_column, sequence_column, light_column, chains, sheet, keep: as for read_records.
        label_column: column of the labels; a record with an empty cell is not labelled. None = read no labels.
        label_required: whether a record without a label is a bad record.
        label_kind: "classes" = words of labels.LABELS; "values" = numbers. A column of the other kind is refused.
        skip_invalid: collect bad records instead of raising an error.
        rule: how to treat records unlike the head's training set.
        in_children: whether other processes may judge records if there are many. If the rule allows it, they judge
            while the records are scored.
        gaps: how to treat gaps and a final stop.

    Raises:
        InputError: the file cannot be read, or none of its records can be scored.
        LabelsOfOtherKind: the labels are not of label_kind.
        RecordsRejected: some records cannot be scored, and skip_invalid is false. The message shows the first ten.
    """
    notes: list[str] = []
    records = read_records(
        source,
        id_column=id_column,
        sequence_column=sequence_column,
        light_column=light_column,
        chains=chains,
        label_column=label_column,
        sheet=sheet,
        keep=keep,
        notes=notes,
    )
    return check_records(
        records,
        str(source) if source else "standard input",
        limit,
        chains=chains,
        label_column=label_column,
        label_required=label_required,
        label_kind=label_kind,
        skip_invalid=skip_invalid,
        rule=rule,
        judge_by=judge_in_children if in_children else judge_in_turn,
        later=in_children,
        gaps=gaps,
        notes=notes,
    )


def check_records(
    records: Iterable[Record | RejectedRecord],
    name: str,
    limit: SequenceLimit,
    *,
    chains: tuple[str, ...] = ("H",),
    label_column: str | None = None,
    label_required: bool = False,
    label_kind: LabelKind = "classes",
    skip_invalid: bool = False,
    rule: DomainRule = NO_RULE,
    judge_by: Judge = judge_in_turn,
    later: bool = False,
    gaps: Gaps | None = None,
    notes: list[str] | None = None,
    step: Callable[[], None] = no_step,
) -> Input:
    """Check records from any source. Other arguments and errors are those of read_input.

    Args:
        records: the records.
        name: name of the source in messages.
        limit, chains, label_column, label_required, label_kind, skip_invalid, rule: as for read_input.
        judge_by: the function that judges the records, after all of them are read.
        later: whether to judge the records only when a judgement is first read. It has no effect for pairs, for few
            records, or if the rule rejects or trims records.
        gaps: as for sequences.judge.
        notes: the list that the reader of the records fills.
        step: called before each record is judged. It may raise, to end the check.
    """
    kind = None if label_column is None else label_kind
    rows = [_row(record, kind, label_required, gaps, paired=len(chains) > 1) for record in records]
    if label_column is not None:
        refuse_other_kind([label_of(row.record) for row in rows], label_kind, name)
    rules = rules_of_chains(rule, chains)
    later = later and len(rules) == 1 and can_wait(rule, sum(row.rejected is None for row in rows))
    judge_now = judge_long(judge_by, limit) if later else judge_by
    judgements = [
        of_chain.judgements([row.chains[at] for row in rows if row.rejected is None], judge_now)
        for at, of_chain in enumerate(rules)
    ]
    found: list[Judgement] = []
    checked = Input(judgements=found, notes=[] if notes is None else notes)
    escaped = 0
    for row in rows:
        if row.rejected:
            checked.rejected.append(row.rejected)
            continue
        step()
        each = zip(row.chains, judgements, rules, strict=True)
        parts = [scored_part(sequence, next(judged), of_chain) for sequence, judged, of_chain in each]
        if why := record_problem(parts, rule, limit):
            checked.rejected.append(RejectedRecord(row.record.id, row.record.line, why))
            continue
        checked.ids.append(row.record.id)
        whole = part_of_record(parts)
        checked.sequences.append(whole.sequence)
        checked.light.extend(part.sequence for part in parts[1:])
        found.append(whole.judgement)
        if rule.trim:
            checked.originals.append(row.chains[0])
            checked.light_originals.extend(row.chains[1:])
            checked.places.append(whole.place)
        for column, cell in row.record.kept.items():
            shown = _text(cell)
            escaped += shown != cell
            checked.kept.setdefault(column, []).append(shown)
        if label_column is not None and label_kind == "classes":
            checked.labels.append(class_of(label_of(row.record)))
        elif label_column is not None:
            checked.values.append(value_of(label_of(row.record)))
    checked.notes.extend(_notes(checked, name, escaped))
    if checked.rejected and not (skip_invalid and checked.sequences):
        _refuse(checked, name, rule)
    return replace(checked, judgements=LaterJudgements(checked.sequences, rule.chains)) if later else checked


def _notes(checked: Input, name: str, escaped: int) -> Iterator[str]:
    """Lines for the user: how many records were trimmed, how many kept cells are not UTF-8, how many ids repeat."""
    originals, parts = (checked.originals, checked.light_originals), (checked.sequences, checked.light)
    cut = [
        [len(original) > len(part) for original, part in zip(*chain, strict=False)]
        for chain in zip(originals, parts, strict=True)
    ]
    shorter = sum(map(any, zip(*(chain for chain in cut if chain), strict=True)))
    if shorter:
        yield f"{name}: trimmed to the variable domain: {shorter} of {len(checked.ids)} records"
    if escaped:
        yield f"{name}: {escaped} kept cells are not valid UTF-8; the wrong bytes are written as \\xNN"
    repeated = len(checked.ids) - len(set(checked.ids))
    if repeated:
        repeats = "id repeats" if repeated == 1 else "ids repeat"
        yield f"{name}: {repeated} {repeats} an earlier one; all are kept"


class _Row(NamedTuple):
    """A record with its cleaned sequence (or both chains), before its domain is checked. rejected: why it is bad."""

    record: Record
    chains: tuple[str, ...]
    rejected: RejectedRecord | None = None


def _row(
    record: Record | RejectedRecord, label_kind: LabelKind | None, label_required: bool, gaps: Gaps | None, paired: bool
) -> _Row:
    if isinstance(record, RejectedRecord):
        return _Row(Record(record.id, "", record.line), (), record)
    if paired:
        *chains, why = judge_pair(record.sequence, record.light, gaps)
    else:
        *chains, why = judge(record.sequence, gaps)
    if label_kind is not None:
        if label_required and not any(chains) and not label_of(record):
            why = "no sequence and no label, as in a footnote below the table: remove the line"
        why = why or label_problem(label_of(record), label_kind, required=label_required)
    return _Row(record, tuple(chains), RejectedRecord(record.id, record.line, why) if why else None)


def _text(cell: str) -> str:
    """A cell that can be written to a file: bytes that are not UTF-8 are escaped."""
    return cell if cell.isascii() else cell.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _refuse(checked: Input, name: str, rule: DomainRule) -> None:
    count = len(checked.rejected)
    lines = [f"  {name}:{problem.line}: {printable(problem.id)}: {problem.reason}" for problem in checked.rejected]
    more = [f"  ... and {count - SHOWN_PROBLEMS} more"] if count > SHOWN_PROBLEMS else []
    total = count + len(checked.sequences)
    fix = f"Correct them, or score the others with {option('skip')}."
    if not checked.sequences:
        fix = "Correct them; docs/errors.md lists what is accepted."
    raise RecordsRejected(
        "\n".join(
            [f"{name}: {count} of {total} records cannot be scored; nothing was scored", *lines[:SHOWN_PROBLEMS], *more]
        ),
        fix
        + (f" {option('domain')} check flags records instead of rejecting them." if rule.check == "require" else ""),
        records=tuple(checked.rejected),
    )
