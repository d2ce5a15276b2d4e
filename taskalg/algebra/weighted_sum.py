"""Weighted sums: exact coefficients by checkpoint.

The one value besides the scalar. Every linear expression is one of these, whatever its brackets.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from taskalg.algebra.coefficient import Coefficient
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

    def __repr__(self) -> str:
        return f"WeightedSum({self._terms})"


Sum = WeightedSum[Reference]
Value = Coefficient | Sum


def references(sums: Iterable[Sum]) -> Iterator[Reference]:
    """Yield every reference of some sums, and those of their tasks' bases, once each."""
    seen: set[Reference] = set()
    waiting = list(sums)
    while waiting:
        new = [reference for reference in waiting.pop().terms if reference not in seen]
        seen.update(new)
        waiting += [reference.base for reference in new if reference.base is not None]
        yield from new


def substituted(
    values: Iterable[Value | None], new: Callable[[Reference], Reference]
) -> list[Value | None]:
    """Put references in the place of others, in tasks' bases too.

    Args:
        values: in which one reference is replaced by one other, however often it is mentioned.
        new: returns what stands in the place of a reference; itself if it stays.
    """
    done: dict[Reference, Reference] = {}

    def other(reference: Reference) -> Reference:
        if reference not in done:
            changed = new(reference)
            base = None if reference.base is None else whole(reference.base)
            done[reference] = changed if base is reference.base else replace(changed, base=base)
        return done[reference]

    def whole(total: Sum) -> Sum:
        terms = {other(reference): part for reference, part in total.terms.items()}
        return total if terms.keys() == total.terms.keys() else WeightedSum(terms)

    return [whole(value) if isinstance(value, WeightedSum) else value for value in values]
