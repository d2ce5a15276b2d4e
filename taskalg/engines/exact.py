"""The integer tier: single elements, whatever their exponents and the coefficients' length.

It settles what the compiled tiers leave: a numerator, a denominator, one quotient and one
remainder, about two [microseconds] per element. NaN and infinities are settled here, too, but by
whole arrays, so that a checkpoint full of NaN costs little more than another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskalg.dtypes import DType
from taskalg.engines.base import Bytes, Tally, WeightedSumSpec
from taskalg.engines.formats import bias, first_not_finite, quiet_nan
from taskalg.engines.tiers import Scaled

Patterns = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Column:
    """Elements of one input, `(n,)` each: `steps * 2**exponent` where finite."""

    negative: NDArray[np.bool_]  # the sign bit, of zeros, too
    steps: NDArray[np.int64]  # signed
    exponents: NDArray[np.int64]
    finite: NDArray[np.bool_]
    nan: NDArray[np.bool_]


def settle(
    spec: WeightedSumSpec,
    scaled: Scaled,
    inputs: Sequence[Bytes],
    output: Bytes,
    chosen: NDArray[np.int64],
) -> Tally:
    """Evaluate the elements whose indices are `chosen`, and count them.

    Args:
        spec: what to evaluate.
        scaled: its coefficients.
        inputs: the whole blocks, as an engine gets them.
        output: the whole output block; only chosen elements are written.
        chosen: indices [elements], `(n,)`.
    """
    pairs = zip(inputs, spec.inputs, strict=True)
    columns = [_split(_patterns(*pair)[chosen], pair[1]) for pair in pairs]
    results = _patterns(output, spec.output)
    finite = np.logical_and.reduce([column.finite for column in columns])
    results[chosen[~finite]] = _special(scaled, columns, spec.output)[~finite]
    settled = np.array(_integers(scaled, columns, spec.output, finite), np.uint64)
    results[chosen[finite]] = settled
    magnitudes = settled & np.uint64(_sign_bit(spec.output) - 1)
    return Tally(
        overflowed=int(np.count_nonzero(magnitudes >= first_not_finite(spec.output))),
        nonfinite=sum(int(np.count_nonzero(~column.finite)) for column in columns),
        tier3=len(settled),
    )


def _patterns(block: Bytes, dtype: DType) -> Patterns:
    return block.view(f"u{dtype.itemsize}")


def _sign_bit(dtype: DType) -> int:
    return 1 << (8 * dtype.itemsize - 1)


def _split(patterns: Patterns, dtype: DType) -> Column:
    fraction = dtype.precision - 1
    sizes = (patterns & patterns.dtype.type(_sign_bit(dtype) - 1)).astype(np.int64)
    fields = sizes >> fraction
    hidden = np.minimum(fields, 1)
    negative = patterns >= _sign_bit(dtype)
    steps = sizes - ((fields - hidden) << fraction)
    past = first_not_finite(dtype)
    return Column(
        negative=negative,
        steps=np.where(negative, -steps, steps),
        exponents=np.maximum(fields, 1) - bias(dtype) - fraction,
        finite=sizes < past,
        nan=sizes >= past + dtype.has_inf,
    )


def _special(scaled: Scaled, columns: Sequence[Column], dtype: DType) -> Patterns:
    """Return the patterns of elements whose sum holds a NaN or an infinity."""
    pairs = list(zip(scaled.factors, columns, strict=True))
    up = np.logical_or.reduce([_infinite(*pair, 1) for pair in pairs])
    down = np.logical_or.reduce([_infinite(*pair, -1) for pair in pairs])
    nan = np.logical_or.reduce([column.nan for column in columns]) | (up & down)
    infinity = first_not_finite(dtype)
    below = infinity | (_sign_bit(dtype) if dtype.has_inf else 0)
    return np.where(nan, quiet_nan(dtype), np.where(up, infinity, below)).astype(np.uint64)


def _infinite(factor: int, column: Column, sign: int) -> NDArray[np.bool_]:
    """Tell where a product is an infinity of that sign."""
    negative = (factor < 0) ^ (sign < 0)
    infinite = ~column.finite & ~column.nan
    return infinite & np.equal(column.negative, negative)


def _integers(
    scaled: Scaled, columns: Sequence[Column], dtype: DType, finite: NDArray[np.bool_]
) -> list[int]:
    """Return the patterns of the finite elements' sums, each rounded once."""
    lowest = np.minimum.reduce([column.exponents for column in columns])[finite]
    pairs = list(zip(scaled.factors, columns, strict=True))
    signs = [column.negative ^ (factor < 0) for factor, column in pairs]
    negative = np.logical_and.reduce(signs)[finite].tolist()
    totals = [0] * len(lowest)
    for factor, column in pairs:
        shifts = (column.exponents[finite] - lowest).tolist()
        steps = column.steps[finite].tolist()
        rows = zip(totals, steps, shifts, strict=True)
        totals = [total + (factor * step << shift) for total, step, shift in rows]
    exponents = (lowest + scaled.exponent).tolist()
    return [
        nearest(total, exponent, scaled.divisor, dtype) if total else below * _sign_bit(dtype)
        for total, exponent, below in zip(totals, exponents, negative, strict=True)
    ]


def nearest(numerator: int, exponent: int, divisor: int, dtype: DType) -> int:
    """Round `numerator * 2**exponent / divisor`, not zero, to nearest even; return the pattern."""
    size, fraction = abs(numerator), dtype.precision - 1
    # the quotient lies in [2**(guess - 1), 2**(guess + 1))
    guess = size.bit_length() - divisor.bit_length() + exponent
    top = guess if _reaches(size, exponent - guess, divisor) else guess - 1
    top = max(top, dtype.low)
    quantum = top - fraction
    shift = exponent - quantum
    steps, rest = divmod(size << max(shift, 0), divisor << max(-shift, 0))
    twice, whole = 2 * rest, divisor << max(-shift, 0)
    steps += twice > whole or (twice == whole and steps & 1)
    pattern = min(steps + (top - dtype.low << fraction), first_not_finite(dtype))
    if not dtype.has_inf and pattern == first_not_finite(dtype):
        return pattern
    return pattern | (_sign_bit(dtype) if numerator < 0 else 0)


def _reaches(size: int, exponent: int, divisor: int) -> bool:
    """Tell whether `size * 2**exponent >= divisor`."""
    return size << max(exponent, 0) >= divisor << max(-exponent, 0)
