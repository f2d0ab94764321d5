"""report.html: one page that holds everything and links to nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from abonyx.errors import printable
from abonyx.evaluate import value_metrics
from abonyx.evaluate.metrics import NAMES, Metric
from abonyx.evaluate.record import EvaluationRecord

# Flagged rows that the page lists; predictions.csv has them all.
LISTED_ROWS = 200

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --rule: #c9c9c9; --soft: #f3f3f3;
  --grey: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181b; --rule: #4a4d52; --soft: #23262b;
  --grey: #9a9da2; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.verdict { font-size: 1.15rem; margin: .3rem 0 .8rem; }
h2 { font-size: 1.1rem; margin: 1.4rem 0 .5rem; }
.columns { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; align-items: flex-start; }
.columns > section { flex: 1 1 26rem; min-width: 0; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
section:first-child td { white-space: nowrap; }
section + section td { overflow-wrap: anywhere; }
thead th { border-bottom-width: 2px; }
.flagged tbody { color: var(--grey); } .flagged td { overflow-wrap: anywhere; }
ul { background: var(--soft); padding: .6rem 1rem .6rem 2rem; margin: .8rem 0; border-radius: .3rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; }
.pictures img { width: 100%; height: auto; background: #ffffff; border: 1px solid var(--rule); border-radius: .3rem; }
@page { margin: 10mm; }
@media print {
  html { font-size: 9px; } body { font-size: 9px; margin: 0; padding: 0; }
  .columns > section { flex-basis: 16rem; } .pictures { grid-template-columns: 1fr 1fr; }
}
"""


class FlaggedRow(NamedTuple):
    """A row whose score should not be trusted, as the page shows it."""

    id: str
    label: str
    score: str
    flag: str


def report(
    title: str,
    record: EvaluationRecord,
    column: str,
    flagged: Sequence[FlaggedRow],
    pictures: Iterable[tuple[str, bytes]],
) -> str:
    """Return the page.

    Args:
        title: the input's name.
        record: what metrics.json has.
        column: name of the scores' column in predictions.csv.
        flagged: the rows whose scores should not be trusted, with a label or without.
        pictures: alternative text and SVG of each.
    """
    listed = "".join(f"<li>{escape(note)}</li>" for note in record.notes)
    images = "".join(_image(text, svg) for text, svg in pictures)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>abonyx evaluate: {escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="verdict">{escape(record.card.sentence)}</p>
{f"<ul>{listed}</ul>" if listed else ""}
<div class="columns">
<section><h2>Metrics</h2>{_metrics(record, record.metrics)}{_unflagged(record)}</section>
<section><h2>Run</h2>{_facts(record.facts())}</section>
</div>
{_stability(record)}<h2>Pictures</h2>
<div class="pictures">{images}</div>
{_flagged(flagged, column, record)}</body>
</html>
"""


def _metrics(record: EvaluationRecord, metrics: dict[str, Metric]) -> str:
    rows = ""
    for name, metric in metrics.items():
        word, form = (NAMES | value_metrics.NAMES)[name], ".4f"
        if record.values is not None and name in value_metrics.OF_UNIT:
            word, form = f"{word} ({record.values.unit})", ".4g"
        cells = "".join(f"<td>{_number(each, form)}</td>" for each in (metric.value, metric.low, metric.high))
        rows += f'<tr><th scope="row">{escape(word)}</th>{cells}</tr>'
    head = '<th scope="col">metric</th><th scope="col">value</th><th scope="col">2.5 %</th><th scope="col">97.5 %</th>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _unflagged(record: EvaluationRecord) -> str:
    """The metrics without the flagged rows, if they are others."""
    if record.unflagged is None or not record.n_flagged:
        return ""
    counts = f"{record.unflagged.n:,} of {record.n:,} rows with a label"
    return f"<h2>Metrics without flagged rows ({counts})</h2>{_metrics(record, record.unflagged.metrics)}"


def _stability(record: EvaluationRecord) -> str:
    """What changed sequences do to the scores, if that was measured."""
    if record.stability is None:
        return ""
    title, (header, *table) = record.stability.table()
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in table
    )
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    out = f", {record.stability.left_out:,} left out" if record.stability.left_out else ""
    return (
        f"<h2>{title} ({record.stability.rows:,} rows{out})</h2>\n"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>\n"
    )


def _flagged(rows: Sequence[FlaggedRow], column: str, record: EvaluationRecord) -> str:
    """The flagged rows, in grey, the first LISTED_ROWS of them."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("id", "label", column, "flag"))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(printable(cell))}</td>" for cell in row) + "</tr>" for row in rows[:LISTED_ROWS]
    )
    more = f"<p>... and {len(rows) - LISTED_ROWS:,} more: see predictions.csv</p>" if len(rows) > LISTED_ROWS else ""
    what = "scores have no call, and" if record.values is None else "values"
    return (
        f"<h2>Flagged rows ({len(rows):,})</h2>\n"
        f"<p>The head was not trained on such records: their {what} should not be trusted.</p>\n"
        f'<table class="flagged"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}\n'
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts)
    return f"<table><tbody>{rows}</tbody></table>"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _image(text: str, svg: bytes) -> str:
    # As an image, not inline: an SVG's ids would meet those of the next one.
    data = base64.b64encode(svg).decode("ascii")
    return f'<figure><img alt="{escape(text)}" src="data:image/svg+xml;base64,{data}"></figure>'
