"""Answer scoring requests without FastAPI, whose work takes half of the time of a small request.

FastAPI still has these routes: its OpenAPI document describes them, and it answers requests that have a query.
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
        app: answers a request whose path is not in `endpoints`, whose method is not POST, or that has a query.
        endpoints: path -> function that answers a request without a query.
        refused: makes the answer to a request that raised an EngineError.
        fault: makes the answer to a request that raised another error, which is raised again after the answer.
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
        """Answer one request."""
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
