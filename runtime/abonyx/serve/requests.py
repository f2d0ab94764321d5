"""Turn the bytes of a request into checked sequences. No file that a client names is opened."""

from __future__ import annotations

import asyncio
import codecs
import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET
from starlette.requests import ClientDisconnect, Request

from abonyx.bundle.manifest import chain_letters
from abonyx.domain import DomainRule, Judge, judge_in_turn
from abonyx.errors import InputError, InputTooLarge, RequestRefused, first_line, printable
from abonyx.input.checked import Input, check_records
from abonyx.input.labels import classes_of
from abonyx.input.limits import ReadLimits
from abonyx.input.pairs import columns_of
from abonyx.input.records import Record, RejectedRecord, read_records
from abonyx.serve.answers import EmbedRequest, HeadsRequest, Items, ScoreRequest, Sequence
from abonyx.serve.explain_answers import ExplainRequest
from abonyx.serve.model import Model
from abonyx.serve.problems import CLIENT_LEFT
from abonyx.serve.settings import Settings

JSON = "application/json"
PLAIN = "text/plain"
# Types of a file. Its format is recognised from its content, as on standard input, and not from the type. But PLAIN is
# FASTA or one sequence on each line, never a table.
FILES = ("text/csv", "text/tab-separated-values", "text/x-fasta", PLAIN, "application/octet-stream")
NAME = "request"
# Most quotation marks of one item in JSON, and of the rest of the body.
_ITEM_QUOTES, _OTHER_QUOTES = 12, 100

Step = Callable[[], None]
Asked = TypeVar("Asked", ScoreRequest, EmbedRequest, ExplainRequest)


def content_type(request: Request, *, files: bool = True) -> str:
    """The content type of a request: JSON or, if the route takes files, one of FILES.

    Raises:
        RequestRefused: 415, the type is missing or another one, or the charset is not UTF-8.
    """
    given = request.headers.get("content-type", "")
    kind, *parameters = (part.strip().lower() for part in given.split(";"))
    charset = next((part[len("charset=") :].strip('"') for part in parameters if part.startswith("charset=")), "utf-8")
    if kind not in (JSON, *(FILES if files else ())) or charset not in ("utf-8", "utf8", "us-ascii"):
        taken = f"{JSON} or {', '.join(FILES)}" if files else JSON
        raise RequestRefused(415, "content_type", f"Content-Type is {given[:100]!r}", f"Send {taken}, in UTF-8.")
    return kind


async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body.

    Raises:
        InputTooLarge: the body has more than max_body_bytes; the rest is not kept.
        RequestRefused: 408, it took longer than body_timeout_s; 499, the client left.
    """
    most = settings.max_body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(f"{declared} bytes", "max_body_bytes", most)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise _too_large(f"more than {most} bytes", "max_body_bytes", most)
    except TimeoutError:
        what = f"{len(body)} bytes of the body came in {settings.body_timeout_s:g} s; its end is missing"
        raise RequestRefused(408, "body_timeout", what, "Send it faster, or less at a time.") from None
    except ClientDisconnect:
        raise RequestRefused(CLIENT_LEFT, "client_left", "the client left before the end of its request") from None
    return bytes(body)


def _too_large(found: str, limit: str, most: int) -> InputTooLarge:
    return InputTooLarge(f"{NAME}: {found}, {limit} is {most}", "Send fewer at a time.")


def _most_sequences(kind: type[EmbedRequest], settings: Settings) -> tuple[int, str]:
    """The largest number of sequences in a request, and the name of the setting that limits it."""
    limits = ["max_sequences", *(["max_explained_sequences"] if kind is ExplainRequest else [])]
    return min((int(getattr(settings, limit)), limit) for limit in limits)


def decode(body: bytes, kind: type[Asked], settings: Settings) -> Asked:
    """A JSON body, with or without a byte-order mark: an object, or the list of its sequences alone.

    Raises:
        InputTooLarge: more items than max_sequences, or max_explained_sequences.
        InputError: not JSON, or not of this type.
    """
    # Count the items before decoding, because no other thread runs while a body is decoded. An item has at most three
    # names and three texts, and so twelve quotation marks; a mark inside a text is escaped.
    most, limit = _most_sequences(kind, settings)
    if body.count(b'"') - body.count(b'\\"') > _ITEM_QUOTES * most + _OTHER_QUOTES:
        raise _too_large(f"more than {most} sequences", limit, most)
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        if body.lstrip(b" \t\r\n").startswith(b"["):
            return kind(sequences=msgspec.json.decode(body, type=Items))
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_decoded(error, kind, '{"sequences": [{"id": "...", "sequence": "..."}]}') from error


def not_decoded(error: Exception, kind: type, example: str) -> InputError:
    """The error for a body that is not JSON, or not of this type. `example` is a valid body."""
    what = f"{NAME}: {first_line(error)}{_allowed(str(error), kind)}"
    return InputError(what, f"Send {example}; /openapi.json describes all fields.")


def _allowed(what: str, kind: type) -> str:
    """The end of the message: the allowed values of the field that msgspec names, if there are only a few."""
    named = re.search(r"at `\$\.(\w+)`$", what)
    hint: Any = get_type_hints(kind).get(named[1]) if named else None
    words: list[str] = [
        word for part in (hint, *get_args(hint)) if get_origin(part) is Literal for word in get_args(part)
    ]
    parts = get_args(hint)
    others: list[str] = ["a list"] * any(get_origin(part) is list for part in parts) + ["null"] * (type(None) in parts)
    return f"; allowed: {', '.join([*map(repr, words), *others])}" if words else ""


def check_json(
    asked: EmbedRequest, model: Model, settings: Settings, step: Step, judge_by: Judge = judge_in_turn
) -> Input:
    """The checked sequences of a JSON request; see check_file. A record's line is the number of its item, from 1."""
    if not asked.sequences:
        raise InputError(f"{NAME}: no sequences", "Send at least one.")
    chains = chains_of(asked, model)
    records = (record_of(item, number, chains) for number, item in enumerate(asked.sequences, 1))
    checked = _check(records, asked, model, settings, step, judge_by, chains)
    if len(chains) == 1:
        other = "light" if chains == ("H",) else "heavy"
        pairs = sum(isinstance(item, Sequence) and bool(getattr(item, other)) for item in asked.sequences)
        if pairs:
            checked.notes.append(
                f"{NAME}: {pairs} record{' has' if pairs == 1 else 's have'} a {other} chain, which is not scored"
            )
    return checked


def chains_of(asked: EmbedRequest, model: Model) -> tuple[str, ...]:
    """The chains that a record needs. Embeddings need one, whatever the heads need."""
    if isinstance(asked, ScoreRequest):
        return model.choose_heads(asked.heads, asked.assay, asked.threshold, percentiles=False).chains
    return model.choose_heads(asked.heads, percentiles=False).chains if isinstance(asked, HeadsRequest) else ("H",)


def record_of(item: Sequence | str, number: int, chains: tuple[str, ...]) -> Record | RejectedRecord:
    """A record of a JSON request. A record without the chains that the heads need is rejected."""
    if isinstance(item, str):
        item = Sequence(id=str(number), sequence=item)
    if len(chains) > 1:
        if item.sequence is not UNSET:
            why = "is one sequence, and the heads need both chains of a record: send heavy and light"
            return RejectedRecord(printable(item.id), number, why)
        return Record(item.id, item.heavy or "", number, light=item.light or "")
    if item.sequence is not UNSET:
        return Record(item.id, item.sequence, number)
    word = "heavy" if chains == ("H",) else "light"
    own = item.heavy if word == "heavy" else item.light
    if own is UNSET:
        why = f"has no {word} chain, which is the chain that is scored: send it as {word} or as sequence"
        return RejectedRecord(printable(item.id), number, why)
    return Record(item.id, own, number)


def check_file(
    body: bytes,
    asked: EmbedRequest,
    step: Step,
    *,
    model: Model,
    settings: Settings,
    id_column: str | None,
    sequence_column: str | None,
    heavy_column: str | None,
    light_column: str | None,
    plain: bool,
    find_label: bool = False,
    judge_by: Judge = judge_in_turn,
) -> Input:
    """The sequences of a FASTA, CSV or TSV file, or of its gzip. `asked` has the options; its sequences are not used.

    Args:
        step: called between lines and between records; may raise to end the reading.
        judge_by: what judges the records, after all of them are read.
        plain: the file is FASTA or has one sequence on each line, and is not a table.
        find_label: read the classes in a column with a usual name for labels. If it has other values, a note says so.

    Raises:
        InputError, RecordsRejected: as for the same file on the command line; or trim is given with domain off.
        InputTooLarge: the file is over a limit, which is checked while the file is unpacked and read.
    """
    chains = chains_of(asked, model)
    sequence, light = columns_of(chains, sequence_column, heavy_column, light_column)
    notes: list[str] = []
    records = read_records(
        None,
        stdin=io.BytesIO(body),
        name=NAME,
        id_column=id_column,
        sequence_column=sequence,
        light_column=light,
        chains=chains,
        limits=_limits(settings, step),
        plain=plain,
        find_label=find_label,
        notes=notes,
    )
    checked = _check(records, asked, model, settings, step, judge_by, chains, notes)
    for column, cells in checked.kept.items():  # nothing else is kept
        classes, why = classes_of(cells)
        checked.labels.extend(classes)
        if why:
            checked.notes.append(f"{NAME}: column {printable(column)!r} is not read as labels: {why}")
    return checked


def _limits(settings: Settings, step: Step) -> ReadLimits:
    return ReadLimits(
        unpacked_bytes=settings.max_body_bytes,
        gzip_members=settings.max_gzip_members,
        gzip_extra_bytes=settings.max_gzip_extra_bytes,
        lines=settings.max_lines,
        line_chars=settings.max_line_chars,
        columns=settings.max_columns,
        cells=settings.max_cells,
        step=step,
    )


def _check(
    records: Iterable[Record | RejectedRecord],
    asked: EmbedRequest,
    model: Model,
    settings: Settings,
    step: Step,
    judge_by: Judge,
    chains: tuple[str, ...],
    notes: list[str] | None = None,
) -> Input:
    if asked.trim and asked.domain == "off":
        what = "trim is domain and domain is off: trim needs the domain, which off does not look for"
        raise InputError(f"{NAME}: {what}", "Leave one of them out.")
    return check_records(
        _counted(records, settings, step, *_most_sequences(type(asked), settings)),
        NAME,
        model.limit,
        skip_invalid=asked.on_invalid == "skip",
        chains=chains,
        rule=DomainRule(asked.domain, asked.trim is not None, letters_of(asked, model, chains)),
        judge_by=judge_by,
        gaps=asked.gaps,
        notes=notes,
        step=step,
    )


def letters_of(asked: EmbedRequest, model: Model, chains: tuple[str, ...]) -> tuple[str, ...]:
    """The chains that a record is judged by."""
    return chain_letters(chains) if isinstance(asked, HeadsRequest) else model.chains


def _counted(
    records: Iterable[Record | RejectedRecord], settings: Settings, step: Step, most_records: int, limit: str
) -> Iterator[Record | RejectedRecord]:
    """Yield the records. Raise an InputTooLarge above a limit; unusable records count, too."""
    residues = 0
    for number, record in enumerate(records, 1):
        step()
        if number > most_records:
            raise _too_large(f"more than {most_records} records", limit, most_records)
        lengths = [len(record.sequence), len(record.light or "")] if isinstance(record, Record) else [0]
        residues += sum(lengths)
        if residues > settings.max_residues_per_request:
            most = settings.max_residues_per_request
            raise _too_large(f"more than {most} residues", "max_residues_per_request", most)
        if max(lengths) > settings.max_sequence_chars:  # a longer sequence would be judged in one piece
            what = f"{NAME}:{record.line}: a sequence of {max(lengths)} characters; max_sequence_chars is "
            raise InputTooLarge(f"{what}{settings.max_sequence_chars}", "Leave it out: no antibody is so long.")
        yield record
