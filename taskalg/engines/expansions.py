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
_ROUNDING = 2.0**-49  # of the sum of eight parts, relative to the sum of their magnitudes


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
        parts: numbers whose exact sum is asked for; overwritten. The first two should cancel most.
        count: how many there are.
        doubt: how far the sum that is meant may be from the sum of the parts.
    """
    total, size = parts[0], abs(parts[0])
    for index in range(1, count):
        total += parts[index]
        size += abs(parts[index])
    if abs(total) > 2.0 * doubt + size * _ROUNDING:
        return 1 if total > 0.0 else -1
    return UNSURE if doubt > 0.0 else _exact_sign(parts, count)


@inlined
def _exact_sign(parts: NDArray[Any], count: int) -> int:
    # parts[:index] is an expansion, smallest first; each step adds one number to it (grow)
    for index in range(1, count):
        carry = parts[index]
        for lower in range(index):
            carry, parts[lower] = two_sum(carry, parts[lower])
        parts[index] = carry
    for index in range(count - 1, -1, -1):
        if parts[index] != 0.0:
            return 1 if parts[index] > 0.0 else -1
    return 0
