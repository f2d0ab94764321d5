"""The conclusion about a ranking among variants of one parent and one charge; `abonyx scan --validated` repeats it."""

from __future__ import annotations

from typing import NamedTuple

from abonyx.bundle.tolerances import NO_WIDTH

AUC, SPEARMAN = "ROC AUC", "Spearman"
CHANCE = {AUC: 0.5, SPEARMAN: 0.0}
LOWEST = {AUC: 0.0, SPEARMAN: -1.0}
# A conclusion needs this many rows for which another row has the same parent and charge but a different label. It also
# needs this many draws.
FEWEST_ROWS, FEWEST_DRAWS = 20, 200


class Figure(NamedTuple):
    """An agreement at equal charge, with its 95 % interval; None = not defined."""

    metric: str
    value: float | None
    low: float | None
    high: float | None


def conclusion(figure: Figure, variants: str) -> str | None:
    """Whether variants of one parent and one charge are ranked better than by chance; None = this is not known.

    Args:
        variants: which variants, as part of the sentence.
    """
    metric, value, low, high = figure
    if value is None or low is None or high is None or high - low < NO_WIDTH:
        return None
    chance, said = CHANCE[metric], f"({metric} {value:.3f} [{low:.3f}, {high:.3f}])"
    if low <= chance <= high:
        return f"At equal charge the model's ranking of {variants} is not distinguishable from chance {said}."
    better = "better" if low > chance else "worse"
    return f"At equal charge the model ranks {variants} {better} than chance {said}."
