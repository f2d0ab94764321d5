"""A worker: a process with one session, which scores whole files as `abonyx score` does."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from abonyx import cache
from abonyx.bundle import Bundle, check_files, open_bundle
from abonyx.config import RuntimeConfig
from abonyx.domain import share_processors
from abonyx.errors import BundleError, ConfigError, EngineError
from abonyx.model import OpenModel, open_model
from abonyx.output.journal import Fact
from abonyx.ray.cluster import load_ray
from abonyx.ray.store import SCHEME, Stores
from abonyx.run.run_file import Done, File, run_facts
from abonyx.run.scorer import DirectoryRequest, FileScorer


class Worker:
    """The Ray actor. Its methods return errors instead of raising them, because Ray would wrap them.

    Args:
        request: the run, with a config from cluster.for_worker.
    """

    def __init__(self, request: DirectoryRequest) -> None:
        self._request = request
        self._model: OpenModel
        self._scorer: FileScorer

    def open(self, shared: Sequence[Path], workers: int = 1) -> dict[str, Fact] | EngineError:
        """Open the session; returns the facts that results of this node depend on.

        Args:
            shared: paths that must exist on every node. Without this check, a worker that does not see the inputs would
                quickly fail on all of them.
            workers: largest number of workers on a node.
        """
        run = self._request.run
        try:
            for path in shared:
                if not path.exists():
                    fix = "Inputs and output must have the same path on every node, on a file system that they share."
                    raise ConfigError(f"{path}: does not exist", fix)
            # Child processes judge only for workers on GPUs. Workers on CPUs need all processors for scoring.
            share_processors(workers)
            self._scorer = FileScorer(self._request, in_children=run.config.provider == "cuda")
            self._model = open_checked(self._scorer.config, run.bundle.sha256)
            self._scorer.use(self._model)
        except EngineError as error:
            return on_this_node(error, run.config)
        return run_facts(run, self._request.kind, self._request.heads)

    def where(self) -> str:
        """The name of the node; on cuda with the GPU."""
        return here(self._request.run.config)

    def score(self, source: Path, target: Path, restart: bool) -> Done | EngineError:
        """Score one file. restart: whether to discard the rows of an interrupted run."""
        try:
            return self._scorer.score(File(source, target), restart)
        except EngineError as error:
            return on_this_node(error, self._request.run.config)


class StoreWorker(Worker):
    """The Ray actor for objects: it fetches an object, scores it as a file on this node, and puts its results."""

    def __init__(self, request: DirectoryRequest, stores: Stores) -> None:
        super().__init__(request)
        self._stores = stores

    def open(self, shared: Sequence[Path], workers: int = 1) -> dict[str, Fact] | EngineError:
        """As Worker.open. Also checks that the node can reach the store."""
        try:
            self._stores.refuse_missing_buckets()
        except EngineError as error:
            return on_this_node(error, self._request.run.config)
        return super().open(shared, workers)

    def score(self, source: Path, target: Path, restart: bool) -> Done | EngineError:
        """Score one object.

        Args:
            source, target: "BUCKET/KEY" of the object and its results.
            restart: ignored, because an unfinished object never keeps rows.
        """
        with tempfile.TemporaryDirectory(prefix="abonyx-") as scratch:
            here = File(Path(scratch) / "in" / source.name, Path(scratch) / "out" / target.name)
            try:
                return self._score_here(File(source, target), here)
            except EngineError as error:
                names = {str(here.source): SCHEME + str(source), str(here.target): SCHEME + str(target)}
                return on_this_node(renamed(error, names), self._request.run.config)

    def _score_here(self, stored: File, here: File) -> Done:
        here.source.parent.mkdir()
        here.rejected.parent.mkdir(parents=True)
        read = self._stores.fetch(str(stored.source), here.source)
        done = self._scorer.score(here, restart=True)
        if here.rejected.exists():
            self._stores.put(here.rejected, str(stored.rejected))
        self._stores.put(here.target, str(stored.target))
        return msgspec.structs.replace(done, input_bytes=read.size, input_mtime_ns=read.mtime_ns)


def renamed(error: EngineError, names: Mapping[str, str]) -> EngineError:
    """The same error, with some paths in its text replaced."""
    what, fix = error.marked
    for path, name in names.items():
        what, fix = what.replace(path, name), fix.replace(path, name)
    return type(error)(what, fix)


def open_checked(config: RuntimeConfig, bundle_sha256: str) -> OpenModel:
    """Open the model of this process, and check the bundle's hash. Only the first worker on a node hashes its files.

    Raises:
        BundleError: the bundle has another hash.
        EngineError: as for open_session.
    """
    bundle = open_bundle(config.bundle)
    if bundle.sha256 != bundle_sha256:
        what = f"{bundle.path}: sha256 is {bundle.sha256}; on the machine that started the run it is {bundle_sha256}"
        raise BundleError(what, "Copy the same bundle to every node, or put it on a file system that they share.")
    _, variant = bundle.variant(config.provider, config.variant)
    with _first_on_node(bundle):
        check_files(bundle, bundle.files_of(variant))
    return open_model(config)


@contextmanager
def _first_on_node(bundle: Bundle) -> Iterator[None]:
    """Hold this node's lock for hashing a bundle. The next worker finds the hashes in the cache."""
    filelock = load_ray("filelock")  # a dependency of Ray
    with ExitStack() as held:
        directory = cache.cache_dir()
        with suppress(OSError):  # without a cache, waiting would not help
            if directory is None:
                raise FileNotFoundError
            directory.mkdir(parents=True, exist_ok=True)
            # The name has the node, because nodes may share the cache.
            name = f"{platform.node()}-{bundle.sha256[:12]}.lock"
            held.enter_context(filelock.FileLock(directory / name))
        yield


def here(config: RuntimeConfig) -> str:
    """The name of this node; on cuda with the GPU that Ray chose, which is GPU 0 for the worker."""
    card = f" (CUDA_VISIBLE_DEVICES {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')})"
    return platform.node() + (card if config.provider == "cuda" else "")


def on_this_node(error: EngineError, config: RuntimeConfig) -> EngineError:
    """The same error, with the node in its text."""
    what, fix = error.marked
    return type(error)(f"node {here(config)}: {what}", fix)
