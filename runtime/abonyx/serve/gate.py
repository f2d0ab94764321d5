"""Check the host, the token and the number of requests before any route. Also add headers, count and log."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from abonyx.errors import RequestRefused
from abonyx.logs import FIELDS, LOGGER
from abonyx.serve.interfaces import INTERFACE, interface_of
from abonyx.serve.metrics import Metrics
from abonyx.serve.problems import CLIENT_LEFT, problem_response
from abonyx.serve.request_ids import HEADER, REQUEST_ID, request_id
from abonyx.serve.scheduler import RETRY_AFTER_S
from abonyx.serve.settings import Settings

RELOAD = "/v1/reload"
METRICS = "/metrics"
SCORING = ("/v1/score", "/v1/embed", "/v1/explain", "/v1/scan")
# The page may load files only from this service, and no other site may show the page in a frame.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
# Machines ask these paths every few seconds. Answers below 400 are logged only with -v.
_PROBES = ("/healthz", "/readyz", METRICS)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
_REQUEST_ID = HEADER.lower().encode()


class Gate:
    """The service's outermost application.

    Attributes:
        cut_off: number of requests that got no answer because the service ended.
    """

    def __init__(self, app: ASGIApp, paths: frozenset[str], settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._paths = paths
        self._settings = settings
        self._metrics = metrics
        self._in_hand: Counter[str] = Counter()
        self.cut_off = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, from its head to the end of its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), CLIENT_LEFT
        sent = Headers(scope=scope)
        name = request_id(sent.get(HEADER))
        set_before, words_before = REQUEST_ID.set(name), INTERFACE.set(interface_of(sent))

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # The routes themselves set none of these headers.
                own = (_REQUEST_ID, name.encode("latin-1"))
                message["headers"] = [*message.get("headers", ()), *_RAW_HEADERS, own]
            await send(message)

        try:
            await self._admit(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        finally:
            REQUEST_ID.reset(set_before)
            INTERFACE.reset(words_before)
            self._note(scope, name, status, time.monotonic() - started)

    def _note(self, scope: Scope, name: str, status: int, seconds: float) -> None:
        """Count and log a request, without its query and body. An unknown path or method is written as "other"."""
        path = scope["path"] if scope["path"] in self._paths else "other"
        method = _known_method(scope["method"])
        self._metrics.requests.labels(path, method, str(status)).inc()
        self._metrics.request_seconds.labels(path).observe(seconds)
        if not self._settings.access_log:
            return
        client = (scope.get("client") or ("",))[0] or "unknown"
        level = logging.DEBUG if path in _PROBES and status < 400 else logging.INFO
        text = f"{method} {path} {status} in {seconds:.3f} s, request {name}, client {client}"
        logged = {"method": method, "path": path, "status": status, "seconds": round(seconds, 6), "client": client}
        LOGGER.log(level, text, extra={FIELDS: {"request_id": name, **logged}})

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check_host(scope)
            self._check_token(scope)
            with self._place(scope):
                # HEAD is handled as GET, and the server leaves out the body of the answer. Load balancers send HEAD.
                method = "GET" if scope["method"] == "HEAD" else scope["method"]
                await self._app({**scope, "method": method}, receive, send)
        except RequestRefused as error:
            self._metrics.count_rejected(error)
            await problem_response(error)(scope, receive, send)

    def _check_host(self, scope: Scope) -> None:
        """On the loopback and without a token, accept only this machine's own names.

        Any website can let its name point to this address (DNS rebinding). A browser then takes the website and this
        service for one site. Only the Host header shows that the name is not of this machine.
        """
        address = (scope.get("server") or ("",))[0]
        if self._settings.token is not None or not is_loopback(address):
            return
        host = Headers(scope=scope).get("host", "")
        name, colon, port = host.lower().rpartition(":")
        name = (name if colon and not port.strip("0123456789") else host.lower()).strip("[]")
        if name not in ("localhost", "127.0.0.1", "::1", address, self._settings.host.lower()):
            raise RequestRefused(
                421,
                "host",
                f"Host is {ascii(host)[1:-1][:100]!r}; without a token, only names of this machine are accepted",
                "Use http://localhost, or have the proxy send Host: localhost; with a token any name is accepted.",
            )

    def _check_token(self, scope: Scope) -> None:
        path = scope["path"]
        if path == RELOAD:
            wanted, name = self._settings.admin_token, "admin token"
            if wanted is None:
                raise RequestRefused(403, "reload_off", "reload is off: no admin token was set", "See docs/serve.md.")
        elif path == METRICS or path.startswith("/v1/"):
            wanted, name = self._settings.token, "token"
        else:
            return
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if wanted is None:
            return
        # The time of compare_digest does not depend on where the two differ. At most, the time shows the length.
        right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), wanted.encode())
        if scheme.lower() != "bearer" or not right:
            found = "a wrong one" if given else "none"
            what = f"{path} needs the {name}, {found} was sent"
            raise RequestRefused(401, "token", what, "Send Authorization: Bearer TOKEN.")

    @contextmanager
    def _place(self, scope: Scope) -> Iterator[None]:
        """Count a request as one in progress until it ends, in total and for its client."""
        if scope["path"] not in SCORING:
            yield
            return
        client, most = (scope.get("client") or ("",))[0], self._settings.max_requests_per_client
        if self._in_hand.total() >= self._settings.max_requests:
            raise RequestRefused(
                503,
                "requests",
                f"{self._settings.max_requests} requests are in progress, the most that are accepted",
                "Send it again later.",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._in_hand[client] >= most:
            raise RequestRefused(
                429,
                "client_requests",
                f"{most} requests of {client} are in progress, the most that one address may have",
                "Send fewer at a time, with more sequences each.",
                retry_after_s=RETRY_AFTER_S,
            )
        self._in_hand[client] += 1
        try:
            yield
        finally:
            self._in_hand[client] -= 1
            if not self._in_hand[client]:
                del self._in_hand[client]


def is_loopback(address: str) -> bool:
    """Whether an IP address is a loopback address; False for text that is not an address (a name, a path)."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _known_method(method: str) -> str:
    """The method for metrics and log. A client may send any word as method; an unknown one becomes "other"."""
    return method if method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
