"""The routes that score, without what FastAPI does for each request: half of the time of a small one.

FastAPI still has these routes: its document describes them, and it takes the requests that have a query.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from abonyx.errors import EngineError

Endpoint = Callable[[Request], Awaitable[Response]]


class Direct:
    """An application that answers some POSTs itself and leaves the rest to another.

    Args:
        app: takes what is not in `endpoints`, is not POST, or has a query.
        endpoints: path -> what answers a request without a query.
        refused: the answer to a request that raised an EngineError.
        fault: the answer to one that raised anything else, which is raised again once the answer is sent.
    """

    def __init__(
        self,
        app: ASGIApp,
        endpoints: Mapping[str, Endpoint],
        refused: Callable[[EngineError], Response],
        fault: Callable[[], Response],
    ) -> None:
        self._app = app
        self._endpoints = endpoints
        self._refused = refused
        self._fault = fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        endpoint = self._endpoints.get(scope.get("path", ""))
        if endpoint is None or scope["method"] != "POST" or scope["query_string"]:
            await self._app(scope, receive, send)
            return
        try:
            response = await endpoint(Request(scope, receive, send))
        except EngineError as error:
            response = self._refused(error)
        except Exception:
            await self._fault()(scope, receive, send)
            raise
        await response(scope, receive, send)
