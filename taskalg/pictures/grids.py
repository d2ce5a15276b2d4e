"""A sweep over two scalars, or more: what is aimed at as a heatmap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from taskalg.algebra.rationals import decimal_text
from taskalg.errors import listed
from taskalg.pictures.canvas import INK, Titles, ink_on, number_text, shown, widest, wrapped
from taskalg.pictures.goals import Judged, judged
from taskalg.pictures.heatmap import ROOM, Heatmap, Scale, Side, draw_heatmap, thinned
from taskalg.sweeping.values import Point, Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.2  # height that a label needs [inches]


@dataclass(frozen=True)
class Cell:
    """The best point with the same two values; one that meets all conditions, if any does."""

    point: Point
    aim: float  # NaN where it has no number
    met: bool
    is_chosen: bool


Cells: TypeAlias = dict[tuple[Fraction, Fraction], Cell]  # by the values of row and column


def draw_grid(sweep: Sweep, names: Sequence[tuple[str, ...]]) -> "Figure":
    """Draw what is aimed at over the first two scalars, the best over the others.

    Cells whose points meet no conditions are hatched, and the chosen one has a frame.

    Args:
        sweep: what was found.
        names: of what varies; several names are equal at every point.
    """
    x, y = names[0][0], names[1][0]
    columns = sorted({point.values[x] for point in sweep.points})
    rows = sorted({point.values[y] for point in sweep.points}, reverse=True)
    found = judged(sweep)
    cells = _cells(sweep, found, (y, x))
    values = np.full((len(rows), len(columns)), np.nan)
    places = {place: (rows.index(place[0]), columns.index(place[1])) for place in cells}
    for place, cell in cells.items():
        values[places[place]] = cell.aim
    drawn = draw_heatmap(
        values,
        _side(rows, names[1], False),
        _side(columns, names[0], True),
        _scale(values, found.aim),
        _titles(sweep, names, cells),
    )
    for place, cell in cells.items():
        _frame(drawn, *places[place], cell)
    return drawn.figure


def _cells(sweep: Sweep, found: Judged, names: tuple[str, str]) -> Cells:
    sign = 1 if sweep.minimize is None else -1
    cells: Cells = {}
    for point, aim, met in zip(sweep.points, found.aims, found.met, strict=True):
        place = point.values[names[0]], point.values[names[1]]
        new = Cell(point, aim, met, point is sweep.chosen)
        old = cells.get(place)
        if old is None or _rank(new, sign) > _rank(old, sign):
            cells[place] = new
    return cells


def _rank(cell: Cell, sign: int) -> tuple[bool, float, bool]:
    aim = -math.inf if math.isnan(cell.aim) else sign * cell.aim
    return cell.met, aim, cell.is_chosen


def _called(names: Sequence[str]) -> str:
    """Return what scalars that are equal at every point are called."""
    return " = ".join(map(shown, names))


def _side(values: Sequence[Fraction], names: Sequence[str], across: bool) -> Side:
    """Return a side with as many labels as there is room for."""
    labels = [_value_text(value) for value in values]
    room = widest(labels) + 0.1 if across else _ROW
    return Side(thinned(labels, max(1, int(ROOM / room))), _called(names))


def _value_text(value: Fraction) -> str:
    text = decimal_text(value)
    return text.replace("-", "\N{MINUS SIGN}") if len(text) <= 7 else number_text(float(value))


def _scale(values: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", aim: str) -> Scale:
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 1)
    aside = 0 if low < high else 0.5
    return Scale("viridis", low - aside, high + aside, shown(aim), _cell_text)


def _cell_text(value: float) -> str:
    """Print a number with three digits, zeros at its end as well."""
    if value == value and 1e-3 <= abs(value) < 1e3:
        return f"{value:#.3g}".rstrip(".").replace("-", "\N{MINUS SIGN}")
    return number_text(value)


def _titles(sweep: Sweep, names: Sequence[tuple[str, ...]], cells: Cells) -> Titles:
    others = listed([_called(several) for several in names[2:]])
    notes = [sweep.choice, f"each cell: the best over {others}" if others else ""]
    if not all(cell.met for cell in cells.values()):
        notes.append("hatched: no point there meets the conditions")
    swept = listed([_called(several) for several in names])
    lines = [line for note in notes if note for line in wrapped(note, ROOM)]
    return Titles(f"Sweep of {swept}", tuple(lines))


def _frame(drawn: Heatmap, row: int, column: int, cell: Cell) -> None:
    from matplotlib.patches import Rectangle

    if not cell.met:
        ink = ink_on(drawn.mesh.to_rgba(np.ma.masked_invalid([cell.aim]))[0].tolist())
        hatched = Rectangle((column, row), 1, 1, fill=False, hatch="////", edgecolor=ink, lw=0)
        drawn.axes.add_patch(hatched).set_alpha(0.45)
    if cell.is_chosen:
        frame = Rectangle((column, row), 1, 1, fill=False, edgecolor=INK, lw=2.2, clip_on=False)
        drawn.axes.add_patch(frame)
