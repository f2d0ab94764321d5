"""What a service takes and how long it waits: each setting with its default and its help, in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from abonyx.errors import ConfigError

TOKEN_VARIABLE = "ABONYX_SERVE_TOKEN"
ADMIN_TOKEN_VARIABLE = "ABONYX_SERVE_ADMIN_TOKEN"
# 16 characters of base64 are 96 bits: nobody guesses them over a network.
MIN_TOKEN_CHARS = 16
MAX_TOKEN_CHARS = 1_000
MAX_DOMAIN_PROCESSES = 64
_MAY_BE_0 = ("port", "domain_processes")


def _flag(default: Any, help: str, kind: type | None = None) -> Any:
    """A setting with its help; kind: its type if the default is None."""
    return field(default=default, metadata={"help": help, "type": kind or type(default)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where a service listens and its limits; the flags of `abonyx serve` are those with a help text.

    Attributes:
        token: needed for /metrics and for /v1, except /v1/reload; None = no token is needed.
        admin_token: needed for /v1/reload; None = reload is off.
    """

    host: str = _flag("127.0.0.1", "Address to listen on.")
    port: int = _flag(8000, "Port. With 0 the service takes a free port, and the log says which.")
    max_body_bytes: int = _flag(16 * 2**20, "Maximum number of bytes of a request, and of an unpacked gzip body (413).")
    max_gzip_members: int = _flag(1_000, "Maximum number of gzip files that a gzip body joins (413).")
    max_gzip_extra_bytes: int = _flag(2**20, "Most bytes of headers and zero padding in a gzip body (413).")
    max_sequences: int = _flag(10_000, "Most sequences of a request (413).")
    # Answers have some hundred bytes for each residue: 10 MB for 300 pairs and five heads. The route is for shortlists.
    max_explained_sequences: int = _flag(300, "Most sequences of a request to /v1/explain (413).")
    # All single mutants of one variable domain: at most 130 positions, 19 mutants each.
    max_scan_mutants: int = _flag(3_000, "Most mutants of a request to /v1/scan (413).")
    max_residues_per_request: int = _flag(2_000_000, "Most residues of a request (413).")
    max_sequence_chars: int = _flag(100_000, "Most characters of one sequence (413).")
    max_lines: int = _flag(100_000, "Maximum number of lines of a file; blank lines and comments count too (413).")
    max_line_chars: int = _flag(2**20, "Most characters of one line (413).")
    max_columns: int = _flag(4_096, "Most columns of a table (413).")
    max_cells: int = _flag(2_000_000, "Most cells of a table (413).")
    max_connections: int = _flag(
        1_000, "Maximum number of connections. Above it, a new connection closes the one that has been idle longest."
    )
    max_requests: int = _flag(
        128, "Maximum number of requests that are being read, are waiting or are being scored at one time (503)."
    )
    max_requests_per_client: int = _flag(32, "Most requests at a time from one address (429).")
    max_queued_sequences: int = _flag(50_000, "Maximum number of waiting sequences, over all requests (503).")
    body_timeout_s: float = _flag(30.0, "Seconds in which a client must send the body of its request (408).")
    request_timeout_s: float = _flag(
        600.0, "Seconds in which a received request must be read and scored, waiting included (503)."
    )
    grace_s: int = _flag(30, "Seconds after SIGTERM to finish what is queued.")
    domain_processes: int | None = _flag(
        None,
        "Processes that judge chain and domain; 0 = the service itself judges. "
        "[default: with cuda half of the processors, at most 4; else 0]",
        int,
    )
    access_log: bool = _flag(True, "Log one line for each request, without its sequences.")
    token: str | None = field(default=None, repr=False)
    admin_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, str | bool | None) or value > 0 or (value == 0 and one.name in _MAY_BE_0):
                continue
            fix = "Give 0 or a number above 0." if one.name in _MAY_BE_0 else "Give a number above 0."
            raise ConfigError(f"serve: {one.name} is {value}", fix)
        if (self.domain_processes or 0) > MAX_DOMAIN_PROCESSES:
            what = f"serve: domain_processes is {self.domain_processes}"
            raise ConfigError(what, f"Give at most {MAX_DOMAIN_PROCESSES}: four judge more than a GPU scores.")
        if self.port > 65_535:
            raise ConfigError(f"serve: port is {self.port}", "Give a number up to 65535.")
        if self.max_queued_sequences < self.max_sequences:
            raise ConfigError(
                f"serve: max_queued_sequences is {self.max_queued_sequences} and max_sequences {self.max_sequences}",
                "A request has to fit into the queue: raise the one or lower the other.",
            )


def read_token(variable: str, file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """A token from a file, else from an environment variable; None if neither is given.

    Raises:
        ConfigError: both are given, the file cannot be read, or the text is not a token (MIN_TOKEN_CHARS to
            MAX_TOKEN_CHARS printable ASCII characters without a space). The text itself is never shown.
    """
    given = environment.get(variable)
    if file is None:
        return _token(given, f"environment: {variable}") if given else None
    if given:
        raise ConfigError(f"{variable} is set and {file} was given for the same token", "Give one of them.")
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_TOKEN_CHARS + 2)
    except OSError as error:
        raise ConfigError(f"{file}: the token cannot be read: {error.strerror}", "Give a readable file.") from error
    return _token(data.decode("ascii", "replace").strip(), str(file))


def _token(text: str, where: str) -> str:
    fits = MIN_TOKEN_CHARS <= len(text) <= MAX_TOKEN_CHARS
    if not fits or not all("!" <= char <= "~" for char in text):
        raise ConfigError(
            f"{where}: is not a token ({len(text)} characters)",
            f"Give {MIN_TOKEN_CHARS} or more letters, digits or signs, no space: openssl rand -base64 24",
        )
    return text
