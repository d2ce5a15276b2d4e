"""What a sweep is for: a formula to maximize, and conditions on it; then the choice of a point.

Formulas are expressions of the language without checkpoints in them, whose names are scores, swept
scalars, and `base.KEY` for what the base scored. They are evaluated exactly, and a score means the
shortest decimal that it prints as: so 0.76 meets `>= 0.95*0.8`, which in binary64 would be luck.
"""

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.operators import BUILTINS
from taskalg.algebra.simplify import simplify
from taskalg.errors import (
    ExpressionError,
    Source,
    Span,
    UnknownNameError,
    UsageError,
    listed,
    printable,
    quoted,
)
from taskalg.language.nodes import Name, Recipe, walk
from taskalg.language.parser import parse_expression
from taskalg.language.recipe import Program, link
from taskalg.scalars import to_fraction
from taskalg.sweeping.values import Point

BASE = "base."  # what the names of the base's scores begin with
_RELATION = re.compile(r"[<>]=?|[≤≥]|=+")
_MEETS = {
    ">=": lambda left, right: left >= right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    "<": lambda left, right: left < right,
}
_TYPED = {"≤": "<=", "≥": ">="}
# Names have no dots in the language. While a formula is parsed they are a letter that looks like
# one (of Lisu), as wide, so that places in the text stay where they are.
_DOT = "\ua4f8"
_DOTTED = re.compile(r"(?<=\w)\.(?=[^\W\d])")
_EXAMPLE = '"control >= 0.95*base.control"'


@dataclass(frozen=True)
class Formula:
    """A number that follows from scores and scalars."""

    program: Program
    names: Mapping[str, Span]  # what it mentions, and where first

    def value(self, known: Mapping[str, Fraction | None]) -> Fraction | None:
        """Evaluate it; None when something in it is not finite, or is divided by zero."""
        given = {}
        for name in self.names:
            number = known[name]
            if number is None:
                return None
            given[name.replace(".", _DOT)] = Coefficient(number)
        try:
            value, _ = simplify(self.program, given)
        except ExpressionError:
            return None
        return value.constant if isinstance(value, Coefficient) else None


@dataclass(frozen=True)
class Condition:
    """Two formulas that are compared."""

    left: Formula
    relation: str
    right: Formula

    def gap(self, known: Mapping[str, Fraction | None]) -> Fraction | None:
        """Return by how much it is missed, from 0 to 2 of the larger side; None when it is met."""
        left, right = self.left.value(known), self.right.value(known)
        if left is None or right is None:
            return Fraction(2)
        if _MEETS[self.relation](left, right):
            return None
        return abs(left - right) / max(abs(left), abs(right), Fraction(1, 10**300))


@dataclass(frozen=True)
class Goal:
    """What a sweep is for."""

    maximize: str | None  # as it was typed
    minimize: str | None
    subject_to: tuple[str, ...]
    best: Formula | None  # of the one of the two that was given
    conditions: tuple[Condition, ...]

    @property
    def names(self) -> dict[str, Span]:
        """What all formulas mention, and where first."""
        sides = [side for one in self.conditions for side in (one.left, one.right)]
        formulas = [*([self.best] if self.best else []), *sides]
        return {name: span for one in reversed(formulas) for name, span in one.names.items()}

    @property
    def uses_base(self) -> bool:
        """Whether the base has to be scored."""
        return any(name.startswith(BASE) for name in self.names)


def read_goal(maximize: str | None, minimize: str | None, subject_to: Sequence[str]) -> Goal:
    """Parse what was asked for.

    Raises:
        ExpressionError: a text is no formula or no condition.
        UsageError: there is more than one formula to go by, or conditions and none.
    """
    if maximize is not None and minimize is not None:
        raise UsageError("a sweep maximizes or minimizes, not both", help="drop one of the two")
    if subject_to and maximize is None and minimize is None:
        raise UsageError(
            "conditions alone choose no point", help="say which of those that meet them: --maximize"
        )
    option, text = ("--maximize", maximize) if minimize is None else ("--minimize", minimize)
    best = None if text is None else _formula(Source(option, text), 0, len(text))
    return Goal(maximize, minimize, tuple(subject_to), best, tuple(map(_condition, subject_to)))


def check_names(goal: Goal, known: Collection[str]) -> None:
    """Refuse formulas that mention what is neither scored nor swept.

    Raises:
        UnknownNameError: one does.
    """
    for name, span in goal.names.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            start = f"did you mean {quoted(near[0])}? " if near else ""
            raise UnknownNameError(
                f"nothing is scored or swept that is called {quoted(name)}",
                span,
                help=f"{start}there is {listed([printable(one) for one in sorted(known)])}",
            )


def choose(
    points: Iterable[Point], base: Mapping[str, float], goal: Goal
) -> tuple[Point | None, Point | None]:
    """Return the best point that meets all conditions; if none does, None and the nearest.

    Of points that are equally good the first is chosen. One whose formula is not finite never is.
    """
    if goal.best is None:
        return None, None
    sign = 1 if goal.minimize is None else -1
    chosen, nearest = None, None
    most, least = None, None
    of_base = {BASE + key: _exact(score) for key, score in base.items()}
    for point in points:
        scores = {key: _exact(score) for key, score in point.scores.items()}
        known = {**of_base, **scores, **point.values}
        value = goal.best.value(known)
        if value is None:
            continue
        gaps = [gap for one in goal.conditions if (gap := one.gap(known)) is not None]
        distance = (len(gaps), sum(gaps))
        if not gaps and (most is None or sign * value > most):
            chosen, most = point, sign * value
        elif gaps and (least is None or distance < least):
            nearest, least = point, distance
    return chosen, nearest if chosen is None else None


def _exact(score: float) -> Fraction | None:
    return to_fraction(score) if math.isfinite(score) else None


def _condition(text: str) -> Condition:
    found = list(_RELATION.finditer(text))
    source = Source("--subject-to", text)
    if len(found) != 1 or found[0].group().startswith("="):
        at = found[-1].span() if found else (0, len(text))
        raise ExpressionError(
            "a condition compares two sides, with >=, <=, > or <",
            Span(source, *at),
            help=f"write it like {_EXAMPLE}",
        )
    relation = found[0].group()
    left = _formula(source, 0, found[0].start())
    right = _formula(source, found[0].end(), len(text))
    return Condition(left, _TYPED.get(relation, relation), right)


def _formula(source: Source, start: int, end: int) -> Formula:
    """Parse a part of a text; errors point into the whole."""
    if not source.text[start:end].strip():
        raise ExpressionError(
            "there is nothing to compare" if source.text.strip() else "there is no formula",
            Span(source, start, end),
            help=f"write it like {_EXAMPLE if source.text.strip() else 'control'}",
        )
    part = " " * start + _DOTTED.sub(_DOT, source.text[start:end])
    try:
        node = parse_expression(Source(source.name, part))
        found = [one for one in walk(node) if isinstance(one, Name)]
        found.sort(key=lambda one: -one.span.start)  # so that the first is the one that is kept
        given = {one.name: Coefficient.symbol(one.name) for one in found}
        program = link(Recipe((), node, source), builtins=BUILTINS, given=given)
        value, _ = simplify(program, given)
        if not isinstance(value, Coefficient) or value.varies:
            raise ExpressionError("this must be a number", node.span)
    except ExpressionError as error:
        if error.span is not None:
            error.span = Span(source, error.span.start, error.span.end)
        error.message = error.message.replace(_DOT, ".")
        error.help = error.help and error.help.replace(_DOT, ".")
        raise
    places = {one.name: Span(source, one.span.start, one.span.end) for one in found}
    return Formula(program, {name.replace(_DOT, "."): span for name, span in places.items()})
