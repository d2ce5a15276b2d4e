"""The index of a sharded model: which file holds which tensor, checked before any file is opened.

File names in it come from a stranger. They are judged as text, not by where they lead: in the
Hugging Face cache every shard is a link out of the folder, and that is fine, while `..` is not.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from taskalg import files
from taskalg.checkpoints.strict_json import NotStrictError, parse_list, parse_object
from taskalg.errors import CheckpointError, quoted

T = TypeVar("T")

LARGEST_JSON = 25_000_000  # bytes, of 200,000 tensors; hostile JSON takes 50 times that in memory


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: it cannot be read, or is not one JSON object in UTF-8.
    """
    return _read(path, parse_object)


def read_json_list(path: Path) -> list[Any]:
    """Return the list in a JSON file.

    Raises:
        CheckpointError: it cannot be read, or is not one JSON list in UTF-8.
    """
    return _read(path, parse_list)


def read_index(path: Path, suffix: str) -> dict[str, str]:
    """Return the file that holds each tensor, relative to the index's folder.

    Args:
        path: the index.
        suffix: what the files' names must end with.

    Raises:
        CheckpointError: it is no index, or names a file that a model's folder cannot hold.
    """
    index = read_json(path)
    homes = index.get("weight_map")
    if not isinstance(homes, dict):
        raise broken(path, "it has no 'weight_map' object")
    if not isinstance(index.get("metadata"), dict):
        raise broken(path, "it has no 'metadata' object, without which no loader reads it")
    for name, home in homes.items():
        if not isinstance(home, str):
            raise broken(path, f"the file of tensor {quoted(name)} is not a string")
    for home in set(homes.values()):
        _check_home(home, path, suffix)
    return homes


def broken(path: Path, reason: str, note: str | None = None) -> CheckpointError:
    """Return the refusal of a file that says what it must not."""
    return CheckpointError(
        f"{quoted(str(path))} is damaged or hostile: {reason}",
        note=note,
        help="download it again, or save the model again",
    )


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    content = files.read_small(path, LARGEST_JSON)
    try:
        return parse(content)
    except NotStrictError as error:
        raise broken(path, f"it {error}", error.note) from None


def _check_home(home: str, path: Path, suffix: str) -> None:
    reasons = (
        (not home or "\0" in home, "is no file name"),
        ("\\" in home, "has a backslash"),
        (home.startswith("/"), "is absolute"),
        (re.match(r"[A-Za-z]:", home) is not None, "has a drive letter"),
        (".." in home.split("/"), "leads out of the folder"),
        (not home.endswith(suffix), f"is no {suffix[1:]} file"),
    )
    for wrong, words in reasons:
        if wrong:
            raise broken(path, f"its file {quoted(home)} {words}")
