"""The fast tier: blocks of weighted sums, exact in binary64, rounded once on the bits.

`fused` reads every input once, keeps each element's sum in a register and writes each result once;
numba compiles it for each storage width and number of terms when first met. A sub-block takes part
when its magnitudes prove that no operation rounds (tiers.py); the others are listed for the next
tier. The proof is a minimum and a maximum over bit patterns, nearly free beside the sum itself.
`mixed` does the same for any dtypes and any number of terms, through binary64 blocks in cache.

Rejected: testing elements instead of sub-blocks, which costs as much as the sum; binary64 blocks
for everything, which take twice the time.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskalg.engines.blocks import SUB_BLOCK, Inputs, Output, fill, mend_overflow, write
from taskalg.engines.cache import compiled, inlined
from taskalg.engines.formats import BIAS, Quotient, Source, Target
from taskalg.engines.instructions import (
    binary32,
    bits,
    copy_sign,
    default_arithmetic,
    fma,
    less_one,
    load,
    magnitude,
    narrow,
    number,
    set_arithmetic,
    store,
    widen,
    width,
)

MOST_FUSED = 8  # terms; registers hold them all, and LLVM's alias checks still allow vectors

_EXPONENT = np.uint64(0x7FF << 52)
_SMALLEST_NORMAL = np.uint64(BIAS - 126 << 52)  # binary32's


class Exactness(NamedTuple):
    """What the fast tier needs to know of the coefficients and dtypes, weights aside."""

    divisor: float
    binades: np.int64  # most that the exponents of one sub-block's elements may differ
    lowest: np.int64  # exponent field of the smallest element that may take part
    highest: np.int64  # and of the largest
    overflowing: np.int64  # exponent field from which a result may be too large for the output


@inlined
def _admits(exactness: Exactness, low: Any, high: Any) -> Any:
    near = high - low <= exactness.binades
    return near and low >= exactness.lowest and high <= exactness.highest


@inlined
def _exponents(largest: np.uint64, less_one: np.uint64, fraction: np.uint64) -> Any:
    """Return the lowest and highest exponent fields; for zeros alone, two that always fit."""
    one = np.uint64(1)
    if largest == 0:
        return np.int64(BIAS), np.int64(BIAS)
    low = max((np.uint64(less_one) + one) >> fraction, one)
    high = max(np.uint64(largest) >> fraction, one)
    return np.int64(low), np.int64(high)


@inlined
def _extremes(addresses: Any, kind: Any, start: int, stop: int) -> Any:
    """Return the largest magnitude pattern, and the smallest but zero less one."""
    size = magnitude(load(addresses[0], start, kind))
    largest, smallest = size, less_one(size)
    for index in range(start, stop):
        for term in range(len(addresses)):
            size = magnitude(load(addresses[term], index, kind))
            largest = max(largest, size)
            smallest = min(smallest, less_one(size))
    return largest, smallest


@inlined
def _total(addresses: Any, kind: Any, index: int, weights: Any, source: Source) -> Any:
    element = widen(load(addresses[0], index, kind), source.shift, source.mask)
    total = weights[0] * element  # never from +0, which would lose the sign of a zero
    for term in range(1, len(addresses)):
        element = widen(load(addresses[term], index, kind), source.shift, source.mask)
        total = fma(weights[term], element, total)
    return total


@inlined
def _divide(total: float, quotient: Quotient, kind: Any) -> Any:
    """Return the pattern of a sum divided and rounded to the output (formats.py).

    The sign is that of the sum: a zero's would get lost on the way. Two products take the place of
    a slower division. `inverse + rest` is within 2**-106 of 1 / divisor, so `value` is rounded from
    the quotient times 1 + d, |d| <= 2**-105, and a quotient of 53 bits, as midpoints are, comes out
    exactly. Any other must be more than half a binary64 step from each midpoint m = M * 2**b, M odd
    and below 2**(p + 1). Let the sum be S * 2**l, S odd and below 2**53.

    l >= b: the distance is 2**b / divisor or more, and divisor < 2**(53 - p), so it exceeds half a
    step, at most 2**(b + p - 53), by 2**(b + 2 * p - 106), while d is worth 2**(b + p - 104) at
    most: enough, because p >= 3.

    l < b: with N = divisor * M * 2**(b - l), even, S = N + k, the distance over m is |k| / N. Half
    a step over m is 2**-53 / (1 + 2**-p) at most when m is normal; when it is not and M = 1, N is
    at most 2**53 - 2**p, or else the distance is below m, where steps are half as long.
    """
    value = fma(total, quotient.inverse, total * quotient.rest)
    if width(kind) == 32:
        return np.uint64(binary32(copy_sign(value, total)))
    top = max(bits(value) & _EXPONENT, _SMALLEST_NORMAL)
    magic = number(top + quotient.bump)
    near = copy_sign((value + magic) - magic, total)
    return narrow(binary32(near), quotient.shift, quotient.cap, kind)


@compiled
def fused(
    addresses: Any,
    kind: Any,
    weights: Any,
    source: Source,
    output: int,
    output_kind: Any,
    target: Target,
    quotient: Quotient,
    exactness: Exactness,
    count: int,
    missed: NDArray[np.int64],
) -> tuple[int, int]:
    """Evaluate what can be evaluated exactly; list the starts of the other sub-blocks.

    Args:
        addresses: of the inputs, all of one dtype of up to 32 bits: a tuple of integers.
        kind: array of unsigned integers as wide as an input element; only its type is used.
        weights: factors, the power of two that decoding leaves included.
        source: how to decode an input.
        output: address.
        output_kind: the same for the output.
        target: what an overflow looks like.
        quotient: how to divide and round.
        exactness: when to take part.
        count: elements.
        missed: receives starts [elements]; `(count / SUB_BLOCK rounded up,)`.

    Returns:
        How many sub-blocks were missed, and how many results overflowed.
    """
    before = default_arithmetic()
    misses = overflowed = 0
    for start in range(0, count, SUB_BLOCK):
        stop = min(start + SUB_BLOCK, count)
        largest, smallest = _extremes(addresses, kind, start, stop)
        low, high = _exponents(largest, smallest, source.fraction)
        if largest > source.largest or not _admits(exactness, low, high):
            missed[misses] = start
            misses += 1
            continue
        for index in range(start, stop):
            total = _total(addresses, kind, index, weights, source)
            store(output, index, output_kind, _divide(total, quotient, output_kind))
        if high >= exactness.overflowing:
            overflowed += mend_overflow(output, output_kind, start, stop, target)
    set_arithmetic(before)
    return misses, overflowed


@inlined
def _spread(block: NDArray[np.float64], size: int, largest: np.uint64, smallest: np.uint64) -> Any:
    for index in range(size):
        pattern = magnitude(bits(block[index]))
        largest = max(largest, pattern)
        smallest = min(smallest, less_one(pattern))
    return largest, smallest


@inlined
def _add(totals: NDArray[np.float64], weight: float, block: NDArray[np.float64], size: int) -> None:
    for index in range(size):
        totals[index] = fma(weight, block[index], totals[index])


@compiled
def mixed(
    inputs: Inputs,
    weights: NDArray[np.float64],
    output: Output,
    exactness: Exactness,
    count: int,
    missed: NDArray[np.int64],
) -> tuple[int, int]:
    """Do what `fused` does for any dtypes and any number of terms."""
    block, totals = np.empty(SUB_BLOCK), np.empty(SUB_BLOCK)
    before = default_arithmetic()
    misses = overflowed = 0
    for start in range(0, count, SUB_BLOCK):
        size = min(SUB_BLOCK, count - start)
        largest, smallest = np.uint64(0), np.uint64(2**64 - 1)
        totals[:] = -0.0  # the only zero that adding to leaves every sign alone
        for term in range(len(weights)):
            fill(block, inputs, term, start, size)
            largest, smallest = _spread(block, size, largest, smallest)
            _add(totals, weights[term], block, size)
        low, high = _exponents(largest, smallest, np.uint64(52))
        if not _admits(exactness, low, high):
            missed[misses] = start
            misses += 1
            continue
        for index in range(size):
            totals[index] /= exactness.divisor
        overflowed += write(totals, output, start, size, high >= exactness.overflowing)
    set_arithmetic(before)
    return misses, overflowed
