"""State dicts and modules in memory: each tensor's bytes become an array that is read in place.

Nothing here imports torch: a tensor was made by a torch that is loaded already, and is asked for
what it can do. A contiguous tensor is not copied, on whatever device it is; another one is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from taskalg.checkpoints.arrays import HOST, Array
from taskalg.checkpoints.base import Checkpoint, TensorSpec
from taskalg.checkpoints.quantized import refuse_quantized
from taskalg.dtypes import FLOATING, INTEGER
from taskalg.errors import CheckpointError, quoted

StateDict = Mapping[str, Any]  # of torch tensors or NumPy arrays

BY_NAME = {dtype.torch: dtype for dtype in FLOATING + INTEGER}
_ALIGNMENT = 8  # bytes, of the widest element


def is_in_memory(weights: object) -> bool:
    """Tell a state dict or a module from a path."""
    return isinstance(weights, Mapping) or callable(getattr(weights, "state_dict", None))


def called(weights: object) -> str:
    """Return what messages call something in memory: `<GPT2LMHeadModel>`."""
    return f"<{type(weights).__name__}>"


def open_memory(weights: Any) -> Checkpoint:
    """Open a state dict, or what has one, as a checkpoint.

    Args:
        weights: tensors by name, or a `torch.nn.Module`. They must not change before the result is
            written.

    Raises:
        CheckpointError: an entry is no tensor, or is one that cannot be read in place.
    """
    path = called(weights)
    state = weights if isinstance(weights, Mapping) else weights.state_dict()
    arrays: list[Array] = []
    tensors: dict[str, TensorSpec] = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path} has the name {name!r}, which is no string")
        kind = str(getattr(value, "dtype", None)).removeprefix("torch.")
        if kind not in BY_NAME:
            raise _unreadable(path, name, f"is {_described(value)}")
        content = _content(path, name, value)
        shape = tuple(int(size) for size in value.shape)
        spec = TensorSpec(name, BY_NAME[kind], shape, len(arrays), 0, content.nbytes)
        arrays.append(content)
        tensors[name] = spec
    refuse_quantized(tensors, path)
    return Checkpoint(path, None, (), tensors, is_task_vector=False, arrays=tuple(arrays))


def _content(path: str, name: str, value: Any) -> Array:
    """Return a tensor's bytes, in place where they lie together."""
    if not isinstance(value, np.ndarray | np.generic):
        try:
            value = _torch_bytes(path, name, value)
            if value.device.type != HOST:
                return Array(str(value.device), value.data_ptr(), value)
            value = value.numpy()
        except (RuntimeError, ValueError) as error:  # no storage behind it, or not enough
            reason = str(error).partition("\n")[0].partition(". ")[0]
            raise _unreadable(path, name, f"cannot be read: {reason[:200]}") from None
    content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    if content.ctypes.data % _ALIGNMENT and content.size:
        content = content.copy()
    return Array.on_host(content)


def _torch_bytes(path: str, name: str, tensor: Any) -> Any:
    if str(getattr(tensor, "layout", "")) != "torch.strided" or tensor.is_quantized:
        raise _unreadable(path, name, f"is {_described(tensor)}")
    if tensor.device.type == "meta":
        words = "is on the device meta, which holds no numbers"
        raise _unreadable(path, name, words, "load the model's weights first")
    import torch

    whole = tensor.detach().resolve_neg().contiguous()
    # A dimension of one element may have any stride, and a view of bytes would ask for one of 1.
    return whole.as_strided((whole.numel(),), (1,)).view(torch.uint8)


def _unreadable(path: str, name: str, words: str, help: str | None = None) -> CheckpointError:
    return CheckpointError(f"{quoted(name)} of {path} {words}", help=help)


def _described(value: Any) -> str:
    """Say what is no readable tensor."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return f"no tensor but of type {type(value).__name__}"
    layout = str(getattr(value, "layout", "torch.strided")).removeprefix("torch.")
    return f"a tensor of dtype {dtype}" + ("" if layout == "strided" else f" and layout {layout}")
