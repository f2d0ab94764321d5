"""What a user measured of the ranking at equal charge, from the metrics.json of `abonyx evaluate --by`.

No text of that file is shown: the sentence is made from its numbers, which are checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from abonyx.bundle import Bundle
from abonyx.config import RuntimeConfig
from abonyx.domain import Check
from abonyx.errors import ConfigError, InputError, printable
from abonyx.evaluate.equal_charge import FEWEST_ROWS, LOWEST, Figure, conclusion
from abonyx.texts import type_name
from abonyx.wording import option

_FIX = "Give the metrics.json that `abonyx evaluate --by COLUMN` of this version wrote for this bundle."
_LABEL_LENGTH = 12

Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0)]
Agreement = Annotated[float, msgspec.Meta(ge=-1.0, le=1.0)]


class Validated(NamedTuple):
    """A head, and the sentence that its scans have."""

    head: str
    sentence: str


class _Found(msgspec.Struct):
    value: Agreement | None
    low: Agreement | None
    high: Agreement | None


class _ByParent(msgspec.Struct):
    metric: Literal["ROC AUC", "Spearman"]
    rows: Count
    flagged: Count | None
    model_at_equal_charge: _Found
    concluded: bool


class _Domain(msgspec.Struct):
    trim: bool = msgspec.field(name="--trim domain")


class _Metrics(msgspec.Struct):
    bundle_sha256: Sha256
    input_sha256: Sha256
    head: str
    variant: str
    pooling: str
    domain: _Domain
    by_parent: _ByParent | None


def read_validated(
    path: str | Path, bundle: Bundle, config: RuntimeConfig, heads: Sequence[str], check: Check
) -> Validated:
    """The head that was measured, and what was found.

    Args:
        heads: names of the heads that are scanned.
        check: whether the scan looks for flags.

    Raises:
        InputError: path is neither a text nor a Path.
        ConfigError: the file is not a metrics.json of this version; it was measured without --by or without looking
            for flags; it allows no conclusion; or it is from another bundle, head or pooling.
    """
    if not isinstance(path, str | Path):
        raise InputError(f"{option('validated')} is {type_name(path)}, not a path", _FIX)
    place = f"{option('validated')} {path}"
    found = _read(Path(path), place)
    _refuse_others(found, place, bundle, config, heads)
    if found.by_parent is None:
        raise ConfigError(f"{place}: the evaluation did not compare variants of one parent", _FIX)
    by_parent, figure = found.by_parent, found.by_parent.model_at_equal_charge
    if by_parent.flagged is None and check != "off":
        what = f"{place}: the evaluation did not look for flagged rows, and this scan does"
        raise ConfigError(what, f"Evaluate with {option('domain')} check.")
    of = Figure(by_parent.metric, figure.value, figure.low, figure.high)
    told = conclusion(of, f"the {by_parent.rows:,} variants of {_file(Path(path))}") if _sound(of) else None
    if told is None or not by_parent.concluded or by_parent.rows < FEWEST_ROWS:
        raise ConfigError(f"{place}: the evaluation concludes nothing about variants at equal charge", _FIX)
    trimmed = ", on trimmed domains" if found.domain.trim else ""
    return Validated(found.head, f"{told} Measured with variant {found.variant}{trimmed}.")


def read_validated_for_any(path: str | Path, bundle: Bundle, config: RuntimeConfig) -> Validated:
    """As read_validated, for scans with any heads of the bundle that look for flags."""
    heads = [head.name for head in bundle.manifest.heads if len(head.chains) == 1]
    return read_validated(path, bundle, config, heads, "check")


def _file(path: Path) -> str:
    """The name of the file and its directory, by which a reader knows it."""
    return printable("/".join(path.absolute().parts[-2:]).removeprefix("//"))


def _read(path: Path, place: str) -> _Metrics:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{place}: cannot be read: {why}", _FIX) from error
    try:
        return msgspec.json.decode(data, type=_Metrics)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # the reason can hold text of the file; the place cannot, because unknown keys are ignored
        where = re.search(r"\$[.\w]*\Z", str(error).rstrip("`"))
        at = f", at {where[0]}" if where else ""
        raise ConfigError(f"{place}: is not the metrics.json of an evaluation by this version{at}", _FIX) from error


def _refuse_others(found: _Metrics, place: str, bundle: Bundle, config: RuntimeConfig, heads: Sequence[str]) -> None:
    """Raise a ConfigError if the figure is from another bundle, head or pooling than the scan."""
    if found.bundle_sha256 != bundle.sha256:
        what = (
            f"is of bundle {found.bundle_sha256[:_LABEL_LENGTH]}, and {bundle.name} is {bundle.sha256[:_LABEL_LENGTH]}"
        )
        raise ConfigError(f"{place}: {what}", _FIX)
    known = {head.name: head for head in bundle.manifest.heads}
    if found.head not in known or found.variant not in bundle.manifest.variants:
        raise ConfigError(f"{place}: names a head or a variant that {bundle.name} does not have", _FIX)
    if len(known[found.head].chains) > 1:
        what = f"{place}: is of head {found.head}, which scores both chains of a record; a scan changes one"
        raise ConfigError(what, "Give a file of a head that scores one chain.")
    if found.head not in heads:
        what = f"{place}: is of head {found.head}, and {', '.join(heads)} is scanned"
        raise ConfigError(what, f"Scan that head, too ({option('heads')}), or give a file of a head that is scanned.")
    if found.pooling != config.pooling:
        what = f"{place}: was not measured with pooling {config.pooling}, but mutants are scored with it"
        raise ConfigError(what, f"Evaluate with {option('pooling')} {config.pooling}.")


def _sound(figure: Figure) -> bool:
    """Whether such figures can exist."""
    numbers = [number for number in figure[1:] if number is not None]
    ordered = figure.low is None or figure.high is None or figure.low <= figure.high
    return ordered and all(number >= LOWEST[figure.metric] for number in numbers)
