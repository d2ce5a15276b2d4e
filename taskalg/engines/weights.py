"""Exact coefficients as the binary64 numbers each tier works with.

The fast tier's are exact or there are none. The double-double tier's have two parts, and a bound on
what those miss: nothing below 106 bits. Factors and divisor share a power of two, so that the
divisor lies in [1, 2) and a factor is as large as its coefficient.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from taskalg.dtypes import DType
from taskalg.engines.base import WeightedSumSpec
from taskalg.engines.double_double import Divisor, Weights
from taskalg.engines.formats import BIAS
from taskalg.engines.tiers import BINARY64, Scaled, trailing_zeros

# Exponents: coefficients beyond are left to the doubt, or to the integer tier; products beyond are
# flagged. Together they keep the lowest bit of every product above 2**-1074, where binary64 ends.
_EXTREME_FACTOR, _EXTREME_PRODUCT = 600, 800
_SAFE = BIAS - 23  # a margin to binary64's own ends
_LEAST = 2.0**-1074


class Factor(NamedTuple):
    """One entry of `Weights`, as plain numbers."""

    high: float
    low: float
    doubt: float
    smallest: float
    largest: float


def two_part_factors(scaled: Scaled) -> tuple[list[Factor], Divisor]:
    """Return the factors of a weighted sum, and what it is divided by."""
    halvings = scaled.divisor.bit_length() - 1
    factors = [_factor(factor, scaled.exponent - halvings) for factor in scaled.factors]
    return factors, Divisor(*_two_parts(scaled.divisor, -halvings))


def double_double_weights(spec: WeightedSumSpec, scaled: Scaled) -> tuple[Weights, Divisor]:
    """Return factors and divisor of a weighted sum as the compiled tier wants them."""
    factors, divisor = two_part_factors(scaled)
    weights = Weights(
        high=np.array([factor.high for factor in factors]),
        low=np.array([factor.low for factor in factors]),
        doubt=np.array([factor.doubt for factor in factors]),
        short=np.array([*map(_is_short, scaled.factors, factors, spec.inputs)]),
        smallest=np.array([factor.smallest for factor in factors]).view(np.uint64),
        largest=np.array([factor.largest for factor in factors]).view(np.uint64),
    )
    return weights, divisor


def _is_short(integer: int, factor: Factor, dtype: DType) -> bool:
    digits = abs(integer).bit_length() - trailing_zeros(integer)
    return factor.doubt == 0.0 and digits + dtype.precision <= BINARY64


def _two_parts(integer: int, exponent: int) -> tuple[float, float, float]:
    """Return the nearest sum of two numbers to `integer * 2**exponent`, and its error's bound."""
    if integer.bit_length() <= BINARY64:  # nearly always, and worth no rational arithmetic
        return math.ldexp(integer, exponent), 0.0, 0.0
    value = integer * Fraction(2) ** exponent
    high = float(value)
    low = float(value - Fraction(high))
    error = abs(value - Fraction(high) - Fraction(low))
    if error == 0:
        return high, low, 0.0
    # never so small that its product with an element could vanish, and with it the doubt
    return high, low, max(float(error) * (1 + 2.0**-40), abs(high) * 2.0**-160)


def _factor(integer: int, power: int) -> Factor:
    """Return the parts of `integer * 2**power`, and between which magnitudes elements are safe."""
    exponent = integer.bit_length() - 1 + power
    if exponent > _EXTREME_FACTOR:
        sign = -1.0 if integer < 0 else 1.0
        return Factor(sign, 0.0, 0.0, _LEAST, _LEAST)  # every element but zero is flagged
    if exponent < -_EXTREME_FACTOR:
        doubt, zero = 2.0 ** (2 - _EXTREME_FACTOR), -0.0 if integer < 0 else 0.0
        return Factor(zero, 0.0, doubt, *_between(-300, _EXTREME_PRODUCT))
    safe = _between(-_EXTREME_PRODUCT - exponent, _EXTREME_PRODUCT - exponent)
    return Factor(*_two_parts(integer, power), *safe)


def _between(lowest: int, highest: int) -> tuple[float, float]:
    """Return two powers of two, or the nearest that are safe."""
    return 2.0 ** max(lowest, -_SAFE), 2.0 ** min(highest, _SAFE)


def floor_log2(value: Fraction) -> int:
    """Return the largest e with `2**e <= value`, or one less."""
    return value.numerator.bit_length() - value.denominator.bit_length() - 1
