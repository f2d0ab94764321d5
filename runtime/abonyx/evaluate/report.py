"""report.html: one page that holds everything and links to nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from abonyx.errors import printable
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
    """A row whose score has no call, as the page shows it."""

    id: str
    label: str
    p: str
    flag: str


def report(
    title: str, record: EvaluationRecord, flagged: Sequence[FlaggedRow], pictures: Iterable[tuple[str, bytes]]
) -> str:
    """Return the page.

    Args:
        title: the input's name.
        record: what metrics.json has.
        flagged: the rows whose scores have no call, with a label or without.
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
<section><h2>Metrics</h2>{_metrics(record.metrics)}{_unflagged(record)}</section>
<section><h2>Run</h2>{_facts(record.facts())}</section>
</div>
{_stability(record)}<h2>Pictures</h2>
<div class="pictures">{images}</div>
{_flagged(flagged)}</body>
</html>
"""


def _metrics(metrics: dict[str, Metric]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(NAMES[name])}</th><td>{_number(metric.value)}</td>'
        f"<td>{_number(metric.low)}</td><td>{_number(metric.high)}</td></tr>"
        for name, metric in metrics.items()
    )
    head = '<th scope="col">metric</th><th scope="col">value</th><th scope="col">2.5 %</th><th scope="col">97.5 %</th>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _unflagged(record: EvaluationRecord) -> str:
    """The metrics without the flagged rows, if they are others."""
    if record.unflagged is None or not record.n_flagged:
        return ""
    counts = f"{record.unflagged.n:,} of {record.n:,} rows with a label"
    return f"<h2>Metrics without flagged rows ({counts})</h2>{_metrics(record.unflagged.metrics)}"


def _stability(record: EvaluationRecord) -> str:
    """What changed sequences do to the calls, if that was measured."""
    if record.stability is None:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{100 * each.flips:.1f} %</td><td>{each.mean_dp:.4f}</td></tr>'
        for name, each in record.stability.variations.items()
    )
    head = '<th scope="col">change</th><th scope="col">calls that flip</th><th scope="col">mean difference of p</th>'
    out = f", {record.stability.left_out:,} left out" if record.stability.left_out else ""
    return (
        f"<h2>How stable a call is ({record.stability.rows:,} rows{out})</h2>\n"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>\n"
    )


def _flagged(rows: Sequence[FlaggedRow]) -> str:
    """The flagged rows, in grey, the first LISTED_ROWS of them."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("id", "label", "p_nonspecific", "flag"))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(printable(cell))}</td>" for cell in row) + "</tr>" for row in rows[:LISTED_ROWS]
    )
    more = f"<p>... and {len(rows) - LISTED_ROWS:,} more: see predictions.csv</p>" if len(rows) > LISTED_ROWS else ""
    said = "The head was not trained on such records: their scores have no call, and should not be trusted."
    return (
        f"<h2>Flagged rows ({len(rows):,})</h2>\n<p>{said}</p>\n"
        f'<table class="flagged"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}\n'
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts)
    return f"<table><tbody>{rows}</tbody></table>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _image(text: str, svg: bytes) -> str:
    # As an image, not inline: an SVG's ids would meet those of the next one.
    data = base64.b64encode(svg).decode("ascii")
    return f'<figure><img alt="{escape(text)}" src="data:image/svg+xml;base64,{data}"></figure>'
