"""What an engine is: exact coefficients and dtypes in, a function over blocks of bytes out.

An engine never sees a file or a tensor's name. `prepare` is called once for every combination of
coefficients and dtypes in a plan; what it returns is called for every block, from several threads
at once. Tensors that stay in memory are evaluated over and over instead, all of them in one call:
`resident` is given their addresses once, and each call only new coefficients.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from taskalg.dtypes import DType

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Tally:
    """What was seen while a block, or a whole run, was evaluated. Copied tensors are not in it."""

    overflowed: int = 0  # results that are not finite although every input element was
    nonfinite: int = 0  # input elements that were NaN or infinite
    bounded: int = 0  # results that took the bounded tier
    tier2: int = 0  # results that took the double-double tier
    tier3: int = 0  # results that took the integer tier

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.overflowed + other.overflowed,
            self.nonfinite + other.nonfinite,
            self.bounded + other.bounded,
            self.tier2 + other.tier2,
            self.tier3 + other.tier3,
        )


@dataclass(frozen=True)
class WeightedSumSpec:
    """One weighted sum over blocks: everything about it but the data."""

    coefficients: tuple[Fraction, ...]  # exact, not zero, one for each input, at least one
    inputs: tuple[DType, ...]  # floating dtypes, one for each input
    output: DType  # floating


@dataclass(frozen=True)
class Factors:
    """A low-rank matrix in memory: `scale * (left @ right)`, in a fixed order of operations."""

    left: NDArray[np.float64]  # `(rows, rank)`, rows together
    right: NDArray[np.float64]  # `(rank, columns)`, rows together
    scale: float


@dataclass(frozen=True)
class Group:
    """Tensors in memory that are alike in their dtypes; whoever makes it keeps their memory."""

    inputs: tuple[DType, ...]  # one for each term
    output: DType
    rows: NDArray[np.int64]  # `(n,)`, which row of coefficients each tensor has
    addresses: NDArray[np.int64]  # `(n, terms + 1)`, of first elements: the inputs', the output's
    counts: NDArray[np.int64]  # `(n,)` [elements]


Evaluate = Callable[[Sequence[Bytes], Bytes], Tally]
Multiply = Callable[[int, Bytes], None]
Resident = Callable[[Sequence[Sequence[Fraction]]], Tally]


class Engine(Protocol):
    """Evaluates weighted sums; every engine gives the same bytes."""

    name: str
    device: str  # as torch calls it, that of memory which blocks are used in without being copied

    def prepare(self, spec: WeightedSumSpec) -> Evaluate:
        """Return a function that evaluates `spec` over a block.

        The function takes one array of bytes for each input, each `(n * itemsize,)` and aligned to
        its itemsize, and the output's array of bytes, which it fills. An input that lies on the
        engine's device is a torch tensor of bytes instead. It may be called from several
        threads at once.
        """
        ...

    def factored(self, factors: Factors) -> Multiply:
        """Return a function that computes a range of elements of a product.

        The function takes the number of the first element, counted row by row, and an array of
        bytes, aligned, that it fills with binary64 numbers. Each is the sum over k, ascending, of
        `left[i, k] * right[k, j]`, by fused multiply-adds that start from the first product, times
        `scale`; every step is rounded to binary64. It may be called from several threads at once.
        """
        ...

    def resident(self, group: Group, *, threads: int | None = None) -> Resident:
        """Return a function that evaluates tensors where they are, as often as it is called.

        The function takes coefficients by row, one for each term: `rows[group.rows[i]]` is tensor
        i's. A zero removes its term, whose memory is then not read, and a row of zeros writes
        zeros; one times an input of the output's dtype is a copy, of which nothing is counted. New
        coefficients neither build anything anew nor, but for the number of terms, compile. All has
        been written when it returns; a call from a second thread waits for that of the first.

        Args:
            group: where the tensors are. An output may be the very memory of inputs, element for
                element, and must not overlap any other way. All of it must outlive the function.
            threads: by default the smaller of 8 and what this process may use; not for a GPU.
        """
        ...

    def dots(self, group: Group, *, threads: int | None = None) -> NDArray[np.float64]:
        """Return the inner product of each tensor's gradient with each of its inputs.

        They are added in binary64, in an order that depends on neither the threads nor the run.

        Args:
            group: the tensors; at the outputs' places are gradients, of the dtype of the outputs.
                Rows do not matter.
            threads: by default the smaller of 8 and what this process may use; not for a GPU.

        Returns:
            `(n, terms)`; what is NaN or infinite in a tensor makes its products so, or NaN.
        """
        ...

    def memory(self, nbytes: int) -> Bytes:
        """Return host memory for blocks, of the sort this engine reads and writes fastest."""
        ...


def exact_integers(coefficients: Sequence[Fraction]) -> tuple[tuple[int, ...], int]:
    """Write coefficients over their least common denominator: `(11, -4, 3), 10`."""
    denominator = math.lcm(*(c.denominator for c in coefficients))
    return tuple(c.numerator * (denominator // c.denominator) for c in coefficients), denominator


def conversion(engine: Engine, source: DType, target: DType) -> Evaluate:
    """Return a function that rounds numbers of one dtype to another, once: one times them."""
    return engine.prepare(WeightedSumSpec((Fraction(1),), (source,), target))
