"""The description of a run: its config, its bundle, and how its input is read. It is made before a model is opened."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec

from abonyx import __version__
from abonyx.alphabet import SequenceLimit
from abonyx.bundle import Bundle, open_pinned
from abonyx.bundle.chosen import ChosenHeads, choose_heads
from abonyx.bundle.manifest import chain_letters
from abonyx.config import RuntimeConfig, load_config
from abonyx.domain import Check, DomainRule, refuse_rule
from abonyx.errors import ConfigError, first_line
from abonyx.input.checked import Input, read_input
from abonyx.input.labels import LabelKind
from abonyx.input.pairs import columns_of
from abonyx.input.sequences import Gaps
from abonyx.output.beside import refuse_columns, refuse_pair_columns
from abonyx.output.files import check_output, ids_path, partial_paths, rejected_path
from abonyx.output.journal import journal_path
from abonyx.scoring import refuse_batches
from abonyx.wording import option


@dataclass(frozen=True)
class RunRequest:
    """One run, from any interface.

    Attributes:
        config, bundle: the config and the bundle.
        skip: whether to leave bad records out instead of raising an error.
        id_column, sequence_column, sheet, keep: see input.records.read_records.
        check: how to treat records unlike the head's training set; see domain.DomainRule.
        trim: whether to score only the variable domain of longer records.
        gaps: how to treat gaps and a final stop.
        with_columns: columns on request; see output.beside.
        heavy_column, light_column: columns of pairs. For heads of one chain, the column of that chain has the same
            meaning as sequence_column.
        chains: the chains that a record needs for the chosen heads; None = the chains of the first head.
    """

    config: RuntimeConfig
    bundle: Bundle
    skip: bool = False
    id_column: str | None = None
    sequence_column: str | None = None
    sheet: str | None = None
    check: Check = "check"
    trim: bool = False
    gaps: Gaps = "refuse"
    keep: tuple[str, ...] = ()
    with_columns: tuple[str, ...] = ()
    heavy_column: str | None = None
    light_column: str | None = None
    chains: tuple[str, ...] | None = None

    @property
    def record_chains(self) -> tuple[str, ...]:
        """The chains that a record needs: ("H",), ("L",), or both."""
        return tuple(self.bundle.manifest.head.chains) if self.chains is None else self.chains

    @property
    def rule(self) -> DomainRule:
        """The rule for records unlike the heads' training set."""
        return DomainRule(self.check, self.trim, chain_letters(self.record_chains))

    def of_chains(self, chains: Sequence[str]) -> RunRequest:
        """The same run for heads that need these chains of a record.

        Raises:
            ConfigError: pairs cannot be combined with pooling upstream-batch, with a column of single sequences, or
                with columns that describe one domain.
        """
        refuse_pair_columns(self.with_columns, chains)
        if len(chains) > 1:
            refuse_batches(self.config.batch_size)
        run = dataclasses.replace(self, chains=tuple(chains))
        run._columns(run.record_chains)  # raises if the columns do not fit
        return run

    def _columns(self, chains: tuple[str, ...]) -> tuple[str | None, str | None]:
        return columns_of(chains, self.sequence_column, self.heavy_column, self.light_column)

    def read(
        self,
        source: Path | None,
        label_column: str | None = None,
        *,
        label_required: bool = False,
        label_kind: LabelKind = "classes",
        rule: DomainRule | None = None,
        in_children: bool = True,
        single: bool = False,
    ) -> Input:
        """Read and check an input. Raises as read_input does.

        Args:
            source: a file; None = standard input.
            label_column, label_required, label_kind: see read_input.
            rule: a rule to use instead of the run's rule.
            in_children: whether other processes may judge records if there are many. False if workers on this machine
                already use all processors.
            single: whether to read one sequence for each record, even if the heads need both chains.
        """
        chains = self.record_chains[:1] if single else self.record_chains
        sequence_column, light_column = self._columns(chains)
        return read_input(
            source,
            SequenceLimit.of(self.bundle.manifest, self.config),
            label_column=label_column,
            label_required=label_required,
            label_kind=label_kind,
            skip_invalid=self.skip,
            rule=rule or self.rule,
            in_children=in_children,
            chains=chains,
            id_column=self.id_column,
            sequence_column=sequence_column,
            light_column=light_column,
            sheet=self.sheet,
            gaps=self.gaps,
            keep=self.keep,
        )

    def choose_heads(
        self, names: Sequence[str] | str | None, assay: str | None, threshold: float | None, panel: str | None
    ) -> ChosenHeads:
        """Choose the heads of the run and their columns; see chosen.choose_heads."""
        beside = self.with_columns
        return choose_heads(self.bundle, names, assay, threshold, config=self.config, panel=panel, with_columns=beside)

    def check_outputs(self, target: Path | None, source: Path | None) -> None:
        """Raise a ConfigError if the target or a file beside it cannot be written, or is the input.

        Args:
            target: the output; None = standard output.
            source: the input; None = standard input.
        """
        check_output(target, source)
        if target is not None:
            beside = [ids_path(target)] * (target.suffix.lower() == ".npy") + [rejected_path(target)] * self.skip
            for written in (*beside, *partial_paths(target), journal_path(target)):
                check_output(written, source)

    def metadata(self) -> dict[str, str]:
        """Metadata for a result file: how it was made."""
        name, variant = self.bundle.variant(self.config.provider, self.config.variant)
        return {
            "version": __version__,
            "bundle": self.bundle.name,
            "bundle_sha256": self.bundle.sha256,
            **({"bundle_hub": str(self.bundle.hub)} if self.bundle.hub else {}),
            "config_sha256": self.config.sha256(),
            "provider": self.config.provider,
            "variant": name,
            "precision": "bf16" if self.config.bf16 else variant.precision,
            "domain": msgspec.json.encode(self.rule.facts()).decode(),
        }


def prepare(
    *,
    config: RuntimeConfig | None = None,
    bundle: Bundle | None = None,
    config_file: Path | None = None,
    flags: Mapping[str, object] | None = None,
    id_column: str | None = None,
    sequence_column: str | None = None,
    heavy_column: str | None = None,
    light_column: str | None = None,
    skip: bool = False,
    check: Check = "check",
    trim: bool = False,
    gaps: Gaps = "refuse",
    sheet: str | None = None,
    keep: tuple[str, ...] = (),
    with_columns: Sequence[str] | None = None,
) -> RunRequest:
    """Load the config, and the manifest of its bundle. No file is hashed, and no model is opened.

    Args:
        config: the whole config, if the caller has it. Then file, flags and environment are not read.
        bundle: the bundle of the config, if the caller has it open.
        config_file: a TOML file.
        flags: fields of the config that override the file and the environment; a value of None is ignored.
        id_column, sequence_column, heavy_column, light_column, sheet, skip, check, trim, gaps, keep, with_columns: as
            in RunRequest.

    Raises:
        ConfigError, BundleError: see load_config, open_pinned, Bundle.variant, refuse_rule and refuse_columns; or
            `gaps` is unknown.
    """
    refuse_rule(check, "domain" if trim else None)
    if gaps not in get_args(Gaps):
        known = ", ".join(map(repr, get_args(Gaps)))
        raise ConfigError(f"{option('gaps')} is {first_line(repr(gaps))}", f"Give one of {known}.")
    columns = refuse_columns(with_columns, check)
    config = config or load_config(config_file, flags=flags)
    if bundle is None:
        config, bundle = open_pinned(config)
    bundle.variant(config.provider, config.variant)
    return RunRequest(
        config=config,
        bundle=bundle,
        skip=skip,
        id_column=id_column,
        sequence_column=sequence_column,
        sheet=sheet,
        check=check,
        trim=trim,
        gaps=gaps,
        keep=keep,
        with_columns=columns,
        heavy_column=heavy_column,
        light_column=light_column,
    )
