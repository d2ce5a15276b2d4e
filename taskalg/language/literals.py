"""Number literals: each is the exact rational it spells, within a limit."""

from fractions import Fraction

from taskalg.errors import ExpressionError, Span

MAX_BITS = 4096  # of a scalar, above and below the line
_MAX_DIGITS = 1234  # 4,096 bits in decimal digits, rounded up


def exact(text: str, span: Span | None = None) -> Fraction:
    """Return the rational a literal spells: `0.1` is 1/10, `1_000` is 1000.

    Raises:
        ExpressionError: it needs more than 4,096 bits above or below the line.
    """
    mantissa, _, power = text.replace("_", "").lower().partition("e")
    whole, _, decimals = mantissa.partition(".")
    zeroless = (whole + decimals).rstrip("0")
    digits, places = zeroless.lstrip("0"), len(whole) - len(zeroless)  # value: digits * 10**places
    if not digits:
        return Fraction(0)
    exponent = power.lstrip("+-").lstrip("0") or "0"
    if len(digits) > _MAX_DIGITS or len(exponent) > 9:  # Python's own limit is 4,300 digits
        raise too_long(span)
    places += -int(exponent) if power.startswith("-") else int(exponent)
    if abs(places) > 2 * _MAX_DIGITS:
        raise too_long(span)
    value = int(digits) * Fraction(10) ** places
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise too_long(span)
    return value


def too_long(span: Span | None) -> ExpressionError:
    """Return the error for a scalar beyond the limit."""
    return ExpressionError(
        "a scalar is too long to be exact",
        span,
        note=f"the limit is {MAX_BITS:,} bits above and below the line",
    )
