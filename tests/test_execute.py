"""Running a plan: what is read, copied, refused and published."""

import dataclasses
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given

import taskalg
from taskalg import CheckpointError, MismatchError, OverflowingError, Recipe, blame, files, system
from taskalg.checkpoints.base import open_shard
from taskalg.engines.base import Bytes, Evaluate, Tally, WeightedSumSpec
from taskalg.engines.reference import ReferenceEngine
from taskalg.engines.registry import get_engine
from taskalg.handles import INPUTS, OUTPUTS, Handles
from taskalg.language.nodes import Node
from taskalg.running.arena import Arena
from taskalg.running.execute import execute
from taskalg.running.stream import Settings
from tests import oracle, strategies
from tests.oracle import FORMATS, Tensor, Tensors
from tests.strategies import examples, families, plain_sums
from tests.test_laws import expected_rows, in_files, on_disk, recipe_in

IO = Path("/proc/self/io")


def floats(dtype: str, *values: float) -> Tensor:
    form = FORMATS[dtype]
    patterns = [oracle.encode(Fraction(value), form) for value in values]
    data = b"".join(pattern.to_bytes(form.width, "little") for pattern in patterns)
    return Tensor(dtype, (len(values),), data)


def bits(dtype: str, *patterns: int) -> Tensor:
    width = FORMATS[dtype].width
    return Tensor(dtype, (len(patterns),), b"".join(p.to_bytes(width, "little") for p in patterns))


def integers(*values: int) -> Tensor:
    data = b"".join(value.to_bytes(8, "little", signed=True) for value in values)
    return Tensor("I64", (len(values),), data)


def recipe(folder: Path, text: str, **checkpoints: Tensors) -> Recipe:
    for key, tensors in checkpoints.items():
        oracle.write_file(folder / f"{key}.safetensors", tensors, {})
    models = {key: folder / f"{key}.safetensors" for key in checkpoints}
    return taskalg.compile(text, models=models)


def left_in(folder: Path) -> list[str]:
    """Return what is in a folder besides the inputs."""
    return sorted(p.name for p in folder.rglob("*") if not p.stem.isidentifier() or p.stem == "out")


# ---- Copies


def test_a_copied_tensor_keeps_every_bit_also_of_nan(tmp_path: Path) -> None:
    payloads = bits("BF16", 0x7F81, 0xFFC5, 0x7FFF, 0x8000, 0x0001, 0xFF80)
    base, ft = {"w": payloads}, {"w": floats("BF16", *[1.0] * 6)}
    report = recipe(tmp_path, "base + 0*ft", base=base, ft=ft).save(tmp_path / "out.safetensors")
    assert oracle.read_file(tmp_path / "out.safetensors") == base
    assert (report.bytes_copied, report.bytes_read, report.tally.nonfinite) == (12, 12, 0)


def test_a_computed_nan_is_the_one_quiet_pattern_and_is_reported(tmp_path: Path) -> None:
    base = {"v": floats("F16", 1, 2), "w": bits("F16", 0x7C01, 0xFC00)}
    made = recipe(tmp_path, "0.5*base", base=base)
    report = made.save(tmp_path / "out.safetensors", allow_partial=True)
    assert oracle.read_file(tmp_path / "out.safetensors")["w"] == bits("F16", 0x7E00, 0xFC00)
    assert report.tally.nonfinite == 2
    assert report.notes == ("NaN or Inf in the inputs of 'w'",)


def test_where_nothing_is_selected_zeros_are_written(tmp_path: Path) -> None:
    both = {"a": floats("F32", 1, 2), "b": floats("F32", 3)}
    made = recipe(tmp_path, '(ft - base)["b"]', base=both, ft={**both, "b": floats("F32", 5)})
    made.save(tmp_path / "out.safetensors")
    found = oracle.read_file(tmp_path / "out.safetensors")
    assert found == {"a": floats("F32", 0, 0), "b": floats("F32", 2)}


# ---- Checkpoints that cancel


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the files that are opened for reading."""
    found: list[str] = []
    real = files.open_input

    def open_input(path: Any) -> int:
        found.append(Path(path).stem)
        return real(path)

    monkeypatch.setattr(files, "open_input", open_input)
    return found


def test_a_checkpoint_that_cancels_is_never_opened_for_data(
    tmp_path: Path, opened: list[str]
) -> None:
    one, other = {"w": floats("F32", 1)}, {"v": floats("F16", 1)}
    made = recipe(tmp_path, "base + (ft - base)", base=other, ft=one)
    plan = made.plan()
    assert sorted(opened) == ["base", "ft"]  # their headers
    opened.clear()
    report = execute(plan, get_engine("cpu"), tmp_path / "out.safetensors")
    assert opened == ["ft"]
    assert report.bytes_read == 4
    assert oracle.read_file(tmp_path / "out.safetensors") == one


def test_where_a_checkpoint_takes_no_part_its_tensors_are_not_read(tmp_path: Path) -> None:
    both = {"layers.0.w": floats("F32", *range(50)), "layers.1.w": floats("F32", 1)}
    made = recipe(tmp_path, "base + (ft - base)[1]/2", base=both, ft=both)
    usage = {u.operand.name: u.bytes_read for u in made.plan().usage}
    report = made.save(tmp_path / "out.safetensors")
    assert usage == {"base": 204, "ft": 4}
    assert report.bytes_read == 208


# ---- Promised bytes are moved bytes


def bytes_read_so_far() -> int:
    first = IO.read_text("ascii").splitlines()[0]
    assert first.startswith("rchar: ")
    return int(first.split()[1])


@pytest.mark.skipif(not IO.exists(), reason="the kernel counts bytes on Linux only")
@examples(12)
@given(families(), plain_sums(2))
def test_the_kernel_counts_the_bytes_the_plan_promised(
    family: dict[str, Tensors], node: Node
) -> None:
    text = in_files(node)
    assume(any(expected_rows(text, list(strategies.NAMES)).values()))
    with on_disk(family) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("taskalg.running.execute.peak_memory", lambda: 0)  # reads /proc
        plan = recipe_in(folder, text).plan(allow_partial=True)
        settings = Settings(threads=2, fail_on_overflow=False, overwrite=True)
        out, engine = folder / "out.safetensors", get_engine("cpu")
        execute(plan, engine, out, settings)  # kernels are compiled or loaded
        for _ in range(2):
            own = -bytes_read_so_far() + bytes_read_so_far()
            before = bytes_read_so_far()
            report = execute(plan, engine, out, settings)
            moved = bytes_read_so_far() - before - own
        assert report.bytes_read == plan.bytes_read
        assert moved == plan.bytes_read


def test_integers_that_are_compared_are_promised_and_counted(tmp_path: Path) -> None:
    one = {"w": floats("F32", 1), "n": integers(1, 2)}
    made = recipe(tmp_path, "mean(base, a, b)", base=one, a=one, b=one)
    report = made.save(tmp_path / "out.safetensors")
    assert report.bytes_read == made.plan().bytes_read == 3 * 4 + 16 + 2 * (16 + 16)
    assert report.notes == ()


# ---- Integers, and names that are not shared


def test_integers_come_from_the_donor_and_a_difference_is_noted(tmp_path: Path) -> None:
    base = {"w": floats("F32", 1), "n": integers(1, 2), "m": integers(0)}
    ft = {"w": floats("F32", 3), "n": integers(1, 3), "m": integers(0)}
    made = recipe(tmp_path, "(base + ft)/2", base=base, ft=ft)
    report = made.save(tmp_path / "out.safetensors")
    found = oracle.read_file(tmp_path / "out.safetensors")
    assert found == {"w": floats("F32", 2), "n": integers(1, 2), "m": integers(0)}
    assert report.notes == ("integer tensors differ, those of base are taken: 'n'",)
    with pytest.raises(MismatchError) as caught:
        made.save(tmp_path / "strict.safetensors", strict=True)
    assert str(caught.value) == (
        "integer tensors differ between the checkpoints\n"
        "  note: they are 'n'\n"
        "  help: without --strict those of base are taken"
    )
    assert not (tmp_path / "strict.safetensors").exists()


def test_a_task_vector_leaves_integers_out(tmp_path: Path) -> None:
    base = {"w": floats("F32", 1), "n": integers(1)}
    ft = {"w": floats("F32", 3), "n": integers(2)}
    recipe(tmp_path, "ft - base", base=base, ft=ft).save(tmp_path / "out.safetensors", strict=True)
    assert oracle.read_file(tmp_path / "out.safetensors") == {"w": floats("F32", 2)}


def test_only_shared_writes_exactly_the_donor_s_names(tmp_path: Path) -> None:
    base = {"w": floats("F32", 1), "own": floats("BF16", 7)}
    ft = {"head": floats("F32", 1), "w": floats("F32", 3)}
    made = recipe(tmp_path, "(base + ft)/2", base=base, ft=ft)
    report = made.save(tmp_path / "out.safetensors", only_shared=True)
    assert report.notes == (
        "not in every checkpoint, copied from base: 'own'",
        "not in base, left out: 'head'",
    )
    found = oracle.read_file(tmp_path / "out.safetensors")
    assert found == {"w": floats("F32", 2), "own": floats("BF16", 7)}


# ---- Overflow


def overflowing(folder: Path) -> Recipe:
    fine, large = floats("F16", 1, 2), floats("F16", 1, 65504)
    return recipe(folder, "2*base", base={"a": fine, "b": large, "c": fine})


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_an_overflow_is_an_error_that_publishes_nothing(tmp_path: Path, engine: str) -> None:
    with pytest.raises(OverflowingError) as caught:
        overflowing(tmp_path).save(tmp_path / "out", allow_partial=True, engine=engine)
    assert caught.value.message == "tensor 'b' overflows f16"
    assert caught.value.exit_code == 3
    assert left_in(tmp_path) == []


def test_an_overflow_may_be_a_note(tmp_path: Path) -> None:
    made = overflowing(tmp_path)
    report = made.save(tmp_path / "out.safetensors", allow_partial=True, on_overflow="warn")
    assert report.tally.overflowed == 1
    assert report.notes == ("results overflow in 'b'",)
    found = oracle.read_file(tmp_path / "out.safetensors")
    assert found["b"] == bits("F16", 0x4000, 0x7C00)
    made.save(tmp_path / "wide.safetensors", allow_partial=True, dtype="f32")


@pytest.mark.parametrize("bad", [{"a"}, {"b"}, {"c"}, {"a", "c"}])
def test_blame_in_a_block_that_begins_with_the_end_of_a_large_tensor(
    tmp_path: Path, bad: set[str]
) -> None:
    """Its other steps are whole, the first is not; reading on would leave the block's memory."""
    sizes = {"a": 2_101_000, "b": 50, "c": 70}
    tensors = {}
    for name, size in sizes.items():
        data = bytearray(FORMATS["F32"].first_special.to_bytes(4, "little") * size)
        end = 4 * size - 4 * (name in bad)
        data[:end] = bytes(end)
        tensors[name] = Tensor("F32", (size,), bytes(data))
    made = recipe(tmp_path, "x/2 + y/2", x=tensors, y=tensors)
    report = made.save(tmp_path / "out.safetensors", threads=1)
    words = " and ".join(f"'{name}'" for name in sorted(bad))
    assert report.notes == (f"NaN or Inf in the inputs of {words}",)
    assert report.tally.nonfinite == 2 * len(bad)


def test_an_infinity_that_was_there_before_is_no_overflow(tmp_path: Path) -> None:
    base = {"w": bits("F16", 0x7C00)}
    report = recipe(tmp_path, "2*base", base=base).save(
        tmp_path / "o_.safetensors", allow_partial=True
    )
    assert report.tally == Tally(nonfinite=1)


# ---- What goes wrong meanwhile


class Broken(ReferenceEngine):
    """An engine whose n-th block fails."""

    name = "broken"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def prepare(self, spec: WeightedSumSpec) -> Evaluate:
        def evaluate(blocks: Any, output: Bytes) -> Tally:
            raise self.error

        return evaluate


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), CheckpointError("x")])
def test_whatever_stops_a_thread_is_raised_and_nothing_is_left(
    tmp_path: Path, error: BaseException
) -> None:
    both = {"w": floats("F32", *range(1000))}
    plan = recipe(tmp_path, "(base + ft)/2", base=both, ft=both).plan()
    running, descriptors = threading.active_count(), len(blame.names)
    with pytest.raises(type(error)):
        execute(plan, Broken(error), tmp_path / "out", Settings(threads=3))
    assert left_in(tmp_path) == []
    assert (threading.active_count(), len(blame.names)) == (running, descriptors)


def test_an_input_that_changed_since_its_header_was_read_is_refused(tmp_path: Path) -> None:
    both = {"w": floats("F32", 1, 2)}
    plan = recipe(tmp_path, "(base + ft)/2", base=both, ft=both).plan()
    oracle.write_file(tmp_path / "ft.safetensors", {"w": floats("F32", 1, 2, 3)}, {})
    with pytest.raises(CheckpointError, match="changed while it was read"):
        execute(plan, get_engine("cpu"), tmp_path / "out.safetensors")
    assert left_in(tmp_path) == []


def test_an_input_that_changes_before_the_end_is_refused(tmp_path: Path) -> None:
    both = {"w": floats("F32", 1, 2)}
    plan = recipe(tmp_path, "(base + ft)/2", base=both, ft=both).plan()

    class Touching(ReferenceEngine):
        name = "touching"

        def prepare(self, spec: WeightedSumSpec) -> Evaluate:
            def evaluate(blocks: Any, output: Bytes) -> Tally:
                oracle.write_file(tmp_path / "base.safetensors", {"w": floats("F32", 1)}, {})
                return Tally()

            return evaluate

    with pytest.raises(CheckpointError, match="changed while it was read"):
        execute(plan, Touching(), tmp_path / "out.safetensors")
    assert left_in(tmp_path) == []


# ---- Limits


@pytest.fixture
def most_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Collect how many files were open at most."""
    lock, count, most = threading.Lock(), [0], [0]
    real = system.primitives

    def counted_open(*arguments: Any) -> int:
        fd = real.open(*arguments)
        with lock:
            count[0] += 1
            most[0] = max(most[0], count[0])
        return fd

    def counted_close(fd: int) -> None:
        real.close(fd)
        with lock:
            count[0] -= 1

    patched = dataclasses.replace(real, open=counted_open, close=counted_close)
    monkeypatch.setattr(system, "primitives", patched)
    yield most
    assert count == [0]


def test_72_checkpoints_of_two_shards_and_64_threads_stay_within_the_limits(
    tmp_path: Path, most_open: list[int]
) -> None:
    names = [f"m{index:02d}" for index in range(72)]
    for index, name in enumerate(names):
        shards = [{f"w{s}.{n}": floats("BF16", index, n) for n in range(8)} for s in range(2)]
        oracle.write_folder(tmp_path / name, shards)
    models = {name: tmp_path / name for name in names}
    made = taskalg.compile(f"mean({', '.join(names)})", models=models)
    report = made.save(tmp_path / "out.safetensors", threads=64)
    assert report.bytes_read == 72 * 16 * 4
    assert most_open[0] <= 128
    found = oracle.read_file(tmp_path / "out.safetensors")
    assert found["w0.3"] == floats("BF16", 35.5, 3)


def test_files_are_closed_when_too_many_are_open_but_never_while_they_are_read(
    tmp_path: Path, most_open: list[int]
) -> None:
    one = {"w": floats("F32", 1)}
    names = [f"m{index}" for index in range(6)]
    made = recipe(tmp_path, " + ".join(names), **dict.fromkeys(names, one))
    shards = [o.checkpoint.shards[0] for o, _ in made.resolved.terms if o.checkpoint]
    most_open[0] = 0
    pool = Handles(open_shard, files.close, limit=2)
    with pool.using(shards[0]) as first, pool.using(shards[1]), pool.using(shards[2]):
        files.read_into(first, [bytearray(4)], 0)  # all are in use: one more than the limit
    for shard in shards:
        with pool.using(shard) as fd:
            files.read_into(fd, [bytearray(8)], 0)
    pool.close()
    assert most_open[0] == 3


def test_an_arena_hands_out_aligned_memory_that_does_not_overlap() -> None:
    arena = Arena(1000, get_engine("cpu"))
    parts = [arena.take(size) for size in (1, 64, 65, 0, 200)]
    assert [part.nbytes for part in parts] == [1, 64, 65, 0, 200]
    starts = [part.ctypes.data for part in parts if part.nbytes]
    assert all(start % 64 == 0 for start in starts)
    assert len(set(starts)) == len(starts)
    arena.clear()
    assert arena.take(8).ctypes.data == starts[0]


def test_more_threads_than_blocks_is_fine(tmp_path: Path) -> None:
    one = {"w": floats("F32", 1), "empty": Tensor("F32", (0, 3), b"")}
    made = recipe(tmp_path, "(base + ft)/2", base=one, ft=one)
    made.save(tmp_path / "out.safetensors", threads=64)
    assert oracle.read_file(tmp_path / "out.safetensors") == one
    assert INPUTS + OUTPUTS < 128


def test_a_report_is_the_plan_come_true(tmp_path: Path) -> None:
    both = {"w": floats("BF16", 1, 2), "v": floats("BF16", 3)}
    made = recipe(tmp_path, 'base + 0.5*(ft - base)["w"]', base=both, ft=both)
    report = made.save(tmp_path / "out", shard_size="4B")
    assert (report.shards, report.bytes_written, report.bytes_copied) == (2, 6, 2)
    assert report.plan.kind == "model"
    assert report.seconds > 0 and report.peak_memory > 0
