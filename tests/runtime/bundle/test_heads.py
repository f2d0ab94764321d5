"""Chains, intercept and sigmoid are applied in one place, and every column belongs to the right head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import abonyx
from abonyx.bundle import open_bundle
from abonyx.bundle.heads import chosen_values, head_total, head_value, record_chains
from abonyx.bundle.manifest import HeadSpec
from abonyx.bundle.selftest import as_pairs
from abonyx.errors import BundleError, SelfTestError

from ...conftest import MINI
from ..hostile import edit, relist
from ..several import KINDS, expected_values, make_several


def spec(**changes: Any) -> HeadSpec:
    return msgspec.structs.replace(open_bundle(MINI).manifest.head, **changes)


LINEAR = {"kind": "linear", "unit": "min", "training_sd": 2.0, "classes": [], "default_threshold": None}


def test_one_chain() -> None:
    sums = np.array([-1.0, 0.0, 2.5], np.float32)
    p = head_value(spec(intercept=0.5), sums)
    assert p.dtype == np.float32
    assert p.tolist() == [np.float32(1 / (1 + np.exp(-(each + 0.5)))) for each in sums.astype(float)]
    value = head_value(spec(intercept=0.5, **LINEAR), sums)
    assert value.dtype == np.float32 and value.tolist() == [-0.5, 0.5, 3.0]


def test_two_chains_are_added_once_with_one_intercept() -> None:
    heavy, light = np.array([1.0, 2.0], np.float32), np.array([10.0, -2.0], np.float32)
    pair = spec(intercept=0.25, chains=["H", "L"])
    assert head_total(pair, heavy, light).tolist() == [11.25, 0.25]
    assert head_value(pair, heavy, light)[1] == np.float32(1 / (1 + np.exp(-0.25)))
    assert head_value(msgspec.structs.replace(pair, **LINEAR), heavy, light).tolist() == [11.25, 0.25]
    for given in ((heavy,), (heavy, light, light)):
        with pytest.raises(ValueError, match="adds 2 chains"):
            head_total(pair, *given)


def test_the_sum_is_float64() -> None:
    # In float32 1e8 + 1 is 1e8.
    assert head_total(spec(intercept=1.0), np.array([1e8], np.float32)).tolist() == [1e8 + 1]


def test_a_saturated_logit_is_no_overflow() -> None:
    assert head_value(spec(intercept=0.0), np.array([-2e4, 2e4], np.float32)).tolist() == [0.0, 1.0]


def test_columns_are_chosen_by_name() -> None:
    heads = [spec(name=name, intercept=0.0, **LINEAR) for name in ("a", "b", "c")]
    sums = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    assert chosen_values(heads, ["c", "a"], [sums]).tolist() == [[3, 1], [6, 4]]
    for wrong in (sums[:, :2], sums[0], np.zeros((2, 4), np.float32)):
        with pytest.raises(BundleError, match="the manifest's heads have 3 columns"):
            chosen_values(heads, ["a"], [wrong])


def test_each_head_takes_the_chains_that_it_expects() -> None:
    heads = [
        spec(name=name, intercept=0.0, chains=chains, **LINEAR)
        for name, chains in (("heavy", ["H"]), ("both", ["H", "L"]), ("light", ["L"]))
    ]
    heavy, light = np.array([[1, 10, 20, 3]], np.float32), np.array([[4, 30, 50, 7]], np.float32)
    assert chosen_values(heads, ["both", "light", "heavy"], [heavy, light]).tolist() == [[60, 7, 1]]
    assert chosen_values(heads, ["light"], [light]).tolist() == [[7]]
    assert chosen_values(heads, ["heavy"], [heavy]).tolist() == [[1]]
    assert [record_chains([head]) for head in heads] == [("H",), ("H", "L"), ("L",)]
    assert record_chains([heads[2], heads[0]]) == ("H", "L")
    with pytest.raises(ValueError, match="need the chains H, L, not 1"):
        chosen_values(heads, ["both"], [heavy])


@pytest.mark.parametrize("order", [tuple(KINDS), ("elisa", "ac-sins", "nonspecificity", "psr", "hic")])
def test_every_head_has_its_own_column_in_any_order(tmp_path: Path, sequences: list[str], order: Any) -> None:
    bundle = make_several(tmp_path / "several", order)
    with abonyx.open_session(bundle, self_test="full") as session:
        expected = expected_values(bundle, session.embed(sequences))
        for names in (order, order[::-1], order[2:3]):
            found = session._model.score(sequences, names)
            for column, name in zip(found.T, names, strict=True):
                np.testing.assert_allclose(column, expected[name], rtol=2e-6, atol=2e-6)
        first = session.score(sequences)
        np.testing.assert_array_equal(first, session._model.score(sequences, [order[0]])[:, 0])
        assert set(session._model.differences) == {"embedding", "logit", "p", "value"}


def test_heads_in_another_order_than_the_graphs_are_found(tmp_path: Path) -> None:
    """If names, kinds and intercepts are exchanged together, the numbers alone would not show it."""
    bundle = make_several(tmp_path / "several", ("psr", "elisa"))
    psr, elisa = (msgspec.to_builtins(head) for head in open_bundle(bundle).manifest.heads)
    edit(bundle, heads=[psr | {"intercept": elisa["intercept"]}, elisa | {"intercept": psr["intercept"]}])
    with pytest.raises(SelfTestError, match=r"of logit of head (psr|elisa) is"):
        abonyx.open_session(bundle)
    variants = msgspec.to_builtins(open_bundle(bundle).manifest.variants)
    for variant in variants.values():
        variant["parity"]["heads"] = dict(reversed(variant["parity"]["heads"].items()))
    edit(bundle, heads=[elisa, psr], variants=variants)
    relist(bundle)
    with pytest.raises(BundleError, match=r"has heads \['psr', 'elisa'\], the manifest has \['elisa', 'psr'\]"):
        abonyx.open_session(bundle)


def test_golden_rows_make_pairs_of_different_rows() -> None:
    """Each golden row is the heavy chain of one record and the light chain of the next."""
    heavy, light = np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0])
    assert np.sum(as_pairs([heavy, light]), axis=0).tolist() == [31.0, 12.0, 23.0]
    assert as_pairs([heavy])[0].tolist() == heavy.tolist()
