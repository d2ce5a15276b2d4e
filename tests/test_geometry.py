"""Norms, angles and signs: what they are to the bit, and that they cost one pass or none."""

import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file

import taskalg as ta
from taskalg.cli.main import main
from taskalg.dtypes import FLOATING, DType
from taskalg.engines.gram import PIECE, STRIP
from taskalg.measuring.answers import Answers
from taskalg.measuring.combining import CANCELS
from taskalg.measuring.store import Store
from taskalg.running.reading import Inputs
from tests.test_lora import write

LANES = 8
SHAPES = {
    "embed.w": (3, 7),
    "layers.0.a.w": (STRIP + 5,),
    "layers.0.b.w": (1,),
    "layers.1.a.w": (PIECE + STRIP + 3,),
    "layers.1.b.w": (0, 4),
    "head.w": (2, STRIP),
}
NAMES = ("base", "x", "y", "z")
Vector = Mapping[str, NDArray[np.float64]]


# ---- The oracle: plain Python numbers and exact rationals


def multiply_add(x: float, y: float, z: float) -> float:
    """Return x*y + z, rounded once; where the product is exact the addition rounds it."""
    product = x * y
    if math.isfinite(product) and Fraction(x) * Fraction(y) == Fraction(product):
        return product + z
    return float(Fraction(x) * Fraction(y) + Fraction(z))


def piece_product(x: Sequence[float], y: Sequence[float]) -> float:
    lanes = [0.0] * LANES
    for start in range(0, len(x), STRIP):
        chains = [0.0] * LANES
        for index in range(start, min(start + STRIP, len(x))):
            lane = (index - start) % LANES
            chains[lane] = multiply_add(x[index], y[index], chains[lane])
        lanes = [a + b for a, b in zip(lanes, chains, strict=True)]
    for width in (4, 2, 1):
        lanes = [lanes[lane] + lanes[lane + width] for lane in range(width)]
    return lanes[0]


def tensor_product(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    a, b = x.ravel().tolist(), y.ravel().tolist()
    starts = range(0, len(a), PIECE)
    return math.fsum(piece_product(a[s : s + PIECE], b[s : s + PIECE]) for s in starts)


def product(x: Vector, y: Vector) -> float:
    return math.fsum(tensor_product(x[name], y[name]) for name in x)


def agreement(x: Vector, y: Vector) -> float:
    a, b = (np.concatenate([v[name].ravel() for name in v]) for v in (x, y))
    both = (a != 0) & (b != 0)
    return float(((np.sign(a) == np.sign(b)) & both).sum() / both.sum())


# ---- Checkpoints


def made(name: str, dtype: torch.dtype, shapes: Mapping[str, Any] = SHAPES) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(NAMES.index(name))
    found = {}
    for tensor, shape in shapes.items():
        numbers = torch.randn(shape, generator=generator)
        numbers[torch.rand(shape, generator=generator) < 0.1] = 0.0
        found[tensor] = numbers.to(dtype)
    found["steps"] = torch.tensor([7])
    return found


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    dtypes = (torch.bfloat16, torch.bfloat16, torch.float16, torch.float32)
    for name, dtype in zip(NAMES, dtypes, strict=True):
        save_file(made(name, dtype), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(autouse=True)
def no_earlier_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TASKALG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "products"


def recipes(folder: Path) -> dict[str, ta.Recipe]:
    base = ta.checkpoint(folder / "base.safetensors", name="base")
    tasks = {n: ta.task(folder / f"{n}.safetensors", base, name=n) for n in NAMES[1:]}
    return {"base": base, **tasks}


def exact(folder: Path, weights: Mapping[str, Fraction | int]) -> Vector:
    """Return a sum of task vectors, every element rounded once."""
    dtypes = {"base": torch.bfloat16, "x": torch.bfloat16, "y": torch.float16, "z": torch.float32}
    rest = Fraction(weights.get("base", 0)) - sum(
        (Fraction(w) for n, w in weights.items() if n != "base"), Fraction(0)
    )
    parts = {**{n: Fraction(w) for n, w in weights.items()}, "base": rest}
    tensors = [made(n, dtypes[n]) for n in parts]
    return {
        name: np.array([_nearest(parts.values(), row) for row in zip(*columns, strict=True)])
        for name in SHAPES
        for columns in ([one[name].double().ravel().tolist() for one in tensors],)
    }


def _nearest(coefficients: Iterable[Fraction], row: Iterable[float]) -> float:
    return float(sum(c * Fraction(v) for c, v in zip(coefficients, row, strict=True)))


# ---- What the numbers are


def test_products_are_what_the_definition_says_to_the_bit(zoo: Path) -> None:
    bound = recipes(zoo)
    x, y, z = (bound[name] for name in "xyz")
    vectors = {"x": x, "y": y, "d": y - z, "s": x + y + z, "third": x / 3, "b": bound["base"]}
    weights: list[dict[str, Fraction | int]] = [
        {"x": 1},
        {"y": 1},
        {"y": 1, "z": -1},
        {"x": 1, "y": 1, "z": 1},
    ]
    weights += [{"x": Fraction(1, 3)}, {"base": 1}]
    found = ta.geometry(vectors)
    wanted = [exact(zoo, row) for row in weights]
    for i, left in enumerate(wanted):
        for j, right in enumerate(wanted):
            assert found.gram[i, j] == product(left, right)
            assert found.agreement[i, j] == agreement(left, right)
    norms = np.sqrt([product(one, one) for one in wanted])
    assert np.array_equal(found.norms, norms)
    assert np.array_equal(found.cosines, np.clip(found.gram / np.outer(norms, norms), -1, 1))


@pytest.mark.parametrize("dtype", FLOATING, ids=repr)
@pytest.mark.parametrize("scale", [1, -3])
def test_every_dtype_is_measured_to_the_bit(dtype: DType, scale: int) -> None:
    shapes = {"w": (3 * STRIP + 5,), "v": (7,)}
    states = [made(name, getattr(torch, dtype.torch), shapes) for name in ("x", "y")]
    x, y = (ta.checkpoint(state, name=name) for state, name in zip(states, ("x", "y"), strict=True))
    found = ta.geometry({"x": scale * x, "d": x - y})
    left, right = ({n: state[n].double().numpy() for n in shapes} for state in states)
    wanted = [{n: scale * left[n] for n in shapes}, {n: left[n] - right[n] for n in shapes}]
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert found.gram[i, j] == found.gram[j, i] == product(wanted[i], wanted[j])


def test_the_oracle_tells_orders_of_addition_apart() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 20, 3 * STRIP))
    found = [piece_product(a.tolist(), b.tolist()) for a, b in zip(x, y, strict=True)]
    shifted = [piece_product([0.0, *a], [0.0, *b]) for a, b in zip(x, y, strict=True)]
    assert found == pytest.approx(shifted, rel=1e-12)
    assert found != shifted


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_no_bit_depends_on_threads_or_companions(zoo: Path, threads: int) -> None:
    bound = recipes(zoo)
    x, y = bound["x"], bound["y"]
    alone = ta.geometry({"x": x, "y": y}, cache=False)
    beside = ta.geometry([y, bound["z"], x, x + y], threads=threads, cache=False)
    places = np.ix_([2, 0], [2, 0])
    assert np.array_equal(alone.gram, beside.gram[places])
    spelled = ta.geometry({"x": x + y - y, "y": 2 * y - y}, cache=False)
    assert np.array_equal(alone.gram, spelled.gram)


def test_blocks_of_many_sizes_give_the_same_bits(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = recipes(zoo)
    whole = ta.geometry([bound["x"], bound["z"]], cache=False)
    monkeypatch.setattr("taskalg.measuring.forming._TARGET", 1)
    assert np.array_equal(ta.geometry([bound["x"], bound["z"]], cache=False).gram, whole.gram)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_what_is_not_finite_spoils_its_tensor_and_is_named(
    tmp_path: Path, odd: float, dtype: torch.dtype
) -> None:
    states = [{"a": torch.ones(9, dtype=dtype), "b": torch.ones(9, dtype=dtype)} for _ in "ab"]
    states[1]["a"][3] = odd
    for state, name in zip(states, ("base", "t"), strict=True):
        save_file(state, tmp_path / f"{name}.safetensors")
    base = ta.checkpoint(tmp_path / "base.safetensors", name="base")
    found = ta.geometry({"t": 2 * ta.task(tmp_path / "t.safetensors", base, name="t")})
    parts = {part.name: part.gram[0, 0] for part in found.by("tensor")}
    assert np.isnan(parts["a"])
    assert parts["b"] == 0
    assert np.isnan(found.norms).all()
    with pytest.raises(ta.MismatchError, match="not a finite number"):
        found.norm("t")


def test_products_too_large_are_told_and_subnormals_survive(tmp_path: Path) -> None:
    for name, value in (("large", 1e200), ("small", 2.0**-1070), ("unit", 2.0**200)):
        save_file({"w": torch.full((9,), value, dtype=torch.float64)}, tmp_path / name)
    large, small, unit = (
        ta.checkpoint(tmp_path / name, name=name) for name in ("large", "small", "unit")
    )
    assert np.isnan(ta.geometry([large]).gram).all()
    torch.set_flush_denormal(True)
    try:
        assert ta.geometry({"s": small, "u": unit}).dot("s", "u") == 9 * 2.0**-870
    finally:
        torch.set_flush_denormal(False)


# ---- Any expression, from the products of atoms

EXPRESSIONS = st.recursive(
    st.sampled_from(["x", "y", "z", "base", "x[0:1]", 'y["*.a.w"]']),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-"]), inner).map(lambda t: f"({' '.join(t)})"),
        st.tuples(st.sampled_from(["2", "0.3", "1/7", "ramp(0, 1)"]), inner).map("*".join),
    ),
    max_leaves=5,
)


@settings(max_examples=30, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS)
def test_an_expression_from_atoms_is_what_measuring_it_gives(
    zoo: Path, one: str, other: str
) -> None:
    bound = recipes(zoo)
    known = ta.geometry(bound, cache=False)
    left, right = (known.meaning(text) for text in (one, other))
    measured = ta.geometry({"l": left, "r": right}, cache=False)
    size = float(measured.norms[0] * measured.norms[1])
    assert known.norm(one) == pytest.approx(float(measured.norms[0]), rel=1e-10)
    assert abs(known.dot(one, other) - measured.gram[0, 1]) <= 1e-10 * size
    if size:
        assert known.cos(one, other) == pytest.approx(float(measured.cosines[0, 1]), abs=1e-10)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note every read of tensors from now on."""
    seen: list[int] = []
    fill = Inputs.fill

    def counted(self: Inputs, operand: int, pieces: Any, into: Any) -> None:
        seen.append(operand)
        fill(self, operand, pieces, into)

    monkeypatch.setattr(Inputs, "fill", counted)
    return seen


def test_questions_read_nothing_unless_the_answer_cancels(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = recipes(zoo)
    known = ta.geometry({"x": bound["x"], "y": bound["y"]})
    seen = count_reads(monkeypatch)
    for text in ("x", "x - y", "0.5*x[0:1]", "base + x", "x/norm(x)", "x - dot(x, y)/dot(y, y)*y"):
        known.norm(text)
    assert known.norm("x/norm(x)") == pytest.approx(1)
    assert known.cos("x - dot(x, y)/dot(y, y)*y", "y") == pytest.approx(0, abs=1e-12)
    assert seen == []
    direct = known.norm("base - 0.999999999*base")
    assert direct == pytest.approx(1e-9 * known.norm("base"), rel=1e-10)
    assert seen == []  # one atom cannot cancel
    near = known.norm("(base + x) - (base + 0.999999*x) + 0.0000001*y + 1000000*x - 1000000*x")
    assert near > 0
    assert seen == []  # nor what cancels exactly, before it is measured


def test_what_cancels_in_the_products_is_measured_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, generator=generator, dtype=torch.float64)
    step = torch.randn(1000, generator=generator, dtype=torch.float64)
    for name, size in (("a", 0.0), ("b", 1e-6)):
        save_file({"w": values + size * step}, tmp_path / name, {"format": "taskalg", "x": name})
    zero = {"w": torch.zeros(1000, dtype=torch.float64)}
    save_file(zero, tmp_path / "base")
    base = ta.checkpoint(tmp_path / "base", name="base")
    known = ta.geometry({name: ta.task(tmp_path / name, base, name=name) for name in "ab"})
    seen = count_reads(monkeypatch)
    wanted = math.sqrt(math.fsum(((values + 1e-6 * step) - values).square().tolist()))
    assert known.norm("b - a") == pytest.approx(wanted, rel=1e-14)
    assert seen
    assert (known.norms.sum() / wanted) ** 2 > CANCELS
    del seen[:]
    assert known.norm("b - 0.9*a") > 0
    assert not seen


# ---- Parts


@pytest.mark.parametrize("level", ["layer", "module", "tensor"])
def test_parts_add_up_to_the_whole(zoo: Path, level: str) -> None:
    bound = recipes(zoo)
    found = ta.geometry([bound["x"], bound["y"], bound["x"][0:1]])
    parts = found.by(level)
    assert sum(part.gram for part in parts) == pytest.approx(found.gram, rel=1e-14)
    assert sorted(t for part in parts for t in part.tensors) == sorted(SHAPES)
    assert sum(part.elements for part in parts) == found.whole.elements
    assert np.array_equal(np.sum([part.both for part in parts], axis=0), found.whole.both)


def test_parts_are_called_as_people_call_them(zoo: Path) -> None:
    found = ta.geometry([recipes(zoo)["x"]])
    assert [p.name for p in found.by("layer")] == ["layers.0", "layers.1", "outside layers"]
    assert {p.name for p in found.by("module")} == {t.removesuffix(".w") for t in SHAPES}
    assert {p.name for p in found.by("tensor")} == {*SHAPES}
    with pytest.raises(ta.UsageError, match="layer, module or tensor"):
        found.by("block")


# ---- Other sorts of vectors


def test_models_without_a_base_are_vectors_too(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {n: ta.checkpoint(zoo / f"{n}.safetensors", name=n) for n in ("x", "y")}
    found = ta.geometry(models)
    seen = count_reads(monkeypatch)
    wanted = exact(zoo, {"x": 1, "y": -1})
    assert found.norm("x - y") == math.sqrt(product(wanted, wanted))  # an atom
    assert found.norm("y - x") == found.norm("x - y")
    assert seen == []


def test_of_adapters_only_factors_are_read(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    modules = {"one": ["layers.0.q", "layers.1.q"], "two": ["layers.0.q"]}
    names = {name: f"{name}.weight" for name in modules["one"]}
    save_file({n: torch.randn(40, 30, generator=generator) for n in names.values()}, tmp_path / "b")
    dense: dict[str, dict[str, torch.Tensor]] = {}
    for adapter, adapted in modules.items():
        dense[adapter] = {name: torch.zeros(40, 30, dtype=torch.float64) for name in names}
        state = {}
        for module in adapted:
            a, b = torch.randn(4, 30, generator=generator), torch.randn(40, 4, generator=generator)
            state[f"base_model.model.{module}.lora_A.weight"] = a
            state[f"base_model.model.{module}.lora_B.weight"] = b
            dense[adapter][module] = 2 * (b.double() @ a.double())
        write(tmp_path / adapter, state, r=4, lora_alpha=8)
    base = ta.checkpoint(tmp_path / "b", name="base")
    one, two = (ta.task(tmp_path / name, base, name=name) for name in modules)
    found = ta.geometry({"one": one, "two": two})
    assert found.bytes_read == 3 * 4 * (4 * 30 + 40 * 4)
    flat = {name: torch.cat([t.ravel() for t in dense[name].values()]) for name in dense}
    wanted = [[float(x @ y) for y in flat.values()] for x in flat.values()]
    assert found.gram == pytest.approx(np.array(wanted), rel=1e-12)
    assert found.norm("one - two") == pytest.approx(float((flat["one"] - flat["two"]).norm()))
    assert [part.norms[1] for part in found.by("layer")] == [pytest.approx(found.norms[1]), 0]


def test_only_shared_leaves_out_what_not_all_have(tmp_path: Path) -> None:
    save_file(made("x", torch.float32), tmp_path / "x")
    save_file({"head.w": torch.ones(SHAPES["head.w"]), "more": torch.ones(3)}, tmp_path / "y")
    x, y = (ta.checkpoint(tmp_path / name, name=name) for name in "xy")
    with pytest.raises(ta.MismatchError):
        ta.geometry([x, y])
    assert ta.geometry([x, y], only_shared=True).whole.tensors == ("head.w",)


def test_a_state_dict_is_measured_anew_each_time(zoo: Path) -> None:
    state = made("x", torch.float32)
    vector = ta.checkpoint(state, name="x")
    before = ta.geometry([vector]).norms[0]
    state["head.w"] *= 2
    after = ta.geometry([vector])
    assert not after.cached
    assert after.norms[0] > before
    answers = Answers()
    assert answers.number(ta.norm(vector)).value == after.norms[0]
    state["head.w"] *= 2
    assert answers.number(ta.norm(vector)).value > after.norms[0]


def test_scalars_and_nothing_are_no_vectors(zoo: Path) -> None:
    with pytest.raises(ta.KindError, match="a scalar is no vector"):
        ta.geometry({"s": ta.ramp(0, 1)})
    with pytest.raises(ta.UsageError, match="no vectors"):
        ta.geometry({})
    x = recipes(zoo)["x"]
    with pytest.raises(ta.UsageError, match="given twice"):
        ta.geometry([x, x])


@pytest.mark.parametrize("vectors", ["path", Path("path"), None, 3, ["path"], {"x": 3}, "recipe"])
def test_what_is_no_recipe_is_no_vector(zoo: Path, vectors: Any) -> None:
    given: Any = recipes(zoo)["x"] if vectors == "recipe" else vectors
    with pytest.raises(ta.UsageError, match=r"recipes? in a list|is a recipe") as told:
        ta.geometry(given)
    assert told.value.note is not None and told.value.help is not None
    with pytest.raises(ta.UsageError, match="found int"):
        ta.geometry(recipes(zoo)).norm(3)  # type: ignore[arg-type]


def test_what_was_measured_is_readable_at_the_prompt(small: Path) -> None:
    base = ta.checkpoint("base.safetensors", name="base")
    tasks = {name: ta.task(f"{name}.safetensors", base, name=name) for name in "xy"}
    found = ta.geometry(tasks)
    assert repr(found) == str(found) == GOLDEN.rstrip("\n")
    assert repr(found.by("layer")[0]) == "Part(layers.0: 4 elements, norms 5, 5.099)"
    assert repr(found.whole) == "Part(all: 10 elements, norms 11.18, 11.4)"


def test_a_vector_may_hold_measured_scalars(zoo: Path) -> None:
    bound = recipes(zoo)
    x, y = bound["x"], bound["y"]
    found = ta.geometry({"x": x, "r": y - ta.dot(x, y) / ta.dot(x, x) * x, "u": x / ta.norm(x)})
    assert found.cosines[0, 1] == pytest.approx(0, abs=1e-12)
    assert found.norms[2] == pytest.approx(1, rel=1e-12)


# ---- What was measured before


def test_nothing_is_read_twice(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ta.geometry(recipes(zoo))
    assert not first.cached
    seen = count_reads(monkeypatch)
    again = ta.geometry(recipes(zoo))
    assert again.cached
    assert seen == []
    assert np.array_equal(first.gram, again.gram)
    assert np.array_equal(first.agreement, again.agreement)
    assert (again.bytes_read, again.seconds) == (first.bytes_read, first.seconds)
    assert not ta.geometry(recipes(zoo), cache=False).cached
    assert seen


def test_a_changed_file_is_measured_again(tmp_path: Path) -> None:
    for name in NAMES:
        save_file(made(name, torch.float32), tmp_path / f"{name}.safetensors")
    first = ta.geometry(recipes(tmp_path))
    state = made("x", torch.float32)
    state["head.w"][0, 0] += 1
    save_file(state, tmp_path / "x.safetensors")
    again = ta.geometry(recipes(tmp_path))
    assert not again.cached
    assert again.norms[1] != first.norms[1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: b"\0" * len(content),
    ],
    ids=["empty", "short", "one bit", "zeros"],
)
def test_a_damaged_result_is_measured_again(
    zoo: Path, no_earlier_results: Path, damage: Callable[[bytes], bytes]
) -> None:
    first = ta.geometry(recipes(zoo))
    (path,) = no_earlier_results.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    again = ta.geometry(recipes(zoo))
    assert not again.cached
    assert np.array_equal(first.gram, again.gram)
    assert ta.geometry(recipes(zoo)).cached  # mended


def test_a_vector_that_is_zero_is_not_missed_in_what_was_kept(zoo: Path) -> None:
    base = ta.checkpoint(zoo / "base.safetensors", name="base")
    zero = ta.task(zoo / "base.safetensors", base, name="zero")
    x = recipes(zoo)["x"]
    alone = ta.geometry({"x": x})
    beside = ta.geometry({"x": x, "zero": zero})
    assert beside.norms.tolist() == [*alone.norms.tolist(), 0.0]


def test_a_folder_that_cannot_be_written_is_no_error(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TASKALG_CACHE", str(tmp_path / "file"))
    assert not ta.geometry(recipes(zoo)).cached
    monkeypatch.setenv("TASKALG_CACHE", "off")
    assert Store.of_user().folder is None
    assert not ta.geometry(recipes(zoo)).cached


def test_the_store_forgets_what_was_not_used_for_longest(
    zoo: Path, no_earlier_results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = recipes(zoo)
    ta.geometry([bound["x"]])
    (oldest,) = no_earlier_results.iterdir()
    os.utime(oldest, (1, 1))
    monkeypatch.setattr("taskalg.measuring.store._LARGEST", 2 * oldest.stat().st_size)
    ta.geometry([bound["y"]])
    assert oldest.exists()
    ta.geometry([bound["z"]])
    assert not oldest.exists()
    assert len(list(no_earlier_results.iterdir())) == 2


def _measure_in_process(folder: str, cache: str) -> list[list[float]]:
    os.environ["TASKALG_CACHE"] = cache
    gram: list[list[float]] = ta.geometry(recipes(Path(folder))).gram.tolist()
    return gram


def test_processes_may_race(zoo: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        grams = pool.starmap(_measure_in_process, [(str(zoo), str(tmp_path / "c"))] * 4)
    assert all(gram == grams[0] for gram in grams)
    assert grams[0] == ta.geometry(recipes(zoo)).gram.tolist()
    assert [path.suffix for path in (tmp_path / "c" / "products").iterdir()] == [".gram"]


def test_answers_measure_once_and_say_what_it_took(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = recipes(zoo)
    x, y, z = (bound[name] for name in "xyz")
    answers = Answers()
    first = answers.number(ta.cos(x, y - x))
    assert first.told.startswith("measured in one pass over 3 checkpoints, 0.")
    assert first.told.endswith(" s; kept")
    seen = count_reads(monkeypatch)
    later = answers.number(ta.norm(x + y) / ta.norm(x) + 1)
    assert (later.told, seen) == ("", [])
    assert later.value == pytest.approx(float(ta.norm(x + y)) / float(ta.norm(x)) + 1, rel=1e-12)
    del seen[:]
    assert Answers().number(ta.cos(x, y - x)) == type(first)(first.value, "")
    assert seen == []
    assert answers.number(ta.norm(z)).told
    assert answers.number(ta.ramp(0, 1) * 0 + 3).value == 3
    with pytest.raises(ta.MismatchError):
        answers.number(ta.cos(x - x, y))


def test_canceling_leaves_nothing_behind(zoo: Path, no_earlier_results: Path) -> None:
    def cancel(progress: ta.Progress) -> None:
        assert progress.doing == "measuring"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ta.geometry(recipes(zoo), progress=cancel)
    assert not no_earlier_results.exists()


# ---- Commands


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    values = {"base": [0.0, 0.0, 1.0, 2.0], "x": [3.0, 4.0, 1.0, 2.0], "y": [4.0, -3.0, 1.0, 3.0]}
    for name, numbers in values.items():
        one = torch.tensor(numbers)
        state = {"embed.w": torch.ones(2), "layers.0.w": one, "layers.1.w": 2 * one}
        save_file(state, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BOUND = ["--base", "base.safetensors", "--task", "x=x.safetensors", "--task", "y=y.safetensors"]


def run(*args: str, code: int = 0) -> Any:
    result = CliRunner().invoke(main, list(args))
    assert result.exit_code == code, result.output
    return result


GOLDEN = """\
           x       y
norm   11.18   11.40

cosine        x        y
x        1.0000   0.0000
y        0.0000   1.0000

signs agree         x         y
x             100.0 %    50.0 %
y              50.0 %   100.0 %

3 tensors, 10 elements
"""


def test_geometry_prints_norms_cosines_and_signs(small: Path) -> None:
    result = run("geometry", *BOUND)
    assert result.stdout == GOLDEN
    assert result.stderr.startswith("read 120 B · ")
    again = run("geometry", *BOUND)
    assert again.stdout == GOLDEN
    assert again.stderr == "from the cache; no data read\n"
    assert run("geometry", *BOUND, "--no-cache", "--quiet").stderr == ""


PARTS = """\
layer                x   -y + x   cos(x, -y + x)
layers.0         5.000    7.141           0.7001
layers.1         10.00    14.28           0.7001
outside layers       0        0              NaN
"""


def test_geometry_of_expressions_by_layer(small: Path) -> None:
    result = run("geometry", "x", "-y + x", *BOUND, "--by", "layer", "--quiet")
    assert result.stdout.endswith(PARTS)


def test_geometry_of_a_recipe_file_that_ends_with_no_sum(small: Path) -> None:
    text = (
        'base = checkpoint("base.safetensors")\ntoxic = task("x.safetensors")\nhalf = 0.5*toxic\n'
    )
    Path("zoo.ta").write_text(text, encoding="utf-8")
    found = json.loads(run("geometry", "-f", "zoo.ta", "--json").stdout)
    assert found["names"] == ["toxic"]
    asked = json.loads(run("geometry", "-f", "zoo.ta", "half", "--json", "--by", "tensor").stdout)
    assert asked["norms"] == [found["norms"][0] / 2]
    assert [part["norms"] for part in asked["parts"]] == [[0.0], [2.5], [5.0]]
    assert asked["parts"][0]["cosines"] == [[None]]


def test_diff_ranks_what_changed_most(small: Path) -> None:
    found = json.loads(run("diff", "base.safetensors", "y.safetensors", "--json").stdout)
    assert [part["name"] for part in found["parts"]] == ["layers.1.w", "layers.0.w", "embed.w"]
    assert found["parts"][0]["share"] == pytest.approx(0.8)
    assert found["parts"][1] == {
        "name": "layers.0.w",
        "norm": math.sqrt(26),
        "relative": math.sqrt(26) / math.sqrt(5),
        "share": pytest.approx(0.2),
        "elements": 4,
        "changed": 3,
        "tensors": 1,
        "unchanged": 0,
    }
    assert (found["tensors"], found["unchanged"]) == (3, 1)


DIFF = """\
layer       norm   relative      share   elements changed
layers.1   10.20   228.04 %    80.00 %            75.00 %
layers.0   5.099   228.04 %    20.00 %            75.00 %
and 1 more
all        11.40   219.43 %   100.00 %            60.00 %

1 of 3 tensors are unchanged
"""


def test_diff_prints_a_table(small: Path) -> None:
    args = ("diff", "base", "base + y", *BOUND, "--by", "layer", "--top", "2", "--quiet")
    assert run(*args).stdout == DIFF


NOTHING_CHANGED = """\
tensor       norm   relative   share   elements changed
embed.w         0     0.00 %       -             0.00 %
layers.0.w      0     0.00 %       -             0.00 %
layers.1.w      0     0.00 %       -             0.00 %
all             0     0.00 %       -             0.00 %

3 of 3 tensors are unchanged
"""


@pytest.mark.parametrize(
    "pair",
    [["x.safetensors", "x.safetensors"], ["base", "base", *BOUND], ["base", "base + 0*y", *BOUND]],
    ids=["paths", "names", "zero"],
)
def test_what_is_compared_with_itself_has_not_changed(small: Path, pair: list[str]) -> None:
    assert run("diff", *pair, "--quiet").stdout == NOTHING_CHANGED


def test_diff_says_that_integers_are_not_compared(small: Path) -> None:
    for name, number in (("a", 1), ("b", 2)):
        save_file({"n": torch.tensor([number])}, f"{name}.safetensors")
    told = run("diff", "a.safetensors", "b.safetensors", "--quiet").stdout
    assert told.endswith("\n0 of 0 tensors are unchanged\n1 of integers, not compared\n")
    assert "of integers" not in run("diff", "x.safetensors", "y.safetensors").stdout


def test_a_model_is_not_compared_with_a_task_vector(small: Path) -> None:
    for pair in (["base", "x"], ["x", "base"]):
        told = run("diff", *pair, *BOUND, code=2).stderr
        assert told.startswith("base is a model, x a task vector: they cannot be compared\n")
        assert told.endswith('help: compare base with "base + x"\n')
    run("diff", "x", "y", *BOUND)
    note = "note: base is a model, x and y are task vectors\n"
    assert run("geometry", "base", "x", "y", *BOUND).stderr.endswith(note)
    assert "note" not in run("geometry", "x", "y", *BOUND).stderr
    assert "note" not in run("geometry", "base", "base + x", *BOUND).stderr


def test_a_picture_says_where_it_is(small: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run("geometry", *BOUND, "--plot", "c.svg").stderr.startswith("wrote c.svg\n")
    assert run("geometry", *BOUND, "--plot", "c.svg", "--quiet").stderr == ""


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["geometry"], 2, "there are no vectors to measure"),
        (["geometry", "w", *BOUND], 2, "w"),
        (["geometry", *BOUND, "--by", "block"], 2, "block"),
        (["diff", "missing", "x.safetensors"], 4, "missing"),
        (["diff", "x.safetensors"], 2, "SECOND"),
        (["geometry", "x.safetensors"], 2, "help: give it a name: --model x=x.safetensors\n"),
        (["geometry", "zoo.ta"], 2, "help: write -f zoo.ta\n"),
        (["diff", "zoo.ta", "x.safetensors"], 2, "help: write -f zoo.ta\n"),
        (["merge", "zoo.ta", "-o", "out"], 2, "help: write -f zoo.ta\n"),
        (["geometry", "x,", "y", *BOUND], 2, "a space is between expressions"),
        (["geometry", "x", "-", "y", *BOUND], 2, 'put each expression in quotes: "x - y"'),
        (["geometry", "--task", "a/x.safetensors"], 2, "help: write --task x=a/x.safetensors\n"),
    ],
)
def test_mistakes_are_told(small: Path, args: list[str], code: int, words: str) -> None:
    Path("zoo.ta").write_text("2*base\n", encoding="utf-8")
    assert words in run(*args, code=code).stderr


def test_what_is_no_number_is_a_note(small: Path) -> None:
    state = {"embed.w": torch.tensor([1.0, math.nan]), "layers.0.w": torch.ones(4)}
    state["layers.1.w"] = torch.ones(4)
    save_file(state, "x.safetensors")
    result = run("geometry", *BOUND)
    assert "NaN" in result.stdout
    assert 'note: NaN or Inf, or too large for binary64, in "embed.w"' in result.stderr.replace(
        "'", '"'
    )
