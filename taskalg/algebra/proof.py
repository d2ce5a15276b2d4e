"""Is a coefficient zero on every tensor that could exist?

Without headers a pattern is a free yes or no, and a layer is any whole number in any stack. Given a
tensor's place, a coefficient is a function of finitely many patterns, decided by its truth table.
Over places it is piecewise polynomial in depth between the bounds that its ranges mention, so a
polynomial of degree n that vanishes at n + 1 depths of a piece vanishes on it. `_places` lists
enough places of every piece; checking those is a proof. Where a piece holds fewer depths than that
(`x[3:5]` of a stack that also ends at `-2`), all of them are listed.

A scalar that is known only later may be any number, so what stands beside each product of such
symbols has to be zero on its own. Divisors are multiplied out first. Where that takes too many
products, what is zero may be taken for something that is not, never the other way round.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.algebra.selectors import Glob, Item, LayerRange, Place, Ramp, Selector
from taskalg.errors import ExpressionError, listed

MAX_PATTERNS = 20  # a truth table of 2**20 rows takes a second
_MAX_SEARCH = 100_000  # places looked at in one piece
_ANY = Glob("*")  # the one pattern that is not a free yes or no: every name matches
_HELP = "give paths: then the real tensor names decide"

Truth = NDArray[np.bool_]
Bounds = tuple[int, int | None]  # from, up to and including; None is no end


@dataclass(frozen=True)
class Witness:
    """A tensor on which something is not zero."""

    matching: tuple[str, ...]  # patterns its name matches
    other: tuple[str, ...]  # patterns its name does not match
    layered: bool  # whether its place matters
    place: Place | None
    values: tuple[Number, ...]  # the coefficients there

    def __str__(self) -> str:
        words = []
        if self.matching:
            words.append(f"matching {listed(self.matching)}")
        if self.other:
            words.append(f"not matching {listed(self.other, 'or')}")
        name = f"a name {' but '.join(words)}" if words else "a tensor"
        if not self.layered:
            return name
        if self.place is None:
            return f"{name} in no layer"
        return f"{name} in layer {self.place.layer} of {self.place.first} to {self.place.last}"


def find_nonzero(coefficients: Sequence[Coefficient]) -> Witness | None:
    """Return a tensor on which one of the coefficients is not zero, or None: a proof.

    Raises:
        ExpressionError: there are too many patterns or layers to decide without tensor names.
    """
    coefficients = [coefficient for coefficient in coefficients if coefficient]
    if not coefficients:
        return None
    selectors = list({s: None for c in coefficients for s in c.selectors()})
    items: list[Item] = [item for selector in selectors for item in selector.items]
    globs = sorted({item for item in items if isinstance(item, Glob)} - {_ANY})
    if len(globs) > MAX_PATTERNS:
        raise ExpressionError(
            f"{len(globs)} patterns are too many to decide without tensor names",
            note=f"the limit is {MAX_PATTERNS}",
            help=_HELP,
        )
    rows = np.arange(1 << len(globs))
    columns = {glob: (rows >> index & 1).astype(bool) for index, glob in enumerate(globs)}
    columns[_ANY] = np.ones(len(rows), dtype=bool)
    ramps = list({ramp: None for c in coefficients for ramp in c.ramps()})
    degree = max(len(monomial.ramps) for c in coefficients for monomial in c.parts)
    ranges = {item for item in items if isinstance(item, LayerRange)}
    layered = bool(ramps or ranges)
    for place in _places(ranges, ramps, degree) if layered else iter([None]):
        found = _nonzero_at(place, coefficients, selectors, columns, len(rows))
        if found is not None:
            index, values = found
            matching = tuple(str(g) for i, g in enumerate(globs) if index >> i & 1)
            other = tuple(str(g) for i, g in enumerate(globs) if not index >> i & 1)
            return Witness(matching, other, layered, place, values)
    return None


def _nonzero_at(
    place: Place | None,
    coefficients: Sequence[Coefficient],
    selectors: Sequence[Selector],
    columns: dict[Glob, Truth],
    count: int,
) -> tuple[int, tuple[Number, ...]] | None:
    """Return the first row of the truth table where a coefficient is not zero at `place`."""
    truths = {selector: _truth(selector, place, columns, count) for selector in selectors}
    codes = np.zeros(count, dtype=np.int64)
    for truth in truths.values():  # rows that agree on every selector get the same code
        codes = np.unique(codes * 2 + truth, return_inverse=True)[1]
    for index in sorted(np.unique(codes, return_index=True)[1].tolist()):
        chosen = {selector for selector, truth in truths.items() if truth[index]}
        values = tuple(part.where(chosen.__contains__, place) for part in coefficients)
        if any(value and not Coefficient(value).vanishes() for value in values):
            return index, values
    return None


def _truth(
    selector: Selector, place: Place | None, columns: dict[Glob, Truth], count: int
) -> Truth:
    def union(items: Sequence[Item]) -> Truth:
        result = np.zeros(count, dtype=bool)
        for item in items:
            result |= columns[item] if isinstance(item, Glob) else item.contains(place)
        return result

    plain = union(selector.plain) if selector.plain else np.ones(count, dtype=bool)
    return plain & ~union(selector.excluded)


def _places(ranges: set[LayerRange], ramps: Sequence[Ramp], degree: int) -> Iterator[Place | None]:
    """Yield places enough for a proof: no stack first, then piece by piece."""
    yield None
    bounds = [b for r in ranges for b in (r.start, r.stop) if b is not None]
    from_start = _intervals({b for b in bounds if b >= 0})  # of the layer
    from_end = _intervals({-b for b in bounds if b < 0})  # of last - layer
    knots = {Fraction(i, len(r.values) - 1) for r in ramps for i in range(len(r.values))}
    pieces = list(pairwise(sorted(knots | {Fraction(0), Fraction(1)})))
    for layers in from_start:
        for tails in from_end:
            if tails[0] == 0:  # a stack of one layer, where ramps do not climb
                yield Place(layers[0], layers[0], layers[0])
            if not ramps:
                yield Place(layers[0], 0, layers[0] + tails[0])
                continue
            for piece in pieces:
                yield from _in_piece(layers, tails, piece, degree + 1)


def _intervals(cuts: set[int]) -> list[Bounds]:
    """Split the whole numbers from 0 at the cuts."""
    starts = sorted(cuts | {0})
    return [(a, b - 1) for a, b in pairwise(starts)] + [(starts[-1], None)]


def _in_piece(
    layers: Bounds, tails: Bounds, piece: tuple[Fraction, Fraction], wanted: int
) -> Iterator[Place]:
    """Yield places of `wanted` different depths in one piece, or of all there are.

    With m = layer - first and u = last - layer the depth is m / (m + u), so for every u the piece
    is an interval of m.
    """
    low, high = piece
    seen: set[Fraction] = set()
    tail, steps = max(tails[0], 0), 0
    last_tail = tails[1]
    if layers[1] == 0:  # the first layer of its stack: the depth is 0 however long that is
        last_tail = max(tails[0], 1)
    elif low > 0 and layers[1] is not None:  # further from the end no m is deep enough
        reach = floor(layers[1] * (1 - low) / low)
        last_tail = reach if last_tail is None else min(last_tail, reach)
    while len(seen) < wanted and (last_tail is None or tail <= last_tail):
        first = 1 if tail == 0 else ceil(tail * low / (1 - low))
        ends = [layers[1]] if layers[1] is not None else []
        if high < 1:
            ends.append(floor(tail * high / (1 - high)))
        ends.append(first + wanted)
        for m in range(first, min(ends) + 1):
            if (tail == 0) <= (high == 1):
                depth = Fraction(m, m + tail)
                if depth not in seen and len(seen) < wanted:
                    seen.add(depth)
                    layer = max(layers[0], m)
                    yield Place(layer, layer - m, layer + tail)
        tail, steps = tail + 1, steps + 1
        if steps > _MAX_SEARCH:
            raise ExpressionError("this cannot be decided without tensor names", help=_HELP)
