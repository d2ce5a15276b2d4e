"""What the kernels need to know about a dtype, as plain numbers.

A stored element becomes binary64 without a branch: its sign and magnitude are shifted to where a
binary64 has them, so subnormals come out right, and one exact multiplication by a power of two
mends the exponent. A result leaves binary64 by an addition: with `M` chosen so that the last bit of
`|q| + M` is worth one step of the output, the sum's low bits are the rounded significand, ties to
even, subnormals included. Or `M` is subtracted again, and what is left, exact in binary32 beside a
power of two, is converted by the hardware and shifted into place: faster where the division can
apply that power of two. (Tables of 256 and 65536 entries were slower, hardware conversions do not
exist for every type on every machine.)

The tuples are NamedTuples because numba passes them to compiled code field by field.
"""

import math
import struct
from fractions import Fraction
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from taskalg.dtypes import F64, DType

BIAS = 1023  # of binary64's exponent field
_PRECISION = 53  # bits of its significand
_LOW32, _PRECISION32 = -126, 24  # binary32's smallest normal exponent, bits of its significand


class Source(NamedTuple):
    """How stored elements of up to 32 bits are decoded and compared."""

    shift: np.uint64  # moves the sign-extended pattern so that its fraction meets binary64's
    mask: np.uint64  # clears the copies of the sign above the magnitude, and the bits below
    fraction: np.uint64  # bits of fraction: p - 1
    largest: np.uint64  # pattern of the largest finite magnitude


class Target(NamedTuple):
    """How binary64 is rounded to an output of up to 32 bits."""

    low: np.uint64  # binary64's field for the exponent of the smallest normal
    bump: np.uint64  # 53 - p: from an exponent to that of M
    fraction: np.uint64  # p - 1
    cap: np.uint64  # binary64 pattern of the magnitude that encodes as `infinity`
    sign: np.uint64  # position of the sign bit
    infinity: np.uint64  # the first pattern that is not finite; e4m3's NaN
    negative: np.uint64  # the sign bit of a negative overflow: none in e4m3


class Quotient(NamedTuple):
    """How binary64 sums are divided, and rounded to an output of up to 32 bits."""

    inverse: float  # of the divisor, times the power of two that puts the output's smallest
    rest: float  # normal at binary32's; and what rounding to binary64 took from it
    bump: np.uint64  # from the pattern of a power of two to that of 1.5 * 2**(53 - p) times it
    shift: np.uint32  # 24 - p: binary32's bits of fraction that the output has not
    cap: np.uint32  # binary32 pattern that becomes the output's first that is not finite


@cache
def source(dtype: DType) -> Source:
    """Return the decoding of a dtype of up to 32 bits."""
    fraction = dtype.precision - 1
    shift = _PRECISION - dtype.precision
    magnitude = (1 << (8 * dtype.itemsize - 1)) - 1
    return Source(
        np.uint64(shift),
        np.uint64(magnitude << shift | 1 << 63),
        np.uint64(fraction),
        np.uint64(first_not_finite(dtype) - 1),
    )


def decode_exponent(dtype: DType) -> int:
    """Return the power of two by which a decoded element is still too small."""
    return 0 if dtype == F64 else BIAS - bias(dtype)


def bias(dtype: DType) -> int:
    """Return the exponent bias: the field of 1.0."""
    return 1 - dtype.low


def first_not_finite(dtype: DType) -> int:
    """Return the magnitude pattern that follows the largest finite one."""
    field = dtype.high + bias(dtype)
    last = (field + 1 << dtype.precision - 1) - 1
    return last + 1 if dtype.has_inf else last


def quiet_nan(dtype: DType) -> int:
    """Return the one pattern every computed NaN has."""
    if not dtype.has_inf:
        return first_not_finite(dtype)
    return first_not_finite(dtype) | 1 << (dtype.precision - 2)


@cache
def target(dtype: DType) -> Target:
    """Return the rounding to a dtype of up to 32 bits."""
    step = 2.0 ** (dtype.high - dtype.precision + 1)
    cap = float(dtype.largest) + step
    sign = 8 * dtype.itemsize - 1
    return Target(
        np.uint64(BIAS + dtype.low),
        np.uint64(53 - dtype.precision),
        np.uint64(dtype.precision - 1),
        np.uint64(pattern64(cap)),
        np.uint64(sign),
        np.uint64(first_not_finite(dtype)),
        np.uint64(dtype.has_inf << sign),
    )


@lru_cache(1024)
def quotient(divisor: int, exponent: int, dtype: DType) -> Quotient:
    """Return the division by `divisor * 2**exponent` and the rounding to `dtype`."""
    inverse = float(Fraction(1, divisor))
    rest = float(Fraction(1, divisor) - Fraction(inverse))
    power = _LOW32 - dtype.low - exponent
    shift = _PRECISION32 - dtype.precision
    return Quotient(
        math.ldexp(inverse, power),
        math.ldexp(rest, power),
        np.uint64(_PRECISION - dtype.precision << 52 | 1 << 51),
        np.uint32(shift),
        np.uint32(first_not_finite(dtype) << shift),
    )


def pattern64(value: float) -> int:
    """Return the bits of a binary64 number."""
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])
