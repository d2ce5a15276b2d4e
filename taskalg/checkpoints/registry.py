"""Every format that can be read. To add one: a file beside this one, and a row in FORMATS."""

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from taskalg import files
from taskalg.checkpoints.base import Checkpoint, Opening
from taskalg.checkpoints.folder import open_folder
from taskalg.checkpoints.hub.address import Address, parse_address
from taskalg.checkpoints.hub.paths import hub_identity
from taskalg.checkpoints.hub.snapshot import open_on_hub
from taskalg.checkpoints.lora import is_adapter, open_adapter
from taskalg.checkpoints.pickled import is_pickle, open_pickle
from taskalg.checkpoints.safetensors import open_file
from taskalg.checkpoints.unsupported import refuse_address, refuse_suffix
from taskalg.errors import CheckpointError, listed, quoted
from taskalg.system import AnyPath

_ALIKE = 0.6  # how alike names are, at least, of which one may be meant by the other


@dataclass(frozen=True)
class Format:
    """One way in which a checkpoint lies on disk."""

    name: str
    is_one: Callable[[str], bool]  # tells it from the others by the path; what is there exists
    open: Callable[[str, Opening], Checkpoint]


FORMATS = (
    Format("PEFT adapter", is_adapter, open_adapter),
    Format("PyTorch pickle", is_pickle, open_pickle),
    Format("Hugging Face folder", files.is_folder, lambda path, _: open_folder(path)),
    Format("safetensors file", lambda path: True, lambda path, _: open_file(path)),
)


def open_checkpoint(path: AnyPath, opening: Opening | None = None) -> Checkpoint:
    """Open a checkpoint: read and check its headers, and nothing else of it.

    Args:
        path: a safetensors file, a Hugging Face model folder, a PEFT adapter's folder, or a
            PyTorch pickle; or a model on the Hub, if there is nothing of that name.
        opening: what the user allows.

    Raises:
        CheckpointError: nothing is there, or it cannot be read, or is damaged, hostile, quantized,
            or something that is not supported.
    """
    text, opening = os.fspath(path), opening or Opening()
    is_here = files.exists(text) and not text.startswith("hf://")
    if not is_here:
        address = _address(text)
        try:
            return open_on_hub(address, text, opening, _open_here)
        except CheckpointError as error:
            if not text.startswith("hf://"):
                here = "nor is there such a path on this machine"
                error.note = f"{error.note}; {here}" if error.note else here
            raise
    found = _open_here(text, opening)
    return replace(found, origin=found.origin or hub_identity(text))


def _open_here(path: str, opening: Opening) -> Checkpoint:
    if not files.is_folder(path):
        refuse_suffix(path)
    kind = next(kind for kind in FORMATS if kind.is_one(path))
    return kind.open(path, opening)


def _address(path: str) -> Address:
    """Take what is not on this machine for an address, unless it looks like a misspelt path."""
    if files.is_link(path):
        files.fingerprint(path)  # a broken link or a loop: the system says which
    folder = Path(path).parent
    siblings = files.list_folder(folder) if files.is_folder(folder) else []
    spellings = {Path(name).stem: name for name in siblings} | {name: name for name in siblings}
    found = difflib.get_close_matches(Path(path).name, list(spellings), n=3, cutoff=_ALIKE)
    near = dict.fromkeys(spellings[spelling] for spelling in found)
    near = {name: None for name in near if _is_alike(Path(name).stem, Path(path).stem)}
    address = None
    if not near and not (folder != Path() and siblings):
        address = parse_address(path)
    if address is not None:
        return address
    refuse_address(path)
    places = [quoted(str(folder / name)) for name in near]
    raise CheckpointError(
        f"there is no {quoted(path)}",
        note=None if files.is_folder(folder) else f"nor is there a folder {quoted(str(folder))}",
        help=f"did you mean {listed(places, 'or')}?" if places else _on_the_hub(path),
    )


def _is_alike(name: str, other: str) -> bool:
    """Tell whether two names without their suffixes, which many share, are near each other."""
    return difflib.SequenceMatcher(None, name, other).ratio() >= _ALIKE


def _on_the_hub(path: str) -> str | None:
    """Offer the address that a path would be."""
    is_name = re.fullmatch(r"[\w-]+(/[\w.-]+)?", path) is not None
    return f"if it is a model on the Hub, write hf://{path}" if is_name else None
