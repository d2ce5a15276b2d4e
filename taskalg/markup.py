"""Values to HTML that a notebook shows: every text escaped, no scripts, no style sheets.

Names come from files of others, so nothing gets into the page but through `Cell` and `text`, which
escape it. Colors are the page's own, so that light and dark themes both work; backgrounds are
transparent tints of it. Templates were rejected: a dependency for three kinds of element.
"""

import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from taskalg.errors import printable

CHOSEN = "rgba(0, 158, 115, 0.25)"  # behind the row that matters
_TABLE = "border-collapse: collapse; margin: 0.4em 0; font-variant-numeric: tabular-nums"
_CELL = "padding: 0.15em 0.8em; border: none; white-space: pre"
_STRONGEST = 0.6  # of a tint; more would hide what is written on it


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    tint: str = ""  # a transparent color behind it, as CSS writes it


Row: TypeAlias = Sequence[str | Cell]


def text(content: str) -> str:
    """Return a text as HTML, safe wherever it came from."""
    return html.escape(printable(content))


def paragraph(first: str, rest: str) -> str:
    """Return a line: what it is, and what it says."""
    return f"<div><b>{text(first)}</b> &nbsp;<code>{text(rest)}</code></div>"


def message(content: str) -> str:
    """Return lines as they are, such as an error with its carets; nothing for none."""
    lines = "\n".join(map(text, content.split("\n")))
    return f"<pre>{lines}</pre>" if content else ""


def table(header: Sequence[str], rows: Sequence[Row], *, numbers: Collection[int] = ()) -> str:
    """Return a table.

    Args:
        header: what the columns are; empty for none.
        rows: texts, or cells where a tint is behind them.
        numbers: columns that are aligned to the right.
    """
    head = [_row("th", header, numbers)] if header else []
    body = [_row("td", row, numbers) for row in rows]
    return f'<table style="{_TABLE}">{"".join([*head, *body])}</table>'


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Return what things are called, and what they are."""
    return table((), rows)


def page(*parts: str) -> str:
    """Join parts; what is wider than the page scrolls."""
    return f'<div style="overflow-x: auto">{"".join(parts)}</div>'


def tint(share: float) -> str:
    """Return the tint of a number from -1, blue, over 0, none, to 1, red."""
    if not -1 <= share <= 1:  # NaN is no number from -1 to 1, either
        return "rgba(128, 128, 128, 0.3)"
    color = "178, 24, 43" if share > 0 else "33, 102, 172"  # of matplotlib's RdBu
    return f"rgba({color}, {_STRONGEST * abs(share):.2f})"


def _row(tag: str, row: Row, numbers: Collection[int]) -> str:
    cells = []
    for column, given in enumerate(row):
        cell = given if isinstance(given, Cell) else Cell(given)
        side = "right" if column in numbers else "left"
        behind = f"; background: {cell.tint}" if cell.tint else ""
        style = f"{_CELL}; text-align: {side}{behind}"
        cells.append(f'<{tag} style="{style}">{text(cell.text)}</{tag}>')
    return f"<tr>{''.join(cells)}</tr>"
