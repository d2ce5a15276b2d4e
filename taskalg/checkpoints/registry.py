"""Every format that can be read. To add one: a file beside this one, and a row in FORMATS."""

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from taskalg import files
from taskalg.checkpoints.base import Checkpoint, Opening
from taskalg.checkpoints.folder import open_folder
from taskalg.checkpoints.lora import is_adapter, open_adapter
from taskalg.checkpoints.safetensors import open_file
from taskalg.checkpoints.unsupported import refuse_remote, refuse_suffix
from taskalg.errors import CheckpointError, listed, quoted
from taskalg.system import AnyPath


@dataclass(frozen=True)
class Format:
    """One way in which a checkpoint lies on disk."""

    name: str
    is_one: Callable[[str], bool]  # tells it from the others by the path; what is there exists
    open: Callable[[str, Opening], Checkpoint]


FORMATS = (
    Format("PEFT adapter", is_adapter, lambda path, _: open_adapter(path)),
    Format("Hugging Face folder", files.is_folder, lambda path, _: open_folder(path)),
    Format("safetensors file", lambda path: True, lambda path, _: open_file(path)),
)


def open_checkpoint(path: AnyPath, opening: Opening | None = None) -> Checkpoint:
    """Open a checkpoint: read and check its headers, and nothing else of it.

    Args:
        path: a safetensors file, a Hugging Face model folder, or a PEFT adapter's folder.
        opening: what the user allows.

    Raises:
        CheckpointError: nothing is there, or it cannot be read, or is damaged, hostile, quantized,
            or something that is not supported.
    """
    text = os.fspath(path)
    if not files.exists(text):
        _refuse_absent(text)
    if not files.is_folder(text):
        refuse_suffix(text)
    kind = next(kind for kind in FORMATS if kind.is_one(text))
    return kind.open(text, opening or Opening())


def _refuse_absent(path: str) -> None:
    if files.is_link(path):
        files.fingerprint(path)  # a broken link or a loop: the system says which
    folder = Path(path).parent
    siblings = files.list_folder(folder) if files.is_folder(folder) else []
    spellings = {Path(name).stem: name for name in siblings} | {name: name for name in siblings}
    found = difflib.get_close_matches(Path(path).name, list(spellings), n=3, cutoff=0.6)
    near = dict.fromkeys(spellings[spelling] for spelling in found)
    if not near and not (folder != Path() and siblings):
        refuse_remote(path)
    places = [quoted(str(folder / name)) for name in near]
    raise CheckpointError(
        f"there is no {quoted(path)}",
        note=None if files.is_folder(folder) else f"nor is there a folder {quoted(str(folder))}",
        help=f"did you mean {listed(places, 'or')}?" if places else None,
    )
