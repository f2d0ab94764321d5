"""Which products of the encoder get one int8 term, which get two, and which stay float32.

All begin with one. The product whose next level takes away most of the predicted error for its cost gets it, again
and again; the plans on that way are tried in turn until the gate lets one pass. The prediction only orders them: it is
the error that a product puts into the residual stream, as a share of the stream's own variance.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from abonyx_export.int8.calibration import CONTEXT, NARROW, PRODUCTS, QKV, WIDEN
from abonyx_export.int8.quantization import Candidates, Plan, Product

FLOAT32 = 0
# Time of a product beside one int8 term's (1280 columns, 512 tokens: one term 3.7 times as fast as float32, two 1.8).
COSTS = {1: 1.0, 2: 2.05, FLOAT32: 3.7}
LEVELS = (1, 2, FLOAT32)
# Plans that are tried, by mean cost. At the last one the products are 1.3 times as fast as in float32.
BUDGETS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.05, 2.3, 2.6, 2.9)
_BLOCK_END = {QKV: CONTEXT, CONTEXT: CONTEXT, WIDEN: NARROW, NARROW: NARROW}

Name = tuple[int, str]


class Step(NamedTuple):
    """A product's way to a higher level, and the error that it takes away."""

    gain: float
    name: Name
    level: int


@dataclass(frozen=True)
class Leveled:
    """A plan and what it is made of.

    Attributes:
        levels: (layer, product) -> 1 or 2 int8 terms, or FLOAT32.
        cost: mean over the arithmetic, in products of one term.
    """

    plan: Plan
    levels: dict[Name, int]
    cost: float

    def at(self, level: int) -> list[str]:
        """The products at a level, as "layer.product"."""
        return [f"{index}.{name}" for (index, name), found in sorted(self.levels.items()) if found == level]


def written(candidates: Candidates, index: int, name: str, level: int) -> float:
    """Error that a product at a level puts into the residual stream, as a share of the stream's variance.

    Of the first product of a block, nearly all of the error reaches the second.
    """
    if level == FLOAT32:
        return 0.0
    layer = candidates.layers[index]
    power = layer[_BLOCK_END[name]][1].power
    # A residual stream that is the same for every token (weights of zero) has no variance to take a share of.
    return layer[name][level].error * power / max(float(candidates.residual_power[index]), sys.float_info.min)


def worst_products(candidates: Candidates) -> list[tuple[str, float]]:
    """The products with one term that put most error into the residual stream, the worst first."""
    errors = {
        f"{index}.{name}": written(candidates, index, name, 1)
        for index in range(len(candidates.layers))
        for name in PRODUCTS
    }
    return sorted(errors.items(), key=lambda item: -item[1])


def ladder(candidates: Candidates) -> Iterator[Leveled]:
    """The plans to try, from all products with one term to the last budget; each differs from the one before."""
    sizes = _sizes(candidates)
    levels = dict.fromkeys(sizes, 1)

    def worth(step: Step) -> float:
        return step.gain / ((COSTS[step.level] - COSTS[levels[step.name]]) * sizes[step.name])

    for budget in BUDGETS:
        before = levels
        while steps := [step for name in sizes for step in _steps(candidates, name, levels[name])]:
            best = max(steps, key=worth)
            raised = levels | {best.name: best.level}
            if best.gain <= 0 or mean_cost(candidates, raised) > budget:
                break
            levels = raised
        if budget == BUDGETS[0] or levels != before:
            yield Leveled(plan_of(candidates, levels), levels, mean_cost(candidates, levels))


def plan_of(candidates: Candidates, levels: Mapping[Name, int]) -> Plan:
    """The plan of a level for every product."""
    layers: list[dict[str, Product]] = []
    for index, layer in enumerate(candidates.layers):
        kept = {name: levels[index, name] for name in PRODUCTS}
        layers.append({name: layer[name][level] for name, level in kept.items() if level != FLOAT32})
    return Plan(layers)


def mean_cost(candidates: Candidates, levels: Mapping[Name, int]) -> float:
    """Mean over the arithmetic, in products of one term."""
    sizes = _sizes(candidates)
    return sum(COSTS[level] * sizes[name] for name, level in levels.items()) / sum(sizes.values())


def _sizes(candidates: Candidates) -> dict[Name, int]:
    """Elements of every product's weight."""
    layers = enumerate(candidates.layers)
    return {(index, name): layer[name][1].weight.size for index, layer in layers for name in PRODUCTS}


def _steps(candidates: Candidates, name: Name, level: int) -> Iterator[Step]:
    """A step to each higher level."""
    for higher in LEVELS[LEVELS.index(level) + 1 :]:
        yield Step(written(candidates, *name, level) - written(candidates, *name, higher), name, higher)
