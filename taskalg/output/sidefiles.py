"""What comes along with the weights, so that the output can be loaded as its donor can.

A list of files to leave out, not of files to take: model families keep adding tokenizer and
processor files, and code of their own, and a list of known names loses them.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskalg import files
from taskalg.checkpoints.base import Checkpoint, parts_of
from taskalg.checkpoints.hub.paths import hub_identity
from taskalg.checkpoints.pipeline import LISTS, listed_folders
from taskalg.checkpoints.stems import is_weights
from taskalg.dtypes import FLOATING, DType
from taskalg.errors import CheckpointError, quoted
from taskalg.output.layout import OutputTensor
from taskalg.output.public import looks_local, public_path

LARGEST_SIDE_FILE = 64_000_000  # bytes; the largest tokenizer.json known has 35 MB
CONFIG_NAME = "config.json"
_WITH_PATHS = {CONFIG_NAME, "tokenizer_config.json", "model_index.json"}
_PATHS = {"_name_or_path", "name_or_path"}  # keys under which libraries note where they loaded from
TEMPLATES = "additional_chat_templates"  # the one folder loaders look into

_NOT_TAKEN = re.compile(
    r"\..*|readme.*|taskalg\.json|mergekit_config\.ya?ml"  # how another model came about
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
    donor was made, and its additional chat templates; the same of the sub-folders that a model of
    several parts lists. A bare file has none. For a task vector do not call this: with a config
    beside it, a loader would take it for a model.

    Args:
        donor: the checkpoint whose folder is read.
        tensors: what will be written; a config's dtype follows those beside it if they all agree.

    Raises:
        CheckpointError: a file cannot be read.

    Memory: the files' contents, at most `LARGEST_SIDE_FILE` [bytes] each.
    """
    if donor.folder is None:
        return ()
    dtypes = _common_dtypes(donor, tensors)
    listed = listed_folders(donor.folder, files.list_folder(donor.folder))
    found = [
        _following(side_file, dtypes.get(folder), donor)
        for folder in dict.fromkeys(("", *listed))
        for name in _names(donor.folder, folder)
        if (side_file := _take(donor.folder, name)) is not None
    ]
    return tuple(found)


def linked_from_outside(donor: Checkpoint) -> list[str]:
    """Return the side files that are links out of the donor's folder, and so may be anyone's.

    The Hub's cache is made of links to its blobs; those are the model's own.
    """
    if donor.folder is None or hub_identity(str(donor.folder)) is not None:
        return []
    root = Path(os.path.realpath(donor.folder))
    listed = listed_folders(donor.folder, files.list_folder(donor.folder))
    return [
        name
        for folder in dict.fromkeys(("", *listed))
        for name in _names(donor.folder, folder)
        if root not in Path(os.path.realpath(donor.folder / name)).parents
    ]


def list_of_parts(donor: Checkpoint) -> tuple[SideFile, ...]:
    """Return the file that lists a donor's parts: all that a task vector takes over.

    Without it a reader would find the root's part alone, or none.

    Raises:
        CheckpointError: it cannot be read.
    """
    if donor.folder is None:
        return ()
    names = set(files.list_folder(donor.folder))
    taken = (_take(donor.folder, name) for name in LISTS if name in names)
    return tuple(side_file for side_file in taken if side_file is not None)


def published(config: bytes, dtype: DType | None, path: str) -> bytes:
    """Make a config say that the model's dtype is `dtype`, and name no path on this machine.

    Only keys that are there are changed, in nested configs too; `dtype` may also be an object with
    a dtype for each part. Bytes stay as they are where nothing has to change.

    Raises:
        CheckpointError: the config is not JSON.
    """
    try:
        found = json.loads(config.decode("utf-8"))
        changed = _without_paths(found)
        if dtype is not None:
            changed |= _set_dtype(found, dtype.torch)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{quoted(path)} is not JSON") from None
    return (json.dumps(found, indent=2) + "\n").encode() if changed else config


def _without_paths(found: Any) -> bool:
    """Reduce local paths to their last part, and tell whether there was one."""
    if not isinstance(found, dict):
        return False
    changed = False
    for key, value in found.items():
        if key in _PATHS and isinstance(value, str) and looks_local(value):
            found[key], changed = public_path(value), True
        elif isinstance(value, dict):
            changed |= _without_paths(value)
    return changed


def _names(root: Path, folder: str) -> list[str]:
    """Return what may be taken from a folder, as paths inside the donor's."""
    prefix = f"{folder}/" if folder else ""
    path = root / folder
    names = files.list_folder(path) if files.is_folder(path) else []
    names = [name for name in names if not (_NOT_TAKEN.fullmatch(name) or is_weights(name))]
    templates = path / TEMPLATES
    if files.is_folder(templates):
        found = (name for name in files.list_folder(templates) if name.endswith(".jinja"))
        names += [f"{TEMPLATES}/{name}" for name in found]
    return [prefix + name for name in names]


def _following(side_file: SideFile, dtype: DType | None, donor: Checkpoint) -> SideFile:
    """Make a config follow the dtype of the tensors beside it, and name no local path."""
    name = side_file.name.rpartition("/")[2]
    if name not in _WITH_PATHS:
        return side_file
    dtype = dtype if name == CONFIG_NAME else None
    path = f"{donor.folder}/{side_file.name}"
    return SideFile(side_file.name, published(side_file.content, dtype, path))


def _take(folder: Path, name: str) -> SideFile | None:
    path = folder / name
    if files.is_folder(path) or (files.exists(path) and not files.is_file(path)):
        return None
    if files.fingerprint(path).size > LARGEST_SIDE_FILE:
        return None
    return SideFile(name, files.read_small(path, LARGEST_SIDE_FILE))


def _common_dtypes(donor: Checkpoint, tensors: Sequence[OutputTensor]) -> dict[str, DType]:
    """Return the dtype of each folder's tensors, where they all have the same."""
    found: dict[str, set[DType]] = {}
    homes = parts_of((tensor.name for tensor in tensors), donor.parts)
    for tensor, part in zip(tensors, homes, strict=True):
        if tensor.dtype.is_floating:
            found.setdefault(part.folder, set()).add(tensor.dtype)
    return {folder: dtypes.pop() for folder, dtypes in found.items() if len(dtypes) == 1}


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
