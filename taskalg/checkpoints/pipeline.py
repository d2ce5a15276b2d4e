"""Models of several parts: the file that lists them becomes the sub-folders they lie in.

A diffusers pipeline lists its components in `model_index.json`, a sentence-transformers model its
modules in `modules.json`. Sub-folders that nothing lists are not looked into: they hold other
variants of the model, exports, and training states.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from taskalg.checkpoints.index import broken, read_json, read_json_list
from taskalg.errors import CheckpointError, quoted

COMPONENTS, MODULES = "model_index.json", "modules.json"
LISTS = (COMPONENTS, MODULES)
_FOLDER = re.compile(r"[^./\\:\0][^/\\:\0]*")


def listed_folders(root: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Return the sub-folders a model consists of, in the order of its list.

    Args:
        root: the model's folder.
        names: what lies in it.

    Returns:
        Their names, which have no slash; "" is the model's folder itself, and the only one of a
        model that has no list. Some may not be there.

    Raises:
        CheckpointError: the list is damaged, names a folder elsewhere, or is of a kind of model
            that is not read.
    """
    if COMPONENTS in names:
        return _components(root / COMPONENTS)
    return _modules(root / MODULES) if MODULES in names else ("",)


def _components(path: Path) -> tuple[str, ...]:
    """Return the keys whose value is a library and a class; others are the pipeline's settings."""
    pairs = ((key, value) for key, value in read_json(path).items() if isinstance(value, list))
    folders = [key for key, value in pairs if [type(word) for word in value] == [str, str]]
    return _checked([folder for folder in folders if not folder.startswith("_")], path)


def _modules(path: Path) -> tuple[str, ...]:
    folders = []
    for module in read_json_list(path):
        if not isinstance(module, dict):
            raise broken(path, "it lists something that is no module")
        folder, kind = module.get("path"), module.get("type")
        if not isinstance(folder, str) or not isinstance(kind, str):
            raise broken(path, "a module in it has no path or no type")
        if kind.rpartition(".")[2] in ("Router", "Asym"):
            raise CheckpointError(
                f"{quoted(str(path.parent))} has a module that chooses among others, a Router",
                note="that is not supported yet; other sentence-transformers models are",
                help="merge the folders of the modules inside it one by one",
            )
        folders.append(folder)
    return _checked(folders, path)


def _checked(folders: Sequence[str], path: Path) -> tuple[str, ...]:
    for folder in folders:
        if folder and not _FOLDER.fullmatch(folder):
            raise broken(path, f"it lists {quoted(folder)}, which is no sub-folder of a model")
    return tuple(dict.fromkeys(folders))
