"""The GPU engine gives the bytes of the others; where there is no GPU, Triton interprets it."""

import ctypes
import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import taskalg as ta
from taskalg.dtypes import BF16, F8_E4M3, F8_E5M2, F16, F32, F64, FLOATING, DType
from taskalg.engines.base import Bytes, Engine, Group, Tally, WeightedSumSpec
from taskalg.engines.reference import ReferenceEngine
from taskalg.engines.registry import get_engine
from taskalg.errors import UsageError
from taskalg.running import execute
from tests import oracle
from tests.strategies import random_data

pytest.importorskip("triton", reason="Triton is for Linux")
torch = pytest.importorskip("torch")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where an interpreted kernel works

PLAIN = tuple(map(Fraction, ("1.1", "-0.4", "0.3")))
LONG = (1 - Fraction("0.123456789"), Fraction("0.123456789"), Fraction(1, 3))
HUGE = (Fraction(10) ** 300, -(Fraction(10) ** 280), Fraction(1, 10**290))
ENDLESS = (Fraction(3**90, 5**80), Fraction(10) ** -40, Fraction(1, 7**50))
COEFFICIENTS = {"plain": PLAIN, "long": LONG, "huge": HUGE, "endless": ENDLESS}


@pytest.fixture(scope="module")
def gpu() -> Engine:
    return get_engine("gpu")


def patterns(seed: int, dtype: DType, count: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, dtype=np.uint8)


def numbers(seed: int, dtype: DType, count: int) -> Bytes:
    values = torch.from_numpy(np.random.default_rng(seed).normal(0, 0.02, count + 1))
    content = values.to(getattr(torch, dtype.torch)).view(torch.uint8).numpy()
    found: Bytes = content[: count * dtype.itemsize].copy()
    return found


def evaluated(engine: Engine, spec: WeightedSumSpec, inputs: Sequence[Bytes]) -> tuple[Any, Tally]:
    count = inputs[0].size // spec.inputs[0].itemsize
    output = np.full(count * spec.output.itemsize, 0xA5, np.uint8)
    tally = engine.prepare(spec)(inputs, output)
    return output.view(f"u{spec.output.itemsize}").tolist(), tally


def seen(tally: Tally) -> tuple[int, int]:
    return tally.overflowed, tally.nonfinite


# ---- Blocks


@pytest.mark.parametrize("output", FLOATING, ids=repr)
@pytest.mark.parametrize("kind", FLOATING, ids=repr)
def test_any_patterns_give_the_reference_s_bytes(gpu: Engine, kind: DType, output: DType) -> None:
    """NaN, infinities, subnormals, zeros of both signs: magnitudes lie far apart."""
    names = sorted(COEFFICIENTS) if output == kind else ["plain"]
    for name in names:
        spec = WeightedSumSpec(COEFFICIENTS[name], (kind,) * 3, output)
        inputs = [patterns(seed, kind, 60) for seed in range(3)]
        mine, tally = evaluated(gpu, spec, inputs)
        wanted, seen_there = evaluated(ReferenceEngine(), spec, inputs)
        assert mine == wanted, name
        assert seen(tally) == seen(seen_there), name


@pytest.mark.parametrize("kind", FLOATING, ids=repr)
@pytest.mark.parametrize("terms", [1, 2, 5])
def test_weights_stay_in_the_fast_tier(gpu: Engine, kind: DType, terms: int) -> None:
    coefficients = (Fraction("1.1"), *map(Fraction, ("-0.4", "0.3", "-0.3", "0.3")))[:terms]
    spec = WeightedSumSpec(coefficients, (kind,) * terms, kind)
    inputs = [numbers(seed, kind, 300) for seed in range(terms)]
    mine, tally = evaluated(gpu, spec, inputs)
    assert mine == evaluated(get_engine("cpu"), spec, inputs)[0]
    assert (tally.tier2 == 0) == (kind != F64), tally


@pytest.mark.parametrize(
    ("kinds", "output"),
    [
        ((BF16, F32), BF16),
        ((F32, BF16), F16),
        ((F8_E4M3, F8_E5M2, BF16, F16), F16),
        ((F16, F8_E5M2), F8_E4M3),
        ((F64, BF16, F32), F32),
        ((F32, F16), F64),
    ],
    ids=repr,
)
@pytest.mark.parametrize("make", [patterns, numbers], ids=["patterns", "weights"])
def test_dtypes_may_differ(gpu: Engine, kinds: tuple[DType, ...], output: DType, make: Any) -> None:
    spec = WeightedSumSpec((*PLAIN, Fraction(1, 4))[: len(kinds)], kinds, output)
    inputs = [make(seed, kind, 90) for seed, kind in enumerate(kinds)]
    mine, tally = evaluated(gpu, spec, inputs)
    wanted, seen_there = evaluated(ReferenceEngine(), spec, inputs)
    assert (mine, seen(tally)) == (wanted, seen(seen_there))


@pytest.mark.parametrize("count", [1, 255, 256, 257, 4095, 4096, 4097, 8200])
def test_blocks_end_anywhere(gpu: Engine, count: int) -> None:
    spec = WeightedSumSpec((Fraction(2), Fraction(-1)), (BF16, BF16), BF16)
    inputs = [numbers(seed, BF16, count) for seed in range(2)]
    mine, tally = evaluated(gpu, spec, inputs)
    assert mine == evaluated(get_engine("cpu"), spec, inputs)[0]
    assert tally == Tally()


def test_blocks_that_are_on_the_device_stay_there(gpu: Engine) -> None:
    spec = WeightedSumSpec(PLAIN, (BF16,) * 3, BF16)
    for make in (numbers, patterns):
        inputs = [make(seed, BF16, 61) for seed in range(3)]
        there = [torch.from_numpy(block[2:].copy()).to(DEVICE) for block in inputs[:2]]
        mixed: Any = [*there, inputs[2][2:]]
        output = np.empty(120, np.uint8)
        gpu.prepare(spec)(mixed, output)
        wanted = evaluated(get_engine("cpu"), spec, [block[2:].copy() for block in inputs])[0]
        assert output.view(np.uint16).tolist() == wanted


def test_what_only_integers_can_settle_is_settled(gpu: Engine) -> None:
    """A third of a multiple of three is the very number, but for what 106 bits do not hold."""
    spec = WeightedSumSpec((Fraction(1, 3), Fraction(10) ** -40), (F32, F32), F32)
    inputs = [numbers(seed, F32, 80) for seed in range(2)]
    mine, tally = evaluated(gpu, spec, inputs)
    assert mine == evaluated(ReferenceEngine(), spec, inputs)[0]
    assert tally.tier3 > 0


@pytest.mark.parametrize("kind", [BF16, F8_E5M2, F64], ids=repr)
@pytest.mark.parametrize("other", [*HUGE, *ENDLESS, Fraction(2**53 + 1)], ids=str)
def test_an_infinity_takes_the_sign_of_its_coefficient(
    gpu: Engine, kind: DType, other: Fraction
) -> None:
    """Also where coefficients are such that no tile could be exact."""
    minus = 1 << 8 * kind.itemsize - 1
    infinity = minus - (1 << kind.precision - 1)
    block = np.array([infinity, minus + infinity, 1, 0], f"u{kind.itemsize}").view(np.uint8)
    nothing = np.zeros_like(block)
    for sign in (1, -1):
        spec = WeightedSumSpec((Fraction(sign), sign * other), (kind, kind), kind)
        for inputs in ([block, nothing], [nothing, block]):
            assert evaluated(gpu, spec, inputs)[0] == evaluated(ReferenceEngine(), spec, inputs)[0]


def test_threads_have_a_lane_each(gpu: Engine) -> None:
    evaluate = gpu.prepare(WeightedSumSpec(PLAIN, (BF16,) * 3, BF16))
    results: dict[int, bool] = {}

    def work(seed: int) -> None:
        spec = WeightedSumSpec(PLAIN, (BF16,) * 3, BF16)
        for count in (300, 40, 700):
            inputs = [numbers(seed + term, BF16, count) for term in range(3)]
            output = np.empty(2 * count, np.uint8)
            evaluate(inputs, output)
            wanted = evaluated(get_engine("cpu"), spec, inputs)[0]
            results[seed] = results.get(seed, True) and output.view(np.uint16).tolist() == wanted

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), True)


def test_a_merge_of_files_has_the_same_bytes(tmp_path: Path) -> None:
    random = Random(1)
    for name in ("base", "ft", "other"):
        tensors = {
            f"layers.{n}.w": oracle.Tensor("BF16", (300,), random_data(random, "BF16", 300, "wild"))
            for n in range(3)
        }
        tensors["steps"] = oracle.Tensor("I64", (1,), bytes(8))
        oracle.write_file(tmp_path / f"{name}.safetensors", tensors, {})
    recipe = ta.compile(
        'base + 0.3*ft["*.1.*"] + ramp(0, 1)*other',
        base=tmp_path / "base.safetensors",
        tasks={name: tmp_path / f"{name}.safetensors" for name in ("ft", "other")},
    )
    for engine in ("cpu", "gpu"):
        recipe.save(tmp_path / f"{engine}.st.safetensors", engine=engine, on_overflow="warn")
    one, other = (tmp_path / f"{engine}.st.safetensors" for engine in ("cpu", "gpu"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("reason", [None, UsageError("no NVIDIA GPU was found")], ids=repr)
@pytest.mark.parametrize("place", ["cpu", "cuda:0"])
def test_auto_is_the_gpu_for_operands_that_lie_there_if_it_can_be_used(
    place: str, reason: UsageError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    operands = [SimpleNamespace(checkpoint=SimpleNamespace(devices={d})) for d in ("cpu", place)]
    plan: Any = SimpleNamespace(operands=operands)
    monkeypatch.setattr(execute, "unavailable", lambda: reason)
    wanted = "gpu" if place == "cuda:0" and reason is None else "cpu"
    assert execute.engine_for(plan, "auto") == wanted
    assert execute.engine_for(plan, "reference") == "reference"


# ---- Tensors that stay


class Resident:
    """Tensors on the device, each between bytes that must not change."""

    def __init__(self, kinds: Sequence[DType], inputs: Sequence[Sequence[Bytes]], odd: int) -> None:
        self.kinds, self.memory = tuple(kinds), []
        for row in inputs:
            count = row[0].size // kinds[0].itemsize
            blocks = [*row, np.zeros(count * kinds[-1].itemsize, np.uint8)]
            self.memory.append(
                [self._around(*pair, odd) for pair in zip(blocks, kinds, strict=True)]
            )

    def _around(self, block: Bytes, kind: DType, odd: int) -> Any:
        margin = 16 + odd * kind.itemsize
        around = np.full(block.size + 2 * margin, 0xA5, np.uint8)
        around[margin:-margin] = block
        whole = torch.from_numpy(around).to(DEVICE)
        return whole[margin:-margin]

    def group(self, rows: Sequence[int]) -> Group:
        addresses = [[part.data_ptr() for part in row] for row in self.memory]
        counts = [row[-1].numel() // self.kinds[-1].itemsize for row in self.memory]
        return Group(
            self.kinds[:-1],
            self.kinds[-1],
            np.array(rows, np.int64),
            np.array(addresses, np.int64).reshape(len(rows), -1),
            np.array(counts, np.int64),
        )

    def results(self) -> list[list[int]]:
        arrays: list[NDArray[Any]] = [row[-1].cpu().numpy() for row in self.memory]
        return [array.view(f"u{self.kinds[-1].itemsize}").tolist() for array in arrays]


@pytest.mark.parametrize("odd", [0, 1], ids=["aligned", "odd"])
def test_one_launch_evaluates_many_tensors_by_their_rows(gpu: Engine, odd: int) -> None:
    counts, which = [5, 300, 4097, 1, 0, 256], [0, 1, 0, 2, 0, 1]
    inputs = [[numbers(10 * i + t, BF16, n) for t in range(2)] for i, n in enumerate(counts)]
    tensors = Resident((BF16, BF16, BF16), inputs, odd)
    evaluate = gpu.resident(tensors.group(which))
    for rows in ([PLAIN[:2], LONG[:2], (Fraction(1), Fraction(0))], [LONG[:2], PLAIN[1:], PLAIN]):
        rows = [row[:2] for row in rows]
        evaluate(rows)
        for index, (row, found) in enumerate(zip(which, tensors.results(), strict=True)):
            terms = [t for t, coefficient in enumerate(rows[row]) if coefficient]
            spec = WeightedSumSpec(tuple(rows[row][t] for t in terms), (BF16,) * len(terms), BF16)
            chosen = [inputs[index][t] for t in terms]
            assert found == evaluated(get_engine("cpu"), spec, chosen)[0], (index, rows)


def test_a_term_without_a_coefficient_is_not_read(gpu: Engine) -> None:
    tensors = Resident((BF16, BF16, BF16), [[numbers(0, BF16, 300), numbers(1, BF16, 300)]], 0)
    group = tensors.group([0])
    group.addresses[0, 1] = 64  # reading there would end the process
    gpu.resident(group)([(Fraction(2), Fraction(0))])
    doubled = (numbers(0, BF16, 300).view(np.uint16) + (1 << 7)).tolist()  # an exponent more
    assert tensors.results() == [doubled]
    group.addresses[0, 0] = 64
    gpu.resident(group)([(Fraction(0), Fraction(0))])
    assert tensors.results() == [[0] * 300]


@pytest.mark.parametrize("count", [300, 4097])
def test_a_copy_keeps_the_bits_of_nan(gpu: Engine, count: int) -> None:
    strange = patterns(3, F16, count)
    tensors = Resident((F16, F16, F16), [[numbers(0, F16, count), strange]], 0)
    tally = gpu.resident(tensors.group([0]))([(Fraction(0), Fraction(1))])
    assert tensors.results() == [strange.view(np.uint16).tolist()]
    assert tally == Tally()


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("coefficients", [PLAIN[:2], LONG[:2], ENDLESS[:2]], ids=repr)
def test_the_output_may_be_an_input(
    gpu: Engine, coefficients: tuple[Fraction, ...], place: int
) -> None:
    """Whoever evaluates a tile at last, its inputs are there until then."""
    inputs = [[numbers(t, F32, n) for t in range(2)] for n in (290, 7)]
    tensors = Resident((F32, F32, F32), inputs, 0)
    for row in tensors.memory:
        row[-1] = row[place]
    gpu.resident(tensors.group([0, 0]))([coefficients])
    spec = WeightedSumSpec(coefficients, (F32, F32), F32)
    wanted = [evaluated(get_engine("cpu"), spec, row)[0] for row in inputs]
    assert tensors.results() == wanted


def test_another_coefficient_builds_no_table(gpu: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskalg.engines.gpu import resident

    inputs = [numbers(0, BF16, 300), numbers(1, BF16, 300)]
    tensors = Resident((BF16, BF16, BF16), [inputs], 0)
    evaluate = gpu.resident(tensors.group([0]))
    monkeypatch.setattr(resident, "tabulate", None)  # a call would be an error
    for coefficients in (PLAIN[:2], LONG[:2]):
        evaluate([coefficients])
        spec = WeightedSumSpec(coefficients, (BF16, BF16), BF16)
        assert tensors.results() == [evaluated(get_engine("cpu"), spec, inputs)[0]]


# ---- Inner products


@pytest.mark.parametrize("kind", FLOATING, ids=repr)
def test_inner_products_are_the_reference_s(gpu: Engine, kind: DType) -> None:
    inputs = [[numbers(10 * n + t, kind, n) for t in range(2)] for n in (700, 1, 4097)]
    tensors = Resident((kind, kind, F32), inputs, 0)
    for index, row in enumerate(tensors.memory):
        slope = numbers(index, F32, row[-1].numel() // 4)
        row[-1] = torch.from_numpy(slope).to(DEVICE)
    group = tensors.group([0, 0, 0])
    found = gpu.dots(group)
    on_host = Resident((kind, kind, F32), inputs, 0)
    for row, there in zip(on_host.memory, tensors.memory, strict=True):
        row[:] = [part.cpu() for part in there]
    wanted = ReferenceEngine().dots(on_host.group([0, 0, 0]))
    assert np.abs(found - wanted).max() <= 1e-12 * np.abs(wanted).max()
    assert np.array_equal(found, gpu.dots(group))


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_not_finite_makes_an_inner_product_nan(gpu: Engine, place: int) -> None:
    for pattern in (0x7F80, 0xFF80, 0x7FC1):
        inputs = [numbers(t, BF16, 300) for t in range(2)]
        inputs[place].view(np.uint16)[7] = pattern
        tensors = Resident((BF16, BF16, BF16), [inputs], 0)
        tensors.memory[0][-1][:] = torch.from_numpy(numbers(5, BF16, 300)).to(DEVICE)
        assert np.isnan(gpu.dots(tensors.group([0]))[0]).tolist() == [place == 0, place == 1]


# ---- The guards


@pytest.mark.skipif(DEVICE == "cuda", reason="on a GPU there is nothing to mend")
def test_interpreted_kernels_use_a_multiply_add_that_rounds_once(
    gpu: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskalg.engines.gpu import interpreter

    x = np.array([1 + 2.0**-30])
    lost = np.empty(1)
    interpreter._fused(x, x, -(x * x), lost)
    assert lost.tolist() == [2.0**-60]
    spec = WeightedSumSpec(PLAIN, (BF16,) * 3, BF16)
    inputs = [numbers(seed, BF16, 50) for seed in range(3)]
    wanted = evaluated(get_engine("cpu"), spec, inputs)[0]
    assert evaluated(gpu, spec, inputs)[0] == wanted
    monkeypatch.setattr(interpreter, "_fused", lambda x, y, z, results: results.fill(1.0))
    assert evaluated(gpu, spec, inputs)[0] != wanted


def test_margins_are_watched() -> None:
    tensors = Resident((BF16, BF16), [[numbers(0, BF16, 3)]], 1)
    part = tensors.memory[0][0].cpu()
    if DEVICE == "cpu":
        start = part.data_ptr() - 2
        assert bytes((ctypes.c_uint8 * 2).from_address(start)) == b"\xa5\xa5"
    assert part.numel() == 6


def test_kernels_are_kept_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton import knobs

    from taskalg.engines.cache import folder
    from taskalg.engines.gpu.launch import keep_compiled

    with knobs.cache.scope():
        knobs.cache.dir = str(tmp_path / "here")
        keep_compiled()
        assert knobs.cache.dir == str(tmp_path / "here")
        (tmp_path / "file").write_text("in the way")
        knobs.cache.dir = str(tmp_path / "file" / "cache")
        keep_compiled()
        assert knobs.cache.dir == str(folder()) + "/triton"
