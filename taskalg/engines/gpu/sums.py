"""The double-double tier on the GPU: double_double.py for a few elements of each thread at a time.

What differs from the CPU: where two comparisons are enough to tell on which side of a turning point
a sum lies they decide, and where they are not the element is left; no longer expansion is tried.
NaN and infinities are settled here.
"""

import triton
import triton.language as tl

from taskalg.engines.gpu.elements import (
    BITS,
    FRACTION,
    INFINITY,
    LOW,
    NAN,
    NARROWER,
    SCALE,
    SIGNED,
    SPECIAL,
    at_top,
    magnitude,
    negative_zeros,
    sign_of,
    typed,
    widen,
)

_MAGNITUDE = tl.constexpr(2**63 - 1)
_SIGN = tl.constexpr(-(2**63))
_QUOTIENT_ERROR = tl.constexpr(2.0**-50)  # double_double.py says why these
_CORRECTED_ERROR = tl.constexpr(2.0**-98)
_SMALLEST = tl.constexpr(2.0**-700)
_LARGEST = tl.constexpr(2.0**960)


@triton.jit
def two_sum(x, y) -> tl.tensor:
    """Return the rounded sum and what it lost."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


@triton.jit
def two_product(x, y) -> tl.tensor:
    """Return the rounded product and what it lost."""
    product = x * y
    return product, tl.fma(x, y, -product)


@triton.jit
def bits(value) -> tl.tensor:
    """Return the pattern of a binary64 number."""
    return value.to(tl.int64, bitcast=True)


@triton.jit
def number(pattern) -> tl.tensor:
    """Return the binary64 number of a pattern."""
    return pattern.to(tl.float64, bitcast=True)


@triton.jit
def _normalized(high, low):
    """Make the two parts of a sum disjoint; a zero from zeros alone keeps its sign."""
    total, rest = two_sum(high, low)
    return tl.where((high == 0.0) & (low == 0.0), high, total), rest


@triton.jit
def _add(high, low, doubt, element, factor):
    """Add a product; `factor` points to its high and low parts, its doubt, and its limits."""
    first, second, vague = tl.load(factor), tl.load(factor + 1), tl.load(factor + 2)
    product, rest = two_product(first, element)
    high, lost = two_sum(high, product)
    low, missed = two_sum(low, lost)
    doubt += tl.abs(missed) + vague * tl.abs(element)
    low, missed = two_sum(low, rest)
    doubt += tl.abs(missed)
    product, rest = two_product(second, element)
    low, missed = two_sum(low, product)
    doubt += tl.abs(missed)
    low, missed = two_sum(low, rest)
    doubt += tl.abs(missed)
    size = tl.abs(element)
    extreme = ((size < tl.load(factor + 3)) & (size > 0.0)) | (size >= tl.load(factor + 4))
    return high, low, tl.where(extreme, float("inf"), doubt)


@triton.jit
def _turning_point(quotient, OUTPUT: tl.constexpr):
    """Return the nearest output value or midpoint of two, a magnitude."""
    size = bits(quotient) & _MAGNITUDE
    exponent = tl.maximum(size >> 52, OUTPUT[LOW])
    magic = number((exponent + (52 - OUTPUT[FRACTION] - 1)) << 52)
    return (number(size) + magic) - magic


@triton.jit
def _grow(total, doubt, part):
    """Add a part to a sum that need not be exact, and to its doubt what that lost."""
    total, lost = two_sum(total, part)
    return total, doubt + tl.abs(lost)


@triton.jit
def _divide(high, low, doubt, divisor, OUTPUT: tl.constexpr):
    """Return a quotient on the right side of its turning point, and whether that is sure."""
    first, second, vague = tl.load(divisor), tl.load(divisor + 1), tl.load(divisor + 2)
    total, rest = _normalized(high, low)
    quotient = total / first
    size = tl.abs(quotient)
    turning = _turning_point(quotient, OUTPUT)
    margin = size * (_QUOTIENT_ERROR + vague) + 2.0 * doubt
    sure = (tl.abs(size - turning) > margin) | ((quotient == 0.0) & (doubt == 0.0))
    point = number(bits(turning) | (bits(quotient) & _SIGN))
    product, lost = two_product(point, first)
    other, remainder = two_product(point, second)
    doubt = 2.0 * doubt + turning * vague
    beyond = total - product  # exactly: they are within a factor of two of each other
    beyond, doubt = _grow(beyond, doubt, rest)
    beyond, doubt = _grow(beyond, doubt, -lost)
    beyond, doubt = _grow(beyond, doubt, -other)
    beyond, doubt = _grow(beyond, doubt, -remainder)
    outward = (beyond > 0.0) == (point > 0.0)
    moved = bits(point) + tl.where(beyond == 0.0, 0, tl.where(outward, 1, -1))
    told = (tl.abs(beyond) > 2.0 * doubt) | (doubt == 0.0)
    told &= (turning > 0.0) & (doubt < _LARGEST)
    return tl.where(sure, quotient, number(moved)), sure | told


@triton.jit
def _half_step(quotient, left):
    """Return half the way from a binary64 number to its neighbor on the side of `left`."""
    pattern = bits(quotient) & _MAGNITUDE
    half = number(((pattern >> 52) - 53) << 52)
    toward_zero = (left < 0.0) != (quotient < 0.0)
    narrow = ((pattern & ((1 << 52) - 1)) == 0) & toward_zero
    return tl.where(narrow, half * 0.5, half)


@triton.jit
def _divide_wide(high, low, doubt, divisor):
    """Do what `_divide` does for binary64 results, but for those next to a midpoint."""
    first, second, vague = tl.load(divisor), tl.load(divisor + 1), tl.load(divisor + 2)
    total, rest = _normalized(high, low)
    quotient = total / first
    product, lost = two_product(quotient, first)
    correction = ((total - product) + ((rest - lost) - quotient * second)) / first
    corrected, left = two_sum(quotient, correction)
    quotient = tl.where(correction == 0.0, quotient, corrected)  # the sign of a zero stays
    size = tl.abs(quotient)
    margin = size * (_CORRECTED_ERROR + vague) + 2.0 * doubt
    sure = tl.abs(tl.abs(left) - _half_step(quotient, left)) > margin
    sure &= (size >= _SMALLEST) & (size < _LARGEST)
    return quotient, sure | ((quotient == 0.0) & (doubt == 0.0))


@triton.jit
def _encode(quotient, OUTPUT: tl.constexpr):
    """Round to nearest even; return the pattern, and whether it is too large."""
    size = bits(quotient) & _MAGNITUDE
    exponent = tl.maximum(size >> 52, OUTPUT[LOW])
    magic = (exponent + (52 - OUTPUT[FRACTION])) << 52
    steps = bits(number(size) + number(magic)) - magic
    rounded = steps + ((exponent - OUTPUT[LOW]) << OUTPUT[FRACTION])
    limit = OUTPUT[SPECIAL] >> (32 - OUTPUT[BITS])
    # beyond binary32's range the exponents of a narrow format would run over; one bit is enough
    overflows = (rounded >= limit) | (size >= (1023 + 200) << 52)
    kept = tl.where(overflows, limit, rounded).to(tl.int32)
    signed = kept | sign_of(quotient, OUTPUT[BITS])
    if OUTPUT[SIGNED] == 0:
        signed = tl.where(overflows, kept, signed)
    return signed, overflows


@triton.jit
def _special(pattern, weight, INPUTS: tl.constexpr, TERM: tl.constexpr):
    """Return what an element that is not finite adds, 0 for others; and whether it is not."""
    size = magnitude(pattern, INPUTS[TERM][BITS])
    odd = size >= INPUTS[TERM][SPECIAL]
    infinite = size == INPUTS[TERM][INFINITY]
    if INPUTS[TERM][BITS] == 64:
        infinite &= pattern.to(tl.int32) == 0
    infinity = tl.where((pattern < 0) != (weight < 0.0), float("-inf"), float("inf"))
    return tl.where(odd, tl.where(infinite, infinity, float("nan")), 0.0), odd


@triton.jit
def _encode_special(special, OUTPUT: tl.constexpr):
    """Return the pattern of an infinity or a NaN."""
    if OUTPUT[BITS] == 64:
        return tl.where(special != special, OUTPUT[NAN], bits(special))
    else:
        infinity = tl.full(special.shape, OUTPUT[SPECIAL] >> (32 - OUTPUT[BITS]), tl.int32)
        if OUTPUT[SIGNED]:
            infinity |= sign_of(special, OUTPUT[BITS])
        return tl.where(special != special, OUTPUT[NAN], infinity)


@triton.jit
def _rounded(high, low, doubt, divisor, OUTPUT: tl.constexpr):
    """Return patterns, whether they are sure, and whether they are too large."""
    if OUTPUT[BITS] == 64:
        quotient, sure = _divide_wide(high, low, doubt, divisor)
        return bits(quotient), sure, quotient != quotient
    else:
        quotient, sure = _divide(high, low, doubt, divisor, OUTPUT)
        pattern, overflows = _encode(quotient, OUTPUT)
        return pattern, sure, overflows


@triton.jit
def double_double(
    record, numbers, start, stop,
    INPUTS: tl.constexpr, OUTPUT: tl.constexpr, SIZE: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Evaluate SIZE elements of a tensor from `start` on, those before `stop`.

    `record` has its addresses, `numbers` its row of coefficients (tables.py). Returned are
    patterns, whether they are sure, whether they overflow, and how many inputs of each are not
    finite.
    """
    TERMS: tl.constexpr = len(INPUTS)
    offsets = start + tl.arange(0, SIZE)
    high, low = negative_zeros(SIZE), tl.zeros((SIZE,), tl.float64)
    doubt, special = tl.zeros((SIZE,), tl.float64), tl.zeros((SIZE,), tl.float64)
    odds = tl.zeros((SIZE,), tl.int32)
    for term in tl.static_range(TERMS):
        weight = tl.load(numbers + term)
        pointer = typed(tl.load(record + term), INPUTS[term][BITS], False)
        limit = tl.where(weight != 0.0, stop, 0)
        stored = tl.load(pointer + offsets, mask=offsets < limit, other=0)
        pattern = at_top(stored, INPUTS[term][BITS])
        extra, odd = _special(pattern, weight, INPUTS, term)
        element = widen(pattern, INPUTS[term][BITS], INPUTS[term][NARROWER]) * INPUTS[term][SCALE]
        element = tl.where(odd, 0.0, element)
        factor = numbers + TERMS + 5 * term
        high, low, doubt = _add(high, low, doubt, element, factor)
        special += extra
        odds += odd.to(tl.int32)
    pattern, sure, overflows = _rounded(high, low, doubt, numbers + 6 * TERMS, OUTPUT)
    strange = odds > 0
    pattern = tl.where(strange, _encode_special(special, OUTPUT), pattern)
    return pattern, sure | strange, overflows & ~strange, odds
