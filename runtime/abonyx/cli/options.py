"""The options that score, embed, evaluate and fit share, and what they say before any model is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from abonyx.bundle import Bundle
    from abonyx.config import RuntimeConfig
    from abonyx.input.checked import Input

PATH = click.Path(path_type=Path)
PATH_OR_DASH = click.Path(path_type=Path, allow_dash=True)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose a bundle, how it runs, and how its input is read; see `prepare`."""
    options = [
        click.option("--bundle", type=PATH, help="Bundle directory.  [default: the shipped mini bundle]"),
        click.option("--provider", help="cpu, cuda, coreml or openvino: what runs, or an error.  [default: cpu]"),
        click.option("--variant", help="A variant of the bundle.  [default: the bundle's own for the provider]"),
        click.option("--config", "config_file", type=PATH, help="TOML file; see configs/."),
        click.option("--pooling", help="residues, or upstream-batch (the old pipeline's).  [default: residues]"),
        click.option("--batch-size", type=int, help="The old pipeline's batch size; with upstream-batch only."),
        click.option("--id-column", help="CSV/TSV/Parquet column.  [default: id, else the record's number]"),
        click.option(
            "--sequence-column",
            help="CSV/TSV/Parquet column, or FIRST:LAST of an alignment's columns.  [default: sequence]",
        ),
        click.option(
            "--on-invalid",
            type=click.Choice(["fail", "skip"]),
            default="fail",
            show_default=True,
            help="skip: use the rest, and list the bad records beside the output.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class RunRequest:
    """What run_options came to.

    Attributes:
        skip: leave bad records out instead of refusing the input.
        columns: id_column and sequence_column, as read_input takes them.
    """

    config: RuntimeConfig
    bundle: Bundle
    skip: bool
    columns: dict[str, str | None]

    def read(self, source: Path | None, label_column: str | None = None, *, label_required: bool = False) -> Input:
        """A checked input; None = standard input. Raises as inputs.read_input."""
        from abonyx.alphabet import SequenceLimit
        from abonyx.input.checked import read_input

        return read_input(
            source,
            SequenceLimit.of(self.bundle.manifest, self.config),
            label_column=label_column,
            label_required=label_required,
            skip_invalid=self.skip,
            **self.columns,
        )

    def metadata(self) -> dict[str, str]:
        """What a result file says of its making."""
        from abonyx import __version__

        name, variant = self.bundle.variant(self.config.provider, self.config.variant)
        return {
            "version": __version__,
            "bundle": self.bundle.manifest.name,
            "bundle_sha256": self.bundle.sha256,
            "config_sha256": self.config.sha256(),
            "provider": self.config.provider,
            "variant": name,
            "precision": "bf16" if self.config.bf16 else variant.precision,
        }


def prepare(options: dict[str, Any]) -> RunRequest:
    """Load the config and the bundle's manifest that run_options name; nothing is hashed or opened.

    Raises:
        ConfigError, BundleError: see load_config, open_bundle and Bundle.variant.
    """
    from abonyx.bundle import open_bundle
    from abonyx.config import load_config

    rest = dict(options)
    columns = {key: rest.pop(key) for key in ("id_column", "sequence_column")}
    skip = rest.pop("on_invalid") == "skip"
    config_file = rest.pop("config_file")
    flags = {key: str(value) if isinstance(value, Path) else value for key, value in rest.items()}
    config = load_config(config_file, flags=flags)
    bundle = open_bundle(config.bundle)
    bundle.variant(config.provider, config.variant)
    return RunRequest(config, bundle, skip, columns)
