"""The bounded tier next to every point where rounding turns, against exact rationals.

Sums are made backwards: choose a midpoint of two outputs, split it into terms, and let the last
element make up the rest as well as binary64 can, or a few of its steps beside that. What the tier
settles must be right to the bit; what it misses is another tier's.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskalg.dtypes import BF16, F8_E4M3, F8_E5M2, F16, F32, F64, FLOATING, DType
from taskalg.engines.base import Bytes, WeightedSumSpec
from taskalg.engines.cpu import bounded_tier
from taskalg.engines.near import MODERATE
from taskalg.engines.registry import get_engine
from tests import oracle
from tests.strategies import examples

OUTPUTS = [F32, BF16, F16, F8_E4M3, F8_E5M2]
Sum = list[tuple[Fraction, float]]  # coefficients and elements
CPU = get_engine("auto")


def form_of(dtype: DType) -> oracle.Format:
    return oracle.FORMATS[dtype.name.upper()]


def signed(magnitudes: st.SearchStrategy[Fraction]) -> st.SearchStrategy[Fraction]:
    return st.builds(lambda size, sign: sign * size, magnitudes, st.sampled_from((1, -1)))


COEFFICIENTS = signed(
    st.sampled_from([Fraction(1), Fraction(1, 10), Fraction(1, 3), Fraction(8, 7), Fraction(1, 2)])
    | st.fractions(Fraction(1, 1000), 1000)
)


def turns(output: DType) -> st.SearchStrategy[Fraction]:
    """Midpoints of neighbors, that of the largest number and its absent successor included."""
    form = form_of(output)

    def midpoint(pattern: int) -> Fraction:
        return (oracle.magnitude(pattern, form) + oracle.magnitude(pattern + 1, form)) / 2

    last = form.first_special - 1
    edges = [binade << form.fraction_bits for binade in range(last >> form.fraction_bits)]
    beside = [edge + step for edge in edges for step in (-1, 0) if edge + step >= 0]
    patterns = st.integers(0, last) | st.sampled_from([0, 1, last, last - 1, *beside])
    return signed(patterns.map(midpoint))


def stepped(number: float, steps: int) -> float:
    towards = math.inf if steps > 0 else -math.inf
    for _ in range(abs(steps)):
        number = math.nextafter(number, towards)
    return number


@st.composite
def sums(draw: st.DrawFn, targets: st.SearchStrategy[Fraction]) -> Sum:
    """A few terms that nearly add up to a target, some of them much larger than it."""
    target = draw(targets)
    size = abs(target) or Fraction(1)
    terms: Sum = []
    for _ in range(draw(st.integers(0, 4))):
        power = draw(st.integers(-30, 12) | st.integers(20, 56))
        relative = draw(st.floats(-1.0, 1.0)) * 2.0**power
        terms.append((draw(COEFFICIENTS), float(size * Fraction(relative))))
    coefficient = draw(COEFFICIENTS)
    rest = (target - sum(c * Fraction(x) for c, x in terms)) / coefficient
    terms.append((coefficient, stepped(float(rest), draw(st.integers(-3, 3)))))
    return terms


def block(numbers: Sequence[float]) -> Bytes:
    return np.array(numbers, np.float64).view(np.uint8)


def expected(terms: Sum, output: DType) -> int:
    f64 = oracle.FORMATS["F64"]
    patterns = np.array([x for _, x in terms]).view(np.uint64).tolist()
    row = [coefficient for coefficient, _ in terms]
    return oracle.encode(oracle.combine(patterns, [f64] * len(row), row), form_of(output))


def bounded(terms: Sum, output: DType) -> int | None:
    """Return the pattern that the bounded tier gives; None when it is not sure."""
    spec = WeightedSumSpec(tuple(c for c, _ in terms), (F64,) * len(terms), output)
    result = np.zeros(output.itemsize, np.uint8)
    starts = np.zeros(1, np.int64)
    misses, tally = bounded_tier(spec)([block([x]) for _, x in terms], result, starts)
    assert (misses, tally.bounded) in ((0, 1), (1, 0))
    if misses:
        return None
    pattern = int(result.view(f"u{output.itemsize}")[0])
    assert tally.overflowed == (pattern & (form_of(output).sign - 1) >= first_special(output))
    return pattern


def first_special(output: DType) -> int:
    return form_of(output).first_special


def settled(terms: Sum, output: DType) -> str:
    """Run all tiers, and the bounded one alone; return a text that differs when one is wrong."""
    wanted, found = expected(terms, output), bounded(terms, output)
    spec = WeightedSumSpec(tuple(c for c, _ in terms), (F64,) * len(terms), output)
    result = np.zeros(output.itemsize, np.uint8)
    CPU.prepare(spec)([block([x]) for _, x in terms], result)
    assert result.view(f"u{output.itemsize}")[0] == wanted, (terms, "all tiers")
    assert found is None or found == wanted, (terms, "the bounded tier")
    return "missed" if found is None else "settled"


@pytest.mark.parametrize("output", OUTPUTS, ids=repr)
@given(st.data())
@examples(200)
def test_next_to_midpoints_what_is_settled_is_right(output: DType, data: st.DataObject) -> None:
    settled(data.draw(sums(turns(output))), output)


@pytest.mark.parametrize("output", OUTPUTS, ids=repr)
@given(st.data())
@examples(200)
def test_next_to_outputs_what_is_settled_is_right(output: DType, data: st.DataObject) -> None:
    form = form_of(output)
    patterns = st.integers(0, form.first_special)
    settled(data.draw(sums(signed(patterns.map(lambda p: oracle.magnitude(p, form))))), output)


@pytest.mark.parametrize("output", OUTPUTS, ids=repr)
@given(st.data())
@examples(200)
def test_around_nothing_zeros_have_the_right_sign(output: DType, data: st.DataObject) -> None:
    """Terms that cancel, all of them or nearly: what is left rounds to a zero of some sign."""
    tiny = oracle.magnitude(1, form_of(output))
    exponents = st.integers(-500, 5)
    targets = st.just(Fraction(0)) | signed(exponents.map(lambda e: tiny * Fraction(2) ** e))
    settled(data.draw(sums(targets)), output)


@pytest.mark.parametrize("output", OUTPUTS, ids=repr)
@pytest.mark.parametrize("exponent", [0, -20, -120, -170])
def test_what_cancels_is_a_positive_zero(output: DType, exponent: int) -> None:
    """0.1 * x - 0.1 * x: the second multiply-add leaves the first one's error, of either sign."""
    tenth = Fraction(1, 10)
    for x in np.random.default_rng(0).normal(size=50) * 2.0**exponent:
        settled([(tenth, float(x)), (-tenth, float(x))], output)


@pytest.mark.parametrize("output", OUTPUTS, ids=repr)
def test_exact_midpoints_are_missed_and_clear_cases_settled(output: DType) -> None:
    """Without this a tier that misses everything, or nothing, would pass."""
    form = form_of(output)
    one = oracle.encode(Fraction(1), form)
    step = oracle.magnitude(one + 1, form) - 1
    half = Fraction(1, 2)
    for place, outcome in ((half, "missed"), (half + half**24, "settled"), (0, "settled")):
        assert settled([(half, 1.0), (half, float(1 + 2 * place * step))], output) == outcome
    below = 1 - step / 4  # the midpoint below a power of two lies nearer
    assert settled([(half, 1.0), (half, float(2 * below - 1))], output) == "missed"
    largest = float(output.largest)
    for factor, outcome in ((1.0, "settled"), (2.0, "settled"), (-4.0, "settled")):
        assert settled([(half, largest * factor), (half, largest * factor)], output) == outcome


@pytest.mark.parametrize("output", OUTPUTS, ids=repr)
@given(st.data())
@examples(100)
def test_magnitudes_at_the_ends_of_binary64(output: DType, data: st.DataObject) -> None:
    exponents = st.integers(-1074, 1023) | st.sampled_from([-1074, -601, -600, 699, 700, 1023])
    numbers = st.builds(
        lambda e, m: math.ldexp(m, e - 1), exponents, st.sampled_from([1.0, -1.0, 1.5, 1.99])
    )
    far = st.integers(-MODERATE - 2, MODERATE + 2).map(lambda e: Fraction(2) ** e / 3)
    terms = data.draw(st.lists(st.tuples(COEFFICIENTS | signed(far), numbers | st.just(-0.0))))
    settled([*terms, (Fraction(1, 3), data.draw(numbers))], output)


def test_what_vanishes_step_by_step_at_the_end_of_binary64_is_missed() -> None:
    """Each multiply-add rounds 0.55 steps and more to one; the sum is -0.1 steps."""
    terms = [(Fraction(c, 20), 5e-324) for c in (15, -8, -9)]
    assert settled(terms, F32) == "missed"
    assert settled([(c, 2.0**800) for c, _ in terms], F32) == "missed"


@pytest.mark.parametrize("output", [F32, F16], ids=repr)
def test_ten_thousand_terms(output: DType) -> None:
    rng = np.random.default_rng(0)
    terms = [(Fraction(int(k), 997), float(x)) for k, x in enumerate(rng.normal(size=10_000), 1)]
    form = form_of(output)
    exact = sum((c * Fraction(x) for c, x in terms), Fraction(0))
    outcomes = set()
    for offset in (-1, 0):
        pattern = oracle.nearest(abs(exact), form) + offset
        midpoint = (oracle.magnitude(pattern, form) + oracle.magnitude(pattern + 1, form)) / 2
        rest = (midpoint if exact > 0 else -midpoint) - exact
        outcomes.add(settled([*terms, (Fraction(1), float(rest))], output))
        quarter = abs(oracle.magnitude(pattern, form) - midpoint) / 2
        outcomes.add(settled([*terms, (Fraction(1), float(rest + quarter))], output))
    assert outcomes == {"missed", "settled"}


SPECIAL = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("kind", FLOATING, ids=repr)
@pytest.mark.parametrize("special", SPECIAL, ids=str)
def test_one_element_that_is_no_number_misses_its_sub_block(kind: DType, special: float) -> None:
    """Wherever it is, among inputs of any dtype; the neighbors are right all the same."""
    size, where = 2500, 1500
    spec = WeightedSumSpec((Fraction(1, 3), Fraction(2, 7)), (F64, kind), F32)
    wide = np.random.default_rng(0).normal(size=size)
    form = form_of(kind)
    patterns = np.full(size, oracle.encode(Fraction(5, 4), form), f"u{kind.itemsize}")
    for holder in (0, 1):
        numbers, narrow = wide.copy(), patterns.copy()
        if holder:
            narrow[where] = oracle.encode(special, form)
        else:
            numbers[where] = special
        inputs = [numbers.view(np.uint8), narrow.view(np.uint8)]
        results = [np.zeros(4 * size, np.uint8) for _ in range(2)]
        tallies = [
            get_engine(name).prepare(spec)(inputs, result)
            for name, result in zip(("cpu", "reference"), results, strict=True)
        ]
        assert results[0].tobytes() == results[1].tobytes()
        assert tallies[0].bounded == size - 1024 and tallies[0].nonfinite == 1
        assert tallies[1].nonfinite == 1


@pytest.mark.parametrize("output", OUTPUTS, ids=repr)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 1023, 1024, 1025, 3000]))
@examples(20)
def test_mixed_dtypes_and_sub_blocks_of_other_magnitudes(
    output: DType, seed: int, size: int
) -> None:
    rng = np.random.default_rng(seed)
    kinds: list[DType] = [F64, *(FLOATING[i] for i in rng.integers(0, len(FLOATING), 2))]
    blocks = []
    for kind in kinds:
        scale = 2.0 ** rng.integers(-12, 4, -(-size // 1024)).repeat(1024)[:size]
        numbers = (rng.normal(size=size) * scale).view(np.uint8)
        narrow = np.zeros(size * kind.itemsize, np.uint8)
        CPU.prepare(WeightedSumSpec((Fraction(1),), (F64,), kind))([numbers], narrow)
        blocks.append(narrow)
    row = tuple(Fraction(int(c), 60) for c in rng.integers(1, 99, 3))
    spec = WeightedSumSpec(row, tuple(kinds), output)
    found = np.zeros(size * output.itemsize, np.uint8)
    CPU.prepare(spec)(blocks, found)
    for index in {0, size // 2, size - 1}:
        patterns = [
            int(part.view(f"u{kind.itemsize}")[index])
            for part, kind in zip(blocks, kinds, strict=True)
        ]
        exact = oracle.combine(patterns, [form_of(kind) for kind in kinds], row)
        pattern = int(found.view(f"u{output.itemsize}")[index])
        assert pattern == oracle.encode(exact, form_of(output))
