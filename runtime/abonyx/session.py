"""The Python interface: a session that scores and embeds. A process has at most one open session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, overload

from abonyx.arrays import Float32Array
from abonyx.bundle.chosen import choose_heads
from abonyx.config import RuntimeConfig
from abonyx.contributions import Contributions
from abonyx.engine import slot
from abonyx.errors import ConfigError
from abonyx.model import OpenModel, State, open_model


def open_session(
    config: RuntimeConfig | str | Path | None = None, *, self_test: Literal["auto", "full"] = "auto"
) -> Session:
    """Open the one session of this process. Use it as a context manager, or call close().

    Args:
        config: a RuntimeConfig; or a bundle's directory or name (hf:ORG/NAME@REVISION), to run it on the CPU; None =
            the shipped mini bundle on the CPU.
        self_test: "auto" = run two golden rows, and the whole golden set the first time on this machine; "full" = run
            the whole set.

    Raises:
        SessionInUse: another session of this process is open.
        BundleError, ProviderError, ConfigError: the bundle, the provider or the variant cannot be used.
        SelfTestError: the golden rows give other numbers here than the bundle stores.
    """
    if self_test not in ("auto", "full"):
        what = f"self_test is {self_test!r:.100}"
        raise ConfigError(what, "Give 'auto' or 'full': a model must pass the self-test before it scores.")
    return Session(open_model(as_config(config), self_test=self_test))


def close_session() -> None:
    """Close the open session of this process, wherever it was opened. Does nothing if none is open."""
    session = slot.holder()
    if session is not None:
        session.close()


def as_config(config: object) -> RuntimeConfig:
    """The RuntimeConfig for the argument of open_session. Raises ConfigError."""
    if config is None:
        return RuntimeConfig()
    if isinstance(config, RuntimeConfig):
        return config
    if isinstance(config, str | Path):
        return RuntimeConfig(bundle=str(config))
    raise ConfigError(
        f"config is {config!r:.100} ({type(config).__name__})",
        'Give abonyx.RuntimeConfig(bundle="DIRECTORY", ...), a bundle\'s directory as str or Path, or nothing.',
    )


def model_of(session: object, *, optional: bool = True) -> OpenModel:
    """The model of a session that a user passes.

    Args:
        session: the argument that should be a Session.
        optional: whether the user may leave out `session`. If so, the error message says it.

    Raises:
        ConfigError: it is not a Session.
    """
    if isinstance(session, Session):
        return session._model
    fix = "Give what abonyx.open_session returned"
    fix += ", or leave it out: then a session is opened and closed for this call." if optional else "."
    raise ConfigError(f"session is {session!r:.100} ({type(session).__name__})", fix)


class Session:
    """A loaded model. open_session makes it; a process has at most one that is open.

    The properties describe the bundle that is open, or that was open last.
    """

    def __init__(self, model: OpenModel) -> None:
        self._model = model

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self._model.bundle.name

    @property
    def sha256(self) -> str:
        """The bundle's hash: sha256 of its manifest, which contains the hash of every file."""
        return self._model.bundle.sha256

    @property
    def source(self) -> str:
        """The bundle's name with commit and hash if it was opened by name; else its directory."""
        bundle = self._model.bundle
        return str(bundle.hub or bundle.path)

    @property
    def variant(self) -> str:
        """Name of the variant that runs."""
        return self._model.variant_name

    @property
    def provider(self) -> str:
        """The execution provider that runs the model: cpu, cuda, coreml or openvino."""
        return self._model.config.provider

    @property
    def thresholds(self) -> dict[str, float]:
        """Assay -> threshold of the first head, with its default threshold as "default"; {} for a linear head."""
        head = self._model.manifest.head
        return {} if head.default_threshold is None else {"default": head.default_threshold, **head.thresholds}

    @property
    def max_residues(self) -> int:
        """Number of residues in the longest sequence that can be scored."""
        return self._model.limit.residues

    @property
    def placement(self) -> dict[str, int]:
        """Execution provider -> number of graph nodes that it runs, after ONNX Runtime's fusions; {} if closed."""
        return dict(self._model.placement)

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the bundle's heads; the first is the default."""
        return tuple(head.name for head in self._model.manifest.heads)

    @overload
    def score(self, sequences: Sequence[str] | Sequence[tuple[str, str]]) -> Float32Array: ...
    @overload
    def score(
        self, sequences: Sequence[str] | Sequence[tuple[str, str]], *, heads: Sequence[str] | str
    ) -> dict[str, Float32Array]: ...
    def score(
        self, sequences: Sequence[str] | Sequence[tuple[str, str]], *, heads: Sequence[str] | str | None = None
    ) -> Float32Array | dict[str, Float32Array]:
        """Probability of non-specificity of each sequence.

        Threads may share the session: a call waits until the calls of other threads are done.

        Args:
            sequences: n antibody sequences (20 residues and X; spaces and case do not matter). If the heads need both
                chains, n pairs (heavy, light).
            heads: names of the bundle's heads, or "all"; None = the first.

        Returns:
            (n,) float32 in input order: probabilities of the first head, or values in its unit if it is linear. With
            `heads`, a dict from the name of each head to such an array.

        Raises:
            InputError: a sequence cannot be scored, a sequence is given instead of a pair, or a pair is given instead
                of a sequence. Nothing was scored.
            ConfigError: no head has the name, or a name is given twice.
            BundleError: the bundle has no head yet.
            SessionClosed: the session is not open, or another thread closes or reloads it during the call.
            SessionForked: the session belongs to the parent process.
            ScoreNotFinite: a score is NaN or infinite.
        """
        model = self._model
        with model.turn():  # no other thread may reload between the choice of the heads and the scoring
            names = choose_heads(model.bundle, heads).names
            values = model.score(sequences, names)
        return values[:, 0] if heads is None else dict(zip(names, values.T, strict=True))

    def contributions(
        self, sequences: Sequence[str] | Sequence[tuple[str, str]], *, heads: Sequence[str] | str | None = None
    ) -> list[Contributions]:
        """What each residue adds to the logit of a logistic head, or to the value of a linear head.

        In each record, `baseline` and all contributions sum to `total`, the logit or value from which `score` computes
        its result. The contribution of a residue is what its final hidden state adds to the sum. That state depends on
        the whole sequence, so a contribution is not the effect of a mutation.

        Args:
            sequences, heads: as for `score`.

        Returns:
            One Contributions for each sequence, in input order.

        Raises:
            BundleError: the bundle has no head yet, or was exported by a version without contributions.
            SelfTestError: the contributions do not sum to the head's own sum on this machine.
            EngineError: as for `score`.
        """
        model = self._model
        with model.turn():
            return model.contributions(sequences, choose_heads(model.bundle, heads).names)

    def embed(self, sequences: Sequence[str]) -> Float32Array:
        """Pooled embedding of each sequence: (n, D) float32, in input order. Raises as `score` does."""
        return self._model.embed(sequences)

    def close(self) -> None:
        """Free the memory of the model. A second call does nothing.

        A call in another thread ends with SessionClosed when its current batch is done; close() returns after that.
        The interpreter also closes an open session before it ends.
        """
        self._model.close()

    def reload(self, config: RuntimeConfig | str | Path | None = None) -> None:
        """Close the session, then open it with another config. Two models are never in memory.

        If the reload fails, the session stays closed; a later reload may succeed. A call in another thread ends with
        SessionClosed, even if it is still waiting, so that two models never score one call.

        Args:
            config: as for open_session.

        Raises:
            EngineError: as for open_session.
        """
        self._model.reload(as_config(config))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        model = self._model
        if model.state is not State.OPEN:
            return f"<abonyx.Session {model.state.value}>"
        return f"<abonyx.Session open: {model.bundle.label()}, variant {self.variant} on {self.provider}>"
