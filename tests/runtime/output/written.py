"""Seven rows with hostile ids, and functions to write them in the tests of outputs."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from abonyx.output.files import ids_path
from abonyx.output.formats import embeddings_format, results_format, score_columns
from abonyx.output.journal import Fact, Header
from abonyx.output.resumable import ResumableOutput, open_resumable

IDS = ["a", 'with, comma and "quote"', "two\nlines", "carriage\rreturn", "=1+1", " ä ", "007"]
SEQUENCES = [f"EVQL{'QA' * n}" for n in range(len(IDS))]
P = np.array([0.1, 1e-5, 0.54950005, 0.0, 1.0, 1e-45, 1 / 3], dtype=np.float32)
# The fourth row is flagged: it has a score and no call.
CALLS: list[int | None] = [0, 0, 1, None, 1, 0, 0]
WORDS: list[str | None] = ["specific", "specific", "uncertain", None, "non-specific", "specific", "specific"]
FLAGS = ["", "", "nanobody-like", "no antibody domain; 1 unknown residue (X)", "", "", ""]
Format = Literal["csv", "jsonl", "parquet"]
EmbeddingFormat = Literal["npy", "parquet"]


def header(rows: int, **identity: Fact) -> Header:
    return Header(identity, "config", rows=rows, rejected=0, token_budget=512, window_size=3)


@contextmanager
def open_results(path: Path, format: Format, metadata: dict[str, str], rows: int) -> Iterator[ResumableOutput]:
    with open_resumable([path], results_format(format, metadata), header(rows), restart=False) as output:
        yield output


@contextmanager
def open_embeddings(path: Path, format: EmbeddingFormat, rows: int, width: int) -> Iterator[ResumableOutput]:
    form = embeddings_format(format, rows, width, {"bundle": "mini"})
    targets = [ids_path(path), path] if format == "npy" else [path]
    with open_resumable(targets, form, header(rows), restart=False) as output:
        yield output


def write_all(path: Path, format: Format, metadata: dict[str, str] | None = None) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    with open_results(path, format, metadata or {}, 7) as output:
        output.append(3, score_columns(IDS[:3], SEQUENCES[:3], P[:3], CALLS[:3], WORDS[:3], FLAGS[:3]))
        output.append(7, score_columns(IDS[3:], SEQUENCES[3:], P[3:], CALLS[3:], WORDS[3:], FLAGS[3:]))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def no_file_over(size_bytes: int) -> Iterator[None]:
    """Let every write past this size fail (EFBIG), as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
