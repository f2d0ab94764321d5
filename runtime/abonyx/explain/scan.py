"""Score the single mutants of one parent, and show which part of each change charge explains. It recommends none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from abonyx import alphabet
from abonyx.arrays import Float64Array
from abonyx.bundle import Bundle
from abonyx.bundle.chosen import choose_heads
from abonyx.bundle.heads import record_chains, total_values
from abonyx.bundle.manifest import HeadSpec, chain_letters
from abonyx.card.charge import isoelectric_point, net_charge
from abonyx.config import RuntimeConfig
from abonyx.domain import Check, Judgement, judge, judge_in_children, refusal, refuse_rule, trimmed
from abonyx.errors import ConfigError, InputError
from abonyx.explain.places import CDRS, Place, places
from abonyx.explain.scan_charge import fit_charge
from abonyx.explain.scan_mutants import Mutant, count_mutants, excluded_residues, mutants_of
from abonyx.explain.scan_positions import choose_places, positions_text
from abonyx.explain.scan_result import HeadScan, Scan, ScoredHead
from abonyx.explain.validated import Validated, read_validated
from abonyx.scoring import run_totals, tokenize
from abonyx.session import model_of
from abonyx.texts import type_name
from abonyx.wording import option

if TYPE_CHECKING:
    from abonyx.model import OpenModel
    from abonyx.session import Session

OnBatch = Callable[[int], None]


@dataclass(frozen=True)
class ScanOptions:
    """What to scan, the same for every parent. Make it with scan_options.

    Attributes:
        heads: those to score with.
        first: name of the bundle's first head, whose score column does not have its name.
        letters: the chains that the heads were trained on, H, K or L.
        positions: as positions_text returns them.
        excluded: residues that are not used as replacements.
        check: "off" = neither parent nor mutants are judged.
        validated: what a user measured of a head's ranking at equal charge; None = nothing.
    """

    heads: tuple[HeadSpec, ...]
    first: str
    letters: tuple[str, ...]
    positions: str
    excluded: str
    check: Check
    validated: Validated | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The heads' names."""
        return tuple(head.name for head in self.heads)


class ScanPlan(NamedTuple):
    """What to score for one parent. Its mutants are made only when they are scored: there can be many parents.

    Attributes:
        sequence: cleaned; name: for messages.
        judgement: of the parent, flags included.
        n_mutants: how many mutants.
        in_cdrs: whether a position of a CDR is scanned.
    """

    sequence: str
    name: str
    judgement: Judgement
    n_mutants: int
    in_cdrs: bool

    def make_mutants(self, options: ScanOptions) -> tuple[list[Place], list[Mutant]]:
        """The place of every residue, and the mutants in their order."""
        where = places(self.sequence)
        return where, mutants_of(choose_places(where, options.positions, self.name), options.excluded)

    def names(self, mutants: Sequence[Mutant]) -> list[str]:
        """Names of the parent and its mutants, for messages."""
        return [self.name, *(f"{self.name} {mutant.label}" for mutant in mutants)]


def scan(
    session: Session,
    sequence: str,
    *,
    positions: str | Sequence[str | int] = "cdr",
    exclude: str | Sequence[str] = (),
    heads: Sequence[str] | str | None = None,
    domain: Check = "check",
    validated: str | Path | None = None,
    on_batch: OnBatch | None = None,
) -> Scan:
    """All single mutants of one sequence: the change of each head, of charge, and what charge does not explain.

    A scan recommends no mutant; docs/scan.md says why.

    Args:
        session: of abonyx.open_session.
        sequence: the parent: one chain, as the heads need it.
        positions: "cdr", "framework", "all", or IMGT positions, such as "27,57,105-117" or [27, 57].
        exclude: residues that are not used as replacements, such as "C,M".
        heads: names of the bundle's heads, or "all"; None = the first.
        domain: "check" refuses a parent unlike the heads' training set, and flags mutants; "off" skips this.
        validated: metrics.json of `abonyx evaluate --by COLUMN` for this bundle; its conclusion is the statement.
        on_batch: called with the number of sequences that were scored, after each batch.

    Returns:
        Arrays with a value for each mutant; `table()` has them as columns.

    Raises:
        InputError: a sequence that cannot be scored, or has a flag.
        ConfigError: positions, exclude or heads that cannot be used; upstream-batch pooling.
        BundleError, SessionClosed, SessionForked, ScoreNotFinite: as Session.score.
    """
    if not isinstance(sequence, str):
        what = f"sequence is {type_name(sequence)}, not a text"
        raise InputError(what, "Give the sequence of one chain; call scan again for another one.")
    refuse_rule(domain, None)
    model = model_of(session, optional=False)
    with model.turn():  # no reload between the plan and the scores
        options = scan_options(model.bundle, model.config, heads, positions, exclude, domain, validated)
        cleaned = alphabet.clean(sequence)
        why = refusal(cleaned) or alphabet.problem(cleaned, model.limit)
        if why:
            raise InputError(f"sequence: {why}", "Correct it; nothing was scored.")
        plan = plan_scan(cleaned, options, "sequence", trim_fix="Give the variable domain alone.")
        return run_scan(model, plan, options, on_batch)


def scan_options(
    bundle: Bundle,
    config: RuntimeConfig,
    heads: Sequence[str] | str | None,
    positions: object,
    exclude: Sequence[str] | str,
    check: Check,
    validated: str | Path | None = None,
) -> ScanOptions:
    """The options of a scan, checked before anything is scored.

    Raises:
        ConfigError: see scan. BundleError: the bundle has no head yet.
    """
    if config.batch_size is not None:
        what = f"{option('pooling')} upstream-batch: a score then depends on the other sequences of the file"
        raise ConfigError(what, f"Use {option('pooling')} residues.")
    chosen = [head.spec for head in choose_heads(bundle, heads).heads]
    single = ", ".join(head.name for head in bundle.manifest.heads if len(head.chains) == 1) or "none"
    paired = [head.name for head in chosen if len(head.chains) > 1]
    if paired:
        what = f"{option('heads')}: {', '.join(paired)} expects both chains of a record, and a scan changes one"
        raise ConfigError(what, f"Heads of {bundle.name} that score one chain: {single}.")
    if len(record_chains(chosen)) > 1:
        told = ", ".join(f"{head.name} ({head.chains[0]})" for head in chosen)
        what = f"{option('heads')} of different chains: {told}"
        raise ConfigError(what, "Scan each chain with the heads that score it.")
    letters, names = chain_letters(chosen[0].chains), [head.name for head in chosen]
    return ScanOptions(
        heads=tuple(chosen),
        first=bundle.manifest.head.name,
        letters=letters,
        positions=positions_text(positions),
        excluded=excluded_residues(exclude),
        check=check,
        validated=None if validated is None else read_validated(validated, bundle, config, names, check),
    )


def plan_scan(
    sequence: str,
    options: ScanOptions,
    name: str,
    judgement: Judgement | None = None,
    *,
    trim_fix: str = "",
    fix: str = "",
) -> ScanPlan:
    """Plan the scan of one cleaned sequence.

    Args:
        name: of the parent, for messages.
        judgement: of the sequence, made with the options' letters; None = it is judged here.
        trim_fix: how the caller's user trims the sequence to its domain; part of the error only if that would help.
        fix: what else the caller's user can do about a flag.

    Raises:
        InputError: the parent has a flag.
        ConfigError: positions that it does not have, or no mutant is left.
    """
    if judgement is None:
        (judgement,) = judge([sequence], options.letters)
    if options.check != "off" and not judgement.trusted:
        what = f"{name}: is flagged: {judgement.text}; the scores of its mutants could not be trusted"
        told = "Scan whole variable domains of the heads' chains: docs/domain.md says what a flag means."
        trim = trim_fix if _can_be_trimmed(sequence, judgement, options.letters) else ""
        raise InputError(what, " ".join(filter(None, (told, trim, fix))))
    chosen = choose_places(places(sequence), options.positions, name)
    n_mutants = count_mutants(chosen, options.excluded)
    if not n_mutants:
        what = f"{name}: {option('exclude')} {','.join(options.excluded)} leaves no mutant at {options.positions}"
        raise ConfigError(what, "Exclude fewer residues.")
    return ScanPlan(sequence, name, judgement, n_mutants, any(place.region in CDRS for place in chosen))


def _can_be_trimmed(sequence: str, judgement: Judgement, letters: Sequence[str]) -> bool:
    """Whether the sequence holds one domain of these chains and more residues beside it."""
    domain = trimmed(sequence, judgement)
    return domain is not None and judgement.chain in letters and len(domain.sequence) < len(sequence)


def run_scan(model: OpenModel, plan: ScanPlan, options: ScanOptions, on_batch: OnBatch | None = None) -> Scan:
    """Score a parent and its mutants, each distinct sequence once.

    Raises:
        ScoreNotFinite, OutOfDeviceMemory, SessionClosed: as Session.score.
    """
    where, mutants = plan.make_mutants(options)
    changed = [mutant.of(plan.sequence) for mutant in mutants]
    names, judged = plan.names(mutants), options.check != "off"
    # mutants are judged while the device scores them
    with ThreadPoolExecutor(1) as aside, model.turn():
        judging = aside.submit(judge_in_children, changed if judged else [], options.letters)
        tokens = tokenize(model.manifest, [plan.sequence, *changed])
        totals = run_totals(model, tokens, options.names, model.budget, ids=names, on_batch=on_batch)
        judgements = judging.result()
    return scan_of_totals(plan, options, where, mutants, totals, judgements if judged else None)


def scan_of_totals(
    plan: ScanPlan,
    options: ScanOptions,
    where: Sequence[Place],
    mutants: Sequence[Mutant],
    totals: Float64Array,
    judgements: Sequence[Judgement] | None,
) -> Scan:
    """The scan of a parent and its n mutants, from their scores.

    Args:
        where, mutants: of plan.make_mutants.
        totals: (1 + n, heads), of the parent and its mutants: the heads' logits or values.
        judgements: of the mutants; None = they were not judged.
    """
    sequences = [plan.sequence, *(mutant.of(plan.sequence) for mutant in mutants)]
    values = total_values(options.heads, totals)
    charge, pi = net_charge(sequences), isoelectric_point(sequences)
    charge_change = charge[1:] - charge[0]
    scored = []
    for at, head in enumerate(options.heads):
        change = totals[1:, at] - totals[0, at]
        first = head.name == options.first
        known = ScoredHead(head.name, head.kind, head.unit, head.higher_is_worse, head.training_sd, first)
        fit = fit_charge(change, charge_change)
        scored.append(HeadScan(known, float(str(values[0, at])), change, values[1:, at], fit))
    return Scan(
        sequence=plan.sequence,
        chain=plan.judgement.chain,
        places=tuple(where),
        mutants=tuple(mutants),
        heads=tuple(scored),
        charge=float(charge[0]),
        pi=float(pi[0]),
        charge_change=charge_change,
        pi_change=pi[1:] - pi[0],
        judgements=None if judgements is None else tuple(judgements),
        validated=options.validated,
    )
