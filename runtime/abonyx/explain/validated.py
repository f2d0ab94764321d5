"""What a user measured of the ranking at equal charge: read from the metrics.json of `abonyx evaluate --by`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from abonyx.bundle import Bundle
from abonyx.errors import ConfigError, first_line, printable
from abonyx.wording import option

_FIX = "Give the metrics.json that `abonyx evaluate --by COLUMN` wrote for this bundle."


class Validated(NamedTuple):
    """A head, and the sentence that its scans carry."""

    head: str
    sentence: str


class _ByParent(msgspec.Struct):
    sentence: str
    concluded: bool


class _Metrics(msgspec.Struct):
    bundle_sha256: str
    head: str
    input: str
    by_parent: _ByParent | None


def read_validated(path: Path, bundle: Bundle) -> Validated:
    """The head that was measured, and what was found.

    Raises:
        ConfigError: not such a file, measured without --by, without a conclusion, or of another bundle.
    """
    place = f"{option('validated')} {path}"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Metrics)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be read: {error.strerror}", _FIX) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: is not the metrics.json of an evaluation: {first_line(error)}", _FIX) from error
    if found.by_parent is None:
        raise ConfigError(f"{place}: the evaluation did not compare variants of one parent", _FIX)
    if not found.by_parent.concluded:
        raise ConfigError(f"{place}: the evaluation concludes nothing: {found.by_parent.sentence}", _FIX)
    if found.bundle_sha256 != bundle.sha256:
        what = f"{place}: is of bundle {found.bundle_sha256[:12]}, and {bundle.name} is {bundle.sha256[:12]}"
        raise ConfigError(what, _FIX)
    return Validated(found.head, f"{found.by_parent.sentence} Measured on {printable(found.input)}.")
