"""Vectors on parts of a model: what all tensors of a layer, or of a module, measure together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from taskalg.algebra.selectors import layer_of
from taskalg.errors import UsageError, listed, printable
from taskalg.measuring.adding import Counts, Matrix, Products, added

LEVELS = ("layer", "module", "tensor")
NO_LAYER = "outside layers"


@dataclass(frozen=True, eq=False)
class Part:
    """Vectors on some tensors."""

    name: str  # of the tensor, the module or the layer; of all tensors it is empty
    tensors: tuple[str, ...]
    elements: int  # that each vector has there
    gram: Matrix  # `(n, n)`, inner products; NaN where a number is not finite, or too large
    agreeing: Counts  # `(n, n)`, elements where two vectors are not zero and have one sign
    both: Counts  # `(n, n)`, elements where two vectors are not zero

    @property
    def norms(self) -> Matrix:
        """Their lengths, `(n,)`."""
        return np.sqrt(np.diagonal(self.gram))

    @property
    def cosines(self) -> Matrix:
        """Cosines of the angles between them, `(n, n)`; NaN for a vector that is zero."""
        sizes = self.norms[:, None] * self.norms
        with np.errstate(invalid="ignore"):
            return np.clip(self.gram / np.where(sizes == 0, np.nan, sizes), -1.0, 1.0)

    @property
    def agreement(self) -> Matrix:
        """Share of the elements where neither is zero in which signs agree, `(n, n)`."""
        return self.agreeing / np.where(self.both == 0, np.nan, self.both)

    def __repr__(self) -> str:
        norms = ", ".join(f"{norm:.4g}" for norm in self.norms.tolist())
        where = printable(self.name) or "all"
        return f"Part({where}: {self.elements:,} elements, norms {norms})"


def grouped(tensors: Sequence[str], level: str) -> Mapping[str, Sequence[int]]:
    """Return the places of the tensors of each part, in order of first mention.

    A layer is called by its stack and number, "model.layers.3"; what is in none comes last.

    Raises:
        UsageError: there is no such level.
    """
    if level not in LEVELS:
        raise UsageError(f"models are divided by {listed(LEVELS, 'or')}", note=f"found {level!r}")
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(tensors):
        groups.setdefault(_part_name(name, level), []).append(place)
    if level == "layer" and NO_LAYER in groups:
        groups[NO_LAYER] = groups.pop(NO_LAYER)
    return groups


def _part_name(tensor: str, level: str) -> str:
    if level == "tensor":
        return tensor
    if level == "module":
        return tensor.rpartition(".")[0] or tensor
    found = layer_of(tensor)
    return NO_LAYER if found is None else ".".join([*filter(None, found[:1]), str(found[1])])


def part_of(products: Products, sums: Sequence[int], name: str, tensors: Sequence[int]) -> Part:
    """Add up what some sums measure on some tensors."""
    rows, chosen = list(tensors), np.ix_(list(tensors), sums, sums)
    assert products.agreeing is not None and products.both is not None
    return Part(
        name=name,
        tensors=tuple(products.tensors[row] for row in rows),
        elements=int(products.elements[rows].sum()),
        gram=added(products.grams[chosen]),
        agreeing=products.agreeing[chosen].sum(axis=0),
        both=products.both[chosen].sum(axis=0),
    )
