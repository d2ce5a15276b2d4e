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
    """Finite elements of one input, `(n,)` each: `steps * 2**exponent`."""

    negative: NDArray[np.bool_]  # the sign bit, of zeros, too
    steps: NDArray[np.int64]  # signed
    exponents: NDArray[np.int64]


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
    rows = [_patterns(*pair)[chosen] for pair in pairs]
    odd = [~_is_finite(*pair) for pair in zip(rows, spec.inputs, strict=True)]
    finite = ~np.logical_or.reduce(odd)
    columns = [_split(row[finite], dtype) for row, dtype in zip(rows, spec.inputs, strict=True)]
    settled = np.array(_integers(scaled, columns, spec.output), np.uint64)
    results = _patterns(output, spec.output)
    results[chosen[finite]] = settled
    results[chosen[~finite]] = _special(spec, [row[~finite] for row in rows])
    return Tally(
        overflowed=int(np.count_nonzero(~_is_finite(settled, spec.output))),
        nonfinite=sum(map(int, map(np.count_nonzero, odd))),
        tier3=len(settled),
    )


def _patterns(block: Bytes, dtype: DType) -> Patterns:
    return block.view(f"u{dtype.itemsize}")


def _sign_bit(dtype: DType) -> int:
    return 1 << (8 * dtype.itemsize - 1)


def _sizes(patterns: Patterns, dtype: DType) -> Patterns:
    return patterns & patterns.dtype.type(_sign_bit(dtype) - 1)


def _is_finite(patterns: Patterns, dtype: DType) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_] = _sizes(patterns, dtype) < first_not_finite(dtype)
    return finite


def _split(patterns: Patterns, dtype: DType) -> Column:
    fraction = dtype.precision - 1
    sizes = _sizes(patterns, dtype).astype(np.int64)
    fields = sizes >> fraction
    negative = patterns >= _sign_bit(dtype)
    steps = sizes - ((fields - np.minimum(fields, 1)) << fraction)
    exponents = np.maximum(fields, 1) - bias(dtype) - fraction
    return Column(negative, np.where(negative, -steps, steps), exponents)


def _special(spec: WeightedSumSpec, rows: Sequence[Patterns]) -> Patterns:
    """Return the patterns of elements whose sum holds a NaN or an infinity."""
    nan, up, down = np.zeros((3, len(rows[0])), np.bool_)
    for row, coefficient, dtype in zip(rows, spec.coefficients, spec.inputs, strict=True):
        sizes, past = _sizes(row, dtype), first_not_finite(dtype)
        infinite = (sizes == past) & dtype.has_inf
        negative = (row >= _sign_bit(dtype)) ^ (coefficient < 0)
        nan |= (sizes >= past) & ~infinite
        up |= infinite & ~negative
        down |= infinite & negative
    infinity = first_not_finite(spec.output)
    below = infinity | (_sign_bit(spec.output) if spec.output.has_inf else 0)
    signed = np.where(up, np.uint64(infinity), np.uint64(below))
    return np.where(nan | (up & down), np.uint64(quiet_nan(spec.output)), signed)


def _integers(scaled: Scaled, columns: Sequence[Column], dtype: DType) -> list[int]:
    """Return the patterns of the elements' sums, each rounded once."""
    pairs = list(zip(scaled.factors, columns, strict=True))
    lowest = np.minimum.reduce([column.exponents for column in columns])
    signs = [column.negative ^ (factor < 0) for factor, column in pairs]
    totals = [0] * len(lowest)
    for factor, column in pairs:
        shifts = (column.exponents - lowest).tolist()
        rows = zip(totals, column.steps.tolist(), shifts, strict=True)
        totals = [total + (factor * step << shift) for total, step, shift in rows]
    exponents = (lowest + scaled.exponent).tolist()
    zeros = (np.logical_and.reduce(signs) * np.uint64(_sign_bit(dtype))).tolist()
    return [
        nearest(total, exponent, scaled.divisor, dtype) if total else zero
        for total, exponent, zero in zip(totals, exponents, zeros, strict=True)
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
