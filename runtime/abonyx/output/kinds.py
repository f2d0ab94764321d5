"""Which format an output has: by the option, else by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from abonyx.errors import ConfigError, first_line
from abonyx.wording import option

ScoreKind = Literal["csv", "tsv", "csv.gz", "tsv.gz", "jsonl", "parquet"]
SCORE_KINDS: tuple[ScoreKind, ...] = get_args(ScoreKind)


def score_kind(output: Path | None, kind: str | None) -> ScoreKind:
    """The format of a file of scores; a file called .gz is compressed, whatever the option says.

    Args:
        output: None = standard output.
        kind: the option `format`; None = not given.

    Raises:
        ConfigError: an unknown format, one that is not compressed for a file called .gz, or a name that says none.
    """
    if kind is None:
        kind = "csv" if output is None else named_kind(output, SCORE_KINDS, f" or {option('format')}")
    if output is not None and output.suffix.lower() == ".gz" and kind in SCORE_KINDS and not kind.endswith(".gz"):
        if f"{kind}.gz" not in SCORE_KINDS:
            what = f"{option('format')} {kind} and output {output}: {kind} is not compressed"
            raise ConfigError(what, "Leave out .gz.")
        kind = f"{kind}.gz"
    if kind not in SCORE_KINDS:
        raise ConfigError(f"{option('format')} is {first_line(repr(kind))}", f"Give one of {', '.join(SCORE_KINDS)}.")
    return kind


def named_kind(output: Path, kinds: Sequence[str], other: str = "") -> str:
    """The format that the output's suffix names. Raises ConfigError; `other` is what else the user can do."""
    for kind in sorted(kinds, key=len, reverse=True):
        if output.name.lower().endswith(f".{kind}"):
            return kind
    suffixes = ", ".join(f".{kind}" for kind in kinds)
    raise ConfigError(f"output {output}: suffix {output.suffix or '(none)'} names no format", f"Use {suffixes}{other}.")
