"""The Python face: one open session a process, which scores, embeds, reloads and closes."""

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
    """Open the process's one session; use it as a context manager or call close().

    Args:
        config: a RuntimeConfig, or a bundle's directory or name (hf:ORG/NAME@REVISION), which runs on the CPU; None =
            RuntimeConfig(), the shipped mini bundle on the CPU.
        self_test: "auto" = two golden rows, and the whole golden set the first time on this machine; "full" = the
            whole set.

    Raises:
        SessionInUse: another session of this process is open.
        BundleError, ProviderError, ConfigError: the bundle, the provider or the variant cannot be used.
        SelfTestError: the golden rows do not come out right here.
    """
    if self_test not in ("auto", "full"):
        what = f"self_test is {self_test!r:.100}"
        raise ConfigError(what, "Give 'auto' or 'full': no score is given by a model that was not tested here.")
    return Session(open_model(as_config(config), self_test=self_test))


def close_session() -> None:
    """Close the session that is open in this process, wherever it was opened; without one, do nothing."""
    session = slot.holder()
    if session is not None:
        session.close()


def as_config(config: object) -> RuntimeConfig:
    """The config that open_session's argument means. Raises ConfigError."""
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
    """The model of a session that a user gives. Raises ConfigError if it is none.

    Args:
        optional: whether the caller also takes none.
    """
    if isinstance(session, Session):
        return session._model
    fix = "Give what abonyx.open_session returned"
    fix += ", or leave it out: a session is opened and closed then." if optional else "."
    raise ConfigError(f"session is {session!r:.100} ({type(session).__name__})", fix)


class Session:
    """One loaded model. Make it with open_session; one a process.

    The properties describe the bundle that is open, or was open last.
    """

    def __init__(self, model: OpenModel) -> None:
        self._model = model

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self._model.bundle.name

    @property
    def sha256(self) -> str:
        """The bundle's hash, of its manifest, which holds the hash of every file."""
        return self._model.bundle.sha256

    @property
    def source(self) -> str:
        """Where the bundle is from: its name by commit and hash, if it was opened by name; else its directory."""
        bundle = self._model.bundle
        return str(bundle.hub or bundle.path)

    @property
    def variant(self) -> str:
        """The variant that runs."""
        return self._model.variant_name

    @property
    def provider(self) -> str:
        """The execution provider that runs it: cpu, cuda, coreml or openvino."""
        return self._model.config.provider

    @property
    def thresholds(self) -> dict[str, float]:
        """Assay -> threshold, those that the first head declares, and its default as "default"; {} of a linear head."""
        head = self._model.manifest.head
        return {} if head.default_threshold is None else {"default": head.default_threshold, **head.thresholds}

    @property
    def max_residues(self) -> int:
        """Residues of the longest sequence that can be scored."""
        return self._model.limit.residues

    @property
    def placement(self) -> dict[str, int]:
        """Execution provider -> number of nodes it runs, after ONNX Runtime's own fusions; empty once closed."""
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
        """Probability of non-specificity of each sequence, by the config's pooling rule.

        Threads may share the session: a call waits for those of other threads.

        Args:
            sequences: n antibody sequences (20 residues and X; spaces and case do not matter); if the heads need both
                chains, (heavy, light) of each antibody.
            heads: names of the bundle's heads, or "all"; None = the first.

        Returns:
            (n,) float32, in input order: the first head's probabilities, or values in its unit if it is linear. With
            `heads`, name -> such an array for each of them.

        Raises:
            InputError: a sequence that cannot be scored, one in the place of a pair, or a pair in the place of one;
                nothing was scored.
            ConfigError: a name that no head has, or twice.
            BundleError: the bundle has no head yet.
            SessionClosed: the session is not open, or another thread closes or reloads it meanwhile.
            SessionForked: the session belongs to the parent process.
            ScoreNotFinite: a score is NaN or infinite.
        """
        model = self._model
        with model.turn():  # no reload between the names and the values
            names = choose_heads(model.bundle, heads).names
            values = model.score(sequences, names)
        return values[:, 0] if heads is None else dict(zip(names, values.T, strict=True))

    def contributions(
        self, sequences: Sequence[str] | Sequence[tuple[str, str]], *, heads: Sequence[str] | str | None = None
    ) -> list[Contributions]:
        """What each residue adds to the logit of a logistic head, or to the value of a linear one.

        Of each record `baseline` and all contributions sum to `total`, which `score` turns into its number. The share
        of a residue is what its final state adds to the sum; that state sees the whole sequence. It is not the effect
        of a mutation.

        Args:
            sequences, heads: as of `score`.

        Returns:
            One Contributions a sequence, in input order.

        Raises:
            BundleError: the bundle has no head yet, or was exported by a version without contributions.
            SelfTestError: they do not sum to the head's own sum here.
            EngineError: as `score` raises.
        """
        model = self._model
        with model.turn():
            return model.contributions(sequences, choose_heads(model.bundle, heads).names)

    def embed(self, sequences: Sequence[str]) -> Float32Array:
        """Pooled embedding of each sequence: (n, D) float32, in input order. Raises as score does."""
        return self._model.embed(sequences)

    def close(self) -> None:
        """Give the memory back; safe to call again.

        A call in another thread ends with SessionClosed once its batch in flight is done, and close() returns after
        that. The interpreter closes an open session so before it ends.
        """
        self._model.close()

    def reload(self, config: RuntimeConfig | str | Path | None = None) -> None:
        """Close, then open with another config, as open_session takes it. Never two models in memory.

        A failed reload leaves the session closed; the next reload may succeed. A call in another thread ends as with
        close(), and one that waits for its turn too: no call is scored by two models.
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
