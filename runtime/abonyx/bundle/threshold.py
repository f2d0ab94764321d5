"""Calls: the threshold and the range of uncertain scores; and notes about the head for the summary."""

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
    """(n,) bool: whether each probability is strictly above the threshold.

    Both sides are compared as float32, because every output shows float32: a p of 0.7 is not above a threshold of 0.7.
    """
    return p > np.float32(threshold)


@dataclass(frozen=True)
class CallRule:
    """The rule that turns the scores of a run into calls. choose_calls makes it.

    Attributes:
        threshold: `nonspecific` is 1 if p is strictly above this.
        band: the range of p whose call is `uncertain`; None = the call depends only on the threshold.
        given: the option that set the threshold, so that the band is not used; "" = the band may be used.
    """

    threshold: float
    band: CallBand | None = None
    given: Literal["", "assay", "threshold"] = ""

    def numbers(self, p: Float32Array, trusted: Sequence[bool]) -> list[Literal[0, 1] | None]:
        """The column `nonspecific` of n scores: 1 or 0; None where `trusted` is false."""
        calls = is_nonspecific(p, self.threshold).tolist()
        return [(1 if call else 0) if trust else None for call, trust in zip(calls, trusted, strict=True)]

    def words(self, p: Float32Array, trusted: Sequence[bool]) -> list[Word | None]:
        """The column `call` of n scores; None where `trusted` is false."""
        calls = is_nonspecific(p, self.threshold).astype(np.int64) if self.band is None else self.band.calls(p)
        return [CALL_WORDS[call] if trust else None for call, trust in zip(calls.tolist(), trusted, strict=True)]

    @property
    def text(self) -> str:
        """A text about how `call` is decided."""
        if self.band is not None:
            text = f"uncertain from {self.band.low:.4g} to {self.band.high:.4g}"
            if self.band.low <= self.threshold <= self.band.high:
                return text
            # In this case the columns `call` and `nonspecific` can contradict each other.
            return f"{text}; threshold {self.threshold:g} is outside, so call and nonspecific may disagree"
        why = f"{option(self.given)} was given" if self.given else "the head has no stored quantiles"
        return f"call is never uncertain: {why}"

    def facts(self) -> dict[str, str | float | None]:
        """The facts that results depend on, for a journal."""
        band = self.band
        shown = None if band is None else f"{band.low!r} to {band.high!r}"
        return {"threshold": self.threshold, "band of uncertain calls": shown}

    def metadata(self) -> dict[str, str]:
        """Metadata for a result file."""
        return {"threshold": repr(self.threshold), "call": in_words(self.text, Interface.COMMAND_LINE)}

    def summary(self, assay: str | None = None) -> str:
        """The end of a command's last line, e.g. "threshold 0.5; uncertain from 0.35 to 0.64"."""
        return f"threshold {self.threshold:g}" + (f" ({assay})" if assay else "") + f"; {self.text}"


def choose_calls(bundle: Bundle, assay: str | None, threshold: float | None, head: HeadSpec | None = None) -> CallRule:
    """The rule for the calls of a head (None = the first). The head's band is only used with its default threshold.

    Raises:
        BundleError, ConfigError: as for choose_threshold.
    """
    limit = choose_threshold(bundle, assay, threshold, head)
    head = head or bundle.manifest.head
    if threshold is not None:
        return CallRule(limit, given="threshold")
    # The stored quantiles are for the classes that the head was trained on. An assay's threshold makes other classes.
    if assay is not None and limit != head.default_threshold:
        return CallRule(limit, given="assay")
    return CallRule(limit, stored_band(head))


def stored_band(head: HeadSpec) -> CallBand | None:
    """The band that a head stores; None if it has none."""
    return None if head.training is None else head.training.band


def own_rule(head: HeadSpec) -> CallRule | None:
    """The rule with a head's default threshold and its stored band; None if the head makes no calls."""
    return None if head.default_threshold is None else CallRule(head.default_threshold, stored_band(head))


def choose_threshold(bundle: Bundle, assay: str | None, threshold: float | None, head: HeadSpec | None = None) -> float:
    """The threshold above which p is non-specific.

    Args:
        bundle: the bundle.
        assay: use the threshold that the head declares for this assay.
        threshold: use this one. If both are None, use the head's default.
        head: a head of the bundle; None = the first.

    Raises:
        BundleError: the bundle has no head yet, or the head is linear and no threshold is given.
        ConfigError: both are given, the head declares no threshold for the assay, or the threshold is outside [0, 1].
    """
    bundle.refuse_placeholder()
    head = head or bundle.manifest.head
    if assay is not None and threshold is not None:
        raise ConfigError(
            f"{option('assay')} {printable(assay)} and {option('threshold')} {threshold} were both given",
            "Give only one of them.",
        )
    if threshold is not None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"{option('threshold')} is {threshold}", "Give a probability from 0 to 1.")
        return threshold
    if head.default_threshold is None:
        what = f"{bundle.name}: head {head.name} gives a value in {head.unit}, not a probability"
        raise BundleError(what, "Use a bundle whose first head is logistic.")
    if assay is None:
        return head.default_threshold
    if assay not in head.thresholds:
        declared = ", ".join(head.thresholds) or "none"
        raise ConfigError(
            f"{option('assay')} {printable(assay)}: the head of {bundle.name} declares no threshold for it "
            f"(declared: {declared})",
            f"Set your own with {option('threshold')} T: a threshold of another head or assay does not apply here.",
        )
    return head.thresholds[assay]


def pooling_notes(bundle: Bundle, config: RuntimeConfig, head: HeadSpec | None = None) -> list[str]:
    """A note if the pooling of a run is not the pooling in the training of the head (None = the first)."""
    head = head or bundle.manifest.head
    if head.pooling is None or (head.pooling, head.pooling_batch_size) == (config.pooling, config.batch_size):
        return []
    trained = head.pooling + (f" (batch {head.pooling_batch_size})" if head.pooling_batch_size else "")
    used = config.pooling + (f" (batch {config.batch_size})" if config.batch_size else "")
    return [f"note: the head was trained with pooling {trained}, but these scores use {used}; see docs/scores.md"]


def shipped_note(config: RuntimeConfig) -> list[str]:
    """A note if no bundle was named. It says that this is the small model, and where to read about ESM-1v."""
    if config.bundle is not None:
        return []
    return ["note: this is the small model that ships with abonyx; docs/heads.md says how to use ESM-1v"]
