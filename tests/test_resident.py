"""Tensors that stay in memory: whatever is asked of them, they get what an engine's blocks get."""

import os
import threading
from collections.abc import Sequence
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskalg.dtypes import BF16, F16, F32, F64, FLOATING, DType
from taskalg.engines import resident as blocks
from taskalg.engines.base import Bytes, Engine, Evaluate, Group, Tally, WeightedSumSpec
from taskalg.engines.cpu import CpuEngine
from taskalg.engines.kernels import fused
from taskalg.engines.registry import ENGINES, get_engine
from tests import oracle

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and "gpu" in ENGINES
EXAMPLES = 8 if INTERPRETED else 60  # the interpreter takes a second for each
NAMES = ["cpu", "reference", *(["gpu"] if INTERPRETED else [])]

Array = NDArray[np.uint8]
Rows = Sequence[Sequence[Fraction]]


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return get_engine(request.param)


class Tensors:
    """Tensors of one group in memory, each with the bytes around it watched."""

    MARGIN = 64

    def __init__(
        self, inputs: Sequence[DType], output: DType, counts: Sequence[int], rows: Sequence[int]
    ) -> None:
        self.inputs, self.output = tuple(inputs), output
        self.counts, self.rows = list(counts), list(rows)
        self.memory = [
            [self._filled(count, dtype, term) for term, dtype in enumerate((*inputs, output))]
            for count in counts
        ]

    def _filled(self, count: int, dtype: DType, seed: int) -> Array:
        random = np.random.default_rng([count, seed])
        numbers = random.standard_normal(count)
        memory = np.full(count * dtype.itemsize + 2 * self.MARGIN, 0xA5, np.uint8)
        memory[self.MARGIN : self.MARGIN + count * dtype.itemsize] = patterns(numbers, dtype)
        return memory

    def part(self, index: int, place: int) -> Array:
        """One tensor's bytes; the output's place is -1."""
        memory = self.memory[index][place]
        return memory[self.MARGIN : memory.size - self.MARGIN]

    def group(self) -> Group:
        places = range(len(self.inputs) + 1)
        addresses = [
            [self.part(index, place).ctypes.data for place in places]
            for index in range(len(self.counts))
        ]
        return Group(
            self.inputs,
            self.output,
            np.array(self.rows, np.int64),
            np.array(addresses, np.int64).reshape(-1, len(places)),
            np.array(self.counts, np.int64),
        )

    def wanted(self, rows: Rows) -> list[bytes]:
        return [self._sum(index, rows[row]).tobytes() for index, row in enumerate(self.rows)]

    def _sum(self, index: int, row: Sequence[Fraction]) -> Array:
        terms = [term for term, coefficient in enumerate(row) if coefficient]
        chosen = [row[term] for term in terms]
        if not terms:
            return np.zeros(self.counts[index] * self.output.itemsize, np.uint8)
        if chosen == [1] and self.inputs[terms[0]] == self.output:
            return self.part(index, terms[0]).copy()
        form = oracle.FORMATS[self.output.code]
        forms = [oracle.FORMATS[self.inputs[term].code] for term in terms]
        columns = [words(self.part(index, term), self.inputs[term]) for term in terms]
        results = [
            oracle.encode(oracle.combine(elements, forms, chosen), form)
            for elements in zip(*columns, strict=True)
        ]
        return np.array(results, f"u{self.output.itemsize}").view(np.uint8)

    def results(self) -> list[bytes]:
        return [self.part(index, -1).tobytes() for index in range(len(self.counts))]

    def check_margins(self) -> None:
        for parts in self.memory:
            for memory in parts:
                edges = (memory[: self.MARGIN], memory[memory.size - self.MARGIN :])
                assert all((edge == 0xA5).all() for edge in edges)


def patterns(numbers: NDArray[np.float64], dtype: DType) -> Array:
    """Numbers of about one, cut to a dtype; every pattern near 1 is one of its numbers."""
    kind = f"u{dtype.itemsize}"
    one = 1 - dtype.low << dtype.precision - 1
    steps = (np.abs(numbers) * (1 << dtype.precision - 1)).astype(np.int64) + one
    signs = np.where(numbers < 0, 1 << (8 * dtype.itemsize - 1), 0).astype(np.uint64)
    return (steps.astype(np.uint64) | signs).astype(kind).view(np.uint8)


def words(part: Array, dtype: DType) -> list[int]:
    found: list[int] = part.view(f"u{dtype.itemsize}").tolist()
    return found


def fractions(texts: str) -> list[Fraction]:
    return [Fraction(text) for text in texts.split()]


def check(engine: Engine, tensors: Tensors, rows: Rows) -> Tally:
    wanted = tensors.wanted(rows)
    tally = engine.resident(tensors.group())(rows)
    assert tensors.results() == wanted
    tensors.check_margins()
    return tally


# ---- Laws

NUMBERS = fractions("0 0 1 1 -1 1/2 0.3 -2/3 0.123456789")


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensors, list[Rows]]:
    terms, rows = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    dtype = st.sampled_from(FLOATING)
    inputs = draw(st.lists(dtype, min_size=terms, max_size=terms))
    counts = draw(st.lists(st.integers(0, 40), max_size=6))
    which = [draw(st.integers(0, rows - 1)) for _ in counts]
    row = st.lists(st.sampled_from(NUMBERS), min_size=terms, max_size=terms)
    calls: list[Rows] = draw(
        st.lists(st.lists(row, min_size=rows, max_size=rows), min_size=1, max_size=3)
    )
    return Tensors(inputs, draw(dtype), counts, which), calls


@pytest.mark.parametrize("name", NAMES)
@given(case=cases())
@settings(max_examples=EXAMPLES, deadline=None)
def test_every_call_gives_the_sums_of_its_coefficients(
    name: str, case: tuple[Tensors, list[Rows]]
) -> None:
    tensors, calls = case
    evaluate = get_engine(name).resident(tensors.group())
    for rows in calls:
        evaluate(rows)
        assert tensors.results() == tensors.wanted(rows)
    tensors.check_margins()


@pytest.mark.parametrize("output", FLOATING, ids=repr)
@pytest.mark.parametrize("kind", FLOATING, ids=repr)
def test_every_pair_of_dtypes(engine: Engine, kind: DType, output: DType) -> None:
    tensors = Tensors([kind] * 2, output, [1, 33], [0, 1])
    check(engine, tensors, [fractions("1 -1/3"), fractions("0.4 0.6")])


# ---- Cases


def cpu_wanted(tensors: Tensors, rows: Rows) -> list[bytes]:
    """What the CPU's blocks give, for tensors that would keep the oracle busy for minutes."""
    engine, results = get_engine("cpu"), []
    for index, row in enumerate(tensors.rows):
        spec = WeightedSumSpec(tuple(rows[row]), tensors.inputs, tensors.output)
        result = np.empty(tensors.part(index, -1).size, np.uint8)
        inputs = [tensors.part(index, term) for term in range(len(tensors.inputs))]
        engine.prepare(spec)(inputs, result)
        results.append(result.tobytes())
    return results


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_tensors_that_are_cut_and_tensors_that_are_joined(threads: int) -> None:
    counts = [700_001, 3, 20_000, 0, 513, 40_000, 1, 300_000, 10_000, 50_000, 45_000]
    tensors = Tensors([BF16, F32], BF16, counts, [index % 2 for index in range(len(counts))])
    evaluate = get_engine("cpu").resident(tensors.group(), threads=threads)
    for rows in ([fractions("1 0.3"), fractions("0.7 -1/3")], [fractions("2 1")] * 2):
        evaluate(rows)
        assert tensors.results() == cpu_wanted(tensors, rows)
    tensors.check_margins()


def test_a_multitude_of_tiny_tensors() -> None:
    random = Random(1)
    counts = [random.randrange(1, 60) for _ in range(2_000)]
    tensors = Tensors([BF16] * 3, BF16, counts, [random.randrange(4) for _ in counts])
    rows = [fractions(f"1 {row + 1}/10 -0.3") for row in range(4)]
    get_engine("cpu").resident(tensors.group(), threads=2)(rows)
    assert tensors.results() == cpu_wanted(tensors, rows)
    tensors.check_margins()


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kinds", [(F32, F32), (F32, BF16), (BF16, BF16), (F64, F64)], ids=repr)
def test_an_output_may_be_an_input(engine: Engine, kinds: tuple[DType, DType], place: int) -> None:
    """Also where magnitudes lie so far apart that the slow tiers read elements twice."""
    kinds = (*kinds, kinds[place])  # type: ignore[assignment]
    tensors = Tensors(kinds[:2], kinds[2], [700, 5], [0, 1])  # type: ignore[misc]
    rows = [[Fraction(1, 3), Fraction(10) ** -40], [Fraction(3**90, 5**80), Fraction(1, 7)]]
    for parts in tensors.memory:
        parts[-1] = parts[place]
    check(engine, tensors, rows)


def test_a_large_output_may_be_an_input() -> None:
    tensors = Tensors([BF16, BF16], BF16, [600_000], [0])
    tensors.memory[0][-1] = tensors.memory[0][0]
    wanted = cpu_wanted(tensors, [fractions("1 0.3")])
    get_engine("cpu").resident(tensors.group(), threads=2)([fractions("1 0.3")])
    assert tensors.results() == wanted
    tensors.check_margins()


@pytest.mark.parametrize("name, count", [("cpu", 90_000), *((name, 300) for name in NAMES)])
def test_the_memory_of_a_zero_coefficient_is_never_read(name: str, count: int) -> None:
    tensors = Tensors([BF16, BF16], BF16, [count], [0])
    group = tensors.group()
    group.addresses[:, 1] = 64  # reading there ends the process
    evaluate = get_engine(name).resident(group)
    evaluate([fractions("2 0")])
    doubled = tensors.part(0, 0).view(np.uint16) + (1 << 7)  # an exponent more
    assert tensors.results() == [doubled.tobytes()]
    group.addresses[:, 0] = 64
    get_engine(name).resident(group)([fractions("0 0")])
    assert not tensors.part(0, -1).any()


def test_zeros_are_plus_zero_and_copies_keep_their_bytes(engine: Engine) -> None:
    tensors = Tensors([BF16, F32], BF16, [2], [0])
    tensors.part(0, 0).view(np.uint16)[:] = [0x7F81, 0x8000]  # a signaling NaN, and -0
    evaluate = engine.resident(tensors.group())
    assert evaluate([fractions("1 0")]) == Tally()
    assert tensors.results() == [bytes.fromhex("817f0080")]
    assert evaluate([fractions("0 0")]) == Tally()
    assert tensors.results() == [bytes(4)]


def test_what_overflows_and_what_is_not_finite_is_counted(engine: Engine) -> None:
    tensors = Tensors([F16, F16], F16, [40, 3], [0, 0])
    for index, value in enumerate((0x7BFF, 0x7C00, 0x7E00)):  # largest, infinity, NaN
        tensors.part(0, 0).view(np.uint16)[index] = value
    tensors.part(1, 1).view(np.uint16)[2] = 0x7BFF
    tally = check(engine, tensors, [fractions("2 2")])
    assert (tally.overflowed, tally.nonfinite) == (2, 2)


def test_nothing_at_all(engine: Engine) -> None:
    assert check(engine, Tensors([BF16], BF16, [], []), [fractions("1/2")]) == Tally()
    assert check(engine, Tensors([BF16], BF16, [0], [0]), [fractions("1/2")]) == Tally()


def test_several_threads_may_call(engine: Engine) -> None:
    """The last call's numbers are there, of every tensor, never a mixture."""
    tensors = Tensors([BF16] * 2, BF16, [100] * 10, [0] * 10)
    evaluate = engine.resident(tensors.group())
    choices = [[fractions(f"1 {number}/10")] for number in range(1, 5)]
    callers = [threading.Thread(target=evaluate, args=(rows,)) for rows in choices]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert tensors.results() in [tensors.wanted(rows) for rows in choices]


def test_a_call_leaves_no_thread_behind_and_one_that_fails_stops() -> None:
    class Failing(CpuEngine):
        def prepare(self, spec: WeightedSumSpec) -> Evaluate:
            def evaluate(inputs: Sequence[Bytes], output: Bytes) -> Tally:
                raise MemoryError("no room")

            return evaluate

    tensors = Tensors([BF16] * 2, BF16, [600_000] * 3, [0] * 3)
    before = threading.active_count()
    get_engine("cpu").resident(tensors.group(), threads=3)([fractions("1 1/2")])
    with pytest.raises(MemoryError, match="no room"):
        Failing().resident(tensors.group(), threads=3)([fractions("1 1/2")])
    assert threading.active_count() == before


def test_new_coefficients_compile_nothing() -> None:
    tensors = Tensors([BF16] * 2, BF16, [100, 200_000], [0, 0])
    evaluate = get_engine("cpu").resident(tensors.group())
    evaluate([fractions("1 1/2")])
    kernels: tuple[Any, ...] = (fused, blocks._move)
    known = [len(kernel.signatures) for kernel in kernels]
    evaluate([fractions("1 0.35")])
    assert [len(kernel.signatures) for kernel in kernels] == known
