"""Kernels called from Python: on the GPU's current stream, or one at a time when interpreted."""

import os
import threading
from collections.abc import Callable, Sequence
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from triton import knobs

from taskalg.dtypes import DType
from taskalg.engines.cache import folder
from taskalg.engines.gpu import interpreter
from taskalg.engines.gpu.device import is_interpreted
from taskalg.engines.gpu.elements import layout
from taskalg.engines.gpu.kernels import exchange, weighted_sums
from taskalg.engines.gpu.products import add_up, products
from taskalg.engines.gpu.tables import is_mixed, tile_size

Again = Callable[[], None]

_ONE = threading.Lock()  # the interpreter changes Triton's own modules while it runs

# One warp to a program, which votes alone; no multiply-adds but those that are written.
OPTIONS = {"num_warps": 1, "enable_fp_fusion": False}

if is_interpreted():
    interpreter.mend()


def keep_compiled() -> None:
    """Have Triton keep what it compiles beside our own kernels where its own place is no use."""
    try:
        os.makedirs(knobs.cache.dir, exist_ok=True)
        with TemporaryFile(dir=knobs.cache.dir):
            return
    except OSError:
        where = folder()
        if where is not None:
            knobs.cache.dir = str(where / "triton")


keep_compiled()


class Kernels:
    """The kernels of one combination of dtypes."""

    def __init__(self, inputs: Sequence[DType], output: DType) -> None:
        self._dtypes: dict[str, Any] = {
            "INPUTS": tuple(map(layout, inputs)),
            "OUTPUT": layout(output),
        }
        self._tile = {"TILE": tile_size(inputs)}
        self._mixed = {"MIXED": is_mixed(inputs)}

    def sum(self, programs: int, *arguments: Any, aligned: bool) -> Again:
        """Start `weighted_sums` on its tables; return what starts it on the same ones again."""
        how = {**self._dtypes, **self._tile, **self._mixed, "ALIGNED": aligned}
        return _start(weighted_sums, programs, arguments, how)

    def exchange(self, programs: int, *arguments: Any, inward: bool) -> None:
        """Start `exchange` on its tables."""
        _start(exchange, programs, arguments, {**self._dtypes, **self._tile, "INWARD": inward})

    def multiply(self, programs: int, *arguments: Any, aligned: bool) -> None:
        """Start `products` on its tables."""
        dtypes = (*self._dtypes["INPUTS"], self._dtypes["OUTPUT"])
        _start(products, programs, arguments, {"DTYPES": dtypes, **self._tile, "ALIGNED": aligned})

    def add_up(self, programs: int, *arguments: Any) -> None:
        """Start `add_up` on its tables."""
        _start(add_up, programs, arguments, {"TERMS": len(self._dtypes["INPUTS"])})


def _start(kernel: Any, programs: int, arguments: Sequence[Any], how: dict[str, Any]) -> Again:
    """Start a kernel; `how` are its constants, in the order of its parameters."""
    if not programs:
        return lambda: None
    if is_interpreted():

        def interpret() -> None:
            with _ONE, np.errstate(all="ignore"):
                kernel[(programs,)](*arguments, **how)

        interpret()
        return interpret
    compiled = kernel[(programs,)](*arguments, **how, **OPTIONS)
    # without a look at all arguments and globals, which takes longer than the launch itself
    return lambda: compiled[(programs, 1, 1)](*arguments, *how.values())
