"""The golden set: the token rows every variant is checked on, at export and on every machine that opens it."""

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
from abonyx.wording import option
from abonyx_export.antibodies import ANTIBODIES_NAME, shipped_antibodies

EXAMPLES_NAME = "therapeutic_vh.csv"
SEED = 20261123
# Substitutions a mutant; many of them take p far from its parent's, so that the set spreads.
SUBSTITUTIONS = (1, 2, 4, 8, 16, 32)
MUTANTS = 22
# Residues cut from a mutant's start, so that lengths differ within a batch.
MAX_TRIMMED = 24
# An scFv's VH-linker-VH length, about twice a domain: (G4S)3.
LINKER = "GGGGS" * 3
# Real antibodies, from the shortest to the longest of those that judge int8.
ANTIBODIES = 8
_STANDARD = "ACDEFGHIKLMNPQRSTVWY"


def examples_path() -> Path:
    """The example sequences: inside the installed package, else the repository's (an editable install)."""
    package = Path(__file__).resolve().parent
    packaged = package / EXAMPLES_NAME
    return packaged if packaged.is_file() else package.parents[1] / "examples" / EXAMPLES_NAME


def golden_sequences(file: Path | None, max_residues: int, letters: str = RESIDUES) -> tuple[list[str], str]:
    """The sequences and a line that says where they are from.

    Args:
        file: a FASTA, CSV or TSV file to use as it is; None = the examples, their seeded point mutants of several
            lengths (some with an X), two long ones, and ANTIBODIES of the shipped ones.
        max_residues: the bundle's limit; these are cut to it, a file that exceeds it is refused.
        letters: those of the bundle's alphabet; a file with others is refused.
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
    """The parent with so many positions drawn anew from the 20 residues."""
    letters = list(parent)
    for position in rng.choice(len(letters), size=min(substitutions, len(letters)), replace=False):
        letters[position] = _STANDARD[rng.integers(len(_STANDARD))]
    return "".join(letters)


def longest_sequence(max_residues: int) -> str:
    """The examples end to end, cut at the bundle's limit: checked at export, so that every position is.

    Not among the golden rows: a thousand tokens would slow every first open.
    """
    joined = "".join(read_input(examples_path(), SequenceLimit(10**6)).sequences)
    return (joined * (max_residues // len(joined) + 1))[:max_residues]


def check_discriminates(golden: Golden, thresholds: dict[str, float]) -> None:
    """Refuse a golden set on which a broken encoder could pass, by the first head: one that tells them apart is enough.

    Args:
        thresholds: of the first head.

    Raises:
        ParityError: rows of one length (padding untested), p not finite, p that hardly varies (a saturated head hides
            everything) or lies on one side of a threshold.
    """
    if golden.lengths.min() == golden.lengths.max():
        what = (
            f"golden set: all {len(golden.lengths)} rows have {golden.lengths[0] - 2} residues; padding goes untested"
        )
        raise ParityError(what, f"Give {option('golden')} FILE with sequences of several lengths.")
    logit = golden.value[:, 0]
    p = sigmoid(logit)
    if not np.isfinite(p).all():
        raise ParityError(
            f"golden set: PyTorch's own logit is not finite for {np.count_nonzero(~np.isfinite(p))} of {len(p)} rows",
            "The checkpoint holds NaN or overflows float32; use another.",
        )
    fix = (
        f"Give {option('golden')} FILE with sequences that this head tells apart. For a benchmark checkpoint with "
        f"random weights, {option('recentre_head')} moves the head's intercept to median logit 0."
    )
    if p.std() < GOLDEN_MIN_SD_P:
        raise ParityError(
            f"golden set: p is {p.mean():.4f} +- {p.std():.2g} over {len(p)} rows (logit {logit.mean():.1f} +- "
            f"{logit.std():.2g}); its sd must be at least {GOLDEN_MIN_SD_P}",
            fix,
        )
    for name, threshold in thresholds.items():
        above = int(is_nonspecific(p.astype(np.float32), threshold).sum())
        if above in (0, len(p)):
            raise ParityError(f"golden set: {above} of {len(p)} rows are above threshold {name} ({threshold})", fix)
