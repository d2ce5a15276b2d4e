"""Arithmetic with adapters, from the expression to the file, against exact rationals and PEFT."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import taskalg
from taskalg import KindError, MismatchError, Recipe, files
from taskalg.checkpoints.orientation import turned
from taskalg.checkpoints.registry import open_checkpoint
from tests import oracle
from tests.oracle import FORMATS, Tensor, Tensors
from tests.strategies import examples
from tests.test_lora import MEANT, bert, gpt2, llama, merged, trained, write, zeros

NAME = "layers.0.q.weight"
KEY = f"base_model.model.{NAME.removesuffix('.weight')}"
TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


@dataclass(frozen=True)
class Adapter:
    """Factors of one weight, as the numbers that are stored."""

    a: list[list[Fraction]]
    b: list[list[Fraction]]
    alpha: float
    dtypes: tuple[str, str]
    turned: bool

    @property
    def scale(self) -> float:
        return self.alpha / len(self.a)

    def element(self, row: int, column: int) -> Fraction:
        """Evaluate the definition in base.py, one rounding after the other."""
        row, column = (column, row) if self.turned else (row, column)
        total = Fraction(0)
        for k, right in enumerate(self.a):
            total = Fraction(float(self.b[row][k] * right[column] + total))
        return Fraction(float(total * Fraction(self.scale)))

    def write(self, folder: Path) -> None:
        parts = zip(("lora_A", "lora_B"), (self.a, self.b), self.dtypes, strict=True)
        factors = {
            f"{KEY}.{part}.weight": torch.tensor(
                [[float(value) for value in row] for row in rows], dtype=TORCH[dtype]
            )
            for part, rows, dtype in parts
        }
        config = {"r": len(self.a), "lora_alpha": self.alpha, "fan_in_fan_out": self.turned}
        write(folder, factors, **config)


def numbers(dtype: str) -> st.SearchStrategy[Fraction]:
    """Numbers of a dtype, none of them zero, of magnitudes like weights'."""
    form = FORMATS[dtype]
    low, high = (oracle.encode(Fraction(2) ** e, form) for e in (-9, 5))
    sizes = st.integers(low, high).map(lambda pattern: oracle.magnitude(pattern, form))
    return st.builds(lambda size, sign: size * sign, sizes, st.sampled_from((1, -1)))


def matrix(dtype: str, rows: int, columns: int) -> st.SearchStrategy[list[list[Fraction]]]:
    row = st.lists(numbers(dtype), min_size=columns, max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows)


@st.composite
def adapters(draw: st.DrawFn, rows: int, columns: int) -> Adapter:
    dtypes = draw(st.tuples(*[st.sampled_from(sorted(TORCH))] * 2))
    rank, is_turned = draw(st.integers(1, 3)), draw(st.booleans())
    height, width = (columns, rows) if is_turned else (rows, columns)
    return Adapter(
        draw(matrix(dtypes[0], rank, width)),
        draw(matrix(dtypes[1], height, rank)),
        draw(st.integers(1, 40) | st.floats(0.125, 32)),
        dtypes,
        is_turned,
    )


@st.composite
def merges(draw: st.DrawFn) -> tuple[Tensor, list[Adapter], list[Fraction]]:
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    dtype = draw(st.sampled_from(sorted(TORCH)[:3]))  # without F64, which is not rounded once
    base = draw(matrix(dtype, *shape))
    form = FORMATS[dtype]
    patterns = [oracle.encode(value, form) for row in base for value in row]
    data = b"".join(pattern.to_bytes(form.width, "little") for pattern in patterns)
    parts = draw(st.lists(adapters(*shape), min_size=1, max_size=3))
    coefficients = st.fractions(-3, 3, max_denominator=20)
    return Tensor(dtype, shape, data), parts, [draw(coefficients) for _ in parts]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


def compiled(folder: Path, text: str, names: list[str]) -> Recipe:
    paths = {"base": folder / "base.safetensors"} | {name: folder / name for name in names}
    return taskalg.compile(text, models={name: paths[name] for name in ["base", *names]})


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@given(merge=merges())
@examples(60)
def test_adapters_add_their_products_and_the_sum_is_rounded_once(
    shared: Path, engine: str, merge: tuple[Tensor, list[Adapter], list[Fraction]]
) -> None:
    base, parts, coefficients = merge
    oracle.write_file(shared / "base.safetensors", {NAME: base}, {})
    names = [f"s{number}" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        part.write(shared / name)
    terms = [f"({c})*{name}" for c, name in zip(coefficients, names, strict=True)]
    out = shared / "out.safetensors"
    text = " + ".join(["base", *terms])
    compiled(shared, text, names).save(out, engine=engine, overwrite=True, on_overflow="warn")

    form, (_, columns) = FORMATS[base.dtype], base.shape
    expected = []
    for index, pattern in enumerate(base.patterns):
        total = oracle.decode(pattern, form)
        for coefficient, part in zip(coefficients, parts, strict=True):
            total += coefficient * part.element(*divmod(index, columns))
        expected.append(oracle.encode(total, form))
    assert oracle.read_file(out)[NAME].patterns == expected


@pytest.mark.parametrize("threads", [1, 3])
def test_large_products_are_cut_into_blocks(tmp_path: Path, threads: int) -> None:
    rng = np.random.default_rng(0)
    shape, rank = (300, 3001), 5
    base, a, b = (
        rng.normal(size=size).astype(np.float32) for size in (shape, (rank, 3001), (300, rank))
    )
    safetensors.torch.save_file({NAME: torch.tensor(base)}, tmp_path / "base.safetensors")
    factors = {f"{KEY}.lora_A.weight": torch.tensor(a), f"{KEY}.lora_B.weight": torch.tensor(b)}
    write(tmp_path / "style", factors, r=rank, lora_alpha=1)
    recipe = compiled(tmp_path, "base - 2*style", ["style"])
    report = recipe.save(tmp_path / "out.safetensors", threads=threads)
    assert report.bytes_read == 4 * (base.size + a.size + b.size) == recipe.plan().bytes_read
    found = safetensors.torch.load_file(tmp_path / "out.safetensors")[NAME].numpy()
    expected = base - 2 / 5 * (b.astype(np.float64) @ a.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)


# ---- What is not needed is not read


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the folders of files that are opened for reading."""
    found: list[str] = []
    real = files.open_input

    def open_input(path: Any) -> int:
        found.append(Path(path).parent.name)
        return real(path)

    monkeypatch.setattr(files, "open_input", open_input)
    return found


@pytest.mark.parametrize("text", ["base + style - style", "base + 0*style", "base + (s - s)/3"])
def test_an_adapter_that_cancels_is_never_opened_for_data(
    tmp_path: Path, opened: list[str], text: str
) -> None:
    base = {NAME: Tensor("F32", (4, 3), bytes(range(48)))}
    oracle.write_file(tmp_path / "base.safetensors", base, {})
    write(tmp_path / "style")
    write(tmp_path / "s")
    recipe = compiled(tmp_path, text, ["style", "s"])
    recipe.plan()
    opened.clear()
    report = recipe.save(tmp_path / "out.safetensors")
    assert opened == [tmp_path.name]
    assert (report.bytes_read, report.bytes_copied) == (48, 48)
    assert oracle.read_file(tmp_path / "out.safetensors") == base


def test_an_adapter_minus_itself_is_nothing(tmp_path: Path) -> None:
    write(tmp_path / "style")
    recipe = taskalg.compile("style - style", models={"style": tmp_path / "style"})
    with pytest.raises(KindError, match="nothing is left"):
        recipe.save(tmp_path / "out.safetensors")


# ---- Models


def saved(recipe: Recipe, out: Path) -> dict[str, Any]:
    recipe.save(out)
    tensors = safetensors.torch.load_file(out / "model.safetensors")
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


WHOLE_MODELS = {key: case for key, case in MEANT.items() if case[0].__name__ != "Convolutions"}


@pytest.mark.parametrize(("make", "options"), WHOLE_MODELS.values(), ids=WHOLE_MODELS)
def test_a_merge_is_the_one_peft_makes(
    tmp_path: Path, make: Callable[[], Any], options: dict[str, Any]
) -> None:
    _, adapted = trained(make(), tmp_path, **options)
    recipe = taskalg.compile(
        "base + style", models={"base": tmp_path / "base", "style": tmp_path / "style"}
    )
    assert recipe.kind is taskalg.Kind.MODEL
    found, expected = saved(recipe, tmp_path / "out"), merged(adapted)
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-7, atol=1e-7, err_msg=name)


def test_what_an_adapter_stores_whole_replaces_the_base_s_bit_for_bit(tmp_path: Path) -> None:
    trained(bert(), tmp_path, target_modules=["query"], modules_to_save=["pooler"])
    paths = {"base": tmp_path / "base", "style": tmp_path / "style"}
    taskalg.compile("base + style", models=paths).save(tmp_path / "out")
    stored = safetensors.torch.load_file(tmp_path / "style" / "adapter_model.safetensors")
    found = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    base = safetensors.torch.load_file(tmp_path / "base" / "model.safetensors")
    whole = [name for name in stored if "lora" not in name]
    assert len(whole) == 2
    for name in whole:
        assert torch.equal(found[name.removeprefix("base_model.model.")], stored[name])
    halves = taskalg.compile("base + style/2", models=paths)
    halves.save(tmp_path / "half")
    half = safetensors.torch.load_file(tmp_path / "half" / "model.safetensors")
    for name in whole:
        key = name.removeprefix("base_model.model.")
        middle = (base[key].double() + stored[name].double()) / 2
        assert torch.equal(half[key], middle.float())


def headed(folder: Path, number: float) -> None:
    """Write an adapter whose product is zero, and that stores a head of its own."""
    factors = {f"{KEY}.lora_A.weight": zeros(2, 3), f"{KEY}.lora_B.weight": zeros(4, 2)}
    head = {"base_model.model.head.weight": torch.full((2,), number)}
    write(folder, {**factors, **head}, modules_to_save=["head"])


@pytest.mark.parametrize("names", [("one", "two"), ("two", "one")])
def test_an_adapter_s_base_may_be_a_model_with_another_adapter(
    names: tuple[str, str], tmp_path: Path
) -> None:
    inner, outer = names  # neither order of their names is that of the bases
    headed(tmp_path / inner, 5.0)
    headed(tmp_path / outer, 9.0)
    base = {NAME: zeros(4, 3), "head.weight": torch.full((2,), 1.0)}
    start = f'{inner} = task("{tmp_path / inner}")\n'
    start += f'{outer} = task("{tmp_path / outer}", base + {inner})\n'
    heads = {
        text: taskalg.compile(start + text, base=base).state_dict()["head.weight"][0].item()
        for text in (f"base + {inner}", f"base + {outer}", f"base + {inner} + {outer}")
    }
    assert list(heads.values()) == [5, 1 + (9 - 5), 9]


def test_means_differences_and_analogies_of_adapters(tmp_path: Path) -> None:
    options: dict[str, Any] = {"target_modules": ["q_proj", "up_proj"], "modules_to_save": ["norm"]}
    deltas, paths = {}, {"base": tmp_path / "one" / "base"}
    for seed, name in enumerate(("one", "two", "three")):
        torch.manual_seed(9)
        state, adapted = trained(llama(), tmp_path / name, seed=seed, **options)
        after = merged(adapted)
        deltas[name] = {key: after[key] - state[key].double().numpy() for key in after}
        paths[name] = tmp_path / name / "style"
    base = {key: tensor.double().numpy() for key, tensor in state.items()}
    rows = {
        "base + mean(one, two, three)": (1 / 3, 1 / 3, 1 / 3),
        "base + one - two": (1, -1, 0),
        "base - 0.5*(one + two) + 2*three": (-0.5, -0.5, 2),
    }
    for number, (text, row) in enumerate(rows.items()):
        found = saved(taskalg.compile(text, models=paths), tmp_path / f"out{number}")
        for key, tensor in found.items():
            parts = zip(row, deltas.values(), strict=True)
            expected = base[key] + sum(c * delta[key] for c, delta in parts)
            np.testing.assert_allclose(tensor, expected, rtol=1e-6, atol=2e-6, err_msg=key)


def test_an_adapter_alone_is_written_dense(tmp_path: Path) -> None:
    write(tmp_path / "style", None, lora_alpha=4)
    recipe = taskalg.compile("-0.5*style", models={"style": tmp_path / "style"})
    assert recipe.kind is taskalg.Kind.TASK_VECTOR
    recipe.save(tmp_path / "out.safetensors")
    found = oracle.read_file(tmp_path / "out.safetensors")
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == {
        NAME: ("F32", (4, 3))
    }
    assert oracle.read_metadata(tmp_path / "out.safetensors")["taskalg"] == "task-vector"


def test_beside_its_base_an_adapter_alone_has_the_base_s_names(tmp_path: Path) -> None:
    write(tmp_path / "style")
    shapes = {"head": (2, 2), NAME: (4, 3)}
    write_base(tmp_path / "base", shapes)
    paths = {"base": tmp_path / "base", "style": tmp_path / "style"}
    vector = taskalg.compile("-0.5*style", base=paths["base"], tasks={"style": paths["style"]})
    report = vector.save(tmp_path / "vector")
    assert report.plan.operands[report.plan.donor].name == "base"
    found = oracle.read_file(tmp_path / "vector" / "model.safetensors")
    assert {name: tensor.shape for name, tensor in found.items()} == shapes
    assert not any(found["head"].data)
    again = taskalg.compile("base + v", models=paths | {"v": tmp_path / "vector"})
    again.save(tmp_path / "again")  # so that it fits wherever the base does


def test_adapters_of_different_weights_add_to_one_task_vector(tmp_path: Path) -> None:
    write(tmp_path / "one")
    other = {f"{KEY[:-1]}v.lora_A.weight": zeros(2, 3), f"{KEY[:-1]}v.lora_B.weight": zeros(5, 2)}
    write(tmp_path / "two", other)
    paths = {name: tmp_path / name for name in ("one", "two")}
    taskalg.compile("one + two", models=paths).save(tmp_path / "out.safetensors")
    shapes = {n: t.shape for n, t in oracle.read_file(tmp_path / "out.safetensors").items()}
    assert shapes == {NAME: (4, 3), "layers.0.v.weight": (5, 3)}


def test_an_adapter_of_another_model_does_not_fit(tmp_path: Path) -> None:
    write(tmp_path / "style")
    for name, shape in ((NAME, (4, 4)), ("layers.0.k.weight", (4, 3))):
        data = bytes(4 * shape[0] * shape[1])
        oracle.write_file(tmp_path / "base.safetensors", {name: Tensor("F32", shape, data)}, {})
        with pytest.raises(MismatchError):
            compiled(tmp_path, "base + style", ["style"]).plan()


# ---- Which way round


def write_base(folder: Path, shapes: dict[str, tuple[int, int]], kind: str | None = None) -> None:
    tensors: Tensors = {
        name: Tensor("F32", shape, bytes(4 * shape[0] * shape[1])) for name, shape in shapes.items()
    }
    folder.mkdir()
    oracle.write_file(folder / "model.safetensors", tensors, {})
    (folder / "config.json").write_text(json.dumps({"model_type": kind} if kind else {}))


def factors(**shapes: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Return factors of modules, each `(out, in)`."""
    found = {}
    for module, (rows, columns) in shapes.items():
        key = f"base_model.model.{module.replace('__', '.')}"
        found[f"{key}.lora_A.weight"] = zeros(2, columns)
        found[f"{key}.lora_B.weight"] = zeros(rows, 2)
    return found


TURNS: dict[str, tuple[dict[str, Any], str | None, bool, bool | str]] = {
    # factors, kind of model, what the config says, what is right for the square h.c_proj
    "as it says": ({"h__c_proj": (4, 4)}, "llama", False, False),
    "as it says, turned": ({"h__c_proj": (4, 4)}, None, True, True),
    "as the model has it": ({"h__c_proj": (4, 4), "lm_head": (9, 4)}, "gpt2", False, True),
    "as its namesake": ({"h__c_proj": (4, 4), "mlp__c_proj": (4, 6)}, None, False, True),
    "as its namesake, not turned": (
        {"h__c_proj": (4, 4), "lm_head": (9, 4)},
        None,
        False,
        False,
    ),
    "nobody knows": ({"h__c_proj": (4, 4), "h__c_attn": (12, 4)}, None, False, "h.c_attn.weight"),
}
TURNED = {"h.c_attn.weight", "mlp.c_proj.weight"}


@pytest.mark.parametrize(("modules", "kind", "said", "right"), TURNS.values(), ids=TURNS)
def test_a_square_product_lies_as_its_model_has_it(
    tmp_path: Path, modules: dict[str, Any], kind: str | None, said: bool, right: bool | str
) -> None:
    write(tmp_path / "style", factors(**modules), fan_in_fan_out=said)
    shapes = {f"{module.replace('__', '.')}.weight": shape for module, shape in modules.items()}
    shapes |= {name: shape[::-1] for name, shape in shapes.items() if name in TURNED}
    write_base(tmp_path / "base", shapes, kind)
    adapter, base = (open_checkpoint(tmp_path / name) for name in ("style", "base"))
    if isinstance(right, str):
        with pytest.raises(MismatchError, match=rf"'h.c_proj.weight' lies\n.*for '{right}'"):
            turned(adapter, base)
        return
    found = turned(adapter, base)
    assert {name: spec.shape for name, spec in found.tensors.items()} == shapes
    for name, spec in found.tensors.items():
        assert spec.factors is not None
        assert spec.factors.transposed == (right if name == "h.c_proj.weight" else name in TURNED)


def test_an_adapter_of_gpt2_fits_the_hub_s_names(tmp_path: Path) -> None:
    state, adapted = trained(gpt2(), tmp_path, target_modules=["c_attn", "c_proj"])
    names = {name: name.removeprefix("transformer.") for name in state if name != "lm_head.weight"}
    hub = {new: state[name].contiguous() for name, new in names.items()}
    safetensors.torch.save_file(hub, tmp_path / "hub.safetensors")
    paths = {"base": tmp_path / "hub.safetensors", "style": tmp_path / "style"}
    taskalg.compile("base + style", models=paths).save(tmp_path / "out.safetensors")
    found = safetensors.torch.load_file(tmp_path / "out.safetensors")
    expected = merged(adapted)
    for name, new in names.items():
        np.testing.assert_allclose(found[new].numpy(), expected[name], rtol=1e-6, atol=1e-6)
