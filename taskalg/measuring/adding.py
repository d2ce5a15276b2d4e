"""Products of pieces to those of tensors, and of tensors to those of a model, in no order.

A sum of binary64 numbers is rounded once, at its end (`math.fsum`), so it does not matter in which
order threads finish, or how a part of a model is put together from its tensors.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Products:
    """What n sums measure, tensor by tensor."""

    tensors: tuple[str, ...]  # floating ones that all terms have, in the donor's order
    grams: Matrix  # `(tensors, n, n)`, inner products
    elements: Counts  # `(tensors,)`
    agreeing: Counts | None  # `(tensors, n, n)`, elements where neither is zero and signs agree
    both: Counts | None  # likewise, where neither is zero; None when signs were not asked for
    bytes_read: int
    seconds: float

    @property
    def gram(self) -> Matrix:
        """Inner products over all tensors, `(n, n)`."""
        return added(self.grams)


def added(grams: Matrix) -> Matrix:
    """Add matrices of products, `(parts, n, n)`, of which the upper triangles count."""
    if len(grams) == 1:  # most tensors are one piece; a model has thousands of them
        alone = np.triu(grams[0]) + np.triu(grams[0], 1).T
        return np.where(np.isfinite(alone), alone, math.nan)
    count = grams.shape[1]
    total = np.empty((count, count))
    for i in range(count):
        for j in range(i, count):
            total[i, j] = total[j, i] = _sum(grams[:, i, j].tolist())
    return total


def _sum(parts: list[float]) -> float:
    """Add numbers, rounding once; NaN when one is not finite, or the sum is too large."""
    try:
        total = math.fsum(parts)
    except ValueError:  # infinities of both signs
        return math.nan
    except OverflowError:  # on the way, from where the rest may lead back
        total = _nearest(sum(map(Fraction, parts), Fraction()))
    return total if math.isfinite(total) else math.nan


def _nearest(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.nan


class Tensor:
    """One tensor's products while its pieces come, in any order.

    Args:
        elements: how many it has.
    """

    def __init__(self, elements: int) -> None:
        self.elements = self._waiting = elements
        self._products: list[Matrix] = []
        self._counts: list[Counts] = []

    def take(self, products: Matrix, counts: Counts, elements: int) -> tuple[Matrix, Counts] | None:
        """Take those of some pieces; return all of them, added, when none is missing any more."""
        self._products.append(products)
        self._counts.append(counts.sum(axis=0))
        self._waiting -= elements
        if self._waiting:
            return None
        found = added(np.concatenate(self._products)), np.sum(self._counts, axis=0)
        self._products, self._counts = [], []
        return found
