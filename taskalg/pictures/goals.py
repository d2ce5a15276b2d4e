"""What a sweep was for, as its pictures show it: a limit is a line, a failed condition a mark."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from taskalg.language.nodes import Name
from taskalg.scalars import to_fraction
from taskalg.sweeping.goal import BASE, Condition, read_goal
from taskalg.sweeping.values import Point, Sweep


@dataclass(frozen=True)
class Limit:
    """A number that a key is compared with."""

    key: str
    value: float


@dataclass(frozen=True)
class Judged:
    """A sweep's points as its goal sees them; tuples are in the order of the points."""

    met: tuple[bool, ...]  # whether all conditions are
    aim: str  # what is maximized or minimized, or the first key when nothing is
    aims: tuple[float, ...]  # its numbers; NaN where there is none
    limits: tuple[Limit, ...]  # of conditions that compare one key with a number


def judged(sweep: Sweep) -> Judged:
    """Evaluate a sweep's goal at its points."""
    goal = read_goal(sweep.maximize, sweep.minimize, sweep.subject_to)
    base = {BASE + key: score for key, score in sweep.base.items()}
    known = [_known({**base, **point.scores}, point) for point in sweep.points]
    found = (_limit(one, sweep, known[0]) for one in goal.conditions)
    best = goal.best
    aims = (
        [point.scores[sweep.keys[0]] for point in sweep.points]
        if best is None
        else [math.nan if (value := best.value(one)) is None else float(value) for one in known]
    )
    return Judged(
        tuple(all(one.gap(at) is None for one in goal.conditions) for at in known),
        sweep.maximize or sweep.minimize or sweep.keys[0],
        tuple(aims),
        tuple(limit for limit in found if limit is not None),
    )


def _known(scores: Mapping[str, float], point: Point) -> dict[str, Fraction | None]:
    finite = {key: to_fraction(s) if math.isfinite(s) else None for key, s in scores.items()}
    return {**finite, **point.values}


def _limit(
    condition: Condition, sweep: Sweep, known: Mapping[str, Fraction | None]
) -> Limit | None:
    """Return a condition's limit, if one side is a key and the other is the same at all points."""
    for one, other in ((condition.left, condition.right), (condition.right, condition.left)):
        written = one.program.expression
        is_key = isinstance(written, Name) and set(one.names) <= set(sweep.keys)
        if is_key and all(name.startswith(BASE) for name in other.names):
            value = other.value(known)
            return None if value is None else Limit(next(iter(one.names)), float(value))
    return None
