"""The fault matrix, row by row: each fault caused for real where that needs no root, and what the
command line makes of it. Other files test each part in depth; here is the one proof from the
outside. Rows 27 (GPU) and 28 (several workers) belong to the engines and jobs they are about.
"""

import errno
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save, save_file

import taskalg
from taskalg import CheckpointError, system
from taskalg.checkpoints.registry import open_checkpoint
from taskalg.cli.main import main
from tests.disks import Disk, recorded
from tests.faults import Faults, inject, unsynced
from tests.hub_server import Hub, serve, with_headers
from tests.merging import fine, inputs

INDEX = "model.safetensors.index.json"
MODULE = [sys.executable, "-m", "taskalg"]
UNSHARE = ["unshare", "-Urm", "sh", "-c"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a model and a fine-tuned one, as bare files, and go where they are."""
    weights = np.random.default_rng(0).standard_normal((4, 50_000)).astype(np.float32)
    for name, first in (("base", 0), ("ft", 2)):
        tensors = {"layers.0.w": weights[first], "layers.1.w": weights[first + 1]}
        save_file({**tensors, "ids": np.arange(8)}, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BASE, FT = ("--model", "base=base.safetensors"), ("--model", "ft=ft.safetensors")
HALVES = ("base/2 + ft/2", *BASE, *FT)
OUT = ("-o", "out")


def merge(*args: str, code: int = 0) -> str:
    """Run a merge in this process; return what it says, once its exit code is right."""
    result = CliRunner().invoke(main, ["merge", *args], prog_name="taskalg")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output and result.stdout == ""
    return result.stderr


def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)


def finish(process: subprocess.Popen[str], code: int, timeout: float = 250) -> str:
    """Wait for a command; return what it printed, once its exit code is right."""
    stdout, stderr = process.communicate(timeout=timeout)
    assert process.returncode == code, stdout + stderr
    assert "Traceback" not in stderr
    return stdout + stderr


def shrink(folder: Path) -> None:
    """Make the models so small that the slow engine has a second's work."""
    for name in ("base", "ft"):
        weights = load_file(folder / f"{name}.safetensors")["layers.0.w"]
        save_file({"layers.0.w": weights[:20_000].copy()}, folder / f"{name}.safetensors")


def is_writing(out: Path) -> bool:
    """Tell whether a run has made its temporary files."""
    return any(path.stat().st_size > 10_000 for path in out.glob(".taskalg-partial/*"))


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def digest(out: str) -> str:
    """Return one hash of all weights of an output, names and index included."""
    found = {name: content for name, content in tree(Path(out)).items() if "model" in name}
    whole = b"".join(name.encode() + hashlib.sha256(found[name]).digest() for name in sorted(found))
    return hashlib.sha256(whole).hexdigest()


def refused(folder: Path, *args: str, code: int) -> str:
    """Run what must fail: the inputs are as they were, and nothing else is there."""
    before = tree(folder)
    said = merge(*args, code=code)
    assert tree(folder) == before
    return said


def raw(header: str | bytes, data: int = 0, length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data)


def entry(name: str, code: str, shape: str, ends: str) -> str:
    return f'"{name}":{{"dtype":"{code}","shape":{shape},"data_offsets":{ends}}}'


def bad_input(folder: Path, content: bytes) -> str:
    """Give a file as an input that must be refused, and return what is said."""
    (folder / "bad.safetensors").write_bytes(content)
    said = refused(folder, "bad", "--model", "bad=bad.safetensors", *OUT, code=4)
    assert "'bad.safetensors'" in said
    return said


def namespace(mount: str) -> None:
    """Skip unless a file system can be mounted without root."""
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, mount]).returncode:
        pytest.skip("no unprivileged user namespaces here")


# ---- The output


BLIND = """
import dataclasses
from taskalg import system
from taskalg.__main__ import run
calls = {"free": lambda path: 10**12, "fallocate": None}
system.primitives = dataclasses.replace(system.primitives, **calls)
run()
"""


@pytest.mark.parametrize("command", [MODULE, [sys.executable, "-c", BLIND]], ids=["", "blind"])
def test_row_01_disk_full(folder: Path, command: list[str]) -> None:
    (folder / "disk").mkdir()
    mount = "mount -t tmpfs -o size=200k tmpfs disk"
    namespace(mount)
    script = f'{mount} && "$@"; code=$?; echo left: $(ls -A disk); exit $code'
    process = start([*UNSHARE, script, "sh", *command, "merge", *HALVES, "-o", "disk/out"])
    said = finish(process, 5)
    assert "free some space" in said
    assert "left:\n" in said


def test_row_01_disk_full_at_each_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    writes = ("truncate", "pwrite", "fsync")
    counter = Faults(only=writes)
    for at in range(1, 100):
        faults = Faults(at, sticky=True, error=full, only=writes) if at > 1 else counter
        with monkeypatch.context() as context:
            inject(context, faults)
            if at == 1:
                merge(*HALVES, *OUT, "--shard-size", "200kB")
                shutil.rmtree("out")
            elif at <= len(counter.calls):
                refused(folder, *HALVES, *OUT, "--shard-size", "200kB", code=5)
    assert len(counter.calls) > 8


def test_row_02_file_size_limit(folder: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    said = finish(start([*MODULE, "merge", *HALVES, *OUT], preexec_fn=limit), 5)
    assert "file too large" in said
    assert not (folder / "out").exists()


# ---- Rows 3 to 6: a small merge, again and again

SMALLEST = ["base + 0.5*(ft - base)[0:3]", "--model", "base=base", "--model", "ft=ft"]
SMALLEST += ["--shard-size", "64B", "--threads", "1"]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make two tiny models and merge them; return the hash of what comes out."""
    monkeypatch.chdir(inputs(tmp_path))
    unsynced(monkeypatch)
    fine(monkeypatch)
    merge(*SMALLEST, "-o", "expected")
    return digest("expected")


def is_model(path: str) -> bool:
    """Tell whether anyone would load a model from there."""
    try:
        open_checkpoint(path)
    except CheckpointError:
        return False
    return True


def check_rerun(out: str, expected: str) -> None:
    """Check that there is nothing or all, and that the same command completes it."""
    complete = is_model(out)
    assert not complete or digest(out) == expected
    merge(*SMALLEST, "-o", out, *["--overwrite"] * complete)
    assert digest(out) == expected
    assert not list(Path(out).rglob(".taskalg*"))


def test_row_03_any_call_fails(small: str) -> None:
    """Some fail once, some for good, and some move a byte; test_crashes.py has all of them."""
    at, failed = -1, True
    while failed:
        at += 2
        faults = Faults(at, sticky=at % 3 == 1, short=at % 3 == 2)
        with pytest.MonkeyPatch.context() as patch:
            inject(patch, faults)
            result = CliRunner().invoke(main, ["merge", *SMALLEST, "-o", "out"])
        faults.end()
        failed = faults.failed
        assert result.exit_code in (0, 4, 5) and "Traceback" not in result.output
        if result.exit_code == 0:
            assert digest("out") == small
        check_rerun("out", small)
        shutil.rmtree("out")
    assert at > 50


KILLED = """
import dataclasses, os, signal, sys
from taskalg import system
from taskalg.cli.main import main

def merge(out, at):
    calls = 0
    def counted(call):
        def killing(*arguments):
            nonlocal calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)
        return killing
    real = system.primitives
    table = {f.name: getattr(real, f.name) for f in dataclasses.fields(real)}
    table = {name: call and counted(call) for name, call in table.items()}
    system.primitives = dataclasses.replace(real, **table)
    try:
        main([*sys.argv[1:], "--quiet", "-o", out])
    except SystemExit as stop:
        assert stop.code == 0, stop.code
    system.primitives = real

merge("warm", 0)
at = status = 1
while status:
    child = os.fork()
    if not child:
        merge(f"out{at}", at)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    at += 3
"""


def test_row_04_killed_at_any_call(small: str) -> None:
    """At every third; test_crashes.py has all, without a process for each."""
    finish(start([sys.executable, "-c", KILLED, "merge", *SMALLEST]), 0)
    found = [path.name for path in Path().glob("out*")]
    assert len(found) > 20
    assert sum(not is_model(name) for name in found) > 10
    for name in found:
        check_rerun(name, small)


def test_row_05_power_loss(tmp_path: Path, small: str) -> None:
    states: list[Path] = []

    def lose(disk: Disk) -> None:
        states.append(tmp_path / "states" / str(len(states)))
        states[-1].mkdir(parents=True)
        disk.lost_power(random, states[-1])

    random = Random(0)
    (tmp_path / "to").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(tmp_path / "to")
        disk.begin()
        disk.moment = lose
        recorded(patch, disk)
        merge(*SMALLEST, "-o", "to/out")
    assert len(states) > 30
    for state in states:
        check_rerun(str(state / "out"), small)


def test_row_06_two_runs_to_one_output(folder: Path) -> None:
    shrink(folder)
    first = start([*MODULE, "merge", *HALVES, *OUT, "--engine", "reference"])
    while first.poll() is None and not is_writing(folder / "out"):
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    for more in ((), ("--overwrite",)):
        assert "another run is writing" in merge(*HALVES, *OUT, *more, code=5)
    first.send_signal(signal.SIGCONT)
    finish(first, 0)
    merge(*HALVES, "-o", "alone")
    assert digest("out") == digest("alone")


OVERLAPS = ["in", "in/merged", "in/model.safetensors", ".", "soft", "soft/x", "hard.safetensors"]


@pytest.mark.parametrize("out", OVERLAPS)
def test_row_07_output_overlaps_an_input(folder: Path, out: str) -> None:
    (folder / "in").mkdir()
    (folder / "ft.safetensors").rename("in/model.safetensors")
    (folder / "soft").symlink_to("in")
    os.link("in/model.safetensors", "hard.safetensors")
    args = ("base/2 + ft/2", *BASE, "--model", "ft=in", "-o", out, "--overwrite")
    assert "an input" in refused(folder, *args, code=5)


def test_row_07_output_overlaps_an_input_under_another_name(folder: Path) -> None:
    """A bind mount gives a folder two names, as a file system that ignores case does."""
    (folder / "in").mkdir()
    (folder / "ft.safetensors").rename("in/model.safetensors")
    (folder / "IN").mkdir()
    mount = "mount --bind in IN"
    namespace(mount)
    args = ("merge", "base/2 + ft/2", *BASE, "--model", "ft=in", "-o", "IN", "--overwrite")
    before = tree(folder)
    process = start([*UNSHARE, f'{mount} && exec "$@"', "sh", *MODULE, *args])
    assert "an input" in finish(process, 5)
    assert tree(folder) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_row_15_stale_shards_in_the_output(folder: Path, overwrite: bool) -> None:
    merge(*HALVES, *OUT, "--shard-size", "200kB")
    assert {INDEX, "model-00001-of-00003.safetensors"} <= set(os.listdir("out"))
    if not overwrite:
        assert "is not empty" in refused(folder, *HALVES, *OUT, code=5)
        return
    merge(*HALVES, *OUT, "--overwrite")
    merge(*HALVES, "-o", "fresh")
    assert tree(folder / "out").keys() == tree(folder / "fresh").keys()
    (folder / "out" / "pytorch_model.bin").touch()
    said = refused(folder, *HALVES, *OUT, "--overwrite", code=5)
    assert "'pytorch_model.bin' of another model" in said


# ---- The inputs


def at_first_read(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Change something when the first tensor is read, after all headers."""
    real = system.primitives.preadv
    assert real is not None
    changes = [change]

    def preadv(fd: int, views: Any, offset: int) -> int:
        if changes:
            changes.pop()()
        return real(fd, views, offset)

    monkeypatch.setattr(system, "primitives", replace(system.primitives, preadv=preadv))


@pytest.mark.parametrize("change", ["truncated", "overwritten", "replaced"])
def test_row_08_input_changed_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    models = {name: f"{name}.safetensors" for name in ("base", "ft")}
    recipe = taskalg.compile("base/2 + ft/2", models=models)
    recipe.check()
    path = folder / "ft.safetensors"

    def replace() -> None:
        shutil.copy(path, "copy")
        os.replace("copy", path)

    ways: dict[str, Callable[[], Any]] = {
        "truncated": lambda: os.truncate(path, path.stat().st_size // 2),
        "overwritten": lambda: path.write_bytes(path.read_bytes()),
        "replaced": replace,
    }
    at_first_read(monkeypatch, ways[change])
    with pytest.raises(CheckpointError, match=r"'ft.safetensors' (changed|ends too early)"):
        recipe.save("out")
    assert not (folder / "out").exists()


T = entry("t", "F32", "[1]", "[0,4]")
RANGES = {
    "truncated": (raw("{" + T + "}", 3), "'t' ends after the file does"),
    "trailing bytes": (raw("{" + T + "}", 7), "last 3 bytes belong to no tensor"),
    "hole": (raw("{" + T + "," + entry("u", "U8", "[1]", "[8,9]") + "}", 9), "gap before tensor"),
    "gap at the start": (raw("{" + entry("t", "F32", "[1]", "[4,8]") + "}", 8), "gap before"),
    "overlap": (raw("{" + T + "," + entry("u", "U8", "[4]", "[2,6]") + "}", 6), "'u' overlaps"),
    "size mismatch": (raw("{" + entry("t", "F32", "[2]", "[0,4]") + "}", 4), "'t' has a range of"),
    "overflow": (raw("{" + entry("t", "F32", f"[{2**62},4]", "[0,0]") + "}"), "'t' overflows"),
    "negative": (raw("{" + entry("t", "F32", "[-1]", "[0,4]") + "}", 4), "'t' has a wrong number"),
    "float": (raw("{" + entry("t", "F32", "[1.0]", "[0,4]") + "}", 4), "'t' has a wrong number"),
}


@pytest.mark.parametrize("case", RANGES)
def test_row_09_ranges_and_shapes_that_do_not_fit(folder: Path, case: str) -> None:
    content, words = RANGES[case]
    assert words in bad_input(folder, content)


@pytest.mark.parametrize("second", [T, T.replace('"t"', r'"\u0074"'), T.replace("F32", "I32")])
def test_row_10_duplicate_tensor_names(folder: Path, second: str) -> None:
    assert "'t' twice" in bad_input(folder, raw("{" + T + "," + second + "}", 4))


BOMBS = {
    "longer than the file": (raw("{}", length=2**63), "announce a header of 9,223,372,036,854"),
    "deep lists": (raw('{"t":' + "[" * 9_000 + " " * 100_000), "nested too deep"),
    "deep objects": (raw('{"a longer name":' * 10_000), "nested too deep"),
    "brackets": (raw('{"t":[' + "[]," * 100_000 + "[]]}"), "more brackets than any list"),
    "not UTF-8": (raw(b'{"\xff\xfe":1}'), "not UTF-8"),
    "NUL padding": (raw("{}" + "\0" * 100), "not JSON"),
    "long number": (raw('{"t":' + "9" * 100_000 + "}"), "not JSON"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_row_11_header_bombs(folder: Path, case: str) -> None:
    content, words = BOMBS[case]
    tracemalloc.start()
    try:
        assert words in bad_input(folder, content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000 + 30 * len(content)


def test_row_11_header_beyond_the_limit(folder: Path) -> None:
    with open("bad.safetensors", "wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(100_000_100)  # sparse
    tracemalloc.start()
    try:
        said = merge("bad", "--model", "bad=bad.safetensors", *OUT, code=4)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert "header of 100,000,001 bytes" in said


def many_tensors(path: Path, count: int) -> int:
    """Write so many tensors of one element; return the bytes of the header."""
    entries = (entry(f"{i:x}", "F16", "[]", f"[{2 * i},{2 * i + 2}]") for i in range(count))
    content = raw("{" + ",".join(entries) + "}", 2 * count)
    path.write_bytes(content)
    return len(content) - 2 * count


MEASURED = """
import re, sys
from taskalg.cli.main import main
try:
    main()
except SystemExit as stop:
    status = open("/proc/self/status").read()
    print("peak", re.search(r"VmHWM:\\s+(\\d+)", status)[1], file=sys.stderr)
    raise
"""


def peak_memory(*args: str) -> int:
    """Run a command that must succeed; return its largest resident size [bytes]."""
    said = finish(start([sys.executable, "-c", MEASURED, *args]), 0, timeout=1500)
    return int(said.split("peak ")[-1]) * 1024


@pytest.mark.parametrize(
    "count", [30_000, pytest.param(1_450_000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_row_12_many_tiny_tensors(folder: Path, count: int) -> None:
    size = many_tensors(folder / "a.safetensors", count)
    shutil.copy("a.safetensors", "b.safetensors")
    models = ("--model", "a=a.safetensors", "--model", "b=b.safetensors")
    assert size < 100_000_000
    assert peak_memory("check", "a - b", *models) < 150_000_000 + 2 * 15 * size
    shards = ("--shard-size", f"{count // 3}B")  # six: readers refuse longer headers than 25 MB
    assert peak_memory("merge", "a/2 + b/2", *models, *shards, *OUT) < 350_000_000 + 40 * size
    assert len(json.loads(Path("out", INDEX).read_bytes())["weight_map"]) == count


def sharded(folder: Path, homes: Any, metadata: Any = ()) -> None:
    """Make a folder with two shards, and an index that says `homes`."""
    (folder / "model").mkdir()
    for name in ("one", "two"):
        save_file({name: np.ones(3, np.float32)}, folder / "model" / f"{name}.safetensors")
    index = {"metadata": {} if metadata == () else metadata, "weight_map": homes}
    (folder / "model" / INDEX).write_text(json.dumps(index), encoding="utf-8")


ONE, TWO = "one.safetensors", "two.safetensors"
INDEXES: dict[str, tuple[Any, str]] = {
    "fine": ({"one": ONE, "two": TWO}, ""),
    "parent": ({"one": "../one.safetensors"}, "leads out of the folder"),
    "absolute": ({"one": "/one.safetensors"}, "is absolute"),
    "drive": ({"one": "C:one.safetensors"}, "has a drive letter"),
    "NUL": ({"one": "one\0.safetensors"}, "is no file name"),
    "backslash": ({"one": "..\\one.safetensors"}, "has a backslash"),
    "missing shard": ({"one": ONE, "two": TWO, "x": "3.safetensors"}, "is missing"),
    "not in its shard": ({"one": ONE, "two": TWO, "x": TWO}, "lists tensor 'x', which no shard"),
    "wrong shard": ({"one": TWO, "two": TWO, "x": ONE}, ""),
    "not listed": ({"one": ONE, "x": TWO}, ""),
}
CONTENTS = {
    b"{": "it is not JSON",
    b"[]": "it is not a JSON object",
    b"\xef\xbb\xbf{}": "it starts with a byte-order mark",
    b'{"weight_map":{"one":"one.safetensors"}}': "it has no 'metadata' object",
}


def refused_model(folder: Path) -> str:
    return refused(folder, "model", "--model", "model=model", *OUT, code=4).splitlines()[0]


def test_row_13_indexes(folder: Path) -> None:
    said = []
    for homes, words in INDEXES.values():
        sharded(folder, homes)
        if homes == INDEXES["fine"][0]:
            merge("model", "--model", "model=model", *OUT)
            shutil.rmtree("out")
        else:
            said.append(refused_model(folder))
            assert words in said[-1]
        shutil.rmtree("model")
    sharded(folder, INDEXES["fine"][0])
    for content, words in CONTENTS.items():
        (folder / "model" / INDEX).write_bytes(content)
        said.append(refused_model(folder))
        assert words in said[-1]
    shutil.rmtree("model")
    sharded(folder, {"one": ONE, "two": TWO})
    (folder / "model" / TWO).unlink()
    (folder / "model" / TWO).symlink_to(TWO)
    said.append(refused_model(folder))
    assert "too many levels of symbolic links" in said[-1]
    (folder / "model" / TWO).unlink()
    shutil.copy("model/one.safetensors", f"model/{TWO}")
    said.append(refused_model(folder))
    assert "tensor 'one' is in two shards" in said[-1]
    assert len({re.sub(r"'[^']*'", "", line) for line in said}) == len(said) - 2


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path may have 108 bytes only
        listener.bind(path.name)
        os.chdir(here)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "named pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": os.mkdir,
    "socket": bind_socket,
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["model/two.safetensors", "alone.safetensors"])
def test_row_14_special_files(folder: Path, kind: str, name: str) -> None:
    sharded(folder, {"one": ONE, "two": TWO})
    if kind == "folder" and name == "alone.safetensors":
        return  # a folder may be a model
    Path(name).unlink(missing_ok=True)
    SPECIAL[kind](folder / name)
    path = name if name.startswith("alone") else "model"
    assert f"is a {kind}, not a file" in merge("m", "--model", f"m={path}", *OUT, code=4)


def test_row_14_an_unreadable_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    inject(monkeypatch, Faults(1, error=denied, only=("open",)))  # root may read everything
    assert "permission denied" in refused(folder, *HALVES, *OUT, code=4)


F32 = np.float32
MISMATCHES: dict[str, tuple[Any, Any, str]] = {
    "shape": (np.ones((2, 3), F32), np.ones((2, 4), F32), "'t'"),
    "transposed": (np.ones((2, 3), F32), np.ones((3, 2), F32), "'t'"),
    "rows of a vocabulary": (np.ones((5, 2), F32), np.ones((7, 2), F32), "'t'"),
    "scalar and 1-D": (np.ones((), F32), np.ones(1, F32), "'t'"),
    "integers and floats": (np.ones(2, np.int64), np.ones(2, F32), "'t'"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_row_16_checkpoints_that_do_not_fit(folder: Path, case: str) -> None:
    first, second, words = MISMATCHES[case]
    save_file({"t": first, "u": np.ones(2, F32)}, "base.safetensors")
    save_file({"t": second, "u": np.ones(2, F32)}, "ft.safetensors")
    assert words in refused(folder, *HALVES, *OUT, code=3)


def test_row_16_names_that_differ_are_listed_and_counted(folder: Path) -> None:
    save_file({f"t{i}": np.ones(2, F32) for i in range(9)}, "base.safetensors")
    save_file({"t0": np.ones(2, F32)}, "ft.safetensors")
    said = refused(folder, *HALVES, *OUT, code=3)
    assert said.startswith("8 tensors are not in every checkpoint")
    assert "'t1' is in base, not in ft" in said and "and 3 more" in said
    assert "--only-shared" in said
    merge(*HALVES, *OUT, "--only-shared")
    assert len(load_file("out/model.safetensors")) == 9


def test_row_17_nan_in_an_input_is_reported(folder: Path) -> None:
    weights = load_file("ft.safetensors")
    weights["layers.0.w"][:2] = np.nan, np.inf
    save_file(weights, "ft.safetensors")
    said = merge(*HALVES, *OUT)
    assert "NaN or Inf in the inputs of 'layers.0.w'" in said
    found = load_file("out/model.safetensors")
    assert np.isnan(found["layers.0.w"][0]) and np.isinf(found["layers.0.w"][1])
    assert not np.isnan(found["layers.1.w"]).any()


@pytest.mark.parametrize(("dtype", "scale"), [("f16", "1e5"), ("f8_e4m3", "500"), ("bf16", "1e39")])
def test_row_17_output_gains_what_is_not_finite(folder: Path, dtype: str, scale: str) -> None:
    """`--on-overflow` is that policy: an error unless the user asks for a warning."""
    args = (f"{scale}*base", *BASE, "--allow-partial", "--dtype", dtype, *OUT)
    assert "overflows" in refused(folder, *args, code=3)
    assert "overflow in 'layers.0.w' and 'layers.1.w'" in merge(*args, "--on-overflow", "warn")


EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"


@pytest.mark.parametrize(("copy", "code"), [(1.0, 0), (1.5, 3)])
def test_row_18_tied_weights_stored_once_and_twice(folder: Path, copy: float, code: int) -> None:
    def weights(value: float) -> dict[str, Any]:
        return {name: np.full(2, value, F32) for name in (EMBEDDING, "transformer.ln_f.weight")}

    save_file({**weights(1), HEAD: np.full(2, copy, F32)}, "base.safetensors")
    save_file(weights(2), "ft.safetensors")
    args = ("base/4 + 3*ft/4", *BASE, *FT, *OUT, "--donor", "base")
    if code:
        assert f"'{HEAD}' and '{EMBEDDING}' differ in base" in refused(folder, *args, code=code)
        return
    merge(*args)
    found = load_file("out/model.safetensors")
    assert found[HEAD].tolist() == found[EMBEDDING].tolist() == [1.75, 1.75]


@pytest.mark.parametrize("expression", ["base - ft + base", "base + 0.5*(base - base/4 - 3/4*ft)"])
def test_row_19_inputs_are_never_written(folder: Path, expression: str) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in before:
        os.chmod(name, 0o444)
    merge(expression, *BASE, *FT, *OUT)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_row_20_integer_tensors(folder: Path) -> None:
    """Equal ones are copied; when they differ the donor's are, or none with --strict."""
    merge(*HALVES, *OUT)
    assert load_file("out/model.safetensors")["ids"].tolist() == list(range(8))
    weights = load_file("ft.safetensors")
    save_file({**weights, "ids": np.arange(8) + 1}, "ft.safetensors")
    assert "'ids'" in refused(folder, *HALVES, "-o", "other", "--strict", code=3)
    assert "integer tensors differ, those of base are taken: 'ids'" in merge(*HALVES, "-o", "other")
    assert load_file("other/model.safetensors")["ids"].tolist() == list(range(8))


@pytest.mark.parametrize("how", ["config", "packed", "sub-byte"])
def test_row_21_quantized_inputs(folder: Path, how: str) -> None:
    (folder / "model").mkdir()
    path = folder / "model" / "model.safetensors"
    save_file({"a.weight": np.ones(4, F32)}, path)
    if how == "config":
        config = {"quantization_config": {"quant_method": "gptq"}}
        (folder / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    elif how == "packed":
        save_file({"a.qweight": np.ones(4, np.uint8), "a.scales": np.ones(1, F32)}, path)
    else:
        path.write_bytes(raw("{" + entry("t", "F4", "[8]", "[0,4]") + "}", 4))
    said = refused(folder, "m", "--model", "m=model", *OUT, code=4)
    assert "quantiz" in said


class Hostile:
    """What a pickle can be: a call of anything."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("hostile", [False, True])
def test_row_22_pickled_input(folder: Path, hostile: bool) -> None:
    content = {"layers.0.w": torch.ones(3)} | ({"x": Hostile()} if hostile else {})
    torch.save(content, "model.bin")
    args = ("m", "--model", "m=model.bin", *OUT)
    assert "--allow-pickle" in refused(folder, *args, code=4)
    if hostile:
        refused(folder, *args, "--allow-pickle", code=4)
        torch.load("model.bin", weights_only=False)
        assert (folder / "owned").exists()  # it is what it says
        return
    merge(*args, "--allow-pickle")
    assert load_file("out/model.safetensors")["layers.0.w"].tolist() == [1, 1, 1]


# ---- Models on the Hub

WITHOUT_PAUSES = """
from taskalg.checkpoints.hub import ranged
from taskalg.__main__ import run
ranged.wait = lambda seconds: None
run()
"""
CDN = "GET /cdn"


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    """Start a Hub with one model, whose header takes two requests."""
    found = Hub()
    many = {f"layers.{i}.some.long.name.of.a.weight": np.ones(1, F32) for i in range(2_000)}
    found.put("org/model", {"model.safetensors": save(many)})
    running = serve(found)
    yield found
    running.shutdown()
    running.server_close()


def from_hub(hub: Hub, folder: Path, code: int, **extra: str) -> str:
    home = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), "NO_PROXY": "*"}
    command = [sys.executable, "-c", WITHOUT_PAUSES, "merge", "m", "--model", "m=hf://org/model"]
    said = finish(
        start([*command, *OUT], env=os.environ | {"HF_HUB_OFFLINE": "0"} | home | extra), code
    )
    assert (folder / "out").exists() == (code == 0)
    return said


@pytest.mark.parametrize("status", [416, 429, 500, 503])
def test_row_25_hub_refuses(folder: Path, hub: Hub, status: int) -> None:
    hub.fail(CDN, status)
    assert "org/model" in from_hub(hub, folder, 4)
    assert len(hub.requests) < 50


def test_row_25_hub_recovers(folder: Path, hub: Hub) -> None:
    hub.fail(CDN, 503, times=2)
    from_hub(hub, folder, 0)
    assert len(load_file("out/model.safetensors")) == 2_000


def test_row_25_short_body(folder: Path, hub: Hub) -> None:
    hub.wrong(CDN, lambda answer: replace(answer, body=cast(bytes, answer.body)[:50]))
    assert "50 bytes came" in from_hub(hub, folder, 4)


def test_row_25_file_changes_between_two_reads(folder: Path, hub: Hub) -> None:
    hub.wrong(CDN, lambda answer: answer, times=1)
    hub.wrong(CDN, with_headers(ETag='"another"'))
    assert "is another than a moment ago" in from_hub(hub, folder, 4)


def test_row_25_offline(folder: Path, hub: Hub) -> None:
    assert "HF_HUB_OFFLINE" in from_hub(hub, folder, 4, HF_HUB_OFFLINE="1")
    assert hub.requests == []


# ---- The expression

NAMES = ("--model", "a", "--model", "b", "--model", "model")
TEXTS = {
    "brackets": ("(" * 100_000 + "a" + ")" * 100_000, "nests more than 200 deep"),
    "open brackets": ("(" * 100_000, "ends too soon"),
    "signs": ("-" * 100_000 + "a", "nests more than 200 deep"),
    "selectors": ("a" + "[0]" * 100_000, "nests more than 200 deep"),
    "calls": ("mean(" * 100_000 + "a" + ")" * 100_000, "nests more than 200 deep"),
    "long name": ("x" * 1_000_000, "no checkpoint is named"),
    "long number": ("1" * 1_000_000 + "*a", "too long to be exact"),
    "long decimal": ("0." + "0" * 1_000_000 + "1*a", "too long to be exact"),
    "long zeros": ("1" + "0" * 1_000_000 + "*a", "too long to be exact"),
    "long string": ('a["' + "x" * 1_000_000, "a string is not closed"),
    "large": ("1e999999*a", "too long to be exact"),
    "larger": ("1e" + "9" * 100_000 + "*a", "too long to be exact"),
    "power": ("1e1000*1e1000*a", "too long to be exact"),
    "nan": ("nan*a", "no checkpoint is named 'nan'"),
    "inf": ("a + inf", "no checkpoint is named 'inf'"),
    "confusable": ("mоdel + a", "CYRILLIC SMALL LETTER O"),
    "minus": ("a − b", "write -"),
    "reordered": ("a \u202e+ b", "it changes the order"),
    "NUL": ("a + \0b", "U+0000"),
    "NUL in a string": ('a["\0"]', "U+0000"),
    "unknown": ("a + bb", "did you mean 'b'?"),
    "twice": ("x = a\nx = b\nx", "'x' is bound twice"),
    "empty": ("", "there is no expression"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_row_23_expressions(tmp_path: Path, case: str) -> None:
    text, words = TEXTS[case]
    path = tmp_path / "recipe.ta"
    path.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(main, ["check", "-f", str(path), *NAMES])
    assert result.exit_code == 2, result.output[:2000]
    assert words in result.stderr and result.stdout == ""
    assert "^" in result.stderr or case == "empty"
    assert len(result.stderr) < 2000


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_row_23_as_many_terms(tmp_path: Path, count: int) -> None:
    path = tmp_path / "recipe.ta"
    path.write_text(" + ".join(["a - b"] * count) + " + b", encoding="utf-8")
    result = CliRunner().invoke(main, ["check", "-f", str(path), *NAMES, "--allow-partial"])
    assert result.exit_code == 0, result.output[:2000]
    assert f"{count}*a - {count - 1}*b" in result.stdout


# ---- The environment


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    yield {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def spoil(environment: dict[str, str], how: str) -> None:
    if how == "no HOME":
        for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
            environment.pop(name, None)
    elif how == "read-only cache":
        environment |= {"XDG_CACHE_HOME": "/proc/1", "NUMBA_CACHE_DIR": "/proc/1"}
    else:
        environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("how", ["no HOME", "read-only cache", "C locale"])
def test_row_24_environment(folder: Path, environment: dict[str, str], how: str) -> None:
    spoil(environment, how)
    (folder / "ft.safetensors").rename("λ.safetensors")
    args = ("base/2 + ft/2", *BASE, "--model", "ft=λ.safetensors", "-o", "λout.safetensors")
    process = start([*MODULE, "merge", *args], env=environment, stdin=subprocess.DEVNULL)
    assert "wrote" in finish(process, 0)
    assert (folder / "λout.safetensors").exists()


def test_row_24_a_name_that_the_locale_cannot_spell(
    folder: Path, environment: dict[str, str]
) -> None:
    spoil(environment, "C locale")
    args = ("merge", "base/2 + λ/2", *BASE, "--model", "λ=ft.safetensors", *OUT)
    assert "cannot be a name" in finish(start([*MODULE, *args], env=environment), 2)


@pytest.mark.parametrize("script", ['"$@" | true', '"$@" >&-', '"$@" <&- >/dev/null 2>&-'])
def test_row_24_streams_that_are_closed(folder: Path, script: str) -> None:
    command = [*MODULE, "merge", *HALVES, *OUT, "--json"]
    finish(start(["sh", "-c", script, "sh", *command]), 0)
    assert (folder / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_row_24_signals(folder: Path, number: signal.Signals) -> None:
    shrink(folder)
    args = ("base/3 + 2*ft/3", *BASE, *FT, *OUT, "--engine", "reference")
    process = start([*MODULE, "merge", *args])
    while process.poll() is None and not is_writing(folder / "out"):
        time.sleep(0.01)
    process.send_signal(number)
    assert "interrupted; nothing was published" in finish(process, 130)
    assert not (folder / "out").exists()


# ---- The same bytes


def in_shards(folder: Path, name: str, order: list[int], out: str = "") -> None:
    """Cut a bare file's tensor into nine, in two shards and in this order."""
    weights = load_file(f"{name}.safetensors")["layers.0.w"].reshape(50, -1)
    path = folder / (out or name)
    path.mkdir()
    homes: dict[str, str] = {}
    for shard, part in enumerate((order[:4], order[4:])):
        home = f"model-0000{shard + 1}-of-00002.safetensors"
        save_file({f"layers.{i}.w": weights[i] for i in part}, path / home)
        homes |= {f"layers.{i}.w": home for i in part}
    index = {"metadata": {"total_size": 0}, "weight_map": homes}
    (path / INDEX).write_text(json.dumps(index), encoding="utf-8")


def test_row_26_same_bytes_however_it_is_run(folder: Path, environment: dict[str, str]) -> None:
    in_shards(folder, "base", list(range(9)))
    in_shards(folder, "ft", list(range(9)))
    in_shards(folder, "ft", [5, 8, 0, 7, 2, 1, 6, 3, 4], "other")
    text, size = "base + 0.3*(ft - base)", ("--shard-size", "9kB")
    models = ("--model", "base=base", "--model", "ft=ft")
    runs = {
        "usual": (text, *models),
        **{f"{n} threads": (text, *models, "--threads", str(n)) for n in (1, 2, 7)},
        "reference": (text, *models, "--engine", "reference"),
        "spelling": ("3*ft/10 - (-0.7)*base + 0*ft", *models),
        "other shards": (text, *models[:2], "--model", "ft=other"),
        "other order": ("lerp(ft, base, 7/10)", *models[2:], *models[:2]),
    }
    found = {}
    for name, args in runs.items():
        merge(*args, *size, "-o", name)
        found[name] = digest(name)
    for seed in ("0", "1"):
        args = ("merge", text, *models, *size, "-o", seed)
        finish(start([*MODULE, *args], env={**environment, "PYTHONHASHSEED": seed}), 0)
        found[f"hash seed {seed}"] = digest(seed)
    assert len(set(found.values())) == 1, found


# ---- The matrix is whole

ELSEWHERE = {27, 28}


def rows(source: str) -> set[int]:
    return {int(number) for number in re.findall(r"^def test_row_(\d\d)_\w+\(", source, re.M)}


def test_every_row_has_a_test() -> None:
    assert rows(Path(__file__).read_text(encoding="utf-8")) == set(range(1, 29)) - ELSEWHERE


def test_the_guard_on_rows_can_fail() -> None:
    assert rows("def test_row_07_x() -> None:\n    test_row_08_y()\n") == {7}
