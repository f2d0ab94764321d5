"""All single mutants of a parent: scores, columns of the table, and refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx import RuntimeConfig
from abonyx.bundle.tolerances import BATCH_NEIGHBOURS
from abonyx.card.charge import isoelectric_point, net_charge
from abonyx.domain import Judgement
from abonyx.errors import ConfigError, EngineError, InputError, ScoreNotFinite, SessionClosed
from abonyx.explain.scan import plan_scan, run_scan, scan_options
from abonyx.explain.scan_mutants import AMINO_ACIDS
from abonyx.explain.scan_positions import positions_text
from abonyx.explain.scan_result import NOT_VALIDATED, Scan
from abonyx.explain.validated import Validated

from ..domain.proteins import GFP, KAPPA, NANOBODY, SCFV, VH
from .conftest import KnownModel


def scan_by(model: KnownModel, positions: object = "cdr", exclude: str = "", **changed: Any) -> Scan:
    options = scan_options(model.bundle, RuntimeConfig(), None, positions, exclude, "check")
    options = dataclasses.replace(options, **changed)
    return run_scan(model, plan_scan(VH, options, "VH"), options)  # type: ignore[arg-type]


def charge_of(sequence: str) -> float:
    return float(net_charge([sequence])[0])


def test_a_head_that_is_charge_alone_has_nothing_left() -> None:
    model = KnownModel(lambda sequence: 0.4 * charge_of(sequence))
    found = scan_by(model)
    each = found.head()
    assert len(found.mutants) == 19 * 29
    assert model.scored == 1 + 19 * 29  # the parent and each mutant once
    assert each.fit is not None and each.fit.n == 19 * 29
    assert (each.fit.slope, each.fit.intercept, each.fit.r2) == pytest.approx((0.4, 0, 1), abs=1e-4)
    assert np.abs(found.without_charge()).max() < 1e-5
    assert np.allclose(each.change, 0.4 * found.charge_change, atol=1e-5)
    assert f"over {19 * 29} mutants, change = " in each.sentence() and "charge explains 100%" in each.sentence()
    assert "0.400 x change of net charge (logits)" in each.sentence()


def test_a_residues_own_effect_is_left_when_charge_is_taken_out() -> None:
    found = scan_by(KnownModel(lambda sequence: 0.4 * charge_of(sequence) + 0.5 * sequence.count("W")))
    rest = found.without_charge()
    to_w = np.array([mutant.residue == "W" for mutant in found.mutants])
    from_w = np.array([mutant.place.residue == "W" for mutant in found.mutants])
    assert rest[to_w].min() > 0.4 and rest[from_w].max() < -0.4
    assert np.abs(rest[~to_w & ~from_w]).max() < 0.1


def test_changes_are_of_the_logit_where_probabilities_no_longer_differ() -> None:
    found = scan_by(KnownModel(lambda sequence: 40 + charge_of(sequence)))
    each = found.head()
    assert each.parent == 1 and set(each.score.tolist()) == {1.0}
    assert np.abs(each.change).max() > 1.5


def test_scores_are_those_of_the_session(few: Scan) -> None:
    with abonyx.open_session() as session:
        expected = session.score([VH, *(mutant.of(VH) for mutant in few.mutants[:19])])
    assert few.head().parent == pytest.approx(expected[0], abs=BATCH_NEIGHBOURS)
    assert np.abs(few.head().score[:19] - expected[1:]).max() < BATCH_NEIGHBOURS
    p = few.head().score.astype(float)
    logits = np.log(p / (1 - p)) - np.log(few.head().parent / (1 - few.head().parent))
    assert np.abs(few.head().change - logits).max() < 1e-4


def test_the_table(few: Scan) -> None:
    table = few.table()
    assert list(table) == [
        *("chain", "position", "imgt", "region", "wild_type", "mutant"),
        *("p_nonspecific", "nonspecificity_change", "nonspecificity_without_charge", "charge_change", "pI_change"),
        *("flag", "new_glycosylation_motif", "unpaired_cysteine", "conserved_position"),
        *("repertoire_share", "seen_in_repertoire"),
    ]
    assert {len(column) for column in table.values()} == {len(few.mutants)} == {4 * 19}
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    for row, mutant in zip(rows, few.mutants, strict=True):
        assert VH[int(str(row["position"])) - 1] == row["wild_type"] == mutant.place.residue
    row = {(row["imgt"], row["mutant"]): row for row in rows}
    assert row["27", "D"]["charge_change"] == pytest.approx(-1, abs=1e-3)
    changed = VH[:25] + "D" + VH[26:]
    assert row["27", "D"]["pI_change"] == pytest.approx(np.diff(isoelectric_point([VH, changed]))[0], abs=1e-3)
    assert row["104", "S"]["conserved_position"] == row["104", "S"]["unpaired_cysteine"] == 1
    assert row["27", "C"]["unpaired_cysteine"] == 1 and row["27", "C"]["conserved_position"] == 0
    assert row["27", "D"]["seen_in_repertoire"] == 1 and row["27", "W"]["seen_in_repertoire"] == 0
    assert row["116", "N"]["new_glycosylation_motif"] == 0
    assert row["57", "N"]["new_glycosylation_motif"] == 0  # N-P-T


def test_a_mutant_is_flagged_as_a_record_is() -> None:
    found = scan_by(KnownModel(lambda sequence: 0.0), "1-10")
    alone = abonyx.judge([mutant.of(VH) for mutant in found.mutants])
    assert found.flags == [judgement.text for judgement in alone]
    off = dataclasses.replace(found, judgements=None)
    assert set(off.flags) == {""}


def test_the_grid_has_every_mutant_and_no_parent(few: Scan) -> None:
    grid = few.grid(few.head().change)
    assert grid.shape == (20, 4)
    assert np.isnan(grid).sum() == 4
    for column, place in enumerate(few.scanned):
        assert np.isnan(grid[AMINO_ACIDS.index(place.residue), column])
    assert grid[AMINO_ACIDS.index("A"), 0] == few.head().change[0]


def test_ranks_are_within_equal_charge_and_leave_out_what_nobody_should_make(few: Scan) -> None:
    ranks, strata, change = few.ranks(), few.strata(), few.head().change
    ranked = [at for at, rank in enumerate(ranks) if rank is not None]
    assert 5 < len(ranked) < 40
    for at in ranked:
        mutant, share = few.mutants[at], few.repertoire_share[at]
        assert mutant.place.region.startswith("CDR") and share is not None and share >= 0.01
    for stratum in {strata[at] for at in ranked}:
        members = sorted((ranks[at] or 0, change[at]) for at in ranked if strata[at] == stratum)
        assert [rank for rank, _ in members] == list(range(1, len(members) + 1))
        assert [value for _, value in members] == sorted(value for _, value in members)
    assert list(few.table(rank=True))[-2:] == ["charge_stratum", "nonspecificity_rank"]


def test_ranks_of_a_head_whose_lower_values_are_worse_run_the_other_way(few: Scan) -> None:
    each = few.head()
    other = dataclasses.replace(each, head=each.head._replace(higher_is_worse=False))
    turned = dataclasses.replace(few, heads=(other,))
    strata = few.strata()
    for stratum in set(strata):
        usual = [rank for rank, of in zip(few.ranks(), strata, strict=True) if of == stratum and rank]
        reverse = [rank for rank, of in zip(turned.ranks(), strata, strict=True) if of == stratum and rank]
        assert [rank + back for rank, back in zip(usual, reverse, strict=True)] == [len(usual) + 1] * len(usual)


def test_a_flagged_mutant_has_no_rank(few: Scan) -> None:
    assert few.judgements is not None
    first = few.ranks().index(1)
    flagged = list(few.judgements)
    flagged[first] = Judgement(("fragment",))
    assert dataclasses.replace(few, judgements=tuple(flagged)).ranks()[first] is None


def test_every_result_carries_the_sentence(few: Scan) -> None:
    assert (
        few.statement == NOT_VALIDATED == "Ranking of mutants at equal charge has not been validated for this bundle."
    )
    assert few.notes[0] == NOT_VALIDATED
    assert "14,375 human VH of OAS" in few.notes[-1]


def test_each_head_of_several_has_its_own_statement(few: Scan) -> None:
    (own,) = few.heads
    other = dataclasses.replace(own, head=own.head._replace(name="hic"))
    both = dataclasses.replace(few, heads=(own, other), validated=Validated("hic", "Worse than chance."))
    assert both.statement == NOT_VALIDATED
    assert both.statements == [f"{own.head.name}: {NOT_VALIDATED}", "hic: Worse than chance."]
    assert list(both.notes[:2]) == both.statements
    assert dataclasses.replace(both, validated=None).statements == [NOT_VALIDATED]


def test_excluded_residues_are_not_scored() -> None:
    model = KnownModel(lambda sequence: 0.0)
    found = scan_by(model, "27", "C,M")
    assert {mutant.residue for mutant in found.mutants} == set(AMINO_ACIDS) - set("CMG")
    assert model.scored == 18


def test_charge_that_hardly_differs_is_not_taken_out() -> None:
    found = scan_by(KnownModel(lambda sequence: 0.0), "27", "K,R,D,E")
    assert found.head().fit is None and np.isnan(found.without_charge()).all()
    assert set(found.table()["nonspecificity_without_charge"]) == {None}
    assert "do not differ enough in charge" in found.head().sentence()


def test_a_score_that_is_not_finite_names_the_mutant() -> None:
    with pytest.raises(ScoreNotFinite, match="VH G27W"):
        scan_by(KnownModel(lambda sequence: float("nan") if sequence[25] == "W" else 0.0), "27")


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (KAPPA, "is flagged: light chain (kappa)"),
        (SCFV, "is flagged: two domains"),
        (VH[:60], "is flagged: fragment"),
        (GFP, "is flagged: no antibody domain"),
        (VH[:30] + "X" + VH[31:], "is flagged: 1 unknown residue (X)"),
        (VH + "HHHHHH", "is flagged: 6 residues outside the domain"),
    ],
)
def test_a_flagged_parent_is_refused(sequence: str, message: str) -> None:
    model = KnownModel(lambda sequence: 0.0)
    options = scan_options(model.bundle, RuntimeConfig(), None, "cdr", "", "check")
    with pytest.raises(InputError) as refused:
        plan_scan(sequence, options, "parent")
    assert f"parent: {message}" in str(refused.value)


def test_a_nanobody_is_noted_and_scanned() -> None:
    options = scan_options(KnownModel(len).bundle, RuntimeConfig(), None, "cdr", "", "check")
    assert plan_scan(NANOBODY, options, "nanobody").n_mutants > 19 * 25


def test_without_judging_a_parent_needs_a_domain_for_named_positions_alone() -> None:
    options = scan_options(KnownModel(len).bundle, RuntimeConfig(), None, "all", "", "off")
    assert plan_scan(GFP, options, "GFP").n_mutants == 19 * len(GFP)
    with pytest.raises(ConfigError, match="no antibody domain"):
        plan_scan(GFP, dataclasses.replace(options, positions="cdr"), "GFP")


def test_nothing_is_left_to_scan() -> None:
    others = [residue for residue in AMINO_ACIDS if residue != "G"]
    options = scan_options(KnownModel(len).bundle, RuntimeConfig(), None, "27", others, "check")
    with pytest.raises(ConfigError, match="leaves no mutant at 27"):
        plan_scan(VH, options, "VH")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "cdr9"}, "positions: 'CDR9' is not an IMGT position"),
        ({"exclude": "Z"}, "exclude: 'Z' is not one of the 20 residues"),
        ({"heads": "hydrophobicity"}, "has no head 'hydrophobicity'"),
        ({"domain": "maybe"}, "domain is 'maybe'"),
    ],
)
def test_bad_options_are_refused_in_pythons_words(options: Any, message: str) -> None:
    with abonyx.open_session() as session, pytest.raises(ConfigError) as refused:
        abonyx.scan(session, VH, **options)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (VH[:30] + "*" + VH[31:], "sequence: character '\\*' at position 31"),
        ("", "sequence: empty sequence"),
        ((VH, KAPPA), "sequence is tuple, not a text"),
        ([VH], "sequence is list, not a text"),
    ],
)
def test_what_is_no_sequence_is_refused(sequence: Any, message: str) -> None:
    with abonyx.open_session() as session, pytest.raises(InputError, match=message):
        abonyx.scan(session, sequence)


def test_what_is_no_open_session_is_refused() -> None:
    with pytest.raises(ConfigError, match="session is 'mini'"):
        abonyx.scan("mini", VH)  # type: ignore[arg-type]
    with abonyx.open_session() as session:
        pass
    with pytest.raises(SessionClosed):
        abonyx.scan(session, VH)


def test_upstreams_batches_are_refused() -> None:
    with (
        abonyx.open_session(RuntimeConfig(pooling="upstream-batch", batch_size=8)) as session,
        pytest.raises(
            ConfigError, match="pooling upstream-batch: a score then depends on the other sequences of the file"
        ),
    ):
        abonyx.scan(session, VH)


def test_heads_of_a_bundle_with_several(heads: Path) -> None:
    with abonyx.open_session(heads) as session:
        found = abonyx.scan(session, VH, positions="27", heads=["hic", "nonspecificity"])
        values = session.score([VH, found.mutants[0].of(VH)], heads="hic")["hic"]
        light = abonyx.scan(session, KAPPA, positions="27", heads=["light"])
        with pytest.raises(ConfigError) as refused:
            abonyx.scan(session, VH, heads=["nonspecificity", "psr"])
        with pytest.raises(ConfigError, match=r"different chains: nonspecificity \(H\), light \(L\)"):
            abonyx.scan(session, VH, heads=["nonspecificity", "light"])
    assert "heads: psr expects both chains of a record, and a scan changes one" in str(refused.value)
    assert "Heads of paired that score one chain: nonspecificity, hic, light." in str(refused.value)
    hic = found.head("hic")
    assert hic.change[0] == pytest.approx(values[1] - values[0], abs=1e-5)
    assert (hic.head.unit, hic.head.sd, hic.head.score_column) == ("min", 2.0, "hic_value")
    assert {"hic_value", "hic_change", "p_nonspecific", "nonspecificity_without_charge"} <= set(found.table())
    # The repertoire is of heavy chains.
    assert light.chain == "K" and set(light.table()["seen_in_repertoire"]) == {None}
    assert light.notes[-1] == "seen_in_repertoire is empty: the repertoire has heavy chains only"
    assert light.head().head.score_column == "light_p"
    with pytest.raises(ConfigError, match="rank: the parent is not a heavy chain"):
        light.ranks()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": 5}, "exclude is int, not residues"),
        ({"validated": 5}, "validated is int, not a path"),
        ({"positions": None}, "positions is None, not positions"),
    ],
)
def test_options_of_another_type(isolated: None, options: dict[str, Any], message: str) -> None:
    with abonyx.open_session() as session, pytest.raises(EngineError, match=message):
        abonyx.scan(session, VH, **options)


def test_advice_that_python_can_follow(isolated: None) -> None:
    with pytest.raises(ConfigError) as none:
        abonyx.scan(None, VH)  # type: ignore[arg-type]
    assert "leave it out" not in str(none.value)
    with abonyx.open_session() as session, pytest.raises(InputError) as refused:
        abonyx.scan(session, VH + "HHHHHH")
    assert "Give the variable domain alone." in str(refused.value) and "skip" not in str(refused.value)


def test_blanks_in_a_range() -> None:
    assert positions_text("105 - 107, 27") == "105-107,27"
