"""Send a request and check the answer. This module decides which requests are sent again, and for how long."""

from __future__ import annotations

import datetime
import email.utils
import ipaddress
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from abonyx.client.problems import MEDIA_TYPE, error_of, foreign
from abonyx.errors import ConfigError, EngineError, RequestRefused, ServiceError, first_line
from abonyx.extras import load

if TYPE_CHECKING:
    import httpx

JSON = "application/json"
# If a service does not accept a connection in this time, it is down or overloaded. The next attempt shows which.
_CONNECT_S = 10.0
# Without a Retry-After, the waits are 1, 2, 4 seconds and so on. With one, the wait is up to a quarter longer, so that
# clients that were refused together do not return together.
_FIRST_WAIT_S, _JITTER = 1.0, 0.25
# Largest answer that is read if it reports an error. A problem that lists 10,000 records is smaller.
_MOST_ERROR_BYTES = 16 * 2**20


@dataclass(frozen=True)
class _Answer:
    status: int
    media_type: str
    retry_after: str | None
    body: bytes

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which the request may be sent again; None if the answer does not say."""
        text = (self.retry_after or "").strip()
        if text.isascii() and text.isdigit():
            return float(text)
        try:
            at = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=datetime.UTC)
        return max(0.0, (at - datetime.datetime.now(datetime.UTC)).total_seconds())


class _NotSent(Exception):
    """There was no connection, so the service did not get the request."""


class Transport:
    """Connections to one service.

    Args:
        url: http:// or https://, a host, and a path if a proxy serves abonyx below that path.
        token: the token of the service; None = send none.
        timeout_s: largest number of seconds for one request, with all attempts and waits.
        attempts: largest number of attempts for one request.

    Raises:
        ConfigError: httpx is missing, or an argument is wrong.
    """

    def __init__(self, url: str, token: str | None, timeout_s: float, attempts: int) -> None:
        self._httpx = load("abonyx.client", "httpx")
        self.url = self._checked(url)
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s is {timeout_s!r}", "Give a number of seconds above 0.")
        if attempts < 1:
            raise ConfigError(f"attempts is {attempts!r}", "Give 1 or more.")
        if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
            raise ConfigError(
                "token: has a space or another character that a token cannot have", "Give the service's token."
            )
        self._timeout_s, self._attempts = timeout_s, attempts
        headers = {"Accept": JSON} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        # For a service on this machine, no proxy from the environment is used: the proxy would look on its own machine.
        local = _is_local(self._httpx.URL(self.url).host)
        self._client: httpx.Client = self._httpx.Client(headers=headers, trust_env=not local)

    def _checked(self, url: str) -> str:
        fix = 'Give the address of the service: "http://127.0.0.1:8000".'
        try:
            found = self._httpx.URL(url)
        except (self._httpx.InvalidURL, TypeError) as error:
            raise ConfigError(f"url {first_line(repr(url))}: {first_line(error)}", fix) from None
        if found.scheme not in ("http", "https") or not found.host or found.query or found.fragment:
            raise ConfigError(f"url {first_line(repr(url))}: not http://HOST or https://HOST", fix)
        if found.userinfo:
            raise ConfigError("url: has a user and a password", "Give the service's token as token=.")
        return str(found).rstrip("/")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, method: str, path: str, body: bytes | None = None, *, start: int = 0) -> bytes:
        """Send a request, and return the JSON of the answer.

        The request is sent again only if there was no connection, or if the answer is 429 or 503 with Retry-After. A
        429 or 503 without Retry-After counts too if it is not from abonyx.

        Args:
            method, path, body: the request.
            start: index in the caller's list of the first sequence in the body.

        Raises:
            ServiceError: the service cannot be reached, does not answer in time, or is not abonyx.
            EngineError: the service answers with this error.
        """
        place, until = f"{method} {self.url}{path}", time.monotonic() + self._timeout_s
        attempt = 0
        while True:
            attempt += 1
            error: EngineError
            try:
                answer = self._once(method, path, body, place, until)
            except _NotSent as why:
                wait, error = _FIRST_WAIT_S * 2 ** (attempt - 1), ServiceError(*self._unreached(place, why))
            else:
                if answer.status == 200:
                    if answer.media_type != JSON:
                        raise foreign(200, answer.media_type, answer.body, place)
                    return answer.body
                after = answer.retry_after_s
                error = error_of(answer.status, answer.media_type, answer.body, place, retry_after_s=after, start=start)
                again = _wait(answer, after, attempt)
                if again is None:
                    raise error
                wait = again
            left = until - time.monotonic()
            if attempt >= self._attempts or wait >= left:
                raise _given_up(error, attempt, self._attempts, self._timeout_s, wait)
            time.sleep(wait)

    def _unreached(self, place: str, why: _NotSent) -> tuple[str, str]:
        what = f"{place}: no connection: {first_line(why.__cause__)}"
        return what, "Is the service running, and is the address right? `abonyx serve` starts one."

    def _once(self, method: str, path: str, body: bytes | None, place: str, until: float) -> _Answer:
        httpx = self._httpx
        left = max(until - time.monotonic(), 0.001)
        timeout = httpx.Timeout(left, connect=min(_CONNECT_S, left))
        headers = {} if body is None else {"Content-Type": JSON}
        slow = ServiceError(
            f"{place}: no complete answer within timeout_s, {self._timeout_s:g} s",
            "Raise timeout_s, or send fewer sequences at a time.",
        )
        sent = self._client.stream(method, self.url + path, content=body, headers=headers, timeout=timeout)
        try:
            with sent as response:
                return self._received(response, until, slow)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _NotSent from error
        except httpx.TimeoutException:
            raise slow from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            what = f"{place}: the connection ended before the answer was complete: {first_line(error)}"
            fix = "Send it again. The service's log shows whether it accepted the request."
            raise ServiceError(what, fix) from error
        except RuntimeError as error:  # httpx raises it for a closed client
            raise ServiceError(f"{place}: {first_line(error)}", "The client is closed. Make a new one.") from None

    def _received(self, response: Any, until: float, slow: ServiceError) -> _Answer:
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if response.status_code != 200 and len(body) > _MOST_ERROR_BYTES:
                break
            if time.monotonic() > until:
                raise slow
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        return _Answer(response.status_code, media_type, response.headers.get("retry-after"), bytes(body))


def _wait(answer: _Answer, after: float | None, attempt: int) -> float | None:
    """Seconds until the request is sent again; None = do not send it again."""
    if answer.status not in (429, 503):
        return None
    if after is not None:
        return max(after, 0.05) * random.uniform(1, 1 + _JITTER)
    # abonyx leaves Retry-After out if waiting does not help. A proxy may just not set it.
    return None if answer.media_type == MEDIA_TYPE else _FIRST_WAIT_S * 2 ** (attempt - 1)


def _given_up(error: EngineError, attempt: int, attempts: int, timeout_s: float, wait: float) -> EngineError:
    """The last error, with the reason why there is no further attempt."""
    what, fix = error.marked
    over = f"timeout_s, {timeout_s:g} s, ends before another attempt in {wait:.1f} s"
    why = f"tried {attempt} times, which is the limit (attempts)" if attempt >= attempts else over
    again: EngineError
    if isinstance(error, RequestRefused):
        again = RequestRefused(error.status, error.reason, f"{what}; {why}", fix, retry_after_s=error.retry_after_s)
    else:
        again = type(error)(f"{what}; {why}", fix)
    again.request_id = error.request_id
    return again


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
