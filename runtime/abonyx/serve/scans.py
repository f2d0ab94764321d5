"""What /v1/scan takes and answers: all single mutants of one parent, beside charge. It recommends none."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal, NamedTuple

import msgspec

from abonyx.arrays import Float64Array
from abonyx.domain import Check, DomainRule, Judgement
from abonyx.errors import InputTooLarge, printable
from abonyx.explain.places import Place
from abonyx.explain.scan import ScanOptions, ScanPlan, plan_scan, scan_of_totals, scan_options
from abonyx.explain.scan_mutants import Mutant
from abonyx.explain.scan_result import HeadScan, refuse_ranks
from abonyx.input.checked import Input
from abonyx.input.sequences import Gaps
from abonyx.serve.answers import Answered, HeadsRequest, ModelName, Sequence, Trim
from abonyx.serve.bodies import model_name
from abonyx.serve.requests import NAME, Step, check_json, not_decoded
from abonyx.serve.scheduler import Model
from abonyx.serve.settings import Settings
from abonyx.wording import option

# Of a body beside its sequence: names and options take a few kilobytes, and what is longer is not decoded.
_BODY_BYTES = 1 << 16


class ScanRequest(Sequence, frozen=True, kw_only=True):
    """One parent, whose single mutants are scored, and which of them.

    Attributes:
        id: of the parent.
        heavy, light: in place of `sequence`. The one that the heads score is scanned.
        positions: cdr, framework, all, or IMGT positions and ranges, as "27,57,105-117" or a list of them.
        exclude: residues that no mutant is to have, as "C,M" or a list of them.
        heads: names of the model's heads that score one chain, or "all"; null = the first.
        domain: check and require refuse a parent that the heads were not trained on, and flag mutants; off does not
            look.
        trim: domain = scan only the variable domain of a longer record; null = all of it.
        gaps: strip takes out gaps (- and .) and a final *, refuse makes a bad record of one that has them.
        rank: with columns charge_stratum and NAME_rank: orders within equal charge, which recommend nothing either.
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
        """The parent as a request of its own."""
        parent = Sequence(id=self.id, sequence=self.sequence, heavy=self.heavy, light=self.light)
        return HeadsRequest(sequences=[parent], heads=self.heads, domain=self.domain, trim=self.trim, gaps=self.gaps)


class ScanParent(Answered, frozen=True, kw_only=True):
    """The parent.

    Attributes:
        sequence: what was scanned of it; positions count in this.
        chain: H, K or L; null without a single domain.
        flag: as of a score; "" = nothing is wrong.
        domain: with trim alone: the residues that were scanned, FIRST-LAST from 1; "" = no domain to trim to.
        net_charge: of all of `sequence` at pH 7.4, in elementary charges; pI: its isoelectric point.
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
        r2: the share of the changes' variance that it explains.
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
        column: of the mutants' scores; their changes are in NAME_change and NAME_without_charge.
        parent: score of the parent.
        charge: what the change of charge explains; null if the mutants hardly differ in charge.
        words: the same in a sentence.
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
        statement: how far the order of mutants can be trusted.
        notes: the statement, what charge explains, and of what the repertoire is.
        positions, exclude: what was scanned; exclude is letters without commas.
        mutants: how many.
        columns: name -> list with a cell for each mutant, in the order of positions, then of residues: the columns of
            scan.csv but for id, as docs/scan.md describes them; null is an empty cell.
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


class PlannedScan(NamedTuple):
    """A scan before its scores.

    Attributes:
        asked: the request; id, place: of the parent; place is "" without trim.
        where: the place of each residue of the parent.
        scored: the parent and its mutants, as they are queued.
        judgements: of the mutants; None if the domain is not looked for.
    """

    asked: ScanRequest
    options: ScanOptions
    plan: ScanPlan
    id: str
    place: str
    where: list[Place]
    mutants: list[Mutant]
    scored: Input
    judgements: list[Judgement] | None


def plan_scan_request(body: bytes, model: Model, settings: Settings, step: Step) -> PlannedScan:
    """What a request asks to be scored.

    Args:
        step: called between mutants; may raise to end the planning.

    Raises:
        InputTooLarge: more mutants than max_scan_mutants, or more than one request may have of sequences or residues.
        InputError: not a ScanRequest; a parent that cannot be scored, or is flagged.
        ConfigError: as explain.scan.scan.
    """
    asked = _decode(body, settings)
    options = scan_options(model.bundle, model.config, asked.heads, asked.positions, asked.exclude, asked.domain)
    checked = check_json(asked.record, model, settings, step)
    (id_,), (sequence,), (judgement,) = checked.ids, checked.sequences, checked.judgements
    judged = None if asked.domain == "off" else judgement
    fix = f"{option('trim')} domain cuts off what lies outside the domain."
    plan = plan_scan(sequence, options, printable(id_), judged, fix=fix)
    if asked.rank:
        refuse_ranks(plan.judgement.chain, plan.in_cdrs, plan.name)
    _refuse_many(plan, settings)
    where, mutants = plan.make_mutants(options)
    changed = [mutant.of(sequence) for mutant in mutants]
    judgements = None
    if asked.domain != "off":
        judgements = []
        for each in DomainRule(asked.domain, chains=options.letters).judgements(changed):
            step()
            judgements.append(each)
    place = checked.places[0] if asked.trim else ""
    scored = Input(plan.names(mutants), [sequence, *changed])
    return PlannedScan(asked, options, plan, id_, place, where, mutants, scored, judgements)


def _decode(body: bytes, settings: Settings) -> ScanRequest:
    most = settings.max_sequence_chars + _BODY_BYTES
    if len(body) > most:
        what = f"{NAME}: {len(body)} bytes; a scan has one parent, and {most} bytes are the most of it"
        raise InputTooLarge(what, "Send one record, and its options.")
    try:
        return msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8), type=ScanRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_decoded(error, ScanRequest, '{"sequence": "...", "positions": "cdr"}') from error


def _refuse_many(plan: ScanPlan, settings: Settings) -> None:
    """Refuse, by an InputTooLarge, more than a request may have; the parent is scored, too."""
    count = plan.n_mutants
    for found, unit, limit in (
        (count, "mutants", "max_scan_mutants"),
        (count + 1, "sequences with their parent", "max_sequences"),
        ((count + 1) * len(plan.sequence), "residues", "max_residues_per_request"),
    ):
        most = getattr(settings, limit)
        if found > most:
            fix = f"Choose fewer {option('positions')}, or name residues to {option('exclude')}."
            raise InputTooLarge(f"{plan.name}: the scan has {found} {unit}; {limit} is {most}", fix)


def scan_answer(model: Model, planned: PlannedScan, totals: Float64Array, step: Step) -> bytes:
    """POST /v1/scan, a ScanAnswer as JSON.

    Args:
        totals: (1 + mutants, heads), finite.
    """
    asked, options, plan = planned.asked, planned.options, planned.plan
    found = scan_of_totals(plan, options, planned.where, planned.mutants, totals, planned.judgements)
    step()
    answer = ScanAnswer(
        model=model_name(model),
        statement=found.statement,
        notes=list(found.notes),
        parent=ScanParent(
            id=planned.id,
            sequence=plan.sequence,
            chain=found.chain,
            flag="" if planned.judgements is None else plan.judgement.text,
            domain=planned.place if asked.trim else msgspec.UNSET,
            net_charge=round(found.charge, 4) + 0.0,  # no -0.0
            pI=round(found.pi, 4),
        ),
        heads=[_head(each) for each in found.heads],
        positions=options.positions,
        exclude=options.excluded,
        domain=asked.domain,
        trim=asked.trim,
        mutants=len(found.mutants),
        columns={name: list(cells) for name, cells in found.table(rank=asked.rank).items()},
    )
    return msgspec.json.encode(answer)


def _head(scan: HeadScan) -> ScannedHead:
    head, line = scan.head, scan.fit
    return ScannedHead(
        name=head.name,
        kind=head.kind,
        unit=head.unit,
        higher_is_worse=head.higher_is_worse,
        sd=head.sd,
        column=head.score_column,
        parent=scan.parent,
        charge=None if line is None else ChargeLine(slope=line.slope, intercept=line.intercept, r2=line.r2, n=line.n),
        words=scan.sentence(),
    )
