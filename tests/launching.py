"""Launches of GPU kernels where there is no GPU: everything Python does, up to the driver's call.

    python -m tests.launching

Kernels are compiled and bound as on a GPU, by Triton itself; only its driver is replaced by one
that notes what it is given. It runs in a process of its own for the reason that offline.py has.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from time import perf_counter
from types import SimpleNamespace
from typing import Any

from tests import offline

COUNTS = (9000, 4096, 7)
CALLS = 200


@dataclass(frozen=True)
class Launches:
    """What evaluating a few tensors of five bf16 operands comes to."""

    grids: list[int]  # programs of each launch
    programs: int  # that tables were made for
    kernels: int  # compiled
    strange: int  # launches of which an argument is no table
    set_up: float  # microseconds of a new scalar in Python; the least of all calls
    launch: float  # those of them that are a launch's


def launched() -> Launches:
    """Have kernels launched in a fresh process."""
    return Launches(**json.loads(offline.ran("tests.launching", "")))


def _launches() -> Launches:
    import numpy as np
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    noted: list[tuple[int, list[int]]] = []

    def launcher(source: Any, metadata: Any) -> Callable[..., None]:
        def launch(programs: int, *others: Any) -> None:  # tables are the last, but for constants
            tables = [other.data_ptr() for other in others if isinstance(other, torch.Tensor)]
            noted.append((programs, tables))

        return launch

    limits = SimpleNamespace(
        load_binary=lambda *image: (1, 2, 96, 0, 1024),
        get_device_properties=lambda device: {"max_shared_mem": 232_448},
    )
    silent: Any = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        launcher_cls=launcher,
        utils=limits,
    )
    driver.set_active(silent)

    from taskalg.dtypes import BF16
    from taskalg.engines.base import Group
    from taskalg.engines.cpu import CpuEngine
    from taskalg.engines.gpu.kernels import weighted_sums
    from taskalg.engines.gpu.resident import ResidentSums

    tensors = [[torch.zeros(count, dtype=torch.bfloat16) for _ in range(6)] for count in COUNTS]
    addresses = np.array([[tensor.data_ptr() for tensor in row] for row in tensors])
    places = np.zeros(len(COUNTS), np.int64)
    group = Group((BF16,) * 5, BF16, places, addresses, np.array(COUNTS))
    sums = ResidentSums(group, torch.device("cpu"), CpuEngine())
    [part] = sums._parts
    rows = [_row(Fraction(call + 1, 997)) for call in range(CALLS)]
    set_up = min(_microseconds(lambda row=row: sums.evaluate([row])) for row in rows)  # type: ignore[misc]
    launch = min(_microseconds(lambda: part.start(sums._rows)) for _ in range(CALLS))
    tables = [part._chunks, part._tensors, sums._rows, part._missed, part._counters]
    wanted = [table.data_ptr() for table in tables]
    return Launches(
        grids=[programs for programs, _ in noted],
        programs=len(part._chunks),
        kernels=sum(len(entry[0]) for entry in weighted_sums.device_caches.values()),
        strange=sum(found != wanted for _, found in noted),
        set_up=set_up,
        launch=launch,
    )


def _row(strength: Fraction) -> list[Fraction]:
    part = Fraction(3, 10)
    return [1 + strength - part, -strength, part, -part, part]


def _microseconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return (perf_counter() - start) * 1e6


if __name__ == "__main__":
    json.dump(asdict(_launches()), sys.stdout)
