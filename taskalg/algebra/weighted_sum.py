"""Weighted sums: exact coefficients by checkpoint, and the scalars that are measured of them.

The one value besides the scalar. Every linear expression is one of these, whatever its brackets.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, TypeVar

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.monomial import Symbol
from taskalg.errors import Span

Sort = Literal["checkpoint", "task"]


@dataclass(frozen=True, eq=False)
class Reference:
    """A checkpoint that an expression mentions, not opened yet. Every mention is its own."""

    path: str | None  # as written; None when the name was declared without a file
    sort: Sort  # a task's base is subtracted unless the file is a vector
    name: str | None = None  # what it is bound to; None when it is written inside an expression
    base: "WeightedSum[Reference] | None" = None  # of a task; None is the program's `base`
    folder: str | None = None  # of the recipe that says the path
    span: Span | None = None  # where it is bound
    strip_prefix: str | None = None  # dropped from the names of its tensors; None lets names decide
    held: object = None  # a state dict or a module in memory, in place of a path


Leaf = TypeVar("Leaf")


class WeightedSum(Generic[Leaf]):
    """Coefficients by checkpoint, immutable.

    A checkpoint whose coefficient cancelled stays, with a coefficient of zero: the plan says that
    it is never opened.
    """

    __slots__ = ("_terms",)

    def __init__(self, terms: Mapping[Leaf, Coefficient]) -> None:
        self._terms = dict(terms)

    @classmethod
    def adding(cls, parts: Iterable["WeightedSum[Leaf]"]) -> "WeightedSum[Leaf]":
        """Add any number of sums in one pass."""
        terms: dict[Leaf, Coefficient] = {}
        for part in parts:
            for leaf, coefficient in part._terms.items():
                earlier = terms.get(leaf)
                terms[leaf] = coefficient if earlier is None else earlier + coefficient
        return cls(terms)

    @property
    def terms(self) -> Mapping[Leaf, Coefficient]:
        """Coefficients by checkpoint, in order of first mention."""
        return self._terms

    def scaled(self, factor: Coefficient) -> "WeightedSum[Leaf]":
        """Multiply every coefficient."""
        return WeightedSum({leaf: factor * part for leaf, part in self._terms.items()})

    def total(self) -> Coefficient:
        """Add up the coefficients of all checkpoints."""
        return sum(self._terms.values(), Coefficient())

    def __bool__(self) -> bool:
        return any(self._terms.values())

    def __eq__(self, other: object) -> bool:
        """Tell whether both are written out the same; what cancelled does not count."""
        return isinstance(other, WeightedSum) and self._left() == other._left()

    def __hash__(self) -> int:
        return hash(frozenset(self._left().items()))

    def _left(self) -> dict[Leaf, Coefficient]:
        return {leaf: part for leaf, part in self._terms.items() if part}

    def __repr__(self) -> str:
        return f"WeightedSum({self._terms})"


Sum = WeightedSum[Reference]
Value = Coefficient | Sum


@dataclass(frozen=True)
class Measured(Generic[Leaf]):
    """What a symbol is the number of: a function of data. Equal when written out the same."""

    function: str  # "norm", "dot" or "cos"
    arguments: tuple[WeightedSum[Leaf], ...]
    depth: int = field(default=1, compare=False)  # 1 when there is none in its arguments


def measured_in(coefficients: Iterable[Coefficient]) -> Iterator[Measured[Reference]]:
    """Yield what is measured for some coefficients, once each; not what is inside of it."""
    seen: set[Symbol] = set()
    for coefficient in coefficients:
        for symbol in coefficient.symbols():
            if isinstance(symbol.measured, Measured) and symbol not in seen:
                seen.add(symbol)
                yield symbol.measured


def references(values: Iterable[Value]) -> Iterator[Reference]:
    """Yield every reference of some values, those of bases and of measured sums too, once each."""
    seen: set[Reference] = set()
    measured: set[Measured[Reference]] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        terms = value.terms if isinstance(value, WeightedSum) else {}
        new = [reference for reference in terms if reference not in seen]
        seen.update(new)
        waiting += [reference.base for reference in new if reference.base is not None]
        parts = [value] if isinstance(value, Coefficient) else terms.values()
        for one in measured_in(parts):
            if one not in measured:
                measured.add(one)
                waiting += one.arguments
        yield from new


def substituted(
    values: Iterable[Value | None], new: Callable[[Reference], Reference]
) -> list[Value | None]:
    """Put references in the place of others, in tasks' bases and in what is measured too.

    Args:
        values: in which one reference is replaced by one other, however often it is mentioned.
        new: returns what stands in the place of a reference; itself if it stays.
    """
    run = _Substitution(new)
    return [
        run.whole(value) if isinstance(value, WeightedSum) else value and run.scalar(value)
        for value in values
    ]


class _Substitution:
    """Puts references in the place of others, each once."""

    def __init__(self, new: Callable[[Reference], Reference]) -> None:
        self._new = new
        self._done: dict[Reference, Reference] = {}

    def whole(self, total: Sum) -> Sum:
        terms = {self._other(leaf): self.scalar(part) for leaf, part in total.terms.items()}
        return total if terms == total.terms else WeightedSum(terms)

    def scalar(self, part: Coefficient) -> Coefficient:
        return part.replaced(self._symbol) if any(measured_in([part])) else part

    def _other(self, reference: Reference) -> Reference:
        if reference not in self._done:
            changed = self._new(reference)
            base = None if reference.base is None else self.whole(reference.base)
            if base is not reference.base:
                changed = replace(changed, base=base)
            self._done[reference] = changed
        return self._done[reference]

    def _symbol(self, symbol: Symbol) -> Coefficient | None:
        one = symbol.measured
        if not isinstance(one, Measured):
            return None
        arguments = tuple(self.whole(argument) for argument in one.arguments)
        return Coefficient.symbol(symbol.name, replace(one, arguments=arguments))
