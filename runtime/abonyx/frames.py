"""Scores as columns of a DataFrame, pandas' or polars', through narwhals (extra `frames`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from abonyx.alphabet import SequenceLimit
from abonyx.arrays import Float32Array
from abonyx.bundle.chosen import ChosenHeads, ColumnKind
from abonyx.config import RuntimeConfig
from abonyx.domain import Check, refuse_rule
from abonyx.errors import InputError, first_line, printable
from abonyx.extras import load
from abonyx.input.checked import Input
from abonyx.input.columns import Wanted, find_columns
from abonyx.input.judged import JudgedValue, judged, judged_pairs
from abonyx.input.pairs import columns_of
from abonyx.input.sequences import Gaps
from abonyx.logs import LOGGER
from abonyx.output.beside import column_kinds
from abonyx.output.columns import refuse_results, result_columns
from abonyx.run.opening import ChosenModel, chosen_model
from abonyx.run.request import prepare
from abonyx.run.windows import flag_notes, score_input
from abonyx.scoring import find_distinct
from abonyx.session import Session
from abonyx.texts import type_name

Frame = TypeVar("Frame")
_WHERE = "the frame"


def score_frame(
    frame: Frame,
    *,
    session: Session | None = None,
    config: RuntimeConfig | str | Path | None = None,
    sequence_column: str | None = None,
    heavy_column: str | None = None,
    light_column: str | None = None,
    threshold: float | None = None,
    assay: str | None = None,
    heads: Sequence[str] | str | None = None,
    panel: str | None = None,
    gaps: Gaps = "refuse",
    domain: Check = "check",
    trim: Literal["domain"] | None = None,
    with_columns: Sequence[str] = (),
) -> Frame:
    """A frame of the same kind with a score for each row, by the rules of `abonyx score`.

    No row is dropped, moved or changed, and pandas' index stays. New columns, behind the others:

    - p_nonspecific: float32;
    - nonspecific: 1 or 0, 8 bits; null for a row with a flag and no call;
    - call: "specific", "non-specific", or, if the head has stored quantiles, "uncertain"; null as in nonspecific;
    - percentile: interval of the share of the panel that scores lower, in percent, "FIRST-LAST": docs/percentile.md;
      null as in nonspecific, or without a panel;
    - flag: why the score should not be trusted, "" = nothing is wrong;
    - domain, with trim: the residues that were scored, FIRST-LAST from 1, "" = no domain to trim to;
    - NAME_p, NAME_nonspecific and NAME_call, or NAME_value, and NAME_percentile, of each other head that `heads` names;
    - charge (32 bits), pI (32 bits), length (32 bits) and cdr3, those that `with_columns` names;
    - rejected: why the row has no score; null if it has one. The other new columns are null then.

    A missing value (None, NaN, NA, NaT, or a word for it like "NA") is a rejected row.

    Args:
        frame: a DataFrame of pandas or polars.
        session: what to score with; None = a session is opened with `config`, and closed.
        config: as open_session takes it.
        sequence_column: the column of sequences, or FIRST:LAST of an alignment's columns; None = `sequence` or another
            known name, of an AIRR table its amino acids: docs/files.md.
        heavy_column, light_column: of heads that need both chains, their columns; None = those with a known name.
        threshold: call p strictly above it non-specific, and nothing uncertain; None = the assay's, or the head's
            default.
        assay: use the threshold that the head declares for it.
        heads: names of the bundle's heads, or "all"; None = the first. threshold and assay are the first head's.
        panel: whose percentiles are given; None = the bundle's first.
        gaps: "strip" takes `-`, `.` and a final `*` out of the sequences.
        domain: "check" flags rows that the head was not trained on, "require" rejects them, "off" does not look.
        trim: "domain" scores the variable domain inside a longer sequence.
        with_columns: of "charge", "pI", "length", "cdr3", "nearest_identity" and "interval":
            docs/files.md.

    Raises:
        InputError: not a DataFrame, or a lazy one; no such column, or several that could be meant; two columns of one
            name; sequences that are not text; result columns that are there already.
        ConfigError: narwhals is missing, or an option; SessionError, BundleError, ProviderError, ScoreNotFinite: as
            open_session and Session.score.
    """
    refuse_rule(domain, trim)
    nw = load("score_frame", "narwhals")
    table = _eager(nw, frame)
    with chosen_model(session, config) as chosen:
        run = prepare(
            config=chosen.config,
            bundle=chosen.bundle,
            check=domain,
            trim=trim is not None,
            gaps=gaps,
            with_columns=with_columns,
        )
        wanted = run.choose_heads(heads, assay, threshold, panel)
        run = run.of_chains(wanted.chains)
        names = columns_of(wanted.chains, sequence_column, heavy_column, light_column)
        chains = _sequences(nw, table, wanted.chains, *names)
        refuse_results(table.columns, _WHERE, run.trim, wanted, run.with_columns)
        longest = SequenceLimit.of(run.bundle.manifest, run.config)
        if len(chains) == 1:
            rows = judged(chains[0], run.rule, longest, gaps=gaps, in_children=True)
        else:
            rows = judged_pairs(chains, run.rule, longest, gaps=gaps, in_children=True)
        scores = _score(rows, wanted, chosen)
    columns = result_columns(rows, scores, wanted, run.trim, run.with_columns)
    kinds = wanted.kinds | column_kinds(run.with_columns, wanted)
    series = [_series(nw, table, name, cells, kinds.get(name)) for name, cells in columns.items()]
    scored: Frame = table.with_columns(*series).to_native()
    return scored


def _eager(nw: Any, frame: object) -> Any:
    """The frame as narwhals has it."""
    try:
        table = nw.from_native(frame)
        if isinstance(table, nw.LazyFrame):
            raise InputError(f"frame is {type_name(frame)}, which is lazy", "Give its rows: frame.collect().")
        list(table.columns)  # for what it raises
    except TypeError:
        fix = "Give a DataFrame of pandas or polars; for a list of sequences: session.score(sequences)."
        raise InputError(f"frame is {type_name(frame)}, not a DataFrame", fix) from None
    except nw.exceptions.DuplicateError as error:  # pandas takes them
        counts = ", ".join(line.removeprefix("- ") for line in str(error).splitlines()[1:])
        what = f"{_WHERE} has columns of the same name: {first_line(counts)}"
        raise InputError(what, "Rename or drop all but one.") from None
    return table


def _sequences(
    nw: Any, table: Any, chains: tuple[str, ...], sequence_column: str | None, light_column: str | None
) -> list[list[object]]:
    """The sequence of each row, in a list for each chain that a row needs; None = missing."""
    header = [str(name) for name in table.columns]
    at = find_columns(header, _WHERE, Wanted(None, sequence_column, None, light=light_column, chains=chains))
    cells: dict[int, list[object]] = {}
    for place in [*at.sequence, *([] if at.light is None else [at.light])]:
        column = table[:, place]
        missing = column.is_null() | column.is_nan() if column.dtype.is_float() else column.is_null()
        if column.dtype not in (nw.String, nw.Object, nw.Categorical, nw.Enum) and not missing.all():
            what = f"{_WHERE}: column {printable(header[place])!r} is {column.dtype}, not text"
            raise InputError(what, "Name the column of sequences: sequence_column=...")
        pairs = zip(column.to_list(), missing.to_list(), strict=True)
        cells[place] = [None if absent else value for value, absent in pairs]
    LOGGER.debug(f"{_WHERE}: sequences of {header[at.sequence.start]!r}")
    rows = ({place: column[row] for place, column in cells.items()} for row in range(len(table)))
    used = [at._replace(id=None, label=None).cells(row) for row in rows]
    columns = [[row.sequence for row in used]]
    return columns if at.light is None else [*columns, [row.light for row in used]]


def _score(rows: Sequence[JudgedValue], heads: ChosenHeads, chosen: ChosenModel) -> Float32Array:
    """The values (k, heads) of the rows that are not rejected.

    A sequence is scored once, unless pooling goes by its place in the frame.
    """
    kept = {f"row {number}": row for number, row in enumerate(rows) if row.rejected is None}
    if not kept:
        return np.empty((0, len(heads.names)), np.float32)
    ids, place = list(kept), np.arange(len(kept))
    if chosen.config.batch_size is None:
        _, place = find_distinct([f"{row.part.sequence}|{row.light}" for row in kept.values()])
        ids = [ids[first] for first in np.unique(place, return_index=True)[1]]
    light = [kept[id_].light for id_ in ids] if len(heads.chains) > 1 else []
    once = Input(ids, [kept[id_].part.sequence for id_ in ids], light=light)
    values, summary = score_input(chosen.bundle, once, chosen.config, heads.names, None, chosen.opening)
    of_all_rows = Input(judgements=[row.part.judgement for row in kept.values()])
    for note in [*flag_notes(of_all_rows, scored=True), *summary.notes]:
        LOGGER.info(note)
    of_all: Float32Array = values[place]
    return of_all


def _series(nw: Any, table: Any, name: str, values: Sequence[object], kind: ColumnKind | None) -> Any:
    """A new column, of text if it has no kind; its nulls are those of the frame's library."""
    if kind in ("call", "count") and table.implementation.is_pandas_like():
        # pandas' own integers have no null; with capitals they do.
        dtype = "Int8" if kind == "call" else "Int32"
        native = table.implementation.to_native_namespace().Series(values, index=table.to_native().index, dtype=dtype)
        return nw.from_native(native, series_only=True).alias(name)
    numbers = {"float": nw.Float32, "call": nw.Int8, "number": nw.Float32, "count": nw.Int32}
    stored = nw.String if kind is None else numbers.get(kind, nw.String)
    return nw.new_series(name, values, stored, backend=table.implementation)
