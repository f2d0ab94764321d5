"""Objects of an S3 store, through pyarrow: listed, fetched to a file, put from a file. Needs the extra `ray`.

An object is whole or not there: a store shows one only when all of its bytes have arrived.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import glob
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from abonyx.errors import ConfigError, InputError, StoreUnavailable, first_line
from abonyx.extras import load
from abonyx.input.recognition import ACCEPTED, named_kind
from abonyx.logs import LOGGER
from abonyx.run.run_file import SHOWN

SCHEME = "s3://"
_CHUNK_BYTES = 2**22
_ACCESS = (
    "Check the bucket's name, the region (AWS_REGION, or ?region=... behind the URI), the credentials "
    "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role) and AWS_ENDPOINT_URL, on every "
    "node. The same command resumes what was begun."
)


class Stored(NamedTuple):
    """What a store says of an object; another size or time is another object."""

    size: int
    mtime_ns: int


@dataclasses.dataclass(frozen=True)
class Stores:
    """Buckets, and how each is reached.

    Paths are "BUCKET/KEY", without the scheme.

    Attributes:
        options: bucket -> what stands behind "?" in its URIs, as pyarrow reads it (region, endpoint_override, scheme).
    """

    options: dict[str, str]

    def look(self, path: str) -> Stored | None:
        """The object there; None if there is none. Raises StoreUnavailable."""
        info = self._info(path)
        return _stored(info) if info.is_file else None

    def _info(self, path: str) -> Any:
        with _reached(path):
            return self._system(path).get_file_info(path)

    def objects(self, prefix: str) -> dict[str, Stored]:
        """Name -> object, of those directly behind "PREFIX/"; {} if there are none. Raises StoreUnavailable."""
        fs = load("scoring by Ray", "pyarrow.fs")
        with _reached(prefix):
            found = self._system(prefix).get_file_info(fs.FileSelector(prefix, allow_not_found=True))
        return {info.base_name: _stored(info) for info in found if info.is_file}

    def fetch(self, path: str, to: Path) -> Stored:
        """Copy an object to a file; it must not change meanwhile.

        Raises:
            InputError: there is none, or it changed.
            StoreUnavailable: the store did not answer.
            ConfigError: the file cannot be written.
        """
        before = self.look(path)
        if before is None:
            raise InputError(f"{SCHEME}{path}: is not there", "It was there when the run began: put it back.")
        with _local(to):
            file = to.open("wb")
        # compression=None: the bytes as they are; by default pyarrow unpacks .gz, and packs it again.
        with file, _reached(path), self._system(path).open_input_stream(path, compression=None) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                with _local(to):
                    file.write(chunk)
            with _local(to):
                file.flush()
        if self.look(path) != before or to.stat().st_size != before.size:
            what = f"{SCHEME}{path}: changed while it was read"
            raise InputError(what, "Let nothing write to it during the run.")
        return before

    def put(self, file: Path, path: str) -> Stored:
        """Copy a file to an object, in the place of what was there.

        Raises:
            StoreUnavailable: the store did not take it.
        """
        # In one call: pyarrow makes an object of what it has been given when a stream is left by an error.
        data = file.read_bytes()
        with _reached(path):
            stream = self._system(path).open_output_stream(path, compression=None)
            stream.write(data)
            stream.close()
        there = self.look(path)
        if there is None or there.size != len(data):
            what = f"{SCHEME}{path}: {len(data)} bytes were written, and the store has {there and there.size}"
            raise StoreUnavailable(what, "Let nothing else write there; the same command writes it again.")
        return there

    def refuse_missing_buckets(self) -> None:
        """Raise a StoreUnavailable if a bucket is not there, or the store does not answer."""
        for bucket in self.options:
            if self._info(bucket).type.name != "Directory":
                raise StoreUnavailable(f"{SCHEME}{bucket}: no such bucket there, or it is not yours to see", _ACCESS)

    def find(self, path: str) -> list[str]:
        """The objects that one INPUT names: itself, those directly behind it, or those of a pattern.

        Raises:
            InputError: none.
            StoreUnavailable: the store did not answer.
        """
        if self.look(path) is not None:
            return [path]
        parent, _, name = path.rpartition("/")
        if glob.has_magic(name):
            there = self.objects(parent)
            found = [f"{parent}/{each}" for each in sorted(there) if fnmatch.fnmatchcase(each, name)]
        else:
            there = self.objects(path)
            read = [each for each in sorted(there) if named_kind(Path(each))[0] and not each.startswith(".")]
            if ignored := sorted(set(there) - set(read)):
                more = ", ..." if len(ignored) > SHOWN else ""
                LOGGER.info(f"{SCHEME}{path}: not read: {', '.join(ignored[:SHOWN])}{more}")
            found = [f"{path}/{each}" for each in read]
        if not found:
            fix = f"Give an object, a prefix with objects, or a quoted pattern of their names; accepted: {ACCEPTED}."
            raise InputError(f"{SCHEME}{path}: no object there to score", fix)
        return found

    def _system(self, path: str) -> Any:
        bucket = path.partition("/")[0]
        return _system(bucket, self.options[bucket])


@functools.cache
def _system(bucket: str, options: str) -> Any:
    fs = load("scoring by Ray", "pyarrow.fs")
    return fs.FileSystem.from_uri(f"{SCHEME}{bucket}" + (f"?{options}" if options else ""))[0]


def _stored(info: Any) -> Stored:
    return Stored(info.size, info.mtime_ns or 0)


def parse_uris(uris: Sequence[str]) -> tuple[Stores, list[str]]:
    """The buckets of some URIs, and the path of each.

    Raises:
        ConfigError: another scheme than s3, no bucket, a key that a file system could not have, credentials in it, or
            two ways to one bucket.
    """
    options: dict[str, str] = {}
    paths = []
    for uri in uris:
        if not uri.startswith(SCHEME):
            fix = f"Of object stores {SCHEME} alone is supported: mount it, or copy the files to a disk."
            raise ConfigError(f"{uri.partition('://')[0]}://: is no scheme that is read or written", fix)
        path, _, query = uri.removeprefix(SCHEME).partition("?")
        path = path.removesuffix("/")
        bucket = path.partition("/")[0]
        if "@" in bucket:
            fix = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: what a URI says is written to logs."
            raise ConfigError(f"{SCHEME}...@...: a URI with credentials", fix)
        if not bucket or str(PurePosixPath(path)) != path or ".." in path.split("/"):
            raise ConfigError(f"{uri}: not {SCHEME}BUCKET/KEY with plain names between single slashes", "Correct it.")
        if options.setdefault(bucket, query) != query:
            raise ConfigError(f"{uri}: the same bucket has other options in another URI", "Give it the same ones.")
        paths.append(path)
    return Stores(options), paths


@contextmanager
def _reached(path: str) -> Iterator[None]:
    """Raise a StoreUnavailable for what pyarrow raises of the store."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{SCHEME}{path}: is not there", "It was there before: put it back.") from error
    except OSError as error:
        raise StoreUnavailable(f"{SCHEME}{path}: the store refuses: {first_line(error, 500)}", _ACCESS) from error


@contextmanager
def _local(path: Path) -> Iterator[None]:
    """Raise a ConfigError for what the disk of this machine says."""
    try:
        yield
    except OSError as error:
        what = f"{path.parent}: cannot be written: {error.strerror}"
        raise ConfigError(what, f"Free space, or set TMPDIR (it is {tempfile.gettempdir()}).") from error
