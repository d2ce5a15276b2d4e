"""Every engine against an oracle that knows only what a format's bit patterns mean."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache, partial
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskalg.dtypes import BF16, F8_E4M3, F8_E5M2, F16, F32, F64, FLOATING, DType
from taskalg.engines.base import Bytes, Engine, Evaluate, Tally, WeightedSumSpec
from taskalg.engines.reference import ReferenceEngine
from taskalg.engines.registry import get_engine

ENGINES = [get_engine(name) for name in ("cpu", "reference")]
CPU = ENGINES[0]
Row = tuple[int, ...]  # one bit pattern for each input

# ---- The oracle: values of patterns, and a search for the nearest


def top_bit(dtype: DType) -> int:
    return 1 << (8 * dtype.itemsize - 1)


@lru_cache(2**16)
def magnitude(pattern: int, dtype: DType) -> Fraction:
    """The value of a pattern without its sign, as if no pattern were special."""
    bits = dtype.precision - 1
    field, fraction = pattern >> bits, pattern & ((1 << bits) - 1)
    steps = fraction + ((1 << bits) if field else 0)
    return Fraction(2) ** (max(field, 1) + dtype.low - 1 - bits) * steps


def infinity(dtype: DType) -> int:
    return (1 << (8 * dtype.itemsize - 1)) - (1 << (dtype.precision - 1 if dtype.has_inf else 0))


def nan(dtype: DType) -> int:
    return {BF16: 0x7FC0, F16: 0x7E00, F32: 0x7FC00000, F8_E4M3: 0x7F, F8_E5M2: 0x7E}.get(
        dtype, 0x7FF8000000000000
    )


def nearest(value: Fraction, dtype: DType, negative: bool) -> int:
    size = abs(value)
    patterns = range(infinity(dtype) + 1)
    below = bisect_right(patterns, size, key=partial(magnitude, dtype=dtype)) - 1
    if below < infinity(dtype):
        middle = (magnitude(below, dtype) + magnitude(below + 1, dtype)) / 2
        below += size > middle or (size == middle and below % 2)
    if below == infinity(dtype) and not dtype.has_inf:
        return nan(dtype)
    return below | (top_bit(dtype) if negative else 0)


def expected(spec: WeightedSumSpec, row: Row) -> int:
    """What IEEE 754 and NUMERICS' policies ask of one element."""
    total, special = Fraction(0), set()
    all_negative = True
    for pattern, coefficient, dtype in zip(row, spec.coefficients, spec.inputs, strict=True):
        negative = bool(pattern & top_bit(dtype)) != (coefficient < 0)
        size = pattern & (top_bit(dtype) - 1)
        all_negative &= negative
        if size >= infinity(dtype):
            isnan = size > infinity(dtype) or not dtype.has_inf
            special.add("nan" if isnan else "-inf" if negative else "inf")
        else:
            total += abs(coefficient) * magnitude(size, dtype) * (-1 if negative else 1)
    if special and (special not in ({"inf"}, {"-inf"}) or not spec.output.has_inf):
        return nan(spec.output)
    if special:
        return infinity(spec.output) | (top_bit(spec.output) if special == {"-inf"} else 0)
    return nearest(total, spec.output, all_negative if total == 0 else total < 0)


def is_special(pattern: int, dtype: DType) -> bool:
    return pattern & (top_bit(dtype) - 1) >= infinity(dtype)


# ---- Running an engine on rows


def columns(rows: Sequence[Row], dtypes: Sequence[DType]) -> list[Bytes]:
    table = list(zip(*rows, strict=True))
    kinds = [f"u{dtype.itemsize}" for dtype in dtypes]
    blocks = [np.array(c, kind).view(np.uint8) for c, kind in zip(table, kinds, strict=True)]
    for block in blocks:
        block.flags.writeable = False
    return blocks


def run(evaluate: Evaluate, spec: WeightedSumSpec, blocks: Sequence[Bytes]) -> tuple[Bytes, Tally]:
    count = blocks[0].size // spec.inputs[0].itemsize
    output = np.full(count * spec.output.itemsize, 0xA5, np.uint8)
    return output, evaluate(blocks, output)


def check(spec: WeightedSumSpec, rows: Sequence[Row], engines: Sequence[Engine] = ENGINES) -> None:
    wanted = [expected(spec, row) for row in rows]
    marks = [[is_special(*pair) for pair in zip(row, spec.inputs, strict=True)] for row in rows]
    overflowed = sum(
        is_special(pattern, spec.output) and not any(mark)
        for pattern, mark in zip(wanted, marks, strict=True)
    )
    for engine in engines:
        output, tally = run(engine.prepare(spec), spec, columns(rows, spec.inputs))
        assert [*map(hex, output.view(f"u{spec.output.itemsize}").tolist())] == [*map(hex, wanted)]
        assert (tally.overflowed, tally.nonfinite) == (overflowed, sum(map(sum, marks)))


# ---- Numbers that go wrong first


def edges(dtype: DType) -> list[int]:
    bits, past = dtype.precision - 1, infinity(dtype)
    one = (1 - dtype.low) << bits
    sizes = [0, 1, 2, 3, (1 << bits) - 1, 1 << bits, (1 << bits) + 1, one - 1, one, one + 1]
    sizes += [one + (3 << bits), past - 2, past - 1, past, min(past + 1, top_bit(dtype) - 1)]
    return [size | sign for size in sizes for sign in (0, top_bit(dtype))]


def numbers(texts: str) -> list[Fraction]:
    return [Fraction(text) for text in texts.split()]


PLAIN = numbers("1 -1 1/2 2 3 1/3 2/3 0.4 0.3 -1.1 1/7")
CRUEL = numbers("0.30000000000000004 1e-30 0.30000000000000000000000000000000000000000001 -7e40")
CRUEL += [Fraction(2) ** power for power in (-4096, -700, -200, 300, 700, 4096)]
CRUEL += [1 + Fraction(1, 2**53), 1 + Fraction(1, 2**150), Fraction(3**2584, 5**1763)]
coefficient = st.one_of(st.sampled_from(PLAIN), st.sampled_from(PLAIN + CRUEL))
dtype = st.sampled_from(FLOATING)


def pattern(dtype: DType) -> st.SearchStrategy[int]:
    bits = dtype.precision - 1
    field = st.integers(-4, 4).map(lambda exponent: exponent + 1 - dtype.low)
    near = st.builds(lambda e, f: e << bits | f, field, st.integers(0, 2**bits - 1))
    return st.one_of(st.sampled_from(edges(dtype)), near, st.integers(0, 2 * top_bit(dtype) - 1))


@st.composite
def cases(draw: st.DrawFn, terms: st.SearchStrategy[int]) -> tuple[WeightedSumSpec, list[Row]]:
    """Sums of mixed dtypes, now and then of equal elements, which cancel."""
    inputs = draw(terms.flatmap(lambda count: st.lists(dtype, min_size=count, max_size=count)))
    coefficients = draw(st.tuples(*[coefficient] * len(inputs)))
    # never alike, so that every example takes one of the two kernels that know dtypes at run time
    spec = WeightedSumSpec(coefficients, (F32, *inputs[1:-1], BF16)[: len(inputs)], draw(dtype))
    rows = draw(st.lists(st.tuples(*map(pattern, spec.inputs)), min_size=1, max_size=8))
    return spec, rows


@given(cases(st.integers(1, 20)))
@settings(max_examples=150)
def test_any_sum_is_the_exact_value_rounded_once(case: tuple[WeightedSumSpec, list[Row]]) -> None:
    check(*case)


SUMS = ["1", "1/3", "1.1 -0.4 0.3", "1 -1 1/2", "1e-30 0.30000000000000004 2/3"]


@pytest.mark.parametrize("output", FLOATING, ids=repr)
@pytest.mark.parametrize("kind", FLOATING, ids=repr)
def test_every_pair_of_dtypes(kind: DType, output: DType) -> None:
    random = Random(0)
    for text in SUMS:
        spec = WeightedSumSpec(tuple(numbers(text)), (kind,) * len(text.split()), output)
        terms = len(spec.inputs)
        rows = [tuple(random.choices(edges(kind), k=terms)) for _ in range(60)]
        one = 1 - kind.low << kind.precision - 1
        rows += [tuple(random.choices(range(one, one + 8), k=terms)) for _ in range(20)]
        check(spec, rows)


@given(st.data(), dtype, st.sampled_from([BF16, F32]))
@settings(max_examples=150)
def test_equal_terms_cancel_to_the_last_bit(
    data: st.DataObject, kind: DType, output: DType
) -> None:
    spec = WeightedSumSpec(tuple(numbers("1/3 2/3 -1")), (kind,) * 3, output)
    rows = [(p, p, q) for p, q in data.draw(st.lists(st.tuples(pattern(kind), pattern(kind))))]
    check(spec, [*rows, *((p, p, p) for p, _, _ in rows), (0, 0, 0)])


@pytest.mark.parametrize("middle", [257, 259, 301, 383, 509, 511])  # /256: between two bf16 values
def test_ties_that_a_rounded_quotient_misses(middle: int) -> None:
    """Numerator and divisor of over 53 bits: their quotient in binary64 is often not the tie."""
    rows = [(0x3F80, 0x3F80, crumb) for crumb in (0, 1, 1 | 1 << 31, 0x2000_0000, 0xA000_0000)]
    for power in range(34, 101, 3):
        part = Fraction(1, 3**power)
        coefficients = (part, Fraction(middle, 256) - part, Fraction(1))
        check(WeightedSumSpec(coefficients, (BF16, BF16, F32), BF16), rows)


@pytest.mark.parametrize(
    ("power", "divisor", "output"),
    [
        (54, 846731599, F32),
        (55, 1614112203, F32),
        (55, 99252884349763, BF16),
        (56, 19261586217035, F16),
    ],
)
def test_divisors_beyond_the_bound_round_twice(power: int, divisor: int, output: DType) -> None:
    """Odd divisors a few bits over tiers.py's bound, and powers of two that binary64 makes ties."""
    for exponent in (power, power - 1, 1 - power):
        scale = Fraction(2) ** exponent / divisor
        check(WeightedSumSpec((scale,), (F32,), output), [(0x3F80_0000,), (0xBF80_0000,)])


@pytest.mark.parametrize("crumb", [Fraction(1, 2**150), Fraction(-1, 10**60), Fraction(1, 3**300)])
def test_a_coefficient_s_last_digit_breaks_a_tie(crumb: Fraction) -> None:
    half = 0x3B80  # half a bf16 step at one
    for coefficients in ((1 + crumb, Fraction(1)), (Fraction(1), 1 - crumb)):
        spec = WeightedSumSpec(coefficients, (F32, BF16), BF16)
        check(spec, [(0x3F80_0000, half), (0x3F81_0000, half), (0xBF80_0000, half | 0x8000)])


@pytest.mark.parametrize("text", ["1 1 1", "1/3 1/3 1/3", "2/3 2/3 2/3"])
def test_binary64_ties_break_on_the_smallest_crumb(text: str) -> None:
    """The gap below a power of two is half the gap above it, and crumbs decide ties."""
    steps = [0.0, *(sign * 2.0**-n for n in (52, 53, 54, 55) for sign in (1, -1))]
    crumbs = [0.0, *(sign * 2.0**-n for n in (100, 120, 300) for sign in (1, -1))]
    values = [(big, big * step, crumb) for big in (1.0, 3.0) for step in steps for crumb in crumbs]
    rows = [tuple(np.array(value).view(np.uint64).tolist()) for value in values]
    check(WeightedSumSpec(tuple(numbers(text)), (F64,) * 3, F64), rows)


@given(cases(st.integers(2, 12)), st.randoms())
@settings(max_examples=100)
def test_order_never_changes_a_byte(
    case: tuple[WeightedSumSpec, list[Row]], random: Random
) -> None:
    spec, rows = case
    order = random.sample(range(len(spec.inputs)), len(spec.inputs))
    shuffled = WeightedSumSpec(
        tuple(spec.coefficients[i] for i in order),
        tuple(spec.inputs[i] for i in order),
        spec.output,
    )
    first, _ = run(CPU.prepare(spec), spec, columns(rows, spec.inputs))
    rows = [tuple(row[i] for i in order) for row in rows]
    second, _ = run(CPU.prepare(shuffled), shuffled, columns(rows, shuffled.inputs))
    assert first.tobytes() == second.tobytes()


# ---- The oracle can convict


@pytest.mark.parametrize("lie", ["toward zero", "ties away", "twice", "+0"])
def test_the_oracle_finds_a_wrong_rounding(lie: str) -> None:
    spec = WeightedSumSpec(tuple(numbers("1 1")), (F32, BF16), BF16)

    class Liar(ReferenceEngine):
        name = "liar"

        def prepare(self, spec: WeightedSumSpec) -> Evaluate:
            return lambda inputs, output: wrong(lie, inputs, output)

    one, half = 0x3F80_0000, 0x3B80  # 1.0, and half a bf16 step there
    rows = [(one, half), (one + 0x1_0000, half), (one, half + 1), (one, half - 1)]
    rows += [(one + 0x8000, 0x3080), (0x8000_0000, 0x8000)]
    check(spec, rows)
    with pytest.raises(AssertionError):
        check(spec, rows, [Liar()])


def wrong(lie: str, inputs: Sequence[Bytes], output: Bytes) -> Tally:
    total = inputs[0].view(np.float32).astype(np.float64)
    total += (inputs[1].view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    bits = total.view(np.uint64)
    sign = (bits >> 63 << 15).astype(np.uint16)
    size = np.maximum(bits & (2**63 - 1), 896 << 52) - (896 << 52)
    if lie == "twice":
        size = (
            np.maximum(total.astype(np.float32).view(np.uint32) & 0x7FFFFFFF, 0).astype(np.uint64)
            << 29
        )
    up = {"toward zero": 0, "ties away": 1 << 44}.get(lie, (1 << 44) - 1 + (size >> 45 & 1))
    output.view(np.uint16)[:] = (size + up >> 45).astype(np.uint16) | (0 if lie == "+0" else sign)
    return Tally()
