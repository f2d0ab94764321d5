"""Records that are not a protein: refused before anything numbers or scores them."""

from __future__ import annotations

NUCLEOTIDES = "ACGTUN"
# A shorter text of these six letters can be a peptide.
NUCLEOTIDES_FROM = 20
# The columns of an AIRR table that hold the protein; its column `sequence` holds the DNA.
PROTEIN_COLUMNS = ("sequence_aa", "sequence_alignment_aa")
# Words that mark a missing value in tables. The letters of "NA" and "NAN" are also residue letters.
MISSING = frozenset({"NA", "NAN", "N/A", "#N/A", "<NA>", "NONE", "NULL", "-"})
# Low complexity, from 30 letters on: fewer than 8 different letters, or one letter that makes up half of the sequence.
# The domains of the public sets (Boughter, Jain, Shehata, Harvey, the repertoire, light chains) have at least 16
# different letters and none above 35 %; any 30 residues of them, X aside, have at least 8 different letters.
COMPLEXITY_FROM = 30
MIN_LETTERS = 8


def refusal(sequence: str) -> str | None:
    """Why a cleaned, upper-case sequence is not scored at all, or None.

    Only the composition of the text is tested. alphabet.problem tests the length, and refuses letters that are not
    residues.
    """
    if not sequence:
        return "empty sequence"
    if sequence in MISSING:
        return f"the sequence is missing: {sequence!r}"
    nucleotides = len(sequence) >= NUCLEOTIDES_FROM and not sequence.strip(NUCLEOTIDES)
    if nucleotides and len(set(sequence)) > 1:
        return (
            f"looks like DNA or RNA: {len(sequence)} letters, all of {NUCLEOTIDES}. Give the amino acids; "
            f"AIRR tables have them in the column {' or '.join(PROTEIN_COLUMNS)}"
        )
    unknown = sequence.count("X")
    if 2 * unknown > len(sequence):
        return f"{unknown} of {len(sequence)} residues are unknown (X), more than half"
    # Other text contains characters that are not letters. alphabet.problem names the first of them.
    letters = len(sequence) >= COMPLEXITY_FROM and sequence.isascii() and sequence.isalpha()
    return _low_complexity(sequence) if letters or nucleotides else None


def _low_complexity(sequence: str) -> str | None:
    letters = set(sequence)
    letters.discard("X")
    if len(letters) < MIN_LETTERS:
        different = f"{len(letters)} different letter{'s' * (len(letters) > 1)}"
        return f"low complexity: {different} in {len(sequence)} residues, a protein domain has at least {MIN_LETTERS}"
    half = len(sequence) / 2
    for letter in sorted(letters):
        if (count := sequence.count(letter)) >= half:
            return f"low complexity: {letter} makes up {count} of {len(sequence)} residues, half or more"
    return None
