"""The one form every linear expression has, and its text in the user's own names.

It is kept per checkpoint: 1.1 of base's file, -0.4 of toxic's. It is printed per name, where
`toxic` is a task vector: `base - 0.4*toxic`. Printing takes each task's base out again, so the text
is an expression that means the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.monomial import join_terms, term_texts
from taskalg.algebra.weighted_sum import Measured, WeightedSum


class Named(Protocol):
    """What can be a term: anything with a name to print."""

    @property
    def name(self) -> str | None:
        """The first of its names, or None."""

    @property
    def path(self) -> str | None:
        """Where it lies, or None when it was declared without a file."""

    @property
    def strip_prefix(self) -> str | None:
        """What is dropped from the names of its tensors, or None."""


Leaf = TypeVar("Leaf", bound=Named)


@dataclass(frozen=True)
class Canonical(Generic[Leaf]):
    """A sum in canonical order, and how its tasks are printed."""

    terms: tuple[tuple[Leaf, Coefficient], ...]  # in order; coefficients that cancelled are zero
    bases: dict[Leaf, WeightedSum[Leaf]]  # what a name that is a task vector stands without
    # What has yet to be subtracted from tensors that a task vector's file stores whole.
    against: dict[Leaf, WeightedSum[Leaf]] = field(default_factory=dict)
    # What symbols in all of these are the numbers of, by their names: the measured scalars.
    measured: dict[str, Measured[Leaf]] = field(default_factory=dict)

    def __str__(self) -> str:
        printed = dict(self.terms)
        for task in self._outermost_first():
            for leaf, part in self.bases[task].scaled(printed[task]).terms.items():
                printed[leaf] = printed.get(leaf, Coefficient()) + part
        ordered = sorted(printed, key=lambda leaf: sort_key(leaf.name, leaf.path))
        texts = [t for leaf in ordered for t in term_texts(printed[leaf].parts, label(leaf))]
        return join_terms(texts)

    def over(self, new: Callable[[Leaf], Leaf]) -> "Canonical[Leaf]":
        """Put others in the place of what can be a term, wherever it is mentioned."""

        def total(one: WeightedSum[Leaf]) -> WeightedSum[Leaf]:
            return WeightedSum({new(leaf): part for leaf, part in one.terms.items()})

        return Canonical(
            tuple((new(leaf), part) for leaf, part in self.terms),
            {new(leaf): total(base) for leaf, base in self.bases.items()},
            {new(leaf): total(base) for leaf, base in self.against.items()},
            {
                name: replace(one, arguments=tuple(map(total, one.arguments)))
                for name, one in self.measured.items()
            },
        )

    def _outermost_first(self) -> list[Leaf]:
        """Order tasks so that one taken against another comes before it."""
        waiting = [leaf for leaf, _ in self.terms if leaf in self.bases]
        ordered: list[Leaf] = []
        while waiting:
            inner = {leaf for task in waiting for leaf in self.bases[task].terms if leaf != task}
            ready = [task for task in waiting if task not in inner] or waiting[:1]
            ordered += ready
            waiting = [task for task in waiting if task not in ready]
        return ordered


def sort_key(name: str | None, path: str | None) -> tuple[int, str]:
    """Order terms: `base` first, then names by code point, then unnamed ones by path."""
    if name is None:
        return (2, path or "")
    return (0 if name == "base" else 1, name)


def label(leaf: Named) -> str:
    """Return the expression for a term: its name, or the path it is read from."""
    if leaf.name is not None:
        return leaf.name
    prefix = "" if leaf.strip_prefix is None else f", strip_prefix={_quoted(leaf.strip_prefix)}"
    return f"checkpoint({_quoted(leaf.path or '')}{prefix})"


def _quoted(text: str) -> str:
    quote = "'" if '"' in text else '"'
    return f"{quote}{text}{quote}"
