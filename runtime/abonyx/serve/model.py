"""What a service knows of the open model, for checking requests without using the session."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from abonyx.alphabet import SequenceLimit
from abonyx.bundle import README_NAME, Bundle
from abonyx.bundle.chosen import ChosenHeads, choose_heads
from abonyx.bundle.listed import CARD_MD, read_listed
from abonyx.bundle.manifest import Variant
from abonyx.bundle.threshold import pooling_notes, shipped_note
from abonyx.bundle.training_rows import training_hashes
from abonyx.config import RuntimeConfig
from abonyx.errors import BundleError, ConfigError
from abonyx.explain.validated import Validated, read_validated_for_any
from abonyx.logs import LOGGER
from abonyx.model import OpenModel

_MAX_CARD_CHARS = 1 << 20
# Most choices of heads that a model remembers. There is a limit, because clients make the choices.
_MAX_CHOSEN = 16


@dataclass(frozen=True)
class Model:
    """The open model, as a request was checked against it.

    Attributes:
        placement: execution provider -> nodes it runs.
        card: the bundle's README.md; None if it has none.
        trust: the card that `fit` wrote, Markdown whose first line is its sentence; None if it has none.
        gives_contributions: whether the graph has the output `contributions`.
        training: head -> hashes of its training rows, for heads whose rows the bundle records.
        validated: the operator's measurement of how a head ranks at equal charge; None = there is none.
    """

    config: RuntimeConfig
    bundle: Bundle
    variant_name: str
    variant: Variant
    placement: dict[str, int]
    card: str | None
    trust: str | None
    gives_contributions: bool
    training: dict[str, frozenset[bytes]]
    validated: Validated | None = None
    _chosen: dict[object, ChosenHeads] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, session: OpenModel, validated: Path | None = None) -> Model:
        """The Model of an open session.

        Args:
            validated: metrics.json of `abonyx evaluate --by`.

        Raises:
            BundleError: the bundle's cards or the hashes of its training rows cannot be read.
            ConfigError: `validated` is not a measurement of this model.
        """
        path, card = session.bundle.path / README_NAME, None
        try:
            if path.is_file() and not path.is_symlink():  # a stranger's bundle could link to any file of this machine
                with path.open(encoding="utf-8", errors="replace") as file:
                    card = file.read(_MAX_CARD_CHARS)
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror}", "Make it readable, or delete it.") from error
        written = read_listed(session.bundle, CARD_MD)
        trust = None if written is None else written[:_MAX_CARD_CHARS].decode("utf-8", "replace")
        hashes = {head.name: training_hashes(session.bundle, head.name) for head in session.bundle.manifest.heads}
        return cls(
            config=session.config,
            bundle=session.bundle,
            variant_name=session.variant_name,
            variant=session.variant,
            placement=dict(session.placement),
            card=card,
            trust=trust,
            gives_contributions=session.gives_contributions,
            training={name: known for name, known in hashes.items() if known is not None},
            validated=None if validated is None else read_validated_for_any(validated, session.bundle, session.config),
        )

    def choose_heads(
        self,
        names: Sequence[str] | str | None,
        assay: str | None = None,
        threshold: float | None = None,
        panel: str | None = None,
        with_columns: Sequence[str] = (),
        *,
        percentiles: bool = True,
    ) -> ChosenHeads:
        """As chosen.choose_heads. A choice with neither a threshold nor columns is remembered, with its panel's rows.

        Args:
            percentiles: whether a panel is chosen.
        """
        wanted = names if names is None or isinstance(names, str) else tuple(names)
        key = (wanted, assay, panel, tuple(with_columns), percentiles)
        if threshold is None and (known := self._chosen.get(key)) is not None:
            return known
        config = self.config if percentiles else None
        heads = choose_heads(
            self.bundle, names, assay, threshold, config=config, panel=panel, with_columns=with_columns
        )
        if threshold is None and not with_columns and len(self._chosen) < _MAX_CHOSEN:
            self._chosen[key] = heads
        return heads

    @functools.cached_property
    def name(self) -> str:
        """The bundle's name. It is kept, because the bundle looks it up on the disk."""
        return self.bundle.name

    @property
    def limit(self) -> SequenceLimit:
        """How long a sequence may be."""
        return SequenceLimit.of(self.bundle.manifest, self.config)

    @property
    def chains(self) -> tuple[str, ...]:
        """Letters of the chains that the head was trained on, as domain.DomainRule takes them."""
        return self.bundle.manifest.head.domain_chains


def log_notes(session: OpenModel, model: Model) -> None:
    """Log once what `abonyx score` would note in its summary, and how far the order of scans can be trusted."""
    if model.validated is not None:
        LOGGER.info(f"scans by head {model.validated.head}: {model.validated.sentence}")
    config = session.config
    for note in [*session.opening_notes, *pooling_notes(session.bundle, config), *shipped_note(config)]:
        LOGGER.warning(note)


def refuse_upstream_pooling(config: RuntimeConfig) -> None:
    """Raise a ConfigError if scores would depend on a request's other sequences."""
    if config.batch_size is not None:
        raise ConfigError(
            f"config: pooling is {config.pooling!r} (batch_size {config.batch_size}): a score would depend on the "
            "other sequences of its request",
            "Serve with pooling residues; `abonyx score` has upstream-batch, for whole files.",
        )
