"""`abonyx score s3://... -o s3://... --ray`: a directory's run whose inputs and results are objects.

The run's journal is a file of this machine while the run lasts, and an object beside the results: written again at the
start, every SYNC_S seconds, and at the end. A worker fetches one object, scores it as a file, and puts its results.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from abonyx.errors import ConfigError, EngineError, OutputInUse
from abonyx.output.journal import Fact, journal_path
from abonyx.ray.cluster import for_worker, load_ray
from abonyx.ray.files import RayDispatch
from abonyx.ray.store import SCHEME, Stored, Stores, parse_uris
from abonyx.ray.worker import StoreWorker, renamed
from abonyx.run.directory import score_files
from abonyx.run.files import files_to
from abonyx.run.run_file import SIDE, Done, File, RunFile, open_run_file_of
from abonyx.run.scorer import DirectoryRequest

# A driver that dies loses the notes of so many seconds, whose files are scored again.
SYNC_S = 10.0


def score_in_store(request: DirectoryRequest, uris: Sequence[str], address: str, restart: bool) -> None:
    """Score objects by Ray's workers.

    Args:
        request: its output is not looked at.
        uris: of the inputs, and the last one of the output's prefix.
        address, restart: as of ray.command.score_by_ray.

    Raises:
        StoreUnavailable: a store refuses, or does not answer any more; the same command resumes.
        EngineError: as score_by_ray.
    """
    load_ray()
    stores, (*sources, output) = parse_uris(uris)
    stores.refuse_missing_buckets()
    if stores.look(output) is not None:
        raise ConfigError(f"output {SCHEME}{output}: is an object", "Name a prefix: each input gives an object there.")
    found = sorted({Path(path) for source in sources for path in stores.find(source)})
    if inside := [path for path in found if str(path.parent) == output]:
        what = f"output {SCHEME}{output}: the input {inside[0].name} lies in it"
        raise ConfigError(what, "Name another prefix: results there would be the next run's inputs.")
    files = files_to(found, Path(output), request.kind)
    run = dataclasses.replace(request.run, config=for_worker(request.run.config))
    with tempfile.TemporaryDirectory(prefix="abonyx-") as scratch:
        here = Path(scratch) / "run"
        try:
            _score(dataclasses.replace(request, run=run, output=here), files, (stores, output), address, restart)
        except EngineError as error:
            raise renamed(error, {str(here): SCHEME + output}) from error


def _score(
    request: DirectoryRequest, files: list[File], store: tuple[Stores, str], address: str, restart: bool
) -> None:
    stores, output = store
    side = request.output / SIDE
    side.mkdir(parents=True)
    journal = journal_path(side / "run")
    there = stores.look(f"{output}/{SIDE}/{journal.name}")
    if there is not None and not restart:
        stores.fetch(f"{output}/{SIDE}/{journal.name}", journal)

    def dispatch(request: DirectoryRequest, run_file: RunFile, restart: bool) -> RayDispatch:
        return RayDispatch(request, run_file, restart, address, StoreWorker, (stores,))

    with open_run_file_of(StoreRunFile, request.output, restart=restart) as run_file:
        run_file.bind(stores, output, files, there)
        try:
            score_files(request, files, run_file, restart, dispatch)
        except BaseException:
            with suppress(EngineError):  # what ended the run is said, and what is done is kept if that can be
                _keep(run_file, stores, output)
            raise
        _keep(run_file, stores, output)


def _keep(run_file: StoreRunFile, stores: Stores, output: str) -> None:
    """Put the journal and the summary beside the results."""
    run_file.sync()
    if (summary := run_file.path.parent / "summary.json").exists():
        stores.put(summary, f"{output}/{SIDE}/{summary.name}")


class StoreRunFile(RunFile):
    """The run file of results in a store. `bind` says where, before anything else is called."""

    def bind(self, stores: Stores, output: str, files: Sequence[File], there: Stored | None) -> None:
        """Say what it is of.

        Args:
            output: "BUCKET/PREFIX" of the results.
            files: all of the run: their results are the run's from the first line on.
            there: the journal's object as it was found.
        """
        self._stores, self._output, self._files, self._there = stores, output, files, there
        self._synced = 0.0
        self.shown = SCHEME + output

    def settle(self, facts: dict[str, Fact]) -> None:
        """As RunFile.settle; then results that a driver's death leaves without a note are known as the run's."""
        super().settle(facts)
        if "engine" in facts and not self._synced:
            for file in self._files:
                self.begin(file)
            self.sync()

    def append(self, line: msgspec.Struct) -> None:
        """As Journal.append; the store has it SYNC_S later at most, if lines keep coming."""
        super().append(line)
        if self._synced and time.monotonic() - self._synced > SYNC_S:
            self.sync()

    def sync(self) -> None:
        """Put the journal beside the results.

        Raises:
            OutputInUse: another command has put its own there.
            StoreUnavailable: the store refuses.
        """
        if not self.lines:
            return
        path = f"{self._output}/{SIDE}/{self.path.name}"
        if self._stores.look(path) != self._there:
            what = f"output {SCHEME}{self._output}: another command writes there: {path} is not as this one left it"
            raise OutputInUse(what, "Wait for it or end it, or name another output.")
        self._there = self._stores.put(self.path, path)
        self._synced = time.monotonic()

    def left(self, files: Sequence[File], skip: bool) -> list[File]:
        """As RunFile.left, of objects."""
        results, rejected = self._stores.objects(self._output), self._stores.objects(f"{self._output}/{SIDE}")
        done, left, refused = self.done(), [], []
        for file in files:
            line, there = done.get(file.target.name), results.get(file.target.name)
            if line is None:
                if there and file.target.name not in self._begun:
                    refused.append(f"{file.target.name}: is there, and {self.path.name} does not know it")
                left.append(file)
            elif there is None or (skip and file.rejected.name not in rejected):
                left.append(file)
            elif there.size != line.output_bytes:
                refused.append(f"{file.target.name}: {line.output_bytes} bytes then, {there.size} now")
            elif found := self._changed(file, line):
                refused.append(found)
        if refused:
            raise self.other_run(refused)
        return left

    def _changed(self, file: File, line: Done) -> str:
        """What to say of an input that is another one now, "" if it is not; its time is compared, not its bytes."""
        now = self._stores.look(str(file.source))
        if now == (line.input_bytes, line.input_mtime_ns):
            return ""
        return f"{file.source.name}: {line.input_bytes} bytes of another time then, {now.size if now else 'none'} now"
