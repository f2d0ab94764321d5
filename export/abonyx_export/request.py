"""What an export is asked to do, and what can be refused before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from abonyx.bundle.manifest import HEAD_NAME_RULE, is_head_name
from abonyx.bundle.tolerances import LIMITS, LOGIT_PER_P, Limits
from abonyx.errors import ConfigError, printable
from abonyx.output.directory import check_directory
from abonyx.wording import option
from abonyx_export.head.head import DEFAULT_NAME
from abonyx_export.variants import INT8, VARIANTS


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export.

    Attributes:
        encoder: hub id, directory or `.pt` file; revision: of a hub id.
        encoder_id: hub id that a directory or file is a copy of.
        heads: name and classifier file of each head, the default first; () = a placeholder, for `fit` to replace.
        output: the bundle's directory; must not exist.
        variants: names of variants.VARIANTS.
        golden: file of sequences; None = the examples and their mutants.
        name: of the bundle; None = its directory's, wherever that is moved.
        notice: one line shown wherever the bundle is named.
        max_residues: a lower limit than the encoder's.
        chains: of the head's training set, keys of manifest.CHAINS: records of others are flagged when scored.
        allow_encoder_mismatch: use a head with an encoder it does not name.
        recentre_head: move the intercept to median logit 0 on the golden set; for random weights only.
        max_dp: variant -> limit of |dp|; its limits of logit and embedding scale along, and int8's gate.
        calibration: file of sequences to calibrate int8 on; None = the antibodies that ship.
    """

    encoder: str
    output: Path
    heads: tuple[tuple[str, Path], ...] = ()
    revision: str | None = None
    encoder_id: str | None = None
    variants: tuple[str, ...] = ("fp32", "fp16")
    golden: Path | None = None
    name: str | None = None
    notice: str = ""
    licence: str | None = None
    max_residues: int | None = None
    chains: tuple[str, ...] = ("H",)
    pooled_layers: tuple[str, ...] = ("last",)
    allow_encoder_mismatch: bool = False
    recentre_head: bool = False
    max_dp: Mapping[str, float] = field(default_factory=dict)
    calibration: Path | None = None


def named_head(text: str) -> tuple[str, Path]:
    """Name and file of a head given as NAME=FILE or FILE, which is called DEFAULT_NAME.

    If no head can be called what is before `=`, all of it is a path: a file a=b.npz is given as ./a=b.npz.

    Raises:
        ConfigError: no head can be called that, and there is no such file.
    """
    name, equals, file = text.partition("=")
    if equals and is_head_name(name):
        return name, Path(file)
    # os.path's: Path's own raises for a name that is too long for a file.
    if equals and not os.path.exists(text):  # noqa: PTH110
        what = f"{option('head')} {printable(text)!r}: a head cannot be called {printable(name)!r}"
        raise ConfigError(f"{what}, and no file has the whole text as its name", HEAD_NAME_RULE)
    return DEFAULT_NAME, Path(text)


def check_head_names(names: Sequence[str], argument: str = "head") -> None:
    """Raise a ConfigError, about that argument, for a name that no head can have, or that two heads would have."""
    for at, name in enumerate(names):
        if not is_head_name(name):
            raise ConfigError(f"{option(argument)}: a head cannot be called {name!r}", HEAD_NAME_RULE)
        if name.lower() in (other.lower() for other in names[:at]):  # a table's reader may take capitals for the same
            what = f"{option(argument)}: two heads are called {name}: {', '.join(names)}"
            raise ConfigError(what, "Give each a name of its own.")


def check_request(request: ExportRequest) -> dict[str, Limits]:
    """The limits of each variant asked for; refuses what can be refused before any work.

    Raises:
        ConfigError: a variant or limit that is not one, or an output that cannot be made.
    """
    for name in (*request.variants, *request.max_dp):
        if name not in VARIANTS:
            raise ConfigError(f"no variant {name!r}", f"Known: {', '.join(VARIANTS)}.")
    if len(set(request.variants)) != len(request.variants):
        raise ConfigError(f"variants {', '.join(request.variants)}: one is named twice", "Name each once.")
    if not request.variants:
        raise ConfigError("no variant was asked for", f"Known: {', '.join(VARIANTS)}.")
    if request.calibration is not None and INT8 not in request.variants:
        what = f"{option('calibration')} {request.calibration} with variants {', '.join(request.variants)}"
        raise ConfigError(what, f"Only int8 is calibrated: add it to {option('variants')}.")
    check_directory(request.output)
    check_head_names([name for name, _ in request.heads])
    limits = {}
    for name in request.variants:
        limits[name] = base = LIMITS[name]
        if name in request.max_dp:
            allowed = request.max_dp[name]
            if not 0 < allowed < 1:
                raise ConfigError(
                    f"{option('max_dp')} {name}={allowed}", "Give a difference of probability, above 0, below 1."
                )
            scale = allowed / base.p
            logit = min(base.logit * scale, LOGIT_PER_P)  # no manifest holds more
            limits[name] = Limits(p=allowed, logit=logit, embedding=base.embedding * scale, value=base.value * scale)
    return limits
