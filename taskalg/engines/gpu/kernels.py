"""One launch for every tensor: tiles of weighted sums, exact in binary64 or beside it.

A program takes one chunk of one tensor: a few tiles, each as wide as one warp's loads. Tables say
where everything is (tables.py): addresses by tensor, numbers by row of coefficients. So neither
other coefficients nor another model compile anything; only dtypes and the number of terms do.

A tile's magnitudes decide, as a sub-block's do on the CPU (tiers.py), whether its sums are exact in
binary64; then it is summed and rounded as there (kernels.py). Otherwise it takes the double-double
tier (sums.py), and a tile with an element that even this cannot settle is left to the CPU engine.

Nothing is contracted into multiply-adds but what is written so (`enable_fp_fusion=False`), or the
sums would not lose what they say they lose. Rejected: several warps to a program, which would have
to wait for each other's magnitudes; a test for each element, which costs as much as the sum.
"""

import triton
import triton.language as tl

from taskalg.engines.gpu.elements import (
    BITS,
    FRACTION,
    NARROWER,
    OFFSET,
    SPECIAL,
    at_top,
    from_upper,
    magnitude,
    negative_zeros,
    sign_of,
    typed,
    upper,
    widen,
)
from taskalg.engines.gpu.sums import double_double
from taskalg.engines.gpu.tables import TILES

_TILES = tl.constexpr(TILES)
_HIGHEST = tl.constexpr(0x7FFFFFFF)
_EXPONENT = tl.constexpr(0x7FF00000)
_SMALLEST_NORMAL = tl.constexpr(1023 - 126 << 20)  # binary32's
_HALF = tl.constexpr(1 << 19)  # half a unit of the exponent's last place, in upper bits
_PART = tl.constexpr(32)  # elements of the double-double tier at a time; more would take registers


@triton.jit
def _extremes(pattern, INPUTS: tl.constexpr, TERM: tl.constexpr, MIXED: tl.constexpr):
    """Return magnitudes to take the largest of, and the same less one for the smallest but zero.

    Among dtypes of one kind patterns will do; others are brought to binary64's exponents.
    """
    size = magnitude(pattern, INPUTS[TERM][BITS])
    if MIXED:
        field_0 = INPUTS[TERM][OFFSET]
        common = tl.maximum((size >> INPUTS[TERM][NARROWER]) + field_0, field_0 + (1 << 20))
        common = tl.where(size == 0, 0, tl.where(size >= INPUTS[TERM][SPECIAL], _HIGHEST, common))
        common = common.to(tl.uint32)
        return common, common - 1
    elif INPUTS[TERM][BITS] == 64:
        size = size.to(tl.uint32)
        return size, size - 1
    else:  # a shift takes the sign away on a pipe that has time; the place of fields is told below
        size = (pattern << 1).to(tl.uint32)
        return size, size - 1


@triton.jit
def _is_exact(largest, less_one, limits, INPUTS: tl.constexpr, MIXED: tl.constexpr):
    """Tell whether no sum of a tile rounds or overflows, from its magnitudes."""
    FIELD: tl.constexpr = 20 if MIXED else 20 + INPUTS[0][NARROWER]
    SHIFTED: tl.constexpr = 0 if MIXED or INPUTS[0][BITS] == 64 else 1
    top = (tl.max(largest, 0) >> SHIFTED).to(tl.int32)
    bottom = ((tl.min(less_one, 0) + 1) >> SHIFTED).to(tl.int32)
    high, low = tl.maximum(top >> FIELD, 1), tl.maximum(bottom >> FIELD, 1)
    binades, lowest = tl.load(limits).to(tl.int32), tl.load(limits + 1).to(tl.int32)
    ceiling = tl.load(limits + 2).to(tl.int32)
    near = (high - low <= binades) & (low >= lowest)
    return (top <= ceiling) & (near | (top == 0))


@triton.jit
def _round(total, quotient, OUTPUT: tl.constexpr):
    """Divide and round (formats.Quotient); return patterns. Nothing overflows."""
    if OUTPUT[BITS] == 64:
        return (total / tl.load(quotient + 2)).to(tl.int64, bitcast=True)
    else:
        value = tl.fma(total, tl.load(quotient), total * tl.load(quotient + 1))
        if OUTPUT[BITS] < 32:
            exponent = tl.maximum(upper(value) & _EXPONENT, _SMALLEST_NORMAL)
            magic = from_upper(exponent + (_HALF | ((52 - OUTPUT[FRACTION]) << 20)))
            value = (value + magic) - magic
        size = value.to(tl.float32).to(tl.int32, bitcast=True) & _HIGHEST
        return (size >> (23 - OUTPUT[FRACTION])) | sign_of(total, OUTPUT[BITS])


@triton.jit
def _fast(
    record, numbers, start, stop, INPUTS: tl.constexpr, OUTPUT: tl.constexpr,
    TILE: tl.constexpr, MIXED: tl.constexpr, ALIGNED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Evaluate a tile as if it were exact; write it if it is, and tell."""
    TERMS: tl.constexpr = len(INPUTS)
    lanes = tl.arange(0, TILE)
    largest = tl.zeros((TILE,), tl.uint32)
    less_one = tl.full((TILE,), 0xFFFFFFFF, tl.uint32)
    total = negative_zeros(TILE)
    for term in tl.static_range(TERMS):
        weight = tl.load(numbers + term)
        pointer = typed(tl.load(record + term), INPUTS[term][BITS], ALIGNED) + start
        limit = tl.where(weight != 0.0, stop, 0)
        if WHOLE:  # one mask for all elements, or loads would not be wide
            stored = tl.load(pointer + lanes, mask=limit > 0, other=0)
        else:
            stored = tl.load(pointer + lanes, mask=start + lanes < limit, other=0)
        pattern = at_top(stored, INPUTS[term][BITS])
        upward, downward = _extremes(pattern, INPUTS, term, MIXED)
        largest, less_one = tl.maximum(largest, upward), tl.minimum(less_one, downward)
        element = widen(pattern, INPUTS[term][BITS], INPUTS[term][NARROWER])
        total = tl.fma(element, weight, total)
    quotient = numbers + 6 * TERMS + 3
    exact = _is_exact(largest, less_one, quotient + 3, INPUTS, MIXED)
    if exact:
        output = typed(tl.load(record + TERMS), OUTPUT[BITS], ALIGNED) + start
        if WHOLE:
            tl.store(output + lanes, _round(total, quotient, OUTPUT))
        else:
            inside = start + lanes < stop
            tl.store(output + lanes, _round(total, quotient, OUTPUT), mask=inside)
    return exact


@triton.jit
def _slow(
    record, numbers, start, stop, counters,
    INPUTS: tl.constexpr, OUTPUT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Evaluate a tile in the double-double tier; return 1 if it must be left to the CPU.

    All of it is evaluated before any of it is written, since the output may be an input.
    """
    output = typed(tl.load(record + len(INPUTS)), OUTPUT[BITS], False)
    missed, overflowed, nonfinite = 0, 0, 0
    for phase in range(2):
        for part in range(0, tl.minimum(TILE, stop - start), _PART):
            offsets = start + part + tl.arange(0, _PART)
            inside = offsets < stop
            pattern, sure, over, odds = double_double(
                record, numbers, start + part, stop, INPUTS, OUTPUT, _PART
            )
            if phase == 0:
                missed = tl.maximum(missed, tl.max((inside & ~sure).to(tl.int32), 0))
                overflowed += tl.sum((inside & over).to(tl.int32), 0)
                nonfinite += tl.sum(odds, 0)
            elif missed == 0:
                tl.store(output + offsets, pattern, mask=inside)
    if missed == 0:
        tl.atomic_add(counters + 1, overflowed.to(tl.int64))
        tl.atomic_add(counters + 2, nonfinite.to(tl.int64))
        tl.atomic_add(counters + 3, tl.minimum(stop - start, TILE))
    else:
        tl.atomic_add(counters, 1)
    return missed


@triton.jit
def _copy(
    record, term, first, stop,
    TERMS: tl.constexpr, OUTPUT: tl.constexpr, TILE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Copy patterns, those of NaN included."""
    source = typed(tl.load(record + term), OUTPUT[BITS], ALIGNED)
    output = typed(tl.load(record + TERMS), OUTPUT[BITS], ALIGNED)
    for tile in range(tl.cdiv(stop - first, TILE)):
        start = first + tile * TILE
        lanes = tl.arange(0, TILE)
        if start + TILE <= stop:
            tl.store(output + start + lanes, tl.load(source + start + lanes))
        else:
            inside = start + lanes < stop
            last = tl.load(source + start + lanes, mask=inside)
            tl.store(output + start + lanes, last, mask=inside)


@triton.jit
def weighted_sums(
    chunks, tensors, rows, missed, counters,
    INPUTS: tl.constexpr, OUTPUT: tl.constexpr,
    TILE: tl.constexpr, MIXED: tl.constexpr, ALIGNED: tl.constexpr,
) -> None:  # fmt: skip
    """Evaluate one chunk.

    `chunks` has for each program a tensor's number times 2**32, and a chunk's in it; `tensors` for
    each tensor the addresses of inputs and output, its elements, and its row; `rows` the numbers of
    each row of coefficients. `missed` takes for each program a bit for each tile that is left to
    the CPU. `counters` count those tiles, and of the others: results that overflow, inputs that are
    not finite, results of the double-double tier.
    """
    TERMS: tl.constexpr = len(INPUTS)
    program = tl.program_id(0)
    chunk = tl.load(chunks + program)
    record = tensors + (chunk >> 32) * (TERMS + 3)
    numbers = rows + tl.load(record + TERMS + 2) * (6 * TERMS + 10)
    count = tl.load(record + TERMS + 1)
    first = (chunk & 0xFFFFFFFF) * (TILE * _TILES)
    stop = tl.minimum(count, first + TILE * _TILES)
    copied = tl.load(numbers + 6 * TERMS + 9).to(tl.int32)
    if copied >= 0:
        _copy(record, copied, first, stop, TERMS, OUTPUT, TILE, ALIGNED)
    else:
        left, bit = 0, 1
        for tile in range(tl.cdiv(stop - first, TILE)):
            start = first + tile * TILE
            if start + TILE <= stop:
                exact = _fast(
                    record, numbers, start, stop, INPUTS, OUTPUT, TILE, MIXED, ALIGNED, True
                )
            else:
                exact = _fast(
                    record, numbers, start, stop, INPUTS, OUTPUT, TILE, MIXED, ALIGNED, False
                )
            if not exact:
                lost = _slow(record, numbers, start, stop, counters, INPUTS, OUTPUT, TILE)
                left |= lost * bit
            bit *= 2
        if left != 0:
            tl.store(missed + program, left)


@triton.jit
def exchange(
    tiles, tensors, staging, INWARD: tl.constexpr, INPUTS: tl.constexpr, OUTPUT: tl.constexpr,
    TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Copy one tile's inputs to staging memory, or its output from there.

    `tiles` has for each program a tensor's number times 2**32, and a tile's in it; `tensors` is as
    above; `staging` has the addresses where each input's tiles lie one after the other, and then
    the output's.
    """
    TERMS: tl.constexpr = len(INPUTS)
    program = tl.program_id(0).to(tl.int64)
    tile = tl.load(tiles + program)
    record = tensors + (tile >> 32) * (TERMS + 3)
    there = program * TILE + tl.arange(0, TILE)
    here = (tile & 0xFFFFFFFF) * TILE + tl.arange(0, TILE)
    inside = here < tl.load(record + TERMS + 1)
    if INWARD:
        for term in tl.static_range(TERMS):
            source = typed(tl.load(record + term), INPUTS[term][BITS], False)
            target = typed(tl.load(staging + term), INPUTS[term][BITS], False)
            tl.store(target + there, tl.load(source + here, mask=inside, other=0))
    else:
        source = typed(tl.load(staging + TERMS), OUTPUT[BITS], False)
        target = typed(tl.load(record + TERMS), OUTPUT[BITS], False)
        tl.store(target + here, tl.load(source + there, mask=inside), mask=inside)
