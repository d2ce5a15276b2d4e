"""The GPU that is there, or one sentence that says why none can be used.

With `TRITON_INTERPRET=1` in the environment Triton interprets kernels, and the device is the
processor: slow, and the same bits.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from taskalg.errors import UsageError
from taskalg.units import bytes_text

_CPU = "leave out the engine, or say cpu: it gives the same bytes"


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
            help="use the CPU: it gives the same bytes",
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


def unavailable() -> UsageError | None:
    """Return why the GPU engine cannot be used, or None when it can."""
    if importlib.util.find_spec("triton") is None:
        return _missing_triton()
    if is_interpreted():
        return None
    import torch

    if sys.platform == "darwin":
        return UsageError("Apple's GPUs have no binary64, which exact sums need", help=_CPU)
    if getattr(torch.version, "hip", None):
        return UsageError("the gpu engine is for NVIDIA's GPUs; this torch is for AMD's", help=_CPU)
    if torch.version.cuda is None:
        return UsageError(
            f"torch {torch.__version__} is built without CUDA",
            note="a GPU needs torch's CUDA build",
            help="pip install torch, or leave out the engine",
        )
    return _unusable(torch) or _unpaired()


def _missing_triton() -> UsageError:
    if sys.platform == "linux":
        return UsageError("the gpu engine needs Triton", help='pip install "taskalg[gpu]"')
    return UsageError("the gpu engine needs Triton, which is for Linux", help=_CPU)


def _unusable(torch: Any) -> UsageError | None:
    import warnings

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = torch.cuda.is_available() and torch.cuda.device_count() > 0
    if found:
        return None
    words = " ".join(str(warning.message) for warning in said)
    if "driver" in words and "old" in words:
        version = re.search(r"found version (\d+)", words)
        note = f"the driver is for CUDA {int(version[1]) // 1000}" if version else None
        wanted = f"the NVIDIA driver is too old for torch's CUDA {torch.version.cuda}"
        return UsageError(wanted, note=note, help="update the driver, or leave out the engine")
    return UsageError("no NVIDIA GPU was found", help=_CPU)


def _unpaired() -> UsageError | None:
    """Hold Triton against what torch asks for; every release of torch is made for one of Triton."""
    wanted = None
    for requirement in metadata.requires("torch") or ():
        match = re.match(r"triton\s*\(?==\s*([\d.]+)", requirement)
        wanted = match[1] if match else wanted
    found = metadata.version("triton")
    if wanted is None or found.split("+")[0] == wanted:
        return None
    return UsageError(
        f"torch {metadata.version('torch')} goes with Triton {wanted}, found {found}",
        help=f"pip install triton=={wanted}",
    )
