"""One open model that scores whole files, one after another, as `abonyx score` does one."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from abonyx.bundle.threshold import CallRule
from abonyx.config import RuntimeConfig
from abonyx.engine.providers import token_budget
from abonyx.errors import EngineError, InputError
from abonyx.hashing import file_sha256
from abonyx.input.checked import Input
from abonyx.model import OpenModel
from abonyx.output.kinds import ScoreKind
from abonyx.run.request import RunRequest
from abonyx.run.resumed import run_file, score_run
from abonyx.run.run_file import Done, File, printable_name
from abonyx.run.windows import flag_notes


@dataclasses.dataclass(frozen=True)
class DirectoryRequest:
    """What every file of a directory's run is scored as.

    Attributes:
        output: directory of the results; of a run on several nodes, the same on each.
    """

    run: RunRequest
    output: Path
    kind: ScoreKind
    rule: CallRule


class FileScorer:
    """The model of this process, and what it scores files as.

    Args:
        in_children: judge the records of a long file in other processes.
    """

    def __init__(self, request: DirectoryRequest, *, in_children: bool) -> None:
        self._request, self._in_children = request, in_children
        self._model: OpenModel | None = None
        # Once: from here on the card's free memory lacks this process's own model and what it has run.
        self._budget = token_budget(request.run.config, request.run.bundle)

    @property
    def config(self) -> RuntimeConfig:
        """What the model is to be opened with."""
        return dataclasses.replace(self._request.run.config, token_budget=self._budget)

    def use(self, model: OpenModel) -> None:
        """Score with this model, opened with `config`."""
        self._model = model

    def score(self, file: File, restart: bool) -> Done:
        """Score one file; `restart` drops what an earlier run left of it.

        Raises:
            EngineError: as the command, of this file or of the engine; or there is no memory to hold it.
        """
        try:
            return self._score(file, restart)
        except MemoryError as error:
            why = f" ({error})" if str(error) else ""
            fix = "Files are held in memory as a whole: split it, or have fewer workers a node (more threads each)."
            raise EngineError(f"{file.source}: no memory to score it{why}", fix) from error

    def _score(self, file: File, restart: bool) -> Done:
        assert self._model is not None
        request = self._request
        run = dataclasses.replace(request.run, bundle=self._model.bundle)
        checked, done = _read(file.source, run, self._in_children)
        file_run = score_run(run, checked, file.target, request.kind, request.rule)
        file_run = dataclasses.replace(file_run, rejected=file.rejected)
        summary = run_file(file_run, restart=restart, opening=self._kept, budget=self._budget)
        notes = summary.notes if summary else []
        return msgspec.structs.replace(
            done,
            output=printable_name(file.target),
            output_bytes=file.target.stat().st_size,
            seconds=summary.run_seconds if summary else 0.0,
            notes=[note for note in notes if note not in flag_notes(checked, file_run.output)],
        )

    @contextmanager
    def _kept(self, _config: RuntimeConfig) -> Iterator[OpenModel]:
        """The open model as open_model would give it for one more file; it stays open."""
        assert self._model is not None
        yield self._model


def _read(source: Path, run: RunRequest, in_children: bool) -> tuple[Input, Done]:
    """Read a file, and note what was read."""
    try:
        before = source.stat()
        checked = run.read(source, in_children=in_children)
        sha256, after = file_sha256(source), source.stat()
    except OSError as error:
        what = f"{source}: cannot be read: {error.strerror}"
        raise InputError(what, "It was there when the run began: put it back.") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{source}: changed while it was read", "Let nothing write to it during the run.")
    return checked, Done(
        input=printable_name(source),
        input_bytes=after.st_size,
        input_mtime_ns=after.st_mtime_ns,
        input_sha256=sha256,
        records=len(checked.ids),
        rejected=len(checked.rejected),
        node=platform.node(),
        flagged=sum(bool(judgement.flags) for judgement in checked.judgements),
        uncalled=sum(not judgement.trusted for judgement in checked.judgements),
        flags=dict(checked.flag_counts()),
    )
