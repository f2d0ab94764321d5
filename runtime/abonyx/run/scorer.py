"""An open model that scores whole files, one after another, each as `abonyx score` does."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from abonyx.bundle.chosen import ChosenHeads
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
    """The request for all files of a run with a directory as output.

    Attributes:
        run: the run.
        output: directory of the results. If several machines run it, each must see the same directory.
        kind: format of the results.
        heads: the heads.
    """

    run: RunRequest
    output: Path
    kind: ScoreKind
    heads: ChosenHeads


class FileScorer:
    """Scores files with one open model.

    Args:
        request: the request for all files.
        in_children: whether other processes may judge the records of a long file. If the rule allows it, they judge
            while the records are scored.
    """

    def __init__(self, request: DirectoryRequest, *, in_children: bool) -> None:
        self._request, self._in_children = request, in_children
        self._model: OpenModel | None = None
        # Computed only once: later, this process's own model takes some of the GPU's memory.
        self._budget = token_budget(request.run.config, request.run.bundle)

    @property
    def config(self) -> RuntimeConfig:
        """The config with which to open the model."""
        return dataclasses.replace(self._request.run.config, token_budget=self._budget)

    def use(self, model: OpenModel) -> None:
        """Set the model. It must have been opened with `config`."""
        self._model = model

    def score(self, file: File, restart: bool) -> Done:
        """Score one file. restart: whether to discard the rows of an interrupted run.

        Raises:
            EngineError: the file cannot be scored, the engine failed, or there is not enough memory for the file.
        """
        try:
            return self._score(file, restart)
        except MemoryError as error:
            why = f" ({error})" if str(error) else ""
            fix = "A whole file is kept in memory: split the file, or use fewer workers per node (more threads each)."
            raise EngineError(f"{file.source}: not enough memory to score it{why}", fix) from error

    def _score(self, file: File, restart: bool) -> Done:
        assert self._model is not None
        request = self._request
        run = dataclasses.replace(request.run, bundle=self._model.bundle)
        checked, source = _read(file.source, run, self._in_children)
        file_run = score_run(run, checked, file.target, request.kind, request.heads)
        file_run = dataclasses.replace(file_run, rejected=file.rejected)
        summary = run_file(file_run, restart=restart, opening=self._kept, budget=self._budget)
        notes = summary.notes if summary else []
        # The flags are counted only now, because the records may be judged while they are scored.
        return Done(
            input=printable_name(file.source),
            input_bytes=source.size,
            input_mtime_ns=source.mtime_ns,
            input_sha256=source.sha256,
            output=printable_name(file.target),
            output_bytes=file.target.stat().st_size,
            records=len(checked.ids),
            rejected=len(checked.rejected),
            seconds=summary.run_seconds if summary else 0.0,
            node=platform.node(),
            flagged=sum(bool(judgement.flags) for judgement in checked.judgements),
            uncalled=sum(not judgement.trusted for judgement in checked.judgements),
            flags=dict(checked.flag_counts()),
            notes=[note for note in notes if note not in flag_notes(checked, scored=True)],
        )

    @contextmanager
    def _kept(self, _config: RuntimeConfig) -> Iterator[OpenModel]:
        """Yield the open model, as open_model does, but leave it open."""
        assert self._model is not None
        yield self._model


class _Source(NamedTuple):
    """An input file as it was when it was read."""

    size: int
    mtime_ns: int
    sha256: str


def _read(source: Path, run: RunRequest, in_children: bool) -> tuple[Input, _Source]:
    """Read and check a file."""
    try:
        before = source.stat()
        checked = run.read(source, in_children=in_children)
        sha256, after = file_sha256(source), source.stat()
    except OSError as error:
        what = f"{source}: cannot be read: {error.strerror}"
        raise InputError(what, "It could be read when the run started. Restore it.") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{source}: changed while it was read", "Let no other program write to it during the run.")
    return checked, _Source(after.st_size, after.st_mtime_ns, sha256)
