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

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskalg.dtypes import BF16, F32, F64, DType
from taskalg.engines.blocks import Inputs, fill
from taskalg.engines.cache import compiled, inlined
from taskalg.engines.dots import total
from taskalg.engines.instructions import default_arithmetic, set_arithmetic
from taskalg.engines.tiles import LANES, count_signs, form_strip, multiply_strips

# Elements: of 128 to 512 the fastest on Zen 4; eight sums of it, 16 kB, stay in the level-1 cache.
STRIP = 256
_WORDS = STRIP // 64  # of signs
_STEPS = STRIP // LANES
_DIRECT = (BF16, F32, F64)  # dtypes that sums are formed of as they are stored
PIECE = 32768  # elements, a multiple of STRIP; what blocks are cut in


class Sums(NamedTuple):
    """What each sum is made of: `first * x + second * y`, rounded once."""

    places: NDArray[np.int64]  # `(n, 2)`, which inputs x and y are; -1 for no second one
    factors: NDArray[np.float64]  # `(n, 2)`; the first is 1 or -1 unless it is alone
    shared: NDArray[np.bool_]  # for each input, whether several sums have it, or one as its y
    odd: NDArray[np.bool_]  # for each input, whether no sum can be formed of it as it is stored


def make_sums(
    places: NDArray[np.int64], factors: NDArray[np.float64], inputs: Sequence[DType]
) -> Sums:
    """Decide which inputs are decoded before sums are formed of them."""
    places, factors = places.reshape(-1, 2).copy(), factors.reshape(-1, 2).copy()
    pairs = np.flatnonzero(places[:, 1] >= 0)
    uses = np.bincount(places[places >= 0], minlength=len(inputs))
    for row in pairs:
        x, y = places[row]
        if uses[x] > uses[y] and abs(factors[row, 1]) == 1:
            places[row], factors[row] = (y, x), factors[row, ::-1].copy()
    shared = uses > 1
    shared[places[pairs, 1]] = True
    return Sums(places, factors, shared, np.array([one not in _DIRECT for one in inputs], bool))


@inlined
def _form_directly(
    strip: NDArray[np.float64],
    inputs: Inputs,
    operand: int,
    start: int,
    factors: tuple[float, float],
    other: NDArray[np.float64],
) -> None:
    address, source, y = strip.ctypes.data, inputs.addresses[operand], other.ctypes.data
    if inputs.itemsizes[operand] == 2:
        form_strip(address, source, start, np.uint16, factors, y, _STEPS)
    elif inputs.itemsizes[operand] == 4:
        form_strip(address, source, start, np.uint32, factors, y, _STEPS)
    else:
        form_strip(address, source, start, np.float64, factors, y, _STEPS)


@inlined
def _form(
    sums: Sums,
    inputs: Inputs,
    start: int,
    size: int,
    decoded: NDArray[np.float64],
    strips: NDArray[np.float64],
) -> None:
    """Form a strip of each sum; an operand of several sums is decoded once."""
    nothing = decoded[-1]
    for operand in range(len(decoded) - 1):
        if sums.odd[operand] or size < STRIP:
            fill(decoded[operand], inputs, operand, start, size)
            decoded[operand, size:] = 0.0
        elif sums.shared[operand]:
            _form_directly(decoded[operand], inputs, operand, start, (1.0, 0.0), nothing)
    for index in range(len(strips)):
        x, y = sums.places[index]
        factors = sums.factors[index, 0], sums.factors[index, 1]
        other = decoded[y] if y >= 0 else nothing
        if sums.odd[x] or sums.shared[x] or size < STRIP:
            strip, whole = strips[index].ctypes.data, decoded[x].ctypes.data
            form_strip(strip, whole, 0, np.float64, factors, other.ctypes.data, _STEPS)
        else:
            _form_directly(strips[index], inputs, x, start, factors, other)


@inlined
def _multiply(strips: NDArray[np.float64], lanes: NDArray[np.float64]) -> None:
    """Multiply each sum with itself and those after it, in tiles of two by four."""
    count, steps = len(strips), _STEPS
    strip, each = strips.strides[0], lanes.itemsize * LANES
    start, sums = strips.ctypes.data, lanes.ctypes.data
    for i in range(0, count - 1, 2):
        x = start + i * strip, start + (i + 1) * strip
        above, below = sums + i * count * each, sums + (i + 1) * count * each
        j = i
        while j + 4 <= count:
            y = _following(start + j * strip, strip)
            first, second = _following(above + j * each, each), _following(below + j * each, each)
            multiply_strips(x, y, first + second, steps)
            j += 4
        if j + 2 <= count:
            y2 = start + j * strip, start + (j + 1) * strip
            a, b = above + j * each, below + j * each
            multiply_strips(x, y2, (a, a + each, b, b + each), steps)
            j += 2
        if j < count:
            y1 = (start + j * strip,)
            multiply_strips(x, y1, (above + j * each, below + j * each), steps)
    if count % 2:
        last = (start + (count - 1) * strip,)
        multiply_strips(last, last, (sums + (count * count - 1) * each,), steps)


@inlined
def _following(address: int, step: int) -> tuple[int, int, int, int]:
    return address, address + step, address + 2 * step, address + 3 * step


@inlined
def _count(strips: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
    """Compare the signs of each sum and itself and those after it."""
    n, each = len(strips), counts.itemsize * 2 * _WORDS
    start, sums = strips.ctypes.data + STRIP * strips.itemsize, counts.ctypes.data
    width = strips.strides[0]
    for i in range(n):
        for j in range(i, n):
            count_signs(start + i * width, start + j * width, sums + (i * n + j) * each)


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
    n, operands = len(sums.places), len(inputs.itemsizes)
    width = STRIP + 2 * _WORDS  # numbers, and then their signs
    decoded, strips = np.zeros((operands + 1, width)), np.empty((n, width))
    lanes, seen = np.empty((n, n, LANES)), np.empty((n, n, 2, _WORDS), np.int64)
    for piece in range(len(pieces)):
        begin, end = pieces[piece]
        lanes[:], seen[:] = 0.0, 0
        for start in range(begin, end, STRIP):
            size = min(STRIP, end - start)
            _form(sums, inputs, start, size, decoded, strips)
            _multiply(strips, lanes)
            if len(counts):
                _count(strips, seen)
        for i in range(n):
            for j in range(i, n):
                products[piece, i, j] = total(lanes[i, j])
                if len(counts):
                    counts[piece, 0, i, j] = seen[i, j, 0].sum()
                    counts[piece, 1, i, j] = seen[i, j, 1].sum()
    set_arithmetic(before)
