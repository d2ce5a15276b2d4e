"""Products of low-rank factors, to the bit as base.py defines them, for any range of elements.

A BLAS gives other bits for every shape, library and processor. Here each element is one chain of
fused multiply-adds whatever is computed beside it: a tile of a few rows and columns keeps its
chains in registers, and the columns of the right factor it needs in the level-1 cache.
"""

import numpy as np
from numpy.typing import NDArray

from taskalg.engines.cache import compiled, inlined
from taskalg.engines.instructions import (
    TILE_COLUMNS,
    TILE_ROWS,
    default_arithmetic,
    multiply_tile,
    set_arithmetic,
)

Matrix = NDArray[np.float64]

_SIZE = 8  # of an element [bytes]


def padded(left: Matrix) -> Matrix:
    """Add rows of zeros, so that every tile is full."""
    return np.pad(left, ((0, TILE_ROWS - 1), (0, 0)))


def packed(right: Matrix) -> Matrix:
    """Put columns that a tile needs together: `(rank, columns)` to `(strips, rank, columns each)`.

    Where the columns of a strip are a page apart, fetching them takes longer than multiplying.
    """
    rank, columns = right.shape
    strips = -(-columns // TILE_COLUMNS)
    wide = np.zeros((rank, strips * TILE_COLUMNS))
    wide[:, :columns] = right
    return np.ascontiguousarray(wide.reshape(rank, strips, TILE_COLUMNS).swapaxes(0, 1))


@inlined
def _edge(tile: Matrix, output: Matrix, first: int, width: int) -> None:
    """Copy one row of a tile to its place, as far as its elements are wanted."""
    for index in range(max(0, -first), min(width, output.size - first)):
        output[first + index] = tile[index]


@inlined
def _tile(left: int, right: int, rank: int, scale: float, output: int, step: int) -> None:
    """Compute a tile whose rows lie `step` bytes apart in the output."""
    each = rank * _SIZE
    lines = (left, left + each, left + 2 * each, left + 3 * each)
    places = (output, output + step, output + 2 * step, output + 3 * step)
    multiply_tile(lines, right, rank, scale, places)


@compiled
def multiply(
    left: Matrix, strips: Matrix, columns: int, scale: float, first: int, output: Matrix
) -> None:
    """Fill `output` with elements of `scale * (left @ right)`, from element `first` on.

    Args:
        left: what `padded` makes of the left factor.
        strips: what `packed` makes of the right factor.
        columns: of the right factor.
        scale: of every element.
        first: number of the first element, counted row by row.
        output: as many elements as are wanted, contiguous.
    """
    before = default_arithmetic()
    rank = left.shape[1]
    top, bottom = first // columns, (first + output.size - 1) // columns + 1
    tile = np.empty((TILE_ROWS, TILE_COLUMNS))
    addresses = left.ctypes.data, strips.ctypes.data, tile.ctypes.data, output.ctypes.data
    for strip in range(len(strips)):
        start = strip * TILE_COLUMNS
        width = min(TILE_COLUMNS, columns - start)
        right = addresses[1] + strip * rank * TILE_COLUMNS * _SIZE
        for row in range(top, bottom, TILE_ROWS):
            line = addresses[0] + row * rank * _SIZE
            place = row * columns + start - first
            end = place + (TILE_ROWS - 1) * columns + TILE_COLUMNS
            if place >= 0 and end <= output.size and width == TILE_COLUMNS:
                there = addresses[3] + place * _SIZE
                _tile(line, right, rank, scale, there, columns * _SIZE)
                continue
            _tile(line, right, rank, scale, addresses[2], TILE_COLUMNS * _SIZE)
            for index in range(TILE_ROWS):
                _edge(tile[index], output, place + index * columns, width)
    set_arithmetic(before)
