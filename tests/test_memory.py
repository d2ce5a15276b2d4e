"""State dicts and modules in memory: they give the bytes that files give, and are not changed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import taskalg as ta
from taskalg.checkpoints.memory import open_memory

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn)
EXPRESSION = "base + 0.3*(ft - base)"


def weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"w": (70, 33), "b": (33,), "s": (), "none": (0, 4)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: value.to(dtype) for name, value in state.items()} | {"n": torch.arange(5)}


def merged(folder: Path, base: Any, ft: Any, **options: Any) -> bytes:
    recipe = ta.compile(EXPRESSION, base=base, models={"ft": ft})
    recipe.save(folder / "out.safetensors", overwrite=True, **options)
    return (folder / "out.safetensors").read_bytes()


def on_disk(folder: Path, name: str, state: dict[str, torch.Tensor]) -> Path:
    save_file({key: value.contiguous() for key, value in state.items()}, folder / name)
    return folder / name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_a_state_dict_gives_the_bytes_of_its_file(
    tmp_path: Path, dtype: torch.dtype, engine: str
) -> None:
    base, ft = weights(1, dtype), weights(2, dtype)
    files = [on_disk(tmp_path, f"{i}.safetensors", state) for i, state in enumerate((base, ft))]
    wanted = merged(tmp_path, *files, engine=engine, donor="ft")
    ordered = {name: ft[name] for name in open_names(files[1])}  # files are sorted by dtype
    assert merged(tmp_path, base, ordered, engine=engine, donor="ft") == wanted
    assert merged(tmp_path, files[0], ordered, engine=engine, donor="ft") == wanted


def open_names(path: Path) -> list[str]:
    return list(ta.checkpoint(path, name="x").resolved.terms[0][0].checkpoint.tensors)  # type: ignore[union-attr]


def test_numpy_arrays_and_views_are_read_as_they_are(tmp_path: Path) -> None:
    base, ft = weights(1), weights(2)
    wanted = merged(tmp_path, base, ft)
    as_arrays = {name: value.numpy() for name, value in base.items()}
    assert merged(tmp_path, as_arrays, ft) == wanted
    turned = {n: v.t().contiguous().t() if v.dim() == 2 else v for n, v in base.items()}
    assert not turned["w"].is_contiguous()
    assert merged(tmp_path, turned, ft) == wanted


def test_tensors_are_not_copied_and_not_changed(tmp_path: Path) -> None:
    base, ft = weights(1), weights(2)
    before = {name: value.clone() for name, value in base.items()}
    checkpoint = open_memory(base)
    spec = checkpoint.tensors["w"]
    assert checkpoint.arrays[spec.shard].address == base["w"].data_ptr()
    merged(tmp_path, base, ft)
    assert all(torch.equal(base[name], before[name]) for name in base)


@given(st.integers(1, 7), st.integers(0, 3))
def test_an_odd_address_is_no_obstacle(rows: int, offset: int) -> None:
    memory = np.arange(rows * 4 * 4 + offset, dtype=np.uint8)
    odd = np.ndarray((rows, 4), np.float32, memory[offset:].data)
    checkpoint = open_memory({"w": odd})
    assert checkpoint.arrays[0].address % 8 == 0
    assert checkpoint.arrays[0].content.tobytes() == odd.tobytes()


def test_a_module_is_its_state_dict(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, ft = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    assert merged(tmp_path, base, ft) == merged(tmp_path, base.state_dict(), dict(ft.state_dict()))
    recipe = ta.checkpoint(base, name="base")
    assert recipe == ta.checkpoint(base, name="other")  # one module is one checkpoint
    assert str(ta.task(ft, recipe, name="t") + recipe) == "base + t"


def test_two_state_dicts_are_two_checkpoints() -> None:
    state = weights(1)
    copy = {name: value.clone() for name, value in state.items()}
    assert ta.checkpoint(state, name="a") != ta.checkpoint(copy, name="b")


def test_the_same_tensors_under_other_names_are_another_checkpoint() -> None:
    state = {"a": torch.arange(2.0), "b": torch.arange(2.0) + 7}
    swapped = {"a": state["b"], "b": state["a"]}
    shorter = {name: value[:1] for name, value in state.items()}
    half = ta.compile("0.5*x + 0.5*y", models={"x": state, "y": swapped}).state_dict()
    assert half["a"].tolist() == half["b"].tolist() == [3.5, 4.5]
    for other in (swapped, shorter):
        assert ta.checkpoint(state, name="x") != ta.checkpoint(other, name="y")


def test_what_reads_and_writes_is_reported(tmp_path: Path) -> None:
    recipe = ta.compile(EXPRESSION, base=weights(1), models={"ft": weights(2)})
    plan = recipe.plan()
    report = recipe.save(tmp_path / "out.safetensors")
    assert report.bytes_read == plan.bytes_read > 0
    assert "<dict>" in str(recipe.explain())


def cut_off() -> torch.Tensor:
    tensor = torch.zeros(100)
    tensor.untyped_storage().resize_(4)
    return tensor


class Odd(dict[Any, Any]):
    """A mapping that is no dict of tensors."""


BAD: dict[str, tuple[Any, str]] = {
    "no tensor": ({"w": [1.0, 2.0]}, "'w' of <dict> is no tensor but of type list"),
    "a number": ({"epoch": 3}, "'epoch' of <dict> is no tensor but of type int"),
    "complex": ({"w": torch.zeros(2, dtype=torch.complex64)}, "a tensor of dtype torch.complex64"),
    "sparse": ({"w": torch.eye(2).to_sparse()}, "layout sparse_coo"),
    "elsewhere": (
        {"w": torch.zeros(2, device="meta")},
        "is on the device meta, which holds no numbers",
    ),
    "lazy": ({"w": torch.nn.UninitializedParameter()}, "cannot be read: Attempted to use an"),
    "without memory": ({"w": cut_off()}, "cannot be read: setStorage"),
    "key": ({3: torch.zeros(2)}, "has the name 3, which is no string"),
    "quantized": ({"a.qweight": torch.zeros(2)}, "holds quantized tensors"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_in_place_is_told(case: str) -> None:
    state, words = BAD[case]
    with pytest.raises(ta.CheckpointError) as caught:
        ta.checkpoint(state, name="x")
    assert words in str(caught.value)
    assert caught.value.exit_code == 4


IMAGINARY = torch.view_as_complex(torch.arange(24.0).reshape(4, 3, 2)).conj().imag
VIEWS: dict[str, Any] = {
    "negative": (IMAGINARY, -torch.arange(1.0, 24, 2).reshape(4, 3)),
    "a part of complex numbers": (torch.complex(torch.ones(3), torch.zeros(3)).real, torch.ones(3)),
    "expanded": (torch.ones(1, 3).expand(4, 3), torch.ones(4, 3)),
    "turned": (torch.arange(6.0).reshape(2, 3).t(), torch.tensor([[0.0, 3], [1, 4], [2, 5]])),
    "every other": (torch.arange(6.0)[1::2], torch.tensor([1.0, 3, 5])),
    "trained": (torch.nn.Parameter(torch.ones(2)), torch.ones(2)),
    "a number": (torch.tensor(2.0), torch.tensor(2.0)),
    "nothing": (torch.empty(0, 3), torch.empty(0, 3)),
    "flags": (torch.tensor([True, False]), torch.tensor([True, False])),
    "integers": (torch.arange(9, dtype=torch.int8)[::3], torch.tensor([0, 3, 6]).to(torch.int8)),
    "backwards": (np.arange(4.0)[::-1], torch.tensor([3.0, 2, 1, 0]).double()),
    "a NumPy number": (np.float32(2), torch.tensor(2.0)),
}


@pytest.mark.parametrize("case", VIEWS)
def test_views_are_read_as_what_they_show(case: str) -> None:
    value, plain = VIEWS[case]
    checkpoint = open_memory({"w": value})
    assert checkpoint.tensors["w"].shape == tuple(plain.shape)
    assert checkpoint.arrays[0].content.tobytes() == plain.numpy().tobytes()


def test_a_module_with_tied_parameters_and_buffers(tmp_path: Path) -> None:
    def made(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
        module[1].weight = module[0].weight
        module.register_buffer("steps", torch.arange(4))
        module.register_buffer("scratch", torch.ones(2), persistent=False)
        return module

    one, two = made(1), made(2)
    merged(tmp_path, one, two)
    found = load_file(tmp_path / "out.safetensors")
    states = [{n: v.clone() for n, v in module.state_dict().items()} for module in (one, two)]
    paths = [on_disk(tmp_path, f"{i}.safetensors", state) for i, state in enumerate(states)]
    merged(tmp_path, *paths)
    expected = load_file(tmp_path / "out.safetensors")
    assert found.keys() == expected.keys() == states[0].keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_the_name_of_something_in_memory() -> None:
    assert ta.checkpoint(torch.nn.Linear(2, 2)).resolved.terms[0][0].name == "Linear"
    assert ta.checkpoint(Odd(weights(1))).resolved.terms[0][0].path == "<Odd>"


# ---- On a device


class OnDevice(torch.Tensor):
    """A tensor that says it is on a device, and refuses what only the host's can do."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda:0")

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert a tensor on a device to numpy")


def on_device(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.as_subclass(OnDevice) for name, value in state.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_on_a_device_give_the_bytes_of_those_on_the_host(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    base, ft = weights(1, dtype), weights(2, dtype)
    wanted = merged(tmp_path, base, ft)
    assert merged(tmp_path, on_device(base), ft) == wanted
    assert merged(tmp_path, on_device(base), on_device(ft)) == wanted


def test_a_checkpoint_tells_where_its_tensors_are(tmp_path: Path) -> None:
    base = weights(1)
    assert open_memory(base).devices == {"cpu"}
    assert open_memory(on_device(base)).devices == {"cuda:0"}
    path = on_disk(tmp_path, "base.safetensors", base)
    (operand, _), *_ = ta.checkpoint(path, name="x").resolved.terms
    assert operand.checkpoint is not None and operand.checkpoint.devices == frozenset()


def test_an_array_gives_its_tensor_where_it_is() -> None:
    base = weights(1)
    for state in (base, on_device(base), {n: v.numpy() for n, v in base.items()}):
        checkpoint = open_memory(state)
        flat = checkpoint.arrays[checkpoint.tensors["w"].shard].tensor()
        assert flat.data_ptr() == base["w"].data_ptr()
        assert (flat.dtype, tuple(flat.shape)) == (torch.uint8, (4 * 70 * 33,))
    fixed = np.ones(3, np.float32)
    fixed.flags.writeable = False
    flat = open_memory({"w": fixed}).arrays[0].tensor()
    flat[:] = 0
    assert fixed.sum() == 3


def test_what_is_on_a_device_is_copied_by_range() -> None:
    (array,) = open_memory(on_device({"w": torch.arange(10, dtype=torch.uint8)})).arrays
    assert array.view(2, 3) is None
    into = np.zeros(3, np.uint8)
    array.read(2, into)
    assert into.tolist() == [2, 3, 4]
