"""Choose the panel for a run's percentiles, before a model is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abonyx.bundle.bundle import Bundle
from abonyx.bundle.listed import FIX, read_listed
from abonyx.bundle.panel import HeadPanel, Panel, PanelScores, panel_file
from abonyx.config import RuntimeConfig
from abonyx.errors import BundleError, ConfigError, first_line
from abonyx.wording import option


@dataclass(frozen=True)
class PanelChoice:
    """The panel of a run. choose_panel makes it.

    Attributes:
        panel: the panel; None = no percentiles.
        heads: name of a head -> the panel with its scores by that head. A missing head has no percentiles.
        text: text for the summary.
    """

    panel: Panel | None
    heads: dict[str, HeadPanel]
    text: str


def choose_panel(bundle: Bundle, config: RuntimeConfig, name: str | None, heads: Sequence[str]) -> PanelChoice:
    """Choose a panel, and its scores by the config's variant and pooling rule.

    Args:
        bundle: the bundle.
        config: the config of the run.
        name: name of the panel; None = the bundle's first.
        heads: names of the heads that score.

    Raises:
        ConfigError: a name is given, but the bundle has no such panel, or the panel has no scores by any of these heads
            with the config's variant and pooling rule.
        BundleError: the panel's file is missing or damaged.
    """
    panel = _named(bundle, name)
    if panel is None:
        return PanelChoice(None, {}, "no percentile: the bundle has no panel")
    variant, _ = bundle.variant(config.provider, config.variant)
    run = (variant, config.pooling, config.batch_size)
    found = {scores.head: scores for scores in panel.scores if scores.key[1:] == run and scores.head in heads}
    if not found:
        missing = f"panel {panel.name} has no scores of {_shown(heads)} {_rule(*run)}"
        if name is not None:
            there = dict.fromkeys(f"head {each.head} {_rule(*each.key[1:])}" for each in panel.scores)
            raise ConfigError(f"{option('panel')}: {missing}", f"It has: {'; '.join(there)}.")
        return PanelChoice(None, {}, f"no percentile: {missing}")
    members = _members(bundle, panel)
    chosen = {head: _head_panel(panel, scores, members) for head, scores in found.items()}
    without = [head for head in heads if head not in found]
    text = f"percentile in panel {panel.name} ({panel.rows} rows: {panel.source})"
    return PanelChoice(panel, chosen, f"{text}, but not for {_shown(without)}" if without else text)


def _named(bundle: Bundle, name: str | None) -> Panel | None:
    panels = bundle.manifest.panels
    if name is None:
        return panels[0] if panels else None
    found = next((panel for panel in panels if panel.name == name), None)
    if found is None:
        known = ", ".join(panel.name for panel in panels)
        fix = f"It has: {known}." if known else "Add one with `abonyx reference`."
        raise ConfigError(f"{option('panel')}: {bundle.name} has no panel {first_line(repr(name))}", fix)
    return found


def _shown(heads: Sequence[str]) -> str:
    return f"head{'s' * (len(heads) > 1)} {', '.join(heads)}"


def _rule(variant: str, pooling: str, batch_size: int | None) -> str:
    size = f" (batch {batch_size})" if batch_size else ""
    return f"by variant {variant} with pooling {pooling}{size}"


def _members(bundle: Bundle, panel: Panel) -> frozenset[bytes]:
    name = panel_file(panel.name)
    data = read_listed(bundle, name)
    if data is None:
        raise BundleError(f"{bundle.path}: {name}: not listed in the manifest", FIX)
    return frozenset(data.splitlines())


def _head_panel(panel: Panel, scores: PanelScores, members: frozenset[bytes]) -> HeadPanel:
    return HeadPanel(panel.name, panel.rows, panel.source, np.array(scores.quantiles, np.float32), members)
