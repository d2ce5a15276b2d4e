import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskalg import files
from taskalg.checkpoints.base import Checkpoint, check_unchanged, open_shard
from taskalg.checkpoints.header import parse_header
from taskalg.checkpoints.registry import open_checkpoint
from taskalg.checkpoints.safetensors import LARGEST_HEADER
from taskalg.dtypes import BY_CODE
from taskalg.errors import CheckpointError
from tests.faults import Faults, inject

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__"
)
DTYPES = st.sampled_from([getattr(torch, dtype.torch) for dtype in BY_CODE.values()])
SHAPES = st.lists(st.integers(0, 4), max_size=4)
INDEX = "model.safetensors.index.json"


def with_header(header: Any, data: int = 0, length: int | None = None) -> bytes:
    """Return a file: a header (bytes, text, or an object to dump) and `data` bytes of zeros."""
    if not isinstance(header, bytes):
        header = (header if isinstance(header, str) else json.dumps(header)).encode()
    count = len(header) if length is None else length
    return count.to_bytes(8, "little") + bytes(header) + bytes(data)


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **more: Any) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def one(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), data: int = 4) -> bytes:
    return with_header({"t": entry(dtype, shape, offsets)}, data)


def open_bytes(tmp_path: Path, content: bytes) -> Checkpoint:
    (tmp_path / "file.safetensors").write_bytes(content)
    return open_checkpoint(tmp_path / "file.safetensors")


def refusal(path: Path) -> str:
    """Open what must be refused, and return what is said about it."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.exit_code == 4
    return str(caught.value)


T4 = '"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
REFUSED = {
    "empty file": (b"", "has 0 bytes"),
    "seven bytes": (b"\2\0\0\0\0\0\0", "has 7 bytes"),
    "header longer than the file": (with_header("{}", length=3), "announce a header of 3 bytes; 2"),
    "header of 2**63 bytes": (with_header("{}", length=2**63), "header of 9,223,372,036,854,775,8"),
    "no header": (with_header(b""), "does not start with '{'"),
    "array": (with_header("[]"), "does not start with '{'"),
    "space before": (with_header(" {}"), "does not start with '{'"),
    "byte-order mark": (with_header("\ufeff{}"), "does not start with '{'"),
    "not JSON": (with_header("{t}"), "header is not JSON"),
    "cut JSON": (with_header('{"t'), "header is not JSON"),
    "two values": (with_header("{}{}"), "header is not JSON"),
    "NUL padding": (with_header("{}\0\0"), "header is not JSON"),
    "control character": (with_header('{"a\nb": 1}'), "header is not JSON"),
    "not UTF-8": (with_header(b'{"\xff":1}'), "header is not UTF-8"),
    "UTF-16": (with_header("{}".encode("utf-16-le")), "header is not JSON"),
    "half a surrogate pair": (with_header(r'{"\ud800":1}'), "header is not UTF-8"),
    "NaN": (with_header('{"t": NaN}'), "holds NaN"),
    "deep lists": (with_header('{"t":' + "[" * 100_000 + " " * 10**6), "nested too deep"),
    "deep objects": (with_header('{"long name":' * 100_000), "nested too deep"),
    "brackets": (with_header('{"t":[' + "[]," * 10_000 + "[]]}"), "more brackets than any"),
    "number of 5,000 digits": (with_header('{"t":' + "9" * 5000 + "}"), "header is not JSON"),
    "name twice": (with_header("{" + T4 + "," + T4 + "}", 4), "has 't' twice"),
    "name twice, escaped": (
        with_header("{" + T4 + "," + T4.replace("t", r"\u0074", 1) + "}", 4),
        "'t' tw",
    ),
    "name twice, other range": (
        with_header("{" + T4 + "," + T4.replace("0,4", "4,8") + "}", 8),
        "has 't' twice",
    ),
    "metadata twice": (
        with_header('{"__metadata__":{"a":"b"},"__metadata__":{"c":"d"}}'),
        "has '__metadata__' twice",
    ),
    "key in metadata twice": (with_header('{"__metadata__":{"a":"b","a":"c"}}'), "has 'a' twice"),
    "dtype twice": (with_header("{" + T4.replace('"dt', '"dtype":"F32","dt') + "}", 4), "twice"),
    "metadata not an object": (with_header({"__metadata__": "pt"}), "'__metadata__' is not an obj"),
    "metadata null": (with_header({"__metadata__": None}), "is not an object\n  note: found null"),
    "metadata not strings": (with_header({"__metadata__": {"a": 1}}), "'a', which is no string"),
    "entry not an object": (with_header({"t": [1]}), "entry of tensor 't' is not an object"),
    "no dtype": (with_header({"t": {"shape": [], "data_offsets": [0, 4]}}, 4), "has no dtype"),
    "no shape": (with_header({"t": {"dtype": "F32", "data_offsets": [0, 4]}}, 4), "has no shape"),
    "no range": (with_header({"t": {"dtype": "F32", "shape": []}}, 4), "has no data_offsets"),
    "dtype not text": (one(dtype=5), "dtype of tensor 't' is not a string"),
    "dtype a list": (one(dtype=["F32"]), "dtype of tensor 't' is not a string"),
    "shape not a list": (one(shape=4), "shape of tensor 't' is not a list"),
    "shape an object": (one(shape={}), "shape of tensor 't' is not a list"),
    "negative": (one(shape=[-1, -1]), "shape of tensor 't' has a wrong number"),
    "float": (one(shape=[1.0]), "shape of tensor 't' has a wrong number"),
    "bool": (one(shape=[True]), "shape of tensor 't' has a wrong number"),
    "text in shape": (one(shape=["1"]), "shape of tensor 't' has a wrong number"),
    "list in shape": (one(shape=[[1]]), "shape of tensor 't' has a wrong number"),
    "float range": (one(offsets=[0, 4.0]), "data_offsets of tensor 't' has a wrong number"),
    "negative range": (one(offsets=[-4, 0]), "data_offsets of tensor 't' has a wrong number"),
    "one offset": (one(offsets=[4]), "'t' does not have two data_offsets"),
    "three offsets": (one(offsets=[0, 2, 4]), "'t' does not have two data_offsets"),
    "65 dimensions": (one(shape=[1] * 65), "'t' has more than 64 dimensions"),
    "overflow": (one(shape=[2**31, 2**31, 4]), "shape of tensor 't' overflows"),
    "overflow to the right size": (one(shape=[2**62 + 1]), "shape of tensor 't' overflows"),
    "overflow behind zero": (one(shape=[2**63, 4, 0], offsets=[0, 0], data=0), "overflows"),
    "digits": (one(shape=[10**4000] * 9), "shape of tensor 't' overflows"),
    "offset with digits": (one(offsets=[0, 10**4000]), "'t' ends after the file does"),
    "range too long": (one(offsets=[0, 8], data=8), "'t' has a range of 8 bytes"),
    "range too short": (one(offsets=[0, 2], data=2), "'t' has a range of 2 bytes"),
    "range backwards": (one(offsets=[4, 0]), "'t' has a range of -4 bytes"),
    "unknown dtype": (one(dtype="F33"), "'t' has an unknown dtype"),
    "lower case": (one(dtype="f32"), "'t' has an unknown dtype"),
    "complex": (one(dtype="C64", data=8), "'t' has dtype C64\n  note: complex"),
    "4 bits": (one(dtype="F4"), "'t' has dtype F4\n  note: several elements share"),
    "6 bits": (one(dtype="F6_E2M3"), "'t' has dtype F6_E2M3\n  note: several elements share"),
    "scales": (one(dtype="F8_E8M0"), "'t' has dtype F8_E8M0\n  note: it holds the scales"),
    "another NaN": (one(dtype="F8_E4M3FNUZ"), "'t' has dtype F8_E4M3FNUZ\n  note: its NaN"),
    "leading gap": (one(offsets=[4, 8], data=8), "gap before tensor 't'"),
    "gap": (
        with_header({"t": entry(), "u": entry(offsets=[8, 12])}, 12),
        "gap before tensor 'u'\n  note: it starts at byte",
    ),
    "overlap": (
        with_header({"t": entry("U8", [4]), "u": entry("U8", [4], [2, 6])}, 6),
        "tensor 'u' overlaps another",
    ),
    "same range": (with_header({"t": entry(), "u": entry()}, 4), "tensor 'u' overlaps another"),
    "empty inside another": (
        with_header({"t": entry(), "u": entry(shape=[0], offsets=[2, 2])}, 4),
        "overlaps another",
    ),
    "trailing bytes": (one(data=7), "its last 3 bytes belong to no tensor"),
    "trailing bytes, no tensor": (with_header({}, 5), "its last 5 bytes belong to no tensor"),
    "cut short": (one(data=3), "cut short: the range of tensor 't' ends after the file does"),
    "hostile name": (
        with_header({"a\x1b[31m\u202e": entry("F33")}, 4),
        r"tensor 'a\x1b[31m\u202e' has an unknown dtype",
    ),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "web page": (b"<!DOCTYPE html><html><body>Not found", "is a web page, not the weights"),
    "pickle": (b"PK\x03\x04" + bytes(60), "probably a PyTorch pickle"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_header_is_refused_and_named(tmp_path: Path, case: str) -> None:
    content, expected = REFUSED[case]
    (tmp_path / "file.safetensors").write_bytes(content)
    said = refusal(tmp_path / "file.safetensors")
    assert expected in said
    assert f"{tmp_path}/file.safetensors" in said
    assert all(
        len(line) < 240 + len(str(tmp_path)) and line.isprintable() for line in said.split("\n")
    )


def test_a_header_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes((LARGEST_HEADER + 1).to_bytes(8, "little"))
    os.truncate(path, LARGEST_HEADER + 100)
    assert "has a header of 100,000,001 bytes" in refusal(path)


ACCEPTED = {
    "no tensors": with_header({}),
    "only metadata": with_header({"__metadata__": {"format": "pt"}}),
    "odd length": with_header({"t": entry()}, 4),
    "spaces after": with_header('{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}   ', 4),
    "spaces inside": with_header('{ "t" : {"dtype":"F32","shape":[1],\n"data_offsets":[0,4]}}', 4),
    "extra key": with_header({"t": entry(strides=[1], note={"a": "b"})}, 4),
    "other order": with_header({"u": entry(offsets=[4, 8]), "t": entry()}, 8),
    "escaped name": with_header(
        r'{"\u0074\n\"":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', 1
    ),
    "surrogate pair": with_header(
        r'{"\ud83d\ude00":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', 1
    ),
    "names that are no paths": with_header({"../\0": entry(), "": entry(offsets=[4, 8])}, 8),
    "scalar": one(shape=[]),
    "odd offset": with_header({"b": entry("U8", [1], [0, 1]), "t": entry(offsets=[1, 5])}, 5),
    "nothing in it": with_header({"t": entry(), "z": entry(shape=[3, 0], offsets=[4, 4])}, 4),
    "nothing at the start": with_header({"z": entry(shape=[0], offsets=[0, 0]), "t": entry()}, 4),
    "64 dimensions": one(shape=[1] * 64),
}


def reference(content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]] | None:
    """Return what the reference reader makes of a file, or None if it refuses."""
    try:
        found = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        return None
    return {name: (i["dtype"], tuple(i["shape"]), bytes(i["data"])) for name, i in found}


def ours(content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    length = int.from_bytes(content[:8], "little")
    specs, _ = parse_header(content[8 : 8 + length], len(content) - 8 - length, path="file")
    parts = {s.name: content[s.offset : s.offset + s.nbytes] for s in specs}
    return {s.name: (s.dtype.code, s.shape, parts[s.name]) for s in specs}


@pytest.mark.parametrize("case", ACCEPTED)
def test_an_odd_but_legal_header_is_read_as_the_reference_reads_it(case: str) -> None:
    assert ours(ACCEPTED[case]) == reference(ACCEPTED[case])


def test_tensors_come_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    assert list(open_bytes(tmp_path, ACCEPTED["other order"]).tensors) == ["t", "u"]


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    found = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=6)):
        shape, dtype = draw(SHAPES), draw(DTYPES)
        size = torch.empty(shape, dtype=dtype).nbytes
        content = bytearray(draw(st.binary(min_size=size, max_size=size)))
        if dtype is torch.bool:
            content = bytearray(byte & 1 for byte in content)
        flat = torch.frombuffer(content, dtype=torch.uint8) if size else torch.empty(0).byte()
        found[name] = flat.view(dtype).reshape(shape)
    return found


@settings(deadline=None)
@given(tensors())
def test_what_the_library_writes_is_read_back(saved: dict[str, torch.Tensor]) -> None:
    found = ours(safetensors.torch.save(saved, {"format": "pt"}))
    assert found.keys() == saved.keys()
    for name, tensor in saved.items():
        code, shape, content = found[name]
        assert getattr(torch, BY_CODE[code].torch) == tensor.dtype
        assert shape == tuple(tensor.shape)
        assert content == raw(tensor)


TOKENS = [b'"t"', b'"shape"', b"[", b"]", b"{", b"}", b",", b":", b"0", b"4", b"1e1", b"2.0", b"-1"]
TOKENS += [b"true", b"null", b'"BF16"', b'"data_offsets":[0,0]', b"\\", b"\\u0041", b" ", b"\xff"]
TOKENS += [b'"__metadata__":{}', b"18446744073709551616", b'"x":1', b"\0", b"NaN"]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return a valid file with a few changes, in its header and in the bytes after it."""
    content = safetensors.torch.save(draw(tensors()), draw(st.sampled_from([None, {"a": "b"}])))
    length = int.from_bytes(content[:8], "little")
    header, data = bytearray(content[8 : 8 + length]), content[8 + length :]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(header)))
        until = at + draw(st.integers(0, 6))
        change = draw(st.sampled_from(TOKENS) | st.just(bytes(header[until : until + 40])))
        header[at:until] = change
    data = data[: len(data) - draw(st.integers(0, 2))] + bytes(draw(st.integers(0, 2)))
    return with_header(bytes(header)) + data


@settings(deadline=None, max_examples=400)
@given(mutated())
def test_what_is_accepted_the_reference_accepts_and_reads_the_same(content: bytes) -> None:
    try:
        found = ours(content)
    except CheckpointError:
        return
    if not re.search(rb"-0", content):  # which only the reference refuses
        assert found == reference(content)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60), st.integers(0, 40))
def test_noise_is_refused_and_never_crashes(noise: bytes, data_size: int) -> None:
    for content in (noise, b"{" + noise, b'{"t":' + noise + b"}"):
        try:
            parse_header(content, data_size, path="file")
        except CheckpointError as error:
            assert str(error).isprintable() or "\n" in str(error)


def test_the_guards_catch_what_the_reference_lets_pass() -> None:
    names = ("name twice", "space before", "metadata null")
    for content in (*(REFUSED[name][0] for name in names), one("F4", [8])):
        assert reference(content) is not None
        with pytest.raises(CheckpointError):
            ours(content)


def big_header(count: int) -> tuple[bytes, int]:
    entries = {"__metadata__": {"format": "pt"}}
    for i in range(count):
        name = f"model.layers.{i // 200}.mlp.experts.{i % 200}.down_proj.weight"
        entries[name] = entry("BF16", [64, 32], [i * 4096, (i + 1) * 4096])
    return json.dumps(entries, separators=(",", ":")).encode(), count * 4096


def test_the_time_for_a_large_header_is_a_small_multiple_of_json_s() -> None:
    content, data_size = big_header(18_000)

    def best(use: Any) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            use()
            times.append(time.perf_counter() - start)
        return min(times)

    plain = best(lambda: json.loads(content))  # about 0.025 s
    assert best(lambda: parse_header(content, data_size, path="file")) < 6 * plain


# Folders


def save(path: Path, values: dict[str, float], **metadata: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: torch.tensor([float(value)]) for name, value in values.items()}
    path.write_bytes(safetensors.torch.save(content, metadata or {"format": "pt"}))


def save_index(folder: Path, homes: Any, metadata: Any = ()) -> None:
    index = {"metadata": {} if metadata == () else metadata, "weight_map": homes}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Return a folder with two shards: `a` and `b` in one, `c` in the other."""
    folder = tmp_path / "model"
    save(folder / "one.safetensors", {"b": 2, "a": 1})
    save(folder / "two.safetensors", {"c": 3})
    save_index(folder, {"c": "two.safetensors", "b": "one.safetensors", "a": "one.safetensors"})
    return folder


def read(checkpoint: Checkpoint, name: str) -> float:
    spec = checkpoint.tensors[name]
    fd = open_shard(checkpoint.shards[spec.shard])
    content = bytearray(spec.nbytes)
    files.read_into(fd, [content], spec.offset)
    files.close(fd)
    return float(torch.frombuffer(content, dtype=torch.float32)[0])


def test_a_sharded_folder(sharded: Path) -> None:
    found = open_checkpoint(sharded)
    assert list(found.tensors) == ["a", "b", "c"]
    assert [read(found, name) for name in found.tensors] == [1, 2, 3]
    assert [shard.path.name for shard in found.shards] == ["one.safetensors", "two.safetensors"]
    assert (found.path, found.folder, found.nbytes) == (str(sharded), sharded, 12)
    assert not found.is_task_vector


def test_a_folder_and_the_file_in_it_are_the_same_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "model" / "model.safetensors", {"a": 1})
    folder = open_checkpoint(tmp_path / "model")
    file = open_checkpoint(str(tmp_path / "model" / "model.safetensors"))
    assert folder.identity == file.identity
    assert (folder.folder, file.folder) == (tmp_path / "model", None)
    assert folder.tensors == file.tensors


def test_shards_may_be_links_out_of_the_folder_and_lie_in_subfolders(sharded: Path) -> None:
    blobs = sharded.parent / "blobs"
    blobs.mkdir()
    (sharded / "one.safetensors").rename(blobs / "1234")
    (sharded / "one.safetensors").symlink_to("../blobs/1234")
    (sharded / "sub").mkdir()
    (sharded / "two.safetensors").rename(sharded / "sub" / "two.safetensors")
    save_index(sharded, {"a": ONE, "b": f"./{ONE}", "c": f"sub/{TWO}"})
    assert "two shards" in refusal(sharded)  # two spellings of one file are two files
    save_index(sharded, {"a": ONE, "b": ONE, "c": f"sub/{TWO}"})
    assert read(open_checkpoint(sharded), "c") == 3
    assert list(open_checkpoint(blobs / "1234").tensors) == ["a", "b"]  # the name does not matter


def test_a_task_vector_says_so(tmp_path: Path) -> None:
    save(tmp_path / "v.safetensors", {"a": 1}, format="pt", taskalg="task-vector")
    assert open_checkpoint(tmp_path / "v.safetensors").is_task_vector
    save(tmp_path / "v.safetensors", {"a": 1}, taskalg="something else")
    assert not open_checkpoint(tmp_path / "v.safetensors").is_task_vector


def test_an_index_that_lists_only_the_single_file_agrees_with_it(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", {"a": 1})
    save_index(tmp_path, {"a": "model.safetensors"})  # MLX writes such folders
    assert read(open_checkpoint(tmp_path), "a") == 1


HOMES = {
    "../one.safetensors": "leads out of the folder",
    "sub/../../one.safetensors": "leads out of the folder",
    "/etc/one.safetensors": "is absolute",
    "C:one.safetensors": "has a drive letter",
    "C:/one.safetensors": "has a drive letter",
    "sub\\one.safetensors": "has a backslash",
    "one\0.safetensors": "is no file name",
    "": "is no file name",
    "one.bin": "is no safetensors file",
}


@pytest.mark.parametrize("home", HOMES)
def test_an_index_may_not_name_such_a_file(sharded: Path, home: str) -> None:
    save_index(sharded, {"a": home})
    said = refusal(sharded)
    assert HOMES[home] in said and INDEX in said


INDEXES = {
    b"{": "it is not JSON",
    b"[]": "it is not a JSON object",
    b"\xef\xbb\xbf{}": "it starts with a byte-order mark",
    b"\xff": "it is not UTF-8",
    b'{"metadata":{}}': "has no 'weight_map' object",
    b'{"metadata":{},"weight_map":[]}': "has no 'weight_map' object",
    b'{"weight_map":{"a":"one.safetensors"}}': "has no 'metadata' object",
    b'{"metadata":null,"weight_map":{"a":"one.safetensors"}}': "has no 'metadata' object",
    b'{"metadata":{},"weight_map":{"a":1}}': "the file of tensor 'a' is not a string",
    b'{"metadata":{},"weight_map":{"a":"x","a":"y"}}': "it has 'a' twice",
    b'{"metadata":' + b"[" * 100_000: "nested too deep",
}


@pytest.mark.parametrize("content", INDEXES)
def test_a_broken_index_is_refused(sharded: Path, content: bytes) -> None:
    (sharded / INDEX).write_bytes(content)
    said = refusal(sharded)
    assert INDEXES[content] in said and INDEX in said


ONE, TWO = "one.safetensors", "two.safetensors"
DISAGREEMENTS = {
    "a missing shard": ({"a": ONE, "b": ONE, "c": "three.safetensors"}, "three.safetensors' of"),
    "a tensor nowhere": ({"a": ONE, "b": ONE, "c": TWO, "d": TWO}, "lists tensor 'd', which no"),
    "many nowhere": ({f"x{i}": ONE for i in range(9)}, "lists 9 tensors: 'x0', 'x1', 'x2', 'x3', "),
    "a tensor not listed": ({"a": ONE, "c": TWO}, "does not list tensor 'b', which 'one.safe"),
    "the wrong shard": ({"a": TWO, "b": ONE, "c": TWO}, "wrong file for tensor 'a'; it is in 'one"),
}


@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_an_index_that_disagrees_with_its_shards_is_refused(sharded: Path, case: str) -> None:
    homes, expected = DISAGREEMENTS[case]
    save_index(sharded, homes)
    assert expected in refusal(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    save(sharded / TWO, {"c": 3, "a": 9})
    assert "tensor 'a' is in two shards" in refusal(sharded)


def test_links_that_lead_nowhere_and_in_circles(sharded: Path) -> None:
    (sharded / TWO).unlink()
    (sharded / TWO).symlink_to("gone")
    assert "no such file" in refusal(sharded)
    (sharded / TWO).unlink()
    (sharded / TWO).symlink_to(TWO)
    assert "too many levels of symbolic links" in refusal(sharded)
    (sharded.parent / "circle").symlink_to("circle")
    assert "too many levels of symbolic links" in refusal(sharded.parent / "circle")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_shard_that_is_no_file(sharded: Path, make: Any) -> None:
    (sharded / TWO).unlink()
    make(sharded / TWO)
    assert "not a file" in refusal(sharded)


@pytest.mark.parametrize("stale", ["model.safetensors", INDEX])
def test_two_models_in_a_folder(sharded: Path, stale: str) -> None:
    save(sharded / "model.safetensors", {"a": 1})
    os.utime(sharded / stale, (1, 1))
    said = refusal(sharded)
    assert f"{stale} is older" in said
    assert f"delete '{sharded}/{stale}'" in said
    assert ("and the shards it lists" in said) == (stale == INDEX)


def test_shards_of_a_model_and_of_a_task_vector(sharded: Path) -> None:
    save(sharded / TWO, {"c": 3}, taskalg="task-vector")
    assert "mixes the shards of a model with those of a task vector" in refusal(sharded)


OTHER_FOLDERS = {
    "consolidated.00.safetensors": "a model in slices",
    "pytorch_model-00001-of-00002.bin": "a folder of PyTorch pickles",
    "consolidated.00.pth": "a folder of PyTorch pickles",
    "model-Q4_K.gguf": "a GGUF model",
    "__0_0.distcp": "a distributed PyTorch checkpoint",
    "flax_model.msgpack": "a Flax or TensorFlow model",
}


@pytest.mark.parametrize("name", OTHER_FOLDERS)
def test_folders_of_other_formats_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    said = refusal(tmp_path)
    assert f"is {OTHER_FOLDERS[name]}" in said
    assert "not supported yet" in said and "help: " in said


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.safetensors", "m.gguf"])
def test_other_formats_beside_a_model_do_not_matter(tmp_path: Path, name: str) -> None:
    save(tmp_path / "model.safetensors", {"a": 1})
    (tmp_path / name).write_bytes(b"")
    assert list(open_checkpoint(tmp_path).tensors) == ["a"]


OTHER_FILES = {
    "a.gguf": "a GGUF file",
    "a.h5": "a Keras or TensorFlow file",
    "a.onnx": "an ONNX graph",
    "a.npz": "a NumPy archive",
    "a.msgpack": "a Flax file",
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_files_of_other_formats_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    said = refusal(tmp_path / name)
    assert f"is {OTHER_FILES[name]}" in said and "not supported yet" in said


REMOTE = {
    "org/name": "'hf://org/name' is not in the cache",  # the tests are offline; see test_hub.py
    "hf://datasets/org/name": "it is a dataset",
    "s3://bucket/name": "is an address",
    "https://host/name": "is an address",
    "https://huggingface.co/org/name/tree/main": "write hf://org/name",
}


@pytest.mark.parametrize("path", REMOTE)
def test_models_that_are_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=re.escape(REMOTE[path])):
        open_checkpoint(path)


def test_a_path_that_is_nearly_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "models" / "llama-base.safetensors", {"a": 1})
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'models/llama-base.safetensors'?" in refusal(Path("models/lama-base"))
    assert "did you mean 'models'?" in refusal(Path("model"))
    assert "did you mean" not in refusal(Path("models/nope.safetensors"))  # only the suffix is near
    assert "help: if it is a model on the Hub, write hf://models/xyz" in refusal(Path("models/xyz"))
    assert "help" not in refusal(Path("models/x y"))
    assert "nor is there a folder '/absent/folder'" in refusal(Path("/absent/folder/model"))


def test_folders_without_a_model(tmp_path: Path) -> None:
    assert "it is empty" in refusal(tmp_path)
    save(tmp_path / "one.safetensors", {"a": 1})
    assert f"give the file itself: '{tmp_path}/one.safetensors'" in refusal(tmp_path)
    save(tmp_path / "other.safetensors", {"a": 1})
    assert "'one.safetensors' or 'other.safetensors'" in refusal(tmp_path)


QUANTIZED = {
    "a.qweight": ("I32", "GPTQ or AWQ"),
    "a.qzeros": ("I32", "GPTQ or AWQ"),
    "a.scales": ("F16", "GPTQ, AWQ or MLX"),
    "a.weight_scale": ("F32", "FP8 or INT8"),
    "a.weight_scale_inv": ("F32", "FP8"),
    "a.weight_packed": ("I32", "compressed-tensors"),
    "a.SCB": ("F32", "bitsandbytes 8-bit"),
    "a.weight.absmax": ("U8", "bitsandbytes 4-bit"),
    "a.weight.quant_map": ("F32", "bitsandbytes 4-bit"),
    "a.weight.quant_state.bitsandbytes__nf4": ("U8", "bitsandbytes 4-bit"),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_tensors_are_refused(tmp_path: Path, name: str) -> None:
    code, method = QUANTIZED[name]
    size = BY_CODE[code].itemsize
    header = {"a.weight": entry("F8_E4M3", [8], [0, 8]), name: entry(code, [1], [8, 8 + size])}
    (tmp_path / "model.safetensors").write_bytes(with_header(header, 8 + size))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        said = refusal(path)
        assert f"tensor '{name}' is a companion that {method}" in said


def test_mxfp4_is_refused(tmp_path: Path) -> None:
    header = {
        "mlp.gate_up_proj_blocks": entry("U8", [8], [0, 8]),
        "mlp.gate_up_proj_scales": entry("U8", [1], [8, 9]),
    }
    with pytest.raises(CheckpointError, match="MXFP4"):
        open_bytes(tmp_path, with_header(header, 9))


@pytest.mark.parametrize("name", ["a.weight_scale", "a.scales", "scales", "my_scales", "rescale"])
def test_a_scale_beside_a_floating_weight_is_a_weight(tmp_path: Path, name: str) -> None:
    save(tmp_path / "m.safetensors", {name: 1, "a.weight": 2, "weight": 3})
    if name == "scales":
        save(tmp_path / "m.safetensors", {name: 1, ".weight": 2})
    assert name in open_checkpoint(tmp_path / "m.safetensors").tensors


CONFIGS = {
    '{"quantization_config": {"quant_method": "gptq"}}': "is quantized with gptq and",
    '{"quantization_config": {"load_in_4bit": true}}': "is quantized and cannot",
    '{"text_config": {"quantization_config": {"quant_method": "fp8"}}}': "quantized with fp8",
    '{"compression_config": {"format": "pack"}}': "is quantized and cannot",
    "{": "config.json' is damaged or hostile: it is not JSON",
    "{" * 100_000: "config.json' is damaged or hostile: it is n",
}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_that_says_quantized_is_believed(tmp_path: Path, config: str) -> None:
    save(tmp_path / "model.safetensors", {"a": 1})
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    assert CONFIGS[config] in refusal(tmp_path)
    (tmp_path / "config.json").write_text('{"quantization_config": null}', encoding="utf-8")
    assert open_checkpoint(tmp_path).nbytes == 4


def test_a_change_after_opening_is_noticed(sharded: Path) -> None:
    found = open_checkpoint(sharded)
    check_unchanged(found)
    for shard in found.shards:
        files.close(open_shard(shard))
    state = (sharded / ONE).stat()

    def notice(words: str) -> None:
        with pytest.raises(CheckpointError, match="changed while it was read") as caught:
            check_unchanged(found)
        assert words in str(caught.value)
        with pytest.raises(CheckpointError, match="changed while it was read"):
            open_shard(found.shards[0])

    os.utime(sharded / ONE, ns=(0, state.st_mtime_ns + 1))
    notice("modification time")
    os.utime(sharded / ONE, ns=(0, state.st_mtime_ns))
    check_unchanged(found)
    content = (sharded / ONE).read_bytes()
    (sharded / "copy").write_bytes(content)
    os.utime(sharded / "copy", ns=(0, state.st_mtime_ns))
    (sharded / "copy").replace(sharded / ONE)
    notice("another file has its name now")
    os.truncate(sharded / ONE, len(content) - 1)
    notice("bytes and now has")
    (sharded / ONE).unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        check_unchanged(found)


def test_every_failing_call_while_opening_is_a_checkpoint_error(
    monkeypatch: pytest.MonkeyPatch, sharded: Path
) -> None:
    counter = Faults()
    with monkeypatch.context() as context:
        inject(context, counter)
        open_checkpoint(sharded)
    assert len(counter.calls) > 10
    for at in range(1, len(counter.calls) + 1):
        faults = Faults(at)
        with monkeypatch.context() as context:
            inject(context, faults)
            try:
                open_checkpoint(sharded)
            except Exception as error:
                assert getattr(error, "exit_code", None) in (4, 5), (at, counter.calls[at - 1])
        assert faults.failed


def test_no_descriptor_is_left_open(sharded: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    open_checkpoint(sharded)
    (sharded / TWO).write_bytes(b"")
    refusal(sharded)
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before
