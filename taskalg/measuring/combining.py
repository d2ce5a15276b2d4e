"""Products of combinations from the products of what is combined, or none where that cancels."""

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.selectors import Place
from taskalg.algebra.table import tabulate
from taskalg.measuring.adding import Matrix, added

# (sum of |c| * |atom|)**2 / |sum|**2 from which on the digits that are left are too few: of sixteen
# six go, and a norm keeps half of the error of its square.
CANCELS = 1_000_000

Row = Mapping[int, Coefficient]  # of a combination, by the places in the matrices of products
Numbers = Mapping[int, Fraction]
Products = list[list[float]]


class Combining:
    """Combines what was measured.

    Args:
        tensors: on which it was.
        grams: products on each of them, `(tensors, n, n)`.
        whole: the same on all of them.
        places: of all tensors of the model; layers are counted among these.
    """

    def __init__(
        self,
        tensors: Sequence[str],
        grams: Matrix,
        whole: Matrix,
        places: Mapping[str, Place | None],
    ) -> None:
        self._tensors, self._grams, self._places = tensors, grams, places
        self._whole: Products = whole.tolist()

    def dot(self, x: Row, y: Row) -> float | None:
        """Return a product of two combinations; None where one of them cancels.

        Exact but for one rounding of the result, given the products that it is made of.
        """
        square = self._square(x)
        if square is None or x is y:
            return None if square is None else float(square)
        if self._square(y) is None:
            return None
        classes = self._classes(x, y)
        return float(sum(_product(left, right, gram) for left, right, gram in classes))

    def _square(self, x: Row) -> Fraction | None:
        """Return the square of a combination's norm; None where it cancels, or is not finite."""
        square, size = Fraction(0), 0.0
        for numbers, _, gram in self._classes(x, x):
            if not all(math.isfinite(gram[place][place]) for place in numbers):
                return None
            square += _square_of(numbers, gram)
            norms = (abs(c) * math.sqrt(gram[place][place]) for place, c in numbers.items())
            size += math.fsum(norms) ** 2
        return None if size > CANCELS * square else square

    def _classes(self, x: Row, y: Row) -> Iterator[tuple[Numbers, Numbers, Products]]:
        """Yield combinations as numbers, and the products on the tensors where they are these."""
        parts, middle = [*x.values(), *y.values()], len(x)
        if not any(part.varies for part in parts):
            numbers = [part.number for part in parts]
            yield _numbers(x, numbers[:middle]), _numbers(y, numbers[middle:]), self._whole
            return
        table = tabulate(parts, self._places)
        classes = np.array([table.of[name] for name in self._tensors])
        for index, values in enumerate(table.classes):
            chosen = classes == index
            if chosen.any():
                gram: Products = added(self._grams[chosen]).tolist()
                yield _numbers(x, values[:middle]), _numbers(y, values[middle:]), gram


def _numbers(row: Row, values: Sequence[object]) -> Numbers:
    found = zip(row, values, strict=True)
    return {place: value for place, value in found if isinstance(value, Fraction) and value}


def _product(x: Numbers, y: Numbers, gram: Products) -> Fraction:
    return sum(
        (a * b * Fraction(gram[i][j]) for i, a in x.items() for j, b in y.items()), Fraction(0)
    )


def _square_of(x: Numbers, gram: Products) -> Fraction:
    """Return the product of a combination with itself, each pair looked at once."""
    terms = list(x.items())
    pairs = (
        (a * b * Fraction(gram[i][j])) * (1 if i == j else 2)
        for place, (i, a) in enumerate(terms)
        for j, b in terms[place:]
    )
    return sum(pairs, Fraction(0))
