"""Embeddings from the bundle's own runtime, cached under the hash of everything that they depend on.

An entry is KEY.npy and KEY.json. The JSON is written last; an array without it is ignored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from abonyx.arrays import Float32Array
from abonyx.engine.onnx import import_engine
from abonyx.errors import BundleError, ChecksumMismatch, ConfigError, first_line
from abonyx.hashing import file_sha256
from abonyx.input.checked import Input
from abonyx.output.files import replacing
from abonyx.run.progress import progress
from abonyx.run.request import RunRequest
from abonyx.run.windows import ArraySink, Job, run_windows
from abonyx.wording import option
from abonyx_export.bundle_writer import Report

FORMAT = 1


class _Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the embeddings depend on; its hash is the entry's name.

    Attributes:
        config_sha256: hash of the config (provider, pooling, batches) without the bundle's path.
        sequences_sha256: hash of the sequences in file order, one per line.
    """

    format: int
    bundle_sha256: str
    variant: str
    config_sha256: str
    onnxruntime: str
    rows: int
    width: int
    sequences_sha256: str


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    identity: _Identity
    npy_sha256: str


def embed(run: RunRequest, checked: Input, directory: Path, report: Report) -> Float32Array:
    """The embeddings (n, D), float32, of an input's sequences in file order.

    Args:
        run: the bundle, and how it runs.
        checked: the input.
        directory: the cache; created if it does not exist.
        report: called with a line at each step.

    Raises:
        BundleError: the cache entry is damaged or belongs to another bundle.
        ConfigError: the cache cannot be written.
    """
    wanted = _identity(run, checked)
    key = hashlib.sha256(msgspec.json.encode(wanted)).hexdigest()
    array, record = directory / f"{key}.npy", directory / f"{key}.json"
    with _cache_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        if record.exists():
            report(f"embeddings of {wanted.rows} sequences from {array}")
            return _read(array, record, wanted)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(0, "the directory is not writable")
    embedding = _run(run, checked, wanted, report)
    with _cache_errors(directory):
        with replacing(array) as sink:
            np.lib.format.write_array(sink, embedding, allow_pickle=False)
        with replacing(record) as sink:
            sink.write(msgspec.json.encode(_Entry(identity=wanted, npy_sha256=file_sha256(array))))
    report(f"  saved in {array}")
    return embedding


def embed_records(run: RunRequest, checked: Input, directory: Path, report: Report) -> Float32Array:
    """The embeddings of an input's records: (n, D) as embed, or for pairs (n, 2 D) with the heavy chain's first."""
    if not checked.light:
        return embed(run, checked, directory, report)
    chains = Input(ids=checked.ids * 2, sequences=checked.sequences + checked.light)
    return np.hstack(np.split(embed(run, chains, directory, report), 2))  # (2 n, D) -> (n, 2 D)


def _identity(run: RunRequest, checked: Input) -> _Identity:
    variant, _ = run.bundle.variant(run.config.provider, run.config.variant)
    return _Identity(
        format=FORMAT,
        bundle_sha256=run.bundle.sha256,
        variant=variant,
        config_sha256=dataclasses.replace(run.config, bundle=None).sha256(),  # the same bundle may have several paths
        onnxruntime=import_engine().__version__,
        rows=len(checked.sequences),
        width=run.bundle.manifest.embedding_width,
        sequences_sha256=hashlib.sha256("\n".join(checked.sequences).encode()).hexdigest(),
    )


def _run(run: RunRequest, checked: Input, wanted: _Identity, report: Report) -> Float32Array:
    embedding = np.empty((wanted.rows, wanted.width), np.float32)
    report(f"embedding {wanted.rows} sequences, variant {wanted.variant} on {run.config.provider}")
    with progress(wanted.rows) as on_batch:
        summary = run_windows(run.bundle, [Job(checked, ArraySink(embedding))], run.config, None, on_batch)
    report(f"  {summary.run_seconds:.1f} s, opening took {summary.open_seconds:.1f} s")
    return embedding


def _read(array: Path, record: Path, wanted: _Identity) -> Float32Array:
    fix = f"Remove {record}, or give another {option('embedding_cache')}."
    try:
        entry = msgspec.json.decode(record.read_bytes(), type=_Entry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{record}: not an entry of an embedding cache: {first_line(error)}", fix) from error
    for field in msgspec.structs.fields(_Identity):
        there, here = getattr(entry.identity, field.name), getattr(wanted, field.name)
        if there != here:
            name = field.name.removesuffix("_sha256")
            raise BundleError(f"{record}: the entry's {name} is {there}, expected {here}", fix)
    if not array.exists():
        raise BundleError(f"{array} is missing, although {record.name} exists", fix)
    found = file_sha256(array)
    if found != entry.npy_sha256:
        raise ChecksumMismatch(f"{array}: sha256 {found}, {record.name} says {entry.npy_sha256}", fix)
    try:
        embedding: Float32Array = np.load(array, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise BundleError(f"{array}: not an array: {first_line(error)}", fix) from error
    if embedding.shape != (wanted.rows, wanted.width) or embedding.dtype != np.float32:
        what = f"{array}: {embedding.dtype} {embedding.shape}, expected float32 {(wanted.rows, wanted.width)}"
        raise BundleError(what, fix)
    return embedding


@contextmanager
def _cache_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"the embedding cache {directory} cannot be used: {error.strerror or error}"
        raise ConfigError(what, f"Give another directory with {option('embedding_cache')}.") from error
