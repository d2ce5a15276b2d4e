"""The double-double tier: sub-blocks whose sums do not fit binary64.

Each element's sum is kept in two numbers and a bound on what even those lost. The quotient of the
first by the divisor is wrong by a few units in the last place, which matters only next to a point
where rounding turns; there the exact sign of `sum - point * divisor` decides (expansions.py), and
an element that stays undecided, is not finite, or has an extreme exponent is flagged for the
integer tier. Coefficients longer than 106 bits take part, with the bound to say how wrong they are.

Rejected: rounding to odd after every sum, as costly as the comparison and needed by all elements
rather than by the few percent near a turning point.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskalg.engines.blocks import SUB_BLOCK, Inputs, Output, fill, write
from taskalg.engines.cache import compiled, inlined
from taskalg.engines.expansions import UNSURE, compare, two_product, two_sum
from taskalg.engines.formats import Target
from taskalg.engines.instructions import bits, default_arithmetic, number, set_arithmetic

_SIGN_CLEARED = np.uint64(2**63 - 1)
_FRACTION = np.uint64(52)
_FRACTION_MASK = np.uint64(2**52 - 1)
_ONE = np.uint64(1)
_INFINITE = np.inf
# The quotient is within 3 * 2**-53 of the truth, relatively: its own rounding, the sum's second
# number, the divisor's second number. The corrected one of binary64 outputs is within 2**-100.
_QUOTIENT_ERROR, _CORRECTED_ERROR = 2.0**-50, 2.0**-98
_SMALLEST, _LARGEST = 2.0**-700, 2.0**960  # binary64 results beyond are left to the integers


class Weights(NamedTuple):
    """Factors over the divisor's power of two, one entry for each input."""

    high: NDArray[np.float64]
    low: NDArray[np.float64]  # high + low is a factor, to 106 bits
    doubt: NDArray[np.float64]  # bound on the error of that, 0 when it is exact
    short: NDArray[np.bool_]  # the factor is exact, and so is its product with any element
    smallest: NDArray[np.uint64]  # pattern of the smallest element but zero that is safe
    largest: NDArray[np.uint64]  # pattern of the smallest element that is too large


class Divisor(NamedTuple):
    """The divisor, scaled to [1, 2)."""

    high: float
    low: float
    doubt: float


class Sums(NamedTuple):
    """One entry for each element of a sub-block."""

    high: NDArray[np.float64]
    low: NDArray[np.float64]
    doubt: NDArray[np.float64]  # what the two miss at most; infinite or NaN: do not use them


@inlined
def _accumulate(block: NDArray[np.float64], weights: Weights, term: int, sums: Sums) -> None:
    weight, doubt = weights.high[term], weights.doubt[term]
    smallest, largest = weights.smallest[term] - _ONE, weights.largest[term]
    for index in range(len(block)):
        element = block[index]
        product, rest = two_product(weight, element)
        sums.high[index], lost = two_sum(sums.high[index], product)
        low, lost_first = two_sum(sums.low[index], lost)
        sums.low[index], lost_second = two_sum(low, rest)
        size = bits(element) & _SIGN_CLEARED
        extreme = (size - _ONE < smallest) | (size >= largest)  # zero less one is the largest
        missed = abs(lost_first) + abs(lost_second) + doubt * abs(element)
        sums.doubt[index] += _INFINITE if extreme else missed


@inlined
def _accumulate_short(block: NDArray[np.float64], weights: Weights, term: int, sums: Sums) -> None:
    """Do what `_accumulate` does, at half the cost, for exact products."""
    weight = weights.high[term]
    smallest, largest = weights.smallest[term] - _ONE, weights.largest[term]
    for index in range(len(block)):
        element = block[index]
        sums.high[index], lost = two_sum(sums.high[index], weight * element)
        sums.low[index], missed = two_sum(sums.low[index], lost)
        size = bits(element) & _SIGN_CLEARED
        extreme = (size - _ONE < smallest) | (size >= largest)
        sums.doubt[index] += _INFINITE if extreme else abs(missed)


@inlined
def _accumulate_low(block: NDArray[np.float64], weight: float, sums: Sums) -> None:
    for index in range(len(block)):
        product, rest = two_product(weight, block[index])
        low, lost_first = two_sum(sums.low[index], product)
        sums.low[index], lost_second = two_sum(low, rest)
        sums.doubt[index] += abs(lost_first) + abs(lost_second)


@inlined
def _normalize(sums: Sums, results: NDArray[np.float64]) -> None:
    """Make the two parts of each sum disjoint; results are the sums, rounded."""
    for index in range(len(results)):
        first, second = sums.high[index], sums.low[index]
        high, low = two_sum(first, second)
        sums.high[index], sums.low[index] = high, low
        # a zero from zeros alone keeps its sign
        results[index] = first if (first == 0.0) & (second == 0.0) else high


@inlined
def _turning_point(quotient: float, target: Target) -> Any:
    """Return the nearest output value or midpoint of two, a magnitude."""
    size = bits(quotient) & _SIGN_CLEARED
    exponent = max(size >> _FRACTION, target.low)
    magic = number((exponent + target.bump - _ONE) << _FRACTION)
    return (number(size) + magic) - magic


@inlined
def _divide(sums: Sums, divisor: Divisor, target: Target, results: Any, close: Any) -> None:
    """Turn sums into quotients, and mark those too close to a turning point."""
    for index in range(len(results)):
        quotient = results[index] / divisor.high
        results[index] = quotient
        doubt, size = sums.doubt[index], abs(quotient)
        margin = size * (_QUOTIENT_ERROR + divisor.doubt) + 2.0 * doubt
        distance = abs(size - _turning_point(quotient, target))
        exact_zero = (quotient == 0.0) & (doubt == 0.0)
        close[index] = not ((distance > margin) | exact_zero)  # NaN is always close


@inlined
def _settle(
    sums: Sums, index: int, divisor: Divisor, target: Target, results: Any, parts: Any
) -> bool:
    """Move a quotient to the right side of its turning point; return whether that was possible."""
    quotient = results[index]
    point = np.copysign(_turning_point(quotient, target), quotient)
    doubt = 2.0 * sums.doubt[index] + abs(point) * divisor.doubt
    if point == 0.0 or not doubt < _LARGEST:
        return False
    first, second = two_product(point, divisor.high)
    parts[0], parts[1], parts[2], parts[3] = sums.high[index], -first, sums.low[index], -second
    first, second = two_product(point, divisor.low)
    parts[4], parts[5] = -first, -second
    sign = compare(parts, 6, doubt)
    if sign == UNSURE:
        return False
    pattern = bits(point)
    if sign != 0:  # one binary64 step, away from zero when both signs agree
        pattern = pattern + _ONE if (sign > 0) == (point > 0.0) else pattern - _ONE
    results[index] = number(pattern)
    return True


@inlined
def _half_step(quotient: float, left: float) -> Any:
    """Return half the way from a binary64 number to its neighbor on the side of `left`."""
    pattern = bits(quotient) & _SIGN_CLEARED
    half = number(((pattern >> _FRACTION) - np.uint64(53)) << _FRACTION)
    toward_zero = (left < 0.0) != (quotient < 0.0)
    narrow = ((pattern & _FRACTION_MASK) == np.uint64(0)) & toward_zero
    return np.copysign(half * 0.5 if narrow else half, left)


@inlined
def _divide_wide(sums: Sums, divisor: Divisor, results: Any, lefts: Any) -> None:
    """Turn sums into binary64 quotients, and what those lost."""
    for index in range(len(results)):
        first = results[index] / divisor.high
        product, rest = two_product(first, divisor.high)
        remainder = (sums.low[index] - rest) - first * divisor.low
        correction = ((sums.high[index] - product) + remainder) / divisor.high
        corrected, left = two_sum(first, correction)
        lefts[index] = left
        results[index] = first if correction == 0.0 else corrected  # the sign of a zero stays


@inlined
def _mark_wide(doubts: Any, divisor: Divisor, results: Any, lefts: Any, close: Any) -> None:
    """Mark quotients that lie too close to the middle of two binary64 numbers."""
    for index in range(len(results)):
        quotient, left, doubt = results[index], lefts[index], doubts[index]
        size = abs(quotient)
        margin = size * (_CORRECTED_ERROR + divisor.doubt) + 2.0 * doubt
        distance = abs(left - _half_step(quotient, left))
        sure = (distance > margin) & (size >= _SMALLEST) & (size < _LARGEST)
        close[index] = not (sure | ((quotient == 0.0) & (doubt == 0.0)))


@inlined
def _settle_wide(
    sums: Sums, index: int, divisor: Divisor, left: float, results: Any, parts: Any
) -> bool:
    quotient = results[index]
    size, half = abs(quotient), _half_step(quotient, left)
    doubt = 2.0 * sums.doubt[index] + size * divisor.doubt
    if not (doubt < _LARGEST and _SMALLEST <= size < _LARGEST):
        return False
    first, second = two_product(quotient, divisor.high)
    parts[0], parts[1], parts[2], parts[3] = sums.high[index], -first, sums.low[index], -second
    first, second = two_product(quotient, divisor.low)
    parts[4], parts[5] = -first, -second
    parts[6], parts[7] = -half * divisor.high, -half * divisor.low
    sign = compare(parts, 8, doubt)
    if sign == UNSURE:
        return False
    odd = (bits(quotient) & _ONE) == _ONE
    if (sign == 0 and odd) or (sign != 0 and (sign > 0) == (half > 0.0)):
        results[index] = quotient + 2.0 * half
    return True


@inlined
def _sum_up(inputs: Inputs, weights: Weights, start: int, block: Any, sums: Sums) -> None:
    sums.high[:] = -0.0  # the only zero that adding to leaves every sign alone
    sums.low[:] = 0.0
    sums.doubt[:] = 0.0
    for term in range(len(weights.high)):
        fill(block, inputs, term, start, len(block))
        if weights.short[term]:
            _accumulate_short(block, weights, term, sums)
            continue
        _accumulate(block, weights, term, sums)
        if weights.low[term] != 0.0:
            _accumulate_low(block, weights.low[term], sums)


@compiled
def double_double(
    inputs: Inputs,
    weights: Weights,
    divisor: Divisor,
    output: Output,
    starts: NDArray[np.int64],
    count: int,
    flagged: NDArray[np.int64],
) -> tuple[int, int]:
    """Evaluate sub-blocks; list the elements that only the integer tier can settle.

    Args:
        inputs: where elements are, and how to decode them.
        weights: factors.
        divisor: what to divide the sum by.
        output: where results go.
        starts: first elements of the sub-blocks.
        count: elements in the whole block.
        flagged: receives the indices of elements that are not settled.

    Returns:
        How many elements were flagged, and how many of the others overflowed.
    """
    space, parts = np.empty((6, SUB_BLOCK)), np.empty(8)
    marks = np.empty(SUB_BLOCK, np.uint8)
    before = default_arithmetic()
    flags = overflowed = 0
    wide = output.itemsize == 8
    for start in starts:
        size = min(SUB_BLOCK, count - start)
        sums = Sums(space[0, :size], space[1, :size], space[2, :size])
        results, lefts, close = space[3, :size], space[4, :size], marks[:size]
        _sum_up(inputs, weights, start, space[5, :size], sums)
        _normalize(sums, results)
        if wide:
            _divide_wide(sums, divisor, results, lefts)
            _mark_wide(sums.doubt, divisor, results, lefts, close)
        else:
            _divide(sums, divisor, output.target, results, close)
        for index in range(size):
            if not close[index]:
                continue
            if wide:
                settled = _settle_wide(sums, index, divisor, lefts[index], results, parts)
            else:
                settled = _settle(sums, index, divisor, output.target, results, parts)
            if not settled:
                results[index] = 0.0
                flagged[flags] = start + index
                flags += 1
        overflowed += write(results, output, start, size, True)
    set_arithmetic(before)
    return flags, overflowed
