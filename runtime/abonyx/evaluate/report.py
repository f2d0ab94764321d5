"""report.html: one page that holds everything and links to nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from abonyx.errors import printable
from abonyx.evaluate import value_metrics
from abonyx.evaluate.lists import Table
from abonyx.evaluate.metrics import NAMES, Metric
from abonyx.evaluate.record import EvaluationRecord

# Rows that the page lists; the CSV files have them all.
LISTED_ROWS, LISTED_WRONG, LISTED_BEST, LISTED_PARENTS = 200, 50, 20, 50

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --rule: #c9c9c9; --soft: #f3f3f3;
  --grey: #5f5f5f; --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181b; --rule: #4a4d52; --soft: #23262b;
  --grey: #a3a6ab; --mark: #56b4e9; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.verdict { font-size: 1.3rem; line-height: 1.35; background: var(--soft); border-left: .3rem solid var(--mark);
  margin: .6rem 0; padding: .7rem 1rem; }
h2 { font-size: 1.1rem; margin: 1.4rem 0 .5rem; }
.rows { color: var(--grey); margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; max-width: 100%; }
th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
@media (max-width: 30rem) { th, td { padding-right: .6rem; } }
details { margin-top: 1.6rem; } details td { overflow-wrap: anywhere; }
thead th { border-bottom-width: 2px; }
.flagged tbody { color: var(--grey); } .flagged td { overflow-wrap: anywhere; }
ul { background: var(--soft); padding: .6rem 1rem .6rem 2rem; margin: .8rem 0; border-radius: .3rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; }
.pictures img { width: 100%; height: auto; background: #ffffff; border: 1px solid var(--rule); border-radius: .3rem; }
/* A picture has one set of colours. The filter makes it dark: it inverts the colours, then restores the hues. */
@media (prefers-color-scheme: dark) { .pictures img { filter: invert(1) hue-rotate(180deg); border-color: #b6b6b6; } }
@page { margin: 10mm; }
@media print {
  html { font-size: 9px; } body { font-size: 9px; margin: 0; padding: 0; }
  .pictures { grid-template-columns: 1fr 1fr; } figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
  details::details-content { content-visibility: visible; }
}
"""


class Lists(NamedTuple):
    """Rows that the page lists.

    Attributes:
        shortlist: all scored rows, best first.
        wrong: rows that are called wrong, furthest from the threshold first.
        flagged: rows whose score should not be trusted, with or without a label.
    """

    shortlist: Table
    wrong: Table
    flagged: Table


def report(title: str, record: EvaluationRecord, lists: Lists, pictures: Iterable[tuple[str, bytes]]) -> str:
    """Return the page: the conclusion first, how it was made last.

    Args:
        title: names the model and the data.
        record: what metrics.json has.
        pictures: alternative text and SVG of each.
    """
    notes = "".join(f"<li>{escape(note)}</li>" for note in record.notes)
    images = "".join(_image(text, svg) for text, svg in pictures)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="verdict">{escape(record.card.sentence)}</p>
{_parents_verdict(record)}{_drawn(record)}<p class="rows">{escape(record.rows_line())}</p>
{f"<ul>{notes}</ul>" if notes else ""}
<h2>Metrics (95 % intervals from draws of rows)</h2>{_metrics(record, record.metrics)}{_unflagged(record)}
{_by_parent(record)}{_stability(record)}<h2>Pictures</h2>
<div class="pictures">{images}</div>
{_wrong(lists.wrong, record)}{_shortlist(lists.shortlist)}{_flagged(lists.flagged, record)}
<details><summary>How this was made: command, bundle, settings</summary>{_facts(record.facts())}</details>
</body>
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
    """The metrics without the flagged rows, if there are flagged rows."""
    if record.unflagged is None or not record.n_flagged:
        return ""
    counts = f"{record.unflagged.n:,} of {record.n:,} rows with a label"
    return f"<h2>Metrics without flagged rows ({counts})</h2>{_metrics(record, record.unflagged.metrics)}"


def _stability(record: EvaluationRecord) -> str:
    """How scores change if the sequences are changed, if that was measured."""
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


def _drawn(record: EvaluationRecord) -> str:
    """How the interval of the sentence differs from those of the metrics."""
    drawn = record.drawn("the first sentence")
    return f'<p class="rows">{escape(_sentence(drawn))}.</p>\n' if drawn else ""


def _parents_verdict(record: EvaluationRecord) -> str:
    """The conclusion about variants of one parent, below the conclusion about all rows."""
    if record.by_parent is None:
        return ""
    return f'<p class="verdict">{escape(_sentence(record.by_parent.line()))}</p>\n'


def _by_parent(record: EvaluationRecord) -> str:
    """How well variants of one parent are ranked, if that was measured."""
    found = record.by_parent
    if found is None:
        return ""
    rows = [
        (each.parent, f"{each.rows:,}", *(_number(figure, ".3f") for figure in each.figures))
        for each in found.parents[:LISTED_PARENTS]
    ]
    header = (found.column, "rows", "model", "net charge alone", "model at equal charge")
    more = _more(len(found.parents), LISTED_PARENTS, "parents.csv")
    return f"<h2>Variants of one parent ({found.metric})</h2>\n{_table(Table(header, rows))}{more}\n"


def _wrong(table: Table, record: EvaluationRecord) -> str:
    """The rows that were called wrong, or have the largest errors."""
    if not table.rows:
        return ""
    title = f"Rows called wrong ({len(table.rows):,})" if record.values is None else "Largest errors"
    more = _more(len(table.rows), LISTED_WRONG, "predictions.csv")
    return f"<h2>{title}</h2>\n{_table(table, LISTED_WRONG)}{more}\n"


def _shortlist(table: Table) -> str:
    """The best rows, in the order of the head's scores."""
    more = _more(len(table.rows), LISTED_BEST, "shortlist.csv")
    return (
        f"<h2>Shortlist</h2>\n<p>The rows are in the order of their scores; flagged rows come last. Read the first "
        f"sentence of this page before you use the list.</p>\n{_table(table, LISTED_BEST)}{more}\n"
    )


def _flagged(table: Table, record: EvaluationRecord) -> str:
    """The flagged rows, in grey."""
    if not table.rows:
        return ""
    what = "scores have no call, and" if record.values is None else "values"
    return (
        f"<h2>Flagged rows ({len(table.rows):,})</h2>\n"
        f"<p>The head was not trained on such records: their {what} should not be trusted.</p>\n"
        f"{_table(table, LISTED_ROWS, 'flagged')}{_more(len(table.rows), LISTED_ROWS, 'predictions.csv')}\n"
    )


def _table(table: Table, most: int | None = None, style: str = "") -> str:
    head = "".join(f'<th scope="col">{escape(printable(name))}</th>' for name in table.header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(printable(cell))}</td>" for cell in row) + "</tr>" for row in table.rows[:most]
    )
    of_style = f' class="{style}"' if style else ""
    return f'<div class="wide"><table{of_style}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _more(count: int, listed: int, file: str) -> str:
    return f"<p>... and {count - listed:,} more: see {file}</p>" if count > listed else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts)
    return f"<table><tbody>{rows}</tbody></table>"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _image(text: str, svg: bytes) -> str:
    # As an image, not inline: two inline SVGs would share ids.
    data = base64.b64encode(svg).decode("ascii")
    return f'<figure><img alt="{escape(text)}" src="data:image/svg+xml;base64,{data}"></figure>'
