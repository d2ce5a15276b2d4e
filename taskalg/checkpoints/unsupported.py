"""Things that are recognizably something else: what they are, and what to do instead.

When a format gets its reader, its rows move out of here and one row into registry.py.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from taskalg.errors import CheckpointError, quoted

_CONVERT = "load it with the library that wrote it and save it as safetensors"
_PICKLE = "a PyTorch pickle"
_SUFFIXES = {
    ".bin": (_PICKLE, _CONVERT),
    ".pt": (_PICKLE, _CONVERT),
    ".pth": (_PICKLE, _CONVERT),
    ".ckpt": (_PICKLE, _CONVERT),
    ".gguf": ("a GGUF file, made for llama.cpp", "use the model it was converted from"),
    ".h5": ("a Keras or TensorFlow file", _CONVERT),
    ".msgpack": ("a Flax file", _CONVERT),
    ".onnx": ("an ONNX graph", "use the model it was exported from"),
    ".npz": ("a NumPy archive", _CONVERT),
}
_CONTENT = (
    (b"version https://git-lfs", "a git-lfs pointer, not the weights", "run: git lfs pull"),
    (b"GGUF", "a GGUF file, made for llama.cpp", "use the model it was converted from"),
    (b"PK\x03\x04", "a zip archive, probably a PyTorch pickle", _CONVERT),
    (b"\x80\x02", _PICKLE, _CONVERT),
    (b"<!DOCTYPE", "a web page, not the weights", "download the file itself"),
    (b"<!doctype", "a web page, not the weights", "download the file itself"),
    (b"<html", "a web page, not the weights", "download the file itself"),
)


@dataclass(frozen=True)
class OtherFolder:
    """A kind of folder that is not read."""

    what: str  # "a PEFT LoRA adapter"
    is_one: Callable[[frozenset[str]], bool]  # by the names in it
    help: str
    beside_model: bool  # whether a model.safetensors in the folder does not change what it is


def _has(*names: str) -> Callable[[frozenset[str]], bool]:
    return lambda found: any(name in found for name in names)


def _like(pattern: str) -> Callable[[frozenset[str]], bool]:
    return lambda found: any(re.fullmatch(pattern, name) for name in found)


_FOLDERS = (
    OtherFolder(
        "a PEFT adapter",
        _has("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"),
        "merge it into its base with PEFT's merge_and_unload() and save the result",
        beside_model=True,
    ),
    OtherFolder(
        "a diffusers pipeline",
        _has("model_index.json"),
        "give the weights of one part, such as unet/diffusion_pytorch_model.safetensors",
        beside_model=True,
    ),
    OtherFolder(
        "a sentence-transformers model",
        _has("modules.json"),
        "give the weights of one part, such as its model.safetensors",
        beside_model=True,
    ),
    OtherFolder(
        "a model in the Mistral layout",
        _like(r"consolidated.*\.safetensors"),
        "give its consolidated.safetensors, or use the Hugging Face layout of the model",
        beside_model=False,
    ),
    OtherFolder("a model in PyTorch pickles", _like(r".*\.(bin|pt|pth|ckpt)"), _CONVERT, False),
    OtherFolder(
        "a GGUF model, made for llama.cpp",
        _like(r".*\.gguf"),
        "use the model it was converted from",
        beside_model=False,
    ),
    OtherFolder("a distributed PyTorch checkpoint", _like(r".*\.distcp"), _CONVERT, False),
    OtherFolder("a Flax or TensorFlow model", _like(r".*\.(msgpack|h5)"), _CONVERT, False),
)


def refuse_folder(path: str, names: Sequence[str], *, has_model: bool) -> None:
    """Refuse a folder that is something else.

    Args:
        path: the folder, as the user gave it.
        names: what lies in it.
        has_model: whether there is a model.safetensors or its index too.

    Raises:
        CheckpointError: it is something else.
    """
    found = frozenset(names)
    for kind in _FOLDERS:
        if kind.is_one(found) and (kind.beside_model or not has_model):
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


def refuse_remote(path: str) -> None:
    """Refuse an address, or what looks like the name of a model on the Hub.

    Raises:
        CheckpointError: it is one. `path` is known not to be on this machine.
    """
    model = re.fullmatch(r"(?:hf://)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", path)
    if model is not None and not path.startswith(("./", "../")):
        revision = f" --revision {model[2]}" if model[2] else ""
        name = model[1].rpartition("/")[2]
        raise CheckpointError(
            f"there is no {quoted(path)} on this machine",
            note="it may be a model on the Hub; those are not read directly yet",
            help=f"run: hf download {model[1]}{revision} --local-dir {name}",
        )
    if re.match(r"[a-z][a-z0-9+]+://", path):
        raise _refusal(path, "an address", "download it and give the path")


def _refusal(path: str, what: str, help: str) -> CheckpointError:
    other_format = not what.endswith("not the weights")
    note = "that is not supported yet; safetensors files and folders of them are"
    return CheckpointError(
        f"{quoted(path)} is {what}", note=note if other_format else None, help=help
    )
