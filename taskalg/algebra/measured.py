"""Scalars that are measured: `norm(x)`, `dot(x, y)` and `cos(x, y)` of checkpoint values.

Until data is read such a scalar is a symbol, so sums stay linear and a plan is made from headers as
ever. The symbol carries what it is measured of, because a name alone may be two files in two
recipes. Rejected: numbers at once, which would read data for `check`, `equal` and `explain`.
"""

from collections.abc import Sequence
from typing import TypeVar

from taskalg.algebra.canonical import Canonical, Named, sort_key
from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.weighted_sum import Measured, Value, WeightedSum, measured_in
from taskalg.errors import ExpressionError, KindError

MAX_DEPTH = 20  # measured scalars inside each other: so many passes over the data
MAX_TEXT = 100_000  # characters of one, written out

Leaf = TypeVar("Leaf", bound=Named)


def measure(function: str, arguments: Sequence[Value]) -> Coefficient:
    """Return the scalar that is measured of some checkpoint values.

    Raises:
        KindError: an argument is a scalar.
        ExpressionError: measured scalars are too deep in each other, or too long.
    """
    sums = []
    for argument in arguments:
        if isinstance(argument, Coefficient):
            raise KindError(
                f"{function} is measured of checkpoint values",
                note=f"found the scalar {argument}",
            )
        sums.append(argument)
    inside = [one.depth for total in sums for one in measured_in(total.terms.values())]
    depth = 1 + max(inside, default=0)
    if depth > MAX_DEPTH:
        raise ExpressionError(f"measured scalars nest more than {MAX_DEPTH} deep")
    name = f"{function}({', '.join(str(ordered(total)) for total in sums)})"
    check_length(function, len(name))
    return Coefficient.symbol(name, Measured(function, tuple(sums), depth))


def check_length(function: str, length: int) -> None:
    """Refuse what is too long when it is written out.

    Raises:
        ExpressionError: it is.
    """
    if length > MAX_TEXT:
        raise ExpressionError(
            f"what {function} is measured of is too long",
            note=f"the limit is {MAX_TEXT:,} characters when it is written out",
        )


def ordered(total: WeightedSum[Leaf]) -> Canonical[Leaf]:
    """Put a sum in canonical order."""
    terms = sorted(total.terms.items(), key=lambda term: sort_key(term[0].name, term[0].path))
    return Canonical(tuple(terms), {})
