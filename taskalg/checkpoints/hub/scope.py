"""Which files of a model matter: an address and a list become small files, and weights to look at.

A list of what weights are called, not of what small files are: model families keep adding those.
Training leaves whole models in sub-folders, which nobody means; so sub-folders count only where a
file says that the model lies in them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from taskalg.checkpoints.base import Opening, RemoteFile
from taskalg.checkpoints.index import read_json
from taskalg.checkpoints.stems import is_weights
from taskalg.errors import CheckpointError, quoted

LARGEST_SMALL = 64_000_000  # bytes; larger files are never needed beside weights
SUFFIX = ".safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")

_LISTS_PARTS = ("model_index.json", "modules.json")  # a model with one has parts in sub-folders
_TEMPLATES = "additional_chat_templates"
_BESIDE_A_FILE = "adapter_config.json"  # without which a file of factors means nothing


@dataclass(frozen=True)
class Scope:
    """What an address covers."""

    path: str  # inside the model: a folder, or a file
    files: dict[str, RemoteFile]  # by path inside the model
    every: Mapping[str, RemoteFile]  # of the model's files

    @classmethod
    def of(cls, entries: Sequence[RemoteFile], path: str) -> Self:
        """Find what a path inside a model covers: of a file's folder as little as can be."""
        every = {file.path: file for file in entries}
        inside = _inside(path.rpartition("/")[0] if path in every else path)
        in_parts = any(inside + name in every for name in _LISTS_PARTS)

        def is_covered(name: str) -> bool:
            if path in every:
                return name in (path, inside + _BESIDE_A_FILE)
            place = name.removeprefix(inside).rpartition("/")[0]
            return name.startswith(inside) and (in_parts or place in ("", _TEMPLATES))

        return cls(path, {name: every[name] for name in every if is_covered(name)}, every)

    @property
    def tops(self) -> set[str]:
        """What the model has, quoted; of folders only the names."""
        return {quoted(path.partition("/")[0]) for path in self.every}

    def small(self, opening: Opening) -> Iterator[RemoteFile]:
        """Yield what is needed beside weights, and pickled weights where they are allowed."""
        pickles = opening.allow_pickle and not any(path.endswith(SUFFIX) for path in self.files)
        for path, file in self.files.items():
            name = path.rpartition("/")[2]
            is_meant = path == self.path or name.startswith("pytorch_model")
            is_pickle = pickles and is_meant and name.lower().endswith(PICKLED)
            is_small = file.size <= LARGEST_SMALL and not name.startswith(".")
            is_side = is_small and (name.endswith(".json") or not is_weights(name))
            if is_pickle or is_side:
                yield file

    def named_by_indexes(self, root: Path) -> dict[str, RemoteFile]:
        """Return files in sub-folders that an index names; `root` has the indexes by now."""
        inside = _inside(self.path)
        found: dict[str, RemoteFile] = {}
        for path in self.files:
            if path.endswith(".json") and is_weights(path):
                with suppress(CheckpointError, AttributeError):  # its reader will say what is wrong
                    homes = read_json(root / path).get("weight_map", {}).values()
                    names = {inside + home for home in homes if isinstance(home, str)}
                    found |= {name: self.every[name] for name in names & self.every.keys()}
        return found


def _inside(folder: str) -> str:
    return f"{folder}/" if folder else ""
