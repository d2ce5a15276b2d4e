"""Where two sums differ: the sum of their difference, looked at tensor by tensor.

With headers the real tensor names decide; without, every tensor that could exist.
"""

from collections.abc import Sequence
from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.algebra.proof import find_nonzero
from taskalg.algebra.table import tabulate
from taskalg.errors import quoted
from taskalg.planning.resolve import Resolved
from taskalg.planning.result import tensor_places


def where_not_zero(rest: Resolved) -> str | None:
    """Say where a difference of two sums is not zero; None is a proof that it is, everywhere.

    Raises:
        ExpressionError: it cannot be decided without tensor names.
    """
    parts = [part for _, part in rest.terms]
    varies = any(part.varies for part in parts)
    if varies and _all_opened(rest):
        table = tabulate(parts, tensor_places(rest))
        for name, index in table.of.items():
            if not all(Coefficient(value).vanishes() for value in table.classes[index]):
                return _telling(rest, table.classes[index], quoted(name))
        return None
    witness = find_nonzero(parts)
    if witness is None:
        return None
    values = iter(witness.values)
    row = [next(values) if part else Fraction(0) for part in parts]
    if not varies:
        return _telling(rest, row, None)
    undecided = "with paths the real tensor names would decide"
    return f"{_telling(rest, row, str(witness))}; {undecided}"


def _all_opened(total: Resolved) -> bool:
    return all(operand.checkpoint is not None for operand, _ in total.terms)


def _telling(rest: Resolved, row: Sequence[Number], where: str | None) -> str:
    """Name the first checkpoint whose coefficients differ, by how much, and where."""
    operand, value = next(
        (operand, value) for (operand, _), value in zip(rest.terms, row, strict=True) if value
    )
    text = f"the coefficients of {operand.called} differ by {Coefficient(value)}"
    return text if where is None else f"{text} on {where}"
