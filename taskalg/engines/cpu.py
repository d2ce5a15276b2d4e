"""The CPU engine: tiers of ever slower arithmetic that give the same bytes.

`prepare` turns exact coefficients into numbers for the kernels; the function it returns runs the
fast tier over a block (kernels.py), which adds without rounding; over the sub-blocks that one left
the bounded tier (near.py), which rounds and knows by how much; then the double-double tier, and the
integer tier over the elements that even that could not settle (NUMERICS.md §1). Each is compiled,
or loaded, only when a block needs it.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from taskalg.dtypes import F64, DType
from taskalg.engines import low_rank
from taskalg.engines.base import (
    Bytes,
    Evaluate,
    Factors,
    Group,
    Multiply,
    Resident,
    Tally,
    WeightedSumSpec,
)
from taskalg.engines.blocks import SUB_BLOCK, Inputs, Output, layout
from taskalg.engines.cache import specialized
from taskalg.engines.dots import dots
from taskalg.engines.double_double import double_double
from taskalg.engines.exact import settle
from taskalg.engines.formats import BIAS, bias, decode_exponent, quotient, source, target
from taskalg.engines.kernels import MOST_FUSED, Exactness, fused, mixed
from taskalg.engines.near import MODERATE, near
from taskalg.engines.resident import blockwise
from taskalg.engines.tiers import Scaled, may_be_bounded, scale, tier_note
from taskalg.engines.weights import double_double_weights, floor_log2

# One call of the fast tier: addresses of inputs, of the output, elements, and room for the starts
# of missed sub-blocks; how many were missed, and how many results overflowed.
FastTier = Callable[[Sequence[int], int, int, NDArray[np.int64]], tuple[int, int]]

# The bounded tier: inputs, output and the starts of the sub-blocks to evaluate, among which it puts
# those it missed first; how many these are, and what was seen of the others.
BoundedTier = Callable[[Sequence[Bytes], Bytes, NDArray[np.int64]], tuple[int, Tally]]

# The other tiers: inputs, output and the starts of the sub-blocks to evaluate.
SlowTiers = Callable[[Sequence[Bytes], Bytes, NDArray[np.int64]], Tally]

# what kernels are specialized by; an array, because numba takes 10 [microseconds] to type a class
_KINDS = {size: np.empty(0, f"u{size}") for size in (1, 2, 4)}
_ENTRIES: dict[tuple[int, int, int], Callable[..., tuple[int, int]]] = {}  # `fused`, compiled
_LARGEST = 1000  # exponent of weights in the fused kernel
_SAFE = 960  # |exponents| up to this leave room for sums and for the lowest bits in binary64


class CpuEngine:
    """Evaluates weighted sums with compiled kernels."""

    name = "cpu"
    device = "cpu"

    def prepare(self, spec: WeightedSumSpec) -> Evaluate:
        """Return a function that evaluates `spec` over a block, from any thread."""
        scaled = scale(spec.coefficients)
        fast = _fast_tier(spec, scaled)
        bounded = cache(partial(bounded_tier, spec))
        slow = cache(partial(slow_tiers, spec, scaled))  # made only if a block needs it

        def evaluate(inputs: Sequence[Bytes], output: Bytes) -> Tally:
            count = output.size // spec.output.itemsize
            overflowed = 0
            if fast is None:
                missed = np.arange(0, count, SUB_BLOCK)
                misses = len(missed)
            else:
                missed = np.empty(-(-count // SUB_BLOCK), np.int64)
                addresses = [_address(block) for block in inputs]
                misses, overflowed = fast(addresses, _address(output), count, missed)
            tally = Tally(overflowed=overflowed)
            if misses:
                misses, seen = bounded()(inputs, output, missed[:misses])
                tally += seen
            if misses:
                tally += slow()(inputs, output, missed[:misses])
            return tally

        return evaluate

    def factored(self, factors: Factors) -> Multiply:
        """Return a function that computes a range of elements of a product, from any thread."""
        columns, scale = factors.right.shape[1], factors.scale  # what is kept is not twice there
        left, strips = low_rank.padded(factors.left), low_rank.packed(factors.right)

        def run(first: int, output: Bytes) -> None:
            low_rank.multiply(left, strips, columns, scale, first, output.view(np.float64))

        return run

    def resident(self, group: Group, *, threads: int | None = None) -> Resident:
        """Return a function that evaluates tensors where they are, by threads over blocks."""
        return blockwise(self, group, threads=threads)

    def dots(self, group: Group, *, threads: int | None = None) -> NDArray[np.float64]:
        """Return the inner product of each tensor's gradient with each of its inputs."""
        return dots(group, threads=threads)

    def memory(self, nbytes: int) -> Bytes:
        """Return host memory for blocks."""
        return np.empty(nbytes, np.uint8)


def _address(block: Bytes) -> int:
    address: int = block.__array_interface__["data"][0]
    return address


def _fast_tier(spec: WeightedSumSpec, scaled: Scaled) -> FastTier | None:
    """Choose the kernel for a sum; None when the fast tier is impossible."""
    if tier_note(spec, scaled).binades < 0:
        return None
    alike = len(set(spec.inputs)) == 1 and F64 not in (spec.inputs[0], spec.output)
    if alike and len(spec.inputs) <= MOST_FUSED:
        return _fused(spec, scaled)
    return _mixed(spec, scaled)


def _fused(spec: WeightedSumSpec, scaled: Scaled) -> FastTier:
    dtype = spec.inputs[0]
    kind, output_kind = _KINDS[dtype.itemsize], _KINDS[spec.output.itemsize]
    exponent = scaled.exponent + decode_exponent(dtype)
    # large weights leave binary64's range together with the power of two: the division makes it up
    excess = max(0, max(map(abs, scaled.factors)).bit_length() + exponent - _LARGEST)
    weights = tuple(math.ldexp(factor, exponent - excess) for factor in scaled.factors)
    decoding, rounding = source(dtype), target(spec.output)
    bounds = exactness(spec, scaled, bias(dtype))
    how = rounding, quotient(scaled.divisor, -excess, spec.output), bounds
    types = len(weights), dtype.itemsize, spec.output.itemsize  # what the arguments' types vary by

    def run(
        inputs: Sequence[int], output: int, count: int, missed: NDArray[np.int64]
    ) -> tuple[int, int]:
        where = output, output_kind
        arguments = (tuple(inputs), kind, weights, decoding, *where, *how, count, missed)
        entry = _ENTRIES.get(types)
        if entry is None:  # compiled only when a block is there; twice, by two threads, is no harm
            entry = _ENTRIES[types] = specialized(fused, arguments)
        return entry(*arguments)

    return run


def _mixed(spec: WeightedSumSpec, scaled: Scaled) -> FastTier:
    weights = np.array([math.ldexp(factor, scaled.exponent) for factor in scaled.factors])
    bounds = exactness(spec, scaled, BIAS)
    rounding, sources = target(spec.output), _sources(spec.inputs)

    def run(
        inputs: Sequence[int], output: int, count: int, missed: NDArray[np.int64]
    ) -> tuple[int, int]:
        where = Output(output, spec.output.itemsize, rounding)
        return mixed(sources(inputs), weights, where, bounds, count, missed)

    return run


def bounded_tier(spec: WeightedSumSpec) -> BoundedTier:
    """Return the tier of sums that round, with a bound; it may leave all to the next."""
    sizes = [abs(floor_log2(abs(coefficient))) for coefficient in spec.coefficients]
    if not may_be_bounded(spec) or max(sizes) > MODERATE:
        return lambda inputs, output, starts: (len(starts), Tally())
    weights = np.array([float(coefficient) for coefficient in spec.coefficients])
    rounding, sources = target(spec.output), _sources(spec.inputs)
    ceiling = float(spec.output.largest)

    def run(inputs: Sequence[Bytes], output: Bytes, starts: NDArray[np.int64]) -> tuple[int, Tally]:
        count = output.size // spec.output.itemsize
        where = Output(_address(output), spec.output.itemsize, rounding)
        addresses = sources([_address(block) for block in inputs])
        elements = _elements(starts, count)
        misses, overflowed = near(addresses, weights, where, ceiling, starts, count, starts)
        elements -= _elements(starts[:misses], count)
        return misses, Tally(overflowed=overflowed, bounded=elements)

    return run


def _elements(starts: NDArray[np.int64], count: int) -> int:
    """Return how many elements sub-blocks have."""
    return int(np.minimum(count - starts, SUB_BLOCK).sum())


def slow_tiers(spec: WeightedSumSpec, scaled: Scaled) -> SlowTiers:
    """Return the double-double tier, and the integer tier for what that flags."""
    weights, divisor = double_double_weights(spec, scaled)
    rounding, sources = target(spec.output), _sources(spec.inputs)

    def run(inputs: Sequence[Bytes], output: Bytes, starts: NDArray[np.int64]) -> Tally:
        count = output.size // spec.output.itemsize
        flagged = np.empty(min(count, len(starts) * SUB_BLOCK), np.int64)
        where = Output(_address(output), spec.output.itemsize, rounding)
        addresses = [_address(block) for block in inputs]
        flags, overflowed = double_double(
            sources(addresses), weights, divisor, where, starts, count, flagged
        )
        tally = Tally(overflowed=overflowed, tier2=_elements(starts, count) - flags)
        if flags:
            tally += settle(spec, scaled, inputs, output, flagged[:flags])
        return tally

    return run


def exactness(spec: WeightedSumSpec, scaled: Scaled, zero: int) -> Exactness:
    """Put the bounds of tiers.py into exponent fields; `zero` is the field of exponent 0."""
    size, output = sum(map(abs, scaled.factors)), spec.output
    # below 2**(e + 1), elements give results of at most size * 2**(e + 1 + exponent) / divisor
    steps = 2**output.precision - (1 if output.has_inf else 2)  # of the largest
    room = (steps * scaled.divisor).bit_length() - size.bit_length() - 1  # floor(log2), or one less
    overflowing = room + output.high - output.precision + 1 - scaled.exponent
    upper = scaled.exponent + size.bit_length()
    return Exactness(
        divisor=float(scaled.divisor),
        binades=np.int64(tier_note(spec, scaled).binades),
        lowest=np.int64(zero - _SAFE + max(0, -scaled.exponent)),
        highest=np.int64(zero + _SAFE - max(0, upper)),
        overflowing=np.int64(zero + overflowing),
    )


def _sources(dtypes: Sequence[DType]) -> Callable[[Sequence[int]], Inputs]:
    inputs = layout(dtypes)
    return lambda addresses: inputs._replace(addresses=np.array(addresses, np.int64))
