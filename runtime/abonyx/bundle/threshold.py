"""What a score means: which p is called non-specific, and what a reader must know of the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from abonyx.arrays import BoolArray, Float32Array
from abonyx.bundle.band import CALL_WORDS, CallBand, Word
from abonyx.bundle.bundle import Bundle
from abonyx.bundle.manifest import HeadSpec
from abonyx.config import RuntimeConfig
from abonyx.errors import BundleError, ConfigError, printable
from abonyx.wording import Interface, in_words, option

# Columns.
CALLED, CALL = "nonspecific", "call"


def is_nonspecific(p: Float32Array, threshold: float) -> BoolArray:
    """Which of the (n,) probabilities are called non-specific: those strictly above the threshold.

    Both sides are float32, as every output shows them: a p that reads 0.7 is not above a threshold of 0.7.
    """
    return p > np.float32(threshold)


@dataclass(frozen=True)
class CallRule:
    """How the scores of a run become calls. Make it with choose_calls.

    Attributes:
        threshold: p strictly above it is `nonspecific`.
        band: p inside it is called `uncertain`; None = `call` has two values, by the threshold.
        given: the option that gave another threshold than the head's default, so that its band is not used; "" = none.
    """

    threshold: float
    band: CallBand | None = None
    given: Literal["", "assay", "threshold"] = ""

    def numbers(self, p: Float32Array, trusted: Sequence[bool]) -> list[Literal[0, 1] | None]:
        """The column `nonspecific` of n scores: None for one that is not to be trusted."""
        calls = is_nonspecific(p, self.threshold).tolist()
        return [(1 if call else 0) if trust else None for call, trust in zip(calls, trusted, strict=True)]

    def words(self, p: Float32Array, trusted: Sequence[bool]) -> list[Word | None]:
        """The column `call` of n scores: None for one that is not to be trusted."""
        calls = is_nonspecific(p, self.threshold).astype(np.int64) if self.band is None else self.band.calls(p)
        return [CALL_WORDS[call] if trust else None for call, trust in zip(calls.tolist(), trusted, strict=True)]

    @property
    def text(self) -> str:
        """What `call` rests on."""
        if self.band is not None:
            text = f"uncertain from {self.band.low:.4g} to {self.band.high:.4g}"
            if self.band.low <= self.threshold <= self.band.high:
                return text
            # Then a call in words can be another one than nonspecific.
            return f"{text}: threshold {self.threshold:g} lies outside, so call and nonspecific may disagree"
        why = f"{option(self.given)} was given" if self.given else "the head has no stored quantiles"
        return f"call is never uncertain: {why}"

    def facts(self) -> dict[str, str | float | None]:
        """What results depend on, for a journal."""
        band = self.band
        shown = None if band is None else f"{band.low!r} to {band.high!r}"
        return {"threshold": self.threshold, "band of uncertain calls": shown}

    def metadata(self) -> dict[str, str]:
        """What a result file says of them."""
        return {"threshold": repr(self.threshold), "call": in_words(self.text, Interface.COMMAND_LINE)}

    def summary(self, assay: str | None = None) -> str:
        """The end of a command's last line."""
        return f"threshold {self.threshold:g}" + (f" ({assay})" if assay else "") + f"; {self.text}"


def choose_calls(bundle: Bundle, assay: str | None, threshold: float | None, head: HeadSpec | None = None) -> CallRule:
    """The rule of the calls of a head (None = the first). Its band is used with its default threshold alone.

    Raises:
        BundleError, ConfigError: as choose_threshold.
    """
    limit = choose_threshold(bundle, assay, threshold, head)
    head = head or bundle.manifest.head
    if threshold is not None:
        return CallRule(limit, given="threshold")
    # The quantiles are of the head's own classes: an assay's threshold makes others.
    if assay is not None and limit != head.default_threshold:
        return CallRule(limit, given="assay")
    return CallRule(limit, stored_band(head))


def stored_band(head: HeadSpec) -> CallBand | None:
    """The quantiles that a head stores; None if it has none."""
    return None if head.training is None else head.training.band


def own_rule(head: HeadSpec) -> CallRule | None:
    """A head's calls by its default threshold and its quantiles; None if it makes none."""
    return None if head.default_threshold is None else CallRule(head.default_threshold, stored_band(head))


def choose_threshold(bundle: Bundle, assay: str | None, threshold: float | None, head: HeadSpec | None = None) -> float:
    """The threshold above which p is called non-specific: given, the assay's that the head declares, or its default.

    Args:
        head: of the bundle; None = the first.

    Raises:
        BundleError: the bundle has no head yet.
        ConfigError: both given, an assay the head does not declare, a threshold outside [0, 1].
    """
    bundle.refuse_placeholder()
    head = head or bundle.manifest.head
    if assay is not None and threshold is not None:
        raise ConfigError(
            f"{option('assay')} {printable(assay)} and {option('threshold')} {threshold} were both given",
            "Give one of them.",
        )
    if threshold is not None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"{option('threshold')} is {threshold}", "Give a probability from 0 to 1.")
        return threshold
    if head.default_threshold is None:
        what = f"{bundle.name}: its head {head.name} gives a value in {head.unit}, and no probability"
        raise BundleError(what, "Use a bundle whose first head is logistic.")
    if assay is None:
        return head.default_threshold
    if assay not in head.thresholds:
        declared = ", ".join(head.thresholds) or "none"
        raise ConfigError(
            f"{option('assay')} {printable(assay)}: the head of {bundle.name} declares no threshold for it "
            f"(declared: {declared})",
            f"A threshold belongs to the head it was fitted for. Use {option('threshold')} T for one of your own.",
        )
    return head.thresholds[assay]


def pooling_notes(bundle: Bundle, config: RuntimeConfig, head: HeadSpec | None = None) -> list[str]:
    """A line where scores are pooled otherwise than the head's (None = the first one's) training embeddings were."""
    head = head or bundle.manifest.head
    if head.pooling is None or (head.pooling, head.pooling_batch_size) == (config.pooling, config.batch_size):
        return []
    trained = head.pooling + (f" (batch {head.pooling_batch_size})" if head.pooling_batch_size else "")
    used = config.pooling + (f" (batch {config.batch_size})" if config.batch_size else "")
    return [f"note: the head was trained on {trained} pooling, these scores use {used}; see docs/scores.md"]


def shipped_note(config: RuntimeConfig) -> list[str]:
    """A line where no bundle was named: which model this is, and how to get the large one."""
    if config.bundle is not None:
        return []
    return ["note: this is the small model that ships, not ESM-1v; docs/heads.md says how to get that one"]
