"""Elements in memory to binary64 and back, on the GPU: the arithmetic of formats.py in Triton.

A dtype reaches a kernel as a tuple of constants (`layout`): patterns of up to 32 bits are kept at
the top of an int32, so that the sign is the sign whatever the dtype. Only bits are trusted: casts
to narrow types differ between GPUs and Triton's interpreter.
"""

import triton
import triton.language as tl

from taskalg.dtypes import DType
from taskalg.engines.formats import bias, decode_exponent, first_not_finite, quiet_nan

# What a kernel knows of a dtype, by position, for Triton has no constants with fields.
BITS = tl.constexpr(0)
NARROWER = tl.constexpr(1)  # bits by which its exponent is shorter than binary64's
SPECIAL = tl.constexpr(2)  # first magnitude that is not finite, of the upper 32 bits
INFINITY = tl.constexpr(3)  # magnitude of infinity; above all when there is none
OFFSET = tl.constexpr(4)  # binary64's field of its exponent field 0, in place
SCALE = tl.constexpr(5)  # power of two that decoding leaves
FRACTION = tl.constexpr(6)  # bits of its fraction: p - 1
LOW = tl.constexpr(7)  # binary64's field of its smallest normal
SIGNED = tl.constexpr(8)  # whether what overflows keeps its sign
NAN = tl.constexpr(9)  # the one pattern of a computed NaN, of all its bits

_TOP = tl.constexpr(32)
_HIGHEST = tl.constexpr(0x7FFFFFFF)
_NEGATIVE = tl.constexpr(-0x80000000)


def layout(dtype: DType) -> tuple[int | float, ...]:
    """Return what a kernel knows of a floating dtype."""
    width, fraction = 8 * dtype.itemsize, dtype.precision - 1
    special = first_not_finite(dtype) << 32 >> width
    return (
        width,
        11 - (width - 1 - fraction),
        special,
        special if dtype.has_inf else 0x7FFFFFFF,
        1023 - bias(dtype) << 20,
        2.0 ** decode_exponent(dtype),
        fraction,
        1023 + dtype.low,
        int(dtype.has_inf),
        quiet_nan(dtype),
    )


@triton.jit
def typed(address, WIDTH: tl.constexpr, ALIGNED: tl.constexpr) -> tl.tensor:
    """Turn an address into a pointer to patterns."""
    if WIDTH == 8:
        pointer = address.to(tl.pointer_type(tl.int8))
    elif WIDTH == 16:
        pointer = address.to(tl.pointer_type(tl.int16))
    elif WIDTH == 32:
        pointer = address.to(tl.pointer_type(tl.int32))
    else:
        pointer = address.to(tl.pointer_type(tl.int64))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def at_top(stored, WIDTH: tl.constexpr) -> tl.tensor:
    """Move a pattern of up to 32 bits to the top of an int32."""
    if WIDTH < 32:
        return stored.to(tl.int32) << (_TOP - WIDTH)
    else:
        return stored


@triton.jit
def negative_zeros(SIZE: tl.constexpr) -> tl.tensor:
    """Return the only zeros that leave every sign alone when something is added to them."""
    return tl.full((SIZE,), -(2**63), tl.int64).to(tl.float64, bitcast=True)  # full() loses a sign


@triton.jit
def magnitude(pattern, WIDTH: tl.constexpr) -> tl.tensor:
    """Return the upper 32 bits of a magnitude."""
    if WIDTH == 64:
        return (pattern >> 32).to(tl.int32) & _HIGHEST
    else:
        return pattern & _HIGHEST


@triton.jit
def upper(value) -> tl.tensor:
    """Return the upper 32 bits of a binary64 number."""
    return (value.to(tl.int64, bitcast=True) >> 32).to(tl.int32)


@triton.jit
def from_upper(bits) -> tl.tensor:
    """Return the binary64 number whose lower 32 bits are zero."""
    return (bits.to(tl.int64) << 32).to(tl.float64, bitcast=True)


@triton.jit
def widen(pattern, WIDTH: tl.constexpr, SHORTER: tl.constexpr) -> tl.tensor:
    """Decode to binary64, short of a power of two."""
    if WIDTH == 64:
        return pattern.to(tl.float64, bitcast=True)
    elif WIDTH == 32:
        shifted = pattern.to(tl.int64) << (_TOP - SHORTER)
        kept = (shifted & 0x0FFFFFFFFFFFFFFF) | (shifted & (-1 << 63))
        return kept.to(tl.float64, bitcast=True)
    else:
        return from_upper((pattern >> SHORTER) & (_NEGATIVE | (_HIGHEST >> SHORTER)))


@triton.jit
def sign_of(value, WIDTH: tl.constexpr) -> tl.tensor:
    """Return the sign bit of a binary64 number where a pattern of WIDTH bits has it."""
    return (upper(value) & _NEGATIVE) >> (_TOP - WIDTH)
