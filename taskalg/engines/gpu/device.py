"""The GPU that is there, or one sentence that says why none can be used.

With `TRITON_INTERPRET=1` in the environment Triton interprets kernels, and the device is the
processor: slow, and the same bits.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from taskalg.errors import UsageError, quoted
from taskalg.units import bytes_text

_CPU = "--engine cpu gives the same bytes"


@contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Say in one sentence that a GPU has too little memory for something.

    Raises:
        UsageError: it has.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        free, total = torch.cuda.mem_get_info()
        raise UsageError(
            f"the GPU has too little memory for {what}",
            note=f"{bytes_text(free)} of {bytes_text(total)} are free",
            help=_CPU,
        ) from None


def is_interpreted() -> bool:
    """Tell whether Triton interprets kernels in this process."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def device() -> str:
    """Return the device kernels run on: the current GPU, or the processor when interpreted.

    Raises:
        UsageError: there is none, and why.
    """
    reason = unavailable()
    if reason is not None:
        raise reason
    if is_interpreted():
        return "cpu"
    import torch

    return f"cuda:{torch.cuda.current_device()}"


def on(device: Any) -> AbstractContextManager[object]:
    """Launch kernels on a device, a `torch.device`, whichever is current."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def unavailable() -> UsageError | None:
    """Return why the GPU engine cannot be used, or None when it can."""
    if sys.platform == "darwin" and not is_interpreted():
        return UsageError("Apple's GPUs have no binary64, which exact sums need", help=_CPU)
    if importlib.util.find_spec("triton") is None:
        return _missing_triton()
    if is_interpreted():
        return None
    import torch

    if getattr(torch.version, "hip", None):
        return UsageError("the gpu engine is for NVIDIA's GPUs; this torch is for AMD's", help=_CPU)
    if torch.version.cuda is None:
        return UsageError(
            f"torch {torch.__version__} is built without CUDA",
            note="a GPU needs torch's CUDA build",
            help="pip install --force-reinstall torch",
        )
    return _unusable(torch) or _unpaired()


def _missing_triton() -> UsageError:
    if sys.platform == "linux":
        return UsageError("the gpu engine needs Triton", help='pip install "taskalg[gpu]"')
    return UsageError("the gpu engine needs Triton, which is for Linux", help=_CPU)


def _unusable(torch: Any) -> UsageError | None:
    """Have CUDA started, which fails with a reason; `is_available` warns of it once, if at all."""
    try:
        torch.cuda.init()
    except RuntimeError as error:
        words = str(error).partition("\n")[0]
    else:
        return None
    if old := re.search(r"driver on your system is too old \(found version (\d+)\)", words):
        major, minor = divmod(int(old[1]) // 10, 100)
        return UsageError(
            f"the NVIDIA driver is too old for torch's CUDA {torch.version.cuda}",
            note=f"it is for CUDA {major}.{minor}",
            help=_CPU,
        )
    if "no NVIDIA driver" in words:
        return UsageError("no NVIDIA driver was found", help=_CPU)
    if "No CUDA GPUs" in words:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        note = None if shown is None else f"CUDA_VISIBLE_DEVICES is {quoted(shown)}"
        return UsageError("no NVIDIA GPU was found", note=note, help=_CPU)
    first = re.split(r"\. (?=[A-Z])", words.rstrip("."))[0]
    return UsageError("the NVIDIA GPU cannot be used", note=first, help=_CPU)


def _unpaired() -> UsageError | None:
    """Hold Triton against what torch asks for; every release of torch is made for one of Triton."""
    from importlib import metadata  # which costs 15 ms, and most who come here have no GPU

    wanted = None
    for requirement in metadata.requires("torch") or ():
        match = re.match(r"triton\s*\(?==\s*([\d.]+)", requirement)
        wanted = match[1] if match else wanted
    if wanted is None or sys.platform != "linux":  # elsewhere it has other names, and no pairs
        return None
    found = metadata.version("triton")
    if found.split("+")[0] == wanted:
        return None
    return UsageError(
        f"torch {metadata.version('torch')} goes with Triton {wanted}, found {found}",
        help=f"pip install triton=={wanted}",
    )
