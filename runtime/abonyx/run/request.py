"""What a run is: its config, its bundle, and how its input is read; found before any model is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from abonyx import __version__
from abonyx.alphabet import SequenceLimit
from abonyx.bundle import Bundle, open_bundle
from abonyx.config import RuntimeConfig, load_config
from abonyx.input.checked import Input, read_input
from abonyx.input.sequences import Gaps


@dataclass(frozen=True)
class RunRequest:
    """One run, whatever interface starts it.

    Attributes:
        skip: leave bad records out instead of refusing the input.
        columns: id_column, sequence_column and sheet, as read_input takes them.
        gaps: what happens to gaps and a final stop.
    """

    config: RuntimeConfig
    bundle: Bundle
    skip: bool
    columns: dict[str, str | None]
    gaps: Gaps = "refuse"

    def read(self, source: Path | None, label_column: str | None = None, *, label_required: bool = False) -> Input:
        """A checked input; None = standard input. Raises as read_input."""
        return read_input(
            source,
            SequenceLimit.of(self.bundle.manifest, self.config),
            label_column=label_column,
            label_required=label_required,
            skip_invalid=self.skip,
            gaps=self.gaps,
            **self.columns,
        )

    def metadata(self) -> dict[str, str]:
        """What a result file says of its making."""
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


def prepare(
    *,
    config_file: Path | None = None,
    flags: Mapping[str, object] | None = None,
    id_column: str | None = None,
    sequence_column: str | None = None,
    skip: bool = False,
    gaps: Gaps = "refuse",
    sheet: str | None = None,
) -> RunRequest:
    """Load the config, and the manifest of the bundle that it names; nothing is hashed or opened.

    Args:
        config_file: a TOML file.
        flags: fields of the config that override file and environment; None values are not set.
        id_column, sequence_column, sheet, skip, gaps: as RunRequest has them.

    Raises:
        ConfigError, BundleError: see load_config, open_bundle and Bundle.variant.
    """
    config = load_config(config_file, flags=flags)
    bundle = open_bundle(config.bundle)
    bundle.variant(config.provider, config.variant)
    columns = {"id_column": id_column, "sequence_column": sequence_column, "sheet": sheet}
    return RunRequest(config, bundle, skip, columns, gaps)
