"""Pickles give what torch gives from them, and nothing in them runs, allowed or not."""

import argparse
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import taskalg as ta
from taskalg.checkpoints import archive, weights_only
from taskalg.checkpoints.base import Checkpoint, Opening, open_shard
from taskalg.checkpoints.registry import open_checkpoint
from taskalg.cli.main import main
from taskalg.dtypes import BY_CODE
from taskalg.errors import CheckpointError
from taskalg.files import close, read_into
from tests.faults import Faults, inject

ALLOWED = Opening(allow_pickle=True)
LOADED = Opening(allow_pickle=True, in_memory=True)
OLD: dict[str, Any] = {"_use_new_zipfile_serialization": False}
DTYPES = [getattr(torch, dtype.torch) for dtype in BY_CODE.values()]
NEWER = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64)
INDEX = "pytorch_model.bin.index.json"
State = dict[str, torch.Tensor]


def raw(tensor: torch.Tensor) -> bytes:
    """Return a tensor's elements in order, as torch sees them."""
    whole = tensor.detach().resolve_neg().clone(memory_format=torch.contiguous_format)
    return bytes(whole.untyped_storage())


def by_torch(path: Path) -> State:
    found: State = torch.load(path, weights_only=True)
    return found


def content(checkpoint: Checkpoint) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Read all tensors as the pass does: ranges of files, or arrays."""
    found = {}
    for name, spec in checkpoint.tensors.items():
        data = bytearray(spec.nbytes)
        if checkpoint.arrays:
            data[:] = checkpoint.arrays[spec.shard].content.tobytes()
        else:
            fd = open_shard(checkpoint.shards[spec.shard])
            read_into(fd, [data], spec.offset)
            close(fd)
        found[name] = (spec.dtype.torch, spec.shape, bytes(data))
    return found


def expected(state: State) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (str(value.dtype).removeprefix("torch."), tuple(value.shape), raw(value))
        for name, value in state.items()
    }


def saved(path: Path, found: object, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(found, path, **options)
    return path


def refusal(path: Path, opening: Opening = ALLOWED) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, opening)
    assert caught.value.exit_code == 4
    return str(caught.value)


def run(*args: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(map(str, args)), prog_name="taskalg")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@st.composite
def states(draw: st.DrawFn) -> State:
    """Return tensors of every dtype, some of them views of others."""
    found: State = {}
    names = draw(st.lists(st.text("ab.é", min_size=1, max_size=4), unique=True, min_size=1))
    for name in names:
        same = [value for value in found.values() if value.dim() and value.shape[0] > 1]
        is_view = draw(st.booleans())
        if same and is_view:
            found[name] = draw(st.sampled_from(same))[draw(st.integers(0, 1)) :]
            continue
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        numbers = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(len(found)))
        found[name] = numbers.to(draw(st.sampled_from(DTYPES)))
    return found


@settings(max_examples=60)
@given(states(), st.sampled_from(["zip", "loaded", "old"]))
def test_tensors_are_those_that_torch_loads(
    tmp_path_factory: pytest.TempPathFactory, state: State, way: str
) -> None:
    if way == "old":  # torch writes newer dtypes in it as well, and cannot read them back
        state = {name: value for name, value in state.items() if value.dtype not in NEWER}
        assume(state)
    path = saved(tmp_path_factory.mktemp("p") / "x.pt", state, **(OLD if way == "old" else {}))
    found = _loaded(path) if way == "loaded" else open_checkpoint(path, LOADED)
    assert content(found) == expected(by_torch(path)) == expected(state)
    assert bool(found.arrays) == (way != "zip")
    if way == "zip":
        offsets = [spec.offset for spec in found.tensors.values()]
        assert offsets == sorted(offsets)


def _loaded(path: Path) -> Checkpoint:
    """Open a file that could be read in place as if it could not."""
    turned = path.with_name("compressed.pt")
    repack(path, turned, compression=zipfile.ZIP_DEFLATED)
    assert "is compressed" in refusal(turned)
    return open_checkpoint(turned, LOADED)


def repack(
    source: Path,
    target: Path,
    *,
    compression: int = zipfile.ZIP_STORED,
    change: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda records: records,
) -> Path:
    """Pack an archive again, its records changed."""
    with zipfile.ZipFile(source) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, data in change(records).items():
            archive.writestr(name, data)
    return target


# ---- What is allowed


@pytest.mark.parametrize("name", ["a.bin", "a.PT", "a.pth", "a.ckpt", "folder/pytorch_model.bin"])
def test_a_pickle_is_not_read_unless_that_is_allowed(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, {"a": torch.ones(2)})
    given = path.parent if "folder" in name else path
    said = refusal(given, Opening())
    assert "a PyTorch pickle, which is a program" in said and "help: add --allow-pickle" in said
    assert content(open_checkpoint(given, ALLOWED)) == expected({"a": torch.ones(2)})


EVERYWHERE = {
    "merge": ("merge", "m", "--model", "m=a.pt", "-o", "out"),
    "explain": ("explain", "m", "--model", "m=a.pt"),
    "check": ("check", "m", "--model", "m=a.pt"),
    "equal": (
        "equal",
        "m",
        "m + n - n",
        "--model",
        "m=a.pt",
        "--base",
        "a.pt",
        "--model",
        "n=a.pt",
    ),
    "inspect": ("inspect", "a.pt"),
    "convert": ("convert", "a.pt", "-o", "out"),
    "in the expression": ("check", 'checkpoint("a.pt")'),
}


@pytest.mark.parametrize("case", EVERYWHERE)
def test_the_option_is_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("a.pt"), {"a": torch.ones(2)})
    said = run(*EVERYWHERE[case], code=4).stderr
    assert said.startswith("'a.pt' is a PyTorch pickle, which")
    assert said.splitlines()[-1].startswith("  help: add --allow-pickle: ")
    run(*EVERYWHERE[case], "--allow-pickle")


def test_the_keyword_is_everywhere(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"a": torch.tensor([1.0, 2.0])})
    other = saved(tmp_path / "b.pt", {"a": torch.tensor([3.0, 5.0])})
    base = ta.checkpoint(path, allow_pickle=True)
    recipe = base + ta.task(other, base, allow_pickle=True) / 2
    recipe.save(tmp_path / "one.safetensors")
    models = {"b": other}
    same = ta.compile("(base + b)/2", base=path, models=models, allow_pickle=True)
    same.save(tmp_path / "two.safetensors")
    for name in ("one", "two"):
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as found:
            assert found.get_tensor("a").tolist() == [2.0, 3.5]
    for call in (
        lambda: ta.checkpoint(path),
        lambda: ta.task(path, base),
        lambda: ta.compile("base", base=path).kind,
    ):
        with pytest.raises(CheckpointError, match="is a PyTorch pickle"):
            call()


def test_a_torch_that_can_be_got_around_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.pt", {"a": torch.ones(2)})
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    for opening in (ALLOWED, LOADED):
        assert "torch 2.9.1+cpu is too old" in refusal(path, opening)
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    assert open_checkpoint(path, ALLOWED).nbytes == 8


# ---- Nothing in them runs


class Calls:
    """An object whose pickle calls something when it is loaded."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.args


def attacks(marker: Path) -> dict[str, object]:
    touch = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    return {
        "posix.system": Calls(os.system, f"touch {marker}"),
        "posix.mkdir": Calls(os.mkdir, str(marker)),
        "eval": Calls(eval, f"exec({touch!r})"),
        "exec": Calls(exec, touch),
        "subprocess.check_output": Calls(subprocess.check_output, ["touch", str(marker)]),
    }


@pytest.mark.parametrize("name", attacks(Path()))
@pytest.mark.parametrize("way", ["beside", "instead", "old", "bare", "folder"])
def test_a_program_in_a_pickle_never_runs(tmp_path: Path, name: str, way: str) -> None:
    marker = tmp_path / "it ran".replace(" ", "_")
    attack = attacks(marker)[name]
    found: object = attack if way == "instead" else {"a": torch.ones(2), "b": attack}
    path = tmp_path / ("model/pytorch_model.bin" if way == "folder" else "a.pt")
    saved(path, found, **(OLD if way == "old" else {}))
    if way == "bare":
        path.write_bytes(pickle.dumps(found, protocol=2))
    given = path.parent if way == "folder" else path
    for opening in (Opening(), ALLOWED, LOADED):
        said = refusal(given, opening)
        assert not marker.exists()
    if way != "bare" and not name.startswith("subprocess"):  # which Python 2 had elsewhere
        assert f"it asks for '{name}'" in said
    assert "weights_only=False" not in said
    for args in (("inspect", given), ("convert", given, "-o", tmp_path / "out")):
        run(*args, code=4)
        run(*args, "--allow-pickle", code=4)
    assert not marker.exists() and not (tmp_path / "out").exists()
    with suppress(Exception):
        torch.load(path, weights_only=False)
    assert marker.exists()  # where nobody stops it, the attack works


def test_a_module_that_is_not_there_is_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "attack.py").write_text("open('ran', 'w')\n")
    program = b"\x80\x02cattack\nrun\n)R."
    path = saved(tmp_path / "a.pt", {"a": torch.ones(1)})
    repack(path, tmp_path / "b.pt", change=lambda r: r | {"a/data.pkl": program})
    ran = subprocess.run(
        [sys.executable, "-m", "taskalg", "inspect", "b.pt", "--allow-pickle"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parent.parent}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 4 and "it asks for 'attack.run'" in ran.stderr
    assert not (tmp_path / "ran").exists()


def test_a_whole_module_is_refused_with_the_line_that_saves_its_weights(tmp_path: Path) -> None:
    path = saved(tmp_path / "it's $HOME.pt", torch.nn.Linear(2, 3))
    said = refusal(path)
    assert "it asks for 'torch.nn.modules.linear.Linear'" in said
    assert "only if you trust it, run its code" in said
    line = said.rpartition("python -c ")[2]
    subprocess.run(f"{sys.executable} -W ignore -c {line}", shell=True, check=True)
    found = open_checkpoint(tmp_path / "it's $HOME-weights.pt", ALLOWED)
    assert {name: spec.shape for name, spec in found.tensors.items()} == {
        "weight": (3, 2),
        "bias": (3,),
    }
    with_arguments = saved(tmp_path / "b.pt", {"args": argparse.Namespace(), "a": torch.ones(1)})
    assert "ask whoever made it for the weights alone" in refusal(with_arguments)


# ---- Wrappers, and what is no weight

ONE = torch.tensor([1.0, 2.0])
HELD = {
    "state_dict": ({"state_dict": {"a": ONE}, "epoch": 3}, ["under 'state_dict'", "'epoch', not"]),
    "model": ({"model": {"a": ONE}, "optimizer": {"s": ONE}}, ["'model'", "'optimizer', not"]),
    "module": ({"module": {"a": ONE}}, ["are those under 'module'"]),
    "model_state_dict": (
        {"model_state_dict": {"a": ONE}, "best": ONE},
        ["'model_state_dict'", "be"],
    ),
    "scalars": (
        {"a": ONE, "n": 3, "none": None, "s": "x"},
        ["holds 'n', 'none' and 's', not read"],
    ),
    "extra state": ({"a": ONE, "m._extra_state": ONE}, ["'m._extra_state', not read"]),
    "extra state alone": ({"a": ONE, "_extra_state": None}, ["'_extra_state', not read"]),
    "odd keys": ({"a": ONE, 7: "seven", (1, 2): 3}, ["a key of type int and a key of type tuple"]),
    "a parameter": ({"a": torch.nn.Parameter(ONE)}, []),
    "a buffer called model": ({"a": ONE, "model": 3}, ["'model', not read"]),
}


@pytest.mark.parametrize("case", HELD)
@pytest.mark.parametrize("opening", [ALLOWED, LOADED], ids=["in place", "loaded"])
def test_wrappers_come_off_and_what_is_no_weight_is_told(
    tmp_path: Path, case: str, opening: Opening
) -> None:
    held, words = HELD[case]
    path = saved(tmp_path / "a.pt", held, **(OLD if opening is LOADED else {}))
    found = open_checkpoint(path, opening)
    assert content(found) == expected({"a": ONE})
    notes = " ".join(found.notes)
    assert all(word in notes for word in words) and bool(notes) == bool(words)
    if opening is ALLOWED and words:
        assert f"note: {found.notes[0]}" in run("inspect", path, "--allow-pickle").stdout
        assert (
            found.notes[0] in run("explain", "m", "--model", f"m={path}", "--allow-pickle").stdout
        )


REFUSED = {
    "a tensor": (ONE, "it holds a Tensor"),
    "a list": ([ONE], "it holds a list"),
    "nothing": ({}, "it is empty"),
    "no tensors": ({"epoch": 3, "lr": 0.1}, "its entries are 'epoch' and 'lr'"),
    "deeper": ({"model": {"state_dict": {"a": ONE}}}, "its entries are 'model'"),
    "only extra state": ({"_extra_state": ONE}, "its entries are '_extra_state'"),
    "two models": ({"model": {"a": ONE}, "module": {"a": ONE}}, "under 'model' and 'module'"),
    "a number as name": ({0: ONE}, "whose name is no name\n  note: it is a key of type int"),
    "the name of metadata": ({"__metadata__": ONE}, "whose name is no name"),
    "half a character": ({"\ud800": ONE}, "whose name is no name\n  note: it is '\\ud800'"),
    "complex": (
        {"a": torch.ones(2, dtype=torch.complex64)},
        "'a' of '{}' has dtype torch.complex64",
    ),
    "sparse": ({"a": torch.eye(2).to_sparse()}, "tensor 'a' of '{}' is sparse"),
    "quantized tensors": ({"a.qweight": ONE.int()}, "holds quantized tensors"),
    "factors": ({"a.lora_A.weight": torch.ones(1, 2), "a.lora_B.weight": ONE}, "of an adapter"),
    "65 dimensions": ({"a": torch.ones([1] * 64).unsqueeze(0)}, "the shape of tensor 'a'"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("opening", [ALLOWED, LOADED], ids=["in place", "loaded"])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, case: str, opening: Opening) -> None:
    held, words = REFUSED[case]
    path = saved(tmp_path / "a.pt", held)
    assert words.replace("{}", str(path)) in refusal(path, opening)


# ---- What cannot be read in place

STRIDED = {
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).t(),
    "every other": lambda: torch.arange(6.0)[::2],
    "repeated": lambda: torch.ones(1, 2).expand(3, 2),
    "negated": lambda: torch.tensor([1 + 2j]).conj().imag,
}


@pytest.mark.parametrize("case", STRIDED)
def test_what_does_not_lie_in_one_piece_is_converted(tmp_path: Path, case: str) -> None:
    state = {"a": STRIDED[case](), "b": ONE}
    path = saved(tmp_path / "a.pt", state)
    said = refusal(path)
    assert "tensor 'a'" in said and "does not lie in one piece" in said
    assert f"help: run: taskalg convert '{path}' -o 'a.safetensors' --allow-pickle" in said
    run("convert", path, "-o", tmp_path / "a.safetensors", "--allow-pickle")
    found = open_checkpoint(tmp_path / "a.safetensors")
    assert content(found) == expected(state)


def test_other_ways_to_pack_an_archive(tmp_path: Path) -> None:
    state = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0]), "c": torch.tensor([3.0])}
    path = saved(tmp_path / "a.pt", state)

    def reverse(records: dict[str, bytes]) -> dict[str, bytes]:
        return dict(reversed(records.items()))

    again = repack(path, tmp_path / "b.pt", change=reverse)
    assert content(open_checkpoint(again, ALLOWED)) == expected(state)
    with torch.serialization.skip_data():
        assert by_torch(again).keys() == state.keys()
    big = repack(path, tmp_path / "c.pt", change=lambda r: r | {"a/byteorder": b"big"})
    assert "big-endian" in refusal(big)
    assert content(open_checkpoint(big, LOADED))["a"][2] == raw(state["a"])[::-1]


def test_places_are_found_the_same_way_by_older_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.nn.Parameter(ONE)}
    state["c"] = state["a"][1]
    path = saved(tmp_path / "a.pt", state)
    monkeypatch.setattr(weights_only, "_without_data", FakeTensorMode)
    assert content(open_checkpoint(path, ALLOWED)) == expected(state)


def without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda records: {key: data for key, data in records.items() if key != name}


CHANGED = {
    "no pickle": (without("a/data.pkl"), "a zip archive, and not one that torch.save wrote"),
    "no storage": (without("a/data/0"), "is damaged or hostile"),
    "a short storage": (lambda r: r | {"a/data/0": r["a/data/0"][:-1]}, "is cut short, or hostile"),
    "a program": (lambda r: r | {"a/constants.pkl": b""}, "is a TorchScript program"),
    "half a pickle": (lambda r: r | {"a/data.pkl": r["a/data.pkl"][:-9]}, "is damaged or hostile"),
    "another byte order": (lambda r: r | {"a/byteorder": b"middle"}, "big-endian"),
    "two pickles": (lambda r: r | {"b/data.pkl": r["a/data.pkl"]}, "not one that torch.save wrote"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_an_archive_that_was_tampered_with(tmp_path: Path, case: str) -> None:
    change, words = CHANGED[case]
    path = saved(tmp_path / "a.pt", {"a": torch.arange(9.0)})
    assert words in refusal(repack(path, tmp_path / "b.pt", change=change))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_record_twice_and_one_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.pt", {"a": torch.arange(9.0)})
    repack(path, tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "b.pt", "a") as twice:
        twice.writestr("a/data/0", bytes(36))
    assert "it has a record twice" in refusal(tmp_path / "b.pt")
    monkeypatch.setattr(archive, "LARGEST_PART", 200)
    assert "has a directory of" in refusal(path)


def test_other_content_under_the_name_of_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    for start, words in (
        (b"version https://git-lfs.github.com/spec/v1\n", "run: git lfs pull"),
        (b"<html>Not found", "is a web page"),
        (b"", "is not in the format of torch 1.6"),
        (b"anything", "is not in the format of torch 1.6"),
    ):
        path.write_bytes(start)
        assert words in refusal(path)
        if "format" in words:
            assert "is damaged or hostile" in refusal(path, LOADED)


SMALL = {"a": torch.arange(4.0), "b": torch.ones(2, 2, dtype=torch.bfloat16), "n": torch.tensor(3)}


@pytest.fixture(scope="module", params=["zip", "old"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "a.pt"
    return saved(path, SMALL, **(OLD if request.param == "old" else {})).read_bytes()


@settings(max_examples=250)
@given(st.data())
def test_damage_is_an_error_of_ours_or_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, small: bytes, data: st.DataObject
) -> None:
    changed = bytearray(small)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(changed)) | st.integers(0, len(changed)))
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(changed[:cut])
    for opening in (ALLOWED, LOADED):
        try:
            content(open_checkpoint(path, opening))
        except CheckpointError as error:
            assert str(error).replace("\n", "").isprintable()


def test_every_failing_call_is_a_checkpoint_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.pt", SMALL)
    counter = Faults()
    with monkeypatch.context() as context:
        inject(context, counter)
        open_checkpoint(path, ALLOWED)
    assert len(counter.calls) > 5
    for at in range(1, len(counter.calls) + 1):
        with monkeypatch.context() as context:
            inject(context, Faults(at))
            try:
                open_checkpoint(path, ALLOWED)
            except Exception as error:
                assert getattr(error, "exit_code", None) in (4, 5), counter.calls[at - 1]


# ---- Folders


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Make a folder of two pickles and their index."""
    folder = tmp_path / "model"
    parts: dict[str, State] = {"x-1.bin": {"a": ONE, "b": ONE + 1}, "x-2.bin": {"c": ONE.half()}}
    for name, state in parts.items():
        saved(folder / name, state)
    (folder / "config.json").write_text('{"model_type": "x"}', encoding="utf-8")
    index(folder, {name: home for home, state in parts.items() for name in state})
    return folder


def index(folder: Path, homes: dict[str, str]) -> None:
    found = {"metadata": {"total_size": 20}, "weight_map": homes}
    (folder / INDEX).write_text(json.dumps(found), encoding="utf-8")


@pytest.mark.parametrize("way", ["zip", "old", "mixed"])
def test_a_folder_of_shards(sharded: Path, way: str) -> None:
    state = {"a": ONE, "b": ONE + 1, "c": ONE.half()}
    for name in {"zip": (), "old": ("x-1.bin", "x-2.bin"), "mixed": ("x-2.bin",)}[way]:
        saved(sharded / name, by_torch(sharded / name), **OLD)
    if way != "zip":
        assert f"taskalg convert '{sharded}' -o 'model-safetensors'" in refusal(sharded)
    found = open_checkpoint(sharded, LOADED)
    assert content(found) == expected(state)
    assert [shard.path.name for shard in found.shards] == ["x-1.bin", "x-2.bin"]
    out = sharded.parent / "out"
    run("convert", sharded, "-o", out, "--allow-pickle", "--shard-size", "16B")
    assert content(open_checkpoint(out)) == expected(state)
    assert (out / "model.safetensors.index.json").exists() and (out / "config.json").exists()
    assert not list(out.glob("*.bin*"))


HOMES: dict[str, tuple[dict[str, str], str]] = {
    "lists too much": (
        {"a": "x-1.bin", "b": "x-1.bin", "c": "x-2.bin", "d": "x-2.bin"},
        "lists te",
    ),
    "lists too little": ({"a": "x-1.bin", "c": "x-2.bin"}, "does not list tensor 'b'"),
    "the wrong file": ({"a": "x-2.bin", "b": "x-1.bin", "c": "x-2.bin"}, "the wrong file for"),
    "a missing shard": ({"a": "x-1.bin", "b": "x-1.bin", "c": "x-3.bin"}, "'x-3.bin' of"),
    "another folder": ({"a": "../x-1.bin"}, "leads out of the folder"),
    "another format": ({"a": "x-1.safetensors"}, "is no bin file"),
}


@pytest.mark.parametrize("case", HOMES)
@pytest.mark.parametrize("way", ["zip", "old"])
def test_an_index_is_held_to_its_rules(sharded: Path, case: str, way: str) -> None:
    homes, words = HOMES[case]
    index(sharded, homes)
    if way == "old":
        for name in ("x-1.bin", "x-2.bin"):
            saved(sharded / name, by_torch(sharded / name), **OLD)
    assert words in refusal(sharded, LOADED)


def test_safetensors_win_and_two_models_are_refused(sharded: Path) -> None:
    saved(sharded / "pytorch_model.bin", {"z": ONE})
    assert "holds two models: pytorch_model.bin, and shards" in refusal(sharded)
    run("convert", sharded / "pytorch_model.bin", "-o", sharded.parent / "z", "--allow-pickle")
    (sharded.parent / "z" / "model.safetensors").rename(sharded / "model.safetensors")
    assert list(open_checkpoint(sharded).tensors) == ["z"]


# ---- Convert


def test_convert_keeps_every_byte_and_dtype(tmp_path: Path) -> None:
    state = {str(dtype): torch.ones(3).to(dtype) for dtype in DTYPES}
    path = saved(tmp_path / "a.pt", state)
    out = tmp_path / "a.safetensors"
    said = run("convert", path, "-o", out, "--allow-pickle").stderr
    assert said.startswith(f"wrote {out}  {len(DTYPES)} tensors, 1 shard")
    assert content(open_checkpoint(out)) == expected(state)
    run("convert", path, "-o", out, "--allow-pickle", code=5)
    found = run("convert", path, "-o", out, "--allow-pickle", "--overwrite", "--json").stdout
    assert json.loads(found)["kind"] == "model"
    again = ("convert", out, "-o", tmp_path / "b.safetensors", "--dtype", "f32", "--quiet")
    assert run(*again).output == ""
    assert open_checkpoint(tmp_path / "b.safetensors").tensors["torch.float64"].dtype.name == "f32"


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old"])
def test_a_converted_folder_can_be_verified_and_made_again(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = saved(tmp_path / "a.pt", {"w": ONE}, **options)
    run("convert", path, "-o", tmp_path / "out", "--allow-pickle")
    given = ("--model", f"a_pt={path}", "--allow-pickle")
    assert "0 differences" in run("verify", tmp_path / "out", *given).stdout
    run("rerun", tmp_path / "out", *given, "-o", tmp_path / "again")
    weights = [tmp_path / name / "model.safetensors" for name in ("out", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    saved(path, {"w": ONE + 1}, **options)
    run("verify", tmp_path / "out", *given, code=6)


def test_a_task_vector_stays_one(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 3.0)):
        saved(tmp_path / f"{name}.pt", {"w": torch.full((2,), value)})
    models = {name: tmp_path / f"{name}.pt" for name in "ab"}
    ta.compile("b - a", models=models, allow_pickle=True).save(tmp_path / "v")
    run("convert", tmp_path / "v", "-o", tmp_path / "w.safetensors")
    found = open_checkpoint(tmp_path / "w.safetensors")
    assert found.is_task_vector and content(found) == expected({"w": torch.tensor([2.0, 2.0])})


def test_help_starts_with_an_example() -> None:
    text = run("convert", "--help").stdout
    assert "taskalg convert old-bert/ -o bert/ --allow-pickle" in text


def test_reading_in_place_takes_no_memory_for_the_data(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"a": torch.zeros(1 << 20)})
    with path.open("rb") as file:
        assert len(file.read()) > 4 << 20
    counter = Faults()
    with pytest.MonkeyPatch.context() as context:
        inject(context, counter)
        open_checkpoint(path, ALLOWED)
    assert len(counter.calls) < 100


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
@pytest.mark.parametrize("way", ["zip", "old", "sharded"])
def test_a_converted_model_loads_as_the_pickled_one(tmp_path: Path, kind: str, way: str) -> None:
    transformers = pytest.importorskip("transformers")
    sizes: dict[str, dict[str, Any]] = {
        "gpt2": {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 32},
        "bert": {
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "vocab_size": 32,
        },
    }
    config = transformers.AutoConfig.for_model(kind, **sizes[kind])
    auto = {"gpt2": "AutoModelForCausalLM", "bert": "AutoModelForMaskedLM"}[kind]
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_config(config)
    state = model.state_dict()
    tied = [name for name in state if state[name].data_ptr() == state[_embedding(state)].data_ptr()]
    assert len(tied) == 2  # the embedding, and the head that shares its bytes
    folder = tmp_path / "old"
    config.save_pretrained(folder)
    names = list(state)
    if way == "sharded":
        homes = {name: f"x-{i % 2}.bin" for i, name in enumerate(names)}
        for home in {*homes.values()}:
            saved(folder / home, {name: state[name] for name in names if homes[name] == home})
        index(folder, homes)
    else:
        saved(folder / "pytorch_model.bin", state, **(OLD if way == "old" else {}))
    run("convert", folder, "-o", tmp_path / "new", "--allow-pickle")
    assert set(open_checkpoint(tmp_path / "new").tensors) == set(names)
    again, found = getattr(transformers, auto).from_pretrained(
        tmp_path / "new", output_loading_info=True
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not found[key], key
    loaded = again.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in names)
    assert len({loaded[name].data_ptr() for name in tied}) == 1  # tied again


def _embedding(state: State) -> str:
    return next(name for name in state if name.endswith(("wte.weight", "word_embeddings.weight")))
