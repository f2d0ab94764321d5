"""`abonyx score s3://... -o s3://... --ray`: a run whose inputs and results are objects of a store.

During the run, its journal is a file on this machine. A copy is an object beside the results; it is written at the
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

# If the driver dies, the journal of the last seconds is lost, and the files of that time are scored again.
SYNC_S = 10.0


def score_in_store(request: DirectoryRequest, uris: Sequence[str], address: str, restart: bool) -> None:
    """Score objects with Ray's workers.

    Args:
        request: the run. Its output is ignored.
        uris: the URIs of the inputs; the last one is the prefix of the output.
        address, restart: as for ray.command.score_by_ray.

    Raises:
        StoreUnavailable: a store refuses or no longer answers. The same command resumes the run.
        EngineError: as for score_by_ray.
    """
    load_ray()
    stores, (*sources, output) = parse_uris(uris)
    stores.refuse_missing_buckets()
    if stores.look(output) is not None:
        what = f"output {SCHEME}{output}: is an object"
        raise ConfigError(what, "Name a prefix, under which each input gets an object of results.")
    found = sorted({Path(path) for source in sources for path in stores.find(source)})
    if inside := [path for path in found if str(path.parent) == output]:
        what = f"output {SCHEME}{output}: the input {inside[0].name} is under this prefix"
        raise ConfigError(what, "Name another prefix: the next run would read the results as inputs.")
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
            with suppress(EngineError):  # the first error is raised; finished work is kept if possible
                _keep(run_file, stores, output)
            raise
        _keep(run_file, stores, output)


def _keep(run_file: StoreRunFile, stores: Stores, output: str) -> None:
    """Copy the journal and the summary to the store, beside the results."""
    run_file.sync()
    if (summary := run_file.path.parent / "summary.json").exists():
        stores.put(summary, f"{output}/{SIDE}/{summary.name}")


class StoreRunFile(RunFile):
    """The run file of results in a store. `bind` must be called first."""

    def bind(self, stores: Stores, output: str, files: Sequence[File], there: Stored | None) -> None:
        """Set the place of the results.

        Args:
            stores: access to the buckets.
            output: "BUCKET/PREFIX" of the results.
            files: all files of the run. Their results belong to the run from its journal's first line on.
            there: the journal's object at the start; None = there was none.
        """
        self._stores, self._output, self._files, self._there = stores, output, files, there
        self._synced = 0.0
        self.shown = SCHEME + output

    def settle(self, facts: dict[str, Fact]) -> None:
        """As RunFile.settle. Also notes all files as begun: if the driver dies, their results belong to the run."""
        super().settle(facts)
        if "engine" in facts and not self._synced:
            for file in self._files:
                self.begin(file)
            self.sync()

    def append(self, line: msgspec.Struct) -> None:
        """As Journal.append. Copies the journal to the store if the last copy is older than SYNC_S."""
        super().append(line)
        if self._synced and time.monotonic() - self._synced > SYNC_S:
            self.sync()

    def sync(self) -> None:
        """Copy the journal to the store, beside the results.

        Raises:
            OutputInUse: another command has written its own journal there.
            StoreUnavailable: the store refuses.
        """
        if not self.lines:
            return
        path = f"{self._output}/{SIDE}/{self.path.name}"
        if self._stores.look(path) != self._there:
            what = f"output {SCHEME}{self._output}: another command is writing there: it has changed {path}"
            raise OutputInUse(what, "Wait until it ends, end it, or name another output.")
        self._there = self._stores.put(self.path, path)
        self._synced = time.monotonic()

    def left(self, files: Sequence[File], skip: bool) -> list[File]:
        """As RunFile.left, for objects."""
        results, rejected = self._stores.objects(self._output), self._stores.objects(f"{self._output}/{SIDE}")
        done, left, refused = self.done(), [], []
        for file in files:
            line, there = done.get(file.target.name), results.get(file.target.name)
            if line is None:
                if there and file.target.name not in self._begun:
                    refused.append(f"{file.target.name}: exists, but {self.path.name} does not list it")
                left.append(file)
            elif there is None or (skip and file.rejected.name not in rejected):
                left.append(file)
            elif there.size != line.output_bytes:
                refused.append(f"{file.target.name}: had {line.output_bytes} bytes, and now has {there.size}")
            elif found := self._changed(file, line):
                refused.append(found)
        if refused:
            raise self.other_run(refused)
        return left

    def _changed(self, file: File, line: Done) -> str:
        """A line about an input that has changed; "" if it has not. Size and time are compared, not bytes."""
        now = self._stores.look(str(file.source))
        if now == (line.input_bytes, line.input_mtime_ns):
            return ""
        size = f"{now.size} bytes" if now else "no object"
        return f"{file.source.name}: had {line.input_bytes} bytes and another time stamp; now: {size}"
