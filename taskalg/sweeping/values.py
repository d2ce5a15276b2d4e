"""What a sweep found: its points with their scores, and the one that was chosen.

Plain values that print, become JSON and are drawn; how they came about is nowhere in them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from taskalg.algebra.rationals import decimal_text
from taskalg.errors import cells, printable
from taskalg.markup import CHOSEN, Cell, message, page, table

SCHEMA = 1


@dataclass(frozen=True)
class Point:
    """One point of a grid and what it scored."""

    values: Mapping[str, Fraction]  # of the swept scalars, exactly, in the order they were given
    scores: Mapping[str, float]  # by key; one number without a key is called "score"

    def __str__(self) -> str:
        return ", ".join(f"{name} = {decimal_text(value)}" for name, value in self.values.items())

    def __repr__(self) -> str:
        return f"Point({self.told})"

    @property
    def told(self) -> str:
        """What it is and what it scored, for a person."""
        scores = ", ".join(f"{key} {score_text(score)}" for key, score in self.scores.items())
        return printable(f"{self}: {scores}")


@dataclass(frozen=True)
class Sweep:
    """All points of a grid with their scores, and the choice among them."""

    names: tuple[str, ...]  # of the swept scalars
    points: tuple[Point, ...]  # in the grid's order
    base: Mapping[str, float]  # what the base scored; empty when nobody asked for it
    chosen: Point | None  # None when no point meets the conditions, or nothing was asked for
    nearest: Point | None  # where no point meets the conditions, the one that comes closest
    maximize: str | None  # what the chosen point has most of
    minimize: str | None  # or least of; one of the two at most
    subject_to: tuple[str, ...]  # conditions that the chosen point meets

    @property
    def keys(self) -> tuple[str, ...]:
        """What was scored."""
        return tuple(self.points[0].scores)

    @property
    def rows(self) -> list[dict[str, float]]:
        """Points as records of numbers, scalars first: what `pandas.DataFrame` takes."""
        return [
            {**{name: float(value) for name, value in point.values.items()}, **point.scores}
            for point in self.points
        ]

    def __str__(self) -> str:
        header = [*map(printable, (*self.names, *self.keys)), ""]
        said = self.choice
        return "\n".join([*_aligned([header, *self._table()]), *(["", said] if said else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [[Cell(text, CHOSEN if row[-1] else "") for text in row] for row in self._table()]
        header = [*self.names, *self.keys, ""]
        return page(table(header, rows, numbers=range(len(header) - 1)), message(self.choice))

    @property
    def choice(self) -> str:
        """Say which point was chosen and why; empty when nothing was asked for."""
        aim = f"the largest {self.maximize}" if self.maximize else f"the smallest {self.minimize}"
        conditions = " and ".join(self.subject_to)
        if self.chosen is not None:
            with_conditions = f" with {conditions}" if conditions else ""
            return printable(f"chosen: {self.chosen}, {aim}{with_conditions}")
        if self.nearest is not None:
            return printable(f"no point has {conditions}; {self.nearest} comes closest")
        return "no point has a finite score" if self.maximize or self.minimize else ""

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON; scalars are "p/q", scores that are not finite null."""
        return {
            "schema": SCHEMA,
            "names": list(self.names),
            "points": [_point_json(point) for point in self.points],
            "base": _scores_json(self.base),
            "chosen": None if self.chosen is None else _point_json(self.chosen),
            "nearest": None if self.nearest is None else _point_json(self.nearest),
            "maximize": self.maximize,
            "minimize": self.minimize,
            "subject_to": list(self.subject_to),
        }

    def _table(self) -> list[list[str]]:
        """Return a row for the base, if it has scores, and one for each point."""
        rows = []
        if self.base:
            blank = [""] * (len(self.names) - 1)
            rows.append(["base", *blank, *self._scores(self.base), ""])
        for point in self.points:
            values = (decimal_text(point.values[name]) for name in self.names)
            rows.append([*values, *self._scores(point.scores), self._mark(point)])
        return rows

    def _scores(self, scores: Mapping[str, float]) -> list[str]:
        return [score_text(scores[key]) for key in self.keys]

    def _mark(self, point: Point) -> str:
        return "chosen" if point is self.chosen else "nearest" if point is self.nearest else ""


def score_text(score: float) -> str:
    """Print a score for a person: six digits at most."""
    return f"{score:.6g}"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Align numbers to the right, and the mark in the last column to the left."""
    widths = [max(map(cells, column)) for column in zip(*table, strict=True)]
    widths[-1] = 0
    lines = []
    for row in table:
        padded = [" " * (w - cells(text)) + text for text, w in zip(row, widths, strict=True)]
        lines.append("   ".join(padded).rstrip())
    return lines


def _point_json(point: Point) -> dict[str, Any]:
    values = {n: f"{value.numerator}/{value.denominator}" for n, value in point.values.items()}
    return {"values": values, "scores": _scores_json(point.scores)}


def _scores_json(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {key: score if math.isfinite(score) else None for key, score in scores.items()}
