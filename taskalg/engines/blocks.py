"""Elements in memory to binary64 in cache, and results back, for any dtype at run time.

The slower kernels work on sub-blocks of binary64 numbers and leave what a dtype is to this file,
so that one compiled kernel serves every combination. Every value that is decoded is exact.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskalg.dtypes import BF16, F64, DType
from taskalg.engines.cache import inlined
from taskalg.engines.formats import Target, decode_exponent, source
from taskalg.engines.instructions import bits, load, magnitude, number, store, widen

# Elements: measured best of 256 … 4096 on Zen 4; eight bf16 inputs of it fill half a level-1 cache.
SUB_BLOCK = 1024

_SIGN_CLEARED = np.uint64(2**63 - 1)
_SIGN = np.uint64(63)
_FRACTION = np.uint64(52)


class Inputs(NamedTuple):
    """One entry for each input."""

    addresses: NDArray[np.int64]
    itemsizes: NDArray[np.int64]  # [bytes]
    shifts: NDArray[np.uint64]  # of formats.Source
    masks: NDArray[np.uint64]
    scales: NDArray[np.float64]  # the power of two that decoding leaves
    limits: NDArray[np.float64]  # from here on a decoded magnitude is no number of its dtype


def layout(dtypes: Sequence[DType]) -> Inputs:
    """Return what the kernels want to know of inputs, all but their addresses."""
    decodings = [source(BF16 if dtype == F64 else dtype) for dtype in dtypes]
    return Inputs(
        addresses=np.empty(0, np.int64),
        itemsizes=np.array([dtype.itemsize for dtype in dtypes]),
        shifts=np.array([decoding.shift for decoding in decodings]),
        masks=np.array([decoding.mask for decoding in decodings]),
        scales=np.array([2.0 ** decode_exponent(dtype) for dtype in dtypes]),
        limits=np.array([_limit(dtype) for dtype in dtypes]),
    )


def _limit(dtype: DType) -> float:
    step = Fraction(2) ** (dtype.high - dtype.precision + 1)
    return math.inf if dtype == F64 else float(dtype.largest + step)


class Output(NamedTuple):
    """Where results go, and how they are rounded."""

    address: int
    itemsize: int  # [bytes]; 8 is binary64, which `target` is not for
    target: Target


@inlined
def encode(quotient: float, target: Target) -> Any:
    """Round to nearest even: the output's pattern, `target.infinity` when it is too large."""
    pattern = bits(quotient)
    size = min(pattern & _SIGN_CLEARED, target.cap)
    exponent = max(size >> _FRACTION, target.low)
    magic = (exponent + target.bump) << _FRACTION
    steps = bits(number(size) + number(magic)) - magic
    rounded = steps + ((exponent - target.low) << target.fraction)
    return rounded | ((pattern >> _SIGN) << target.sign)


@inlined
def mend_overflow(output: int, kind: Any, start: int, stop: int, target: Target) -> int:
    """Count results that are not finite, and give e4m3's NaN its one sign."""
    overflowed = 0
    for index in range(start, stop):
        pattern = load(output, index, kind)
        if magnitude(pattern) >= target.infinity:
            sign = np.uint64(pattern) & target.negative
            store(output, index, kind, target.infinity | sign)
            overflowed += 1
    return overflowed


@inlined
def _widen_all(
    block: NDArray[np.float64], inputs: Inputs, term: int, kind: Any, start: int, size: int
) -> None:
    address, scale = inputs.addresses[term], inputs.scales[term]
    shift, mask = inputs.shifts[term], inputs.masks[term]
    limit = inputs.limits[term]
    for index in range(size):
        value = widen(load(address, start + index, kind), shift, mask) * scale
        block[index] = value if abs(value) < limit else np.nan


@inlined
def fill(block: NDArray[np.float64], inputs: Inputs, term: int, start: int, size: int) -> None:
    """Decode `size` elements of one input; infinities may become NaN."""
    itemsize = inputs.itemsizes[term]
    if itemsize == 1:
        _widen_all(block, inputs, term, np.uint8, start, size)
    elif itemsize == 2:
        _widen_all(block, inputs, term, np.uint16, start, size)
    elif itemsize == 4:
        _widen_all(block, inputs, term, np.uint32, start, size)
    else:
        address = inputs.addresses[term]
        for index in range(size):
            block[index] = number(load(address, start + index, np.uint64))


@inlined
def _round_all(
    results: NDArray[np.float64], output: Output, kind: Any, start: int, size: int, check: bool
) -> int:
    for index in range(size):
        store(output.address, start + index, kind, encode(results[index], output.target))
    if check:
        return mend_overflow(output.address, kind, start, start + size, output.target)
    return 0


@inlined
def write(results: NDArray[np.float64], output: Output, start: int, size: int, check: bool) -> int:
    """Round and store results; count those that are not finite, if asked to check."""
    if output.itemsize == 1:
        return _round_all(results, output, np.uint8, start, size, check)
    if output.itemsize == 2:
        return _round_all(results, output, np.uint16, start, size, check)
    if output.itemsize == 4:
        return _round_all(results, output, np.uint32, start, size, check)
    for index in range(size):
        store(output.address, start + index, np.uint64, bits(results[index]))
    return 0
