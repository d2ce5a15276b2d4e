"""What there are pictures of, as far as a picture looks at it: a Geometry does."""

from collections.abc import Sequence
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
