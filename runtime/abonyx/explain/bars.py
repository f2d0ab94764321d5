"""The picture of one record: a bar for what each residue adds, over IMGT positions. Needs the extra explain."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from abonyx.bundle.heads import sigmoid
from abonyx.bundle.manifest import LOGISTIC, HeadSpec
from abonyx.evaluate.drawing import BLUE, GREY, VERMILLION, drawn, encode, shortened, style
from abonyx.explain.explained import OUTSIDE, Explained, ExplainedChain
from abonyx.explain.places import CDRS, REGIONS, Place

CHAIN_TITLES = {"H": "heavy chain", "L": "light chain"}
_WIDTH_INCHES, _PANEL_INCHES, _MARGIN_INCHES = 14.0, 2.7, 0.9
_ID_LENGTH = 60
_SHADE = "#EFEFEF"
# An IMGT number is written at every residue whose position is a multiple of this.
_NUMBER_STEP = 5
# Without IMGT numbers, every tenth residue shows its number in the chain.
_STEP = 10
# Fewest residues between two numbers: closer numbers would overlap where IMGT positions are missing.
_NUMBER_GAP = 3
_NOTE = "A bar is the share of the sum that passes through the residue's final state, not the effect of a mutation."


def draw_record(record: Explained, heads: list[HeadSpec]) -> tuple[bytes, bytes]:
    """PNG and SVG with a panel for each head and each chain that it expects.

    Args:
        heads: the heads of the record's columns, in the same order.
    """
    panels = [
        (column, head, chain)
        for column, head in enumerate(heads)
        for chain in record.chains
        if chain.part.chain in head.chains
    ]
    with style():
        size = (_WIDTH_INCHES, _MARGIN_INCHES + _PANEL_INCHES * len(panels))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(panels), squeeze=False)[:, 0]
        flag = f"; flagged, so its score should not be trusted: {record.flag}" if record.flag else ""
        title = f"{drawn(shortened(record.id, _ID_LENGTH))}{flag}"
        figure.suptitle(title, x=0.01, ha="left", weight="bold", parse_math=False)
        for each, (column, head, chain) in zip(axes, panels, strict=True):
            _paint(each, chain, column, head, _largest(record, column, head))
            each.set_title(_title(record, chain, column, head), loc="left", parse_math=False)
        figure.supxlabel(_NOTE, fontsize=9, color=GREY)
        return encode(figure)


def _title(record: Explained, chain: ExplainedChain, column: int, head: HeadSpec) -> str:
    """The head, the chain and the sum: one term for the bars of each chain, and one for the end tokens."""
    found = record.contributions
    own = [each for each in record.chains if each.part.chain in head.chains]
    terms = []
    for each in own:
        bars = float(each.part.residues[:, column].sum(dtype=np.float64))
        terms.append(f"{bars:+.3g} {f'from the {CHAIN_TITLES[each.part.chain]}' if len(own) > 1 else 'from residues'}")
    ends = sum(float(each.part.end[column]) for each in own)
    terms += [f"{ends:+.3g} from the end token, which has no bar"] if ends else []
    of_chain = f", {CHAIN_TITLES[chain.part.chain]}" if len(record.chains) > 1 else ""
    total, baseline = found.total[column], found.baseline[column]
    text = f"baseline {baseline:.3g} {' '.join(terms)}"
    if head.kind == LOGISTIC:
        return f"{head.name}{of_chain}: logit {total:.3g} = {text}; p = {sigmoid(total):.3f}"
    return f"{head.name}{of_chain}: {total:.4g} {head.unit} = {text}"


def _largest(record: Explained, column: int, head: HeadSpec) -> float:
    """The largest bar of a head over all of its chains, so that both chains have the same scale."""
    own = [chain for chain in record.chains if chain.part.chain in head.chains]
    return max(1e-12, *(float(np.abs(chain.part.residues[:, column]).max(initial=0)) for chain in own))


def _outside(chain: ExplainedChain) -> list[tuple[int, int]]:
    """First and last residue of each stretch before or after the domain; empty without a domain."""
    inside = [place.index for place in chain.places if place.region]
    if not inside:
        return []
    ends = [(0, inside[0] - 1), (inside[-1] + 1, len(chain.places) - 1)]
    return [(first, last) for first, last in ends if first <= last]


def _paint(axes: Axes, chain: ExplainedChain, column: int, head: HeadSpec, largest: float) -> None:
    values = chain.part.residues[:, column].astype(np.float64)
    at = np.arange(len(values))
    axes.bar(at, values, width=0.8, color=np.where(values > 0, VERMILLION, BLUE))
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xlim(-1, len(values))
    axes.set_ylim(-1.25 * largest, 1.45 * largest)
    for region in REGIONS:
        inside = [place.index for place in chain.places if place.region == region]
        if not inside:
            continue
        if region in CDRS:
            axes.axvspan(inside[0] - 0.5, inside[-1] + 0.5, color=_SHADE, zorder=0)
        middle = (inside[0] + inside[-1]) / 2
        axes.text(middle, 1.4 * largest, region, ha="center", va="top", fontsize=9, color=GREY)
    for first, last in _outside(chain):
        axes.axvline(first - 0.5 if first else last + 0.5, color=GREY, linewidth=0.8, linestyle="--")
        axes.text((first + last) / 2, 1.4 * largest, OUTSIDE, ha="center", va="top", fontsize=9, color=GREY)
    for place, value in zip(chain.places, values, strict=True):
        above = value > 0
        axes.annotate(
            place.residue,
            (place.index, value),
            (0, 2 if above else -2),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            fontsize=6.5,
        )
    shown: list[Place] = []
    for place in chain.places:
        numbered = place.imgt.isdigit() and int(place.imgt) % _NUMBER_STEP == 0
        if numbered and (not shown or place.index - shown[-1].index >= _NUMBER_GAP):
            shown.append(place)
    if shown:
        axes.set_xticks([place.index for place in shown], [place.imgt for place in shown], fontsize=8)
        axes.set_xlabel("IMGT position", fontsize=9)
    else:
        steps = np.arange(_STEP - 1, len(values), _STEP)
        axes.set_xticks(steps, [str(at + 1) for at in steps.tolist()], fontsize=8)
        axes.set_xlabel("residue, counted from 1: no domain was found in this chain", fontsize=9)
    upwards = "non-specific" if head.kind == LOGISTIC else f"more {head.unit}"
    unit = "logits" if head.kind == LOGISTIC else head.unit
    axes.set_ylabel(f"adds ({unit})\nup: {upwards}", fontsize=9, parse_math=False)
