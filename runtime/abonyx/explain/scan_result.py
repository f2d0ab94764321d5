"""What a scan found: arrays with a value for each mutant, and the same as columns of a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from abonyx.arrays import BoolArray, Float32Array, Float64Array
from abonyx.bundle.chosen import P
from abonyx.bundle.manifest import LOGISTIC
from abonyx.domain import Judgement
from abonyx.errors import ConfigError
from abonyx.explain.places import CDRS, Place
from abonyx.explain.repertoire import SEEN, repertoire
from abonyx.explain.scan_charge import ChargeFit
from abonyx.explain.scan_mutants import AMINO_ACIDS, Mutant, makes_glycosylation_motif, unpairs_cysteine
from abonyx.explain.validated import Validated
from abonyx.wording import option

NOT_VALIDATED = "Ranking of mutants at equal charge has not been validated for this bundle."
HEAVY = "H"
Cells = list[str] | list[int] | list[float] | list[float | None] | list[int | None] | list[str | None]


class ScoredHead(NamedTuple):
    """One of the bundle's heads.

    Attributes:
        name: as the bundle has it.
        kind: as the bundle has it.
        unit: as the bundle has it; None for a probability.
        higher_is_worse: as the bundle has it.
        sd: standard deviation of a linear head's training values; None for a probability.
        first: whether it is the bundle's first head.
    """

    name: str
    kind: str
    unit: str | None
    higher_is_worse: bool
    sd: float | None
    first: bool

    @property
    def score_column(self) -> str:
        """The name of the column of its scores, the same as in results of `abonyx score`."""
        if self.kind != LOGISTIC:
            return f"{self.name}_value"
        return P if self.first else f"{self.name}_p"

    @property
    def change_unit(self) -> str:
        """The unit of its changes."""
        return self.unit or "logits"


@dataclass(frozen=True)
class HeadScan:
    """One head over a scan of n mutants.

    Attributes:
        head: the head.
        parent: its probability or value of the parent.
        change: (n,) float64, mutant minus parent: of the logit, or of a linear head's value in its unit.
        score: (n,) float32, the mutant's probability or value.
        fit: the line of the changes over those of net charge; None if the mutants hardly differ in charge.
    """

    head: ScoredHead
    parent: float
    change: Float64Array
    score: Float32Array
    fit: ChargeFit | None

    def sentence(self) -> str:
        """What charge explains of the changes."""
        name, unit = self.head.name, self.head.change_unit
        if self.fit is None:
            return f"{name}: the mutants do not differ enough in charge to separate its effect"
        slope, intercept, r2, n = self.fit
        line = f"{intercept:.3f} {'+-'[slope < 0]} {abs(slope):.3f} x change of net charge ({unit})"
        return f"{name}: over {n:,} mutants, change = {line}; charge explains {r2:.0%} of the variance"


def statement_of(validated: Validated | None, head: str) -> str:
    """How far the order of mutants by a head can be trusted."""
    return validated.sentence if validated is not None and validated.head == head else NOT_VALIDATED


def statements(validated: Validated | None, names: Sequence[str]) -> list[str]:
    """How far the order of mutants by each head can be trusted; with the heads' names, if the sentences differ."""
    heads: dict[str, list[str]] = {}
    for name in names:
        heads.setdefault(statement_of(validated, name), []).append(name)
    if len(heads) == 1:
        return list(heads)
    return [f"{', '.join(of)}: {statement}" for statement, of in heads.items()]


@dataclass(frozen=True)
class Scan:
    """The n single mutants of one parent. It recommends none: see `statement`.

    Attributes:
        sequence: the parent.
        chain: its letter; None if it has no single domain.
        places: of each of the parent's residues.
        mutants: by place, then by the new residue's letter.
        heads: the changes of each head, in the order of the request.
        charge: net charge of the parent at pH 7.4, in elementary charges.
        pi: isoelectric point of the parent.
        charge_change: (n,) float64, mutant minus parent.
        pi_change: (n,) float64, mutant minus parent.
        judgements: of the mutants, n; None if they were not judged.
        validated: what a user measured of one head's ranking at equal charge; None = nothing.
    """

    sequence: str
    chain: str | None
    places: tuple[Place, ...]
    mutants: tuple[Mutant, ...]
    heads: tuple[HeadScan, ...]
    charge: float
    pi: float
    charge_change: Float64Array
    pi_change: Float64Array
    judgements: tuple[Judgement, ...] | None
    validated: Validated | None = None

    @property
    def statement(self) -> str:
        """How far the order of mutants by the first requested head can be trusted."""
        return statement_of(self.validated, self.heads[0].head.name)

    @property
    def statements(self) -> list[str]:
        """How far the order can be trusted: one sentence, or one for each group of heads if they differ."""
        return statements(self.validated, [each.head.name for each in self.heads])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers must know, one line each."""
        known = (
            f"seen_in_repertoire: at least {SEEN:.0%} of the domains with that position have the residue there, "
            f"in {repertoire().source()}"
        )
        if self.chain != HEAVY:
            known = "seen_in_repertoire is empty: the repertoire has heavy chains only"
        return (*self.statements, *(each.sentence() for each in self.heads), known)

    def head(self, name: str | None = None) -> HeadScan:
        """One head's changes; None = the first requested head. Raises KeyError."""
        return self.heads[0] if name is None else {each.head.name: each for each in self.heads}[name]

    def without_charge(self, name: str | None = None) -> Float64Array:
        """The part (n,) of a head's changes that the change of charge does not explain; NaN without a fit."""
        head = self.head(name)
        if head.fit is None:
            return np.full(len(self.mutants), np.nan)
        return head.fit.rest(head.change, self.charge_change)

    @cached_property
    def glycosylation(self) -> BoolArray:
        """(n,) whether the mutant has a motif of N-glycosylation where the parent has none."""
        return np.array([makes_glycosylation_motif(self.sequence, mutant) for mutant in self.mutants], bool)

    @cached_property
    def unpaired_cysteine(self) -> BoolArray:
        """(n,) whether the mutant leaves a cysteine without a partner."""
        return np.array([unpairs_cysteine(self.sequence, mutant) for mutant in self.mutants], bool)

    @cached_property
    def conserved(self) -> BoolArray:
        """(n,) whether the mutant changes a conserved position: IMGT 23, 41, 89, 104 or 118."""
        return np.array([mutant.is_conserved for mutant in self.mutants], bool)

    @cached_property
    def repertoire_share(self) -> list[float | None]:
        """For each mutant, the share, 0 to 1, of human VH with that position that have the new residue there.

        None for a light chain, and at positions that fewer than 100 VH of the repertoire have.
        """
        if self.chain != HEAVY:
            return [None] * len(self.mutants)
        table = repertoire()
        return [table.share(mutant.place.imgt, mutant.residue) for mutant in self.mutants]

    @property
    def flags(self) -> list[str]:
        """Why the score of each mutant should not be trusted; "" = nothing is wrong, or it was not judged."""
        if self.judgements is None:
            return [""] * len(self.mutants)
        return [judgement.text for judgement in self.judgements]

    def strata(self) -> list[int]:
        """The change of net charge of each mutant, to the nearest elementary charge."""
        return [round(change) for change in self.charge_change.tolist()]

    def ranks(self, name: str | None = None) -> list[int | None]:
        """Ranks of mutants by a head's change, within each stratum of equal charge; 1 = first, None = not ranked.

        The lowest change comes first, or the highest if lower values are worse. Only mutants of the CDRs whose residue
        is seen in the repertoire at that position are ranked, and only if they are not flagged, change no conserved
        position, leave no cysteine unpaired and add no glycosylation motif. A rank is not a recommendation.

        Raises:
            ConfigError: the parent is not a heavy chain, or no mutant is in a CDR.
        """
        refuse_ranks(self.chain, any(mutant.place.region in CDRS for mutant in self.mutants), "the parent")
        head, flags = self.head(name), self.judgements
        order = head.change if head.head.higher_is_worse else -head.change
        members: dict[int, list[int]] = defaultdict(list)
        for at, (mutant, share, stratum) in enumerate(
            zip(self.mutants, self.repertoire_share, self.strata(), strict=True)
        ):
            seen = share is not None and share >= SEEN
            trusted = flags is None or flags[at].trusted
            liable = mutant.is_conserved or self.unpaired_cysteine[at] or self.glycosylation[at]
            if seen and trusted and mutant.place.region in CDRS and not liable:
                members[stratum].append(at)
        ranks: list[int | None] = [None] * len(self.mutants)
        for mutants in members.values():
            for rank, at in enumerate(sorted(mutants, key=lambda at: (order[at], at)), 1):
                ranks[at] = rank
        return ranks

    def grid(self, values: Float64Array) -> Float64Array:
        """Values (n,) as (20, scanned positions): a row for each of AMINO_ACIDS.

        The parent's own residues and excluded residues are NaN.
        """
        columns = {place.index: at for at, place in enumerate(self.scanned)}
        found = np.full((len(AMINO_ACIDS), len(columns)), np.nan)
        for mutant, value in zip(self.mutants, values, strict=True):
            found[AMINO_ACIDS.index(mutant.residue), columns[mutant.place.index]] = value
        return found

    @property
    def scanned(self) -> list[Place]:
        """The places that have a mutant, in their order."""
        return list(dict.fromkeys(mutant.place for mutant in self.mutants))

    def table(self, *, rank: bool = False) -> dict[str, Cells]:
        """Name -> column of n cells, as docs/scan.md describes them; None is an empty cell.

        Args:
            rank: add the columns charge_stratum, and NAME_rank for each head. Raises as ranks.
        """
        at = [mutant.place for mutant in self.mutants]
        found: dict[str, Cells] = {
            "chain": [self.chain or ""] * len(at),
            "position": [place.index + 1 for place in at],
            "imgt": [place.imgt for place in at],
            "region": [place.region for place in at],
            "wild_type": [place.residue for place in at],
            "mutant": [mutant.residue for mutant in self.mutants],
        }
        for each in self.heads:
            name = each.head.name
            found[each.head.score_column] = [float(str(value)) for value in each.score]
            found[f"{name}_change"] = [round(value, 6) for value in each.change.tolist()]
            rest = self.without_charge(name).tolist() if each.fit else [None] * len(at)
            found[f"{name}_without_charge"] = [None if value is None else round(value, 6) for value in rest]
        found["charge_change"] = [round(value, 4) + 0.0 for value in self.charge_change.tolist()]
        found["pI_change"] = [round(value, 4) + 0.0 for value in self.pi_change.tolist()]
        found["flag"] = self.flags
        found["new_glycosylation_motif"] = self.glycosylation.astype(int).tolist()
        found["unpaired_cysteine"] = self.unpaired_cysteine.astype(int).tolist()
        found["conserved_position"] = self.conserved.astype(int).tolist()
        shares = self.repertoire_share
        found["repertoire_share"] = [None if share is None else round(share, 4) for share in shares]
        found["seen_in_repertoire"] = [None if share is None else int(share >= SEEN) for share in shares]
        if rank:
            found["charge_stratum"] = self.strata()
            for each in self.heads:
                found[f"{each.head.name}_rank"] = self.ranks(each.head.name)
        return found


def refuse_ranks(chain: str | None, in_cdrs: bool, name: str) -> None:
    """Raise a ConfigError if mutants of this parent cannot be ranked."""
    if chain != HEAVY:
        what = f"{option('rank')}: {name} is not a heavy chain, and the repertoire has heavy chains only"
        raise ConfigError(what, f"Leave {option('rank')} out.")
    if not in_cdrs:
        what = f"{option('rank')}: no mutant of {name} is in a CDR, and only those are ranked"
        raise ConfigError(what, f"Leave {option('rank')} out, or scan the CDRs.")
