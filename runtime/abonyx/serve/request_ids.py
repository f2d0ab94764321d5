"""The name of one request: in its answer, in its problem, and in the log."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar

HEADER = "X-Request-Id"
# Short, and without a character that means something in a log, a shell or HTML. An id has a digit: a sequence that a
# client sends as its id has none, and is not logged.
_SANE = re.compile(r"(?=[^0-9]*[0-9])[A-Za-z0-9._:/+=@-]{1,64}")

# Of the request that this task answers; None between requests.
REQUEST_ID: ContextVar[str | None] = ContextVar("abonyx_request_id", default=None)


def request_id(given: str | None) -> str:
    """The client's own id of its request if it can be used, else a new one of 32 hexadecimal digits."""
    return given if given is not None and _SANE.fullmatch(given) else uuid.uuid4().hex
