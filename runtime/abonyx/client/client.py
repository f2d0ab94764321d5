"""The client of a service: scores, embeddings, contributions and scans as Python objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, get_args

import msgspec
import numpy as np

from abonyx.client.parts import Limits, Part, items_of, parts_of
from abonyx.client.results import Embedded, Explained, Scored, merged
from abonyx.client.transport import Transport
from abonyx.errors import InputError, RecordsRejected, ServiceError, first_line
from abonyx.serve.answers import EmbedAnswer, ModelAnswer, OnInvalid, Rejected, ScoreAnswer
from abonyx.serve.explain_answers import ExplainAnswer
from abonyx.serve.scan_answers import ScanAnswer

Sequences = Iterable[str] | Iterable[tuple[str, str]]
Kind = TypeVar("Kind")
Answer = TypeVar("Answer", ScoreAnswer, EmbedAnswer, ExplainAnswer)


class _Described(msgspec.Struct, frozen=True):
    """The part of the answer of /v1/model that the client itself uses."""

    limits: Limits


class Client:
    """A client of one service. Threads may share it. Close it, or use it in a `with` block.

    A request is sent again if there was no connection, or if the service refuses it for now (429 or 503 with
    Retry-After). Then the client waits as long as the service asks. A request that the service may have accepted is not
    sent again.

    Args:
        url: address of the service, such as "http://127.0.0.1:8000".
        token: the token of the service; None = it has none.
        timeout_s: largest number of seconds for one request, with all attempts and waits. If an answer stops in the
            middle, the request can take twice as long.
        attempts: largest number of attempts for one request.

    Raises:
        ConfigError: httpx is not installed, or an argument cannot be used.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = 900.0, attempts: int = 5) -> None:
        self._transport = Transport(url, token, timeout_s, attempts)
        self._limits: Limits | None = None

    def model(self) -> ModelAnswer:
        """The open model with its heads, thresholds and limits (docs/serve.md). Raises as `score` does."""
        body = self._transport.ask("GET", "/v1/model")
        self._limits = self._decoded(body, _Described, "GET /v1/model").limits
        return self._decoded(body, ModelAnswer, "GET /v1/model")

    def score(
        self,
        sequences: Sequences,
        *,
        ids: Sequence[str] | None = None,
        heads: Sequence[str] | str | None = None,
        assay: str | None = None,
        threshold: float | None = None,
        panel: str | None = None,
        with_columns: Sequence[str] | None = None,
        on_invalid: OnInvalid = "fail",
        domain: str = "check",
        trim: Literal["domain"] | None = None,
        gaps: str = "refuse",
    ) -> Scored:
        """Score sequences. A list over the service's limits is sent in several requests, in order.

        Args:
            sequences: n texts, or n pairs (heavy, light).
            ids: n ids; None = the number of each sequence in the list, from 1.
            heads, assay, threshold, panel, with_columns, domain, trim, gaps: as for score_file.
            on_invalid: "fail" = raise an error if a sequence cannot be scored; "skip" = put it into `rejected`.

        Returns:
            The service's answers as one object.

        Raises:
            InputError: `sequences` is not a list of texts or of pairs, or the service refuses a sequence. For
                RecordsRejected, `records` lists all refused sequences of one request.
            RequestRefused: the service refuses the request: a wrong token, a limit, no open model, or no time left.
            ServiceError: the service cannot be reached, does not answer in time, or is not abonyx; or the model changed
                between two requests for the same list.
            ConfigError, BundleError, ParityError, ProviderError: the service raised this error.
        """
        options = {"heads": _heads(heads), "assay": assay, "threshold": threshold, "panel": panel}
        options |= {"with": None if with_columns is None else list(with_columns)}
        asked = options | _checks(on_invalid, domain, trim, gaps)
        return Scored(*self._in_parts("/v1/score", sequences, ids, asked, ScoreAnswer))

    def embed(
        self,
        sequences: Iterable[str],
        *,
        ids: Sequence[str] | None = None,
        on_invalid: OnInvalid = "fail",
        domain: str = "check",
        trim: Literal["domain"] | None = None,
        gaps: str = "refuse",
    ) -> Embedded:
        """Pooled embeddings of sequences. The arguments and errors are those of `score`."""
        asked = _checks(on_invalid, domain, trim, gaps)
        answer, rows = self._in_parts("/v1/embed", sequences, ids, asked, EmbedAnswer)
        found = np.array([each.embedding for each in answer.results], np.float32).reshape(len(rows), answer.width)
        names = [each.id for each in answer.results]
        return Embedded(msgspec.structs.replace(answer, results=[]), names, found, rows)

    def explain(
        self,
        sequences: Sequences,
        *,
        ids: Sequence[str] | None = None,
        heads: Sequence[str] | str | None = None,
        on_invalid: OnInvalid = "fail",
        domain: str = "check",
        trim: Literal["domain"] | None = None,
        gaps: str = "refuse",
    ) -> Explained:
        """What each residue adds to a score (docs/explain.md). The arguments and errors are those of `score`."""
        asked = {"heads": _heads(heads)} | _checks(on_invalid, domain, trim, gaps)
        return Explained(*self._in_parts("/v1/explain", sequences, ids, asked, ExplainAnswer))

    def scan(
        self,
        sequence: str | tuple[str, str],
        *,
        id: str = "parent",
        positions: str | Sequence[str | int] = "cdr",
        exclude: str | Sequence[str] = "",
        heads: Sequence[str] | str | None = None,
        domain: str = "check",
        trim: Literal["domain"] | None = None,
        gaps: str = "refuse",
        rank: bool = False,
    ) -> ScanAnswer:
        """Score the single mutants of a sequence (docs/scan.md). The errors are those of `score`.

        Args:
            sequence: the parent, or a pair (heavy, light). Of a pair, the chain that the heads score is mutated.
            id: id of the parent.
            positions: "cdr", "framework", "all", or IMGT positions.
            exclude: residues not to use as replacements.
            heads, domain, trim, gaps: as for `score`.
            rank: whether to also rank CDR mutants among mutants of equal charge.
        """
        (item,) = items_of([sequence], [id])
        asked = {"positions": _listed(positions), "exclude": _listed(exclude), "heads": _heads(heads)}
        body = item | _given(asked | {"domain": domain, "trim": trim, "gaps": gaps, "rank": rank})
        answer = self._transport.ask("POST", "/v1/scan", msgspec.json.encode(body))
        return self._decoded(answer, ScanAnswer, "POST /v1/scan")

    def close(self) -> None:
        """Close the connections. A second call does nothing."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<abonyx.client.Client of {self._transport.url}>"

    def _in_parts(
        self, path: str, sequences: Sequences, ids: Sequence[str] | None, asked: dict[str, Any], kind: type[Answer]
    ) -> tuple[Answer, Any]:
        items, options = items_of(sequences, ids), _given(asked)
        if self._limits is None:
            body = self._transport.ask("GET", "/v1/model")
            self._limits = self._decoded(body, _Described, "GET /v1/model").limits
        limits = self._limits
        most = limits.max_sequences
        if kind is ExplainAnswer:
            most = min(most, limits.max_explained_sequences)
        overhead = len(msgspec.json.encode(options | {"sequences": []}))
        parts = list(parts_of(items, limits, most, overhead))
        answers: list[Answer | RecordsRejected] = [self._part(path, part, options, kind) for part in parts]
        useful = [one for one in answers if not isinstance(one, RecordsRejected)]
        if not useful:
            raise next(one for one in answers if isinstance(one, RecordsRejected))
        whole = [
            one if not isinstance(one, RecordsRejected) else _all_rejected(useful[0], one, part)
            for one, part in zip(answers, parts, strict=True)
        ]
        return merged(whole, [len(part.items) for part in parts], [item["id"] for item in items])

    def _part(self, path: str, part: Part, options: dict[str, Any], kind: type[Answer]) -> Answer | RecordsRejected:
        """The answer to a part of the list. With on_invalid="skip", the error if no sequence of it can be scored."""
        body = msgspec.json.encode(options | {"sequences": part.items})
        try:
            answer = self._transport.ask("POST", path, body, start=part.start)
        except RecordsRejected as error:
            if options.get("on_invalid") == "skip" and len(error.records) == len(part.items):
                return error
            raise
        return self._decoded(answer, kind, f"POST {path}")

    def _decoded(self, body: bytes, kind: type[Kind], what: str) -> Kind:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            text = f"{what} of {self._transport.url}: the answer cannot be read: {first_line(error)}"
            fix = "Install the same version of abonyx as the service has: GET /v1/model names it."
            raise ServiceError(text, fix) from error


def _all_rejected(like: Answer, error: RecordsRejected, part: Part) -> Answer:
    """An answer for a part in which no sequence can be scored. It is a changed copy of another part's answer."""
    out = [Rejected(id=id_, line=line - part.start, reason=why) for id_, line, why in error.records]
    return msgspec.structs.replace(like, results=[], rejected=out, flags={})


def _heads(heads: Sequence[str] | str | None) -> str | list[str] | None:
    """The value for JSON: "all" or a list. A single name becomes a list."""
    if heads is None or heads == "all":
        return heads
    return [heads] if isinstance(heads, str) else list(heads)


def _listed(words: str | Sequence[str | int]) -> str | list[str | int]:
    return words if isinstance(words, str) else list(words)


def _checks(on_invalid: str, domain: str, trim: str | None, gaps: str) -> dict[str, Any]:
    if on_invalid not in get_args(OnInvalid):
        allowed = " or ".join(map(repr, get_args(OnInvalid)))
        raise InputError(f"on_invalid is {first_line(repr(on_invalid))}", f"Give {allowed}.")
    return {"on_invalid": on_invalid, "domain": domain, "trim": trim, "gaps": gaps}


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Only the options that were given. A service of an earlier version may not know the others."""
    return {name: value for name, value in options.items() if value is not None}
