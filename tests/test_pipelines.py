"""Models of several parts, in and out: diffusers pipelines and sentence-transformers models."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import taskalg
from taskalg import system
from taskalg.algebra.selectors import places
from taskalg.checkpoints.base import Checkpoint, Part, parts_of
from taskalg.checkpoints.registry import open_checkpoint
from taskalg.dtypes import F16, F32
from taskalg.errors import CheckpointError, OutputError, TaskalgError, UsageError
from taskalg.output.layout import OutputTensor, indexes, lay_out
from taskalg.output.sidefiles import side_files
from tests.faults import FIELDS, Faults, Killed, inject

Arrays = Mapping[str, Any]  # a tensor's numbers by its name in the file

SHARD = 32  # bytes; the unet's three tensors take 16 each
UNET = {f"down_blocks.{i}.weight": np.array([i, 1, 2, 3], np.float32) for i in range(2)} | {
    "conv_in.weight": np.array([[4, 5], [6, 7]], np.float32)
}
VAE = {"decoder.weight": np.array([1, 2, 3], np.float32)}
TEXT = {"embed.weight": np.array([8, 9], np.float16), "ids": np.array([3], np.int64)}
COMPONENTS = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.0",
    "_name_or_path": ["a", "b"],
    "image_encoder": [None, None],
    "requires_safety_checker": True,
    "sizes": [1, 2],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
BERT = {"embeddings.weight": np.array([1, 2, 3, 4], np.float32)}
DENSE = {"linear.weight": np.array([[1, 2], [3, 4]], np.float32)}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {
        "idx": 3,
        "name": "3",
        "path": "3_Normalize",
        "type": "sentence_transformers.models.Normalize",
    },
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync nothing: hundreds of runs would wait for the disk."""
    calls = {name: getattr(system.primitives, name) for name in FIELDS}
    calls |= {"fsync": lambda fd: None, "fsync_folder": lambda fd: None}
    monkeypatch.setattr(system, "primitives", system.Primitives(**calls))


# Layouts, written by hand


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())


def weights(path: Path, arrays: Arrays, **metadata: str) -> None:
    put(path, safetensors.numpy.save(dict(arrays), metadata or {"format": "pt"}))


def shards(folder: Path, stem: str, groups: Sequence[Arrays], mark: str = "") -> None:
    """Write shards and an index, as this package does."""
    homes: dict[str, str] = {}
    size = 0
    for number, arrays in enumerate(groups, start=1):
        name = f"{stem}{mark}-{number:05d}-of-{len(groups):05d}.safetensors"
        weights(folder / name, arrays)
        homes |= dict.fromkeys(arrays, name)
        size += sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": size}, "weight_map": homes}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    put(folder / f"{stem}.safetensors.index{mark}.json", text.encode())


def moved(arrays: Arrays, by: int) -> Arrays:
    return {n: a if a.dtype == np.int64 else (a + by).astype(a.dtype) for n, a in arrays.items()}


def pipeline(folder: Path, by: int = 0) -> Path:
    """Write a diffusers pipeline; `by` is added to its numbers."""
    put(folder / "model_index.json", COMPONENTS)
    put(folder / "scheduler" / "scheduler_config.json", {"_class_name": "PNDMScheduler"})
    put(folder / "tokenizer" / "vocab.json", {"a": 1})
    put(folder / "tokenizer" / "merges.txt", b"#version\n")
    put(folder / "unet" / "config.json", {"_class_name": "UNet2DConditionModel"})
    unet = moved(UNET, by)
    first = {name: unet[name] for name in sorted(unet)[:2]}
    rest = {name: unet[name] for name in sorted(unet)[2:]}
    shards(folder / "unet", "diffusion_pytorch_model", [first, rest])
    put(folder / "vae" / "config.json", {"_class_name": "AutoencoderKL"})
    weights(folder / "vae" / "diffusion_pytorch_model.safetensors", moved(VAE, by))
    config = {"model_type": "clip_text_model", "torch_dtype": "float16"}
    put(folder / "text_encoder" / "config.json", config)
    weights(folder / "text_encoder" / "model.safetensors", moved(TEXT, by))
    return folder


def sentence(folder: Path, by: int = 0) -> Path:
    """Write a sentence-transformers model; `by` is added to its numbers."""
    put(folder / "modules.json", MODULES)
    put(folder / "config.json", {"model_type": "bert", "dtype": "float32"})
    put(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    put(folder / "tokenizer.json", {})
    weights(folder / "model.safetensors", moved(BERT, by))
    put(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    put(folder / "2_Dense" / "config.json", {"in_features": 2, "dtype": "float32"})
    weights(folder / "2_Dense" / "model.safetensors", moved(DENSE, by))
    return folder


MAKE: dict[str, Callable[..., Path]] = {"pipeline": pipeline, "sentence": sentence}
HELD: dict[str, dict[str, Arrays]] = {
    "pipeline": {"unet/": UNET, "vae/": VAE, "text_encoder/": TEXT},
    "sentence": {"": BERT, "2_Dense/": DENSE},
}
PARTS = {
    "pipeline": {
        Part("text_encoder", "model"),
        Part("unet", "diffusion_pytorch_model"),
        Part("vae", "diffusion_pytorch_model"),
    },
    "sentence": {Part("", "model"), Part("2_Dense", "model", may_shard=False)},
}


def tree(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


RECORDS = {"README.md", "taskalg.json"}  # how an output came about; an input's are left behind


def model(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(folder).items() if name not in RECORDS}


def read(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return every tensor's bytes, read where the checkpoint says they are."""
    found = {}
    for name, spec in checkpoint.tensors.items():
        content = checkpoint.shards[spec.shard].path.read_bytes()
        found[name] = content[spec.offset : spec.offset + spec.nbytes]
    return found


def loaded(folder: Path) -> dict[str, Any]:
    """Return every tensor below a folder as the safetensors library reads it, named as here."""
    found = {}
    for path in folder.rglob("*.safetensors"):
        prefix = path.parent.relative_to(folder).as_posix()
        for name, array in safetensors.numpy.load_file(path).items():
            found[name if prefix == "." else f"{prefix}/{name}"] = array
    return found


def equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == expected[name].dtype, name
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def with_prefix(prefix: str, arrays: Arrays) -> dict[str, Any]:
    return {prefix + name: array for name, array in arrays.items()}


def held(kind: str, by: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for prefix, arrays in HELD[kind].items():
        found |= with_prefix(prefix, moved(arrays, by))
    return found


def check_indexes(folder: Path) -> None:
    """Check each index against the shards beside it, in both directions."""
    listed = set()
    for index in folder.rglob("*.index.json"):
        homes = json.loads(index.read_bytes())["weight_map"]
        for home in set(homes.values()):
            names = {name for name in homes if homes[name] == home}
            assert names == set(safetensors.numpy.load_file(index.parent / home))
            listed.add(index.parent / home)
        assert not (index.parent / index.name.removesuffix(".index.json")).exists()
    assert listed == set(folder.rglob("*-of-*.safetensors"))


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.exit_code == 4
    return str(caught.value)


# In


@pytest.mark.parametrize("kind", MAKE)
def test_every_part_is_read_under_its_prefix(tmp_path: Path, kind: str) -> None:
    found = open_checkpoint(MAKE[kind](tmp_path / "in"))
    assert read(found) == {name: array.tobytes() for name, array in held(kind).items()}
    assert set(found.parts) == PARTS[kind]
    assert (found.folder, found.notes, found.is_task_vector) == (tmp_path / "in", (), False)
    owners = parts_of(found.tensors, found.parts)
    assert [p for p in found.parts for o in owners if o == p] == owners  # part by part


def test_a_component_is_a_model_of_its_own(tmp_path: Path) -> None:
    pipeline(tmp_path / "in")
    found = open_checkpoint(tmp_path / "in" / "unet")
    assert read(found) == {name: array.tobytes() for name, array in UNET.items()}
    assert found.parts == (Part("", "diffusion_pytorch_model"),)
    taskalg.compile("base", base=tmp_path / "in" / "unet").save(tmp_path / "out", shard_size=SHARD)
    assert model(tmp_path / "out") == tree(tmp_path / "in" / "unet")


def test_only_listed_folders_are_looked_into(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "in")
    weights(folder / "v1-5-pruned.safetensors", UNET)
    put(folder / "sd-v1-4.ckpt", b"")
    weights(folder / "vae_1_0" / "diffusion_pytorch_model.safetensors", VAE)
    put(folder / "unet" / "model.onnx", b"")
    assert set(open_checkpoint(folder).tensors) == set(held("pipeline"))


OTHER_STEMS = ["diffusion_pytorch_model", "open_clip_model", "consolidated"]


@pytest.mark.parametrize("stem", OTHER_STEMS)
def test_other_libraries_names_for_weights(tmp_path: Path, stem: str) -> None:
    weights(tmp_path / "in" / f"{stem}.safetensors", UNET)
    put(tmp_path / "in" / "params.json", {"dim": 4})
    found = open_checkpoint(tmp_path / "in")
    assert found.parts == (Part("", stem, may_shard=stem == "diffusion_pytorch_model"),)
    taskalg.compile("base", base=tmp_path / "in").save(tmp_path / "out")
    assert model(tmp_path / "out") == tree(tmp_path / "in")
    if stem != "diffusion_pytorch_model":  # what loads these knows no shards
        taskalg.compile("base", base=tmp_path / "in").save(tmp_path / "one", shard_size=SHARD)
        assert model(tmp_path / "one") == tree(tmp_path / "in")
        weights(tmp_path / "in" / "model.safetensors", VAE)  # the usual name wins
        assert set(open_checkpoint(tmp_path / "in").tensors) == set(VAE)
        shutil.rmtree(tmp_path / "in")
        shards(tmp_path / "in", stem, [UNET, VAE])
        assert open_checkpoint(tmp_path / "in").parts == (Part("", stem),)  # or they do


VARIANTS = {"one file": False, "shards": True}


@pytest.mark.parametrize("sharded", VARIANTS.values(), ids=VARIANTS)
def test_a_variant_is_read_where_there_is_nothing_else(tmp_path: Path, sharded: bool) -> None:
    half = {name: array.astype(np.float16) for name, array in UNET.items()}
    folder = pipeline(tmp_path / "in")
    if sharded:
        groups = [{name: half.pop(name)} for name in sorted(half)[:1]] + [half]
        shards(folder / "unet", "diffusion_pytorch_model", groups, ".fp16")
    else:
        weights(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", half)
    found = open_checkpoint(folder)
    assert found.tensors["unet/conv_in.weight"].dtype == F32
    assert found.notes == (f"of '{folder}/unet' the fp16 variant is not read",)
    for path in (folder / "unet").glob("diffusion_pytorch_model*"):
        if "fp16" not in path.name:
            path.unlink()
    found = open_checkpoint(folder)
    assert found.tensors["unet/conv_in.weight"].dtype == F16
    (note,) = found.notes
    assert "the fp16 variant is read" in note
    recipe = taskalg.compile("base", base=folder)
    assert note in str(recipe.explain())
    assert note in recipe.save(tmp_path / "out").notes
    written = {name for name in tree(tmp_path / "out") if name.startswith("unet/")}
    assert written == {"unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
    weights(folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors", half)
    assert "several variants" in refusal(folder)


def change(folder: Path, components: Mapping[str, Any]) -> None:
    put(folder / "model_index.json", COMPONENTS | dict(components))


def unlink(path: Path, suffix: str = "") -> None:
    if suffix:
        path.rename(path.with_suffix(suffix))
    else:
        path.unlink()


VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
UNET_SHARD = "unet/diffusion_pytorch_model-00002-of-00002.safetensors"
PIPELINES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder above": (lambda p: change(p, {"..": ["a", "b"]}), "'..', which is no sub-folder"),
    "a path above": (lambda p: change(p, {"../x": ["a", "b"]}), "'../x', which is no sub-folder"),
    "an absolute path": (lambda p: change(p, {"/etc": ["a", "b"]}), "'/etc', which is no sub-fo"),
    "a deeper path": (lambda p: change(p, {"a/b": ["a", "b"]}), "'a/b', which is no sub-folder"),
    "a backslash": (lambda p: change(p, {"a\\b": ["a", "b"]}), "which is no sub-folder"),
    "a drive": (lambda p: change(p, {"C:": ["a", "b"]}), "'C:', which is no sub-folder"),
    "a hidden folder": (lambda p: change(p, {".git": ["a", "b"]}), "'.git', which is no sub-fo"),
    "no name": (lambda p: change(p, {"a\0": ["a", "b"]}), r"'a\x00', which is no sub-folder"),
    "a list": (lambda p: put(p / "model_index.json", []), "it is not a JSON object"),
    "no JSON": (lambda p: put(p / "model_index.json", b"{"), "it is not JSON"),
    "a component twice": (lambda p: put(p / "model_index.json", b'{"a":1,"a":2}'), "'a' twice"),
    "a folder that is not there": (lambda p: change(p, {"unet2": ["a", "b"]}), "lacks 'unet2'"),
    "no weights of a component": (lambda p: shutil.rmtree(p / "vae"), "lacks 'vae'"),
    "no scheduler": (lambda p: shutil.rmtree(p / "scheduler"), "lacks 'scheduler'"),
    "pickles only": (
        lambda p: unlink(p / VAE_FILE, ".bin"),
        "vae' holds weights that are not read: '",
    ),
    "another format only": (lambda p: unlink(p / VAE_FILE, ".onnx"), "weights that are not read: "),
    "another name only": (
        lambda p: (p / VAE_FILE).rename(p / "vae" / "kl-f8.safetensors"),
        "weights that are not read: 'kl-f8.safetensors'",
    ),
    "old names of shards": (
        lambda p: (p / VAE_FILE).rename(p / "vae/model-00001-of-00001.fp16.safetensors"),
        "weights that are not read: ",
    ),
    "a missing shard": (lambda p: unlink(p / UNET_SHARD), "-00002-of-00002.safetensors' of '"),
    "a tensor that is not listed": (
        lambda p: weights(p / UNET_SHARD, moved(UNET, 0)),
        "is in two shards",
    ),
    "two models": (
        lambda p: weights(p / "unet" / "diffusion_pytorch_model.safetensors", UNET),
        "holds two models: diffusion_pytorch_model.safetensors, and shards with an index",
    ),
    "two libraries": (
        lambda p: weights(p / "unet" / "model.safetensors", UNET),
        "holds weights of transformers and of diffusers",
    ),
    "a quantized component": (
        lambda p: put(p / "unet" / "config.json", {"quantization_config": {"quant_method": "x"}}),
        "unet' is quantized with x",
    ),
    "quantized tensors": (
        lambda p: weights(p / VAE_FILE, {"qweight": np.array([1], np.int32)}),
        "vae' holds quantized tensors",
    ),
    "a damaged part": (lambda p: put(p / VAE_FILE, b"{}"), f"{VAE_FILE}' is no safetensors file"),
    "one part of a task vector": (
        lambda p: weights(p / VAE_FILE, VAE, taskalg="task-vector"),
        "mixes the shards of a model with those of a task vector",
    ),
}


@pytest.mark.parametrize("case", PIPELINES)
def test_a_pipeline_that_is_not_read(tmp_path: Path, case: str) -> None:
    break_it, words = PIPELINES[case]
    pipeline(tmp_path / "in")
    break_it(tmp_path / "in")
    said = refusal(tmp_path / "in")
    assert words in said
    assert "\0" not in said


def test_a_pipeline_without_weights_is_no_model(tmp_path: Path) -> None:
    put(tmp_path / "model_index.json", {"_class_name": "X"})
    assert "is not a model folder" in refusal(tmp_path)


def module(path: Any, kind: Any = "a.Dense") -> Any:
    return [*MODULES, {"path": path, "type": kind}]


MODULE_LISTS: dict[str, tuple[Any, str]] = {
    "a folder above": (module("../x"), "'../x', which is no sub-folder"),
    "dots": (module(".."), "'..', which is no sub-folder"),
    "an absolute path": (module("/x"), "'/x', which is no sub-folder"),
    "a deeper path": (module("a/b"), "'a/b', which is no sub-folder"),
    "no path": (module(None), "a module in it has no path or no type"),
    "a number for a path": (module(3), "a module in it has no path or no type"),
    "no type": (module("3_X", None), "a module in it has no path or no type"),
    "no module": ([*MODULES, 3], "lists something that is no module"),
    "an object": ({"a": MODULES}, "it is not a JSON list"),
    "a key twice": (b'[{"path":"","path":"x","type":"y"}]', "it has 'path' twice"),
    "an empty list": ([], "is not a model folder"),
    "a router": (module("4_Router", "sentence_transformers.models.Router"), "a Router"),
    "an older router": (module("4_Asym", "sentence_transformers.models.Asym"), "a Router"),
}


@pytest.mark.parametrize("case", MODULE_LISTS)
def test_a_list_of_modules_that_is_refused(tmp_path: Path, case: str) -> None:
    content, words = MODULE_LISTS[case]
    sentence(tmp_path / "in")
    put(tmp_path / "in" / "modules.json", content)
    assert words in refusal(tmp_path / "in")


def test_pickles_beside_safetensors_and_instead_of_them(tmp_path: Path) -> None:
    folder = sentence(tmp_path / "in")
    put(folder / "pytorch_model.bin", b"")
    put(folder / "2_Dense" / "pytorch_model.bin", b"")
    assert set(open_checkpoint(folder).tensors) == set(held("sentence"))
    (folder / "2_Dense" / "model.safetensors").unlink()
    assert "2_Dense' holds weights that are not read: 'pytorch_model.bin'" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "in' holds weights that are not read: 'pytorch_model.bin'" in refusal(folder)


def test_modules_without_the_weights_of_the_first_are_no_model(tmp_path: Path) -> None:
    folder = sentence(tmp_path / "in")
    put(folder / "modules.json", MODULES[::-1])
    assert read(open_checkpoint(folder)).keys() == held("sentence").keys()  # in any order
    (folder / "model.safetensors").unlink()
    assert "in' is not a model folder" in refusal(folder)


def test_a_tensor_may_not_be_called_as_if_it_were_in_another_part(tmp_path: Path) -> None:
    folder = sentence(tmp_path / "in")
    for name in ("2_Dense/linear.weight", "2_Dense/other"):
        weights(folder / "model.safetensors", dict(BERT) | {name: np.array([1], np.float32)})
        assert f"tensor '{name}' of '{folder}' is called as if it were elsewhere" in refusal(folder)
    weights(folder / "model.safetensors", dict(BERT) | {"encoder/x": np.array([1], np.float32)})
    assert "encoder/x" in open_checkpoint(folder).tensors


@pytest.mark.parametrize("kind", MAKE)
def test_every_failing_call_while_opening_is_a_checkpoint_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    folder = MAKE[kind](tmp_path / "in")
    counter = Faults()
    with monkeypatch.context() as context:
        inject(context, counter)
        open_checkpoint(folder)
    for at in range(1, len(counter.calls) + 1):
        faults = Faults(at)
        with monkeypatch.context() as context, suppress(CheckpointError, OutputError):
            inject(context, faults)
            open_checkpoint(folder)
        assert faults.failed


# Out


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("expression", ["base", "0.5*base + 0.5*base", "base + 0.4*(base - base)"])
def test_a_model_merged_with_itself_is_itself(tmp_path: Path, kind: str, expression: str) -> None:
    folder = MAKE[kind](tmp_path / "in")
    expected = tree(folder)
    put(folder / "README.md", b"how it was trained")
    put(folder / "unet" / "training" / "optimizer.pt", b"")
    put(folder / "exports" / "model.onnx", b"")
    put(folder / "2_Dense" / "pytorch_model.bin", b"")
    put(folder / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json", b"{}")
    taskalg.compile(expression, base=folder).save(tmp_path / "out", shard_size=SHARD)
    assert model(tmp_path / "out") == expected
    check_indexes(tmp_path / "out")


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("shard_size", [1, 20, SHARD, 10**9])
def test_a_merge_looks_like_its_donor(tmp_path: Path, kind: str, shard_size: int) -> None:
    MAKE[kind](tmp_path / "base"), MAKE[kind](tmp_path / "ft", by=5)
    recipe = taskalg.compile(
        "base + 0.4*(ft - base)", base=tmp_path / "base", models={"ft": tmp_path / "ft"}
    )
    recipe.save(tmp_path / "out", shard_size=shard_size)
    equal(loaded(tmp_path / "out"), held(kind, by=2))
    check_indexes(tmp_path / "out")
    found = open_checkpoint(tmp_path / "out")
    assert {name: spec.shape for name, spec in found.tensors.items()} == {
        name: array.shape for name, array in held(kind).items()
    }
    assert {(part.folder, part.stem) for part in found.parts} == {
        (part.folder, part.stem) for part in PARTS[kind]
    }
    if kind == "sentence":  # a Dense module is loaded from one file only
        assert not list((tmp_path / "out" / "2_Dense").glob("*index*"))
    others = {name for name in tree(tmp_path / "base") if ".safetensors" not in name}
    assert others <= set(tree(tmp_path / "out"))


@pytest.mark.parametrize("kind", MAKE)
def test_a_task_vector_has_the_same_folders_and_loads_again(tmp_path: Path, kind: str) -> None:
    MAKE[kind](tmp_path / "base"), MAKE[kind](tmp_path / "ft", by=5)
    taskalg.compile("ft - base", base=tmp_path / "base", models={"ft": tmp_path / "ft"}).save(
        tmp_path / "vector", shard_size=SHARD
    )
    found = open_checkpoint(tmp_path / "vector")
    assert found.is_task_vector
    assert [part.folder for part in found.parts] == [
        part.folder for part in open_checkpoint(tmp_path / "base").parts
    ]
    floating = {name: array for name, array in held(kind).items() if array.dtype != np.int64}
    equal(
        loaded(tmp_path / "vector"),
        {name: np.full(array.shape, 5, np.float32) for name, array in floating.items()},
    )
    others = {name for name in model(tmp_path / "vector") if "safetensors" not in name}
    lists = {"pipeline": "model_index.json", "sentence": "modules.json"}
    assert others == {lists[kind]}
    taskalg.compile("base + tau", base=tmp_path / "base", tasks={"tau": tmp_path / "vector"}).save(
        tmp_path / "out"
    )
    equal(loaded(tmp_path / "out"), held(kind, by=5))


def test_a_selector_takes_one_part(tmp_path: Path) -> None:
    pipeline(tmp_path / "base"), pipeline(tmp_path / "ft", by=5)
    recipe = taskalg.compile(
        'base + 0.4*(ft - base)["unet/*"]', base=tmp_path / "base", models={"ft": tmp_path / "ft"}
    )
    recipe.save(tmp_path / "out")
    equal(loaded(tmp_path / "out"), held("pipeline") | with_prefix("unet/", moved(UNET, 2)))


def test_a_bare_component_takes_part_in_a_pipeline(tmp_path: Path) -> None:
    pipeline(tmp_path / "base"), pipeline(tmp_path / "ft", by=5)
    recipe = taskalg.compile(
        "base + 0.4*(ft - base)", base=tmp_path / "base", models={"ft": tmp_path / "ft" / "unet"}
    )
    recipe.save(tmp_path / "out", only_shared=True)
    equal(loaded(tmp_path / "out"), held("pipeline") | with_prefix("unet/", moved(UNET, 2)))


def test_a_part_keeps_its_folder_in_its_names(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base")
    for prefix in ("unet/", "unet/down_blocks.", "u"):
        with pytest.raises(UsageError, match="are in other folders") as caught:
            taskalg.checkpoint(base, strip_prefix=prefix).save(tmp_path / "out")
        assert f"give that folder: '{base}/unet'" in str(caught.value)
    folder = sentence(tmp_path / "st")
    arrays = {"x/2_Dense/a": BERT["embeddings.weight"], "bert.b": BERT["embeddings.weight"]}
    weights(folder / "model.safetensors", arrays)
    with pytest.raises(UsageError, match="are in other folders"):
        taskalg.checkpoint(folder, strip_prefix="x/").save(tmp_path / "out")
    taskalg.checkpoint(folder, strip_prefix="bert.").save(tmp_path / "out")
    expected = {"x/2_Dense/a", "b", "2_Dense/linear.weight"}
    assert open_checkpoint(tmp_path / "out").tensors.keys() == expected


def test_layers_are_counted_within_a_part(tmp_path: Path) -> None:
    pipeline(tmp_path / "base"), pipeline(tmp_path / "ft", by=5)
    found = places(open_checkpoint(tmp_path / "base").tensors)
    assert {name for name, place in found.items() if place} == {
        "unet/down_blocks.0.weight",
        "unet/down_blocks.1.weight",
    }
    recipe = taskalg.compile(
        "base + 0.4*(ft - base)[-1]", base=tmp_path / "base", models={"ft": tmp_path / "ft"}
    )
    recipe.save(tmp_path / "out")
    last = "unet/down_blocks.1.weight"
    equal(loaded(tmp_path / "out"), held("pipeline") | {last: held("pipeline", by=2)[last]})


def test_a_config_follows_the_dtype_of_its_own_part(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "in")
    given = open_checkpoint(folder)
    tensors = [
        OutputTensor(name, F32 if name.startswith("text_encoder/") else F16, (1,), 4)
        for name in given.tensors
    ]
    found = {
        side.name: json.loads(side.content)
        for side in side_files(given, tensors)
        if side.name.endswith("config.json")
    }
    assert found["text_encoder/config.json"]["torch_dtype"] == "float32"
    taskalg.compile("base", base=folder).save(tmp_path / "out", dtype="bf16")
    config = json.loads((tmp_path / "out" / "text_encoder" / "config.json").read_bytes())
    assert config == {"model_type": "clip_text_model", "torch_dtype": "bfloat16"}
    assert tree(folder)["unet/config.json"] == tree(tmp_path / "out")["unet/config.json"]


@pytest.mark.parametrize("kind", MAKE)
def test_one_file_cannot_hold_several_parts(tmp_path: Path, kind: str) -> None:
    recipe = taskalg.compile("base", base=MAKE[kind](tmp_path / "in"))
    with pytest.raises(UsageError, match="is one file, and the model has several parts") as caught:
        recipe.save(tmp_path / "out.safetensors")
    assert "help: give a folder" in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_one_file_holds_a_pipeline_of_one_network(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "in")
    put(folder / "model_index.json", {"unet": COMPONENTS["unet"], "scheduler": ["a", "b"]})
    recipe = taskalg.compile("base", base=folder)
    recipe.save(tmp_path / "out.safetensors")
    equal(safetensors.numpy.load_file(tmp_path / "out.safetensors"), UNET)


@pytest.mark.parametrize("first", [SHARD, 10**9])
@pytest.mark.parametrize("second", [SHARD, 10**9])
@pytest.mark.parametrize("kind", MAKE)
def test_overwriting_leaves_the_new_model_alone(
    tmp_path: Path, kind: str, first: int, second: int
) -> None:
    recipe = taskalg.compile("base", base=MAKE[kind](tmp_path / "in"))
    recipe.save(tmp_path / "out", shard_size=first)
    recipe.save(tmp_path / "out", shard_size=second, overwrite=True)
    recipe.save(tmp_path / "fresh", shard_size=second)
    assert tree(tmp_path / "out").keys() == tree(tmp_path / "fresh").keys()
    check_indexes(tmp_path / "out")
    open_checkpoint(tmp_path / "out")


def plain(folder: Path) -> Path:
    weights(folder / "model.safetensors", VAE)
    return folder


MIXTURES = {
    "a model over a pipeline": (pipeline, plain, "'model_index.json' of another model"),
    "a model over sentence-transformers": (sentence, plain, "'config.json' and 'modules.json' of"),
    "a pipeline over a model": (plain, pipeline, "'model.safetensors' of another model"),
    "a pipeline over sentence-transformers": (sentence, pipeline, "'model.safetensors', 'config."),
}


@pytest.mark.parametrize("case", MIXTURES)
def test_models_of_two_kinds_are_not_mixed(tmp_path: Path, case: str) -> None:
    old, new, words = MIXTURES[case]
    taskalg.compile("base", base=old(tmp_path / "old")).save(tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(OutputError, match=words):
        taskalg.compile("base", base=new(tmp_path / "new")).save(tmp_path / "out", overwrite=True)
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("kind", MAKE)
def test_a_task_vector_does_not_lie_among_a_model_s_configs(tmp_path: Path, kind: str) -> None:
    MAKE[kind](tmp_path / "base"), MAKE[kind](tmp_path / "ft", by=5)
    taskalg.compile("base", base=tmp_path / "base").save(tmp_path / "out")
    recipe = taskalg.compile("ft - base", base=tmp_path / "base", models={"ft": tmp_path / "ft"})
    with pytest.raises(OutputError, match=r"config.json'.* of another model"):
        recipe.save(tmp_path / "out", overwrite=True)


def kills(
    monkeypatch: pytest.MonkeyPatch, restore: Callable[[], object], run: Callable[[], object]
) -> Iterator[str]:
    """Kill a run before each of its renames and removals in turn."""
    counter = Faults()
    restore()
    with monkeypatch.context() as context:
        inject(context, counter)
        run()
    for at, call in enumerate(counter.calls, start=1):
        if call not in ("replace", "unlink"):
            continue
        restore()
        faults = Faults(at, sticky=True, error=Killed())
        with monkeypatch.context() as context, suppress(Killed, TaskalgError):
            inject(context, faults)
            run()
        faults.end()
        yield f"{call} {at}"


@pytest.mark.parametrize("kind", MAKE)
def test_a_run_that_is_killed_leaves_no_model_or_all_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    recipe = taskalg.compile("base", base=MAKE[kind](tmp_path / "in"))
    out = tmp_path / "out"

    def run(overwrite: bool = False) -> None:
        recipe.save(out, shard_size=SHARD, threads=1, overwrite=overwrite)

    run()
    expected = tree(out).keys()
    for where in kills(monkeypatch, lambda: shutil.rmtree(out), run):
        visible = {name for name in tree(out) if not name.startswith(".")}
        if visible != expected:
            with pytest.raises(CheckpointError):
                open_checkpoint(out)
        run(overwrite=visible == expected)
        assert tree(out).keys() == expected, where
        check_indexes(out)


@pytest.mark.parametrize("kind", MAKE)
def test_an_overwrite_that_is_killed_leaves_the_old_model_the_new_one_or_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    old = taskalg.compile("base", base=MAKE[kind](tmp_path / "old"))
    new = taskalg.compile("base", base=MAKE[kind](tmp_path / "new", by=1))
    out = tmp_path / "out"

    def restore() -> None:
        shutil.rmtree(out, ignore_errors=True)
        old.save(out)

    def run() -> None:
        new.save(out, shard_size=SHARD, threads=1, overwrite=True)

    both = [read(open_checkpoint(tmp_path / name)) for name in ("old", "new")]
    for where in kills(monkeypatch, restore, run):
        with suppress(CheckpointError):
            assert read(open_checkpoint(out)) in both, where
        run()
        assert read(open_checkpoint(out)) == both[1], where
        check_indexes(out)


# The layout alone

FOLDERS = st.lists(st.sampled_from(["", "unet", "vae", "unet_2"]), unique=True, min_size=1)
STEMS = st.sampled_from(["model", "diffusion_pytorch_model"])


@settings(deadline=None)
@given(st.data(), FOLDERS, st.integers(1, 60))
def test_every_tensor_lies_in_its_part_and_every_index_is_exact(
    data: st.DataObject, folders: list[str], shard_size: int
) -> None:
    parts = [Part(folder, data.draw(STEMS), data.draw(st.booleans())) for folder in folders]
    names = st.lists(st.text("ab./", min_size=1, max_size=4), unique=True, max_size=5)
    wanted = {
        part.prefix + name: part
        for part in parts
        for name in data.draw(names)
        if part.folder or name.partition("/")[0] not in folders
    }
    order = data.draw(st.permutations(list(wanted)))
    layouts = lay_out(
        [OutputTensor(name, F32, (2,), 8) for name in order], shard_size=shard_size, parts=parts
    )
    held_by: dict[str, str] = {}
    for layout in layouts:
        content = layout.header + bytes(layout.size - len(layout.header))
        inside = safetensors.numpy.load(content)
        folder, _, _ = layout.name.rpartition("/")
        for name in inside:
            held_by[f"{folder}/{name}" if folder else name] = layout.name
    assert held_by.keys() == wanted.keys()
    assert len({layout.name for layout in layouts}) == len(layouts)
    lists = indexes(layouts)
    for part in parts:
        files = {layout.name for layout in layouts if layout.part == part}
        mine = {name: held_by[name] for name, owner in wanted.items() if owner == part}
        assert set(mine.values()) <= files
        if len(files) == 1:
            assert files == {part.single} and part.index not in lists
        else:
            homes = json.loads(lists.pop(part.index))["weight_map"]
            assert {part.prefix + n: part.prefix + home for n, home in homes.items()} == mine
    assert not lists
