"""What kernels read: rows of coefficients as numbers, and tensors cut into chunks.

A row is laid out once for a number of terms, whatever the coefficients, by the sections below. What
is data there needs no compiling: a coefficient of zero is a weight of zero, whose term the kernel
does not read, and a tier that is impossible is a ceiling that no magnitude stays under.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from taskalg.dtypes import F64, DType
from taskalg.engines.base import Group, WeightedSumSpec
from taskalg.engines.cpu import exactness
from taskalg.engines.formats import BIAS, bias, decode_exponent, first_not_finite, quotient
from taskalg.engines.kernels import Exactness
from taskalg.engines.tiers import Scaled, scale
from taskalg.engines.weights import Factor, two_part_factors

TILES = 16  # of a chunk; few enough for the bits of `missed`
FACTOR = 5  # numbers of a term in the double-double tier
TAIL = 10  # numbers behind the terms': divisor 3, quotient 3, limits 3, and what is copied

_LARGEST = 1000  # exponent of weights
_LEFT_OUT = (-0.0, 0.0, 0.0, 0.0, math.inf)
_NOTHING = (1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, -1.0, -1.0)  # no tile is exact, none is copied

Row = NDArray[np.float64]


@dataclass(frozen=True)
class Tables:
    """A group cut into chunks, one for each program of a launch."""

    chunks: NDArray[np.int64]  # a tensor's number times 2**32, and a chunk's in it
    tensors: NDArray[np.int64]  # `(n, terms + 3)`: addresses, elements, row
    tile: int  # elements


@dataclass(frozen=True)
class _Numbers:
    """The sections of a row."""

    weights: list[float]  # of the fast tier; not zero
    factors: list[Factor]  # FACTOR numbers for each term
    tail: list[float]  # but for the last


def tile_size(inputs: Sequence[DType]) -> int:
    """Return elements of a tile: 16 bytes for each lane of a warp, or several times that.

    Few enough elements for a thread that registers hold them all, and enough to repay the vote.
    """
    if all(dtype.itemsize == 1 for dtype in inputs):
        return 512
    return 128 if F64 in inputs else 256


def is_aligned(group: Group) -> NDArray[np.bool_]:
    """Tell which tensors wide loads may be used for."""
    aligned: NDArray[np.bool_] = (group.addresses % 16 == 0).all(axis=1)
    return aligned


def tabulate(group: Group, chosen: NDArray[np.bool_]) -> Tables:
    """Cut the chosen tensors of a group into chunks."""
    tile = tile_size(group.inputs)
    counts = group.counts[chosen]
    parts = -(-counts // (tile * TILES))
    numbers = np.repeat(np.arange(len(counts)), parts)
    firsts = np.repeat(np.cumsum(parts) - parts, parts)
    chunks = (numbers << 32) + np.arange(len(numbers)) - firsts
    columns = (group.addresses[chosen], counts[:, None], group.rows[chosen, None])
    return Tables(chunks, np.concatenate(columns, axis=1).astype(np.int64), tile)


def row_size(terms: int) -> int:
    """Return how many numbers a row has."""
    return (1 + FACTOR) * terms + TAIL


def fill(
    row: Row,
    coefficients: Sequence[Fraction],
    inputs: Sequence[DType],
    output: DType,
    *,
    copying: bool = False,
) -> None:
    """Write the numbers of one row of coefficients.

    Args:
        row: `(row_size(terms),)`.
        coefficients: one for each term; zeros are left out of the sum.
        inputs: dtypes, one for each term.
        output: dtype.
        copying: whether one times an input of the output's dtype is a copy, of which nothing is
            looked at, so that NaN keep their bits.
    """
    terms = len(coefficients)
    active = [term for term, coefficient in enumerate(coefficients) if coefficient]
    # zeros are read in place of a term that is left out: times -0, the zero that keeps every sign
    weights, tail = [-0.0] * terms, list(_NOTHING)
    factors: list[tuple[float, ...]] = [_LEFT_OUT] * terms
    if not active:
        weights[0], factors[0] = 0.0, (0.0, *_LEFT_OUT[1:])
        tail[-2] = 2**31 - 1.0
    else:
        spec = WeightedSumSpec(
            tuple(coefficients[term] for term in active),
            tuple(inputs[term] for term in active),
            output,
        )
        if copying and spec.coefficients == (Fraction(1),) and spec.inputs == (spec.output,):
            weights[active[0]], tail[-1] = 1.0, float(active[0])
        else:
            found = _numbers(spec, is_mixed(inputs))
            for term, weight, factor in zip(active, found.weights, found.factors, strict=True):
                weights[term], factors[term] = weight, factor
            tail[:-1] = found.tail
    row[:] = [*weights, *chain.from_iterable(factors), *tail]


def _numbers(spec: WeightedSumSpec, mixed: bool) -> _Numbers:
    scaled = scale(spec.coefficients)
    factors, divisor = two_part_factors(scaled)
    bounds = exactness(spec, scaled, BIAS if mixed else bias(spec.inputs[0]))
    if bounds.binades < 0:
        signs = [1.0 if c > 0 else -1.0 for c in spec.coefficients]  # those of infinities follow
        return _Numbers(signs, factors, [*divisor, *_NOTHING[3:-1]])
    weights, quotient = _fast(spec, scaled)
    limits = _limits(bounds, None if mixed else spec.inputs[0])
    return _Numbers(weights, factors, [*divisor, *quotient, *limits])


def _fast(spec: WeightedSumSpec, scaled: Scaled) -> tuple[list[float], tuple[float, ...]]:
    """Return weights and quotient of the fast tier."""
    exponents = [scaled.exponent + decode_exponent(dtype) for dtype in spec.inputs]
    pairs = list(zip(scaled.factors, exponents, strict=True))
    # large weights leave binary64's range together with the power of two: the division makes it up
    excess = max(0, max(abs(factor).bit_length() + power for factor, power in pairs) - _LARGEST)
    weights = [math.ldexp(factor, power - excess) for factor, power in pairs]
    if spec.output == F64:  # which the division itself rounds
        return weights, (1.0, 0.0, math.ldexp(scaled.divisor, -excess))
    return weights, (*quotient(scaled.divisor, -excess, spec.output)[:2], 1.0)


def _limits(bounds: Exactness, dtype: DType | None) -> tuple[float, float, float]:
    """Return binades, the lowest exponent field, and the ceiling of magnitudes' upper 32 bits.

    Args:
        bounds: of the fast tier.
        dtype: of all inputs; None when there are several, which binary64's exponents compare.
    """
    dtype = dtype or F64
    highest = max(-1, min(int(bounds.highest), int(bounds.overflowing) - 1))
    ceiling = (highest + 1 << 20 + narrower(dtype)) - 1
    finite = (first_not_finite(dtype) << 32 >> 8 * dtype.itemsize) - 1
    return float(bounds.binades), max(0.0, float(bounds.lowest)), float(min(ceiling, finite))


def is_mixed(inputs: Sequence[DType]) -> bool:
    """Tell whether inputs are of several dtypes, so that their patterns do not compare."""
    return len(set(inputs)) > 1


def narrower(dtype: DType) -> int:
    """Return by how many bits a dtype's exponent is shorter than binary64's."""
    return 11 - (8 * dtype.itemsize - dtype.precision)
