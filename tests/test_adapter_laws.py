"""Random models, adapters and expressions: the bytes are those of a straightforward oracle.

The oracle knows an adapter as base.py defines it: every element of a product is a chain of rounded
multiply-adds, what an adapter stores whole stands for itself less the base's, and a sum is exact
until it is rounded once.
"""

import itertools
import json
import random
from collections.abc import Mapping
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
from taskalg.running.blocks import cut
from taskalg.running.execute import output_layouts
from tests import oracle
from tests.oracle import FORMATS, Tensor, Tensors
from tests.strategies import examples

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
SHAPES = {
    "emb.weight": (5, 3),
    "layers.0.q.weight": (4, 6),
    "layers.1.q.weight": (4, 6),
    "layers.1.up.weight": (7, 2),
    "head.weight": (2, 3),
}
LINEAR = [name for name in SHAPES if name.startswith("layers")]
SCALES = [(8, None), (1, None), (16, None), (0.5, None), (3, True)]  # lora_alpha, use_rslora
SELECTORS = ["", "[~1:]", '["layers.*"]', "[0]", '["*.up.*", "emb.*"]']


def selected(selector: str, name: str) -> bool:
    layer = int(name.split(".")[1]) if name.startswith("layers") else None
    return {
        "": True,
        "[~1:]": layer != 1,
        '["layers.*"]': layer is not None,
        "[0]": layer == 0,
        '["*.up.*", "emb.*"]': ".up." in name or name.startswith("emb"),
    }[selector]


Values = dict[str, list[Fraction]]  # elements by tensor, row by row


@dataclass(frozen=True)
class Made:
    """An adapter's or a model's numbers."""

    values: Values
    whole: frozenset[str] = frozenset()  # of an adapter: those from which the base's are taken


def numbers(rng: random.Random, dtype: str, count: int) -> list[Fraction]:
    """Return numbers of a dtype; some are zero, some far smaller than others."""
    form = FORMATS[dtype]
    sizes = [rng.choice([0.0, 2.0 ** rng.randint(-12, 3)]) * rng.gauss(0, 1) for _ in range(count)]
    patterns = [oracle.encode(Fraction(size), form) for size in sizes]
    return [Fraction(oracle.decode(pattern, form)) for pattern in patterns]


def as_torch(values: list[Fraction], dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    wide = torch.tensor([float(value) for value in values], dtype=torch.float64)
    return wide.to(TORCH[dtype]).reshape(shape)


def model(rng: random.Random, dtype: str, rows: int) -> tuple[Made, dict[str, torch.Tensor]]:
    shapes = SHAPES | {"emb.weight": (rows, 3)}
    values = {n: numbers(rng, dtype, shape[0] * shape[1]) for n, shape in shapes.items()}
    return Made(values), {n: as_torch(values[n], dtype, shapes[n]) for n in shapes}


def adapter(rng: random.Random, folder: Path) -> Made:
    """Write an adapter with products on some linear weights, and perhaps a head of its own."""
    rank, (alpha, rslora) = rng.randint(1, 9), rng.choice(SCALES)
    scale = alpha / (np.sqrt(rank) if rslora else rank)
    turned, values, stored = rng.random() < 0.3, {}, {}
    for name in rng.sample(LINEAR, rng.randint(1, len(LINEAR))):
        rows, columns = SHAPES[name][::-1] if turned else SHAPES[name]
        dtypes = rng.choices(["F32", "BF16", "F16"], k=2)
        a, b = numbers(rng, dtypes[0], rank * columns), numbers(rng, dtypes[1], rows * rank)
        key = f"base_model.model.{name.removesuffix('.weight')}"
        stored[f"{key}.lora_A.weight"] = as_torch(a, dtypes[0], (rank, columns))
        stored[f"{key}.lora_B.weight"] = as_torch(b, dtypes[1], (rows, rank))
        product = [
            chain(b[i * rank : (i + 1) * rank], a[j::columns], float(scale))
            for i, j in itertools.product(range(rows), range(columns))
        ]
        values[name] = (
            [product[j * columns + i] for i in range(columns) for j in range(rows)]
            if turned
            else product
        )
    whole = frozenset(["head.weight"] if rng.random() < 0.4 else [])
    for name in whole:
        values[name] = numbers(rng, "F32", 6)
        stored[f"base_model.model.{name}"] = as_torch(values[name], "F32", SHAPES[name])
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file(stored, folder / "adapter_model.safetensors")
    config: dict[str, Any] = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha}
    config |= {"use_rslora": bool(rslora), "fan_in_fan_out": turned, "modules_to_save": ["head"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return Made(values, whole)


def chain(lefts: list[Fraction], rights: list[Fraction], scale: float) -> Fraction:
    """Evaluate one element as base.py defines it, each step rounded to binary64."""
    total = Fraction(0)
    for left, right in zip(lefts, rights, strict=True):
        total = Fraction(float(total + left * right))
    return Fraction(float(total * Fraction(scale)))


@dataclass(frozen=True)
class Term:
    """One term of an expression: `coefficient * (name)selector`."""

    name: str
    coefficient: Fraction
    selector: str


def exact(base: Made, made: Mapping[str, Made], terms: list[Term]) -> Values:
    """Add terms to the base; a model's is `it - base`, an adapter's its own."""
    found = {name: list(values) for name, values in base.values.items()}
    for term in terms:
        operand = made[term.name]
        is_model = operand.values.keys() == base.values.keys()
        for name, values in operand.values.items():
            if not selected(term.selector, name):
                continue
            less = is_model or name in operand.whole
            for index, (value, old) in enumerate(
                zip(values, base.values[name], strict=name != "emb.weight")
            ):
                found[name][index] += term.coefficient * (value - old * less)
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("laws")


def rounded(values: list[Fraction], dtype: str) -> list[int]:
    patterns = [oracle.encode(value, FORMATS[dtype]) for value in values]
    sign = FORMATS[dtype].sign
    return [0 if pattern == sign else pattern for pattern in patterns]


def unsigned(tensor: Tensor) -> list[int]:
    """Return patterns with every zero positive: the sum above does not know a zero's sign."""
    sign = FORMATS[tensor.dtype].sign
    return [0 if pattern == sign else pattern for pattern in tensor.patterns]


@pytest.mark.parametrize(("engine", "threads"), [("cpu", 1), ("cpu", 3), ("reference", 2)])
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["F32", "BF16", "F16"]),
    output=st.sampled_from([None, "F32", "F64", "BF16", "F16"]),
)
@examples(30)
def test_models_and_adapters_add_up_exactly(
    shared: Path, engine: str, threads: int, seed: int, dtype: str, output: str | None
) -> None:
    rng = random.Random(seed)
    rows = rng.choice([5, 5, 7, 4])
    base, base_state = model(rng, dtype, 5)
    tuned, tuned_state = model(rng, rng.choice(["F32", "BF16"]), rows)
    made = {"ft": tuned} | {name: adapter(rng, shared / name) for name in ("s0", "s1", "s2")}
    paths: dict[str, Any] = {"base": base_state, "ft": tuned_state}
    for name, state in paths.items():
        if rng.random() < 0.5:
            safetensors.torch.save_file(state, shared / f"{name}.safetensors")
            paths[name] = shared / f"{name}.safetensors"
    terms = [
        Term(
            rng.choice(list(made)),
            Fraction(rng.randint(-30, 30) or 7, rng.choice([1, 10, 7, 16])),
            rng.choice(SELECTORS),
        )
        for _ in range(rng.randint(1, 4))
    ]
    if all(term.name == "ft" for term in terms):
        terms.append(Term("s0", Fraction(1), ""))
    text = " + ".join(["base", *(f"({t.coefficient})*{t.name}{t.selector}" for t in terms)])
    tasks = {name: paths.get(name, shared / name) for name in sorted({t.name for t in terms})}
    recipe = taskalg.compile(text, base=paths["base"], tasks=tasks)
    plan = recipe.plan(rows="common", donor="base")
    report = recipe.save(
        shared / "out.safetensors",
        engine=engine,
        threads=threads,
        rows="common",
        donor="base",
        dtype=output and output.lower(),
        overwrite=True,
        on_overflow="warn",
    )
    assert report.bytes_read == plan.bytes_read
    found: Tensors = oracle.read_file(shared / "out.safetensors")
    expected = exact(base, made, terms)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == (output or dtype)
        assert unsigned(tensor) == rounded(expected[name], tensor.dtype), (text, name)


@pytest.mark.parametrize("coefficient", [1, 2])
def test_a_product_alone_in_binary64_is_computed_not_copied(
    tmp_path: Path, coefficient: int
) -> None:
    """Its bytes are nowhere: one times it, in its own dtype, is no copy."""
    made = adapter(random.Random(1), tmp_path / "s")
    recipe = coefficient * taskalg.checkpoint(tmp_path / "s", name="s")
    report = recipe.save(tmp_path / "out.safetensors", dtype="f64")
    assert report.bytes_read == recipe.plan().bytes_read
    found = oracle.read_file(tmp_path / "out.safetensors")
    for name in LINEAR:
        if name in made.values:
            wanted = [coefficient * value for value in made.values[name]]
            assert unsigned(found[name]) == rounded(wanted, "F64")


# ---- Factors in memory


def large(folder: Path, rank: int) -> taskalg.Recipe:
    """A weight of six blocks, and an adapter for it."""
    folder.mkdir()
    key = f"base_model.model.{LINEAR[0].removesuffix('.weight')}"
    stored = {
        f"{key}.lora_A.weight": torch.ones(rank, 1000),
        f"{key}.lora_B.weight": torch.ones(1000, rank),
    }
    safetensors.torch.save_file(stored, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    base = {LINEAR[0]: torch.zeros(1000, 1000)}
    return taskalg.compile("base + s", base=base, tasks={"s": folder})


@pytest.mark.parametrize("there", [0, 1, 2_500_000, 3_999_999])
def test_a_run_that_goes_on_counts_the_pieces_that_are_left(tmp_path: Path, there: int) -> None:
    """Factors are dropped after the last of them."""
    plan = large(tmp_path / "s", 4).plan()
    layouts = output_layouts(plan, tmp_path / "out")
    (offset,) = layouts[0].offsets
    blocks = list(cut(plan, layouts, 2, [offset + there] if there else ()))
    pieces = [piece for block in blocks for piece in block.sources[1]]
    assert [piece.parts for piece in pieces] == [len(pieces)] * len(pieces)
    assert sum(piece.nbytes for piece in pieces) >= 2 * (4_000_000 - there)


def test_the_bound_on_memory_grows_with_the_factors_and_the_threads(tmp_path: Path) -> None:
    thin, thick = (large(tmp_path / str(rank), rank) for rank in (1, 101))
    for threads, copies in ((1, 2 + 2), (4, 5 + 8)):
        bounds = [recipe.explain(threads=threads).memory for recipe in (thin, thick)]
        assert bounds[1] - bounds[0] == copies * 8 * 100 * 2000
