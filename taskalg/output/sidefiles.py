"""What comes along with the weights, so that the output can be loaded as its donor can.

A list of files to leave out, not of files to take: model families keep adding tokenizer and
processor files, and code of their own, and a list of known names loses them.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskalg import files
from taskalg.checkpoints.base import Checkpoint
from taskalg.dtypes import FLOATING, DType
from taskalg.errors import CheckpointError, quoted
from taskalg.output.layout import OutputTensor

LARGEST_SIDE_FILE = 64_000_000  # bytes; the largest tokenizer.json known has 35 MB
CONFIG_NAME = "config.json"
TEMPLATES = "additional_chat_templates"  # the one folder loaders look into

_WEIGHTS = (
    r".*\.(safetensors|bin|pt|pth|ckpt|gguf|ggml|h5|msgpack|npz|npy|pkl|pickle|distcp|ot"
    r"|onnx|onnx_data|pb|tflite|mlmodel|engine|nemo)|.*\.data-\d+-of-\d+"
)
_NOT_TAKEN = re.compile(
    rf"{_WEIGHTS}|.*\.index\.json"  # weights, and what lists them
    r"|\..*|readme.*|taskalg\.json|mergekit_config\.ya?ml"  # how another model came about
    r"|trainer_state\.json|(all|train|eval|test|predict)_results\.json|events\.out\..*|latest"
    r"|zero_to_fp32\.py|adapter_config\.json|quantize_config\.json",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SideFile:
    """A small file to be published beside the weights."""

    name: str  # its path inside the output, parts joined by "/"
    content: bytes


def side_files(donor: Checkpoint, tensors: Sequence[OutputTensor]) -> tuple[SideFile, ...]:
    """Collect what the output takes over from its donor.

    Every file of the donor's folder that is small and neither weights nor a record of how the
    donor was made, and its additional chat templates. A bare file has none. For a task vector do
    not call this: with a config beside it, a loader would take it for a model.

    Args:
        donor: the checkpoint whose folder is read.
        tensors: what will be written; the config's dtype follows them if they all agree.

    Raises:
        CheckpointError: a file cannot be read.

    Memory: the files' contents, at most `LARGEST_SIDE_FILE` [bytes] each.
    """
    if donor.folder is None:
        return ()
    names = [name for name in files.list_folder(donor.folder) if not _NOT_TAKEN.fullmatch(name)]
    templates = donor.folder / TEMPLATES
    if files.is_folder(templates):
        found = (name for name in files.list_folder(templates) if name.endswith(".jinja"))
        names += [f"{TEMPLATES}/{name}" for name in found]
    taken = [_take(donor.folder, name) for name in names]
    dtype = _common_dtype(tensors)
    return tuple(
        SideFile(CONFIG_NAME, with_dtype(side_file.content, dtype, str(donor.folder)))
        if side_file.name == CONFIG_NAME and dtype is not None
        else side_file
        for side_file in taken
        if side_file is not None
    )


def is_weights(name: str) -> bool:
    """Tell from a file's name whether it holds weights, or lists files that do."""
    return re.fullmatch(rf"{_WEIGHTS}|.*\.index\.json", name, re.IGNORECASE) is not None


def with_dtype(config: bytes, dtype: DType, path: str) -> bytes:
    """Make a config say that the model's dtype is `dtype`; unchanged bytes where it does already.

    Only keys that are there are changed, in nested configs too; `dtype` may also be an object with
    a dtype for each part.

    Raises:
        CheckpointError: the config is not JSON.
    """
    try:
        found = json.loads(config.decode("utf-8"))
        changed = _set_dtype(found, dtype.torch)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{CONFIG_NAME} of {quoted(path)} is not JSON") from None
    return (json.dumps(found, indent=2) + "\n").encode() if changed else config


def _take(folder: Path, name: str) -> SideFile | None:
    path = folder / name
    if files.is_folder(path) or (files.exists(path) and not files.is_file(path)):
        return None
    if files.fingerprint(path).size > LARGEST_SIDE_FILE:
        return None
    return SideFile(name, files.read_small(path, LARGEST_SIDE_FILE))


def _common_dtype(tensors: Sequence[OutputTensor]) -> DType | None:
    found = {tensor.dtype for tensor in tensors if tensor.dtype.is_floating}
    return found.pop() if len(found) == 1 else None


_DTYPE_NAMES = {dtype.torch for dtype in FLOATING}


def _set_dtype(found: Any, name: str) -> bool:
    """Set every dtype in a parsed config, and tell whether one was another."""
    if not isinstance(found, dict):
        return False
    changed = False
    for key, value in found.items():
        if key in ("dtype", "torch_dtype"):
            changed |= _set_value(found, key, name)
        elif isinstance(value, dict):
            changed |= _set_dtype(value, name)
    return changed


def _set_value(holder: dict[str, Any], key: str, name: str) -> bool:
    value = holder[key]
    if isinstance(value, dict):  # one dtype for each part
        return sum(_set_value(value, part, name) for part in list(value)) > 0  # all of them
    if not isinstance(value, str) or value.removeprefix("torch.") not in _DTYPE_NAMES - {name}:
        return False
    holder[key] = name
    return True
