"""Exact numbers: their limit, and how they print."""

from fractions import Fraction

from taskalg.language.literals import MAX_BITS, too_long


def check_size(value: Fraction) -> Fraction:
    """Return `value` if it is within the limit.

    Raises:
        ExpressionError: it has more than 4,096 bits above or below the line.
    """
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise too_long(None)
    return value


def decimal_text(value: Fraction) -> str:
    """Print a coefficient: as a decimal when that is exact, else as a fraction.

    >>> decimal_text(Fraction(2, 5)), decimal_text(Fraction(1, 3)), decimal_text(Fraction(-3))
    ('0.4', '1/3', '-3')
    """
    twos = fives = 0
    rest = value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest != 1 or places > 40:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}" if places else f"{sign}{digits}"
