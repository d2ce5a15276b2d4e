"""Things that are recognizably something else: what they are, and what to do instead.

When a format gets its reader, its rows move out of here and one row into registry.py.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from taskalg.errors import CheckpointError, quoted

_CONVERT = "load it with the library that wrote it and save it as safetensors"
_RENAME = "if it is one, give it a name that ends in .pt"
_SUFFIXES = {
    ".gguf": ("a GGUF file, made for llama.cpp", "use the model it was converted from"),
    ".h5": ("a Keras or TensorFlow file", _CONVERT),
    ".msgpack": ("a Flax file", _CONVERT),
    ".onnx": ("an ONNX graph", "use the model it was exported from"),
    ".npz": ("a NumPy archive", _CONVERT),
}
_CONTENT = (
    (b"version https://git-lfs", "a git-lfs pointer, not the weights", "run: git lfs pull"),
    (b"GGUF", "a GGUF file, made for llama.cpp", "use the model it was converted from"),
    (b"PK\x03\x04", "a zip archive, probably a PyTorch pickle", _RENAME),
    (b"\x80\x02", "a pickle, probably PyTorch's", _RENAME),
    (b"<!DOCTYPE", "a web page, not the weights", "download the file itself"),
    (b"<!doctype", "a web page, not the weights", "download the file itself"),
    (b"<html", "a web page, not the weights", "download the file itself"),
)

# How the names of an adapter's factors end, after that of their module; whose layout that is.
_FACTORS = (
    (re.compile(r"\.lora_(down|up)\.weight$"), "kohya's"),
    (re.compile(r"\.(hada|lokr)_w\d(_[ab])?$"), "LyCORIS's"),
    (re.compile(r"\.(lora|lora_linear_layer)\.(down|up)\.weight$"), "an older diffusers'"),
    (re.compile(r"\.lora_(embedding_)?[AB](\.\w+)?(\.weight)?$"), "PEFT's"),
)
_MARKS = ("lora", "hada_w", "lokr_w")  # one of them is in each; a search takes ten times as long
_FOLDER = "give its folder, with adapter_config.json in it"
_FUSE = "fuse it into its base, as with diffusers' fuse_lora(), save that, and give it as a --task"


@dataclass(frozen=True)
class OtherFolder:
    """A kind of folder that is not read."""

    what: str  # "a PEFT LoRA adapter"
    is_one: Callable[[frozenset[str]], bool]  # by the names in it
    help: str


def _like(pattern: str) -> Callable[[frozenset[str]], bool]:
    return lambda found: any(re.fullmatch(pattern, name) for name in found)


_FOLDERS = (
    OtherFolder(
        "a model in slices, as Mistral's own layout has them",
        _like(r"consolidated.*\.safetensors"),
        "use the Hugging Face layout of the model",
    ),
    OtherFolder(
        "a folder of PyTorch pickles, under names of their own",
        _like(r".*\.(bin|pt|pth|ckpt)"),
        "give one of its files, and --allow-pickle",
    ),
    OtherFolder(
        "a GGUF model, made for llama.cpp",
        _like(r".*\.gguf"),
        "use the model it was converted from",
    ),
    OtherFolder("a distributed PyTorch checkpoint", _like(r".*\.distcp"), _CONVERT),
    OtherFolder("a Flax or TensorFlow model", _like(r".*\.(msgpack|h5)"), _CONVERT),
)


def refuse_folder(path: str, names: Sequence[str]) -> None:
    """Refuse a folder that is something else.

    Args:
        path: the folder, as the user gave it.
        names: what lies in it; none of it is a model's weights.

    Raises:
        CheckpointError: it is something else.
    """
    found = frozenset(names)
    for kind in _FOLDERS:
        if kind.is_one(found):
            raise _refusal(path, kind.what, kind.help)


def refuse_suffix(path: str) -> None:
    """Refuse a file whose suffix says that it is something else.

    Raises:
        CheckpointError: it is something else.
    """
    for suffix, (what, help) in _SUFFIXES.items():
        if path.lower().endswith(suffix):
            raise _refusal(path, what, help)


def refuse_content(start: bytes, path: str) -> None:
    """Refuse a file whose first bytes say that it is something else.

    Raises:
        CheckpointError: it is something else.
    """
    for magic, what, help in _CONTENT:
        if start.startswith(magic):
            raise _refusal(path, what, help)


def refuse_factors(names: Collection[str], path: str) -> None:
    """Refuse a file of an adapter's factors, which mean nothing without what scales them.

    A model that stores factors beside the weights they belong to is a checkpoint like others.

    Raises:
        CheckpointError: it is one.
    """
    marked = [name for name in names if any(mark in name for mark in _MARKS)]
    for name in marked:
        for pattern, whose in _FACTORS:
            found = pattern.search(name)
            if found and f"{name[: found.start()]}.base_layer.weight" not in names:
                raise CheckpointError(
                    f"{quoted(path)} holds the factors of an adapter, in {whose} layout",
                    note=f"one is {quoted(name)}; a sum of factors is not the sum of adapters",
                    help=_FOLDER if whose == "PEFT's" else _FUSE,
                )


def refuse_address(path: str) -> None:
    """Refuse an address that is not the Hub's.

    Raises:
        CheckpointError: it is one.
    """
    page = re.match(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", path)
    if page is not None:
        raise _refusal(path, "a page, not the weights", f"write hf://{page[1]}")
    if re.match(r"[a-z][a-z0-9+]+://", path):
        raise _refusal(path, "an address", "download it and give the path")


def _refusal(path: str, what: str, help: str) -> CheckpointError:
    other_format = not what.endswith("not the weights")
    note = "that is not supported yet; safetensors files and folders of them are"
    return CheckpointError(
        f"{quoted(path)} is {what}", note=note if other_format else None, help=help
    )
