"""How a sum changes with its scalars: the chain rule from inner products to scalars.

With output tensor t = sum over i of c_i(s) * x_i and a loss whose gradient by t is g, the loss
changes with a scalar s by the sum over i of <g, x_i> * dc_i/ds, over all tensors. Coefficients are
polynomials, so dc_i/ds is one, too, exact until its value is rounded to binary64.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from taskalg.algebra.coefficient import Coefficient, Number

_LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Slopes:
    """How one row of coefficients changes with each scalar that is in it."""

    by_scalar: Mapping[str, tuple[Coefficient, ...]]  # one derivative for each term

    def gradients(
        self, products: NDArray[np.float64], values: Mapping[str, Fraction]
    ) -> dict[str, float]:
        """Return by how much a loss changes with each scalar.

        Args:
            products: `(n, terms)`, of the gradients of n tensors with their operands.
            values: of all scalars.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # a gradient may be infinite, or NaN
            return {
                name: float((products * _numbers(slopes, values)).sum())
                for name, slopes in self.by_scalar.items()
            }


def slopes_of(row: Sequence[Number]) -> Slopes:
    """Take the derivatives of a row of coefficients."""
    parts = [Coefficient(number) for number in row]
    names = sorted({symbol.name for part in parts for symbol in part.symbols()})
    return Slopes({name: tuple(part.derivative(name) for part in parts) for name in names})


def _numbers(slopes: Iterable[Coefficient], values: Mapping[str, Fraction]) -> NDArray[np.float64]:
    return np.array([_nearest(slope.given(values).constant or Fraction(0)) for slope in slopes])


def _nearest(number: Fraction) -> float:
    """Return the nearest finite binary64 number, so that zero times it is zero."""
    try:
        return float(number)
    except OverflowError:
        return _LARGEST if number > 0 else -_LARGEST
