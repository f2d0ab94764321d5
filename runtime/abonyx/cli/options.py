"""The options that several commands share, and the run that they describe."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from abonyx.errors import ConfigError, printable
from abonyx.extras import require
from abonyx.logs import LOGGER
from abonyx.wording import Interface

if TYPE_CHECKING:
    from abonyx.run.request import RunRequest

PATH = click.Path(path_type=Path)
# A directory or a name on the hub. The type is str, because a Path would change the name.
BUNDLE = click.Path(path_type=str)
BUNDLE_HELP = "Bundle: a directory, or hf:ORG/NAME@REVISION.  [default: mini, which ships with abonyx]"
BUNDLE_OUTPUT_HELP = "Bundle directory to create; must not exist."
HEADS_HELP = "Heads to use; each has its own columns in the output.  [default: the first]"
PROVIDER_HELP = "Provider that runs the model: cpu, cuda, coreml or openvino; no other is tried.  [default: cpu]"
VALIDATED_HELP = (
    "The metrics.json that `evaluate --by COLUMN` wrote for this bundle. "
    'Scans then show its figure instead of "has not been validated".'
)
VARIANT_HELP = "Variant of the bundle.  [default: the bundle's choice for the provider]"
CONFIG_HELP = "TOML file of settings; see configs/."
PATH_OR_DASH = click.Path(path_type=Path, allow_dash=True)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class ObjectUri(str):
    """A URI of an object store, as typed. A Path would turn // into /."""

    __slots__ = ()


class _PathOrUri(click.Path):
    """A path, -, or an ObjectUri."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and _URI.match(value):
            return ObjectUri(value)
        return super().convert(value, param, ctx)


PATH_OR_URI = _PathOrUri(path_type=Path, allow_dash=True)
SOURCE = click.argument("source", metavar="INPUT", type=PATH_OR_DASH)
RESTART = click.option("--restart", is_flag=True, help="Discard what an interrupted run left, and start again.")
SUMMARY = click.option(
    "--summary",
    metavar="FILE",
    type=PATH_OR_DASH,
    help="Also write the figures of the run's summary to FILE, as JSON; see docs/runs.md.",
)
KEEP = click.option(
    "--keep",
    metavar="COLUMN,...|all",
    help="Columns of INPUT to copy to the output. For FASTA, the column is description.",
)
ASSAY = click.option("--assay", help="Use the threshold that the head declares for this assay, e.g. elisa, psr.")
HEADS = click.option(
    "--heads",
    metavar="NAME,...|all",
    help=HEADS_HELP,
)
THRESHOLD = click.option("--threshold", type=float, help="A record is non-specific if its p is strictly above this.")


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose the bundle, how it runs, and how the input is read. `prepare` takes their values."""
    options = [
        click.option("--bundle", type=BUNDLE, help=BUNDLE_HELP),
        click.option("--provider", help=PROVIDER_HELP),
        click.option("--variant", help=VARIANT_HELP),
        click.option("--config", "config_file", type=PATH, help=CONFIG_HELP),
        click.option(
            "--pooling",
            help="How the embedding is averaged: residues, or upstream-batch (as in the old pipeline; see "
            "docs/migrating.md).  [default: residues]",
        ),
        click.option(
            "--batch-size", type=int, help="Batch size that the old pipeline used; only with --pooling upstream-batch."
        ),
        click.option("--id-column", help="Column of the ids.  [default: id, name, ...; else the record's number]"),
        click.option(
            "--sequence-column",
            help="Column of the sequences. For an alignment with one position per column: FIRST:LAST column.  "
            "[default: sequence, VH, ...]",
        ),
        click.option("--heavy-column", help="Column of the heavy chains of pairs.  [default: heavy, VH, ...]"),
        click.option("--light-column", help="Column of the light chains of pairs.  [default: light, VL, ...]"),
        click.option("--sheet", help="Sheet of an Excel workbook; needed if several sheets have cells."),
        click.option(
            "--gaps",
            type=click.Choice(["refuse", "strip"]),
            default="refuse",
            show_default=True,
            help="Characters - and . and a final * in sequences. refuse: they are errors; strip: remove them.",
        ),
        click.option(
            "--on-invalid",
            type=click.Choice(["fail", "skip"]),
            default="fail",
            show_default=True,
            help="Records that cannot be scored. fail: they are an error; skip: list them in a file beside the output.",
        ),
        click.option(
            "--domain",
            type=click.Choice(["check", "require", "off"]),
            default="check",
            show_default=True,
            help="Records unlike the head's training set. check: flag them; require: reject them; off: do not "
            "check for them.",
        ),
        click.option("--trim", type=click.Choice(["domain"]), help="Score only the variable domain of each sequence."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def run_options_beside_bundle(command: Callable[..., None]) -> Callable[..., None]:
    """As run_options, for a command with the argument BUNDLE. Its help does not show --bundle, which is refused."""
    command = run_options(command)
    for parameter in command.__click_params__:  # type: ignore[attr-defined]
        if parameter.name == "bundle":
            parameter.hidden = True
    return command


def names_of(option: str, text: str | None) -> tuple[str, ...] | None:
    """The names in the value of --keep, --with or --heads; None if the option is not given."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if "" in names:
        raise ConfigError(
            f"--{option} {printable(text)!r}: a name is empty", "Give names with commas between them: A,B."
        )
    return names


def can_draw(what: str) -> bool:
    """Whether matplotlib is installed. If not, log that there will be no pictures, and how to install it.

    Args:
        what: the feature that needs it, a key of the table in extras.py.
    """
    try:
        require(what)
    except ConfigError as error:
        reason, fix = error.worded(Interface.COMMAND_LINE)
        LOGGER.info(f"note: pictures are left out: {reason}. The tables do not need it. {fix}")
        return False
    return True


def prepare(options: dict[str, Any]) -> RunRequest:
    """The run that the values of run_options describe. Raises as run.request.prepare does."""
    from abonyx.run import request

    flags = dict(options)
    return request.prepare(
        config_file=flags.pop("config_file"),
        id_column=flags.pop("id_column"),
        sequence_column=flags.pop("sequence_column"),
        heavy_column=flags.pop("heavy_column", None),
        light_column=flags.pop("light_column", None),
        sheet=flags.pop("sheet"),
        gaps=flags.pop("gaps"),
        skip=flags.pop("on_invalid") == "skip",
        check=flags.pop("domain"),
        trim=flags.pop("trim") == "domain",
        keep=names_of("keep", flags.pop("keep", None)) or (),
        with_columns=names_of("with", flags.pop("with_columns", None)),
        flags={key: str(value) if isinstance(value, Path) else value for key, value in flags.items()},
    )


def prepare_with(bundle: str, options: dict[str, Any]) -> RunRequest:
    """Prepare the run of a command that takes its bundle as the argument BUNDLE.

    Raises:
        ConfigError: the user also gave --bundle; or see `prepare`.
    """
    if options["bundle"] is not None:
        raise ConfigError(f"--bundle {options['bundle']}: BUNDLE {bundle} is given too", "Leave --bundle out.")
    return prepare(options | {"bundle": bundle})
