"""Scores as columns of a pandas or polars DataFrame, through narwhals (extra `frames`)."""

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
    """Score each row of a DataFrame, by the rules of `abonyx score`.

    Args:
        frame: a DataFrame of pandas or polars.
        session: the session that scores; None = open a session with `config`, and close it.
        config: as for open_session.
        sequence_column: the column of sequences, or FIRST:LAST of an alignment's columns; None = `sequence` or another
            known name. In an AIRR table, None = the column of amino acids (docs/files.md).
        heavy_column, light_column: the columns of both chains, for heads that need both; None = columns with a known
            name.
        threshold: a row is non-specific if its p is strictly above this, and no row is uncertain; None = the
            threshold of `assay`, or the head's default.
        assay: use the threshold that the head declares for this assay.
        heads: names of the bundle's heads, or "all"; None = the first. `threshold` and `assay` are for the first head.
        panel: name of the panel for percentiles; None = the bundle's first.
        gaps: "strip" removes `-`, `.` and a final `*` from the sequences; "refuse" rejects rows that have them.
        domain: "check" flags rows unlike the head's training set, "require" rejects them, "off" skips this check.
        trim: "domain" scores only the variable domain of a longer sequence.
        with_columns: more columns, of "charge", "pI", "length", "cdr3", "nearest_identity" and "interval"
            (docs/files.md).

    Returns:
        A frame of the same library. No row is dropped, moved or changed, and the pandas index is kept. The new columns
        come after the others:

        - p_nonspecific: float32;
        - nonspecific: 1 or 0, 8 bits; null for a row whose flag means that the row gets no call;
        - call: "specific", "non-specific", or, if the head has stored quantiles, "uncertain"; null as in nonspecific;
        - percentile: "FIRST-LAST", an interval for the percentage of the panel that scores lower; null as in
            nonspecific, or without a panel (docs/percentile.md);
        - flag: why the score should not be trusted; "" if nothing is wrong;
        - domain, with `trim`: the residues that were scored, FIRST-LAST, counted from 1; "" if no domain was found;
        - NAME_p, NAME_nonspecific and NAME_call (or NAME_value), and NAME_percentile, for each further head in `heads`;
        - charge, pI, length (each 32 bits) and cdr3, if `with_columns` names them;
        - rejected: why the row has no score; null if it has one. In a rejected row the other new columns are null.

        A row without a sequence (None, NaN, NA, NaT, or a word like "NA") is rejected.

    Raises:
        InputError: `frame` is not a DataFrame, or is lazy; a column is missing or ambiguous; two columns have the same
            name; sequences are not text; a result column already exists.
        ConfigError: narwhals is missing, or an option is wrong.
        SessionError, BundleError, ProviderError, ScoreNotFinite: as for open_session and Session.score.
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
    """The frame, wrapped by narwhals."""
    try:
        table = nw.from_native(frame)
        if isinstance(table, nw.LazyFrame):
            raise InputError(f"frame is {type_name(frame)}, which is lazy", "Give its rows: frame.collect().")
        list(table.columns)  # raises if names are not unique
    except TypeError:
        fix = "Give a DataFrame of pandas or polars; for a list of sequences: session.score(sequences)."
        raise InputError(f"frame is {type_name(frame)}, not a DataFrame", fix) from None
    except nw.exceptions.DuplicateError as error:  # pandas allows them
        counts = ", ".join(line.removeprefix("- ") for line in str(error).splitlines()[1:])
        what = f"{_WHERE} has columns of the same name: {first_line(counts)}"
        raise InputError(what, "Rename or drop all but one.") from None
    return table


def _sequences(
    nw: Any, table: Any, chains: tuple[str, ...], sequence_column: str | None, light_column: str | None
) -> list[list[object]]:
    """The sequences of all rows, one list for each chain; None = missing."""
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
    """Values of the k rows that are not rejected: (k, heads) float32.

    Equal sequences are scored once, unless the pooling rule depends on the place of a row in the frame.
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
    """A new column: text if it has no kind. A missing value is a null of the frame's library."""
    if kind in ("call", "count") and table.implementation.is_pandas_like():
        # Int8 and Int32 of pandas have nulls; int8 and int32 do not.
        dtype = "Int8" if kind == "call" else "Int32"
        native = table.implementation.to_native_namespace().Series(values, index=table.to_native().index, dtype=dtype)
        return nw.from_native(native, series_only=True).alias(name)
    numbers = {"float": nw.Float32, "call": nw.Int8, "number": nw.Float32, "count": nw.Int32}
    stored = nw.String if kind is None else numbers.get(kind, nw.String)
    return nw.new_series(name, values, stored, backend=table.implementation)
