"""A plan's result in memory, tensor by tensor: the bytes that files would hold, without the files.

The pass that writes files fills memory here, some 256 MB of consecutive tensors at a time, so that
cores are busy while memory stays flat however large the model is. Rejected: a pass for each tensor,
which leaves threads idle between two and reads nothing in larger pieces than a tensor.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch

from taskalg.engines.base import Bytes, Engine
from taskalg.engines.gpu.device import is_interpreted, on
from taskalg.engines.registry import get_engine
from taskalg.errors import UsageError, listed, quoted
from taskalg.planning.plan import Plan, Step
from taskalg.running.blocks import cut_steps
from taskalg.running.execute import fetched_inputs
from taskalg.running.sinks import MemorySink
from taskalg.running.stream import Pass, Settings

WINDOW = 256_000_000  # bytes evaluated before the first of their tensors is given
HOST = torch.device("cpu")

_log = logging.getLogger(__name__)


def usable_device(device: str | torch.device) -> torch.device:
    """Return a device that can hold numbers.

    Raises:
        UsageError: there is none of that name, or this torch cannot use it.
    """
    try:
        found = torch.empty(0, device=device).device  # with its index
    except (RuntimeError, AssertionError) as error:  # torch asserts that it knows CUDA
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise UsageError(
            f"the device {quoted(str(device))} cannot be used", note=reason, help='write "cpu"'
        ) from None
    if found.type == "meta":
        raise UsageError("the device 'meta' holds no numbers", help='write "cpu"')
    return found


def engine_on(device: torch.device, name: str) -> Engine:
    """Return the engine of that name; `auto` is the one that can use a device's memory.

    Raises:
        UsageError: the engine cannot, or there is none.
    """
    if name == "auto":
        name = "gpu" if device.type == "cuda" else "cpu"
    with on(device):
        engine = get_engine(name)
    reached = "cuda" if name == "gpu" else "cpu"
    if device.type != reached and not (name == "gpu" and is_interpreted()):
        raise UsageError(
            f"the {name} engine cannot use the memory of {device}",
            help=f'write device="{reached}"',
        )
    return engine


def tensors(
    plan: Plan, engine: str, device: torch.device, settings: Settings
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a plan's result, in its order, each with memory of its own.

    Raises:
        TaskalgError: as `Recipe.save` does.

    Memory: 128 MB of buffers, and 256 MB of tensors or the largest one.
    """
    inputs = fetched_inputs(plan, settings)
    with Pass(plan, get_engine(engine), inputs, settings) as run:
        run.compare()
        for window in windows(plan.steps):
            made = {step.name: empty(plan, step) for step in window if step.first == 0}
            fill(run, window, list(made.values()))
            for name in list(made):  # what was given away is kept no longer
                yield name, made.pop(name).to(device)
    tell(run)


def windows(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Divide steps into groups of whole tensors, each of 256 MB at most, or one tensor."""
    window: list[Step] = []
    size = 0
    for _, group in groupby(steps, key=lambda step: step.name):
        tensor = list(group)
        nbytes = sum(step.nbytes for step in tensor)
        if window and size + nbytes > WINDOW:
            yield window
            window, size = [], 0
        window += tensor
        size += nbytes
    if window:
        yield window


def empty(plan: Plan, step: Step, device: torch.device = HOST) -> torch.Tensor:
    """Return memory for the tensor of a step."""
    output = plan.combinations[step.combination].output
    return torch.empty(step.shape, dtype=getattr(torch, output.torch), device=device)


def fill(run: Pass, steps: Sequence[Step], into: Sequence[torch.Tensor]) -> None:
    """Evaluate steps into tensors on the host, one for each tensor of the steps, in their order."""
    sink = MemorySink([_bytes(tensor) for tensor in into])
    run.stream(cut_steps(run.plan, steps, run.threads), sink)


def tell(run: Pass) -> None:
    """Log what a user should know of a result that comes without a report."""
    for note in run.notes():
        _log.warning("%s", note)


def tell_overflow(names: Sequence[str]) -> None:
    """Log which tensors overflow where that is no error."""
    _log.warning("results overflow in %s", listed([quoted(name) for name in names]))


def _bytes(tensor: torch.Tensor) -> Bytes:
    """Return a contiguous tensor's bytes, in place."""
    flat = tensor.detach().as_strided((tensor.numel(),), (1,))
    content: Bytes = flat.view(torch.uint8).numpy()
    return content
