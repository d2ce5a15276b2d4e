"""Scalars to numbers by what a frame has measured: `cos(a, b - c)` without reading a byte."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.algebra.weighted_sum import WeightedSum
from taskalg.errors import MismatchError, UsageError, listed, quoted
from taskalg.expression import Expression
from taskalg.measuring.frame import Frame, Total
from taskalg.measuring.numbers import as_float, formula, given
from taskalg.planning.resolve import Operand, Resolved


def number(frame: Frame, total: Resolved, scalar: Coefficient) -> float:
    """Return the number of a scalar.

    Args:
        frame: knows every checkpoint in it.
        total: says what is measured in it.
        scalar: as `Expression.resolved_scalar` gives it.

    Raises:
        UsageError: a checkpoint is not in the frame, or the scalar depends on the tensor.
        MismatchError: a number is not finite, or something is divided by zero.
    """
    return as_float(Coefficient(_Numbers(frame, total).value(scalar)), scalar)


def measure(frame: Frame, function: str, arguments: Sequence[Expression]) -> float:
    """Return a number of some sums, as `number` does for the scalar that is written so.

    Args:
        frame: knows every checkpoint in them.
        function: "norm", "dot" or "cos".
        arguments: the sums.

    Raises:
        KindError: one is a scalar.
        UsageError: a checkpoint is not in the frame.
        MismatchError: a number is not finite, or something is divided by zero.
    """
    totals = [argument.resolved for argument in arguments]
    sums = [_Numbers(frame, total).here(WeightedSum(dict(total.terms))) for total in totals]
    try:
        return _of_products(frame, function, function, sums)
    except MismatchError:  # written out for its message only, which takes as long as the number
        name = f"{function}({', '.join(map(str, totals))})"
        return _of_products(frame, name, function, sums)


def measured_operands(total: Resolved) -> Iterator[Operand]:
    """Yield the checkpoints that something is measured of, some more than once."""
    for one in total.measured.values():
        for argument in one.arguments:
            yield from (operand for operand, part in argument.terms.items() if part)


class _Numbers:
    """Numbers of measured scalars, each found once."""

    def __init__(self, frame: Frame, total: Resolved) -> None:
        self._frame, self._measured = frame, total.measured
        self._found: dict[str, Fraction] = {}

    def value(self, scalar: Coefficient) -> Number:
        """Put the numbers of what is measured in its place."""
        for symbol in scalar.symbols():
            one = self._measured.get(symbol.name)
            if one is not None and symbol.name not in self._found:
                sums = list(map(self.here, one.arguments))
                found = _of_products(self._frame, symbol.name, one.function, sums)
                self._found[symbol.name] = Fraction(found)
        return given(scalar, self._found).number if self._found else scalar.number

    def here(self, argument: Total) -> Total:
        """Write a sum in the frame's checkpoints, with numbers.

        Raises:
            UsageError: it has another checkpoint.
        """
        terms = {operand: Coefficient(self.value(part)) for operand, part in argument.terms.items()}
        found = self._frame.here(WeightedSum(terms))
        if found is None:
            names = listed([quoted(operand.called) for operand in terms])
            raise UsageError(f"not all checkpoints of the sum were measured: it has {names}")
        return found


def _of_products(frame: Frame, name: str, function: str, sums: Sequence[Total]) -> float:
    def dot(x: int, y: int) -> float:
        product = frame.dot(sums[x], sums[y])
        if not math.isfinite(product):
            raise MismatchError(
                f"{quoted(name)} is not a finite number",
                note="a tensor is NaN or infinite there, or too large for binary64",
            )
        return product

    return formula(name, function, dot, range(len(sums)))
