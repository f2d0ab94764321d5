"""Whose words an answer has: those of the page, whose user sees labels, or those of HTTP."""

from __future__ import annotations

from contextvars import ContextVar

from starlette.datastructures import Headers

from abonyx.wording import Interface

# The page sends this header with each of its requests.
PAGE_HEADER = "X-Abonyx-Page"

# Of the request that this task answers.
INTERFACE: ContextVar[Interface] = ContextVar("abonyx_interface", default=Interface.HTTP)


def interface_of(headers: Headers) -> Interface:
    """Who reads the answer to a request with these headers."""
    return Interface.PAGE if PAGE_HEADER in headers else Interface.HTTP
