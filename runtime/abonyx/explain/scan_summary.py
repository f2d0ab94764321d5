"""What `abonyx scan` prints when it is done, and the same as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from abonyx.bundle.threshold import pooling_notes, shipped_note
from abonyx.explain.scan_parents import Parent
from abonyx.explain.scan_request import PARENTS_CSV, ScanRequest
from abonyx.input.checked import Input
from abonyx.run.summary_file import CommandSummary, summary_of

# For how many parents the summary has the charge fit; parents.csv has it for all.
_SHOWN = 5


class Ran(NamedTuple):
    """What was found for the parents that were scanned in this run.

    Attributes:
        model: name and hash of the bundle; opening: notes on opening it.
        charge: what charge explains, a line each.
        open_seconds: of opening the model; seconds: of scoring and writing.
    """

    model: str
    opening: list[str]
    charge: list[str]
    open_seconds: float
    seconds: float

    def lines(self, request: ScanRequest, scanned: Sequence[Parent]) -> list[str]:
        """The first lines that the command prints."""
        mutants = sum(parent.plan.n_mutants for parent in scanned)
        counts = f"{len(scanned)} parent{'s' * (len(scanned) > 1)} scanned, {mutants:,} mutant{'s' * (mutants > 1)}"
        return [f"{counts}, in {self.seconds:.2f} s on {request.run.config.provider}", f"model: {self.model}"]

    def notes(self, request: ScanRequest, chosen: Input) -> list[str]:
        """The lines that follow, without the statement."""
        config, more = request.run.config, len(self.charge) - _SHOWN
        return [
            *self.opening,
            *pooling_notes(request.run.bundle, config),
            *chosen.notes,
            *shipped_note(config),
            *self.charge[:_SHOWN],
            *([f"... and {more} more: {PARENTS_CSV}"] if more > 0 else []),
        ]


def summary_of_scan(
    request: ScanRequest, chosen: Input, mutants: int, earlier: int, ran: Ran | None, notes: Sequence[str]
) -> CommandSummary:
    """The run as `--summary` has it; ran: None = an interrupted scan had scanned every parent."""
    run = request.run
    return summary_of(
        "scan",
        run,
        chosen if run.skip else dataclasses.replace(chosen, rejected=[]),  # with --id, other records may be bad
        heads=request.options.names,
        mutants=mutants,
        earlier=earlier,
        seconds=None if ran is None else ran.seconds,
        open_seconds=None if ran is None else ran.open_seconds,
        outputs=[request.output],
        notes=notes,
    )
