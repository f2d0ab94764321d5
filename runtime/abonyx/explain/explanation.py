"""`abonyx explain`: tables and pictures of what each residue adds to a score."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from abonyx import scoring
from abonyx.arrays import shortest_decimal
from abonyx.bundle.chosen import choose_heads
from abonyx.bundle.heads import record_chains, sigmoid
from abonyx.bundle.manifest import LOGISTIC, HeadSpec
from abonyx.bundle.threshold import pooling_notes, shipped_note
from abonyx.contributions import refuse_without, run_contributions
from abonyx.errors import ConfigError
from abonyx.explain.explained import END, Explained, ExplainedChain, explain_record
from abonyx.input.checked import Input
from abonyx.output.directory import check_directory, staged
from abonyx.output.formats import write_rejected
from abonyx.run.progress import progress
from abonyx.run.request import RunRequest
from abonyx.run.summary_file import check_summary, summary_of, write_summary
from abonyx.run.windows import flag_notes
from abonyx.wording import option

CONTRIBUTIONS_CSV, REGIONS_CSV, RECORDS_CSV, FACTS_JSON = (
    "contributions.csv",
    "regions.csv",
    "records.csv",
    "explanation.json",
)
PICTURES = "pictures"
RECORD = "record"
# A record has two files, which take half a second each on one core. More pictures than this are usually a mistake.
MOST_PICTURES = 200
# Records whose contributions are in memory at a time.
_WINDOW = 256
WHAT_IT_IS = (
    "Each number is the share of a head's sum that passes through one residue's final state, less the mean that the "
    "graph subtracts. Together with the baseline, the numbers sum to the logit or value. They are not the effect of "
    "a mutation: the final state of a residue depends on the whole sequence."
)
_CHAIN_NAMES = {"H": "heavy", "L": "light"}


@dataclass(frozen=True)
class ExplanationRequest:
    """What the command was asked, except the options of every run, which are in RunRequest.

    Attributes:
        output: directory to make.
        heads: names of heads, or "all"; None = the first.
        pictures: whether pictures are wanted; they need matplotlib.
        summary: where the summary goes as JSON; None = nowhere.
    """

    source: Path | None
    output: Path
    heads: Sequence[str] | str | None
    pictures: bool
    summary: Path | None = None


def explain_file(request: ExplanationRequest, run: RunRequest) -> list[str]:
    """Read the input, open the model once, and write the directory.

    Returns:
        The lines that the command line prints.

    Raises:
        ConfigError: an output that exists already, an unknown head, or too many pictures.
        InputError: see read_input.
        BundleError: the bundle's graph gives no contributions.
    """
    check_directory(request.output)
    check_summary(request.summary, request.output, request.source)
    started = time.perf_counter()
    names = choose_heads(run.bundle, request.heads, config=run.config).names
    by_name = {head.name: head for head in run.bundle.manifest.heads}
    heads = [by_name[name] for name in names]
    run = run.of_chains(record_chains(heads))
    checked = run.read(request.source)
    count = len(checked.ids)
    if request.pictures and count > MOST_PICTURES:
        what = f"{count} records: pictures of at most {MOST_PICTURES} records can be made"
        raise ConfigError(what, f"Give fewer records, or {option('no_pictures')}: the tables have all of them.")
    opened: list[str] = []
    with staged(request.output) as staging, progress(count) as on_batch:
        # closing the records closes the model, also after an error
        with closing(_explained(checked, run, names, on_batch, opened)) as records:
            _write(staging, records, heads, pictures=request.pictures)
        (staging / FACTS_JSON).write_bytes(
            msgspec.json.format(msgspec.json.encode(_facts(request, run, heads)), indent=2)
        )
        if run.skip:
            write_rejected(staging / "rejected.csv", checked.rejected)
    notes = [
        *opened[1:],
        *shipped_note(run.config),
        *pooling_notes(run.bundle, run.config),
        *checked.notes,
        *flag_notes(checked, scored=False),
    ]
    if request.summary is not None:
        seconds = time.perf_counter() - started
        found = summary_of(
            *("explain", run, checked),
            heads=names,
            earlier=0,
            seconds=seconds,
            open_seconds=None,
            outputs=[request.output],
            notes=notes,
        )
        write_summary(request.summary, found)
    done = f"{count:,} record{'s' * (count > 1)} explained, {len(checked.rejected):,} rejected"
    lines = [done, *opened[:1], *notes]
    return [*lines, f"wrote {request.output}; head{'s' * (len(names) > 1)} {', '.join(names)}"]


def _facts(request: ExplanationRequest, run: RunRequest, heads: Sequence[HeadSpec]) -> dict[str, Any]:
    """What explanation.json says."""
    batch = f" (batch {run.config.batch_size})" if run.config.batch_size else ""
    read = "-" if request.source is None else request.source.name
    how = {"input": read, "pooling": f"{run.config.pooling}{batch}"}
    units = {head.name: "logits" if head.kind == LOGISTIC else head.unit for head in heads}
    return {"what": WHAT_IT_IS, "units": units, **how, **run.metadata()}


def _explained(
    checked: Input, run: RunRequest, names: Sequence[str], on_batch: Callable[[int], None] | None, opened: list[str]
) -> Generator[Explained, None, None]:
    """Yield each record's contributions, in file order; the model is open until the last one.

    Args:
        opened: an empty list, to which the summary's lines about the model are added.
    """
    from abonyx.model import open_model  # not before the input was checked

    # upstream-batch makes its batches from the whole file
    flags = None if checked.light else scoring.pooled_eos(checked.sequences, run.config.batch_size)
    with open_model(run.config) as model:
        opened.append(f"model: {model.bundle.label()}")
        opened.extend(model.opening_notes)
        model.bundle.refuse_placeholder()
        refuse_without(model, model.bundle.path)
        for start in range(0, len(checked.ids), _WINDOW):
            window = slice(start, start + _WINDOW)
            chains = [chain[window] for chain in checked.chains]
            tokens = scoring.tokenize(model.manifest, *chains, distinct=flags is None)
            pooled = None if flags is None else flags[window]
            found = run_contributions(model, tokens, names, model.budget, eos_pooled=pooled, on_batch=on_batch)
            judged = [judgement.text for judgement in checked.judgements[window]]
            for record in zip(checked.ids[window], found, zip(*chains, strict=True), judged, strict=True):
                yield explain_record(*record)


def _write(directory: Path, records: Iterator[Explained], heads: list[HeadSpec], *, pictures: bool) -> None:
    """Write the tables row by row, and the pictures."""
    names = [head.name for head in heads]
    with ExitStack() as stack:

        def table(name: str, header: Sequence[str]) -> Any:
            file = (directory / name).open("w", encoding="utf-8", errors="backslashreplace", newline="")
            writer = csv.writer(stack.enter_context(file), lineterminator="\n")
            writer.writerow(header)
            return writer

        # Ids may repeat. So the last column is the record's number, with which the names of its pictures begin.
        residues = table(CONTRIBUTIONS_CSV, ("id", "chain", "position", "imgt", "region", "residue", *names, RECORD))
        regions = table(REGIONS_CSV, ("id", "chain", "region", "residues", *names, RECORD))
        summary = None
        for number, record in enumerate(records, 1):
            if summary is None:
                summary = table(RECORDS_CSV, _summary_header(record, heads))
            residues.writerows((*row, number) for row in _residue_rows(record, heads))
            regions.writerows((*row, number) for row in _region_rows(record, heads))
            summary.writerow([*_summary_row(record, heads), number])
            if pictures:
                _draw(directory / PICTURES, number, record, heads)
        if summary is None:
            raise AssertionError("an input without records was refused when it was read")


def _draw(directory: Path, number: int, record: Explained, heads: list[HeadSpec]) -> None:
    from abonyx.explain.bars import draw_record

    directory.mkdir(exist_ok=True)
    stem = f"{number:03d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', record.id)[:60]}"  # an id is not always a file name
    for kind, data in zip(("png", "svg"), draw_record(record, heads), strict=True):
        (directory / f"{stem}.{kind}").write_bytes(data)


def _residue_rows(record: Explained, heads: Sequence[HeadSpec]) -> Iterator[tuple[object, ...]]:
    for chain in record.chains:
        for place, values in zip(chain.places, chain.part.residues, strict=True):
            cells = (place.index + 1, place.imgt, place.region, place.residue)
            yield (record.id, chain.part.chain, *cells, *_cells(map(shortest_decimal, values), chain, heads))
        if chain.part.end.any():
            ends = _cells(map(shortest_decimal, chain.part.end), chain, heads)
            yield (record.id, chain.part.chain, "", "", END, "", *ends)


def _region_rows(record: Explained, heads: Sequence[HeadSpec]) -> Iterator[tuple[object, ...]]:
    for chain in record.chains:
        for region, (count, sums) in chain.regions().items():
            yield (record.id, chain.part.chain, region, count, *_cells(sums.tolist(), chain, heads))


def _cells(values: Iterable[object], chain: ExplainedChain, heads: Sequence[HeadSpec]) -> list[object]:
    """A cell for each head; empty if it does not expect this chain."""
    return [value if chain.part.chain in head.chains else "" for value, head in zip(values, heads, strict=True)]


def _summary_header(record: Explained, heads: Sequence[HeadSpec]) -> list[str]:
    of_heads = [
        f"{head.name}_{part}"
        for head in heads
        for part in ("baseline", "contributions", *(("logit", "p") if head.kind == LOGISTIC else ("value",)))
    ]
    charges = [f"{prefix}{name}" for prefix in _prefixes(record) for name in ("charge", "pI")]
    return ["id", *of_heads, *charges, "flag", RECORD]


def _summary_row(record: Explained, heads: Sequence[HeadSpec]) -> list[object]:
    found, cells = record.contributions, list[object]()
    for column, head in enumerate(heads):
        total, baseline = float(found.total[column]), float(found.baseline[column])
        cells += [baseline, total - baseline, total]
        cells += [float(sigmoid(found.total[column]))] if head.kind == LOGISTIC else []
    for chain in record.chains:
        cells += ["" if value is None else round(value, 2) + 0.0 for value in (chain.charge, chain.pi)]
    return [record.id, *cells, record.flag]


def _prefixes(record: Explained) -> list[str]:
    """The beginning of the names of each chain's columns."""
    if len(record.chains) == 1:
        return [""]
    return [f"{_CHAIN_NAMES[chain.part.chain]}_" for chain in record.chains]
