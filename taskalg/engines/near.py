"""The bounded tier: sums in binary64 whose errors are known to be too small to matter.

Where an input has 64 bits, as adapters' products have, no sum is exact. A bound on all its errors
is carried along, and a result counts when the whole interval rounds to one number: Ziv's test (Ziv
1991, "Fast Evaluation of Elementary Mathematical Functions with Correctly Rounded Last Bit"). An
output of 32 bits or fewer leaves so much room that hardly an element fails; if one does, its
sub-block goes to the double-double tier. Narrower inputs whose magnitudes lie far apart go there
at once: their sums are short, one in some hundred is the very middle of two outputs, and that no
bound can tell.

The bound: each of n coefficients is rounded once, and so is each of n multiply-adds. In units of
2**-53 that is at most 2 * n times the sum of all magnitudes, for which the largest of each input in
the sub-block stand; `_LOSS` doubles it, for what the bound itself loses. Rejected: a bound for each
element, which costs as much again as the sum.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskalg.engines.blocks import SUB_BLOCK, Inputs, Output, fill, write
from taskalg.engines.cache import compiled, inlined
from taskalg.engines.formats import Target
from taskalg.engines.instructions import (
    bits,
    default_arithmetic,
    fma,
    load,
    number,
    set_arithmetic,
)

_SIGN_CLEARED = np.uint64(2**63 - 1)
_FRACTION = np.uint64(52)
_ONE, _PRECISION = np.uint64(1), np.uint64(53)
_LOSS = 2.0**-51
MODERATE = 200  # |exponents| of weights and divisor that leave room for what follows
_SMALLEST, _LARGEST = 2.0**-600, 2.0**700  # of sums: beyond, a step could leave binary64's range


@inlined
def _rounds_alike(magnitude: float, margin: float, target: Target) -> Any:
    """Tell whether all numbers within a margin of a magnitude round to the same output.

    Rounding turns at midpoints of two outputs, which lie on a grid of half their distance. Beside a
    midpoint the margin must end before it. Beside an output the nearest midpoint is at least half a
    grid step away, a quarter of one where the exponent changes. Beside zero the sign turns, too.
    """
    exponent = max(bits(magnitude) >> _FRACTION, target.low)
    whole = number((exponent + target.bump) << _FRACTION)
    half = number((exponent + target.bump - _ONE) << _FRACTION)
    point = (magnitude + half) - half
    is_output = ((magnitude + whole) - whole == point) & (point > 0.0)
    step = number((exponent + target.bump - _PRECISION) << _FRACTION)  # of the grid
    return (abs(magnitude - point) > margin) | (is_output & (8.0 * margin < step))


@inlined
def _add(totals: Any, weight: float, block: Any, size: int) -> Any:
    """Add a term; return the pattern of its largest magnitude."""
    largest = np.uint64(0)
    for index in range(size):
        element = block[index]
        largest = max(largest, bits(element) & _SIGN_CLEARED)
        totals[index] = fma(weight, element, totals[index])
    return largest


@inlined
def _add_wide(totals: Any, weight: float, address: int, start: int, size: int) -> Any:
    """Do what `_add` does, for an input of binary64 numbers, where they are."""
    largest = np.uint64(0)
    for index in range(size):
        pattern = load(address, start + index, np.uint64)
        largest = max(largest, pattern & _SIGN_CLEARED)
        totals[index] = fma(weight, number(pattern), totals[index])
    return largest


@inlined
def _are_certain(totals: Any, margin: float, target: Target, size: int) -> bool:
    unsure = 0
    for index in range(size):
        unsure += not _rounds_alike(abs(totals[index]), margin, target)
    return unsure == 0


@compiled
def near(
    inputs: Inputs,
    weights: NDArray[np.float64],
    output: Output,
    ceiling: float,
    starts: NDArray[np.int64],
    count: int,
    missed: NDArray[np.int64],
) -> tuple[int, int]:
    """Evaluate sub-blocks whose results are all certain; list the starts of the others.

    Args:
        inputs: where elements are, and how to decode them.
        weights: coefficients, rounded to binary64.
        output: where results go, of at most 32 bits, and how they are rounded.
        ceiling: magnitude from which a result may be too large for the output.
        starts: of the sub-blocks [elements].
        count: elements of the block.
        missed: receives starts; `(len(starts),)`, and may be the same array.

    Returns:
        How many sub-blocks were missed, and how many results overflowed.
    """
    block, totals = np.empty(SUB_BLOCK), np.empty(SUB_BLOCK)
    before = default_arithmetic()
    loss = len(weights) * _LOSS
    misses = overflowed = 0
    for start in starts:
        size = min(SUB_BLOCK, count - start)
        totals[:] = 0.0  # a sum that stays zero, whatever its sign, is never certain
        bound = 0.0
        for term in range(len(weights)):
            if inputs.itemsizes[term] == 8:
                address = inputs.addresses[term]
                largest = _add_wide(totals, weights[term], address, start, size)
            else:
                fill(block, inputs, term, start, size)
                largest = _add(totals, weights[term], block, size)
            bound += abs(weights[term]) * number(largest)
        moderate = bound >= _SMALLEST and bound < _LARGEST  # a NaN is not
        if moderate and _are_certain(totals, bound * loss, output.target, size):
            overflowed += write(totals, output, start, size, bound >= ceiling)
        else:
            missed[misses] = start
            misses += 1
    set_arithmetic(before)
    return misses, overflowed
