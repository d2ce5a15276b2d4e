"""Models on the Hub, served by a Hub on this machine: what is fetched, what is not, what fails."""

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from random import Random
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http
from hypothesis import given
from hypothesis import strategies as st

import taskalg
from taskalg import CheckpointError
from taskalg.checkpoints.base import Checkpoint, Opening, check_unchanged, open_shard
from taskalg.checkpoints.hub import ranged
from taskalg.checkpoints.hub.address import Address, parse_address
from taskalg.checkpoints.hub.fetch import fetched
from taskalg.checkpoints.hub.paths import cached_sha256, hub_identity
from taskalg.checkpoints.registry import open_checkpoint
from tests import oracle
from tests.hub_server import Answer, Hub, changed, serve, sha256, with_headers
from tests.oracle import FORMATS, Tensor, Tensors

ROOT = Path(__file__).parent.parent
SIDE = {"config.json": b'{"model_type": "gpt2"}', "tokenizer.json": b'{"version": "1.0"}'}
Wrong = Callable[[Answer], Answer]


def numbers(*values: float) -> Tensor:
    patterns = [oracle.encode(Fraction(value), FORMATS["F32"]) for value in values]
    data = b"".join(pattern.to_bytes(4, "little") for pattern in patterns)
    return Tensor("F32", (len(values),), data)


BULK = Tensor("U8", (300_000,), bytes(300_000))  # so that a file is more than its header
BASE: Tensors = {"a": numbers(1, 2, 3, 4), "b": numbers(0.5, 0.25), "bulk": BULK}
FT: Tensors = {"a": numbers(2, 2, 3, 8), "b": numbers(0.75, 1), "bulk": BULK}
OTHER: Tensors = {"a": numbers(9, 9, 9, 9), "b": numbers(9, 9), "bulk": BULK}
NAMES = ["a", "b", "bulk"]


def file_of(tensors: Tensors, folder: Path) -> bytes:
    oracle.write_file(folder / "made.safetensors", tensors, {})
    content = (folder / "made.safetensors").read_bytes()
    (folder / "made.safetensors").unlink()
    return content


def folder_of(shards: list[Tensors], folder: Path) -> dict[str, bytes]:
    """Return the files of a sharded model."""
    made = folder / f"made-{len(list(folder.iterdir()))}"
    oracle.write_folder(made, shards)
    return {path.name: path.read_bytes() for path in made.iterdir()} | SIDE


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    """Start a Hub; one for all tests, since its client takes longer to make than most of them."""
    found = Hub()
    running = serve(found)
    _http.close_session()
    yield found
    _http.close_session()
    running.shutdown()
    running.server_close()


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Empty the Hub, and turn the library to it and to a cache of its own."""
    for held in (server.models, server.branches, server.requests, server.rules):
        held.clear()
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": server.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(file_download, "time", types.SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(ranged, "wait", lambda _: None)
    return server


@pytest.fixture
def models(hub: Hub, tmp_path: Path) -> Hub:
    """Put three models on it."""
    for name, tensors in {"base": BASE, "ft": FT, "other": OTHER}.items():
        hub.put(f"org/{name}", SIDE | {"model.safetensors": file_of(tensors, tmp_path)})
    return hub


def recipe(text: str, **paths: str) -> taskalg.Recipe:
    return taskalg.compile(text, models=paths or {"base": "org/base", "ft": "org/ft"})


def refusal(path: str, opening: Opening | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, opening)
    assert caught.value.exit_code == 4
    assert "/taskalg-" not in str(caught.value), "nobody can look at a stand-in"
    return str(caught.value)


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"
    }


# ---- Addresses

ADDRESSES = {
    "org/name": Address("org/name", None, ""),
    "org/name@v1": Address("org/name", "v1", ""),
    "org/name@feature/x": Address("org/name", "feature/x", ""),
    "org/name@refs/pr/3": Address("org/name", "refs/pr/3", ""),
    "hf://org/name": Address("org/name", None, ""),
    "hf://models/org/name": Address("org/name", None, ""),
    "hf://org/name@v1/unet": Address("org/name", "v1", "unet"),
    "hf://org/name@feature%2Fx/m.safetensors": Address("org/name", "feature/x", "m.safetensors"),
    "hf://gpt2": Address("gpt2", None, ""),
    "hf://gpt2@v1": Address("gpt2", "v1", ""),
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_read(text: str) -> None:
    found = parse_address(text)
    assert found == ADDRESSES[text]
    assert found is not None and parse_address(found.called) == found


@pytest.mark.parametrize(
    "text",
    ["gpt2", "./org/name", "../org/name", "/org/name", "a/b/c", "a/b.safetensors", "~/a", ""],
)
def test_what_can_only_be_a_path_is_no_address(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://datasets/org/name",
        "hf://org/name/../x",
        "hf://org/name@a%2F..%2Fb",
        "hf://org/na me",
        "hf://org/name@",
        "org/name@../x",
        "hf://org/name/a\\b",
        "hf://org/name/a\x1bb",
    ],
)
def test_an_address_that_makes_no_sense_is_refused(text: str) -> None:
    assert "is no address of a model on the Hub" in refusal(text)


@given(st.text(max_size=30))
def test_any_text_is_an_address_a_path_or_refused(text: str) -> None:
    for each in (text, f"hf://{text}", f"org/name@{text}"):
        try:
            found = parse_address(each)
        except CheckpointError:
            continue
        assert found is None or ".." not in [*found.path.split("/"), *found.repository.split("/")]


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert 'pip install "taskalg[hub]"' in refusal("org/name")


def test_a_path_on_this_machine_wins_and_is_asked_for_by_prefix(
    models: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    oracle.write_file(tmp_path / "org/base", {"here": numbers(1)}, {})
    assert list(open_checkpoint("org/base").tensors) == ["here"]
    assert models.requests == []
    assert list(open_checkpoint("hf://org/base").tensors) == NAMES


def test_a_misspelt_path_is_not_taken_to_the_hub(
    models: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org/bases").mkdir()
    assert f"did you mean '{Path('org/bases')}'?" in refusal("org/base")
    assert "if it is a model on the Hub, write hf://org/zzz" in refusal("org/zzz")
    assert "there is no 'gpt2'" in refusal("gpt2")
    assert "there is no './org/x'" in refusal("./org/x")
    assert models.requests == []


# ---- Headers first


def test_a_model_is_opened_without_its_weights(models: Hub) -> None:
    found = open_checkpoint("org/base")
    commit = models.branches["org/base"]["main"]
    assert found.path == "org/base"
    assert found.origin == f"org/base@{commit}"
    assert list(found.tensors) == NAMES
    (shard,) = found.shards
    content = models.models["org/base"][commit]["model.safetensors"]
    assert shard.remote is not None
    assert (shard.remote.size, shard.sha256) == (len(content), sha256(content))
    assert not shard.path.exists()
    assert found.folder is not None
    assert {path.name for path in found.folder.iterdir()} == set(SIDE)
    assert models.sent("cdn") == ranged.FIRST_GUESS < len(content)


def test_explain_and_check_download_no_weights(models: Hub, tmp_path: Path) -> None:
    made = recipe("base + 0.5*(ft - base)")
    made.check()
    text = str(made.explain(tmp_path / "out"))
    commit = models.branches["org/base"]["main"][:7]
    assert f"org/base (commit {commit}, to be downloaded)\n" in text
    assert models.sent("cdn") == 2 * ranged.FIRST_GUESS
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_header_longer_than_the_guess_is_read_in_two(hub: Hub, tmp_path: Path) -> None:
    many = {f"tensor.{index}": numbers(index) for index in range(3_000)}
    hub.put("org/many", {"model.safetensors": file_of(many, tmp_path)})
    assert len(open_checkpoint("org/many").tensors) == 3_000
    asked = [request.headers["Range"] for request in hub.requests if "/cdn/" in request.path]
    assert len(asked) == 2
    assert asked[1].startswith(f"bytes={ranged.FIRST_GUESS}-")
    assert "If-Range" in hub.requests[-1].headers


def test_what_is_in_the_cache_is_read_there(models: Hub, tmp_path: Path) -> None:
    fetched(open_checkpoint("org/base"), {0})
    models.requests.clear()
    found = open_checkpoint("org/base")
    assert models.paths() == ["GET /api/models/org/base?blobs=true"]
    assert found.shards[0].remote is None
    assert found.shards[0].sha256 == sha256(found.shards[0].path.read_bytes())


def test_a_token_goes_to_the_hub_and_nowhere_else(models: Hub, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_secret")
    fetched(open_checkpoint("org/base"), {0})
    told = {
        "authorization" in {name.lower() for name in request.headers}
        for request in models.requests
        if not request.path.startswith("/cdn/")
    }
    assert told == {True}
    away = [request for request in models.requests if request.path.startswith("/cdn/")]
    assert len(away) > 1
    assert all("hf_secret" not in str(request.headers) for request in away)


# ---- The same formats as on disk


def local_copy(files: Mapping[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def described(checkpoint: Checkpoint) -> Any:
    """Return what must not depend on where a checkpoint lies."""
    return (
        dict(checkpoint.tensors),
        checkpoint.parts,
        checkpoint.is_task_vector,
        checkpoint.is_sparse,
        [shard.path.name for shard in checkpoint.shards],
        [shard.header_hash for shard in checkpoint.shards],
        checkpoint.notes,
    )


def test_shards_are_opened_as_on_disk(hub: Hub, tmp_path: Path) -> None:
    files = folder_of([{"a": numbers(1)}, {"b": numbers(2)}, {"c": numbers(3)}], tmp_path)
    hub.put("org/sharded", files)
    found = open_checkpoint("org/sharded")
    assert described(found) == described(open_checkpoint(local_copy(files, tmp_path / "here")))
    assert len(hub.paths("GET /cdn")) == 3


def test_a_pipeline_is_opened_as_on_disk(hub: Hub, tmp_path: Path) -> None:
    listed = (
        b'{"_class_name": "P", "unet": ["diffusers", "U"], "text_encoder": ["transformers", "T"]}'
    )
    files = {
        "model_index.json": listed,
        "unet/config.json": b'{"_class_name": "U"}',
        "unet/diffusion_pytorch_model.safetensors": file_of({"u": numbers(1)}, tmp_path),
        "text_encoder/config.json": b'{"model_type": "clip"}',
        "text_encoder/model.safetensors": file_of({"t": numbers(2)}, tmp_path),
        "vae/unrelated.safetensors": file_of({"v": numbers(3)}, tmp_path),
    }
    hub.put("org/pipe", files)
    found = open_checkpoint("org/pipe")
    assert described(found) == described(open_checkpoint(local_copy(files, tmp_path / "here")))
    assert found.folder is not None and (found.folder / "unet/config.json").is_file()


def test_one_file_and_one_folder_of_a_model(hub: Hub, tmp_path: Path) -> None:
    files = SIDE | {
        "model.safetensors": file_of(BASE, tmp_path),
        "sub/config.json": b"{}",
        "sub/model.safetensors": file_of(FT, tmp_path),
    }
    hub.put("org/two", files)
    here = local_copy(files, tmp_path / "here")
    for path in ("model.safetensors", "sub/model.safetensors", "sub"):
        found = open_checkpoint(f"hf://org/two/{path}")
        assert described(found) == described(open_checkpoint(here / path))
        assert (found.folder is None) == path.endswith(".safetensors")
    assert not hub.paths("GET .*resolve.*tokenizer")
    assert "there is no 'hf://org/two/nowhere'" in refusal("hf://org/two/nowhere")


ADAPTER = {
    "adapter_config.json": b'{"peft_type": "LORA", "r": 2, "target_modules": ["l"]}',
    "README.md": b"---\nbase_model: org/base\n---\n",
}


@pytest.mark.parametrize("path", ["org/lora", "hf://org/lora/adapter_model.safetensors"])
def test_an_adapter_is_opened_as_on_disk(path: str, hub: Hub, tmp_path: Path) -> None:
    factors = {
        "base_model.model.l.lora_A.weight": Tensor("F32", (2, 3), bytes(24)),
        "base_model.model.l.lora_B.weight": Tensor("F32", (4, 2), bytes(32)),
    }
    files = ADAPTER | {"adapter_model.safetensors": file_of(factors, tmp_path)}
    hub.put("org/lora", files)
    here = local_copy(files, tmp_path / "here")
    found = open_checkpoint(path)
    assert found.is_sparse
    assert described(found) == described(
        open_checkpoint(here / path.partition("lora/")[2] if "hf://" in path else here)
    )
    assert not hub.paths("HEAD.*safetensors")


def test_a_pickle_is_downloaded_only_when_it_is_allowed(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "taskalg")
    torch.save({"a": torch.ones(3)}, tmp_path / "made.bin")
    pickle = (tmp_path / "made.bin").read_bytes()
    hub.put(
        "org/old", SIDE | {"pytorch_model.bin": pickle, "optimizer.bin": pickle, "x.pt": pickle}
    )
    for path in ("org/old", "hf://org/old/x.pt"):
        assert "--allow-pickle" in refusal(path)
        assert not hub.paths("HEAD .*(bin|pt)$")
    for path in ("org/old", "hf://org/old/x.pt"):
        found = open_checkpoint(path, Opening(allow_pickle=True))
        assert list(found.tensors) == ["a"]
        assert found.shards[0].remote is None and found.shards[0].path.is_file()
    assert not hub.paths("optimizer")
    assert any("downloading 1 file" in message for message in caplog.messages)


def test_a_shard_in_a_sub_folder_that_the_index_names(hub: Hub, tmp_path: Path) -> None:
    homes = {"a": "parts/one.safetensors", "b": "model-2.safetensors"}
    files = {
        "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": homes}).encode(),
        "parts/one.safetensors": file_of({"a": numbers(1)}, tmp_path),
        "parts/two.safetensors": file_of({"c": numbers(1)}, tmp_path),
        "model-2.safetensors": file_of({"b": numbers(2)}, tmp_path),
    }
    hub.put("org/spread", files)
    found = open_checkpoint("org/spread")
    assert described(found) == described(open_checkpoint(local_copy(files, tmp_path / "here")))
    assert len(hub.paths("GET /cdn")) == 2


def test_a_folder_of_weights_alone_can_be_opened(hub: Hub, tmp_path: Path) -> None:
    hub.put("org/bare", {"x/model.safetensors": file_of(BASE, tmp_path)})
    assert list(open_checkpoint("hf://org/bare/x").tensors) == NAMES


def test_sub_folders_that_no_list_names_are_left_alone(hub: Hub, tmp_path: Path) -> None:
    content = file_of(BASE, tmp_path)
    steps = {f"checkpoint-{i}/model.safetensors": content for i in range(5)}
    notes = {f"checkpoint-{i}/config.json": b"{}" for i in range(5)}
    hub.put("org/steps", SIDE | steps | notes | {"model.safetensors": content})
    open_checkpoint("org/steps")
    assert len(hub.paths("GET /cdn")) == 1
    assert not hub.paths("checkpoint-")


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "not a model": ({"a.txt": b""}, "is not a model folder"),
    "pickles": ({"pytorch_model.bin": b"x"}, "--allow-pickle"),
    "quantized": ({"config.json": b'{"quantization_config": {"quant_method": "gptq"}}'}, "gptq"),
    "no JSON": ({"config.json": b"{"}, "'hf://org/bad/config.json' is damaged or hostile"),
    "a long header": ({"model.safetensors": b"\xff" * 7 + b"\0" * 200}, "announce a header"),
    "a web page": ({"model.safetensors": b"<!DOCTYPE html>" + b" " * 99}, "is a web page"),
    "no header": ({"model.safetensors": b"\2\0\0\0\0\0\0\0{}x"}, "belong to no tensor"),
    "nothing": ({"model.safetensors": b""}, "it has 0 bytes"),
    "a lost shard": (
        {"model.safetensors.index.json": b'{"metadata": {}, "weight_map": {"a": "s.safetensors"}}'},
        "shard 's.safetensors' of 'hf://org/bad' is missing",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused_on_disk_is_refused_on_the_hub(case: str, hub: Hub, tmp_path: Path) -> None:
    files, words = BAD[case]
    if case in ("quantized", "no JSON"):
        files = files | {"model.safetensors": file_of(BASE, tmp_path)}
    hub.put("org/bad", files)
    told = refusal("hf://org/bad")
    assert words in told
    assert told == on_disk(files, tmp_path / "bad")


def on_disk(files: Mapping[str, bytes], folder: Path) -> Any:
    """Return what is said of the same files on disk, or what is found there."""
    here = local_copy(files, folder)
    try:
        return described(open_checkpoint(here))
    except CheckpointError as error:
        return str(error).replace(str(here), "hf://org/bad")


def test_a_damaged_header_is_read_as_on_disk(hub: Hub, tmp_path: Path) -> None:
    whole = file_of({"a": numbers(1), "b": numbers(2, 3)}, tmp_path)
    length = 8 + int.from_bytes(whole[:8], "little")
    random, opened = Random(0), 0
    for turn in range(60):
        damaged = bytearray(whole)
        damaged[random.randrange(length)] ^= 1 << random.randrange(8)
        content = bytes(damaged[: len(damaged) - (turn % 4 == 0)])
        hub.put("org/bad", {"model.safetensors": content})
        there: Any
        try:
            there = described(open_checkpoint("hf://org/bad"))
            opened += 1
        except CheckpointError as error:
            there = str(error)
        assert there == on_disk({"model.safetensors": content}, tmp_path / f"{turn}" / "bad")
    assert 0 < opened < 60


def test_two_models_in_a_folder_are_told_apart_by_hand(hub: Hub, tmp_path: Path) -> None:
    files = folder_of([{"a": numbers(1)}, {"b": numbers(2)}], tmp_path)
    hub.put("org/both", files | {"model.safetensors": file_of(BASE, tmp_path)})
    told = refusal("org/both")
    assert "holds two models" in told and "older" not in told
    assert "help: give the file that is meant: hf://org/both/" in told
    assert list(open_checkpoint("hf://org/both/model.safetensors").tensors) == NAMES


# ---- Data on demand


def saved(made: taskalg.Recipe, out: Path, **options: Any) -> dict[str, bytes]:
    made.save(out, engine="reference", **options)
    return outputs(out)


def test_a_merge_from_the_hub_writes_the_same_bytes(models: Hub, tmp_path: Path) -> None:
    text = "base + 0.5*(ft - base)"
    remote = saved(recipe(text), tmp_path / "remote")
    for name, tensors in {"base": BASE, "ft": FT}.items():
        files = SIDE | {"model.safetensors": file_of(tensors, tmp_path)}
        local_copy(files, tmp_path / name)
    here = recipe(text, base=str(tmp_path / "base"), ft=str(tmp_path / "ft"))
    assert remote == saved(here, tmp_path / "local")
    assert (tmp_path / "remote/tokenizer.json").read_bytes() == SIDE["tokenizer.json"]


def test_a_checkpoint_that_cancels_is_never_fetched(models: Hub, tmp_path: Path) -> None:
    made = recipe("base + (ft - base) + 0*other", base="org/base", ft="org/ft", other="org/other")
    saved(made, tmp_path / "out")
    assert len(models.paths("HEAD /org/ft/resolve/.*safetensors")) == 1
    for name in ("base", "other"):
        assert not models.paths(f"HEAD /org/{name}/resolve/.*safetensors")
        assert not list((tmp_path / "hub").glob(f"models--org--{name}/**/*.safetensors"))
    (whole,) = (each for each in models.models["org/ft"].values())
    size = len(whole["model.safetensors"])
    assert models.sent("GET /cdn") == 3 * ranged.FIRST_GUESS + size


def test_only_the_shards_that_are_needed_are_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.put("org/base", folder_of([{"a": numbers(1)}, {"b": numbers(2)}], tmp_path))
    hub.put("org/ft", folder_of([{"a": numbers(3)}, {"b": numbers(4)}], tmp_path))
    saved(recipe('base + 0.5*(ft - base)["a"]'), tmp_path / "out")
    found = {path.name for path in (tmp_path / "hub/models--org--ft").glob("snapshots/*/*")}
    assert {name for name in found if name.endswith(".safetensors")} == {
        "model-00001-of-00002.safetensors"
    }


def test_the_revision_is_settled_once(models: Hub, tmp_path: Path) -> None:
    made = recipe("0.5*base + 0.5*ft")
    made.explain(tmp_path / "out")
    before = models.branches["org/base"]["main"]
    models.put("org/base", SIDE | {"model.safetensors": file_of(OTHER, tmp_path)})
    assert models.branches["org/base"]["main"] != before
    out = saved(made, tmp_path / "out")
    assert out == saved(
        recipe("0.5*base + 0.5*ft", base=f"org/base@{before}", ft="org/ft"), tmp_path / "again"
    )
    assert len(models.paths("GET /api/models/org/base")) == 2


def test_two_names_of_one_model_are_one_checkpoint(models: Hub) -> None:
    made = recipe("a - b", a="org/base", b="hf://org/base@main")
    with pytest.raises(taskalg.TaskalgError, match="nothing is left"):
        made.check()
    assert recipe("a - b", a="org/base", b="org/ft").check() == "task vector"


def test_what_is_downloaded_is_announced_and_reported(
    models: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "taskalg")
    seen: list[taskalg.Progress] = []
    saved(recipe("0.5*base + 0.5*ft"), tmp_path / "out", progress=seen.append)
    commit = models.branches["org/ft"]["main"][:7]
    assert f"downloading 2 files, 40 B, of org/ft@{commit}" in caplog.messages
    assert f"downloading 1 file, 300.2 kB, of org/ft@{commit}" in caplog.messages
    downloads = [each for each in seen if each.doing == "downloading"]
    size = downloads[-1].total
    assert downloads[-1].done == size == models.sent("GET /cdn") // 2 - ranged.FIRST_GUESS
    assert seen[-1].doing == "merging"


def test_what_is_in_the_way_is_told_before_a_download(models: Hub, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("")
    with pytest.raises(taskalg.OutputError, match="is not empty"):
        recipe("0.5*base + 0.5*ft").save(tmp_path / "out")
    assert not models.paths("HEAD .*safetensors")


def test_what_another_commit_brought_is_not_downloaded_again(
    models: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "taskalg")
    fetched(open_checkpoint("org/base"), {0})
    (files,) = models.models["org/base"].values()
    models.put("org/base", files | {"README.md": b"# New"})
    models.requests.clear()
    caplog.clear()
    commit = models.branches["org/base"]["main"]
    found = fetched(open_checkpoint("org/base"), {0})
    assert found.origin == f"org/base@{commit}"
    assert caplog.messages == [f"downloading 1 file, 5 B, of org/base@{commit[:7]}"]
    assert models.sent("GET /cdn") == ranged.FIRST_GUESS


def test_stand_ins_need_a_folder_that_takes_them(
    models: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert "help: set TMPDIR" in refusal("org/base")


def test_the_first_failure_ends_the_rest(hub: Hub, tmp_path: Path) -> None:
    content = file_of(BASE, tmp_path)
    hub.put("org/many", {f"x{index}.safetensors": content for index in range(200)})
    hub.fail(CDN, 418)
    assert "with status 418" in refusal("org/many")
    assert len(hub.paths(CDN)) < 50


class Enough(RuntimeError):
    pass


def test_a_report_that_raises_stops_the_download(models: Hub, tmp_path: Path) -> None:
    def stop(progress: taskalg.Progress) -> None:
        raise Enough

    with pytest.raises(Enough):
        saved(recipe("0.5*base + 0.5*ft"), tmp_path / "out", progress=stop)
    assert not (tmp_path / "out").exists()


def test_offline_a_second_run_asks_for_nothing(
    models: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = saved(recipe("0.5*base + 0.5*ft"), tmp_path / "out")
    models.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    made = recipe("0.5*base + 0.5*ft")
    assert saved(made, tmp_path / "again") == first
    assert models.requests == []
    found = open_checkpoint("org/base")
    assert found.notes == (f"{found.origin} is read from the cache, offline",)


def test_offline_what_the_cache_lacks_is_named(
    models: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = open_checkpoint("org/base").origin
    made = recipe("0.5*base + 0.5*ft")
    made.check()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "'hf://org/other' is not in the cache" in refusal("org/other")
    assert "is not in the cache" in refusal("org/base@v7")
    assert "is not a model folder" in refusal("org/base"), "small files only"
    assert "is not a model folder" in refusal(f"hf://{commit}")
    with pytest.raises(CheckpointError, match="is not in the cache, and HF_HUB_OFFLINE"):
        made.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_offline_a_listed_snapshot_must_be_whole(
    models: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `snapshot_download` leaves it, with a list of what the model has."""
    commit = models.branches["org/base"]["main"]
    fetched(open_checkpoint("org/base"), {0})
    entries = {"README.md": {"size": 9, "blob_id": "x"}} | {
        name: {"size": len(content), "blob_id": "x"}
        for name, content in models.models["org/base"][commit].items()
    }
    tree = tmp_path / f"hub/models--org--base/trees/{commit}.json"
    tree.parent.mkdir()
    tree.write_text(json.dumps({"format_version": 1, "files": entries}))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = tree.parent.parent / "snapshots" / commit
    assert open_checkpoint("org/base").shards[0].remote is None
    (snapshot / "model.safetensors").unlink()
    assert f"'hf://org/base@{commit[:7]}/model.safetensors' is not in the cache" in refusal(
        "org/base"
    )
    (snapshot / "tokenizer.json").unlink()
    assert "the model has 'tokenizer.json', and the cache has not" in refusal("org/base")


def test_a_file_that_is_not_the_planned_one_is_refused(models: Hub, tmp_path: Path) -> None:
    found = open_checkpoint("org/base")
    (shard,) = found.shards
    planned = replace(found, shards=(replace(shard, header_hash="0" * 64),))
    with pytest.raises(CheckpointError, match="changed while it was read") as caught:
        fetched(planned, {0})
    assert "another header" in str(caught.value)


def test_a_damaged_copy_in_the_cache_is_refused(models: Hub) -> None:
    found = fetched(open_checkpoint("org/base"), {0})
    blob = found.shards[0].path.resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    assert f"help: delete '{blob}'" in refusal("org/base")


def test_shards_that_are_not_here_take_no_part_in_checks(models: Hub) -> None:
    found = open_checkpoint("org/base")
    check_unchanged(found)
    with pytest.raises(CheckpointError):
        open_shard(found.shards[0])
    assert fetched(found, ()) == found


def test_models_of_weights_alone_are_merged(hub: Hub, tmp_path: Path) -> None:
    for name, tensors in {"base": BASE, "ft": FT, "other": OTHER}.items():
        hub.put(f"org/{name}", {"model.safetensors": file_of(tensors, tmp_path)})
    made = recipe("0.5*base + 0.5*ft + 0*other", base="org/base", ft="org/ft", other="org/other")
    str(made.explain(tmp_path / "out"))
    assert saved(made, tmp_path / "out").keys() == {"model.safetensors"}


def moved(to: str) -> Wrong:
    return lambda _: Answer(307, {"Location": to})


def test_a_model_that_moved_or_has_an_old_name_is_followed(models: Hub, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_secret")
    (files,) = models.models["org/base"].values()
    models.put("gpt2", files)
    commit = models.branches["gpt2"]["main"]
    models.wrong("/api/models/old/name", moved("/api/models/gpt2?blobs=true"))
    for name in files:
        models.wrong(f"/old/name/resolve/.*{name}$", moved(f"/gpt2/resolve/{commit}/{name}"))
    for address in ("hf://gpt2", "old/name"):
        found = fetched(open_checkpoint(address), {0})
        assert list(found.tensors) == NAMES
        assert found.origin == f"{address.removeprefix('hf://')}@{commit}"
    asked = [request for request in models.requests if request.path.startswith("/gpt2/")]
    assert asked and all("hf_secret" in str(request.headers) for request in asked)


# ---- Places in the cache


def test_a_path_into_the_cache_is_the_model_it_is_a_copy_of(models: Hub) -> None:
    found = fetched(open_checkpoint("org/base"), {0})
    assert found.folder is not None
    again = open_checkpoint(found.folder)
    assert again.origin == found.origin == hub_identity(found.folder / "model.safetensors")
    assert again.shards[0].sha256 == found.shards[0].sha256
    assert hub_identity(found.folder.parent) is None
    assert hub_identity(found.folder.parent / "main") is None
    assert cached_sha256(found.folder / "config.json") is None
    assert open_checkpoint(found.shards[0].path).origin == found.origin


# ---- What goes wrong

API, RESOLVE, CDN = "GET /api", "GET /org/base/resolve/.*safetensors", "GET /cdn"


def short(count: int) -> Wrong:
    """Say how long the body is, and stop after `count` bytes."""

    def cut(answer: Answer) -> Answer:
        assert isinstance(answer.body, bytes)
        return replace(answer, body=answer.body[:count], length=len(answer.body))

    return cut


def honestly_short(answer: Answer) -> Answer:
    assert isinstance(answer.body, bytes)
    return replace(answer, body=answer.body[:50])


def endless(answer: Answer) -> Answer:
    return replace(answer, body=repeat(b"x" * 65536))


FAULTS: dict[str, tuple[str, Wrong | tuple[int, dict[str, str]], str]] = {
    "no model": (API, (404, {"X-Error-Code": "RepoNotFound"}), "nor is there such a path"),
    "unauthorized": (API, (401, {}), "run: hf auth login"),
    "gated list": (API, (401, {"X-Error-Code": "GatedRepo"}), "is gated"),
    "gated file": (RESOLVE, (403, {"X-Error-Code": "GatedRepo"}), "accept its terms"),
    "forbidden": (RESOLVE, (403, {"X-Error-Message": "no\x1b[2J"}), "does not let you"),
    "no revision": (API, (404, {"X-Error-Code": "RevisionNotFound"}), "has no such revision"),
    "no file": (RESOLVE, (404, {"X-Error-Code": "EntryNotFound"}), "there is no 'hf://org/base@"),
    "range": (CDN, (416, {}), "status 416"),
    "too many": (CDN, (429, {}), "takes no more requests"),
    "broken": (CDN, (503, {}), "status 503"),
    "teapot": (CDN, (418, {}), "with status 418"),
    "broken list": (API, (500, {}), "status 500"),
    "short body": (CDN, short(50), "cannot fetch"),
    "short, and says so": (CDN, honestly_short, "50 bytes came"),
    "other range": (CDN, with_headers(Content_Range="bytes 5-100004/300231"), "other bytes"),
    "other size": (CDN, with_headers(Content_Range="bytes 0-99999/99"), "it has 99 bytes"),
    "no range": (CDN, with_headers(Content_Range="gibberish"), "does not say which bytes"),
    "all of it": (CDN, lambda a: replace(a, status=200, headers={}), "does not give parts"),
    "endless": (CDN, endless, "bytes came in place of"),
    "endless list": (API, endless, "makes no sense"),
    "other commit": (RESOLVE, with_headers(X_Repo_Commit="0" * 40), "another commit"),
    "other content": (RESOLVE, with_headers(X_Linked_Etag='"abc"'), "another name (ETag)"),
    "loop": (CDN, lambda a: Answer(302, {"Location": "/cdn/loop"}), "cannot fetch"),
    "list of nothing": (API, changed(body=b"[]"), "makes no sense"),
    "list without files": (API, changed(body=b'{"sha": "' + b"a" * 40 + b'"}'), "makes no sense"),
    "list with a hostile commit": (API, changed(body=b'{"sha": "../..", "siblings": []}'), "sense"),
    "list with a hostile file": (
        API,
        changed(
            body=b'{"sha": "%s", "siblings": [{"rfilename": "../x", "size": 1}]}' % (b"a" * 40)
        ),
        "makes no sense",
    ),
    "list with no size": (
        API,
        changed(body=b'{"sha": "%s", "siblings": [{"rfilename": "x", "size": -1}]}' % (b"a" * 40)),
        "makes no sense",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_is_told_in_a_sentence(case: str, models: Hub) -> None:
    pattern, wrong, words = FAULTS[case]
    if isinstance(wrong, tuple):
        models.fail(pattern, wrong[0], headers=wrong[1])
    else:
        models.wrong(pattern, wrong)
    told = refusal("org/base")
    assert words in told
    assert "\x1b" not in told
    assert len(models.requests) < 200
    assert models.sent("cdn") < 5_000_000
    assert not list(Path(constants.HF_HUB_CACHE).rglob("model.safetensors"))


@pytest.mark.parametrize("pattern", [API, RESOLVE, CDN])
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_a_passing_fault_is_waited_out(pattern: str, status: int, models: Hub) -> None:
    models.fail(pattern, status, times=len(ranged.PAUSES))
    assert list(open_checkpoint("org/base").tensors) == NAMES


def test_a_cut_connection_is_tried_again(models: Hub) -> None:
    models.wrong(CDN, short(50), times=2)
    assert list(open_checkpoint("org/base").tensors) == NAMES


def test_pauses_follow_the_hub_within_reason(models: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(ranged, "wait", waited.append)
    models.fail(API, 429, times=1, headers={"Retry-After": "7"})
    models.fail(API, 429, times=1, headers={"Retry-After": "1000000"})
    models.fail(API, 503, times=1, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    open_checkpoint("org/base")
    assert waited == [7, ranged.LONGEST_PAUSE, ranged.PAUSES[2]]


def test_what_changes_between_two_ranges_is_refused(hub: Hub, tmp_path: Path) -> None:
    many = {f"tensor.{index}": numbers(index) for index in range(3_000)}
    hub.put("org/many", {"model.safetensors": file_of(many, tmp_path)})
    hub.wrong(CDN, with_headers(ETag='"first"'), times=1)
    told = refusal("org/many")
    assert "changed while it was read" in told or "does not give parts" in told
    hub.rules.clear()
    hub.wrong("GET /cdn", changed(), times=1)
    hub.wrong("GET /cdn", with_headers(ETag='"second"'))
    assert "is another than a moment ago" in refusal("org/many")


def test_nothing_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(ranged, "wait", waited.append)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert "HF_HUB_OFFLINE=1" in refusal("org/base")
    assert waited == [], "an answer is not what is late"
    for endpoint in ("http://", "gopher://x", "http://[", "http://\0"):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        refusal("org/base")


def test_a_server_that_says_nothing_is_given_up(
    models: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    monkeypatch.setattr(ranged, "PAUSES", (0.0,))
    release = threading.Event()

    def late(answer: Answer) -> Answer:
        release.wait(20)
        return answer

    models.wrong(CDN, late)
    try:
        assert "cannot fetch" in refusal("org/base")
    finally:
        release.set()


def test_a_server_that_trickles_is_given_up(models: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged, "PATIENCE", 0.0)
    assert "takes longer than" in refusal("org/base")


DOWNLOADS: dict[str, tuple[Wrong | tuple[int, dict[str, str]], str]] = {
    "gated": ((403, {"X-Error-Code": "GatedRepo"}), "is gated"),
    "gone": ((404, {"X-Error-Code": "EntryNotFound"}), "there is no 'hf://org/base@"),
    "broken": ((500, {}), "fails to give"),
    "too many": ((429, {}), "takes no more requests"),
    "other commit": (with_headers(X_Repo_Commit="0" * 40), "another commit"),
    "no commit": (lambda a: Answer(200, {"ETag": '"x"'}), "cannot fetch"),
}


@pytest.mark.parametrize("case", DOWNLOADS)
def test_a_download_that_fails_is_told_in_a_sentence(case: str, models: Hub) -> None:
    found = open_checkpoint("org/base")
    wrong, words = DOWNLOADS[case]
    pattern = "HEAD /org/base/resolve/.*safetensors"
    if isinstance(wrong, tuple):
        models.fail(pattern, wrong[0], headers=wrong[1])
    else:
        models.wrong(pattern, wrong)
    with pytest.raises(CheckpointError) as caught:
        fetched(found, {0})
    assert words in str(caught.value)
    assert not found.shards[0].path.exists()


def test_a_download_is_not_longer_than_the_file(models: Hub, tmp_path: Path) -> None:
    found = open_checkpoint("org/base")
    models.wrong(CDN, endless)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        fetched(found, {0})
    assert sum(path.stat().st_size for path in (tmp_path / "hub").rglob("*")) < 50_000_000


def test_a_download_that_is_cut_is_gone_on_with(models: Hub) -> None:
    found = open_checkpoint("org/base")
    models.wrong(CDN, short(5000), times=2)
    shard = fetched(found, {0}).shards[0]
    assert sha256(shard.path.read_bytes()) == shard.sha256


# ---- The command line, and the environment


def command(
    hub: Hub, folder: Path, *arguments: str, **env: str
) -> subprocess.CompletedProcess[str]:
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), "NO_PROXY": "*"}
    return subprocess.run(
        [sys.executable, "-m", "taskalg", *arguments],
        cwd=folder,
        env=os.environ | settings | {"HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_line_announces_and_the_environment_is_honored(
    models: Hub, tmp_path: Path
) -> None:
    bound = ("--base", "org/base", "--task", "ft=hf://org/ft@main")
    merge = ("merge", "base + 0.5*ft", *bound, "--engine", "reference", "-o")
    ran = command(models, tmp_path, *merge, "out")
    assert ran.returncode == 0, ran.stderr
    commit = models.branches["org/ft"]["main"][:7]
    assert f"downloading 1 file, 300.2 kB, of org/ft@{commit}\n" in ran.stderr
    assert (tmp_path / "home/hub/models--org--ft").is_dir()
    models.requests.clear()
    again = command(models, tmp_path, *merge, "again", "--quiet", HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stderr) == (0, "")
    assert models.requests == []
    assert outputs(tmp_path / "again") == outputs(tmp_path / "out")
    failed = command(models, tmp_path, "check", "base", "--base", "org/nothing")
    assert failed.returncode == 4
    assert failed.stderr.startswith("there is no model 'org/nothing' on the Hub, or none that")


def test_importing_the_package_does_not_import_the_library() -> None:
    program = "import sys, taskalg; sys.exit('huggingface_hub' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=env, check=False).returncode == 0


def test_the_library_is_new_enough() -> None:
    major, minor = huggingface_hub.__version__.split(".")[:2]
    assert (int(major), int(minor)) >= (1, 31)
