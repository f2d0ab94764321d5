"""The answer of /v1/scan: the single mutants of one parent, and what charge explains. It recommends no mutant."""

from __future__ import annotations

import codecs
import dataclasses
import time
from typing import NamedTuple

import msgspec

from abonyx.arrays import Float64Array
from abonyx.domain import DomainRule, Judgement
from abonyx.errors import InputTooLarge, printable
from abonyx.explain.places import Place
from abonyx.explain.scan import ScanOptions, ScanPlan, plan_scan, scan_of_totals, scan_options
from abonyx.explain.scan_mutants import Mutant
from abonyx.explain.scan_result import HeadScan, refuse_ranks
from abonyx.input.checked import Input
from abonyx.serve.bodies import model_name
from abonyx.serve.model import Model
from abonyx.serve.requests import NAME, Step, check_json, not_decoded
from abonyx.serve.scan_answers import ChargeLine, ScanAnswer, ScannedHead, ScanParent, ScanRequest
from abonyx.serve.scheduler import Scheduler
from abonyx.serve.settings import Settings
from abonyx.wording import option

# An estimate of the time can be off by some percent: a scan that may end in time is tried.
_CLEARLY = 1.25
_FEWER = f"Choose fewer {option('positions')}, or name residues to {option('exclude')}."
NO_TIME_FIX = f"{_FEWER} The command `abonyx scan` has no limit of time."
# Most bytes of a body besides its sequence: names and options take a few kilobytes. A longer body is not decoded.
_BODY_BYTES = 1 << 16


class PlannedScan(NamedTuple):
    """A scan that is not scored yet.

    Attributes:
        asked: the request.
        id: id of the parent.
        place: the residues of the parent that are scanned; "" without trim.
        where: IMGT position and region of each residue of the parent.
        scored: the parent and its mutants, as they are queued.
        judgements: judgements of the mutants; None with domain off.
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
    """The scan that a request asks for.

    Args:
        step: called between mutants; may raise to end the planning.

    Raises:
        InputTooLarge: more mutants than max_scan_mutants, or more sequences or residues than a request may have.
        InputError: not a ScanRequest; a parent that cannot be scored, or is flagged.
        ConfigError: as for explain.scan.scan.
    """
    asked = _decode(body, settings)
    options = scan_options(model.bundle, model.config, asked.heads, asked.positions, asked.exclude, asked.domain)
    options = dataclasses.replace(options, validated=model.validated)
    checked = check_json(asked.record, model, settings, step)
    (id_,), (sequence,), (judgement,) = checked.ids, checked.sequences, checked.judgements
    judged = None if asked.domain == "off" else judgement
    trim_fix = f"To cut off what lies outside the domain, use {option('trim_domain')}."
    plan = plan_scan(sequence, options, printable(id_), judged, trim_fix=trim_fix)
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
        what = f"{NAME}: {len(body)} bytes; a scan has one parent, and at most {most} bytes"
        raise InputTooLarge(what, "Send one record and its options.")
    try:
        return msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8), type=ScanRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_decoded(error, ScanRequest, '{"sequence": "...", "positions": "cdr"}') from error


def _refuse_many(plan: ScanPlan, settings: Settings) -> None:
    """Raise an InputTooLarge if the scan is over a limit of a request. The parent is scored, so it counts, too."""
    count = plan.n_mutants
    for found, unit, limit in (
        (count, "mutants", "max_scan_mutants"),
        (count + 1, "sequences with their parent", "max_sequences"),
        ((count + 1) * len(plan.sequence), "residues", "max_residues_per_request"),
    ):
        most = getattr(settings, limit)
        if found > most:
            raise InputTooLarge(f"{plan.name}: the scan has {found} {unit}; {limit} is {most}", _FEWER)


def refuse_slow(planned: PlannedScan, scheduler: Scheduler, settings: Settings, done: int, until: float) -> None:
    """Raise an InputTooLarge if the scan cannot end within the time of a request, as far as the speed is known.

    Args:
        done: number of its sequences that are scored.
        until: when the request's time ends, by time.monotonic().
    """
    sequences, most = planned.scored.sequences, settings.request_timeout_s
    left = scheduler.seconds_for(sequences[0], len(sequences) - done)  # mutants are as long as their parent
    if left is None:
        return
    seconds = most - (until - time.monotonic()) + left
    if seconds > _CLEARLY * most:
        what = f"{planned.plan.name}: the scan has {len(sequences)} sequences with their parent, which take about "
        raise InputTooLarge(f"{what}{seconds:.0f} s on this service; request_timeout_s is {most:g}", NO_TIME_FIX)


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
        statement=" ".join(found.statements),
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
