"""One worker: one process with one session, which scores whole files as `abonyx score` does."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from abonyx import cache
from abonyx.bundle import Bundle, check_files, open_bundle
from abonyx.config import RuntimeConfig
from abonyx.engine.providers import token_budget
from abonyx.errors import BundleError, ConfigError, EngineError, InputError
from abonyx.hashing import file_sha256
from abonyx.model import OpenModel, open_model
from abonyx.output.journal import Fact
from abonyx.ray.cluster import load_ray
from abonyx.ray.run_file import Done, printable_name, run_facts
from abonyx.run.request import RunRequest
from abonyx.run.resumed import run_file, score_run
from abonyx.run.windows import flag_notes

if TYPE_CHECKING:
    from abonyx.input.checked import Input


@dataclasses.dataclass(frozen=True)
class DirectoryRequest:
    """What every file of a directory run is scored as.

    Attributes:
        run: its config is a worker's (cluster.for_worker).
        output: directory of the results, the same on every node.
    """

    run: RunRequest
    output: Path
    kind: Literal["csv", "jsonl", "parquet"]
    threshold: float


class Worker:
    """The Ray actor. Errors are returned, not raised: Ray would wrap them."""

    def __init__(self, request: DirectoryRequest) -> None:
        self._request = request
        self._model: OpenModel
        self._budget = 0

    def open(self, shared: Sequence[Path]) -> dict[str, Fact] | EngineError:
        """Open the session; return what this node's results depend on.

        Args:
            shared: what has to be there on every node: a worker that sees no inputs would soon have failed all of them.
        """
        run = self._request.run
        try:
            for path in shared:
                if not path.exists():
                    fix = (
                        "Inputs and output have to lie under the same path on every node, on a file system they share."
                    )
                    raise ConfigError(f"{path}: is not there", fix)
            # Once: from here on the card's free memory lacks this worker's own model and what it has run.
            self._budget = token_budget(run.config, run.bundle)
            config = dataclasses.replace(run.config, token_budget=self._budget)
            self._model = open_checked(config, run.bundle.sha256)
        except EngineError as error:
            return _on_this_node(error)
        return run_facts(run, self._request.kind, self._request.threshold)

    def score(self, source: Path, target: Path, restart: bool) -> Done | EngineError:
        """Score one file; `restart` drops what an earlier run left of it."""
        try:
            return self._score(source, target, restart)
        except EngineError as error:
            return _on_this_node(error)
        except MemoryError as error:
            said = f" ({error})" if str(error) else ""
            fix = "Files are held in memory as a whole: split it, or have fewer workers a node (more threads each)."
            return _on_this_node(EngineError(f"{source}: no memory to score it{said}", fix))

    def _score(self, source: Path, target: Path, restart: bool) -> Done:
        request = self._request
        run = dataclasses.replace(request.run, bundle=self._model.bundle)
        checked, done = _read(source, run)
        file_run = score_run(run, checked, target, request.kind, request.threshold)
        summary = run_file(file_run, restart=restart, opening=self._kept, budget=self._budget)
        return msgspec.structs.replace(
            done,
            output=printable_name(target),
            output_bytes=target.stat().st_size,
            seconds=summary.run_seconds if summary else 0.0,
            notes=[note for note in summary.notes if note not in flag_notes(checked, file_run.output)]
            if summary
            else [],
        )

    @contextmanager
    def _kept(self, _config: RuntimeConfig) -> Iterator[OpenModel]:
        """The open model as open_model would give it for one more file; it stays open."""
        yield self._model


def open_checked(config: RuntimeConfig, bundle_sha256: str) -> OpenModel:
    """Open the session of this process on a bundle of this hash; of one node's workers one alone reads its files.

    Raises:
        BundleError: another bundle lies there.
        EngineError: as open_session.
    """
    bundle = open_bundle(config.bundle)
    if bundle.sha256 != bundle_sha256:
        what = f"{bundle.path}: sha256 {bundle.sha256}; where the run was started it is {bundle_sha256}"
        raise BundleError(what, "Copy the same bundle to every node, or put it where they share it.")
    _, variant = bundle.variant(config.provider, config.variant)
    with _first_on_node(bundle):
        check_files(bundle, bundle.files_of(variant))
    return open_model(config)


@contextmanager
def _first_on_node(bundle: Bundle) -> Iterator[None]:
    """Hold the node's lock on reading a bundle: who comes next finds its hashes remembered."""
    filelock = load_ray("filelock")  # Ray's own dependency
    with ExitStack() as held:
        with suppress(OSError):  # no cache, nothing to wait for
            cache.cache_dir().mkdir(parents=True, exist_ok=True)
            # Of this node: the cache may lie where nodes share it.
            name = f"{platform.node()}-{bundle.sha256[:12]}.lock"
            held.enter_context(filelock.FileLock(cache.cache_dir() / name))
        yield


def _read(source: Path, run: RunRequest) -> tuple[Input, Done]:
    """Read a file, and note what was read."""
    try:
        before = source.stat()
        checked = run.read(source, in_children=False)
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


def _on_this_node(error: EngineError) -> EngineError:
    """The same error, saying where."""
    what, fix = error.marked
    return type(error)(f"node {platform.node()}: {what}", fix)
