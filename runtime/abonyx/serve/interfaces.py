"""Which words a message uses for options: the labels of the page, or the names of HTTP."""

from __future__ import annotations

from contextvars import ContextVar

from starlette.datastructures import Headers

from abonyx.wording import Interface

# The page sends this header with each of its requests.
PAGE_HEADER = "X-Abonyx-Page"

# The interface of the request that this task answers.
INTERFACE: ContextVar[Interface] = ContextVar("abonyx_interface", default=Interface.HTTP)


def interface_of(headers: Headers) -> Interface:
    """The interface of a request with these headers: the page or HTTP."""
    return Interface.PAGE if PAGE_HEADER in headers else Interface.HTTP
