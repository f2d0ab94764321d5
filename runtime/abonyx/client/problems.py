"""Turn an answer that reports an error into the error that the service raised."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from abonyx import errors
from abonyx.errors import EngineError, RecordsRejected, RequestRefused, ServiceError, first_line, printable
from abonyx.serve.answers import Rejected

MEDIA_TYPE = "application/problem+json"
# The service and the command line also show this many.
_SHOWN_RECORDS = 10


class _Problem(msgspec.Struct, frozen=True):
    """The fields of a problem that the client reads. The problem may have more fields."""

    type: str
    detail: str
    fix: str = ""
    request_id: str | None = None
    rejected: list[Rejected] = []


def error_of(
    status: int, media_type: str, body: bytes, place: str, *, retry_after_s: float | None, start: int = 0
) -> EngineError:
    """The error for an answer.

    Args:
        status, media_type, body: the answer.
        place: method and address of the request, for messages.
        retry_after_s: the answer's Retry-After in seconds.
        start: index in the caller's list of the first sequence in the request.
    """
    problem = _read(media_type, body)
    kind = None if problem is None else getattr(errors, problem.type.removeprefix("urn:abonyx:"), None)
    if problem is None or not (isinstance(kind, type) and issubclass(kind, EngineError)):
        return foreign(status, media_type, body, place)
    named = problem.request_id and printable(problem.request_id)
    where = f"{place}, request {named}" if named else place
    fix = problem.fix
    found: EngineError
    if kind is RequestRefused:
        wait = None if retry_after_s is None else int(retry_after_s)
        found = RequestRefused(status, "service", f"{where}: {status}: {problem.detail}", fix, retry_after_s=wait)
    elif kind is RecordsRejected and problem.rejected:
        records = tuple((one.id, one.line + start, one.reason) for one in problem.rejected)
        found = RecordsRejected(f"{where}: {_records_text(records)}", fix, records=records)
    else:
        found = kind(f"{where}: {problem.detail}", fix)
    found.request_id = problem.request_id
    return found


def foreign(status: int, media_type: str, body: bytes, place: str) -> ServiceError:
    """The error for an answer that is not from abonyx, or from another version of it."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "unknown status"
    shown = first_line(body[:2_000].decode("utf-8", "replace"), 100) or "empty"
    kind = first_line(media_type, 60) or "no Content-Type"
    what = f"{place}: answered {status} ({phrase}), {kind}: {shown!r}: not an answer of abonyx"
    return ServiceError(what, "Check the address. If it is right, a proxy in front of the service may have answered.")


def _read(media_type: str, body: bytes) -> _Problem | None:
    if media_type != MEDIA_TYPE:
        return None
    try:
        return msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _records_text(records: tuple[tuple[str, int, str], ...]) -> str:
    lines = [f"  sequences[{line - 1}]: {printable(id_)}: {reason}" for id_, line, reason in records[:_SHOWN_RECORDS]]
    more = [f"  ... and {len(records) - _SHOWN_RECORDS} more"] if len(records) > _SHOWN_RECORDS else []
    count = "1 sequence" if len(records) == 1 else f"{len(records)} sequences"
    return "\n".join([f"{count} cannot be scored; nothing is returned", *lines, *more])
