"""card.md and card.html: the same card as two pages. The HTML loads nothing and links to nothing."""

from __future__ import annotations

import re
from html import escape
from typing import NamedTuple

from abonyx.card.record import STATISTICS, Card
from abonyx.card.sections import Section, sections
from abonyx.card.sentence import CHANCE, number

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --rule: #c9c9c9; --soft: #f3f3f3; --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181b; --rule: #4a4d52; --soft: #23262b;
  --mark: #56b4e9; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.1rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
.verdict { font-size: 1.3rem; line-height: 1.35; background: var(--soft); border-left: .3rem solid var(--mark);
  margin: 0; padding: .7rem 1rem; }
p { margin: .3rem 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .4rem 0; }
th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid var(--rule); white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
thead th { border-bottom-width: 2px; }
svg { width: 100%; max-width: 44rem; height: auto; font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); }
@media (max-width: 34rem) { svg { font-size: 19px; } }
@page { margin: 12mm; }
@media print { html, body { font-size: 10px; } body { margin: 0; padding: 0; max-width: none; }
  h2, tr, svg { break-inside: avoid; } h2 { break-after: avoid; } }
"""
# Characters that Markdown could read as markup anywhere in a line.
_MARKUP = re.compile(r"([\\`*_\[\]|~#])")
# The picture, in SVG units: names are to the left of _LEFT, one in each row.
_LEFT, _RIGHT, _WIDTH, _ROW = 210, 640, 660, 26


def markdown(card: Card) -> str:
    """card.md: the sentence alone on the first line."""
    blocks = [_plain(card.sentence), f"# {_plain(_title(card))}"]
    for section in sections(card):
        blocks.append(f"## {_plain(section.title)}")
        blocks += [f"- {_plain(text)}" if section.title == "Notes" else _plain(text) for text in section.paragraphs]
        if section.rows:
            blocks.append(_markdown_table(section))
    return re.sub(r"(\n- .*)\n(?=\n- )", r"\1", "\n\n".join(blocks)) + "\n"


def _markdown_table(section: Section) -> str:
    lines = [section.header, ["---" for _ in section.header], *section.rows]
    cells = [[each if index == 1 else _plain(each) for each in line] for index, line in enumerate(lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _plain(text: str) -> str:
    """Text that Markdown shows unchanged: names of files may hold any character."""
    return _MARKUP.sub(r"\\\1", escape(one_line(text), quote=False))


def one_line(text: str) -> str:
    """The whole text, with control characters escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _title(card: Card) -> str:
    return f"How far to trust {card.head}, judged on {card.name}"


def html(card: Card) -> str:
    """card.html: one page that prints on one sheet."""
    title = _text(_title(card))
    found = [_html_section(section, _picture(card)) for section in sections(card)]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p class="verdict">{_text(card.sentence)}</p>
{"".join(found)}</body>
</html>
"""


def _html_section(section: Section, picture: str) -> str:
    body = "".join(f"<p>{_text(text)}</p>\n" for text in section.paragraphs)
    if section.title == "Notes":
        body = f"<ul>{''.join(f'<li>{_text(text)}</li>' for text in section.paragraphs)}</ul>\n"
    if section.rows:
        head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in section.header)
        rows = "".join(
            f'<tr><th scope="row">{_text(row[0])}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in row[1:])}</tr>\n'
            for row in section.rows
        )
        # An area that scrolls on a phone must be able to have the focus, and needs a name.
        region = f'<div class="wide" tabindex="0" role="region" aria-label="{_text(section.title)}">'
        body += f"{region}<table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>\n"
    if section.title == "Folds by sequence cluster":
        body += picture
    return f"<section><h2>{_text(section.title)}</h2>\n{body}</section>\n"


def _text(value: str) -> str:
    return escape(one_line(value))


class _Mark(NamedTuple):
    """A row of the picture."""

    name: str
    value: float
    low: float
    high: float


def _picture(card: Card) -> str:
    """The first statistic of each predictor with its interval, and chance; "" if none is defined."""
    statistic, word = next(iter(STATISTICS[card.task].items()))
    marks = []
    for each in card.predictors:
        estimate = each.clusters[statistic]
        if estimate.value is not None and estimate.low is not None and estimate.high is not None:
            marks.append(_Mark(each.name, estimate.value, estimate.low, estimate.high))
    if not marks:
        return ""
    chance = CHANCE[statistic]
    first = min(chance, *(mark.low for mark in marks)) - 0.03
    last = max(chance, *(mark.high for mark in marks)) + 0.03

    def across(value: float) -> float:
        return round(_LEFT + (value - first) / (last - first) * (_RIGHT - _LEFT), 1)

    bottom = _ROW * len(marks) + 8
    rows = "".join(
        f'<text x="0" y="{_ROW * row + 20}">{_text(mark.name)}</text>'
        f'<line x1="{across(mark.low)}" x2="{across(mark.high)}" y1="{_ROW * row + 16}" y2="{_ROW * row + 16}" '
        f'stroke="{_colour(row)}" stroke-width="2"/>'
        f'<circle cx="{across(mark.value)}" cy="{_ROW * row + 16}" r="4.5" fill="{_colour(row)}"/>'
        for row, mark in enumerate(marks)
    )
    ends = "".join(
        f'<text x="{across(value)}" y="{bottom + 16}" text-anchor="middle">{number(value)}</text>'
        for value in (first + 0.03, last - 0.03)
        if abs(across(value) - across(chance)) > 90  # otherwise the two texts would touch
    )
    described = "; ".join(f"{mark.name} {number(mark.value)}" for mark in marks)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {bottom + 22}" role="img" aria-label="{_text(f"{word}: {described}")}">'
        f'<line x1="{across(chance)}" x2="{across(chance)}" y1="4" y2="{bottom}" stroke="var(--rule)" '
        f'stroke-width="2" stroke-dasharray="4 3"/>{rows}'
        f'<text x="0" y="{bottom + 16}">{_text(word)}</text>'
        f'<text x="{across(chance)}" y="{bottom + 16}" text-anchor="middle">chance {chance:g}</text>{ends}</svg>\n'
    )


def _colour(row: int) -> str:
    """A colour of its own for the head, which is the first row."""
    return "var(--ink)" if row else "var(--mark)"
