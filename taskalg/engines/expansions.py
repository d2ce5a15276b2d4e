"""Sums of binary64 numbers that lose nothing, for compiled code.

`two_sum` and `two_product` return a rounded result and exactly what rounding lost (Knuth 1969;
Dekker 1971, with a fused multiply-add). A list of such numbers, no two of which share a bit, is an
expansion (Shewchuk 1997): its sign is the sign of its largest part. None of this survives a
compiler that reassociates, so the kernels are compiled without fast-math.
"""

from typing import Any

from numpy.typing import NDArray

from taskalg.engines.cache import inlined
from taskalg.engines.instructions import fma

UNSURE = 2  # what `compare` returns when the doubt is larger than the difference


@inlined
def two_sum(x: float, y: float) -> Any:
    """Return the rounded sum and what it lost."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


@inlined
def two_product(x: float, y: float) -> Any:
    """Return the rounded product and what it lost."""
    product = x * y
    return product, fma(x, y, -product)


@inlined
def compare(parts: NDArray[Any], count: int, doubt: float) -> int:
    """Return the sign of the exact sum of `count` parts, or UNSURE.

    Args:
        parts: numbers whose exact sum is asked for; overwritten. The first two cancel exactly: they
            are within a factor of two of each other, with opposite signs.
        count: how many there are.
        doubt: how far the sum that is meant may be from the sum of the parts.
    """
    total, lost = parts[0] + parts[1], 0.0
    for index in range(2, count):
        total, rest = two_sum(total, parts[index])
        lost += abs(rest)
    margin = 2.0 * (doubt + lost)
    if abs(total) <= margin and lost > 0.0:
        total, margin = _exact_sum(parts, count), 2.0 * doubt
    if abs(total) <= margin and margin > 0.0:
        return UNSURE
    return int(total > 0.0) - int(total < 0.0)


@inlined
def _exact_sum(parts: NDArray[Any], count: int) -> float:
    """Add without a loss until the end: the sign is right, and zero means zero."""
    # parts[:index] is an expansion, smallest first; each step adds one number to it (grow)
    for index in range(1, count):
        carry = parts[index]
        for lower in range(index):
            carry, parts[lower] = two_sum(carry, parts[lower])
        parts[index] = carry
    total = 0.0
    for index in range(count):
        total += parts[index]
    return total
