"""The options that score, embed, evaluate and fit share, and what they say before any model is opened."""

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
# A directory or a name on the hub. click must not read the name as a path.
BUNDLE = click.Path(path_type=str)
BUNDLE_HELP = "Bundle: a directory, or hf:ORG/NAME@REVISION.  [default: mini, which ships with abonyx]"
BUNDLE_OUTPUT_HELP = "Bundle directory to create; must not exist."
HEADS_HELP = "Heads to use; each has its own columns in the output.  [default: the first]"
PROVIDER_HELP = "What runs the model: cpu, cuda, coreml or openvino; an error if it cannot.  [default: cpu]"
VALIDATED_HELP = (
    'metrics.json of `evaluate --by COLUMN` for this bundle. In scans, its figure replaces "has not been validated".'
)
VARIANT_HELP = "A variant of the bundle.  [default: the bundle's own for the provider]"
CONFIG_HELP = "TOML file of settings; see configs/."
PATH_OR_DASH = click.Path(path_type=Path, allow_dash=True)
SUMMARY = click.option(
    "--summary",
    metavar="FILE",
    type=PATH_OR_DASH,
    help="Also write the figures of the run's summary to FILE, as JSON; see docs/runs.md.",
)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class ObjectUri(str):
    """A URI of an object store, as it was typed: a Path would make one slash of two."""

    __slots__ = ()


class _PathOrUri(click.Path):
    """A path, -, or an ObjectUri."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and _URI.match(value):
            return ObjectUri(value)
        return super().convert(value, param, ctx)


PATH_OR_URI = _PathOrUri(path_type=Path, allow_dash=True)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose a bundle, how it runs, and how its input is read; see `prepare`."""
    options = [
        click.option("--bundle", type=BUNDLE, help=BUNDLE_HELP),
        click.option("--provider", help=PROVIDER_HELP),
        click.option("--variant", help=VARIANT_HELP),
        click.option("--config", "config_file", type=PATH, help=CONFIG_HELP),
        click.option(
            "--pooling",
            help="Rule for the mean embedding: residues, or upstream-batch (the old pipeline's).  [default: residues]",
        ),
        click.option(
            "--batch-size", type=int, help="The old pipeline's batch size; only with --pooling upstream-batch."
        ),
        click.option("--id-column", help="Column of the ids.  [default: id, name, ...; else the record's number]"),
        click.option(
            "--sequence-column",
            help="Column of the sequences, or FIRST:LAST of an alignment's columns.  [default: sequence, VH, ...]",
        ),
        click.option("--heavy-column", help="Column of the heavy chains of pairs.  [default: heavy, VH, ...]"),
        click.option("--light-column", help="Column of the light chains of pairs.  [default: light, VL, ...]"),
        click.option("--sheet", help="Sheet of an Excel workbook; needed if several sheets have cells."),
        click.option(
            "--gaps",
            type=click.Choice(["refuse", "strip"]),
            default="refuse",
            show_default=True,
            help="strip: remove - and . and a final * from the sequences; refuse: they are errors.",
        ),
        click.option(
            "--on-invalid",
            type=click.Choice(["fail", "skip"]),
            default="fail",
            show_default=True,
            help="fail: a bad record is an error; skip: leave it out, and list it beside the output.",
        ),
        click.option(
            "--domain",
            type=click.Choice(["check", "require", "off"]),
            default="check",
            show_default=True,
            help="Records unlike the head's training set. check: flag them; require: reject them; off: do not look.",
        ),
        click.option("--trim", type=click.Choice(["domain"]), help="Score only the variable domain of longer records."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def names_of(option: str, text: str | None) -> tuple[str, ...] | None:
    """The names of --keep, --with or --heads; None = not given."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if "" in names:
        raise ConfigError(f"--{option} {printable(text)!r}: a name is empty", "Give NAME,NAME,...")
    return names


def can_draw(what: str) -> bool:
    """Whether matplotlib is installed for `what`, a key of extras; if not, say what is left out and how to get it."""
    try:
        require(what)
    except ConfigError as error:
        reason, fix = error.worded(Interface.COMMAND_LINE)
        LOGGER.info(f"note: no pictures, the tables are complete: {reason}. For pictures: {fix}")
        return False
    return True


def prepare(options: dict[str, Any]) -> RunRequest:
    """The run that run_options describe; see run.request.prepare."""
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
    """The run of a command that takes its bundle as the argument BUNDLE.

    Raises:
        ConfigError: --bundle is given too; or see `prepare`.
    """
    if options["bundle"] is not None:
        raise ConfigError(f"--bundle {options['bundle']}: BUNDLE {bundle} is given too", "Leave --bundle out.")
    return prepare(options | {"bundle": bundle})
