"""The format of an output: from the option, else from the file's suffix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from abonyx.errors import ConfigError, first_line
from abonyx.wording import option

ScoreKind = Literal["csv", "tsv", "csv.gz", "tsv.gz", "jsonl", "parquet"]
SCORE_KINDS: tuple[ScoreKind, ...] = get_args(ScoreKind)


def score_kind(output: Path | None, kind: str | None) -> ScoreKind:
    """The format of a file of scores. A file whose name ends with .gz is always compressed.

    Args:
        output: the file; None = standard output.
        kind: value of the option `format`; None = not given.

    Raises:
        ConfigError: the format is unknown, or cannot be compressed but the name ends with .gz; or no format is given,
            and the suffix is unknown.
    """
    if kind is None:
        kind = "csv" if output is None else named_kind(output, SCORE_KINDS, f" or {option('format')}")
    if output is not None and output.suffix.lower() == ".gz" and kind in SCORE_KINDS and not kind.endswith(".gz"):
        if f"{kind}.gz" not in SCORE_KINDS:
            what = f"{option('format')} is {kind} and the output is {output}: {kind} cannot be compressed with gzip"
            raise ConfigError(what, "Leave .gz out of the name.")
        kind = f"{kind}.gz"
    if kind not in SCORE_KINDS:
        raise ConfigError(f"{option('format')} is {first_line(repr(kind))}", f"Give one of {', '.join(SCORE_KINDS)}.")
    return kind


def named_kind(output: Path, kinds: Sequence[str], other: str = "") -> str:
    """The format by the suffix of the output. Raises a ConfigError if it is unknown; `other` is added to its advice."""
    for kind in sorted(kinds, key=len, reverse=True):
        if output.name.lower().endswith(f".{kind}"):
            return kind
    suffixes = ", ".join(f".{kind}" for kind in kinds)
    what = f"output {output}: the suffix {output.suffix or '(none)'} is not a known format"
    raise ConfigError(what, f"Use {suffixes}{other}.")
