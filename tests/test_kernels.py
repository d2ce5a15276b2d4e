"""What surrounds the kernels: tiers, threads, memory, modes of the processor, and their cache."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskalg.dtypes import BF16, F8_E4M3, F8_E5M2, F16, F32, F64, FLOATING, DType
from taskalg.engines.base import Bytes, Evaluate, Tally, WeightedSumSpec
from taskalg.engines.cpu import bounded_tier, slow_tiers
from taskalg.engines.exact import nearest, settle
from taskalg.engines.registry import get_engine
from taskalg.engines.tiers import scale, tier_note
from taskalg.errors import UsageError
from tests import oracle
from tests.terminals import Terminal

CPU, REFERENCE = get_engine("auto"), get_engine("reference")
ROOT = Path(__file__).parents[1]
FIVE = "1.1 -0.4 0.3 -0.3 0.3"


def sum_of(text: str, kind: DType, output: DType | None = None) -> WeightedSumSpec:
    coefficients = tuple(map(Fraction, text.split()))
    return WeightedSumSpec(coefficients, (kind,) * len(coefficients), output or kind)


def run(evaluate: Evaluate, spec: WeightedSumSpec, blocks: Sequence[Bytes]) -> tuple[Bytes, Tally]:
    count = blocks[0].size // spec.inputs[0].itemsize
    output = np.full(count * spec.output.itemsize, 0xA5, np.uint8)
    return output, evaluate(blocks, output)


QUIET = {
    BF16: 0x7FC0,
    F16: 0x7E00,
    F32: 0x7FC00000,
    F64: 0x7FF8 << 48,
    F8_E4M3: 0x7F,
    F8_E5M2: 0x7E,
}


@pytest.mark.parametrize("output", FLOATING, ids=repr)
@pytest.mark.parametrize("kind", [BF16, F16, F32, F8_E4M3, F8_E5M2], ids=repr)
def test_a_cast_is_torch_s(kind: DType, output: DType) -> None:
    count = 1 << 8 * kind.itemsize if kind.itemsize < 4 else 100_000
    patterns = np.arange(count, dtype=f"u{kind.itemsize}")
    if kind == F32:
        patterns = np.random.default_rng(0).integers(0, 2**32, count, np.uint32)
    spec = WeightedSumSpec((Fraction(1),), (kind,), output)
    result, tally = run(CPU.prepare(spec), spec, [patterns.view(np.uint8)])
    source = torch.from_numpy(patterns.view(np.uint8)).view(getattr(torch, kind.torch))
    cast = source.float().to(getattr(torch, output.torch))  # through float32, which is exact
    mine = torch.from_numpy(result).view(cast.dtype)
    same = mine.view(torch.uint8).reshape(count, -1) == cast.view(torch.uint8).reshape(count, -1)
    huge = ~cast.double().isfinite() if output.has_inf else source.double().abs() > 464
    alike = same.all(1) | (mine.float().isnan() & (cast.float().isnan() | huge))
    assert bool(alike.all())  # beyond 464, torch's e4m3 saturates and ours is NaN
    finite = source.float().isfinite()
    counted = int((finite & huge).sum()), int((~finite).sum())
    assert (tally.overflowed, tally.nonfinite) == counted
    quiet = mine.float().isnan().numpy()
    assert set(result.view(f"u{output.itemsize}")[quiet].tolist()) <= {QUIET[output]}


# ---- Tiers


def in_every_tier(spec: WeightedSumSpec, blocks: Sequence[Bytes]) -> list[tuple[bytes, Tally]]:
    scaled, count = scale(spec.coefficients), blocks[0].size // spec.inputs[0].itemsize
    slow, starts = slow_tiers(spec, scaled), np.arange(0, count, 1024)

    def bounded(inputs: Sequence[Bytes], output: Bytes) -> Tally:
        left = starts.copy()
        misses, tally = bounded_tier(spec)(inputs, output, left)
        return tally + slow(inputs, output, left[:misses]) if misses else tally

    def double(inputs: Sequence[Bytes], output: Bytes) -> Tally:
        return slow(inputs, output, starts)

    def integers(inputs: Sequence[Bytes], output: Bytes) -> Tally:
        return settle(spec, scaled, inputs, output, np.arange(count))

    outcomes = [run(f, spec, blocks) for f in (CPU.prepare(spec), bounded, double, integers)]
    return [(output.tobytes(), tally) for output, tally in outcomes]


def realistic(kind: DType, count: int, seed: int) -> Bytes:
    values = torch.from_numpy(np.random.default_rng(seed).normal(0, 0.02, count + 1))
    block = np.asarray(values.to(getattr(torch, kind.torch)).view(torch.uint8).numpy())
    return block[: count * kind.itemsize]


@pytest.mark.parametrize("kind", [BF16, F16, F32, F8_E5M2, F8_E4M3], ids=repr)
@pytest.mark.parametrize("text", ["1.1 -0.4 0.3", "1 -1 1/2", "-1/3 1/7 1"])
def test_tiers_give_the_same_bytes(kind: DType, text: str) -> None:
    spec = sum_of(text, kind)
    fast, near, double, integers = in_every_tier(spec, [realistic(kind, 5000, s) for s in range(3)])
    assert fast[0] == near[0] == double[0] == integers[0]
    assert (fast[1], double[1].tier2, integers[1].tier3) == (Tally(), 5000, 5000)
    assert near[1].bounded + near[1].tier2 == 5000


@pytest.mark.parametrize("output", [F64, F32, BF16], ids=repr)
@pytest.mark.parametrize("text", ["1.1 -0.4 0.3", "1/2 1/2 -1", "0.30000000000000004 1e-30 2/3"])
def test_sums_of_binary64_need_a_bound_or_the_second_tier(text: str, output: DType) -> None:
    spec = sum_of(text, F64, output)
    fast, _, _, integers = in_every_tier(spec, [realistic(F64, 5000, s) for s in range(3)])
    assert fast == (integers[0], Tally(tier2=5000) if output == F64 else Tally(bounded=5000))


@pytest.mark.parametrize(
    ("count", "second"), [(0, 0), (1, 0), (1023, 1023), (1024, 1024), (1025, 1024), (3000, 2047)]
)
def test_one_block_mixes_tiers(count: int, second: int) -> None:
    spec = sum_of("1.1 -0.4 0.3", BF16)
    blocks = [realistic(BF16, count, seed) for seed in range(3)]
    table = np.array([block.view(np.uint16) for block in blocks])
    table[0, 5::1500] = 0x0001  # subnormals beside 0.02 fail the exactness test
    table[1, 1500:1501] = 0x7F80
    blocks = [np.ascontiguousarray(row).view(np.uint8) for row in table]
    output, tally = run(CPU.prepare(spec), spec, blocks)
    wanted, _ = run(REFERENCE.prepare(spec), spec, blocks)
    assert output.view(np.uint16).tolist() == wanted.view(np.uint16).tolist()
    assert tally == Tally(nonfinite=int(count > 1500), tier2=second)


@pytest.mark.parametrize(
    ("text", "kind", "output", "binades"),
    [
        (FIVE, BF16, BF16, 40),  # 53 - 8 - 5: elements, and 24 < 2**5 for the factors
        (FIVE, F32, F32, 24),
        ("1 1/2 -1/4", BF16, BF16, 42),
        ("1", F64, BF16, 4096),
        ("1/3", F32, F64, 4096),
        ("1 1", F64, F64, -1),
        ("1e-30 1", BF16, BF16, -1),
        ("1", F32, F32, 4096),
    ],
)
def test_the_note_says_how_far_the_fast_tier_reaches(
    text: str, kind: DType, output: DType, binades: int
) -> None:
    note = tier_note(sum_of(text, kind, output))
    assert note.binades == binades
    assert ("fast tier" in note.words) == (binades >= 0)


@pytest.mark.parametrize("binades", [40, 41])
def test_the_note_is_exact(binades: int) -> None:
    """One binade more, and the block leaves the fast tier."""
    spec = sum_of(FIVE, BF16)
    patterns = np.full(10, 127 << 7, np.uint16)
    patterns[3] -= binades << 7
    _, tally = run(CPU.prepare(spec), spec, [patterns.view(np.uint8)] * 5)
    assert tally == Tally(tier2=10 if binades > tier_note(spec).binades else 0)


@pytest.mark.parametrize("output", [F8_E5M2, BF16, F16, F32], ids=repr)
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_quotients_beside_midpoints_fall_to_the_right_side(output: DType, offset: int) -> None:
    """Sums of 47 bits whose quotients are as near to a midpoint as they can be."""
    rng, precision = np.random.default_rng(0), output.precision
    for bits in (1, 3, 20, 45 - precision):
        divisor = 2**bits - 1
        midpoints = rng.integers(2**precision, 2 ** (precision + 1), 500) | 1
        sums = (divisor * midpoints << 46 - bits - precision) + offset
        # both parts of like magnitudes, as the fast tier needs: 2**23 to 2**24
        low = sums % 2**23 + 2**23
        high = (sums - low) >> 23
        unit = Fraction(1, divisor << 46 - bits)
        spec = WeightedSumSpec((unit * 2**23, unit), (F32, F32), output)
        blocks = [part.astype(np.float32).view(np.uint8) for part in (high, low)]
        wanted, _ = run(REFERENCE.prepare(spec), spec, blocks)
        got, tally = run(CPU.prepare(spec), spec, blocks)
        assert (got.tobytes(), tally) == (wanted.tobytes(), Tally())


@pytest.mark.parametrize("kind", [BF16, F16, F32, F8_E5M2, F8_E4M3], ids=repr)
@pytest.mark.parametrize("power", [14, 100, 690, -690])
def test_weights_far_from_one_are_exact(kind: DType, power: int) -> None:
    ratio = Fraction(2) ** power
    spec = WeightedSumSpec((ratio, -ratio * 5 / 3), (kind,) * 2, F32)
    blocks = [np.arange(16, dtype=f"u{kind.itemsize}").view(np.uint8) for _ in range(2)]
    wanted, _ = run(REFERENCE.prepare(spec), spec, blocks)
    got, tally = run(CPU.prepare(spec), spec, blocks)
    assert got.tobytes() == wanted.tobytes() and tally.tier2 == 0


@given(st.integers(1, 10**40), st.integers(-1200, 1000), st.integers(1, 10**40), st.booleans())
def test_the_integer_rounding_is_python_s(size: int, power: int, divisor: int, odd: bool) -> None:
    divisor = divisor * 2 + 1 if odd else 1
    value = size * Fraction(2) ** power / divisor
    for dtype in (F64, F32, F16):
        kind = np.dtype(f"f{dtype.itemsize}")
        step = Fraction(2) ** (max(math.frexp(value)[1] - 1, dtype.low) - dtype.precision + 1)
        rounded = round(value / step) * step
        wanted = np.array(float(rounded) if rounded <= dtype.largest else np.inf, kind)
        assert nearest(-size, power, divisor, dtype) == int((-wanted).view(f"u{kind.itemsize}"))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_million_elements_are_all_rounded_right() -> None:
    command = [sys.executable, "-m", "tests.bench.accuracy", "700000"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


# ---- Blocks and threads


@pytest.mark.parametrize("kind", [BF16, F32, F64], ids=repr)
def test_blocks_may_start_anywhere(kind: DType) -> None:
    spec = sum_of("1.1 -0.4 0.3", kind)
    blocks = [realistic(kind, 3001, seed)[kind.itemsize :] for seed in range(3)]
    for block in blocks:
        block.flags.writeable = False
    space = np.zeros(3002 * kind.itemsize, np.uint8)
    CPU.prepare(spec)(blocks, space[kind.itemsize : -kind.itemsize])
    wanted, _ = run(REFERENCE.prepare(spec), spec, blocks)
    assert space[kind.itemsize : -kind.itemsize].tobytes() == wanted.tobytes()
    assert not space[: kind.itemsize].any() and not space[-kind.itemsize :].any()


@pytest.mark.parametrize("kind", [BF16, F64], ids=repr)
def test_threads_share_one_function(kind: DType) -> None:
    spec = sum_of("1.1 -0.4 0.3", kind)
    evaluate = CPU.prepare(spec)
    sets = [[realistic(kind, 20_000, 9 * i + seed) for seed in range(3)] for i in range(8)]
    alone = [run(evaluate, spec, blocks)[0].tobytes() for blocks in sets]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda blocks: run(evaluate, spec, blocks)[0].tobytes(), sets))
    assert together == alone


@pytest.mark.parametrize("text", ["1 1 -1/3", "1 1e-30 1/3"])
def test_flushing_subnormals_changes_nothing(text: str) -> None:
    rng = np.random.default_rng(0)
    spec = sum_of(text, F32)
    blocks = [rng.integers(0, 1 << 24, 500, np.uint32).view(np.uint8) for _ in range(3)]
    wanted, _ = run(CPU.prepare(spec), spec, blocks)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        assert run(CPU.prepare(spec), spec, blocks)[0].tobytes() == wanted.tobytes()
        assert float(torch.tensor([1e-40]) * 1) == 0.0  # the mode is the caller's again
    finally:
        torch.set_flush_denormal(False)


# ---- Choosing an engine, and keeping kernels


def test_an_unknown_engine_is_told_with_the_known_ones() -> None:
    with pytest.raises(
        UsageError, match=r"'abacus'\s+note: there are auto, cpu, gpu and reference"
    ):
        get_engine("abacus")


PROGRAM = """
import sys
import numpy as np
from fractions import Fraction
from taskalg.dtypes import BF16
from taskalg.engines.base import WeightedSumSpec
from taskalg.engines.registry import get_engine
evaluate = get_engine(sys.argv[1]).prepare(WeightedSumSpec((Fraction(1, 3),), (BF16,), BF16))
output = np.zeros(4, np.uint8)
evaluate([np.array([0, 0x3F80], np.uint16).view(np.uint8)], output)
print(output.view(np.uint16).tolist(), *(name in sys.modules for name in ("numba", "torch")))
"""


def other_process(engine: str, before: Sequence[str] = (), **environment: str) -> str:
    """Run a small sum elsewhere with nothing but `environment`; warnings are errors there."""
    command = [*before, sys.executable, "-W", "error", "-c", PROGRAM, engine]
    known = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, env=known | environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.strip()


@pytest.mark.parametrize(("engine", "numba"), [("reference", False), ("cpu", True)])
def test_only_the_chosen_engine_is_imported(engine: str, numba: bool, tmp_path: Path) -> None:
    assert other_process(engine, NUMBA_CACHE_DIR=str(tmp_path)) == f"[0, 16043] {numba} False"


def test_kernels_are_kept_and_damage_is_repaired(tmp_path: Path) -> None:
    def kept() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("fused-*")}

    other_process("cpu", NUMBA_CACHE_DIR=str(tmp_path))
    [(path, content)] = kept().items()
    for damage in (content[:1000], content[:-1] + b"?"):
        path.write_bytes(damage)
        assert other_process("cpu", NUMBA_CACHE_DIR=str(tmp_path)).startswith("[0, 16043]")
        assert len(kept()[path]) > 1000
    path.write_bytes(content)
    before = path.stat().st_mtime_ns
    other_process("cpu", NUMBA_CACHE_DIR=str(tmp_path))
    assert path.stat().st_mtime_ns == before


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_who_watches_is_told_that_kernels_are_compiled(tmp_path: Path) -> None:
    oracle.write_file(tmp_path / "x.safetensors", {"w": oracle.Tensor("BF16", (1,), b"??")}, {})
    merge = ["-m", "taskalg", "merge", "2*x - x/2", "--model", "x=x.safetensors", "-o"]
    merge += ["y.safetensors", "--allow-partial", "--overwrite"]
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    shown = []
    for _ in range(2):
        with Terminal(merge, tmp_path, **cache) as terminal:
            assert terminal.ends() == 0
            shown.append(terminal.raw)
    assert ["compiling kernels, once" in text for text in shown] == [True, False]
    cache["NUMBA_CACHE_DIR"] = str(tmp_path / "other")
    command = [sys.executable, *merge]
    piped = subprocess.run(command, cwd=tmp_path, env=os.environ | cache, capture_output=True)
    assert piped.returncode == 0
    assert b"compiling" not in piped.stderr


def test_kernels_compile_where_nothing_can_be_written(tmp_path: Path) -> None:
    """Somebody without a home, a writable cache folder, or the right to write the package."""
    before: list[str] = []
    if os.geteuid() == 0:
        before = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if subprocess.run([*before, sys.executable, "-c", "import numba"]).returncode:
            pytest.skip("nobody may not run this interpreter")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for environment in ({}, {"XDG_CACHE_HOME": str(closed), "TMPDIR": str(closed)}):
        assert other_process("cpu", before, **environment).startswith("[0, 16043]")
    assert not list(closed.iterdir())
