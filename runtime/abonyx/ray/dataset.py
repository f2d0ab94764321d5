"""Scores as a step of a Ray Data pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any, Literal, NamedTuple

import numpy as np

from abonyx.alphabet import SequenceLimit
from abonyx.bundle import open_bundle
from abonyx.bundle.threshold import called, choose_threshold
from abonyx.config import RuntimeConfig
from abonyx.domain import CHECKS, Check, DomainRule, Judgement, Part, part_problem, scored_part
from abonyx.engine.providers import window_size
from abonyx.errors import ConfigError, InputError
from abonyx.input.sequences import judge
from abonyx.ray.cluster import for_worker, load_ray, needs, worker_count

# Columns that are added.
P, CALLED, FLAG, PLACE, REASON = "p_nonspecific", "nonspecific", "flag", "domain", "rejected"


def score(
    dataset: Any,
    config: RuntimeConfig | None = None,
    *,
    threshold: float | None = None,
    sequence_column: str = "sequence",
    workers: int | None = None,
    domain: Check = "check",
    trim: Literal["domain"] | None = None,
) -> Any:
    """The dataset with a score for each row, lazily.

    No row is dropped and none changed. A row that cannot be scored (no text, a character that is no residue, DNA, too
    long: docs/errors.md) has its reason in the column `rejected`, and null in the other new columns; `rejected` is null
    in every other row. A row that the head was not trained on has a score, the reasons in the column `flag`, and null
    as nonspecific (docs/domain.md); without a reason `flag` is "". A domain that is only nanobody-like keeps its call.
    The order of rows is as in any Ray Data step: kept where the context says preserve_order.

    Args:
        dataset: a ray.data.Dataset.
        config: what to score with; None = RuntimeConfig(). cpu.threads is a worker's, 1 where it is not given.
        threshold: call p strictly above it non-specific: the column nonspecific (int8, 0 or 1); None = no such column.
        sequence_column: the column of sequences.
        workers: most workers; None = as many as the cluster's nodes have room for. Each is one actor with one session,
            and, on cuda, one card. Reading needs a CPU too.
        domain: "check" flags rows that the head was not trained on, "require" rejects them, "off" does not look.
        trim: "domain" scores the variable domain inside a longer sequence; the column domain names its residues,
            FIRST-LAST from 1, "" = all.

    Returns:
        A ray.data.Dataset with the columns of `dataset` and p_nonspecific (float32), nonspecific, flag, domain (if
        trimmed) and rejected (strings).
        Scores are those of Session.score within tolerances.BATCH_NEIGHBOURS (float32): batches differ.

    Raises:
        ConfigError: no Ray; a threshold outside [0, 1]; workers below 1; pooling upstream-batch, whose scores depend on
            a file's order; an unknown domain or trim, or trim with domain "off".
        BundleError: the bundle cannot be read, or has no head yet.
        EngineError: while the dataset is run, wrapped by Ray: the session cannot be opened, no such column of
            sequences, or a column of these names is there already.
    """
    data = load_ray("ray.data")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}", "Give 1 or more, or None for as many as there is room for.")
    _refuse_rule(domain, trim)
    config = for_worker(config or RuntimeConfig())
    if config.pooling == "upstream-batch":
        fix = "Score files with `abonyx score --ray`, or use pooling residues."
        raise ConfigError("config: pooling is 'upstream-batch', which needs the rows of a whole file in order", fix)
    bundle = open_bundle(config.bundle)
    bundle.variant(config.provider, config.variant)
    choose_threshold(bundle, None, threshold)
    rule = DomainRule(domain, trim is not None, bundle.manifest.head.domain_chains)
    return dataset.map_batches(
        Scorer,
        fn_constructor_args=(config, bundle.sha256, threshold, sequence_column, rule),
        batch_format="pyarrow",
        batch_size=window_size(config),
        compute=data.ActorPoolStrategy(min_size=1, max_size=workers or worker_count(config)),
        **needs(config),
    )


def _refuse_rule(domain: object, trim: object) -> None:
    if domain not in CHECKS:
        raise ConfigError(f"domain is {domain!r}", f"Give one of {', '.join(map(repr, CHECKS))}.")
    if trim not in (None, "domain"):
        raise ConfigError(f"trim is {trim!r}", "Give 'domain', or None to score sequences as they are.")
    if trim and domain == "off":
        what = "trim is 'domain' and domain is 'off': without looking for the domain there is nothing to trim to"
        raise ConfigError(what, "Leave one of them out.")


class Scorer:
    """The actor of score()."""

    def __init__(
        self, config: RuntimeConfig, bundle_sha256: str, threshold: float | None, column: str, rule: DomainRule
    ) -> None:
        from abonyx.ray.worker import open_checked

        self._model = open_checked(config, bundle_sha256)
        self._threshold, self._column, self._rule = threshold, column, rule

    def __call__(self, table: Any) -> Any:
        """A pyarrow.Table with the columns added."""
        import pyarrow as pa

        names = table.column_names
        if self._column not in names:
            raise InputError(f"the dataset has no column {self._column!r}; columns: {names}", "Give sequence_column.")
        if there := {P, CALLED, FLAG, REASON, *([PLACE] if self._rule.trim else [])} & set(names):
            raise InputError(f"the dataset has columns {sorted(there)} already", "Rename or drop them.")
        rows = judged(table.column(self._column).to_pylist(), self._rule, self._model.limit)
        good = np.array([row.rejected is None for row in rows], bool)
        p = np.zeros(len(rows), np.float32)
        if good.any():
            p[good] = self._model.score([row.part.sequence for row in rows if row.rejected is None])
        added = {P: pa.array(p, pa.float32(), mask=~good)}
        if self._threshold is not None:
            trusted = [row.rejected is None and row.part.judgement.trusted for row in rows]
            added[CALLED] = pa.array(called(p, self._threshold, trusted), pa.int8())
        added[FLAG] = pa.array([None if row.rejected else row.part.judgement.text for row in rows], pa.string())
        if self._rule.trim:
            added[PLACE] = pa.array([None if row.rejected else row.part.place for row in rows], pa.string())
        added[REASON] = pa.array([row.rejected for row in rows], pa.string())
        for name, column in added.items():
            table = table.append_column(name, column)
        return table


class _ScoredRow(NamedTuple):
    """What is scored of a row, or why nothing is."""

    part: Part
    rejected: str | None


_NOTHING = Part("", Judgement())


def judged(values: Sequence[object], rule: DomainRule, limit: SequenceLimit) -> list[_ScoredRow]:
    """Each value of a column of sequences, by the same rules as records of a file (input.checked)."""
    problems = [_problem(value) for value in values]
    readable = [judge(str(value))[0] for value, why in zip(values, problems, strict=True) if why is None]
    parts = iter(map(scored_part, readable, rule.judgements(readable), repeat(rule)))
    rows = []
    for why in problems:
        part = _NOTHING if why else next(parts)
        rows.append(_ScoredRow(part, why or part_problem(part, rule, limit)))
    return rows


def _problem(value: object) -> str | None:
    """Why a value cannot be scored, whatever its chain and length."""
    if not isinstance(value, str):
        return f"the sequence is {'null' if value is None else type(value).__name__}, not text"
    return judge(value)[1]
