"""A step of a Ray Data pipeline that adds scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from abonyx.arrays import Float32Array
from abonyx.bundle import open_pinned
from abonyx.bundle.chosen import ChosenHeads, choose_heads
from abonyx.bundle.manifest import chain_letters
from abonyx.config import RuntimeConfig
from abonyx.domain import Check, DomainRule, refuse_rule
from abonyx.engine.providers import window_size
from abonyx.errors import ConfigError, EngineError, InputError, printable
from abonyx.input.judged import JudgedValue, judged, judged_pairs
from abonyx.output.beside import column_kinds, refuse_columns, refuse_pair_columns
from abonyx.output.columns import refuse_results, result_columns
from abonyx.ray.cluster import for_worker, load_ray, needs, worker_count


def score(
    dataset: Any,
    config: RuntimeConfig | None = None,
    *,
    threshold: float | None = None,
    heads: Sequence[str] | str | None = None,
    panel: str | None = None,
    sequence_column: str = "sequence",
    heavy_column: str = "heavy",
    light_column: str = "light",
    workers: int | None = None,
    domain: Check = "check",
    trim: Literal["domain"] | None = None,
    with_columns: Sequence[str] = (),
) -> Any:
    """Add scores to a dataset, lazily.

    No row is dropped or changed. A row that cannot be scored (no text, a character that is not a residue, DNA, too
    long; see docs/errors.md) has the reason in the column `rejected`, and null in the other new columns. In all other
    rows `rejected` is null. A row unlike the head's training set has a score, the reasons in the column `flag`, and
    null as nonspecific (docs/domain.md). Without a reason, `flag` is "". A domain whose only flag is nanobody-like
    keeps its call. As in any step of Ray Data, the order of rows is kept only with preserve_order in the context.

    Args:
        dataset: a ray.data.Dataset.
        config: the config; None = RuntimeConfig(). cpu.threads is for each worker; the default is 1.
        threshold: p strictly above this is non-specific in the columns nonspecific (int8, 0 or 1) and call. None = no
            head has a column nonspecific, and only heads with stored quantiles have a column call, which may be
            "uncertain". Other heads use their own thresholds and quantiles.
        heads: names of the bundle's heads, or "all"; None = the first. Other heads have the columns NAME_p,
            NAME_nonspecific and NAME_call (or NAME_value) and NAME_percentile, after flag.
        panel: name of the panel for percentiles; None = the bundle's first.
        sequence_column: the column of sequences.
        heavy_column, light_column: the columns of both chains, if the heads need both.
        workers: largest number of workers; None = as many as the cluster's nodes have room for, which is also the limit
            for a larger number. Each worker is an actor with one session, and on cuda with one GPU. Reading needs a
            CPU too.
        domain: "check" flags rows unlike the head's training set, "require" rejects them, "off" does not look.
        trim: "domain" scores only the variable domain of a longer sequence. The column domain has its residues,
            FIRST-LAST from 1; "" if no domain was found.
        with_columns: more columns, of "charge", "pI", "length", "cdr3", "nearest_identity" and "interval"
            (docs/files.md).

    Returns:
        A ray.data.Dataset with the columns of `dataset` and p_nonspecific (float32), nonspecific, call, percentile,
        flag, domain (if trimmed) and rejected (strings). Scores equal those of Session.score within
        tolerances.BATCH_NEIGHBOURS (float32), because batches differ.

    Raises:
        ConfigError: Ray is missing; no node has room for a worker; the threshold is outside [0, 1]; workers is below 1;
            pooling is upstream-batch, whose scores depend on the order of a file; domain or trim is unknown, or trim is
            given with domain "off".
        BundleError: the bundle cannot be read, or has no head yet.
        EngineError: when the dataset runs, and wrapped by Ray: the session cannot be opened, the column of sequences is
            missing, or a result column already exists.
    """
    data = load_ray("ray.data")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}", "Give 1 or more, or None for as many as the cluster has room for.")
    refuse_rule(domain, trim)
    beside = refuse_columns(with_columns, domain)
    config = for_worker(config or RuntimeConfig())
    if config.pooling == "upstream-batch":
        fix = "Score files with `abonyx score --ray`, or use pooling residues."
        raise ConfigError("config: pooling is 'upstream-batch', which needs all rows of a file in order", fix)
    config, bundle = open_pinned(config)
    bundle.variant(config.provider, config.variant)
    chosen = choose_heads(bundle, heads, None, threshold, config=config, panel=panel, with_columns=beside)
    refuse_pair_columns(beside, chosen.chains)
    chosen = chosen if threshold is not None else chosen.without_numbers()
    rule = DomainRule(domain, trim is not None, chain_letters(chosen.chains))
    columns = (heavy_column, light_column) if len(chosen.chains) > 1 else (sequence_column,)
    room = worker_count(config)  # raises if there is no room; Ray Data would silently wait for a node
    return dataset.map_batches(
        Scorer,
        fn_constructor_args=(config, bundle.sha256, chosen, columns, rule, beside),
        batch_format="pyarrow",
        batch_size=window_size(config),
        compute=data.ActorPoolStrategy(min_size=1, max_size=min(workers or room, room)),
        **needs(config),
    )


class Scorer:
    """The actor of score()."""

    def __init__(
        self,
        config: RuntimeConfig,
        bundle_sha256: str,
        heads: ChosenHeads,
        columns: tuple[str, ...],
        rule: DomainRule,
        with_columns: tuple[str, ...] = (),
    ) -> None:
        from abonyx.ray.worker import on_this_node, open_checked

        try:
            self._model = open_checked(config, bundle_sha256)
        except EngineError as error:
            raise on_this_node(error, config) from error
        self._heads, self._columns, self._rule, self._beside = heads, columns, rule, with_columns

    def __call__(self, table: Any) -> Any:
        """Add the columns to a pyarrow.Table."""
        import pyarrow as pa

        names = table.column_names
        for column in self._columns:
            if column not in names:
                fix = "Give heavy_column and light_column." if len(self._columns) > 1 else "Give sequence_column."
                raise InputError(f"the dataset has no column {printable(column)!r}; columns: {names}", fix)
        refuse_results(names, "the dataset", self._rule.trim, self._heads, self._beside)
        rows, scores = self._scored([table.column(column).to_pylist() for column in self._columns])
        stored = {"float": pa.float32(), "call": pa.int8(), "number": pa.float32(), "count": pa.int32()}
        kinds = self._heads.kinds | column_kinds(self._beside, self._heads)
        for name, cells in result_columns(rows, scores, self._heads, self._rule.trim, self._beside).items():
            table = table.append_column(name, pa.array(cells, stored.get(kinds.get(name, "word"), pa.string())))
        return table

    def _scored(self, chains: list[list[object]]) -> tuple[list[JudgedValue], Float32Array]:
        """(rows of one column of sequences or of both chains, values of the rows that are not rejected)."""
        if len(chains) == 1:
            rows = judged(chains[0], self._rule, self._model.limit)
            wanted = [row.part.sequence for row in rows if row.rejected is None]
            return rows, self._model.score(wanted, self._heads.names)
        rows = judged_pairs(chains, self._rule, self._model.limit)
        pairs = [(row.part.sequence, row.light) for row in rows if row.rejected is None]
        return rows, self._model.score(pairs, self._heads.names)
