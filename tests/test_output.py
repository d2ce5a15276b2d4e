import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskalg import files, system
from taskalg.checkpoints.base import Checkpoint, Part
from taskalg.checkpoints.registry import open_checkpoint
from taskalg.dtypes import BF16, BY_CODE, F16, F32
from taskalg.errors import CheckpointError, OutputError, UsageError
from taskalg.handles import Handles
from taskalg.output import layout
from taskalg.output.layout import OutputTensor, ShardLayout, indexes, lay_out
from taskalg.output.moves import MOVES_NAME
from taskalg.output.publish import stage
from taskalg.output.sidefiles import SideFile, linked_from_outside, side_files
from tests.faults import FIELDS, Faults, Killed, goes_through, unsynced

INDEX = "model.safetensors.index.json"
SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
U8, I64 = BY_CODE["U8"], BY_CODE["I64"]
DTYPES = st.sampled_from(list(BY_CODE.values()))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    unsynced(monkeypatch)


def rerun(out: Path, way: str, expected: dict[str, bytes], overwrite: bool) -> None:
    complete = visible(out) == expected
    write(out, **WAYS[way] | {"overwrite": overwrite or complete})
    assert tree(out) == expected
    assert [p for p in out.parent.rglob("*") if ".taskalg" in p.name] == []


def attempt(faults: Faults, out: Path, **options: Any) -> bool:
    """Write with faults underneath, and tell whether it went through."""
    return goes_through(faults, lambda: write(out, **options))


def expected_tree(tmp_path: Path, way: str) -> dict[str, bytes]:
    write(tmp_path / "expected" / way, **WAYS[way])
    found = tree(tmp_path / "expected" / way)
    shutil.rmtree(tmp_path / "expected")
    return found


def tensor(name: str, dtype: Any = F32, shape: Sequence[int] = (2,)) -> OutputTensor:
    count = int(np.prod(shape, dtype=np.int64))
    return OutputTensor(name, dtype, tuple(shape), count * dtype.itemsize)


TENSORS = [tensor("b", U8, [3]), tensor("a", F32, [2]), tensor("c", I64, []), tensor("d", BF16)]
CONTENT = {t.name: bytes(range(i, i + t.nbytes)) for i, t in enumerate(TENSORS, start=1)}
SIDE_FILES = (
    SideFile("config.json", b"{}"),
    SideFile("additional_chat_templates/tool.jinja", b"hello"),
)


def write(
    out: Path,
    *,
    shard_size: int = 10**9,
    sides: Sequence[SideFile] = (),
    overwrite: bool = False,
    inputs: Sequence[Checkpoint] = (),
) -> None:
    layouts = lay_out(TENSORS, shard_size=shard_size)
    with stage(out, layouts, inputs=inputs, overwrite=overwrite, side_files=sides) as staged:
        fill(layouts, staged.files)
        staged.publish()


def fill(layouts: Sequence[ShardLayout], outputs: Handles[int]) -> None:
    for index, shard in enumerate(layouts):
        for t, offset in zip(shard.tensors, shard.offsets, strict=True):
            with outputs.using(index) as fd:
                files.write_at(fd, CONTENT[t.name], offset)


def tree(path: Path) -> dict[str, bytes]:
    """Return every file below a folder, or the file itself, with its bytes; {} if there is none."""
    if path.is_file():
        return {"": path.read_bytes()}
    found = (p for p in sorted(path.rglob("*")) if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


def load(path: Path) -> dict[str, bytes]:
    """Return the tensors' bytes as the safetensors library sees them."""
    parts = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    found: dict[str, bytes] = {}
    for part in parts:
        for name, info in safetensors.deserialize(part.read_bytes()):  # type: ignore[no-untyped-call]
            found[name] = bytes(info["data"])
    return found


def visible(path: Path) -> dict[str, bytes]:
    """Return what `tree` does, temporaries left out."""
    return {k: v for k, v in tree(path).items() if not k.startswith(".taskalg-")}


# Layout


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.text(max_size=8), DTYPES, st.lists(st.integers(0, 5), max_size=3)),
        unique_by=lambda item: item[0],
    ),
    st.integers(1, 400),
    st.booleans(),
)
def test_the_library_reads_what_is_laid_out(
    drawn: list[tuple[str, Any, list[int]]], shard_size: int, task_vector: bool
) -> None:
    wanted = [tensor(name, dtype, shape) for name, dtype, shape in drawn if name != "__metadata__"]
    layouts = lay_out(wanted, task_vector=task_vector, shard_size=shard_size)
    found: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for shard in layouts:
        content = shard.header + bytes(shard.size - len(shard.header))
        assert len(shard.header) % 8 == 0
        for name, info in safetensors.deserialize(content):  # type: ignore[no-untyped-call]
            found[name] = (info["dtype"], tuple(info["shape"]), len(info["data"]))
        for t, offset in zip(shard.tensors, shard.offsets, strict=True):
            assert offset % t.dtype.itemsize == 0
        data = shard.size - len(shard.header)
        assert data <= shard_size or sum(t.nbytes > 0 for t in shard.tensors) == 1
    assert found == {t.name: (t.dtype.code, t.shape, t.nbytes) for t in wanted}
    order = [t for shard in layouts for t in sorted(shard.tensors, key=wanted.index)]
    assert order == wanted


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=8), DTYPES), unique_by=lambda item: item[0]))
def test_header_bytes_are_the_library_s_for_the_same_order(drawn: list[tuple[str, Any]]) -> None:
    saved = {n: torch.zeros(2, dtype=getattr(torch, d.torch)) for n, d in drawn}
    saved.pop("__metadata__", None)
    content = safetensors.torch.save(saved, {"format": "pt"})
    parsed = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    order = sorted(saved, key=lambda name: parsed[name]["data_offsets"][0])
    wanted = [tensor(name, BY_CODE[parsed[name]["dtype"]]) for name in order]
    (shard,) = lay_out(wanted)
    assert content.startswith(shard.header)
    assert len(content) == shard.size


def test_shards_are_named_and_indexed() -> None:
    layouts = lay_out(TENSORS, shard_size=12)
    assert [shard.name for shard in layouts] == SHARDS
    assert [[t.name for t in shard.tensors] for shard in layouts] == [["a", "b"], ["c", "d"]]
    ((name, content),) = indexes(layouts).items()
    index = json.loads(content)
    assert name == INDEX
    assert index["metadata"] == {"total_size": sum(t.nbytes for t in TENSORS)}
    assert list(index["weight_map"]) == ["a", "b", "c", "d"]
    assert content.startswith(b'{\n  "metadata": {\n    "total_size": 23\n')
    assert content.endswith(b"}\n")
    assert indexes(lay_out(TENSORS)) == {}


def test_a_task_vector_is_marked_and_nothing_else_is_said() -> None:
    for marked, expected in ((False, {}), (True, {"taskalg": "task-vector"})):
        (shard,) = lay_out(TENSORS, task_vector=marked, parts=[Part("", "other")])
        assert json.loads(shard.header[8:])["__metadata__"] == {"format": "pt"} | expected
        assert shard.name == "other.safetensors"


def test_a_header_that_no_reader_accepts_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "LARGEST_HEADER", 200)
    with pytest.raises(OutputError, match=r"would have a header of .* bytes") as caught:
        lay_out(TENSORS)
    assert caught.value.help == "write smaller shards: --shard-size 8B"
    assert len(lay_out(TENSORS, shard_size=8)) == 4


# Publishing

WAYS: dict[str, dict[str, Any]] = {
    "single": {"sides": SIDE_FILES},
    "sharded": {"sides": SIDE_FILES, "shard_size": 12},
    "bare": {},
    "x.safetensors": {},
}


@pytest.mark.parametrize("way", WAYS)
def test_an_output_is_published_whole(tmp_path: Path, way: str) -> None:
    out = tmp_path / way
    write(out, **WAYS[way])
    assert load(out) == CONTENT
    assert list(tmp_path.iterdir()) == [out]
    assert {t.name: (t.dtype, t.shape) for t in open_checkpoint(out).tensors.values()} == {
        t.name: (t.dtype, t.shape) for t in TENSORS
    }
    names = set(tree(out))
    sides = {side.name for side in WAYS[way].get("sides", ())}
    assert sides <= names
    weights = {
        "single": {"model.safetensors"},
        "bare": {"model.safetensors"},
        "x.safetensors": {""},
        "sharded": {INDEX, *SHARDS},
    }
    assert names == sides | weights[way]


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "out", sides=SIDE_FILES)
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "out" / "config.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, None])
def test_leaving_without_publishing_leaves_nothing(tmp_path: Path, way: str, error: Any) -> None:
    options = {k: v for k, v in WAYS[way].items() if k == "shard_size"}
    layouts = lay_out(TENSORS, **options)
    sides = WAYS[way].get("sides", ())
    if error is None:
        with stage(tmp_path / way, layouts, side_files=sides) as staged:
            fill(layouts, staged.files)
    else:
        with pytest.raises(error), stage(tmp_path / way, layouts, side_files=sides) as staged:
            assert any(tmp_path.iterdir())
            raise error
    assert list(tmp_path.iterdir()) == []
    assert not staged.published


def test_until_published_no_loader_finds_a_model(tmp_path: Path) -> None:
    layouts = lay_out(TENSORS, shard_size=12)
    with stage(tmp_path / "out", layouts) as staged:
        fill(layouts, staged.files)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".taskalg-partial"]
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "out")
        staged.publish()
    assert not (tmp_path / "out" / ".taskalg-partial").exists()


def test_an_input_that_changed_publishes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "in")
    given = open_checkpoint(tmp_path / "in")
    layouts = lay_out(TENSORS)
    with (
        pytest.raises(CheckpointError, match="changed while it was read"),
        stage(tmp_path / "out", layouts, inputs=[given]) as staged,
    ):
        os.utime(tmp_path / "in" / "model.safetensors", (1, 1))
        staged.publish()
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]


# What an output replaces


@pytest.mark.parametrize("first", ["single", "sharded"])
@pytest.mark.parametrize("second", ["single", "sharded"])
def test_overwriting_leaves_the_new_model_alone(tmp_path: Path, first: str, second: str) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    write(out, **WAYS[first])
    (out / "NOTES.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="is not empty"):
        write(out, **WAYS[second])
    write(out, overwrite=True, **WAYS[second])
    write(fresh, **WAYS[second])
    assert tree(out) == tree(fresh) | {"NOTES.txt": b"mine"}


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        write(out)
    assert out.read_bytes() == b"old"
    write(out, overwrite=True)
    assert load(out) == CONTENT


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.safetensors", "config.json"])
def test_files_of_another_model_are_not_mixed_with_the_output(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(OutputError, match=f"holds '{name}' of another model"):
        write(tmp_path, overwrite=True)
    assert tree(tmp_path) == {name: b"{}"}


# Destinations that are refused, before anything is created


def model(path: Path) -> Checkpoint:
    write(path, sides=SIDE_FILES)
    return open_checkpoint(path)


def overlap(tmp_path: Path, out: str, given: Sequence[Checkpoint]) -> None:
    before = {str(path) for path in tmp_path.rglob("*")}
    with pytest.raises(OutputError, match=r"the output .* an input") as caught:
        write(tmp_path / out, inputs=given, overwrite=True, sides=SIDE_FILES)
    assert caught.value.exit_code == 5
    assert {str(path) for path in tmp_path.rglob("*")} == before


OVERLAPS = {
    "in": "itself",
    "in/merged": "inside",
    "in/a/..": "roundabout",
    "in/merged.safetensors": "a file inside",
    "in/model.safetensors": "its file",
    ".": "the folder around it",
    "link": "a link to it",
    "link/merged": "inside, through a link",
    "link/merged.safetensors": "a file inside, through a link",
    "hard.safetensors": "a hard link to its file",
    "soft.safetensors": "a link to its file",
    "holder": "a folder with a link to its file",
}


@pytest.mark.parametrize("out", OVERLAPS)
def test_an_output_never_overlaps_an_input(tmp_path: Path, out: str) -> None:
    given = model(tmp_path / "in")
    (tmp_path / "in" / "a").mkdir()
    (tmp_path / "link").symlink_to("in")
    weights = tmp_path / "in" / "model.safetensors"
    os.link(weights, tmp_path / "hard.safetensors")
    (tmp_path / "soft.safetensors").symlink_to(weights)
    (tmp_path / "holder").mkdir()
    (tmp_path / "holder" / "model.safetensors").symlink_to(weights)
    overlap(tmp_path, out, [given])
    if out not in ("in/merged", "in/merged.safetensors", "link/merged", "link/merged.safetensors"):
        overlap(tmp_path, out, [open_checkpoint(weights)])  # a bare file has no inside


def test_a_folder_that_holds_the_blobs_of_an_input_is_refused(tmp_path: Path) -> None:
    model(tmp_path / "in")
    (tmp_path / "blobs" / "x").mkdir(parents=True)
    weights = tmp_path / "in" / "model.safetensors"
    weights.rename(tmp_path / "blobs" / "x" / "1234")
    weights.symlink_to("../blobs/x/1234")
    given = open_checkpoint(tmp_path / "in")
    overlap(tmp_path, "blobs", [given])
    overlap(tmp_path, "blobs/x", [given])
    write(tmp_path / "out", inputs=[given])


def test_a_neighbor_of_a_bare_file_is_no_overlap(tmp_path: Path) -> None:
    write(tmp_path / "in.safetensors")
    given = open_checkpoint(tmp_path / "in.safetensors")
    write(tmp_path / "out.safetensors", inputs=[given])
    write(tmp_path / "out", inputs=[given])
    assert load(tmp_path / "out") == load(tmp_path / "out.safetensors") == CONTENT


def refused(out: Path, words: str, **options: Any) -> str:
    with pytest.raises((OutputError, UsageError), match=words) as caught:
        write(out, **options)
    return str(caught.value)


def test_a_destination_of_the_wrong_kind(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dir.safetensors").mkdir()
    (tmp_path / "broken").symlink_to("nowhere")
    for overwrite in (False, True):
        refused(tmp_path / "file", "is a file, and a folder is to be", overwrite=overwrite)
        refused(tmp_path / "dir.safetensors", "is a folder, and a file", overwrite=overwrite)
        refused(tmp_path / "broken", "is a link that leads nowhere", overwrite=overwrite)
    refused(tmp_path / "file" / "out", "is a file, not a folder")
    refused(tmp_path / "file" / "no" / "out.safetensors", "is a file, not a folder")
    said = refused(tmp_path / "x.safetensors", "2 shards do not fit", shard_size=12)
    assert "--shard-size" in said
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("out", ["a/b/out", "a/b/out.safetensors"])
def test_folders_above_an_output_are_made_and_removed_when_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: str
) -> None:
    for only in ("pwrite", "open", "replace", "lock"):
        assert not attempt(Faults(1, sticky=True, only=(only,)), tmp_path / out)
        assert list(tmp_path.iterdir()) == [], only
    write(tmp_path / out)
    assert load(tmp_path / out) == CONTENT
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["b"]


def test_a_folder_without_permission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = {name: getattr(system.primitives, name) for name in FIELDS}
    denied = system.Primitives(**calls | {"access": lambda path, mode: False})
    monkeypatch.setattr(system, "primitives", denied)
    for out in ("out", "out.safetensors", "."):
        refused(tmp_path / out, "cannot be written to")
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_told_beforehand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = {name: getattr(system.primitives, name) for name in FIELDS}
    full = system.Primitives(**calls | {"free": lambda path: 990_000})
    monkeypatch.setattr(system, "primitives", full)
    for out in ("out", "out.safetensors"):
        assert "it needs 1.00 MB, 990.0 kB are free" in refused(tmp_path / out, "not enough space")
    assert list(tmp_path.iterdir()) == []


# Faults: every call in turn fails, once or for good


@pytest.mark.parametrize("way", WAYS)
def test_one_failing_call_leaves_nothing_or_everything(tmp_path: Path, way: str) -> None:
    (tmp_path / "expected").mkdir()
    expected = expected_tree(tmp_path, way)
    out = tmp_path / way
    counter = Faults()
    assert attempt(counter, out, **WAYS[way])
    for at in range(1, len(counter.calls) + 1):
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
        faults = Faults(at)
        done = attempt(faults, out, **WAYS[way])
        assert faults.failed
        where = (at, faults.calls[at - 1])
        if done:
            assert visible(out) == expected, where
        elif at > 1 and faults.calls[at - 1] not in ("unlink", "rmdir", "listdir"):
            assert list(tmp_path.iterdir()) == [], where
        else:
            assert not out.exists() or set(os.listdir(out)) <= {".taskalg-partial"}, where
        rerun(out, way, expected, False)


@pytest.mark.parametrize("error", [None, Killed()])
@pytest.mark.parametrize("way", WAYS)
def test_after_calls_that_fail_for_good_a_rerun_completes(
    tmp_path: Path, way: str, error: Any
) -> None:
    (tmp_path / "expected").mkdir()
    expected = expected_tree(tmp_path, way)
    out = tmp_path / way
    counter = Faults()
    assert attempt(counter, out, **WAYS[way])
    for at in range(1, len(counter.calls) + 1):
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
        attempt(Faults(at, sticky=True, error=error), out, **WAYS[way])
        with suppress(CheckpointError):  # when no loader finds a model
            assert load_complete(out)
        rerun(out, way, expected, False)


def load_complete(out: Path) -> bool:
    open_checkpoint(out)
    return load(out) == CONTENT


@pytest.mark.parametrize("error", [None, Killed()])
@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("way", ["single", "sharded", "x.safetensors"])
def test_an_interrupted_overwrite_leaves_the_old_the_new_or_no_model(
    tmp_path: Path, way: str, sticky: bool, error: Any
) -> None:
    (tmp_path / "expected").mkdir()
    expected = expected_tree(tmp_path, way)
    out, options = tmp_path / way, WAYS[way] | {"overwrite": True}
    old = {k: v[:-1] + b"\xff" if v.endswith(b"\x0a") else v for k, v in expected.items()}

    def restore() -> None:
        if out.is_dir():
            shutil.rmtree(out)
        for name, content in old.items():
            path = out / name if name else out
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    restore()
    counter = Faults()
    assert attempt(counter, out, **options)
    for at in range(1, len(counter.calls) + 1):
        restore()
        attempt(Faults(at, sticky=sticky, error=error), out, **options)
        found = tree(out) if out.exists() else {}
        weights = {k: v for k, v in found.items() if k.startswith("model") or not k}
        both = [
            {k: v for k, v in t.items() if k.startswith("model") or not k} for t in (old, expected)
        ]
        if INDEX in found or "model.safetensors" in found or "" in found:
            assert weights in both, (at, counter.calls[at - 1])
        rerun(out, way, expected, True)


def test_the_list_of_moves_is_not_trusted(tmp_path: Path) -> None:
    for target in ("../precious", "/precious", "a\\..\\..\\precious", "C:precious", ""):
        hidden = tmp_path / "out" / ".taskalg-partial"
        hidden.mkdir(parents=True)
        (tmp_path / "precious").write_bytes(b"mine")
        (hidden / "last").write_bytes(b"")
        moves = [["gone", target], ["last", "model.safetensors"]]
        (hidden / MOVES_NAME).write_text(json.dumps(moves), encoding="utf-8")
        write(tmp_path / "out")
        assert (tmp_path / "precious").read_bytes() == b"mine"
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"{", b"5", b"[[1,2],[3,4]]", b'["ab"]', b"[" * 99_999])
def test_a_broken_list_of_moves_is_swept(tmp_path: Path, content: bytes) -> None:
    hidden = tmp_path / "out" / ".taskalg-partial"
    hidden.mkdir(parents=True)
    (hidden / MOVES_NAME).write_bytes(content)
    (hidden / "model.safetensors").write_bytes(b"half")
    write(tmp_path / "out")
    assert load(tmp_path / "out") == CONTENT
    assert os.listdir(tmp_path / "out") == ["model.safetensors"]


def test_a_hidden_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".taskalg-partial").symlink_to("../precious")
    refused(tmp_path / "out", "is a link, where taskalg keeps")
    assert (tmp_path / "precious" / "thesis").read_bytes() == b"mine"


def test_files_are_synced_before_they_get_their_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events: list[tuple[str, str]] = []
    names: dict[int, str] = {}
    real = system.primitives

    def opened(path: Any, *rest: Any) -> int:
        fd = real.open(path, *rest)
        names[fd] = Path(path).name
        return fd

    def synced(fd: int) -> None:
        events.append(("sync", names[fd]))
        os.fsync(fd)

    def renamed(source: Any, target: Any) -> None:
        events.append(("rename", Path(target).name))
        os.replace(source, target)

    calls = {name: getattr(real, name) for name in FIELDS}
    calls |= {"open": opened, "fsync": synced, "fsync_folder": synced, "replace": renamed}
    monkeypatch.setattr(system, "primitives", system.Primitives(**calls))
    write(tmp_path / "out", **WAYS["sharded"])
    first_rename = next(i for i, event in enumerate(events) if event[0] == "rename")
    for name in ["shard-0", "shard-1", "file-0", "file-1", "file-2", ".taskalg-partial"]:
        assert ("sync", name) in events[:first_rename], name
    last_rename = max(i for i, event in enumerate(events) if event[0] == "rename")
    assert events[last_rename] == ("rename", INDEX)
    assert ("sync", "out") in events[first_rename:last_rename]
    assert ("sync", "additional_chat_templates") in events[first_rename:last_rename]
    assert {name for _, name in events[last_rename + 1 :]} == {"out", tmp_path.name}


# Full disks

FULL_DISK = """
import dataclasses, os, sys
from pathlib import Path
from taskalg import files, system
from taskalg.dtypes import F32
from taskalg.errors import OutputError
from taskalg.output.layout import OutputTensor, lay_out
from taskalg.output.publish import stage
disk, blind, out = Path(sys.argv[1]), sys.argv[2].split(","), Path(sys.argv[1]) / sys.argv[3]
if "free" in blind:
    system.primitives = dataclasses.replace(system.primitives, free=lambda path: 10**12)
if "fallocate" in blind:
    system.primitives = dataclasses.replace(system.primitives, fallocate=None)
layouts = lay_out([OutputTensor(n, F32, (500_000,), 2_000_000) for n in "abc"])
try:
    with stage(out, layouts) as staged:
        for offset in layouts[0].offsets:
            with staged.files.using(0) as fd:
                files.write_at(fd, bytes(2_000_000), offset)
        staged.publish()
except OutputError as error:
    print(error.exit_code, error)
print("left:", sorted(os.listdir(disk)))
"""


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
@pytest.mark.parametrize(
    ("blind", "expected"),
    [
        ("", "5 not enough space for"),
        ("free", "5 cannot create '"),
        ("free,fallocate", "5 cannot write '"),
    ],
)
def test_a_disk_that_is_full(tmp_path: Path, out: str, blind: str, expected: str) -> None:
    unshare = shutil.which("unshare")
    mount = f"mount -t tmpfs -o size=5m tmpfs {tmp_path}"
    if unshare is None or subprocess.run([unshare, "-Urm", "sh", "-c", mount]).returncode:
        pytest.skip("no unprivileged user namespaces here, so no small disk")
    command = f'{mount} && exec "$@"'
    script = [sys.executable, "-c", FULL_DISK, str(tmp_path), blind, out]
    run = subprocess.run(
        [unshare, "-Urm", "sh", "-c", command, "sh", *script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert run.stdout.startswith(expected), run.stdout + run.stderr
    assert "help: free some space" in run.stdout
    assert run.stdout.endswith("left: []\n")


# Side files


def donor(folder: Path, **more: bytes) -> Checkpoint:
    write(folder)
    for name, content in more.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return open_checkpoint(folder)


TAKEN = {
    *("config.json", "generation_config.json", "preprocessor_config.json", "modeling_own.py"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("vocab.txt", "merges.txt", "x.tiktoken", "chat_template.jinja", "LICENSE", "NOTICE.md"),
    "additional_chat_templates/tool.jinja",
}
LEFT = {
    *("README.md", "readme.txt", ".gitattributes", ".hidden", "taskalg.json"),
    *("optimizer.pt", "training_args.bin", "trainer_state.json", "all_results.json", "rng.pth"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "other.safetensors", "model.gguf"),
    *("tf_model.h5", "flax_model.msgpack", "model.onnx", "model.ckpt.data-00000-of-00001"),
    *("mergekit_config.yml", "events.out.tfevents.1", "zero_to_fp32.py"),
    *("additional_chat_templates/note.md", "sub/file.json"),
}


def test_everything_small_that_is_not_weights_comes_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = donor(tmp_path / "in", **dict.fromkeys(TAKEN | LEFT, b"{}"))
    assert {side.name for side in side_files(given, TENSORS)} == TAKEN
    (tmp_path / "in" / "tokenizer.json").write_bytes(b" " * 1001)
    monkeypatch.setattr("taskalg.output.sidefiles.LARGEST_SIDE_FILE", 1000)
    assert {side.name for side in side_files(given, TENSORS)} == TAKEN - {"tokenizer.json"}


def test_side_files_may_be_links_and_must_be_there(tmp_path: Path) -> None:
    given = donor(tmp_path / "in")
    (tmp_path / "blob").write_bytes(b"content")
    (tmp_path / "in" / "vocab.txt").symlink_to("../blob")
    os.mkfifo(tmp_path / "in" / "fifo")
    assert side_files(given, TENSORS) == (SideFile("vocab.txt", b"content"),)
    (tmp_path / "blob").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*vocab.txt'"):
        side_files(given, TENSORS)


def test_links_out_of_the_folder_are_named(tmp_path: Path) -> None:
    given = donor(tmp_path / "in", **{"a.txt": b"a"})
    (tmp_path / "secret").write_bytes(b"content")
    (tmp_path / "in" / "vocab.txt").symlink_to("../secret")
    (tmp_path / "in" / "b.txt").symlink_to("a.txt")
    assert linked_from_outside(given) == ["vocab.txt"]
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    (tmp_path / "in").rename(snapshot)
    assert linked_from_outside(open_checkpoint(snapshot)) == []  # links are how the cache is made


def test_a_bare_file_has_no_side_files(tmp_path: Path) -> None:
    donor(tmp_path / "in", **{"config.json": b"{}"})
    assert side_files(open_checkpoint(tmp_path / "in" / "model.safetensors"), TENSORS) == ()


CONFIGS: dict[str, tuple[Any, Any]] = {
    "new key": ({"dtype": "float32"}, {"dtype": "bfloat16"}),
    "old key": ({"torch_dtype": "float16"}, {"torch_dtype": "bfloat16"}),
    "prefixed": ({"torch_dtype": "torch.float16"}, {"torch_dtype": "bfloat16"}),
    "both": (
        {"dtype": "float32", "torch_dtype": "float16", "x": 1e-05},
        {"dtype": "bfloat16", "torch_dtype": "bfloat16", "x": 1e-05},
    ),
    "nested": (
        {"text_config": {"dtype": "float32", "deeper": {"torch_dtype": "float32"}}, "b": "ü"},
        {"text_config": {"dtype": "bfloat16", "deeper": {"torch_dtype": "bfloat16"}}, "b": "ü"},
    ),
    "for each part": (
        {"dtype": {"text": "float32", "vision": "float16", "n": 1}},
        {"dtype": {"text": "bfloat16", "vision": "bfloat16", "n": 1}},
    ),
    "same": ({"dtype": "bfloat16"}, None),
    "none": ({"hidden_size": 4}, None),
    "auto": ({"dtype": "auto"}, None),
    "null": ({"dtype": None}, None),
    "a text": ({"about": '"dtype": "float32"', "dtypes": "float32"}, None),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_the_config_s_dtype_follows_the_output(tmp_path: Path, case: str) -> None:
    before, after = CONFIGS[case]
    content = json.dumps(before, indent=3).encode()
    given = donor(tmp_path / "in", **{"config.json": content})
    wanted = [tensor("a", BF16), tensor("b", BF16), tensor("n", I64)]
    (config,) = side_files(given, wanted)
    if after is None:
        assert config.content == content
    else:
        assert config.content == (json.dumps(after, indent=2) + "\n").encode()
    for mixed in ([*wanted, tensor("c", F16)], [tensor("n", I64)]):
        assert side_files(given, mixed)[0].content == content


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("path", "last"),
    [("/home/me/secret/gpt2", "gpt2"), ("../gpt2-x/", "gpt2-x"), ("C:\\me\\gpt2", "gpt2")],
)
def test_no_local_path_comes_along_with_a_config(
    tmp_path: Path, name: str, path: str, last: str
) -> None:
    content = {"_name_or_path": path, "text_config": {"name_or_path": path}, "vocab_file": "x"}
    given = donor(tmp_path / "in", **{name: json.dumps(content).encode()})
    (config,) = side_files(given, TENSORS)
    assert json.loads(config.content) == {
        "_name_or_path": last,
        "text_config": {"name_or_path": last},
        "vocab_file": "x",
    }


@pytest.mark.parametrize("path", ["gpt2", "org/gpt2", ""])
def test_the_name_of_a_model_on_the_hub_stays(tmp_path: Path, path: str) -> None:
    content = json.dumps({"_name_or_path": path}).encode()
    given = donor(tmp_path / "in", **{"config.json": content})
    assert side_files(given, TENSORS)[0].content == content


def test_a_config_that_is_not_json_is_refused(tmp_path: Path) -> None:
    given = donor(tmp_path / "in")
    for content in (b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "in" / "config.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"config\.json' is not JSON"):
            side_files(given, TENSORS[1:3])
