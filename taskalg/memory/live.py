"""A model whose weights follow a recipe's scalars: one call re-evaluates them where they are.

A plan is made once, with the scalars as symbols, and its operands are held. Then `set` costs some
polynomials and one pass over memory: no file, no plan, no allocation.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from threading import RLock
from typing import Any, Generic, TypeVar

import torch

from taskalg.algebra.kinds import Kind
from taskalg.algebra.rationals import decimal_text
from taskalg.binding import bound, freed, new_scalars
from taskalg.engines.base import Engine
from taskalg.engines.gpu.device import within_memory
from taskalg.errors import ExpressionError, OverflowingError, UsageError, listed, quoted
from taskalg.measuring.numbers import measured
from taskalg.memory.held import Held
from taskalg.memory.targets import Targets, find_targets
from taskalg.memory.tensors import empty, engine_on, usable_device
from taskalg.planned import Planned
from taskalg.planning.plan import Plan
from taskalg.running.stream import Settings
from taskalg.scalars import Number
from taskalg.units import bytes_text

Made = TypeVar("Made", bound=Planned)

_log = logging.getLogger(__name__)


@within_memory("the operands and the weights")
def live(
    recipe: Made,
    plan: Plan,
    settings: Settings,
    *,
    model: Any,
    device: "str | torch.device | None",
    engine: str,
    operands: str,
) -> "Live[Made]":
    """Hold a recipe's operands, and evaluate it into a model, or into tensors of its own.

    Args:
        recipe: with the scalars' values to begin with.
        plan: of the same with its scalars freed.
        settings: how to run.
        model: a module, a state dict, or None.
        device: where to; None is the model's.
        engine: a name.
        operands: "auto", or "cpu" for those that are not on the device to stay where they are.

    Raises:
        TaskalgError: as `Recipe.live` says.
    """
    if operands not in ("auto", "cpu"):
        raise UsageError("operands is 'auto' or 'cpu'", note=f"found {operands!r}")
    if model is None:
        where = torch.empty(0, device=usable_device(device or "cpu")).device  # with its index
        made = {step.name: empty(plan, step, where) for step in plan.tensors}
        targets = Targets("the result", made, {})
    else:
        targets = find_targets(model, plan)
        where = _device_of(targets, device)
        plan = freed(recipe).planned(replace(plan.choices, outputs=targets.dtypes))
    able = engine_on(where, engine)
    plan, _ = measured(plan, settings)
    held = Held(plan, targets, able, device=where, away=operands == "cpu", threads=settings.threads)
    return Live(recipe, held, able, fail_on_overflow=settings.fail_on_overflow)


class Live(Generic[Made]):
    """Weights that follow the scalars of a recipe. Made by `Recipe.live`."""

    def __init__(self, recipe: Made, held: Held, engine: Engine, *, fail_on_overflow: bool) -> None:
        self._recipe, self._held, self._engine = recipe, held, engine
        self._fails = fail_on_overflow
        self._asked = recipe.scalars  # what the next `set` starts from
        self._is_there = False  # whether the weights are what was asked
        self._lock = RLock()
        self._evaluate(self._asked)

    def set(self, **scalars: Number) -> None:
        """Give scalars new values, and evaluate the weights in place.

        Args:
            scalars: by name; those left out stay. A float is the shortest decimal it prints as.

        Raises:
            UsageError: there is no such scalar, or a value is no number; nothing changes.
            ExpressionError: something would be divided by zero; nothing changes.
            OverflowingError: a result is too large; the weights are then what they were before.
        """
        with self._lock:
            self._evaluate(new_scalars(self._asked, scalars))

    def reset(self) -> None:
        """Take the weights back to those of the donor, bit for bit: as a rule that is `base`.

        The next `set` starts from the scalars that were set last.

        Raises:
            UsageError: the recipe is a task vector, which has no base to go back to.
        """
        if not self._has_base:
            raise UsageError(
                "a task vector has no base to go back to", help="set its scalars to something else"
            )
        with self._lock:
            self._is_there = False
            self._held.restore()

    @property
    def values(self) -> dict[str, Fraction]:
        """The scalars that the weights are evaluated with, exactly.

        Empty where they are not: after `reset`, or when `set` was interrupted.
        """
        return dict(self._asked) if self._is_there else {}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights by the recipe's names; they are no copies, so `set` changes them."""
        targets = self._held.targets
        names = [step.name for step in self._held.plan.tensors]
        owners = {name: targets.shared.get(name, name) for name in names}
        return {n: targets.tensors[o] for n, o in owners.items() if o in targets.tensors}

    def recipe(self) -> Made:
        """Return the recipe with the scalars as they are, to `save` or to go on from.

        Raises:
            UsageError: the weights are of no scalars, as `values` is empty.
        """
        if not self._is_there:
            raise UsageError("the weights are not the recipe's", help="live.set() evaluates it")
        return bound(self._recipe, self._asked)

    def __str__(self) -> str:
        held, names = self._held, self._held.plan.operands
        state = ", ".join(f"{name} = {decimal_text(value)}" for name, value in self.values.items())
        lines = [f"{held.plan.total}", f"  {state or ('evaluated' if self._is_there else 'reset')}"]
        for index, holding in held.holdings.items():
            lines.append(f"  {names[index].called}: {holding}")
        read, written, away = held.moved
        lines.append(
            f"  one set reads {bytes_text(read)} and writes {bytes_text(written)}"
            f" on {held.device} ({self._engine.name})"
        )
        if away:
            lines.append(f"  {bytes_text(away)} of it come from host memory, over the bus")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Live({self})"

    @property
    def _has_base(self) -> bool:
        return self._held.plan.kind is not Kind.TASK_VECTOR

    def _evaluate(self, values: Mapping[str, Fraction]) -> None:
        was_there, self._is_there = self._is_there, False
        try:
            tally = self._held.evaluate(values)
        except ExpressionError:  # before anything was written
            self._is_there = was_there
            raise
        if tally.overflowed:
            self._overflow(values, was_there)
        self._asked, self._is_there = dict(values), True

    def _overflow(self, values: Mapping[str, Fraction], was_there: bool) -> None:
        """Raise an error once the weights are what they were, or log which tensors overflow."""
        names = self._held.overflowing(values)
        if not self._fails:
            _log.warning("results overflow in %s", listed([quoted(name) for name in names]))
            return
        words = "the weights are what they were"
        if was_there:
            self._held.evaluate(self._asked)
            self._is_there = True
        elif self._has_base:
            self._held.restore()
            words = "the weights are those of the donor"
        else:
            words = "the weights have it"
        others = f", and {len(names) - 1:,} more" if len(names) > 1 else ""
        raise OverflowingError(
            f"tensor {quoted(names[0])} overflows {self._held.targets.dtypes[names[0]]}{others}",
            note=f"a result is too large although every input was finite; {words}",
            help='choose smaller scalars, a wider dtype, or on_overflow="warn"',
        )


def _device_of(targets: Targets, device: "str | torch.device | None") -> torch.device:
    """Return the device that a model is on.

    Raises:
        UsageError: it is on several, or not on the one asked for.
    """
    found = list(dict.fromkeys(tensor.device for tensor in targets.tensors.values()))
    where = found[0] if found else torch.device("cpu")
    asked = where if device is None else torch.empty(0, device=usable_device(device)).device
    if len(found) > 1 or asked != where:
        shown = listed([str(one) for one in found])
        raise UsageError(
            f"the tensors of {targets.model} are on {shown}",
            note=f"they have to be on {'one device' if asked == where else asked}",
            help=f'model.to("{asked}")',
        )
    return where
