"""Scores as a step of a Ray Data pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np

from abonyx import alphabet
from abonyx.bundle import open_bundle
from abonyx.bundle.threshold import choose_threshold, is_nonspecific
from abonyx.config import RuntimeConfig
from abonyx.engine.providers import window_size
from abonyx.errors import ConfigError, InputError
from abonyx.ray.cluster import for_worker, load_ray, needs, worker_count

# Columns that are added.
P, CALLED, REASON = "p_nonspecific", "nonspecific", "rejected"


def score(
    dataset: Any,
    config: RuntimeConfig | None = None,
    *,
    threshold: float | None = None,
    sequence_column: str = "sequence",
    workers: int | None = None,
) -> Any:
    """The dataset with a score for each row, lazily.

    No row is dropped and none changed. A row that cannot be scored (no text, an unknown residue, too long:
    docs/errors.md) has null as p_nonspecific and nonspecific, and its reason in the column `rejected`, which is null in
    every other row. The order of rows is as in any Ray Data step: kept where the context says preserve_order.

    Args:
        dataset: a ray.data.Dataset.
        config: what to score with; None = RuntimeConfig(). cpu.threads is a worker's, 1 where it is not given.
        threshold: call p strictly above it non-specific: the column nonspecific (int8, 0 or 1); None = no such column.
        sequence_column: the column of sequences.
        workers: most workers; None = as many as the cluster's nodes have room for. Each is one actor with one session,
            and, on cuda, one card. Reading needs a CPU too.

    Returns:
        A ray.data.Dataset with the columns of `dataset` and p_nonspecific (float32), nonspecific, rejected (string).
        Scores are those of Session.score within tolerances.BATCH_NEIGHBOURS (float32): batches differ.

    Raises:
        ConfigError: no Ray; a threshold outside [0, 1]; workers below 1; pooling upstream-batch, whose scores depend on
            a file's order.
        BundleError: the bundle cannot be read, or has no head yet.
        EngineError: while the dataset is run, wrapped by Ray: the session cannot be opened, no such column of
            sequences, or a column of these names is there already.
    """
    data = load_ray("ray.data")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}", "Give 1 or more, or None for as many as there is room for.")
    config = for_worker(config or RuntimeConfig())
    if config.pooling == "upstream-batch":
        fix = "Score files with `abonyx score --ray`, or use pooling residues."
        raise ConfigError("config: pooling is 'upstream-batch', which needs the rows of a whole file in order", fix)
    bundle = open_bundle(config.bundle)
    bundle.variant(config.provider, config.variant)
    choose_threshold(bundle, None, threshold)
    return dataset.map_batches(
        Scorer,
        fn_constructor_args=(config, bundle.sha256, threshold, sequence_column),
        batch_format="pyarrow",
        batch_size=window_size(config),
        compute=data.ActorPoolStrategy(min_size=1, max_size=workers or worker_count(config)),
        **needs(config),
    )


class Scorer:
    """The actor of score()."""

    def __init__(self, config: RuntimeConfig, bundle_sha256: str, threshold: float | None, column: str) -> None:
        from abonyx.ray.worker import open_checked

        self._model = open_checked(config, bundle_sha256)
        self._threshold, self._column = threshold, column

    def __call__(self, table: Any) -> Any:
        """A pyarrow.Table with the columns added."""
        import pyarrow as pa

        names = table.column_names
        if self._column not in names:
            raise InputError(f"the dataset has no column {self._column!r}; columns: {names}", "Give sequence_column.")
        if there := {P, CALLED, REASON} & set(names):
            raise InputError(f"the dataset has columns {sorted(there)} already", "Rename or drop them.")
        cleaned, reasons = self._checked(table.column(self._column).to_pylist())
        good = np.array([reason is None for reason in reasons], bool)
        p = np.zeros(len(reasons), np.float32)
        if good.any():
            p[good] = self._model.score([sequence for sequence, use in zip(cleaned, good, strict=True) if use])
        added = {P: pa.array(p, pa.float32(), mask=~good)}
        if self._threshold is not None:
            added[CALLED] = pa.array(is_nonspecific(p, self._threshold).astype(np.int8), pa.int8(), mask=~good)
        added[REASON] = pa.array(reasons, pa.string())
        for name, column in added.items():
            table = table.append_column(name, column)
        return table

    def _checked(self, values: list[object]) -> tuple[list[str], list[str | None]]:
        """Cleaned sequences, and why each cannot be scored; None = it can."""
        limit = self._model.limit
        cleaned, reasons = [], []
        for value in values:
            sequence = alphabet.clean(value) if isinstance(value, str) else ""
            kind = "null" if value is None else type(value).__name__
            problem = alphabet.problem(sequence, limit)
            cleaned.append(sequence)
            reasons.append(problem if isinstance(value, str) else f"the sequence is {kind}, not text")
        return cleaned, reasons
