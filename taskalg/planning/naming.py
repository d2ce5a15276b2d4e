"""Measured scalars by their canonical text, once it is known what checkpoints are mentioned.

From then on such a scalar is a symbol like others, whose name says what it is: equal arguments are
one symbol, however they are spelled, and a sum that is printed means the same when it is read.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Generic, TypeVar

from taskalg.algebra.canonical import Canonical, Named
from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.algebra.measured import check_length, ordered
from taskalg.algebra.monomial import Symbol
from taskalg.algebra.weighted_sum import Measured, Reference, WeightedSum, measured_in
from taskalg.errors import DivisionError, MismatchError, UsageError, quoted

Leaf = TypeVar("Leaf", bound=Named)
ByKey = WeightedSum[object]


class Naming(Generic[Leaf]):
    """Puts what can be a term in the place of keys, and names in the place of what is measured.

    Args:
        leaves: by key.
        bases: of keys that are task vectors, by key.
        arguments: returns what something is measured of, by key.

    Attributes:
        measured: what is measured, by name.
    """

    def __init__(
        self,
        leaves: Mapping[object, Leaf],
        bases: Mapping[object, ByKey],
        arguments: Callable[[Measured[Reference]], tuple[ByKey, ...]],
    ) -> None:
        self.measured: dict[str, Measured[Leaf]] = {}
        self._leaves, self._bases, self._arguments = leaves, bases, arguments
        self._keys = {leaf: key for key, leaf in leaves.items()}
        self._named: dict[Measured[Reference], Number] = {}
        self._more: dict[str, int] = {}  # characters of a name in files alone, more than it has

    def total(self, by_key: ByKey) -> WeightedSum[Leaf]:
        """Return a sum of what can be a term."""
        return WeightedSum({self._leaves[k]: self.scalar(part) for k, part in by_key.terms.items()})

    def scalar(self, part: Coefficient) -> Coefficient:
        """Name what is measured in a scalar.

        Raises:
            MismatchError: it divides by what is measured of nothing, and so is zero.
            ExpressionError: what is measured is too long.
            UsageError: a name would be that of two.
        """
        if not any(measured_in([part])):
            return part
        try:
            return part.replaced(self._symbol)
        except DivisionError as error:
            raise zero_divisor(error, "what is measured cancels") from None

    def _symbol(self, symbol: Symbol) -> Number | None:
        one = symbol.measured
        if not isinstance(one, Measured):
            return None
        if one not in self._named:
            self._named[one] = self._name(one)
        return self._named[one]

    def _name(self, one: Measured[Reference]) -> Number:
        sums = [self.total(argument) for argument in self._arguments(one)]
        name, found = written(Measured(one.function, tuple(sums)), self._bases_of(sums))
        if not all(sums):
            return _of_nothing(one.function, name)
        self._check_length(found, name)
        if self.measured.setdefault(name, found) != found:
            raise UsageError(
                f"two different scalars are written {quoted(name)}",
                help="give the checkpoints in them names",
            )
        return Coefficient.symbol(name)

    def _check_length(self, one: Measured[Leaf], name: str) -> None:
        """Refuse a scalar that is too long in files, as a manifest has it, before data is read."""
        parts = [part for total in one.arguments for part in total.terms.values()]
        inner = (self._more.get(symbol.name, 0) for part in parts for symbol in part.symbols())
        length = len(written(one, {})[0]) + sum(inner)
        check_length(one.function, length)
        self._more[name] = length - len(name)

    def _bases_of(self, sums: Iterable[WeightedSum[Leaf]]) -> dict[Leaf, WeightedSum[Leaf]]:
        """Return what the task vectors in some sums are printed without."""
        keys = {leaf: self._keys[leaf] for total in sums for leaf in total.terms}
        return {o: self.total(self._bases[k]) for o, k in keys.items() if k in self._bases}


def written(
    one: Measured[Leaf], bases: Mapping[Leaf, WeightedSum[Leaf]]
) -> tuple[str, Measured[Leaf]]:
    """Return a measured scalar as an expression, and with its arguments in that order.

    The order of two arguments does not count.

    Args:
        one: what is measured.
        bases: what names that are task vectors stand without.
    """
    texts = {t: str(Canonical(ordered(t).terms, dict(bases))) for t in one.arguments}
    sums = tuple(sorted(one.arguments, key=texts.__getitem__))
    return f"{one.function}({', '.join(texts[t] for t in sums)})", replace(one, arguments=sums)


def renamed(total: Canonical[Leaf]) -> tuple[Canonical[Leaf], dict[str, str]]:
    """Write measured scalars anew, after what they are made of was given other names.

    Returns:
        The sum, and the new name of each measured scalar by its old one.
    """
    if not total.measured:
        return total, {}
    run = _Renaming(total)
    terms = tuple((leaf, run.scalar(part)) for leaf, part in total.terms)
    bases = {leaf: run.total(base) for leaf, base in total.bases.items()}
    against = {leaf: run.total(base) for leaf, base in total.against.items()}
    return Canonical(terms, bases, against, run.measured), run.names


class _Renaming(Generic[Leaf]):
    """Writes the measured scalars of one sum anew, each once."""

    def __init__(self, total: Canonical[Leaf]) -> None:
        self.measured: dict[str, Measured[Leaf]] = {}
        self.names: dict[str, str] = {}
        self._total = total

    def total(self, one: WeightedSum[Leaf]) -> WeightedSum[Leaf]:
        return WeightedSum({leaf: self.scalar(part) for leaf, part in one.terms.items()})

    def scalar(self, part: Coefficient) -> Coefficient:
        return part.replaced(self._symbol)

    def _symbol(self, symbol: Symbol) -> Number | None:
        one = self._total.measured.get(symbol.name)
        if one is None:
            return None
        if symbol.name not in self.names:
            sums = tuple(map(self.total, one.arguments))
            mentioned = {leaf for total in sums for leaf in total.terms}
            bases = {o: self.total(b) for o, b in self._total.bases.items() if o in mentioned}
            name, found = written(replace(one, arguments=sums), bases)
            self.names[symbol.name], self.measured[name] = name, found
        return Coefficient.symbol(self.names[symbol.name])


def _of_nothing(function: str, name: str) -> Fraction:
    """Return what is measured of a sum in which every coefficient cancels.

    Raises:
        MismatchError: it is an angle.
    """
    if function == "cos":
        raise zero_vector(name)
    return Fraction(0)


def zero_vector(name: str) -> MismatchError:
    """Return the error that a vector without a direction has no angle to another."""
    return MismatchError(
        f"{quoted(name)} has no value: one of the two is zero",
        note="all its elements are 0, or too small for their squares in binary64",
    )


def zero_divisor(error: DivisionError, why: str) -> MismatchError:
    """Return the error that a divisor turned out to be zero, for it is the data that decides."""
    return MismatchError(error.message, note=f"{error.note}: {why}")
