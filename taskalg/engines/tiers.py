"""Which tier a weighted sum may take, decided from dtypes and coefficients alone.

The fast tier adds in binary64 without any rounding at all, so it asks that every product and
partial sum fit 53 bits. With the coefficients written `factors * 2**exponent / divisor`, integers
and an odd divisor, that is

    sum(|factor|) * 2**(top - bottom + 1) <= 2**53

where `top` is the exponent of a block's largest element and `bottom` that of the lowest bit of its
smallest. The quotient by the divisor is then rounded twice, to binary64 and to the output, and both
together give what one rounding would if `divisor < 2**(53 - p)`, p the output's precision: a
quotient that is not itself a midpoint lies further from one than half a binary64 step
(NUMERICS.md §1). Powers of two change neither bound, hence the odd divisor.

Pure Python, so that `explain` can tell without loading the compiler.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from taskalg.dtypes import F64
from taskalg.engines.base import WeightedSumSpec, exact_integers

BINARY64 = 53  # its precision [bits]
UNLIMITED = 2**12  # binades; more than binary64 has
EXTREME = 700  # |exponents| of factors beyond this could leave binary64's range in a product


@dataclass(frozen=True)
class Scaled:
    """Coefficients as `factors[i] * 2**exponent / divisor`, exactly."""

    factors: tuple[int, ...]  # not zero, and not all even
    exponent: int
    divisor: int  # odd and positive


@dataclass(frozen=True)
class ExactRange:
    """How far apart the magnitudes in one block may lie for the fast tier; data is not in it."""

    binades: int  # largest over smallest magnitude is below 2**(binades + 1); negative: no block
    words: str  # the same in a sentence without a full stop, for `explain`


def scale(coefficients: Sequence[Fraction]) -> Scaled:
    """Split coefficients into integers, one power of two and an odd divisor.

    >>> scale([Fraction(11, 10), Fraction(-4, 10)])
    Scaled(factors=(11, -4), exponent=-1, divisor=5)
    """
    factors, denominator = exact_integers(coefficients)
    common = min(trailing_zeros(factor) for factor in factors)
    halvings = trailing_zeros(denominator)
    shifted = tuple(factor >> common for factor in factors)
    return Scaled(shifted, common - halvings, denominator >> halvings)


def trailing_zeros(number: int) -> int:
    """Return how often two divides a number that is not zero."""
    return (number & -number).bit_length() - 1


def may_be_bounded(spec: WeightedSumSpec) -> bool:
    """Tell whether a bound on a sum's errors is likely to settle how it is rounded."""
    return F64 in spec.inputs and spec.output != F64


def tier_note(spec: WeightedSumSpec, scaled: Scaled | None = None) -> ExactRange:
    """Say within how many binades a block of `spec` stays in the fast tier, and why.

    Args:
        spec: the sum.
        scaled: its coefficients, if they are worked out already.
    """
    scaled = scaled or scale(spec.coefficients)
    widest = max(dtype.precision for dtype in spec.inputs)
    # a binary64 output is rounded by the division itself, so only the divisor must be exact
    divisor_bits = BINARY64 - (0 if spec.output == F64 else spec.output.precision)
    if scaled.divisor >= 2**divisor_bits:
        return _impossible(f"the common denominator needs more than {divisor_bits} bits")
    size = (sum(map(abs, scaled.factors)) - 1).bit_length()  # sum <= 2**size
    if max(size, abs(scaled.exponent)) > EXTREME:
        return _impossible("a coefficient is too large or too small")
    room = BINARY64 - size - widest
    if room < 0:
        if may_be_bounded(spec):
            return ExactRange(-1, "bounded tier for every block: 53-bit elements are never exact")
        return _impossible(f"{widest}-bit elements times their coefficients exceed 53 bits")
    if len(spec.inputs) == 1:
        return ExactRange(UNLIMITED, "fast tier for every block: one term is always exact")
    return ExactRange(room, f"fast tier while one block's magnitudes stay within 2^{room + 1}")


def _impossible(reason: str) -> ExactRange:
    return ExactRange(-1, f"double-double tier for every block: {reason}")
