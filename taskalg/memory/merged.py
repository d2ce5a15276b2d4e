"""A recipe's sums for autograd: new weights for new scalars, and what a loss makes of them.

Operands are held once and never change. Weights are written to new memory each time, because
autograd may need those of an earlier call for as long as it likes; what an engine prepares for
addresses is therefore prepared anew, a few [microseconds] for each tensor.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from taskalg.engines.base import Engine, Group
from taskalg.memory.by_tensor import separated
from taskalg.memory.held import Held, Part
from taskalg.memory.slopes import Slopes, slopes_of
from taskalg.memory.targets import Targets
from taskalg.memory.tensors import empty
from taskalg.planning.plan import Plan, Step

Tensors = Mapping[str, torch.Tensor]


class Merged:
    """The tensors of a plan, those that depend on scalars evaluated as often as asked.

    Args:
        plan: of whole tensors; its coefficients have symbols for the scalars.
        engine: evaluates; it can use the device's memory.
        device: where operands and weights are.
        per_tensor: scalars of which each tensor has one of its own.
        threads: by default the smaller of 8 and what this process may use.

    Attributes:
        names: of all tensors, in the output's order.
        changing: of those that depend on scalars.
        fixed: the others, by name.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        device: torch.device,
        *,
        per_tensor: Collection[str] = (),
        threads: int | None = None,
    ) -> None:
        self._plan = separated(plan, per_tensor)
        self._engine, self._device, self._threads = engine, device, threads
        self.names = tuple(step.name for step in plan.steps)
        self._changing = [step for step in self._plan.steps if self._changes(step)]
        self.changing = tuple(step.name for step in self._changing)
        changing = set(self.changing)
        rest = [step for step in self._plan.steps if step.name not in changing]
        self.fixed = self._empty(rest)
        self._hold(self.fixed).evaluate({})
        places = self._empty(self._changing)  # for their dtypes and shapes: nothing is written here
        self._held = self._hold(places)
        for tensor in places.values():
            tensor.untyped_storage().resize_(0)
        self._slopes = [[slopes_of(row) for row in part.rows] for part in self._held.parts]

    def evaluate(self, values: Mapping[str, Fraction]) -> dict[str, torch.Tensor]:
        """Return the tensors that depend on scalars, each in memory of its own."""
        made = self._empty(self._changing)
        for part in self._held.parts:
            group = _group(part, made, range(len(part.names)))
            self._engine.resident(group, threads=self._threads)(self._held.rows(part, values))
        return made

    def gradients(self, gradients: Tensors, values: Mapping[str, Fraction]) -> Mapping[str, float]:
        """Return how a loss changes with each symbol; one that is missing changes nothing.

        Args:
            gradients: of the loss by some of the tensors, contiguous.
            values: of the symbols when these were made.
        """
        found: dict[str, float] = {}
        for part, slopes in zip(self._held.parts, self._slopes, strict=True):
            chosen = [index for index, name in enumerate(part.names) if name in gradients]
            if chosen:
                group = _group(part, gradients, chosen)
                products = self._engine.dots(group, threads=self._threads)
                _add_up(products, group.rows, slopes, values, found)
        return found

    def _changes(self, step: Step) -> bool:
        row = self._plan.combinations[step.combination].coefficients
        return not all(isinstance(number, Fraction) for number in row)

    def _hold(self, targets: Tensors) -> Held:
        found = Targets("the result", targets, {})
        return Held(self._plan, found, self._engine, device=self._device, threads=self._threads)

    def _empty(self, steps: Sequence[Step]) -> dict[str, torch.Tensor]:
        return {step.name: empty(self._plan, step, self._device) for step in steps}


def _group(part: Part, tensors: Tensors, chosen: Sequence[int]) -> Group:
    """Return some tensors of a part, with others in the place of its targets."""
    group, index = part.group, np.array(chosen, np.int64)
    addresses = group.addresses[index]
    addresses[:, -1] = [tensors[part.names[one]].data_ptr() for one in chosen]
    return replace(group, rows=group.rows[index], addresses=addresses, counts=group.counts[index])


def _add_up(
    products: NDArray[np.float64],
    rows: NDArray[np.int64],
    slopes: Sequence[Slopes],
    values: Mapping[str, Fraction],
    found: dict[str, float],
) -> None:
    """Add how a loss changes with each symbol, by the products of its tensors."""
    members: dict[int, list[int]] = {}
    for index, row in enumerate(rows.tolist()):
        members.setdefault(row, []).append(index)
    for row, indices in members.items():
        for name, amount in slopes[row].gradients(products[indices], values).items():
            found[name] = found.get(name, 0.0) + amount
