"""The id of a request, which is in its answer, in its problem and in the log."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar

HEADER = "X-Request-Id"
# An id is short, and has no character with a meaning in a log, a shell or HTML. It must have a digit, so that a
# sequence that a client sends as id is not logged.
_SANE = re.compile(r"(?=[^0-9]*[0-9])[A-Za-z0-9._:/+=@-]{1,64}")

# The id of the request that this task answers; None between requests.
REQUEST_ID: ContextVar[str | None] = ContextVar("abonyx_request_id", default=None)


def request_id(given: str | None) -> str:
    """The client's own id of its request if it can be used, else a new one of 32 hexadecimal digits."""
    return given if given is not None and _SANE.fullmatch(given) else uuid.uuid4().hex
