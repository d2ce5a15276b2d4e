"""Coefficients on real tensors: names in, classes of tensors with equal coefficients out.

The number of classes is small however many tensors there are, so everything after this works on
classes: exact arithmetic is done once for each, not once for each tensor.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.algebra.selectors import Place, Selector


@dataclass(frozen=True)
class Table:
    """Coefficients by tensor."""

    classes: tuple[tuple[Number, ...], ...]  # distinct rows, one number for each coefficient
    of: Mapping[str, int]  # tensor name -> index into classes, in the order of the names


def tabulate(coefficients: Sequence[Coefficient], places: Mapping[str, Place | None]) -> Table:
    """Evaluate coefficients on tensors.

    Args:
        coefficients: one for each checkpoint.
        places: every tensor's name and where it stands in its stack.
    """
    if not any(coefficient.varies for coefficient in coefficients):
        row = tuple(coefficient.number for coefficient in coefficients)
        return Table((row,), dict.fromkeys(places, 0))
    named, others = _by_name({s: None for c in coefficients for s in c.selectors()})
    ramped = any(True for c in coefficients for _ in c.ramps())
    rows: dict[tuple[Number, ...], int] = {}
    known: dict[tuple[object, ...], int] = {}  # what decides a row -> the row's index
    of: dict[str, int] = {}
    for name, place in places.items():
        chosen = frozenset([*named.get(name, ()), *(s for s in others if s.selects(name, place))])
        key = (chosen, place if ramped else 0)
        index = known.get(key)
        if index is None:
            row = tuple(part.where(chosen.__contains__, place) for part in coefficients)
            index = known[key] = rows.setdefault(row, len(rows))
        of[name] = index
    return Table(tuple(rows), of)


def _by_name(selectors: Iterable[Selector]) -> tuple[dict[str, list[Selector]], list[Selector]]:
    """Sort out lists of names, as learned recipes have one for each of a thousand tensors."""
    named: dict[str, list[Selector]] = {}
    others = []
    for selector in selectors:
        if selector.names is None:
            others.append(selector)
        for name in selector.names or ():
            named.setdefault(name, []).append(selector)
    return named, others
