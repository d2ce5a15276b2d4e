"""What the program of the paper computes, mlfoundations/task_vectors, is what is computed here.

There a task vector is a dict: for each tensor of the pre-trained model that is neither int64 nor
uint8, fine-tuned minus pre-trained. Vectors are negated and added, and `apply_to` adds λ times one
to the pre-trained model, whose other tensors stay. The class below does the same in binary64. It
rounds after each operation, and so may end on the other side of a midpoint: what is stored here is
therefore compared to half a unit in the last place of the dtype, and where binary64 is exact, to
the bit.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import taskalg as ta
from taskalg.cli.main import main
from tests.strategies import examples

Weights = dict[str, torch.Tensor]
SKIPPED = (torch.int64, torch.uint8)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SHAPES = {"scalar": (), "none": (0, 3), "vector": (7,), "matrix": (5, 3), "kernel": (2, 3, 3, 3)}


class TaskVector:
    """Fine-tuned minus pre-trained, in binary64."""

    def __init__(self, vector: Weights) -> None:
        self.vector = vector

    @classmethod
    def between(cls, pretrained: Weights, finetuned: Weights) -> "TaskVector":
        return cls(
            {
                key: finetuned[key].double() - tensor.double()
                for key, tensor in pretrained.items()
                if tensor.dtype not in SKIPPED
            }
        )

    def __neg__(self) -> "TaskVector":
        return TaskVector({key: -tensor for key, tensor in self.vector.items()})

    def __add__(self, other: "TaskVector") -> "TaskVector":
        return TaskVector({key: self.vector[key] + other.vector[key] for key in self.vector})

    def apply_to(self, pretrained: Weights, scaling_coef: float) -> Weights:
        moved = {key: pretrained[key].double() + scaling_coef * v for key, v in self.vector.items()}
        return pretrained | moved


def summed(pretrained: Weights, finetuned: Sequence[Weights], scaling_coef: float) -> Weights:
    first, *rest = (TaskVector.between(pretrained, one) for one in finetuned)
    for vector in rest:
        first = first + vector
    return first.apply_to(pretrained, scaling_coef)


def differing(merged: Weights, expected: Weights, inputs: Sequence[Weights]) -> list[str]:
    """Return the tensors that are further than half a unit from what was computed in binary64.

    Args:
        merged: as stored.
        expected: in binary64; tensors that were skipped have their own dtype.
        inputs: of which sums were made; what binary64 rounded away is in proportion to them.
    """
    assert list(merged) == list(expected)
    wrong = []
    for key, tensor in expected.items():
        if tensor.dtype in SKIPPED:
            same = merged[key].dtype == tensor.dtype and torch.equal(merged[key], tensor)
        else:
            form = torch.finfo(merged[key].dtype)
            size = torch.stack([one[key].double().abs() for one in inputs]).sum(0)
            exponent = torch.frexp(tensor.abs().clamp(min=form.smallest_normal)).exponent
            unit = form.eps * 2.0 ** (exponent - 1)
            far = (merged[key].double() - tensor).abs() - unit / 2
            same = merged[key].shape == tensor.shape and bool((far <= 2**-46 * size).all())
        if not same:
            wrong.append(key)
    return wrong


def model(seed: int, dtype: torch.dtype) -> Weights:
    """Return random tensors of several shapes, and two kinds of counters."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()
    }
    counters = torch.randint(0, 256, (4,), generator=generator)
    return weights | {"seen": counters[0].clone(), "bytes": counters.to(torch.uint8)}


def recipe(expression: str, base: Any, tasks: Sequence[Any], **scalars: Fraction) -> ta.Recipe:
    named = {f"t{index}": task for index, task in enumerate(tasks)}
    return ta.compile(expression, base=base, tasks=named, set=scalars)


def sum_of(count: int) -> str:
    return f"base + λ*({' + '.join(f't{index}' for index in range(count))})"


dtypes = st.sampled_from(DTYPES)
seeds = st.lists(st.integers(0, 10**6), min_size=2, max_size=6, unique=True)
coefficients = st.fractions(-2, 2, max_denominator=100)


# ---- Laws


@given(seeds, dtypes, coefficients)
@examples(100)
def test_sums_are_those_of_task_vectors(
    seeds: list[int], dtype: torch.dtype, strength: Fraction
) -> None:
    base, *tuned = (model(seed, dtype) for seed in seeds)
    assume(strength * len(tuned) != 1)  # see below
    merged = recipe(sum_of(len(tuned)), base, tuned, λ=strength).state_dict()
    expected = summed(base, tuned, float(strength))
    assert differing(merged, expected, [base, *tuned]) == []
    assert all(tensor.dtype == base[key].dtype for key, tensor in merged.items())


@given(seeds, dtypes, coefficients)
@examples(50)
def test_negation_is_that_of_task_vectors(
    seeds: list[int], dtype: torch.dtype, strength: Fraction
) -> None:
    base, tuned = (model(seed, dtype) for seed in seeds[:2])
    assume(strength != -1)
    merged = recipe("base + λ*(-t0)", base, [tuned], λ=strength).state_dict()
    expected = (-TaskVector.between(base, tuned)).apply_to(base, float(strength))
    assert differing(merged, expected, [base, tuned]) == []


@given(st.lists(st.integers(-64, 64), min_size=8, max_size=8), st.integers(-8, 8))
@examples(50)
def test_where_binary64_is_exact_the_bits_are_the_same(values: list[int], eighths: int) -> None:
    numbers = torch.tensor(values, dtype=torch.float32) / 16
    base, *tuned = ({"w": part} for part in numbers.reshape(4, 2))
    merged = recipe(sum_of(3), base, tuned, λ=Fraction(eighths, 8)).state_dict()
    assert torch.equal(merged["w"].double(), summed(base, tuned, eighths / 8)["w"])


# ---- Networks


def network(seed: int, steps: int, start: Weights | None = None) -> Weights:
    """Train a small convolutional network with BatchNorm on random pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 3)
        )
        if start is not None:
            layers.load_state_dict(start)
        optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            layers(torch.randn(8, 3, 8, 8)).square().mean().backward()
            optimizer.step()
    return {key: tensor.detach().clone() for key, tensor in layers.state_dict().items()}


@pytest.fixture(scope="module")
def networks() -> dict[str, Weights]:
    base = network(0, steps=2)
    return {"base": base} | {f"t{i}": network(i + 1, 3 + i, base) for i in range(3)}


@pytest.fixture
def folder(tmp_path: Path, networks: Mapping[str, Weights]) -> Path:
    for name, weights in networks.items():
        save_file(weights, tmp_path / f"{name}.safetensors")
    return tmp_path


def saved(folder: Path) -> Weights:
    tasks = [folder / f"t{index}.safetensors" for index in range(3)]
    made = recipe(sum_of(3), folder / "base.safetensors", tasks, λ=Fraction(3, 10))
    made.save(folder / "merged.safetensors")
    return load_file(folder / "merged.safetensors")


def typed(folder: Path) -> Weights:
    out = folder / "typed.safetensors"
    names = [f"--task=t{index}={folder}/t{index}.safetensors" for index in range(3)]
    command = ["merge", "base + 0.3*(t0 + t1 + t2)", f"--base={folder}/base.safetensors", *names]
    done = CliRunner().invoke(main, [*command, "-o", str(out)])
    assert done.exit_code == 0, done.output
    return load_file(out)


def in_memory(folder: Path) -> Weights:
    base, *tasks = (
        load_file(folder / f"{name}.safetensors") for name in ("base", "t0", "t1", "t2")
    )
    return recipe(sum_of(3), base, tasks, λ=Fraction(3, 10)).state_dict()


@pytest.mark.parametrize("door", [saved, typed, in_memory])
def test_networks_are_merged_likewise_through_every_door(
    door: Any, folder: Path, networks: dict[str, Weights]
) -> None:
    base, *tuned = networks.values()
    assert [int(one["1.num_batches_tracked"]) for one in tuned] == [5, 6, 7]
    merged = door(folder)
    expected = dict(sorted(summed(base, tuned, 0.3).items()))
    assert differing(dict(sorted(merged.items())), expected, list(networks.values())) == []
    assert merged["1.num_batches_tracked"] == 2
    torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 3)
    ).load_state_dict(merged)


# ---- Where it goes another way


def test_a_tensor_that_was_not_fine_tuned_is_told_and_not_dropped(networks: Any) -> None:
    """A KeyError there, or a warning when vectors are added."""
    tuned = {key: tensor for key, tensor in networks["t0"].items() if key != "2.bias"}
    with pytest.raises(ta.TaskalgError, match=r"2\.bias"):
        recipe("base + 0.5*t0", networks["base"], [tuned]).state_dict()


def test_a_tensor_of_another_shape_is_told_and_not_broadcast(networks: Any) -> None:
    tuned = networks["t0"] | {"2.bias": torch.ones(1)}
    with pytest.raises(ta.TaskalgError, match=r"2\.bias"):
        recipe("base + 0.5*t0", networks["base"], [tuned]).state_dict()


def test_a_base_that_cancels_is_not_read_and_gives_no_counters(networks: Any) -> None:
    """The sum is the fine-tuned model then: a copy, counters and all."""
    merged = recipe("base + t0", networks["base"], [networks["t0"]]).state_dict()
    assert all(torch.equal(merged[key], tensor) for key, tensor in networks["t0"].items())
    expected = summed(networks["base"], [networks["t0"]], 1)
    wrong = differing(merged, expected, [networks["base"], networks["t0"]])
    assert wrong == ["1.num_batches_tracked"]


def test_vectors_have_coefficients_and_can_be_subtracted(networks: dict[str, Weights]) -> None:
    """There only a whole sum has one, and `C + B - A` is a TypeError."""
    base, a, b, c = networks.values()
    merged = recipe("base + 0.75*t2 + 0.5*(t1 - t0)", base, [a, b, c]).state_dict()
    first, second, third = (TaskVector.between(base, one) for one in (a, b, c))
    half = TaskVector({key: t / 2 for key, t in (second + -first).vector.items()})
    most = TaskVector({key: 0.75 * t for key, t in third.vector.items()})
    expected = (most + half).apply_to(base, 1)
    assert differing(merged, expected, [base, a, b, c]) == []


# ---- What is compared can differ


@pytest.mark.parametrize("change", ["λ", "element", "counter", "dtype of a counter"])
def test_a_difference_is_found(change: str, networks: dict[str, Weights]) -> None:
    base, *tuned = networks.values()
    merged = recipe(sum_of(3), base, tuned, λ=Fraction(3, 10)).state_dict()
    expected = summed(base, tuned, 0.3)
    if change == "λ":
        expected = summed(base, tuned, 0.3001)
    elif change == "element":
        bias = merged["2.bias"]
        bias[0] = torch.nextafter(bias[0], bias[0] + 1)
    elif change == "counter":
        merged["1.num_batches_tracked"] += 1
    else:
        merged["1.num_batches_tracked"] = merged["1.num_batches_tracked"].to(torch.int32)
    assert differing(merged, expected, list(networks.values()))
