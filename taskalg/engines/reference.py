"""The reference engine: exact rationals, one element at a time.

It turns every element into a `Fraction`, adds, and rounds once with Python's own half-even `round`.
It shares no arithmetic with the compiled engine, so that each can convict the other. Slow (about
20 [microseconds] per element and term) and meant to be: a faster one would have to be trusted.
"""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from taskalg.dtypes import DType
from taskalg.engines.base import (
    Bytes,
    Evaluate,
    Factors,
    Group,
    Multiply,
    Resident,
    Tally,
    WeightedSumSpec,
)

Element = Fraction | float  # a finite value exactly, or -0.0, inf, -inf, nan


class ReferenceEngine:
    """Evaluates weighted sums over exact rationals."""

    name = "reference"
    device = "cpu"

    def prepare(self, spec: WeightedSumSpec) -> Evaluate:
        """Return a function that evaluates `spec` over a block, element by element."""

        def evaluate(inputs: Sequence[Bytes], output: Bytes) -> Tally:
            overflowed = nonfinite = 0
            columns = [_patterns(*pair) for pair in zip(inputs, spec.inputs, strict=True)]
            results = output.view(f"u{spec.output.itemsize}")
            for index, patterns in enumerate(zip(*columns, strict=True)):
                row = [decode(*pair) for pair in zip(patterns, spec.inputs, strict=True)]
                total = weighted_sum(row, spec.coefficients)
                results[index] = pattern = encode(total, spec.output)
                special = sum(not _is_finite(element) for element in row)
                nonfinite += special
                overflowed += not special and not _is_finite(decode(pattern, spec.output))
            return Tally(overflowed=overflowed, nonfinite=nonfinite)

        return evaluate

    def factored(self, factors: Factors) -> Multiply:
        """Return a function that computes a range of elements of a product, one by one."""
        columns = factors.right.shape[1]

        def multiply(first: int, output: Bytes) -> None:
            elements = output.view(np.float64)
            for index in range(len(elements)):
                row, column = divmod(first + index, columns)
                lefts, rights = factors.left[row].tolist(), factors.right[:, column].tolist()
                total = -0.0  # the only zero that a first product is added to without a change
                for left, right in zip(lefts, rights, strict=True):
                    total = fused(left, right, total)
                elements[index] = total * factors.scale

        return multiply

    def resident(self, group: Group, *, threads: int | None = None) -> Resident:
        """Return a function that evaluates tensors where they are, element by element."""
        from taskalg.engines.resident import blockwise  # which loads a compiler

        return blockwise(self, group, threads=threads)

    def dots(self, group: Group, *, threads: int | None = None) -> NDArray[np.float64]:
        """Return the inner product of each tensor's gradient with each of its inputs, exactly."""
        from taskalg.engines.resident import view

        dtypes = (*group.inputs, group.output)
        totals = np.zeros((len(group.counts), len(group.inputs)))
        for index, count in enumerate(group.counts.tolist()):
            *inputs, gradient = (
                [decode(pattern, dtype) for pattern in _patterns(view(at, size), dtype)]
                for at, dtype in zip(group.addresses[index].tolist(), dtypes, strict=True)
                for size in (count * dtype.itemsize,)
            )
            totals[index] = [_dot(x, gradient) for x in inputs]
        return totals

    def memory(self, nbytes: int) -> Bytes:
        """Return host memory for blocks."""
        return np.empty(nbytes, np.uint8)


def fused(x: float, y: float, z: float) -> float:
    """Return `x * y + z`, rounded once: what `math.fma` is from Python 3.13 on."""
    if not math.isfinite(x) or not math.isfinite(y):
        return x * y + z
    if not math.isfinite(z):
        return z  # however large the product is
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    if exact:
        try:
            return float(exact)
        except OverflowError:
            return math.inf if exact > 0 else -math.inf
    return x * y + z  # both are zeros, or cancel: the sign is that of IEEE 754


def _dot(x: Sequence[Element], y: Sequence[Element]) -> float:
    if not all(math.isfinite(element) for element in (*x, *y)):
        return math.nan
    return float(sum(Fraction(a) * Fraction(b) for a, b in zip(x, y, strict=True)))


def _patterns(block: Bytes, dtype: DType) -> list[int]:
    values: list[int] = block.view(f"u{dtype.itemsize}").tolist()
    return values


def _is_finite(element: Element) -> bool:
    return isinstance(element, Fraction) or math.isfinite(element)


def weighted_sum(elements: Iterable[Element], coefficients: Iterable[Fraction]) -> Element:
    """Add `coefficient * element` exactly; zeros, infinities and NaN follow IEEE 754."""
    pairs = list(zip(elements, coefficients, strict=True))
    special = [x if c > 0 else -x for x, c in pairs if isinstance(x, float)]
    infinite = [x for x in special if x != 0.0]  # NaN differs from zero, too
    if infinite:
        return math.fsum(infinite) if len(set(infinite)) == 1 else math.nan
    total = sum((x * c for x, c in pairs if isinstance(x, Fraction)), Fraction(0))
    if total == 0 and all(_negative_zero(*pair) for pair in pairs):
        return -0.0
    return total


def _negative_zero(element: Element, coefficient: Fraction) -> bool:
    below = math.copysign(1.0, element) < 0 if isinstance(element, float) else element < 0
    return element == 0 and below != (coefficient < 0)


@lru_cache(2**17)  # 8- and 16-bit patterns recur
def decode(pattern: int, dtype: DType) -> Element:
    """Return the exact value of a bit pattern."""
    fraction_bits = dtype.precision - 1
    sign_bit = 1 << (8 * dtype.itemsize - 1)
    sign = -1 if pattern & sign_bit else 1
    field, fraction = divmod(pattern & (sign_bit - 1), 1 << fraction_bits)
    exponent = max(field, 1) + dtype.low - 1
    steps = fraction + ((1 << fraction_bits) if field else 0)
    magnitude = steps * Fraction(2) ** (exponent - fraction_bits)
    if magnitude > dtype.largest:
        return sign * math.inf if dtype.has_inf and not fraction else math.nan
    return sign * magnitude if steps or sign > 0 else -0.0


def encode(value: Element, dtype: DType) -> int:
    """Round once, to the nearest, ties to even, and return the bit pattern."""
    fraction_bits = dtype.precision - 1
    sign_bit = 1 << (8 * dtype.itemsize - 1)
    infinity = (dtype.high - dtype.low + 2) << fraction_bits
    if isinstance(value, float) and math.isnan(value):
        return _quiet_nan(dtype)
    if isinstance(value, float) and math.isinf(value):
        magnitude = infinity if dtype.has_inf else _quiet_nan(dtype)
    else:
        exponent = max(_exponent(abs(Fraction(value))), dtype.low)
        quantum = Fraction(2) ** (exponent - fraction_bits)
        steps = round(abs(Fraction(value)) / quantum)
        if steps * quantum > dtype.largest:
            magnitude = infinity if dtype.has_inf else _quiet_nan(dtype)
        else:
            magnitude = ((exponent - dtype.low) << fraction_bits) + steps
    below = math.copysign(1.0, value) < 0 if isinstance(value, float) else value < 0
    if not dtype.has_inf and magnitude == _quiet_nan(dtype):
        return magnitude
    return magnitude | (sign_bit if below else 0)


def _quiet_nan(dtype: DType) -> int:
    fraction_bits = dtype.precision - 1
    if not dtype.has_inf:
        return (1 << (8 * dtype.itemsize - 1)) - 1
    return ((dtype.high - dtype.low + 2) << fraction_bits) + (1 << (fraction_bits - 1))


def _exponent(magnitude: Fraction) -> int:
    """Return the largest e with `2**e <= magnitude`; for zero, one below every format."""
    if magnitude == 0:
        return -(2**20)
    guess = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return guess if Fraction(2) ** guess <= magnitude else guess - 1
