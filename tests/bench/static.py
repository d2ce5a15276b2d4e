"""What machine code says of GPU kernels where there is no GPU; `gpu.py --offline` prints it.

How many instructions a tile of exact sums takes on each pipe, against how many a GPU executes while
its memory delivers the tile's bytes. Below 100 % memory can be the limit; whether it is, only a
measurement tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from taskalg.dtypes import FLOATING
from tests import launching, offline


@dataclass(frozen=True)
class Gpu:
    """What the vendor says of one."""

    name: str
    capability: int
    processors: int  # SMs
    clock: float  # boost [Hz]
    memory: float  # [bytes/s]
    lanes: Mapping[str, int]  # of an SM, by pipe [instructions of a lane per clock]


LANES = {"issue": 128, "integer and logic": 64, "multiply-add": 64, "conversion": 16}
GPUS = (
    Gpu("H100 SXM", 90, 132, 1.755e9, 3.35e12, LANES | {"FP64": 64}),
    Gpu("A100 SXM 80 GB", 80, 108, 1.41e9, 2.039e12, LANES | {"FP64": 32}),
)
SIZES = {dtype.name: dtype.itemsize for dtype in FLOATING}
SUMS = (("bf16", 5), ("bf16", 2), ("f16", 5), ("f32", 5), ("f8_e4m3", 5))


def shares(gpu: Gpu, per_element: Mapping[str, float], nbytes: int) -> dict[str, float]:
    """Return how much of each pipe's time is needed to keep the memory busy."""
    rate = gpu.memory / nbytes  # elements per second
    return {
        pipe: per_element.get(pipe, 0.0) * rate / (gpu.processors * gpu.clock * lanes)
        for pipe, lanes in gpu.lanes.items()
    }


def show(gpu: Gpu, case: offline.Case, machine: offline.Machine) -> None:
    """Print what one kernel's machine code says."""
    loop = machine.fast_loop()
    lane = machine.elements / 32  # elements of a lane
    per_element = {pipe: count / lane for pipe, count in offline.by_pipe(loop).items()}
    loads, stores = (sum(f"{kind}.E.128" in text for text in loop) for kind in ("LDG", "STG"))
    print(f"{case}")
    print(
        f"  {machine.registers} registers, {machine.spills} spills, {machine.shared} shared bytes"
    )
    print(f"  a tile of {machine.elements}: {loads} loads, {stores} stores of 16 bytes for a lane")
    counts = ", ".join(f"{pipe} {count:.1f}" for pipe, count in sorted(per_element.items()))
    per_element["issue"] = len(loop) / lane
    print(f"  instructions of an element: {per_element['issue']:.1f} ({counts})")
    nbytes = sum(SIZES[name] for name in (*case.inputs, case.output))
    needed = ", ".join(
        f"{pipe} {share:.0%}" for pipe, share in shares(gpu, per_element, nbytes).items()
    )
    print(f"  {gpu.name}, {nbytes} bytes of an element at {gpu.memory / 1e12:.2f} TB/s: {needed}\n")


def show_all() -> None:
    """Print what can be told without a GPU."""
    print("A static estimate from machine code, and no measurement: how much of each pipe's time a")
    print("tile of exact sums needs while memory is read and written at its full rate.\n")
    cases = [
        (gpu, offline.Case((name,) * terms, name, capability=gpu.capability))
        for name, terms in SUMS
        for gpu in GPUS
    ]
    machines = offline.compiled([case for _, case in cases])
    for (gpu, case), machine in zip(cases, machines, strict=True):
        show(gpu, case, machine)
    found = launching.launched()
    share = f"{found.set_up:.0f} microseconds of Python at best, {found.launch:.0f} to launch"
    print("A measurement, but of this machine's processor: all but the GPU's own work for a new")
    print(f"scalar takes the engine {share};")
    print(f"{len(found.grids)} launches compiled {found.kernels} kernel.")
