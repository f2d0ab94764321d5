"""List, fetch and put objects of an S3 store, through pyarrow. Needs the extra `ray`.

An object is either whole or absent, because a store shows it only after all of its bytes have arrived.
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
    "Check the bucket's name, the region (AWS_REGION, or ?region=... after the URI), the credentials "
    "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role) and AWS_ENDPOINT_URL, on every "
    "node. Then the same command resumes the run."
)


class Stored(NamedTuple):
    """Size and time of an object. If one of them differs, the object has changed."""

    size: int
    mtime_ns: int


@dataclasses.dataclass(frozen=True)
class Stores:
    """Access to buckets. Paths are "BUCKET/KEY", without the scheme.

    Attributes:
        options: bucket -> the part of its URIs after "?", which pyarrow reads (region, endpoint_override, scheme).
    """

    options: dict[str, str]

    def look(self, path: str) -> Stored | None:
        """The object at a path; None if there is none. Raises StoreUnavailable."""
        info = self._info(path)
        return _stored(info) if info.is_file else None

    def _info(self, path: str) -> Any:
        with _reached(path):
            return self._system(path).get_file_info(path)

    def objects(self, prefix: str) -> dict[str, Stored]:
        """Name -> object, for objects directly below "PREFIX/"; {} if there are none. Raises StoreUnavailable."""
        fs = load("scoring by Ray", "pyarrow.fs")
        with _reached(prefix):
            found = self._system(prefix).get_file_info(fs.FileSelector(prefix, allow_not_found=True))
        return {info.base_name: _stored(info) for info in found if info.is_file}

    def fetch(self, path: str, to: Path) -> Stored:
        """Copy an object to a file.

        Raises:
            InputError: there is no such object, or it changed during the copy.
            StoreUnavailable: the store did not answer.
            ConfigError: the file cannot be written.
        """
        before = self.look(path)
        if before is None:
            raise InputError(f"{SCHEME}{path}: does not exist", "It existed when the run started. Restore it.")
        with _local(to):
            file = to.open("wb")
        # compression=None gives the stored bytes. By default, pyarrow would unpack .gz.
        with file, _reached(path), self._system(path).open_input_stream(path, compression=None) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                with _local(to):
                    file.write(chunk)
            with _local(to):
                file.flush()
        if self.look(path) != before or to.stat().st_size != before.size:
            what = f"{SCHEME}{path}: changed while it was read"
            raise InputError(what, "Let no other program write to it during the run.")
        return before

    def put(self, file: Path, path: str) -> Stored:
        """Copy a file to an object, and replace an existing one.

        Raises:
            StoreUnavailable: the store did not accept it.
        """
        # Written in one call: if an error ended the stream early, pyarrow would make an object of the first part.
        data = file.read_bytes()
        with _reached(path):
            stream = self._system(path).open_output_stream(path, compression=None)
            stream.write(data)
            stream.close()
        there = self.look(path)
        if there is None or there.size != len(data):
            what = f"{SCHEME}{path}: {len(data)} bytes were written, but the store has {there and there.size}"
            raise StoreUnavailable(what, "Let no other program write there. The same command writes it again.")
        return there

    def refuse_missing_buckets(self) -> None:
        """Raise a StoreUnavailable if a bucket does not exist, or the store does not answer."""
        for bucket in self.options:
            if self._info(bucket).type.name != "Directory":
                raise StoreUnavailable(f"{SCHEME}{bucket}: no such bucket, or no permission to see it", _ACCESS)

    def find(self, path: str) -> list[str]:
        """The objects of one INPUT: the object itself, those directly below a prefix, or those that match a pattern.

        Raises:
            InputError: there are none.
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
            fix = f"Give an object, a prefix with objects, or a quoted pattern of names; accepted: {ACCEPTED}."
            raise InputError(f"{SCHEME}{path}: no object to score was found", fix)
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
    """The buckets of some URIs, and the path of each URI.

    Raises:
        ConfigError: a URI has another scheme than s3, no bucket, a key that is not a valid path, or credentials; or two
            URIs have different options for the same bucket.
    """
    options: dict[str, str] = {}
    paths = []
    for uri in uris:
        if not uri.startswith(SCHEME):
            fix = f"Only {SCHEME} is supported. Mount the store, or copy the files to a disk."
            raise ConfigError(f"{uri.partition('://')[0]}://: this scheme is not supported", fix)
        path, _, query = uri.removeprefix(SCHEME).partition("?")
        path = path.removesuffix("/")
        bucket = path.partition("/")[0]
        if "@" in bucket:
            fix = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, because URIs are written to logs."
            raise ConfigError(f"{SCHEME}...@...: the URI has credentials", fix)
        if not bucket or str(PurePosixPath(path)) != path or ".." in path.split("/"):
            raise ConfigError(f"{uri}: not {SCHEME}BUCKET/KEY", "Use plain names with single slashes between them.")
        if options.setdefault(bucket, query) != query:
            raise ConfigError(f"{uri}: the same bucket has other options in another URI", "Give both the same options.")
        paths.append(path)
    return Stores(options), paths


@contextmanager
def _reached(path: str) -> Iterator[None]:
    """Turn pyarrow's errors about the store into a StoreUnavailable or an InputError."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{SCHEME}{path}: does not exist", "It existed before. Restore it.") from error
    except OSError as error:
        raise StoreUnavailable(f"{SCHEME}{path}: the store refuses: {first_line(error, 500)}", _ACCESS) from error


@contextmanager
def _local(path: Path) -> Iterator[None]:
    """Turn an error of this machine's disk into a ConfigError."""
    try:
        yield
    except OSError as error:
        what = f"{path.parent}: cannot be written: {error.strerror}"
        raise ConfigError(what, f"Free space, or set TMPDIR (it is {tempfile.gettempdir()}).") from error
