"""The golden set: token rows on which every variant is checked, at export and on each machine that opens the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from abonyx.alphabet import SequenceLimit
from abonyx.bundle import Golden
from abonyx.bundle.heads import sigmoid
from abonyx.bundle.manifest import RESIDUES, UNKNOWN
from abonyx.bundle.threshold import is_nonspecific
from abonyx.bundle.tolerances import GOLDEN_MIN_SD_P
from abonyx.errors import ParityError
from abonyx.input.checked import read_input
from abonyx.pages import shipped_folder
from abonyx.wording import option
from abonyx_export.antibodies import ANTIBODIES_NAME, shipped_antibodies

EXAMPLES_NAME = "therapeutic_vh.csv"
SEED = 20261123
# Substitutions per mutant. Many substitutions move p far from the parent's, so that the p of the set differ.
SUBSTITUTIONS = (1, 2, 4, 8, 16, 32)
MUTANTS = 22
# Largest number of residues that are cut from a mutant's start, so that lengths differ within a batch.
MAX_TRIMMED = 24
# The linker of an scFv, (G4S)3. It joins two examples to a sequence of about the length of an scFv.
LINKER = "GGGGS" * 3
# Real antibodies in the set, chosen by length among the sequences that judge int8: from the shortest to the longest.
ANTIBODIES = 8
_STANDARD = "ACDEFGHIKLMNPQRSTVWY"


def examples_path() -> Path:
    """Path of the example sequences: in the installed package, or in the repository for an editable install."""
    return shipped_folder() / "examples" / EXAMPLES_NAME


def golden_sequences(file: Path | None, max_residues: int, letters: str = RESIDUES) -> tuple[list[str], str]:
    """The golden sequences, and a line that says where they come from.

    Args:
        file: a FASTA, CSV or TSV file, used unchanged; None = the examples, point mutants of them in several lengths
            (some with an X), two long sequences, and ANTIBODIES of the shipped antibodies.
        max_residues: the bundle's limit. Default sequences are cut to it; a file with longer sequences is refused.
        letters: letters of the bundle's alphabet; a file with other letters is refused.
    """
    if file is not None:
        return read_input(file, SequenceLimit(max_residues, letters=letters)).sequences, file.name
    parents = read_input(examples_path(), SequenceLimit(10**6)).sequences
    rng = np.random.default_rng(SEED)
    mutants = []
    for index in range(MUTANTS):
        changed = list(mutant(parents[index % len(parents)], SUBSTITUTIONS[index % len(SUBSTITUTIONS)], rng))
        if index % 5 == 0 and UNKNOWN in letters:
            changed[int(rng.integers(len(changed)))] = UNKNOWN
        mutants.append("".join(changed[int(rng.integers(MAX_TRIMMED + 1)) :]))
    long = [parents[0] + LINKER + parents[1], parents[2] + LINKER + parents[3]]
    by_length = sorted(shipped_antibodies().judging, key=lambda sequence: (len(sequence), sequence))
    real = [by_length[index] for index in np.linspace(0, len(by_length) - 1, ANTIBODIES).astype(int)]
    cut = [sequence[:max_residues] for sequence in [*parents, *mutants, *long, *real]]
    made = f"{EXAMPLES_NAME}, {MUTANTS} point mutants (seed {SEED}), 2 linked pairs"
    return cut, f"{made}, {ANTIBODIES} antibodies of {ANTIBODIES_NAME}"


def mutant(parent: str, substitutions: int, rng: np.random.Generator) -> str:
    """The parent with that many positions replaced by random residues of the 20, possibly the same residue."""
    letters = list(parent)
    for position in rng.choice(len(letters), size=min(substitutions, len(letters)), replace=False):
        letters[position] = _STANDARD[rng.integers(len(_STANDARD))]
    return "".join(letters)


def longest_sequence(max_residues: int) -> str:
    """A sequence of the bundle's maximum length, made from the examples. Export uses it to check every position.

    It is not in the golden set, because a thousand tokens would slow the first opening on every machine.
    """
    joined = "".join(read_input(examples_path(), SequenceLimit(10**6)).sequences)
    return (joined * (max_residues // len(joined) + 1))[:max_residues]


def check_discriminates(golden: Golden, thresholds: dict[str, float]) -> None:
    """Refuse a golden set on which a broken encoder could pass. Only the first head is used, because one is enough.

    Args:
        golden: the golden rows.
        thresholds: name -> threshold of the first head.

    Raises:
        ParityError: all rows have the same length (padding is not tested), a p is not finite, p hardly varies (a
            saturated head hides every error), or all p are on one side of a threshold.
    """
    if golden.lengths.min() == golden.lengths.max():
        count, residues = len(golden.lengths), golden.lengths[0] - 2
        what = f"golden set: all {count} rows have {residues} residues, so that padding is not tested"
        raise ParityError(what, f"Give {option('golden')} FILE with sequences of several lengths.")
    logit = golden.value[:, 0]
    p = sigmoid(logit)
    if not np.isfinite(p).all():
        raise ParityError(
            f"golden set: PyTorch's own logit is not finite for {np.count_nonzero(~np.isfinite(p))} of {len(p)} rows",
            "The checkpoint has NaN values or overflows float32; use another checkpoint.",
        )
    fix = (
        f"Give {option('golden')} FILE with sequences that this head scores differently. For a benchmark checkpoint "
        f"with random weights, {option('recentre_head')} shifts the head so that the median logit is 0."
    )
    if p.std() < GOLDEN_MIN_SD_P:
        raise ParityError(
            f"golden set: p is {p.mean():.4f} +- {p.std():.2g} over {len(p)} rows (logit {logit.mean():.1f} +- "
            f"{logit.std():.2g}); the standard deviation of p must be at least {GOLDEN_MIN_SD_P}",
            fix,
        )
    for name, threshold in thresholds.items():
        above = int(is_nonspecific(p.astype(np.float32), threshold).sum())
        if above in (0, len(p)):
            raise ParityError(
                f"golden set: {above} of {len(p)} rows are above threshold {name} ({threshold}); some rows must be "
                "above it, and some must not",
                fix,
            )
