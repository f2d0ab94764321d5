"""The request of an export, and the checks that run before any work."""

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
        encoder: hub id, directory or `.pt` file.
        revision: branch, tag or commit, if the encoder is a hub id.
        encoder_id: hub id, if the encoder is a local copy of a hub repository.
        heads: name and classifier file of each head, the default first; () = a placeholder that `fit` replaces.
        output: the bundle's directory; must not exist.
        variants: names from variants.VARIANTS.
        golden: file of sequences; None = the default sequences of golden.golden_sequences.
        name: the bundle's name; None = the current name of its directory, even after it is renamed.
        notice: one line shown wherever the bundle is named.
        max_residues: length of the longest accepted sequence; None = the encoder's limit.
        chains: chains of the head's training set, keys of manifest.CHAINS. Records of other chains are flagged.
        allow_encoder_mismatch: accept a head that was trained with another encoder.
        recentre_head: shift the head so that its median logit on the golden set is 0; for random weights only.
        max_dp: variant -> limit of |dp|. The limits of logit and embedding, and int8's gate, change in proportion.
        calibration: file of sequences to calibrate int8 on; None = the antibodies that ship with export.
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
    """Name and file of a head that is given as NAME=FILE or FILE; FILE alone is named DEFAULT_NAME.

    If the text before `=` is not a valid head name, the whole text is the path: give a file a=b.npz as ./a=b.npz.

    Raises:
        ConfigError: NAME is not a valid head name, and the whole text is not the path of a file.
    """
    name, equals, file = text.partition("=")
    if equals and is_head_name(name):
        return name, Path(file)
    # os.path.exists, because Path.exists raises for a name that is too long for a file.
    if equals and not os.path.exists(text):  # noqa: PTH110
        what = f"{option('head')} {printable(text)!r}: {printable(name)!r} is not a valid head name"
        raise ConfigError(f"{what}, and the whole text is not the path of a file", HEAD_NAME_RULE)
    return DEFAULT_NAME, Path(text)


def check_head_names(names: Sequence[str], argument: str = "head") -> None:
    """Refuse head names that are not valid or not unique.

    Args:
        names: names of the heads.
        argument: the option that the message names.

    Raises:
        ConfigError: a name that is not valid, or that appears more than once.
    """
    for at, name in enumerate(names):
        if not is_head_name(name):
            raise ConfigError(f"{option(argument)}: {name!r} is not a valid head name", HEAD_NAME_RULE)
        if name.lower() in (other.lower() for other in names[:at]):  # some readers of tables ignore case in columns
            what = f"{option(argument)}: two heads are called {name}: {', '.join(names)}"
            raise ConfigError(what, "Give each head a different name.")


def check_request(request: ExportRequest) -> dict[str, Limits]:
    """Refuse what can be refused before any work; returns the limits of each requested variant.

    Raises:
        ConfigError: an unknown variant, a limit out of range, or an output that cannot be created.
    """
    for name in (*request.variants, *request.max_dp):
        if name not in VARIANTS:
            raise ConfigError(f"there is no variant {name!r}", f"Give one or more of {', '.join(VARIANTS)}.")
    if len(set(request.variants)) != len(request.variants):
        what = f"{option('variants')} {', '.join(request.variants)}: a variant appears twice"
        raise ConfigError(what, "Name each variant once.")
    if not request.variants:
        raise ConfigError(f"{option('variants')} names no variant", f"Give one or more of {', '.join(VARIANTS)}.")
    if request.calibration is not None and INT8 not in request.variants:
        what = f"{option('calibration')} {request.calibration}: variants {', '.join(request.variants)} do not use it"
        raise ConfigError(what, f"Only int8 is calibrated: add int8 to {option('variants')}.")
    check_directory(request.output)
    check_head_names([name for name, _ in request.heads])
    limits = {}
    for name in request.variants:
        limits[name] = base = LIMITS[name]
        if name in request.max_dp:
            allowed = request.max_dp[name]
            if not 0 < allowed < 1:
                what = f"{option('max_dp')} {name}={allowed}: not a difference of probabilities"
                raise ConfigError(what, "Give a number above 0 and below 1.")
            scale = allowed / base.p
            logit = min(base.logit * scale, LOGIT_PER_P)  # the largest limit that a manifest allows
            limits[name] = Limits(p=allowed, logit=logit, embedding=base.embedding * scale, value=base.value * scale)
    return limits
