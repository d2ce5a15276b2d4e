"""What the program of the paper computes, mlfoundations/task_vectors, is what is computed here.

There a task vector is a dict: for each tensor of the pre-trained model that is neither int64 nor
uint8, fine-tuned minus pre-trained. Vectors are negated and added, and `apply_to` adds λ times one
to the pre-trained model, whose other tensors stay. The class below does the same in binary64. It
rounds after each operation, and so may end on the other side of a midpoint: what is stored here is
therefore compared to half a unit in the last place of the dtype, and where binary64 is exact, to
the bit.

Counters (BatchNorm has one) are the donor's here: the base's, as there, unless the base cancels.
Then the base is not read, and `donor="base"` asks for what is done there.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import example, given
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
    assert merged.keys() == expected.keys()
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
HALF = Fraction(1, 2)


# ---- Laws


@given(seeds, dtypes, coefficients)
@example([0, 1, 2], torch.bfloat16, Fraction(0))
@example([0, 1, 2], torch.bfloat16, HALF)  # the base cancels
@examples(100)
def test_sums_are_those_of_task_vectors(
    seeds: list[int], dtype: torch.dtype, strength: Fraction
) -> None:
    base, *tuned = (model(seed, dtype) for seed in seeds)
    donor = "base" if strength * len(tuned) == 1 else None
    merged = recipe(sum_of(len(tuned)), base, tuned, λ=strength).state_dict(donor=donor)
    expected = summed(base, tuned, float(strength))
    assert differing(merged, expected, [base, *tuned]) == []
    assert all(tensor.dtype == base[key].dtype for key, tensor in merged.items())


@given(seeds, dtypes, coefficients)
@example([0, 1], torch.float16, Fraction(-1))  # the base cancels
@examples(50)
def test_negation_is_that_of_task_vectors(
    seeds: list[int], dtype: torch.dtype, strength: Fraction
) -> None:
    base, tuned = (model(seed, dtype) for seed in seeds[:2])
    donor = "base" if strength == -1 else None
    merged = recipe("base + λ*(-t0)", base, [tuned], λ=strength).state_dict(donor=donor)
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


def layers() -> torch.nn.Sequential:
    first, last = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 3)
    return torch.nn.Sequential(first, torch.nn.BatchNorm2d(4), last)


def network(seed: int, steps: int, start: Weights | None = None) -> Weights:
    """Train a small convolutional network with BatchNorm on random pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trained = layers()
        if start is not None:
            trained.load_state_dict(start)
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            trained(torch.randn(8, 3, 8, 8)).square().mean().backward()
            optimizer.step()
    return {key: tensor.detach().clone() for key, tensor in trained.state_dict().items()}


@pytest.fixture(scope="module")
def networks() -> dict[str, Weights]:
    base = network(0, steps=2)
    return {"base": base} | {f"t{i}": network(i + 1, 3 + i, base) for i in range(3)}


@pytest.fixture
def folder(tmp_path: Path, networks: Mapping[str, Weights]) -> Path:
    for name, weights in networks.items():
        save_file(weights, tmp_path / f"{name}.safetensors")
    return tmp_path


def vectors(networks: Mapping[str, Weights]) -> list[TaskVector]:
    base, *tuned = networks.values()
    return [TaskVector.between(base, one) for one in tuned]


# An expression, and the vector that `apply_to` gets with 0.3
OPERATIONS: dict[str, Callable[[TaskVector, TaskVector, TaskVector], TaskVector]] = {
    "base - 0.3*t0": lambda a, b, c: -a,
    "base + 0.3*(t0 + t1 + t2)": lambda a, b, c: a + b + c,
    "base + 0.3*analogy(t0, t1, t2)": lambda a, b, c: c + b + -a,
}


def files(folder: Path) -> list[Path]:
    return [folder / f"{name}.safetensors" for name in ("base", "t0", "t1", "t2")]


def saved(expression: str, folder: Path) -> Weights:
    base, *tasks = files(folder)
    recipe(expression, base, tasks).save(folder / "merged.safetensors")
    return load_file(folder / "merged.safetensors")


def typed(expression: str, folder: Path) -> Weights:
    out = folder / "typed.safetensors"
    base, *tasks = files(folder)
    named = [f"--task={path.stem}={path}" for path in tasks]
    done = CliRunner().invoke(main, ["merge", expression, f"--base={base}", *named, "-o", str(out)])
    assert done.exit_code == 0, done.output
    return load_file(out)


def in_memory(expression: str, folder: Path) -> Weights:
    base, *tasks = (load_file(path) for path in files(folder))
    return recipe(expression, base, tasks).state_dict()


@pytest.mark.parametrize("expression", OPERATIONS)
@pytest.mark.parametrize("door", [saved, typed, in_memory])
def test_networks_are_merged_likewise_through_every_door(
    door: Any, expression: str, folder: Path, networks: dict[str, Weights]
) -> None:
    base, *tuned = networks.values()
    assert [int(one["1.num_batches_tracked"]) for one in tuned] == [5, 6, 7]
    merged = door(expression, folder)
    expected = OPERATIONS[expression](*vectors(networks)).apply_to(base, 0.3)
    assert differing(merged, expected, list(networks.values())) == []
    assert merged["1.num_batches_tracked"] == 2
    layers().load_state_dict(merged)


# ---- Where it goes another way


MISMATCHES = {  # each a name that the message must have, and that name's tensor in the fine-tuned
    "missing": ("2.bias", None),  # a KeyError there, or a warning when vectors are added
    "extra": ("3.weight", torch.ones(2)),  # dropped there
    "another shape": ("2.bias", torch.ones(1)),  # broadcast there
}


@pytest.mark.parametrize("kind", MISMATCHES)
def test_what_does_not_match_is_told(kind: str, networks: dict[str, Weights]) -> None:
    name, tensor = MISMATCHES[kind]
    others = {key: kept for key, kept in networks["t0"].items() if key != name}
    tuned = others if tensor is None else others | {name: tensor}
    with pytest.raises(ta.MismatchError, match=re.escape(name)):
        recipe("base + 0.5*t0", networks["base"], [tuned]).state_dict()


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.bool])
def test_other_integers_stay_as_well(dtype: torch.dtype) -> None:
    """They are subtracted there; of bool, that is a RuntimeError."""
    base, tuned = ({"w": torch.ones(2), "n": torch.tensor([1, n]).to(dtype)} for n in (0, 1))
    merged = recipe("base + 3*t0", base, [tuned]).state_dict()
    assert merged["n"].dtype == dtype
    assert torch.equal(merged["n"], base["n"])


def test_a_base_that_cancels_is_not_read_and_gives_no_counters(networks: Any) -> None:
    """The sum is the fine-tuned model then: a copy, counters and all."""
    merged = recipe("base + t0", networks["base"], [networks["t0"]]).state_dict()
    assert all(torch.equal(merged[key], tensor) for key, tensor in networks["t0"].items())
    expected = summed(networks["base"], [networks["t0"]], 1)
    wrong = differing(merged, expected, [networks["base"], networks["t0"]])
    assert wrong == ["1.num_batches_tracked"]
    asked = recipe("base + t0", networks["base"], [networks["t0"]]).state_dict(donor="base")
    assert differing(asked, expected, [networks["base"], networks["t0"]]) == []


def test_vectors_have_coefficients_and_can_be_subtracted(networks: dict[str, Weights]) -> None:
    """There only a whole sum has one, and `C + B - A` is a TypeError."""
    base, a, b, c = networks.values()
    merged = recipe("base + 0.75*t2 + 0.5*(t1 - t0)", base, [a, b, c]).state_dict()
    first, second, third = vectors(networks)
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
