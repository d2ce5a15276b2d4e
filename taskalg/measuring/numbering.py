"""Scalars to numbers by what a frame has measured: `cos(a, b - c)` without reading a byte."""

import math
from collections.abc import Iterator
from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.algebra.weighted_sum import Measured, WeightedSum
from taskalg.errors import MismatchError, UsageError, quoted
from taskalg.measuring.frame import Frame
from taskalg.measuring.numbers import formula
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
    found = _Numbers(frame, total).value(scalar)
    if not isinstance(found, Fraction):
        raise UsageError(f"{scalar} is no number", note="it depends on the tensor")
    return float(found)


def measured_operands(total: Resolved) -> Iterator[Operand]:
    """Yield the checkpoints that something is measured of, some more than once."""
    for one in total.measured.values():
        for argument in one.arguments:
            yield from (operand for operand, part in argument.terms.items() if part)


class _Numbers:
    """Numbers of measured scalars, each found once."""

    def __init__(self, frame: Frame, total: Resolved) -> None:
        self._frame, self._measured = frame, total.measured
        self._found: dict[str, Number] = {}

    def value(self, scalar: Coefficient) -> Number:
        """Put the numbers of what is measured in its place."""
        for symbol in scalar.symbols():
            if symbol.name in self._measured and symbol.name not in self._found:
                self._found[symbol.name] = self._number(symbol.name, self._measured[symbol.name])
        return scalar.given(self._found).number

    def _number(self, name: str, one: Measured[Operand]) -> Fraction:
        sums = [self._here(argument) for argument in one.arguments]

        def dot(x: int, y: int) -> float:
            product = self._frame.dot(sums[x], sums[y])
            if not math.isfinite(product):
                raise MismatchError(
                    f"{quoted(name)} is not a finite number",
                    note="a tensor is NaN or infinite there, or too large for binary64",
                )
            return product

        return Fraction(formula(name, one.function, dot, list(range(len(sums)))))

    def _here(self, argument: WeightedSum[Operand]) -> WeightedSum[Operand]:
        terms = {operand: Coefficient(self.value(part)) for operand, part in argument.terms.items()}
        found = self._frame.here(WeightedSum(terms))
        if found is None:
            names = [operand.called for operand in terms]
            raise UsageError(f"not all of {', '.join(names)} were measured")
        return found
