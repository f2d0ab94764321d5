"""Identity and clusters: cases counted by hand, every step of the levels, and folds that share no cluster."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from abonyx.card import clusters, identity
from abonyx.card.clusters import cluster_folds, cluster_rows, random_folds, sample_rows
from abonyx.card.identity import Numbered, identity_blocks, number_rows
from abonyx.domain.numbering import imgt_positions
from abonyx.errors import InputError

from .made import mutants, parents


def matrix(numbered: Numbered) -> np.ndarray:
    return np.vstack([percent for _, percent in identity_blocks(numbered)])


def changed(sequence: str, count: int) -> str:
    """The sequence with some residues of CDR1 and framework 2 replaced."""
    return (
        sequence[:40]
        + "".join("W" if letter != "W" else "F" for letter in sequence[40 : 40 + count])
        + sequence[40 + count :]
    )


def test_identity_is_over_the_union_of_occupied_positions() -> None:
    one, longer = parents()[0], parents()[7]
    first, second = imgt_positions(one), imgt_positions(longer)
    same = sum(first.get(position) == residue for position, residue in second.items())
    union = len(first.keys() | second.keys())
    assert union > max(len(first), len(second))  # the two have other insertions
    found = matrix(number_rows([[one, longer]]))
    assert found[0, 1] == found[1, 0] == pytest.approx(100 * same / union, rel=1e-6)
    assert found[0, 0] == found[1, 1] == 100


def test_x_occupies_its_position_and_equals_nothing() -> None:
    one = parents()[0]
    with_x = one[:50] + "X" + one[51:]
    positions = len(imgt_positions(one))
    found = matrix(number_rows([[one, with_x, one[:51] + "X" + one[52:]]]))
    assert found[0, 1] == pytest.approx(100 * (positions - 1) / positions, rel=1e-6)
    assert found[1, 2] == pytest.approx(100 * (positions - 2) / positions, rel=1e-6)
    assert found[1, 1] == 100  # with itself, all the same


def test_blocks_give_the_same_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    numbered = number_rows([mutants(40)])
    whole = matrix(numbered)
    monkeypatch.setattr(identity, "_BLOCK_CELLS", 40 * 7)
    assert (matrix(numbered) == whole).all()


def test_clusters_of_the_examples_and_their_mutants() -> None:
    """Rows are linked in chains at the level; mutants of one antibody always have the same cluster."""
    sequences = mutants(120)
    found = cluster_rows(number_rows([sequences]), 5)
    assert found.level.percent == 80
    assert found.note == ""
    for parent in range(12):
        assert len(set(found.of_row[parent::12])) == 1
    chain = [changed(parents()[0], count) for count in (0, 20, 40)]
    numbered = number_rows([chain])
    ends = matrix(numbered)
    assert ends[0, 1] > 80 and ends[1, 2] > 80 > ends[0, 2]
    assert cluster_rows(numbered, 1).tried[0].clusters == 1


def test_a_large_cluster_steps_the_level_up_and_says_so() -> None:
    """At 80 %, one antibody's mutants are a third of the rows; they separate at 85 %."""
    one = parents()[0]
    family = [one] + [changed(one, count) for count in (21, 42)]
    others = parents()[1:]
    numbered = number_rows([[*family, *others[:5]]])
    found = cluster_rows(numbered, 3)
    assert [level.percent for level in found.tried] == [80, 85]
    assert found.level.largest == 1
    assert "at 80 % the largest cluster holds 38 % of the rows: sequences are linked at 85 %" in found.note


def test_too_few_clusters_step_the_level_up_to_identical_sequences() -> None:
    one = parents()[0]
    rows = [changed(one, count) for count in range(1, 9)]
    found = cluster_rows(number_rows([rows + rows]), 5)
    assert [level.percent for level in found.tried] == [80, 85, 90, 100]
    assert found.level.clusters == 8
    assert (found.of_row[:8] == found.of_row[8:]).all()
    assert "at 90 % there is 1 cluster for 5 folds" in found.note
    assert found.note.endswith("the figures are too good")


def test_fewer_different_sequences_than_folds_are_refused() -> None:
    with pytest.raises(InputError, match="6 rows hold 2 different sequences"):
        cluster_rows(number_rows([parents()[:2] * 3]), 3)


def test_pairs_are_linked_only_if_both_chains_pass() -> None:
    heavy, light = (
        parents()[0],
        "DIQMTQSPSSLSASVGDRVTITCRASQDISNYLAWYQQKPGKAPKLLIYYTSKIHSGVPSRFSGSGSGTDYTFTISSLQPEDIATYYCQQGNTFPYTFGQGTKVEIK",
    )
    other = (
        "EIVLTQSPATLSLSPGERATLSCRASQSVSSYLAWYQQKPGQAPRLLIYDASNRATGIPARFSGSGSGTDFTLTISSLEPEDFAVYYCQQRSNWPLTFGGGTKVEIK"
    )
    pairs = number_rows([[heavy, changed(heavy, 5), changed(heavy, 5)], [light, light, other]])
    found = matrix(pairs)
    assert found[0, 1] > 90
    assert found[0, 2] < 80  # the light chains differ
    assert found[1, 2] == found[0, 2]


def test_rows_without_a_domain_are_linked_to_equal_ones_alone() -> None:
    nonsense = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV"
    found = cluster_rows(number_rows([[nonsense, nonsense, "M" + nonsense, parents()[0]]]), 2)
    assert found.without_domain == 3
    assert found.of_row.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("file", "column", "levels", "used"),
    [
        ("boughter/VH_only_boughter_training.csv", "sequence", (45, 307, 502), 80),
        ("paired/jain_sd02.csv", "VH", (6, 55, 134), 80),
        ("harvey/harvey_1000_labelled.csv.gz", "heavy_seq", (1, 39, 949), 90),
    ],
)
def test_clusters_of_public_sets(
    shared_data: Path, file: str, column: str, levels: tuple[int, int, int], used: int
) -> None:
    """Clusters at 70, 80 and 90 % agree with another program; and the level that ten folds use."""
    data = (shared_data / file).read_bytes()
    text = (gzip.decompress(data) if file.endswith(".gz") else data).decode()
    rows = [row[column].strip() for row in csv.DictReader(text.splitlines())]
    numbered = number_rows([[row for row in rows if row]])
    counted = [len(np.unique(labels[numbered.distinct])) for labels in clusters._linked(numbered, (70, 80, 90))]
    assert tuple(counted) == levels
    assert cluster_rows(numbered, 10).level.percent == used


def test_folds_hold_whole_clusters_and_are_balanced() -> None:
    of_row = np.repeat(np.arange(40), np.arange(40) % 7 + 1)
    fold = cluster_folds(of_row, 5, seed=0)
    for cluster in range(40):
        assert len(set(fold[of_row == cluster])) == 1
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 1
    assert (cluster_folds(of_row, 5, seed=0) == fold).all()
    assert (cluster_folds(of_row, 5, seed=1) != fold).any()


def test_random_folds_are_balanced_in_size_and_labels() -> None:
    labels = (np.arange(103) % 3 == 0).astype(float)
    fold = random_folds(labels, 5, seed=0)
    assert np.ptp(np.bincount(fold)) <= 1
    assert np.ptp(np.bincount(fold[labels == 1])) <= 1


def test_above_the_limit_a_seeded_sample_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "MAX_ROWS", 50)
    assert sample_rows(50, 0).tolist() == list(range(50))
    rows = sample_rows(200, 0)
    assert len(set(rows.tolist())) == 50 and (np.diff(rows) > 0).all()
    assert (sample_rows(200, 0) == rows).all() and (sample_rows(200, 1) != rows).any()
