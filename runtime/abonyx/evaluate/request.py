"""What an evaluation is asked to do, and checks before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from abonyx.bundle.bundle import Bundle
from abonyx.bundle.manifest import HeadSpec
from abonyx.errors import ConfigError, printable
from abonyx.output.directory import check_directory
from abonyx.output.files import input_stem
from abonyx.wording import option


@dataclass(frozen=True)
class EvaluationRequest:
    """What the command was asked, except the options of every run, which are in RunRequest.

    Attributes:
        output: directory to create.
        label_column: column of classes, or of measured values if the head gives values.
        head: name of the head to evaluate; None = the bundle's first. assay and threshold are those of this head.
        bootstrap, seed: how many resamples the intervals have, and their seed.
        stability: score changed sequences, too, and say how many calls flip, or how far values move.
        by: column that names the parent of a variant; only variants of one parent are compared. None = not compared.
        command: as it was typed, for the report; None if a program called.
    """

    sources: tuple[Path, ...]
    output: Path
    label_column: str
    assay: str | None
    threshold: float | None
    bootstrap: int
    seed: int
    head: str | None = None
    stability: bool = False
    by: str | None = None
    command: str | None = None


def check_request(request: EvaluationRequest) -> None:
    """Check what can be checked before anything is read.

    Raises:
        ConfigError: an output that cannot be created, or two inputs with the same place in the output.
    """
    output = request.output
    if Path("-") in request.sources:
        raise ConfigError(
            "evaluate -: standard input cannot be evaluated", "Give a file: its name and hash are recorded."
        )
    check_directory(output)
    seen: dict[str, Path] = {}
    for source in request.sources:
        key = input_stem(source).casefold()  # some file systems take A and a as the same name
        if key in seen:
            what = f"{seen[key]} and {source}: both would be written to {output / input_stem(source)}"
            raise ConfigError(what, "Rename one of them, or evaluate it separately.")
        seen[key] = source


def choose_head(request: EvaluationRequest, bundle: Bundle) -> HeadSpec:
    """The head to evaluate.

    Raises:
        BundleError: the bundle has no head yet.
        ConfigError: a head that the bundle does not have, or stability of a head that scores both chains.
    """
    bundle.refuse_placeholder()
    heads = {head.name: head for head in bundle.manifest.heads}
    if request.head is not None and request.head not in heads:
        what = f"{option('head')}: {bundle.name} has no head {printable(request.head)!r}"
        raise ConfigError(what, f"It has: {', '.join(heads)}.")
    head = bundle.manifest.head if request.head is None else heads[request.head]
    if request.stability and len(head.chains) > 1:
        what = f"{option('stability')}: head {head.name} expects both chains of a record"
        raise ConfigError(what, f"Leave {option('stability')} out: it changes records of one sequence only.")
    return head
