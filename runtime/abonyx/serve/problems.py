"""Errors as application/problem+json (RFC 9457), in the words of HTTP or of the page."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from starlette.responses import Response

from abonyx.errors import (
    BundleError,
    ColumnUnclear,
    ConfigError,
    EngineError,
    InputError,
    InputTooLarge,
    RecordsRejected,
    RequestRefused,
)
from abonyx.serve.answers import Rejected
from abonyx.serve.interfaces import INTERFACE
from abonyx.serve.request_ids import REQUEST_ID
from abonyx.wording import in_words

MEDIA_TYPE = "application/problem+json"
# nginx's status for a client that left. It is only counted, because nobody reads the answer.
CLIENT_LEFT = 499


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong.

    Attributes:
        type: "urn:abonyx:" and the error's class, as docs/errors.md lists them.
        title: HTTP's phrase for the status.
        detail: what is wrong, where, and both values if two disagree.
        fix: what to do next.
        request_id: as in the answer's X-Request-Id and in the service's log.
        columns: if a table's columns are not clear: the names that id_column and sequence_column may have.
        rejected: all records that cannot be scored; `detail` names ten at most.
    """

    type: str
    title: str
    status: int
    detail: str
    fix: str
    request_id: str | msgspec.UnsetType = msgspec.UNSET
    columns: list[str] | msgspec.UnsetType = msgspec.UNSET
    rejected: list[Rejected] | msgspec.UnsetType = msgspec.UNSET


# The first class that fits counts. A BundleError here means that the bundle has no head or gives no contributions.
# If a bundle cannot be opened, the error gets here only as a RequestRefused.
_STATUSES: tuple[tuple[type[EngineError], int], ...] = (
    (InputTooLarge, 413),
    (InputError, 422),
    (ConfigError, 422),
    (BundleError, 501),
)


def status_of(error: EngineError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RequestRefused):
        return error.status
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def problem(error: EngineError) -> Problem:
    """The error as a client reads it."""
    status = status_of(error)
    title = "Client Closed Request" if status == CLIENT_LEFT else HTTPStatus(status).phrase
    detail, fix = error.worded(INTERFACE.get())
    columns = list(error.columns) if isinstance(error, ColumnUnclear) and error.columns else msgspec.UNSET
    kind = f"urn:abonyx:{type(error).__name__}"
    return Problem(
        type=kind,
        title=title,
        status=status,
        detail=detail,
        fix=fix,
        request_id=REQUEST_ID.get() or msgspec.UNSET,
        columns=columns,
        rejected=_rejected(error),
    )


def _rejected(error: EngineError) -> list[Rejected] | msgspec.UnsetType:
    """What is wrong with each rejected record, if the error lists them."""
    if not isinstance(error, RecordsRejected):
        return msgspec.UNSET
    return [Rejected(id=id_, line=line, reason=in_words(why, INTERFACE.get())) for id_, line, why in error.records]


def problem_response(error: EngineError) -> Response:
    """The answer to a request that ended in an error."""
    described = problem(error)
    headers = {}
    if isinstance(error, RequestRefused) and error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if described.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(msgspec.json.encode(described), described.status, headers, MEDIA_TYPE)
