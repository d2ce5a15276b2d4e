"""Python numbers to exact rationals.

An int, a Fraction, a Decimal and a text like "1/3" are exact. A float, and a NumPy or torch scalar,
means the shortest decimal that is that number in its own dtype: 0.4 is 2/5, float32(0.3) is 3/10.
Neither NumPy nor torch is imported for this; the number was made by one that is.
"""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

from taskalg.algebra.rationals import check_size
from taskalg.errors import UsageError, quoted
from taskalg.language.literals import exact

Number = Any  # int | float | Fraction | Decimal | str | NumPy scalar | torch scalar

_TEXT = re.compile(r"\s*([+-]?)\s*([0-9][0-9_.]*(?:[eE][+-]?[0-9]+)?)(?:\s*/\s*([0-9_]+))?\s*")


def to_fraction(number: Number) -> Fraction:
    """Return the rational a Python number means.

    Raises:
        UsageError: it is not a finite number, or is too long.
        TypeError: it is no number at all.
    """
    if isinstance(number, int | Fraction):
        return check_size(Fraction(number))
    if isinstance(number, str):
        return _from_text(number)
    if isinstance(number, float | Decimal) and type(number).__module__ in ("builtins", "decimal"):
        return _from_decimal(str(number))
    return _from_array_scalar(number)


def is_number(value: object) -> bool:
    """Tell whether `to_fraction` may take the value; texts are left out."""
    if isinstance(value, int | float | Fraction | Decimal):
        return True
    module = type(value).__module__.partition(".")[0]
    return module in ("numpy", "torch") and getattr(value, "ndim", None) == 0


def _from_text(text: str) -> Fraction:
    found = _TEXT.fullmatch(text)
    if not found:
        raise UsageError(f"{quoted(text)} is not a number", help="write it like 0.4 or 1/3")
    below = exact(found[3]) if found[3] else Fraction(1)
    if below == 0:
        raise UsageError(f"{quoted(text)} divides by zero")
    return check_size(exact(found[2]) / below) * (-1 if found[1] == "-" else 1)


def _from_decimal(text: str) -> Fraction:
    if not any(char.isdigit() for char in text):
        raise UsageError(f"{text} is not a finite number")
    return _from_text(text)


def _from_array_scalar(number: Any) -> Fraction:
    if not is_number(number):
        raise TypeError(f"{type(number).__name__} is not a number")
    value = number.item()
    if isinstance(value, int):
        return check_size(Fraction(value))
    if not isinstance(value, float):
        raise TypeError(f"{number.dtype} is not a real number")
    if type(number).__module__.startswith("numpy"):
        return _from_decimal(str(number.dtype.type(number)))
    return _from_decimal(_shortest(value, number))


def _shortest(value: float, scalar: Any) -> str:
    """Return the shortest decimal that becomes `scalar` again in its own dtype."""
    for digits in range(1, 18):
        text = f"{value:.{digits}g}"
        if (scalar.new_tensor(float(text)) == scalar).item():
            return text
    return repr(value)
