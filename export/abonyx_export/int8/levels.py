"""Choose which products of the encoder get one int8 term, which get two, and which stay float32.

All products start with one term. Step by step, the product with the best ratio of removed error to added cost goes to a
higher level. The plans on this path are tried in order until a plan passes the gate. The removed error is predicted: it
is the error that a product adds to the residual stream, as a share of the stream's variance. It only decides the order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from abonyx_export.int8.calibration import CONTEXT, NARROW, PRODUCTS, QKV, WIDEN
from abonyx_export.int8.quantization import Candidates, Plan, Product

FLOAT32 = 0
# Time of a product, relative to a product with one int8 term. (Measured with 1280 columns and 512 tokens: one term is
# 3.7 times as fast as float32, two terms are 1.8 times as fast.)
COSTS = {1: 1.0, 2: 2.05, FLOAT32: 3.7}
LEVELS = (1, 2, FLOAT32)
# Largest mean cost of each plan that is tried. With the last plan, products are 1.3 times as fast as in float32.
BUDGETS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.05, 2.3, 2.6, 2.9)
_BLOCK_END = {QKV: CONTEXT, CONTEXT: CONTEXT, WIDEN: NARROW, NARROW: NARROW}

Name = tuple[int, str]


class Step(NamedTuple):
    """Raise one product to a higher level; `gain` is the error that this removes."""

    gain: float
    name: Name
    level: int


@dataclass(frozen=True)
class Leveled:
    """A plan with its levels and cost.

    Attributes:
        plan: the products to write.
        levels: (layer, product) -> 1 or 2 int8 terms, or FLOAT32.
        cost: see mean_cost.
    """

    plan: Plan
    levels: dict[Name, int]
    cost: float

    def at(self, level: int) -> list[str]:
        """The products at a level, as "layer.product"."""
        return [f"{index}.{name}" for (index, name), found in sorted(self.levels.items()) if found == level]


def residual_error(candidates: Candidates, index: int, name: str, level: int) -> float:
    """Error that a product at a level adds to the residual stream, as a share of the stream's variance.

    Nearly all of the error of a block's first product reaches its second product.
    """
    if level == FLOAT32:
        return 0.0
    layer = candidates.layers[index]
    power = layer[_BLOCK_END[name]][1].power
    # If all tokens have the same residual stream (weights of zero), its variance is 0; avoid a division by 0.
    return layer[name][level].error * power / max(float(candidates.residual_power[index]), sys.float_info.min)


def worst_products(candidates: Candidates) -> list[tuple[str, float]]:
    """All products with one term, and the error that each adds to the residual stream, the largest first."""
    errors = {
        f"{index}.{name}": residual_error(candidates, index, name, 1)
        for index in range(len(candidates.layers))
        for name in PRODUCTS
    }
    return sorted(errors.items(), key=lambda item: -item[1])


def ladder(candidates: Candidates) -> Iterator[Leveled]:
    """The plans to try, from one term for all products to the last budget. Each differs from the one before."""
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
    """The plan for a given level of every product."""
    layers: list[dict[str, Product]] = []
    for index, layer in enumerate(candidates.layers):
        kept = {name: levels[index, name] for name in PRODUCTS}
        layers.append({name: layer[name][level] for name, level in kept.items() if level != FLOAT32})
    return Plan(layers)


def mean_cost(candidates: Candidates, levels: Mapping[Name, int]) -> float:
    """Mean cost of the products, weighted by their size; 1.0 is the cost with one term for all."""
    sizes = _sizes(candidates)
    return sum(COSTS[level] * sizes[name] for name, level in levels.items()) / sum(sizes.values())


def _sizes(candidates: Candidates) -> dict[Name, int]:
    """Number of weights of every product."""
    layers = enumerate(candidates.layers)
    return {(index, name): layer[name][1].weight.size for index, layer in layers for name in PRODUCTS}


def _steps(candidates: Candidates, name: Name, level: int) -> Iterator[Step]:
    """The steps of a product to each higher level."""
    for higher in LEVELS[LEVELS.index(level) + 1 :]:
        yield Step(residual_error(candidates, *name, level) - residual_error(candidates, *name, higher), name, higher)
