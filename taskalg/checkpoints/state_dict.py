"""What a PyTorch pickle holds becomes named tensors: wrappers come off, what is no weight stays.

Training scripts save a state dict beside an optimizer and an epoch, under a key of their choice.
The usual keys are looked into, one level deep; deeper, nobody could tell a model from what was
saved with it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from taskalg.checkpoints.header import METADATA
from taskalg.errors import CheckpointError, listed, quoted

if TYPE_CHECKING:
    import torch

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_EXTRA = "_extra_state"  # what a module saves beside its weights, in a form of its own


def named_tensors(found: object, path: str) -> tuple[dict[str, "torch.Tensor"], tuple[str, ...]]:
    """Return the tensors of what was unpickled, and what a user should know about the choice.

    Args:
        found: a state dict, or a dict that holds one under one of the `WRAPPERS`.
        path: what messages call the file.

    Raises:
        CheckpointError: there are no tensors by name, or there are several state dicts.
    """
    if not isinstance(found, dict):
        raise _no_tensors(path, f"it holds a {type(found).__name__}")
    wrappers = [key for key in WRAPPERS if _has_tensors(found.get(key))]
    if len(wrappers) > 1:
        raise CheckpointError(
            f"{quoted(path)} holds several models",
            note=f"tensors are under {listed([quoted(key) for key in wrappers])}",
            help="save the one you mean: torch.save(torch.load(path)[key], new_path)",
        )
    held = found[wrappers[0]] if wrappers else found
    if not _has_tensors(held):
        keys = [_called(key) for key in held]
        raise _no_tensors(path, f"its entries are {listed(keys)}" if keys else "it is empty")
    tensors = {key: value for key, value in held.items() if _is_weight(key, value)}
    for name in tensors:
        _check_name(name, path)
    left_out = [_called(key) for key in held if key not in tensors]
    notes = []
    if wrappers:
        left_out += [_called(key) for key in found if key != wrappers[0]]
        notes.append(f"the tensors of {quoted(path)} are those under {quoted(wrappers[0])}")
    if left_out:
        notes.append(f"{quoted(path)} also holds {listed(left_out)}, not read: no weights")
    return tensors, tuple(notes)


def _has_tensors(held: object) -> bool:
    return isinstance(held, Mapping) and any(_is_weight(*entry) for entry in held.items())


def _is_weight(key: object, value: Any) -> bool:
    import torch

    is_extra = isinstance(key, str) and key.rpartition(".")[2] == _EXTRA
    return isinstance(value, torch.Tensor) and not is_extra


def _called(key: object) -> str:
    """Say what an entry is called; only text is printed, as a tuple may be of any length."""
    return quoted(key) if isinstance(key, str) else f"a key of type {type(key).__name__}"


def _check_name(name: object, path: str) -> None:
    """Refuse what a safetensors file could not have as a tensor's name."""
    try:
        if not isinstance(name, str) or name == METADATA:
            raise ValueError
        name.encode("utf-8")
    except ValueError:
        raise CheckpointError(
            f"{quoted(path)} holds a tensor whose name is no name",
            note=f"it is {_called(name)}",
        ) from None


def _no_tensors(path: str, note: str) -> CheckpointError:
    return CheckpointError(
        f"{quoted(path)} holds no tensors by name",
        note=note,
        help="save a state dict: torch.save(model.state_dict(), path)",
    )
