"""Count wrongly rounded elements: the CPU engine's, and the usual torch state-dict loop's.

An element is right when the exact sum lies between the middles of the gaps to its two neighbors,
and on a middle only if its pattern is even. That is checked with 64-bit extended precision and a
rigorous margin; what is closer to a middle than the margin, exact ties among it, is decided with
integers. Nothing here is taken from the engine: patterns are decoded by torch.

    python -m tests.bench.accuracy [elements of each case]
"""

import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from taskalg.dtypes import BF16, F8_E4M3, F8_E5M2, F16, F32, F64, DType
from taskalg.engines.base import Bytes, Tally, WeightedSumSpec, exact_integers
from taskalg.engines.registry import get_engine

Flags = NDArray[np.bool_]

CHUNK = 1 << 16  # elements, so that memory stays small
MARGIN = 16 * float(np.finfo(np.longdouble).eps)  # bounds the error of a sum of up to 10 terms


@dataclass(frozen=True)
class Case:
    """One sum over random elements."""

    name: str
    coefficients: str
    kind: DType
    output: DType
    binades: int = 0  # of the power of two that spreads the elements; 0: fine-tuned models

    @property
    def spec(self) -> WeightedSumSpec:
        """Return what the engine is asked for."""
        coefficients = tuple(map(Fraction, self.coefficients.split()))
        return WeightedSumSpec(coefficients, (self.kind,) * len(coefficients), self.output)


TOXIC = "1.1 -0.4 0.3 -0.3 0.3"  # base + 0.4*(-toxic) + 0.3*(sent_yelp - lm_yelp + lm_amazon)
LONG = "0.30000000000000004 2/3 1e-30"
CASES = [
    *(Case("realistic", TOXIC, kind, kind) for kind in (BF16, F16, F32, F8_E4M3, F8_E5M2)),
    *(Case("60 binades", TOXIC, kind, kind, 60) for kind in (BF16, F32)),
    *(Case("long coefficients", LONG, kind, kind) for kind in (BF16, F16, F32)),
    Case("both", LONG, BF16, BF16, 64),
    Case("ties everywhere", "1 1/2 -1/4", BF16, BF16, 3),
    Case("task vector", "1 -1", BF16, F32),
    Case("narrowing", TOXIC, F32, BF16),
    Case("narrowing", "1/2 1/2", F64, F32, 30),
    Case("narrowing", LONG, F32, F8_E5M2, 8),
]


def numbers(values: NDArray[np.float64], dtype: DType) -> Bytes:
    """Round values to a dtype, and return the bytes."""
    rounded = torch.from_numpy(values).to(getattr(torch, dtype.torch))
    return np.asarray(rounded.view(torch.uint8).numpy())


def decoded(block: Bytes, dtype: DType) -> NDArray[np.float64]:
    """Return the values of bytes."""
    tensor = torch.from_numpy(block.copy()).view(getattr(torch, dtype.torch))
    return np.asarray(tensor.double().numpy())


def draw(case: Case, count: int, seed: int) -> list[Bytes]:
    """Draw a case's inputs: fine-tuned models near their base, or anything when spread out."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.02, count)
    changes = [rng.normal(0, 0.002, count) for _ in case.spec.inputs[1:]]
    columns = [base, *(10 * change if case.binades else base + change for change in changes)]
    powers = [rng.integers(-case.binades, 1, count) for _ in columns]
    pairs = zip(columns, powers, strict=True)
    return [numbers(np.ldexp(*pair), case.kind) for pair in pairs]


def wrongly_rounded(spec: WeightedSumSpec, inputs: Sequence[Bytes], output: Bytes) -> int:
    """Count the results that are not the exact sums rounded once, to nearest even."""
    pairs = zip(inputs, spec.inputs, strict=True)
    columns = [decoded(*pair).astype(np.longdouble) for pair in pairs]
    factors, divisor = exact_integers(spec.coefficients)
    weights = [extended(Fraction(factor, divisor)) for factor in factors]
    products = np.array([w * column for w, column in zip(weights, columns, strict=True)])
    total, size = products.sum(axis=0), np.abs(products).sum(axis=0)
    low, high, even = cell(output, spec.output)
    margin = size * MARGIN
    wrong = (total < low - margin) | (total > high + margin)
    unsure = ~wrong & ((total <= low + margin) | (total >= high - margin))
    count = int(np.count_nonzero(wrong))
    for index in np.flatnonzero(unsure):
        row = [Fraction(float(column[index])) for column in columns]
        terms = (factor * x for factor, x in zip(factors, row, strict=True))
        exact = sum(terms, Fraction(0)) / divisor
        ends = Fraction(float(low[index])), Fraction(float(high[index]))
        count += not (ends[0] < exact < ends[1] or (exact in ends and even[index]))
    return count


def extended(value: Fraction) -> np.longdouble:
    """Return a fraction to about 64 bits."""
    first = float(value)
    return np.longdouble(first) + np.longdouble(float(value - Fraction(first)))


def cell(output: Bytes, dtype: DType) -> tuple[NDArray[np.float64], NDArray[np.float64], Flags]:
    """Return the middles of the gaps around results, and which patterns are even."""
    patterns = output.view(f"u{dtype.itemsize}")
    top = patterns.dtype.type(1 << (8 * dtype.itemsize - 1))
    sizes = patterns & ~top
    one = patterns.dtype.type(1)
    value = decoded(sizes.view(np.uint8), dtype)
    outer = (value + decoded((sizes + one).view(np.uint8), dtype)) / 2
    inner = (value + decoded((np.maximum(sizes, one) - one).view(np.uint8), dtype)) / 2
    inner = np.where(sizes == 0, -outer, inner)
    negative = patterns >= top
    low, high = np.where(negative, -outer, inner), np.where(negative, -inner, outer)
    return low, high, sizes & one == 0


def torch_loop(case: Case, inputs: Sequence[Bytes]) -> Bytes:
    """Do what a state-dict loop does, in the checkpoints' own dtype."""
    kind = getattr(torch, case.kind.torch)
    base, toxic, sent, yelp, amazon = (torch.from_numpy(block).view(kind) for block in inputs)
    total = base.clone()
    for weight, model in ((-0.4, toxic), (0.3, sent), (-0.3, yelp), (0.3, amazon)):
        total += weight * (model - base)
    return np.asarray(total.view(torch.uint8).numpy())


def measure(case: Case, elements: int) -> Iterator[tuple[int, Tally]]:
    """Yield the wrong results and the tally of one chunk after another."""
    evaluate = get_engine("cpu").prepare(case.spec)
    for seed in range(-(-elements // CHUNK)):
        inputs = draw(case, CHUNK, seed)
        output = np.empty(CHUNK * case.output.itemsize, np.uint8)
        tally = evaluate(inputs, output)
        yield wrongly_rounded(case.spec, inputs, output), tally


def main(elements: int) -> int:
    """Print one line for each case, and for the torch loop where that is usual."""
    print(f"numpy {np.__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"{'case':<20}{'in':>9}{'out':>9}{'elements':>11}{'wrong':>9}{'tier 2':>11}{'tier 3':>9}")
    everything = failures = 0
    for case in CASES:
        wrong, tally = 0, Tally()
        for found, seen in measure(case, elements):
            wrong, tally = wrong + found, tally + seen
        done = -(-elements // CHUNK) * CHUNK
        print_row(case.name, case, done, wrong, f"{tally.tier2:>11,}{tally.tier3:>9,}")
        everything, failures = everything + done, failures + wrong
        if case.coefficients == TOXIC and case.kind == case.output and not case.binades:
            inputs = draw(case, CHUNK, 0)
            if case.kind.itemsize > 1:  # torch has no arithmetic for the 8-bit types
                lost = wrongly_rounded(case.spec, inputs, torch_loop(case, inputs))
                print_row("  torch loop", case, CHUNK, lost, f"   {lost / CHUNK:.1%}")
    print(f"{failures:,} of {everything:,} elements wrongly rounded by the CPU engine")
    return int(failures > 0)


def print_row(name: str, case: Case, elements: int, wrong: int, rest: str) -> None:
    """Print a line of the table."""
    kinds = f"{case.kind.name:>9}{case.output.name:>9}"
    print(f"{name:<20}{kinds}{elements:>11,}{wrong:>9,}{rest}", flush=True)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 700_000))
