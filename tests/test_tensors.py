"""Results in memory: the bytes that files would hold, and models written in place."""

import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import taskalg as ta
from taskalg.checkpoints.arrays import Array
from taskalg.language.nodes import Node
from taskalg.memory import loading
from taskalg.memory.resident import is_resident
from taskalg.running.reading import Inputs, Stored
from tests import oracle, strategies
from tests.oracle import Tensor, Tensors
from tests.strategies import examples, families, plain_sums
from tests.test_execute import bits, floats, integers, overflowing
from tests.test_execute import recipe as on_files
from tests.test_laws import expected_rows, in_files, on_disk, recipe_in
from tests.test_lora import gpt2, trained
from tests.test_memory import cut_off, on_device

State = dict[str, torch.Tensor]
CODES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I64": torch.int64,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
NAMES = {dtype: code for code, dtype in CODES.items()}


def seen(tensors: Any) -> Tensors:
    """Return torch tensors as the oracle has them, to the byte."""
    return {
        name: Tensor(NAMES[t.dtype], tuple(t.shape), content(t))
        for name, t in dict(tensors).items()
    }


def content(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def torch_of(tensor: Tensor) -> torch.Tensor:
    found = torch.tensor(list(tensor.data), dtype=torch.uint8).view(CODES[tensor.dtype])
    return found.reshape(tensor.shape)


def weights(seed: int, dtype: torch.dtype = torch.bfloat16) -> State:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"w": (70, 33), "v": (33, 70), "b": (33,), "s": (), "none": (0, 4)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: value.to(dtype) for name, value in state.items()} | {"n": torch.arange(5)}


def mixed(base: Any, ft: Any, text: str = "base + 0.3*(ft - base)") -> ta.Recipe:
    return ta.compile(text, base=base, models={"ft": ft})


def copied(state: State) -> State:
    return {name: value.clone() for name, value in state.items()}


@pytest.fixture(params=[None, 40, 5000], ids=["one window", "many windows", "some"])
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        monkeypatch.setattr("taskalg.memory.tensors.WINDOW", request.param)


@pytest.fixture(params=["streamed", "resident"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take the way of operands that are on a device, with the host for it, or the usual one."""
    is_resident = request.param == "resident"
    monkeypatch.setattr("taskalg.memory.resident.is_resident", lambda *a: is_resident)
    return str(request.param)


# ---- The same bytes as files


@examples(60)
@given(
    family=families(),
    node=plain_sums(2),
    block=st.sampled_from([1, 40, 600, 10**6]),
    window=st.sampled_from([1, 30, 300, 10**9]),
    dtype=st.sampled_from([None, "bf16", "f32"]),
)
def test_tensors_are_the_bytes_and_the_order_of_the_file(
    family: dict[str, Tensors], node: Node, block: int, window: int, dtype: str | None
) -> None:
    text = in_files(node)
    assume(any(expected_rows(text, list(strategies.NAMES)).values()))
    options: dict[str, Any] = {"allow_partial": True, "on_overflow": "warn", "dtype": dtype}
    with on_disk(family) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("taskalg.running.blocks.TARGET", block)
        patch.setattr("taskalg.memory.tensors.WINDOW", window)
        made = recipe_in(folder, text)
        made.save(folder / "out.safetensors", overwrite=True, **options)
        wanted = oracle.read_file(folder / "out.safetensors")
        found = seen(made.tensors(threads=3, **options))
        planned = [step.name for step in made.plan(allow_partial=True).tensors]
    assert found == wanted
    assert list(found) == planned


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("text", ["base + 0.3*(ft - base)", "ft - base", "base + 0*ft"])
@pytest.mark.usefixtures("windows", "way")
def test_a_state_dict_is_what_the_file_holds(tmp_path: Path, engine: str, text: str) -> None:
    made = mixed(weights(1), weights(2), text)
    made.save(tmp_path / "out.safetensors", engine=engine)
    wanted = load_file(tmp_path / "out.safetensors")
    assert seen(made.state_dict(engine=engine)) == seen(wanted)


@pytest.mark.usefixtures("way")
def test_tensors_that_are_zero_are_written_too(tmp_path: Path) -> None:
    state = {"a": floats("F32", 1, 2), "b": floats("F16", 3), "c": bits("F32", 0xFFFFFFFF)}
    made = on_files(tmp_path, '(ft - base)["a"]', base=state, ft=state | {"a": floats("F32", 2, 2)})
    found = seen(made.state_dict())
    made.save(tmp_path / "out.safetensors")
    assert found == oracle.read_file(tmp_path / "out.safetensors")
    assert not any(found["c"].data)


@pytest.mark.parametrize("text", ["base + 0.5*(ft - base)", "ft - base"])
@pytest.mark.parametrize("donor", ["base", "ft"])
@pytest.mark.usefixtures("windows", "way")
def test_common_rows_are_those_of_the_file(tmp_path: Path, text: str, donor: str) -> None:
    base = {"e": torch.randn(7, 5), "w": torch.randn(3)}
    ft = {"e": torch.randn(9, 5), "w": torch.randn(3)}
    made = mixed(base, ft, text)
    made.save(tmp_path / "out.safetensors", rows="common", donor=donor)
    found = made.state_dict(rows="common", donor=donor)
    assert seen(found) == seen(load_file(tmp_path / "out.safetensors"))


def test_only_shared_is_that_of_the_file(tmp_path: Path) -> None:
    base, ft = {"w": torch.ones(3), "own": torch.ones(2)}, {"w": torch.zeros(3)}
    found = mixed(base, ft).state_dict(only_shared=True)
    assert found["own"].tolist() == [1, 1]
    assert found["w"].tolist() == pytest.approx([0.7] * 3)


@pytest.mark.usefixtures("way")
def test_adapters_are_operands(tmp_path: Path) -> None:
    base = gpt2()
    base.save_pretrained(tmp_path / "base")
    for seed in (1, 2):
        trained(gpt2(), tmp_path / f"a{seed}", seed=seed)
    tasks = {"one": tmp_path / "a1" / "style", "two": tmp_path / "a2" / "style"}
    for text in ("base + 0.5*one - two", "one + two"):
        made = ta.compile(text, base=tmp_path / "base", tasks=tasks)
        made.save(tmp_path / "out.safetensors", overwrite=True)
        assert seen(made.state_dict()) == seen(load_file(tmp_path / "out.safetensors"))
    in_memory = ta.compile("base + 0.5*one - two", base=base, tasks=tasks)
    expected = ta.compile("base + 0.5*one - two", base=tmp_path / "base", tasks=tasks).state_dict()
    in_memory.load_into(base)
    for name, tensor in expected.items():
        assert torch.equal(base.state_dict()[name], tensor), name


@pytest.mark.usefixtures("way")
def test_every_tensor_has_memory_of_its_own() -> None:
    found = mixed(weights(1), weights(2)).state_dict()
    places = {t.untyped_storage().data_ptr() for t in found.values() if t.numel()}
    assert len(places) == len(found) - 1
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in found.values())


# ---- Errors, and what is kept


@pytest.mark.usefixtures("way")
def test_an_overflow_is_an_error_or_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = overflowing(tmp_path)
    with pytest.raises(ta.OverflowingError, match="tensor 'b' overflows f16"):
        made.state_dict(allow_partial=True)
    with caplog.at_level(logging.WARNING):
        found = made.state_dict(allow_partial=True, on_overflow="warn")
    assert caplog.messages == ["results overflow in 'b'"]
    assert seen(found)["b"] == bits("F16", 0x4000, 0x7C00)
    with pytest.raises(ta.UsageError, match="on_overflow is 'error' or 'warn'"):
        made.tensors(on_overflow="ignore")


@pytest.mark.parametrize("device", ["meta", "cuda:93", "nowhere"])
def test_a_device_that_cannot_be_used_is_told_at_once(device: str) -> None:
    with pytest.raises(ta.UsageError, match=device) as caught:
        mixed(weights(1), weights(2)).tensors(device=device)
    assert caught.value.help == 'write "cpu"'


def test_mistakes_are_told_before_the_first_tensor_is_asked_for() -> None:
    with pytest.raises(ta.KindError, match="nothing is left"):
        mixed(weights(1), weights(2), "base - base").tensors()
    with pytest.raises(ta.UsageError, match="no engine"):
        mixed(weights(1), weights(2)).tensors(engine="abacus")


@pytest.mark.usefixtures("way")
def test_nothing_is_kept_of_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskalg.memory.tensors.WINDOW", 5000)
    alive: list[weakref.ref[torch.Tensor]] = []
    for _, tensor in mixed(weights(1), weights(2)).tensors():
        assert not any(reference() is not None for reference in alive)
        alive.append(weakref.ref(tensor))
        del tensor


def open_files(under: Path = Path("/")) -> list[str]:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        return []
    links = [os.readlink(folder / name) for name in os.listdir(folder) if (folder / name).exists()]
    return [at for at in links if at.endswith(".safetensors") and at.startswith(str(under))]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux lists open files")
def test_files_stay_open_between_windows_and_are_closed_when_the_iterator_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskalg.memory.tensors.WINDOW", 8)
    both = {name: floats("F32", 1, 2) for name in "abcdef"}
    made = on_files(tmp_path, "(base + ft)/2", base=both, ft=both)
    found = made.tensors()
    next(found)
    next(found)
    assert len(open_files(tmp_path)) == 2
    found.close()  # type: ignore[attr-defined]
    assert open_files(tmp_path) == []
    assert len(made.state_dict()) == 6
    assert open_files(tmp_path) == []


@pytest.mark.usefixtures("way")
def test_inputs_that_are_to_be_equal_are_compared_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []

    def equal(self: Inputs, one: Stored, other: Stored) -> bool:
        compared.append(one.spec.name)
        return real(self, one, other)

    real = Inputs.equal
    monkeypatch.setattr(Inputs, "equal", equal)
    monkeypatch.setattr("taskalg.memory.tensors.WINDOW", 8)
    state = {"v": floats("F32", 1), "n": integers(1), "w": floats("F32", 2), "z": floats("F32", 2)}
    made = on_files(tmp_path, "(base + ft)/2", base=state, ft=state | {"n": integers(2)})
    assert seen(made.tensors())["n"] == integers(1)
    assert compared == ["n"]


# ---- Into a model


class Model(torch.nn.Module):
    """What a model may have besides plain weights."""

    steps: torch.Tensor
    inv_freq: torch.Tensor
    scratch: torch.Tensor

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(11, 6)
        self.inner = torch.nn.ModuleList([torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)])
        self.head = torch.nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.arange(3) + seed)
        self.register_buffer("inv_freq", torch.ones(3))
        self.register_buffer("scratch", torch.full((2,), float(seed)), persistent=False)
        self.to(dtype)


@pytest.mark.usefixtures("way")
def test_a_model_gets_what_a_file_would_hold_and_stays_tied(tmp_path: Path) -> None:
    made, model = mixed(Model(1), Model(2)), Model(3)
    made.save(tmp_path / "out.safetensors")
    wanted = load_file(tmp_path / "out.safetensors")
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    made.load_into(model)
    after = model.state_dict()
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == before
    assert seen(after) == seen(wanted)
    assert model.head.weight is model.embed.weight
    assert model.scratch.tolist() == [3, 3]


@pytest.mark.usefixtures("way")
def test_a_file_that_stores_a_tied_weight_once_is_enough(tmp_path: Path) -> None:
    paths: list[Any] = []
    for seed in (1, 2):
        state = Model(seed).state_dict()
        del state["head.weight"], state["inv_freq"]
        save_file({n: t.clone() for n, t in state.items()}, tmp_path / f"{seed}.safetensors")
        paths.append(tmp_path / f"{seed}.safetensors")
    model = Model(3)
    model.inv_freq.fill_(5)
    mixed(*paths).load_into(model)
    wanted = mixed(Model(1), Model(2)).state_dict()
    assert torch.equal(model.head.weight, wanted["embed.weight"])
    assert model.inv_freq.tolist() == [5, 5, 5]


@pytest.mark.usefixtures("way")
def test_two_values_for_one_weight_are_refused_before_anything_is_written() -> None:
    untied = copied(Model(2).state_dict())
    untied["head.weight"] += 1
    model, plain = Model(3), Model(1).state_dict()
    before = copied(model.state_dict())
    for text in ('base + (ft - base)["head*"]', "base + 0.5*(ft - base)"):
        with pytest.raises(ta.MismatchError, match=r"'head.weight' and 'embed.weight' are one"):
            mixed(plain, untied, text).load_into(model)
    assert seen(model.state_dict()) == seen(before)
    mixed(plain, untied, 'base + (ft - base)["*w*"]["inner*"]').load_into(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_result_is_rounded_once_to_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    tie = torch.tensor([1 + 2.0**-8 + 2.0**-32, 1 - 2.0**-12 - 2.0**-40, 3.0], dtype=torch.float64)
    model = {"w": torch.zeros(3, dtype=dtype)}
    made = ta.compile("a + (b - b2)", models={k: {"w": tie} for k in "a"} | other(tie))
    made.load_into(model)
    once = made.state_dict(dtype=str(dtype))["w"]
    assert seen(model) == seen({"w": once})
    twice = made.state_dict(dtype="f32")["w"].to(dtype)
    assert dtype != torch.bfloat16 or not torch.equal(twice, once)


def other(like: torch.Tensor) -> dict[str, State]:
    return {"b": {"w": torch.ones_like(like)}, "b2": {"w": torch.ones_like(like)}}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("way")
def test_a_model_s_tensors_may_have_dtypes_and_layouts_of_their_own(seed: int) -> None:
    base, ft = weights(1), weights(2)
    generator = torch.Generator().manual_seed(seed)
    dtypes = list(CODES.values())[5:]
    model: State = {}
    for name, value in base.items():
        dtype = dtypes[int(torch.randint(len(dtypes), (), generator=generator))]
        model[name] = value.to(dtype if value.is_floating_point() else value.dtype, copy=True)
        if value.dim() == 2 and seed % 2:
            model[name] = model[name].t().contiguous().t()
    model["b"] = torch.stack([model["b"]] * 2)[:, ::3][1].repeat_interleave(6)[: 33 * 2 : 2]
    assert not model["b"].is_contiguous()
    mixed(base, ft).load_into(model)
    for name, tensor in model.items():
        wanted = mixed(base, ft).state_dict(
            dtype=str(tensor.dtype) if tensor.is_floating_point() else None
        )
        assert content(tensor) == content(wanted[name]), name


def test_names_may_differ_by_one_prefix() -> None:
    wanted = mixed(Model(1), Model(2)).state_dict()
    for model in (
        torch.nn.ModuleDict({"model": Model(3)}),
        {f"a.b.{name}": tensor for name, tensor in Model(3).state_dict().items()},
    ):
        mixed(Model(1), Model(2)).load_into(model)
        state = model if isinstance(model, dict) else model.state_dict()
        for name, tensor in state.items():
            assert content(tensor) == content(wanted[name.split(".", name.count("a.b") + 1)[-1]])
    longer = {f"model.{name}": tensor for name, tensor in wanted.items()}
    plain = Model(3)
    ta.compile("x", models={"x": longer}).load_into(plain)
    assert seen(plain.state_dict()) == seen(wanted)


@pytest.mark.usefixtures("way")
def test_autograd_notices_and_parameters_stay_trainable() -> None:
    model = Model(3)
    frozen, weight = (layer.get_parameter("weight") for layer in model.inner)
    frozen.requires_grad_(False)
    loss, version = (weight**2).sum() + (frozen**2).sum(), weight._version
    mixed(Model(1), Model(2)).load_into(model)
    assert weight._version > version
    assert weight.requires_grad and weight.is_leaf and not frozen.requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, weight)
    turned = torch.nn.Parameter(torch.zeros(33, 70).t())
    state = weights(1) | {"w": turned}
    mixed(weights(1), weights(2)).load_into(state)
    assert turned._version > 0 and turned.requires_grad


@pytest.mark.usefixtures("way")
def test_tensors_of_inference_mode_are_written_too() -> None:
    with torch.inference_mode():
        state = copied(weights(1)) | {"w": torch.zeros(33, 70).t()}
    mixed(weights(1), weights(2)).load_into(state)
    wanted = mixed(weights(1), weights(2)).state_dict()
    assert torch.equal(state["v"], wanted["v"])


# ---- What is read may be what is written


@pytest.mark.parametrize("text", ["base + 0.3*(ft - base)", "ft + 0*base", "2*base - ft"])
@pytest.mark.usefixtures("windows", "way")
def test_a_model_may_be_an_operand_of_its_own_result(text: str) -> None:
    base, ft = Model(1, torch.bfloat16), Model(2, torch.bfloat16)
    wanted = mixed(base, ft, text).state_dict()
    mixed(base, ft, text).load_into(base)
    assert seen(base.state_dict()) == seen(wanted)
    mixed(ft, ft, "ft").load_into(ft)
    swapped = copied(wanted)
    mixed(swapped, base, "0.5*base + 0.5*ft").load_into(swapped)
    assert seen(swapped) == seen(wanted)


Alias = Callable[[State], State]
ALIASES: dict[str, Alias] = {
    "swapped": lambda m: m | {"a": m["b"], "b": m["a"]},
    "transposed": lambda m: m | {"a": m["a"].t()},
    "transposed in place": lambda m: m | {"a": m["a"].reshape(-1).view(40, 40).t()},
    "one element on": lambda m: m | {"b": flat(m)[1601 : 1601 + 1600].view(40, 40)},
    "the row before": lambda m: m | {"b": flat(m)[1560 : 1560 + 1600].view(40, 40)},
    "of both": lambda m: m | {"a": flat(m)[800:2400].view(40, 40), "b": m["a"]},
    "a part of another": lambda m: m | {"c": m["a"][3], "d": flat(m)[100:140]},
    "every other": lambda m: m | {"c": flat(m)[::2][:40], "d": m["a"][:, 7]},
    "broadcast": lambda m: m | {"a": m["c"].expand(40, 40)},
    "its own row before": lambda m: m | {"e": flat(m)[3280:4880].view(40, 40)},
    "itself": lambda m: dict(m),
}


def flat(model: State) -> torch.Tensor:
    storage = model["a"]._base
    assert storage is not None
    return storage


def in_one_storage(dtype: torch.dtype = torch.float32) -> State:
    generator = torch.Generator().manual_seed(4)
    memory = torch.randn(3 * 1600 + 120, generator=generator).to(dtype)
    sizes = {"a": (40, 40), "b": (40, 40), "c": (40,), "d": (40,), "": (40,), "e": (40, 40)}
    model, start = {}, 0
    for name, shape in sizes.items():
        count = torch.Size(shape).numel()
        model[name] = memory[start : start + count].view(shape)
        start += count
    del model[""]  # a row that is written by nobody
    return model


@pytest.mark.parametrize("case", ALIASES)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("block", [600, 3_000_000])
@pytest.mark.usefixtures("way")
def test_memory_shared_in_any_way_gives_the_bits_of_memory_that_is_not(
    case: str, turned: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskalg.running.blocks.TARGET", block)
    monkeypatch.setattr("taskalg.memory.tensors.WINDOW", 7000)
    model = in_one_storage()
    operand = ALIASES[case](model)
    if turned:
        model = model | {"a": model["a"].t()}
    text = "0.5*base + 0.25*ft + 0.25*third"
    others = {"ft": copied(in_one_storage(torch.float64)), "third": operand}
    wanted = ta.compile(text, base=copied(operand), models={**others, "third": copied(operand)})
    expected = wanted.state_dict()
    ta.compile(text, base=operand, models=others).load_into(model)
    assert seen(model) == seen(expected)


def test_only_what_would_be_overwritten_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []

    def copy(array: Array) -> Array:
        copies.append(array.nbytes)
        return real(array)

    real = loading._copied
    monkeypatch.setattr(loading, "_copied", copy)
    model = in_one_storage()
    mixed(model, copied(model)).load_into(model)
    assert copies == []
    mixed(ALIASES["a part of another"](model), copied(model)).load_into(model)
    assert copies == [160, 160]


# ---- What is refused, before anything is written


def changed(**tensors: Any) -> State:
    return weights(1) | tensors


def less(*names: str) -> State:
    return {name: value for name, value in weights(1).items() if name not in names}


REFUSED: dict[str, tuple[Any, str]] = {
    "no model": (3, "a result is loaded into a module or a state dict"),
    "no tensor": (changed(x=[1.0]), "'x' of <dict> is no tensor but of type list"),
    "missing": (changed(x=torch.zeros(2)), "the result lacks 'x'"),
    "unknown": (less("w"), "<dict> lacks 'w'"),
    "both": (less("w", "v") | {"x": torch.zeros(2)}, "lacks 'x'; <dict> lacks 'w' and 'v'"),
    "many": (
        changed(**{f"x{i:02d}": torch.zeros(2) for i in range(17)}),
        "the result lacks 'x00', 'x01', 'x02', 'x03', 'x04' and 12 more",
    ),
    "shape": (changed(w=torch.zeros(33, 70)), "'w' is (70, 33), there (33, 70)"),
    "integers": (changed(n=torch.zeros(5)), "'n' is i64, there f32"),
    "other integers": (changed(n=torch.zeros(5).int()), "'n' is i64, there i32"),
    "floats": (changed(b=torch.zeros(33).int()), "'b' is bf16, there i32"),
    "complex": (changed(b=torch.zeros(33, dtype=torch.complex64)), "dtype torch.complex64"),
    "meta": (changed(b=torch.zeros(33, device="meta")), "on the device meta"),
    "sparse": (changed(b=torch.zeros(33).to_sparse()), "layout torch.sparse_coo"),
    "lazy": (changed(b=torch.nn.UninitializedParameter()), "'b' of <dict> has no shape yet"),
    "cut off": (changed(b=cut_off()), "'b' of <dict> is larger than the memory behind it"),
    "expanded": (changed(b=torch.zeros(1).expand(33)), "is expanded"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_is_written(case: str) -> None:
    model, words = REFUSED[case]
    with pytest.raises(ta.TaskalgError) as caught:
        mixed(weights(1), weights(2)).load_into(model)
    assert words in str(caught.value)
    assert caught.value.exit_code == (2 if case == "no model" else 3)
    there = model if isinstance(model, dict) else {}
    plain = {name: value for name, value in weights(1).items() if name in ("s", "v")}
    assert all(torch.equal(there[name], plain[name]) for name in plain if name in there)


def test_tensors_that_share_a_part_of_their_memory_are_refused() -> None:
    memory = torch.zeros(50)
    model = {"a": memory[:30], "b": memory[20:]}
    state = {"a": torch.ones(30), "b": torch.ones(30)}
    with pytest.raises(ta.MismatchError, match="'a' and 'b' of <dict> share a part"):
        ta.checkpoint(state, name="x").load_into(model)
    assert not memory.any()
    ta.checkpoint(state, name="x").load_into({"a": memory[:30], "b": torch.zeros(30)})


class Copying(torch.nn.Linear):
    """A module whose state dict is made when it is asked for."""

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        return {n: t.clone() for n, t in super().state_dict(*arguments, **options).items()}


def test_a_module_whose_state_dict_is_made_anew_is_refused() -> None:
    model = Copying(2, 2)
    with pytest.raises(ta.MismatchError, match="'weight' of <Copying> is made anew"):
        ta.checkpoint(torch.nn.Linear(2, 2), name="x").load_into(model)


def test_a_failure_half_way_is_told_and_autograd_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskalg.memory.tensors.WINDOW", 1)
    large = {"a": torch.ones(2), "b": torch.full((2,), 60000.0), "c": torch.ones(2)}
    model = {name: torch.zeros(2, dtype=torch.float16) for name in large}
    with pytest.raises(ta.OverflowingError, match="tensor 'b' overflows f16"):
        ta.compile("2*x", models={"x": large}).load_into(model, allow_partial=True)
    assert model["a"].tolist() == [2, 2]
    assert model["c"].tolist() == [0, 0]
    assert model["b"]._version > 0


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Tests in which closing fails, in other files, leave theirs open."""
    before = open_files()
    yield
    assert sorted(open_files()) == sorted(before)


# ---- On a device

INTERPRETED = """
import torch, taskalg as ta
from taskalg.engines.gpu.engine import GpuEngine
made = []
real = GpuEngine.resident
GpuEngine.resident = lambda self, *a, **k: made.append(1) or real(self, *a, **k)
def state(seed):
    torch.manual_seed(seed)
    return {"w": torch.randn(20, 3).bfloat16(), "v": torch.randn(7), "n": torch.arange(3)}
recipe = ta.compile("base + 0.3*ft", base=state(1), tasks={"ft": state(2)})
model = state(3)
recipe.load_into(model, engine="gpu")
wanted = recipe.state_dict(engine="cpu")
count = len(made)
found = recipe.state_dict(engine="gpu")
assert count and len(made) > count, made
for name, tensor in wanted.items():
    assert torch.equal(found[name], tensor) and torch.equal(model[name], tensor), name
"""


def test_an_engine_that_is_on_the_operands_device_evaluates_them_there() -> None:
    pytest.importorskip("triton", reason="the interpreter is Triton's")
    ran = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_operands_on_a_device_choose_the_way() -> None:
    away, here = on_device(weights(1)), weights(2)
    cuda, host = torch.device("cuda:0"), torch.device("cpu")
    for base, ft, there in ((here, here, False), (away, here, True), (away, away, True)):
        plan = mixed(base, ft).plan()
        assert is_resident(plan, "auto", cuda) is there
        assert is_resident(plan, "gpu", cuda) is there
        assert not is_resident(plan, "cpu", cuda)
        assert not is_resident(plan, "auto", torch.device("cuda:1"))
        assert not is_resident(plan, "auto", host)


@pytest.mark.parametrize("threads", [0, -1, 1.5])
def test_no_threads_at_all_are_refused(threads: Any, tmp_path: Path) -> None:
    recipe = mixed(weights(1), weights(2))
    calls: list[Callable[[], Any]] = [
        lambda: recipe.state_dict(threads=threads),
        lambda: recipe.live(threads=threads),
        lambda: recipe.save(tmp_path / "out.safetensors", threads=threads),
    ]
    for call in calls:
        with pytest.raises(ta.UsageError, match="threads is a number from 1 on"):
            call()
