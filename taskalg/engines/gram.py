"""All inner products of several sums at once: what norms, cosines and Gram matrices are made of.

A strip of every operand is decoded into the cache, the sums are formed there, and each meets each:
operands are read once, however many sums they are in. Rejected: a matrix product by a library,
which is as fast, but adds in an order that changes with the library, the machine and how many sums
there are.

Every product is defined to the bit. The elements of a tensor, row by row, are cut in pieces of
PIECE and those in strips of STRIP; only the last of each may be shorter, and zeros make it up. In a
strip the elements of two sums are multiplied and added in LANES chains of binary64 fused
multiply-adds that start from zero: chain l takes elements l, l + LANES, and so on. The chains' ends
are added, lane by lane, to those of the strips before; and at a piece's end lane l + 4 is added to
lane l, then l + 2, then l + 1. Short chains lose little: the error of a piece is some 200 roundings
at most, not 30,000.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskalg.engines.blocks import Inputs, fill
from taskalg.engines.cache import compiled, inlined
from taskalg.engines.instructions import default_arithmetic, fma, set_arithmetic

LANES = 8  # one vector of AVX-512, two of AVX2, four of NEON
STRIP = 512  # elements; a multiple of 64, of which one word holds the signs
PIECE = 32768  # elements, a multiple of STRIP; what blocks are cut in


class Sums(NamedTuple):
    """What each sum is made of: `first * x + second * y`, rounded once."""

    places: NDArray[np.int64]  # `(n, 2)`, which inputs x and y are; -1 for no second one
    factors: NDArray[np.float64]  # `(n, 2)`; the first is 1 or -1 unless it is alone


@inlined
def _form(
    sums: Sums, decoded: NDArray[np.float64], size: int, vectors: NDArray[np.float64]
) -> None:
    for index in range(len(vectors)):
        x, y = sums.places[index]
        first, second = sums.factors[index]
        vector = vectors[index]
        if y < 0:
            for element in range(size):
                vector[element] = first * decoded[x, element]
        else:
            for element in range(size):
                vector[element] = fma(second, decoded[y, element], first * decoded[x, element])
        vector[size:] = 0.0


@inlined
def _multiply(vectors: NDArray[np.float64], lanes: NDArray[np.float64]) -> None:
    chains = np.empty(LANES)
    for i in range(len(vectors)):
        for j in range(i, len(vectors)):
            chains[:] = 0.0
            for start in range(0, STRIP, LANES):
                for lane in range(LANES):
                    x, y = vectors[i, start + lane], vectors[j, start + lane]
                    chains[lane] = fma(x, y, chains[lane])
            for lane in range(LANES):
                lanes[i, j, lane] += chains[lane]


@inlined
def _count(vectors: NDArray[np.float64], size: int, counts: NDArray[np.int64]) -> None:
    for i in range(len(vectors)):
        for j in range(i, len(vectors)):
            for element in range(size):
                x, y = vectors[i, element], vectors[j, element]
                if x != 0 and y != 0:
                    counts[0, i, j] += (x < 0) == (y < 0)
                    counts[1, i, j] += 1


@inlined
def _total(lanes: NDArray[np.float64]) -> float:
    """Add neighbors at ever smaller distances."""
    width = LANES // 2
    while width:
        for index in range(width):
            lanes[index] += lanes[index + width]
        width //= 2
    return float(lanes[0])


@compiled
def grams(
    inputs: Inputs,
    sums: Sums,
    pieces: NDArray[np.int64],
    products: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:
    """Compute the inner products of sums on pieces of tensors.

    Args:
        inputs: where the operands are, and how to decode them.
        sums: what is made of them, n in number.
        pieces: `(pieces, 2)`, from where to where [elements].
        products: `(pieces, n, n)`, of which `[:, i, j]` with `i <= j` is filled.
        counts: `(pieces, 2, n, n)`, likewise: where neither is zero and signs agree, and where
            neither is zero. None is counted when there are no rows.
    """
    before = default_arithmetic()
    count, operands = len(sums.places), len(inputs.itemsizes)
    decoded, vectors = np.empty((operands, STRIP)), np.empty((count, STRIP))
    lanes = np.empty((count, count, LANES))
    for piece in range(len(pieces)):
        begin, end = pieces[piece]
        lanes[:] = 0.0
        for start in range(begin, end, STRIP):
            size = min(STRIP, end - start)
            for operand in range(operands):
                fill(decoded[operand], inputs, operand, start, size)
            _form(sums, decoded, size, vectors)
            _multiply(vectors, lanes)
            if len(counts):
                _count(vectors, size, counts[piece])
        for i in range(count):
            for j in range(i, count):
                products[piece, i, j] = _total(lanes[i, j])
    set_arithmetic(before)
