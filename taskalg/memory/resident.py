"""Results on a device that holds operands already: they are read where they are.

A window of tensors is one call of the engine for each combination of dtypes, and what of the
operands lies elsewhere is brought for that window only. Otherwise `tensors.py` and `loading.py`
evaluate on the host, and move what they made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from taskalg.checkpoints.base import Checkpoint
from taskalg.engines.base import Engine
from taskalg.engines.gpu.device import is_interpreted, unavailable, within_memory
from taskalg.memory.held import Held
from taskalg.memory.loading import compare_shared, kept
from taskalg.memory.targets import Targets
from taskalg.memory.tensors import empty, engine_on, tell, tell_overflow, windows
from taskalg.planning.donor import opened
from taskalg.planning.plan import Plan, Step
from taskalg.running.execute import fetched_inputs
from taskalg.running.report import overflow_error
from taskalg.running.stream import Pass, Settings


def is_resident(plan: Plan, engine: str, device: torch.device) -> bool:
    """Tell whether an engine is to work on a device, because operands are there.

    Where no engine can, `auto` is the CPU's, which has them copied to the host block by block.
    """
    if device.type == "cpu" and not (engine == "gpu" and is_interpreted()):
        return False
    there = any(str(device) in opened(operand).devices for operand in plan.operands)
    if engine == "auto":
        return there and device.type == "cuda" and unavailable() is None
    return there and device.type in ("cuda", "cpu") and engine == "gpu"


def resident_tensors(
    plan: Plan, engine: str, device: torch.device, settings: Settings
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a plan's result, as `tensors` does, evaluated on a device."""
    evaluator = _Evaluator(plan, engine_on(device, engine), device, settings)
    evaluator.compare(Targets("the result", {}, {}))
    for window in windows(plan.steps):
        made = {step.name: empty(plan, step, device) for step in window if step.first == 0}
        evaluator.evaluate(window, Targets("the result", made, {}))
        for name in list(made):  # what was given away is kept no longer
            yield name, made.pop(name)


def resident_load(plan: Plan, targets: Targets, engine: str, settings: Settings) -> None:
    """Evaluate a plan into targets, as `load` does, on the one device that they are on."""
    device = next(iter(targets.tensors.values())).device
    evaluator = _Evaluator(plan, engine_on(device, engine), device, settings)
    evaluator.compare(targets)
    steps = [step for step in plan.steps if step.name in targets.tensors]
    evaluator.checkpoints = kept(evaluator.checkpoints, plan, steps, targets)
    for window in windows(steps):
        some = {step.name: targets.tensors[step.name] for step in window}
        evaluator.evaluate(window, Targets(targets.model, some, {}))


class _Evaluator:
    """Evaluates some tensors of a plan after the other."""

    def __init__(
        self, plan: Plan, engine: Engine, device: torch.device, settings: Settings
    ) -> None:
        self._plan, self._engine, self._device = plan, engine, device
        self._settings = settings
        self.checkpoints: Sequence[Checkpoint] = fetched_inputs(plan, settings)

    def compare(self, targets: Targets) -> None:
        """Compare what has to be equal."""
        nothing = replace(self._plan, combinations=())  # no kernel is needed to compare
        with Pass(nothing, self._engine, self.checkpoints, self._settings) as run:
            run.compare()
            compare_shared(self._plan, run.inputs, targets)
        tell(run)

    @within_memory("a window of tensors")
    def evaluate(self, steps: Sequence[Step], targets: Targets) -> None:
        """Evaluate the steps of whole tensors.

        Raises:
            OverflowingError: one overflows, and that is an error.
        """
        aligned = replace(self._plan.aligned, alignments=())  # what was compared already
        part = replace(self._plan, steps=tuple(steps), comparisons=(), aligned=aligned)
        held = Held(
            part,
            targets,
            self._engine,
            device=self._device,
            threads=self._settings.threads,
            checkpoints=self.checkpoints,
        )
        if held.evaluate({}).overflowed:
            names = held.overflowing({})
            if self._settings.fail_on_overflow:
                raise overflow_error(names[0], targets.dtypes[names[0]])
            tell_overflow(names)
