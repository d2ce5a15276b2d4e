"""What there are pictures of, as far as a picture looks at it."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

from numpy.typing import NDArray


class Part(Protocol):
    """Vectors on some of their tensors: those of a layer, say."""

    @property
    def name(self) -> str:
        """What the tensors have in common."""

    @property
    def norms(self) -> "NDArray[Any]":
        """Of every vector there."""


class Geometry(Protocol):
    """Vectors and the angles between them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the vectors."""

    @property
    def cosines(self) -> "NDArray[Any]":
        """Between any two of them."""

    def by(self, level: str, /) -> Sequence[Part]:
        """Return the same for parts of the vectors."""


class Point(Protocol):
    """A point of a sweep."""

    @property
    def values(self) -> Mapping[str, Fraction]:
        """Of the scalars that are swept."""

    @property
    def scores(self) -> Mapping[str, float]:
        """What was measured there, by key."""


class Sweep(Protocol):
    """What was measured at several values of some scalars."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scalars."""

    @property
    def points(self) -> Sequence[Point]:
        """In the order of the grid."""

    @property
    def base(self) -> Mapping[str, float]:
        """What was measured of the base, by key; empty if it was not."""

    @property
    def chosen(self) -> Point | None:
        """The best point that keeps the conditions, if any does."""

    @property
    def maximize(self) -> str | None:
        """The key to be maximized."""

    @property
    def subject_to(self) -> Sequence[str]:
        """The conditions, as written."""
