"""The request and the answer of /v1/scan."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from abonyx.domain import Check
from abonyx.input.sequences import Gaps
from abonyx.serve.answers import Answered, HeadsRequest, ModelName, Sequence, Trim


class ScanRequest(Sequence, frozen=True, kw_only=True):
    """One parent, and which of its single mutants are scored.

    Attributes:
        id: id of the parent.
        heavy, light: in place of `sequence`; the chain that the heads score is scanned.
        positions: cdr, framework, all, or IMGT positions and ranges, such as "27,57,105-117", or a list of them.
        exclude: residues that are not used as replacements, such as "C,M", or a list of them.
        heads: names of the model's heads that score one chain, or "all"; null = the first.
        domain: check and require refuse a parent unlike the heads' training set, and flag mutants; off skips this.
        trim: domain = scan only the variable domain of a longer record; null = all of it.
        gaps: strip removes gaps (- and .) and a final *; with refuse, a record that has them cannot be scored.
        rank: add the columns charge_stratum and NAME_rank, an order within equal charge, which is no recommendation.
    """

    id: str = "parent"
    positions: Annotated[str, msgspec.Meta(max_length=1_000)] | list[str | int] = "cdr"
    exclude: Annotated[str, msgspec.Meta(max_length=1_000)] | list[str] = ""
    heads: Literal["all"] | list[str] | None = None
    domain: Check = "check"
    trim: Trim | None = None
    gaps: Gaps = "refuse"
    rank: bool = False

    @property
    def record(self) -> HeadsRequest:
        """The parent as a request to check."""
        parent = Sequence(id=self.id, sequence=self.sequence, heavy=self.heavy, light=self.light)
        return HeadsRequest(sequences=[parent], heads=self.heads, domain=self.domain, trim=self.trim, gaps=self.gaps)


class ScanParent(Answered, frozen=True, kw_only=True):
    """The parent.

    Attributes:
        sequence: the part that was scanned; positions refer to it.
        chain: H, K or L; null without a single domain.
        flag: as for a score; "" = nothing is wrong.
        domain: only with trim: the residues that were scanned, FIRST-LAST from 1; "" = no domain to trim to.
        net_charge: net charge of the whole `sequence` at pH 7.4, in elementary charges.
        pI: its isoelectric point.
    """

    id: str
    sequence: str
    chain: str | None
    flag: str
    domain: str | msgspec.UnsetType = msgspec.UNSET
    net_charge: float
    pI: float  # noqa: N815  # as the columns of result files are called


class ChargeLine(Answered, frozen=True, kw_only=True):
    """change = intercept + slope x change of net charge, fitted over the n mutants of this scan.

    Attributes:
        r2: the share of the variance of the changes that the line explains.
    """

    slope: float
    intercept: float
    r2: float
    n: int


class ScannedHead(Answered, frozen=True, kw_only=True):
    """One head.

    Attributes:
        kind, unit, higher_is_worse: as in HeadName. Changes are in logits, or in the unit.
        sd: standard deviation of a linear head's training values; null for a probability.
        column: the column of the mutants' scores; their changes are in NAME_change and NAME_without_charge.
        parent: the score of the parent.
        charge: what the change of charge explains; null if the mutants hardly differ in charge.
        words: what the change of charge explains, as a sentence.
    """

    name: str
    kind: str
    unit: str | None
    higher_is_worse: bool
    sd: float | None
    column: str
    parent: float
    charge: ChargeLine | None
    words: str


class ScanAnswer(Answered, frozen=True, kw_only=True):
    """Every mutant, and no recommendation.

    Attributes:
        statement: how far the order of mutants can be trusted; one sentence for each head if they differ.
        notes: the statement, what charge explains, and what the repertoire consists of.
        positions, exclude: what was scanned; exclude has letters without commas.
        mutants: number of mutants.
        columns: name -> list with a cell for each mutant, in the order of positions, then of residues. The names are
            those of scan.csv without id and statement, which docs/scan.md describes; null is an empty cell.
    """

    model: ModelName
    statement: str
    notes: list[str]
    parent: ScanParent
    heads: list[ScannedHead]
    positions: str
    exclude: str
    domain: Check
    trim: Trim | None
    mutants: int
    columns: dict[str, list[str | int | float | None]]
