"""Kernels for inner products of gradients with operands: partial sums by chunk, then their total.

A program takes one chunk of one tensor, as in `weighted_sums`. It meets the gradient again for
every operand, in the cache, so what is read from the GPU's memory is read once; accumulators for
all operands at once would not fit registers. Sums are kept in binary64, lane by lane, and added in
one order.
"""

import triton
import triton.language as tl

from taskalg.engines.gpu.elements import (
    BITS,
    NARROWER,
    SCALE,
    SPECIAL,
    at_top,
    magnitude,
    typed,
    widen,
)
from taskalg.engines.gpu.tables import TILES

_TILES = tl.constexpr(TILES)
_LANES = tl.constexpr(256)  # partial sums of one tensor that are added side by side


@triton.jit
def _numbers(
    address, start, stop, DTYPES: tl.constexpr, PLACE: tl.constexpr,
    TILE: tl.constexpr, ALIGNED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Load and decode a tile; what is no number, or beyond them, is NaN."""
    lanes = tl.arange(0, TILE)
    pointer = typed(address, DTYPES[PLACE][BITS], ALIGNED) + start
    if WHOLE:
        stored = tl.load(pointer + lanes)
    else:
        stored = tl.load(pointer + lanes, mask=start + lanes < stop, other=0)
    pattern = at_top(stored, DTYPES[PLACE][BITS])
    number = widen(pattern, DTYPES[PLACE][BITS], DTYPES[PLACE][NARROWER]) * DTYPES[PLACE][SCALE]
    odd = magnitude(pattern, DTYPES[PLACE][BITS]) >= DTYPES[PLACE][SPECIAL]
    return tl.where(odd, float("nan"), number)


@triton.jit
def products(
    chunks, tensors, partial,
    DTYPES: tl.constexpr, TILE: tl.constexpr, ALIGNED: tl.constexpr,
) -> None:  # fmt: skip
    """Multiply one chunk of a gradient with those of all operands.

    `chunks` and `tensors` are as `weighted_sums` has them, the gradient in the output's place;
    `DTYPES` are the operands' and then the gradient's. `partial` takes for each program a number
    for each operand.
    """
    TERMS: tl.constexpr = len(DTYPES) - 1
    program = tl.program_id(0).to(tl.int64)
    chunk = tl.load(chunks + program)
    record = tensors + (chunk >> 32) * (TERMS + 3)
    first = (chunk & 0xFFFFFFFF) * (TILE * _TILES)
    stop = tl.minimum(tl.load(record + TERMS + 1), first + TILE * _TILES)
    gradient = tl.load(record + TERMS)
    for term in tl.static_range(TERMS):
        address = tl.load(record + term)
        total = tl.zeros((TILE,), tl.float64)
        for tile in range(tl.cdiv(stop - first, TILE)):
            start = first + tile * TILE
            if start + TILE <= stop:
                x = _numbers(address, start, stop, DTYPES, term, TILE, ALIGNED, True)
                slope = _numbers(gradient, start, stop, DTYPES, TERMS, TILE, ALIGNED, True)
                total = tl.fma(slope, x, total)
            else:
                x = _numbers(address, start, stop, DTYPES, term, TILE, ALIGNED, False)
                slope = _numbers(gradient, start, stop, DTYPES, TERMS, TILE, ALIGNED, False)
                total = tl.fma(slope, x, total)
        tl.store(partial + program * TERMS + term, tl.sum(total, 0))


@triton.jit
def add_up(partial, firsts, totals, TERMS: tl.constexpr) -> None:
    """Add the partial sums of one tensor, whose programs start at `firsts`."""
    tensor = tl.program_id(0)
    first, last = tl.load(firsts + tensor), tl.load(firsts + tensor + 1)
    lanes = tl.arange(0, _LANES)
    for term in tl.static_range(TERMS):
        total = tl.zeros((_LANES,), tl.float64)
        for part in range(tl.cdiv(last - first, _LANES)):
            programs = first + part * _LANES + lanes
            place = partial + programs * TERMS + term
            total += tl.load(place, mask=programs < last, other=0.0)
        tl.store(totals + tensor.to(tl.int64) * TERMS + term, tl.sum(total, 0))
