"""A plan's result into the tensors of a model, in place: no second model, and one rounding.

The model may be an operand itself. A block is read whole before it is written, so elements that
are replaced where they were read need no care. What lies any other way over the memory that is
written to, in part, transposed, or under another name, is copied before the first byte changes.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import torch

from taskalg.checkpoints.arrays import HOST, Array
from taskalg.checkpoints.base import Checkpoint, TensorSpec
from taskalg.engines.registry import get_engine
from taskalg.errors import MismatchError, quoted
from taskalg.memory.targets import Targets, span
from taskalg.memory.tensors import empty, fill, tell, windows
from taskalg.planning.plan import Plan, Step
from taskalg.running.execute import fetched_inputs
from taskalg.running.reading import Inputs, Stored
from taskalg.running.stream import Pass, Settings


def load(plan: Plan, targets: Targets, engine: str, settings: Settings) -> None:
    """Evaluate a plan into targets that were found for it.

    Raises:
        MismatchError: two tensors of the result are one in the model, and differ.
        TaskalgError: as `Recipe.save` does; some tensors may be written then.

    Memory: 128 MB of buffers; besides, copies of what is read after it would be overwritten, and
    256 MB of tensors at a time, or the largest one, where they are not contiguous on the host.
    """
    steps = [step for step in plan.steps if step.name in targets.tensors]
    inputs = kept(fetched_inputs(plan, settings), plan, steps, targets)
    with Pass(plan, get_engine(engine), inputs, settings) as run:
        run.compare()
        compare_shared(plan, run.inputs, targets)
        for window in windows(steps):
            _write(run, window, targets)
    tell(run)


def _write(run: Pass, window: list[Step], targets: Targets) -> None:
    """Evaluate some whole tensors and have autograd know that their targets change."""
    made = {}
    for step in window:
        if step.first == 0:
            target = targets.tensors[step.name]
            if _is_plain(target):
                torch.autograd.graph.increment_version(target)
            made[step.name] = target if _is_plain(target) else empty(run.plan, step)
    fill(run, window, list(made.values()))
    for name, tensor in made.items():
        target = targets.tensors[name]
        if tensor is not target:
            with torch.inference_mode(target.is_inference()), torch.no_grad():
                target.copy_(tensor)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor's bytes are its elements, row by row, where the pass can write them."""
    is_lazy = tensor.is_neg() or tensor.is_conj()
    return tensor.device.type == HOST and tensor.is_contiguous() and not is_lazy


def compare_shared(plan: Plan, inputs: Inputs, targets: Targets) -> None:
    """Compare what goes into tensors that have two names in the result.

    Raises:
        MismatchError: they are not the same bytes.
    """
    steps: dict[str, list[Step]] = {}
    for step in plan.steps:
        steps.setdefault(step.name, []).append(step)
    for name, other in targets.shared.items():
        pairs = list(zip(steps[name], steps[other], strict=True))
        if not all(_are_same(plan, inputs, *pair) for pair in pairs):
            raise MismatchError(
                f"{quoted(name)} and {quoted(other)} are one tensor in {targets.model}",
                note="they differ in the result",
                help=f"leave one of them out with a selector, as in toxic[~{quoted(name)}]",
            )


def _are_same(plan: Plan, inputs: Inputs, one: Step, other: Step) -> bool:
    if (one.combination, one.first, one.nbytes) != (other.combination, other.first, other.nbytes):
        return False
    operands = plan.combinations[one.combination].operands
    sources = zip(operands, one.sources, other.sources, strict=True)
    return all(_hold_the_same(inputs, operand, a, b) for operand, a, b in sources)


def _hold_the_same(inputs: Inputs, operand: int, a: TensorSpec, b: TensorSpec) -> bool:
    if (a.shard, a.offset, a.factors) == (b.shard, b.offset, b.factors):
        return True
    computed = a.factors is not None or b.factors is not None
    return not computed and inputs.equal(Stored(operand, a), Stored(operand, b))


def kept(
    inputs: Sequence[Checkpoint], plan: Plan, steps: Sequence[Step], targets: Targets
) -> list[Checkpoint]:
    """Copy arrays of the inputs that would be overwritten before they are read."""
    written = _Written(targets)
    wanted: set[tuple[int, int]] = set()  # operands, and the arrays of each
    for step in steps:
        operands = plan.combinations[step.combination].operands
        for operand, source in zip(operands, step.sources, strict=True):
            arrays = inputs[operand].arrays
            for spec in _stored(source) if arrays else ():
                start = arrays[spec.shard].address + spec.offset
                place = (arrays[spec.shard].device, start, start + spec.nbytes)
                if not written.leaves(place, step, is_itself=spec is source):
                    wanted.add((operand, spec.shard))
    found = list(inputs)
    for operand, index in wanted:
        arrays = found[operand].arrays
        found[operand] = replace(
            found[operand], arrays=(*arrays[:index], _copied(arrays[index]), *arrays[index + 1 :])
        )
    return found


class _Written:
    """The memory that a result is written to."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets.tensors
        self._spans = sorted((*span(t), name) for name, t in self._targets.items() if t.numel())

    def leaves(self, place: tuple[str, int, int], step: Step, *, is_itself: bool) -> bool:
        """Tell whether a range of memory can be read by a step although others are written.

        Args:
            place: its device, and where it starts and ends.
            step: what reads it.
            is_itself: whether elements are read one by one, as they are in the output.
        """
        device, start, end = place
        target = self._targets[step.name]
        first = target.data_ptr() + step.first
        exact = is_itself and (start, end) == (first, first + step.nbytes)
        for index in range(bisect_left(self._spans, (device, end)) - 1, -1, -1):
            there, _, last, name = self._spans[index]
            if there != device or last <= start:
                return True  # targets lie apart, so what is before this one ends earlier still
            own = name == step.name and is_itself
            if not own or (_is_plain(target) and not exact):
                return False
        return True


def _stored(source: TensorSpec) -> list[TensorSpec]:
    """Return the stored tensors that are read for one."""
    if source.factors is None:
        return [source]
    parts = (source.factors.a, source.factors.b, source.factors.onto)
    return [part for part in parts if part is not None]


def _copied(array: Array) -> Array:
    if array.device == HOST:
        return Array.on_host(array.content.copy())
    content = array.content.clone()
    return Array(array.device, content.data_ptr(), content)
