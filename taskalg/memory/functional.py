"""Recipes as functions of their scalars: merged weights forward, gradients of the scalars backward.

A sum is linear in its operands and polynomial in its scalars, so autograd has nothing to record:
the forward pass is the fused, exact sum, and the backward pass needs the inner products of each
tensor's gradient with its operands, one fused reduction, and the derivatives of polynomials. That
is what AdaMerging (Yang et al. 2023, arXiv 2310.02575) and aTLAS (Zhang et al. 2024, arXiv
2407.02880) learn. Rejected: the sum written in torch, which rounds at every step and keeps each
product of a scalar with an operand until the backward pass.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch

from taskalg.algebra.coefficient import Coefficient
from taskalg.binding import freed
from taskalg.checkpoints.arrays import HOST
from taskalg.dtypes import F32
from taskalg.engines.gpu.device import within_memory
from taskalg.errors import Source, UsageError, listed, quoted
from taskalg.expression import Expression, Written
from taskalg.measuring.numbers import measured
from taskalg.memory.learnable import Learnable, Scalar, Values
from taskalg.memory.merged import Merged
from taskalg.memory.tensors import engine_on, usable_device
from taskalg.planning.donor import opened
from taskalg.planning.plan import Plan
from taskalg.recipe_text import recipe_text
from taskalg.running.stream import Settings

Made = TypeVar("Made", bound=Expression)


@within_memory("the operands and the weights")
def functional(
    recipe: Made,
    plan: Plan,
    *,
    device: "str | torch.device | None",
    per_tensor: str | Collection[str],
    engine: str,
    threads: int | None,
) -> "Functional[Made]":
    """Hold a recipe's operands, so that its weights can be differentiated.

    Args:
        recipe: with the scalars' values to begin with.
        plan: of the same with its scalars freed.
        device: where operands and weights are; None is where the donor's tensors are, or the CPU.
        per_tensor: scalars that get a value for each tensor.
        engine: a name.
        threads: by default the smaller of 8 and what this process may use.

    Raises:
        TaskalgError: as `Recipe.functional` says.
    """
    scalars = recipe.scalars
    names = [per_tensor] if isinstance(per_tensor, str) else list(per_tensor)
    if not scalars:
        raise UsageError(
            "the recipe has no scalars to learn",
            help='name them: compile("base + strength*toxic", …, set={"strength": 0.4})',
        )
    for name in names:
        if name not in scalars:
            raise UsageError(
                f"the recipe has no scalar {quoted(name)}", help=f"it has {listed(sorted(scalars))}"
            )
    where = torch.empty(0, device=usable_device(device or _home(plan))).device  # with its index
    able = engine_on(where, engine)
    plan, _ = measured(plan, Settings(threads))
    merged = Merged(plan, able, where, per_tensor=names, threads=threads)
    return Functional(recipe, merged, names)


class Functional(Generic[Made]):
    """Merged weights as a function of a recipe's scalars, which torch can differentiate.

    Called without arguments it uses parameters of its own, which an optimizer can be given:
    `torch.optim.Adam(f.parameters())`. A tensor means the shortest decimals that its elements are
    in their dtype, as everywhere, so the weights are to the bit what `f.recipe().save` writes.
    A result that is too large for its dtype is infinite, and no error.

    Memory: operands that are not on the device already, once, and tensors that no scalar changes.
    Each call makes new weights, which live as long as the caller or autograd needs them; the
    backward pass makes nothing of their size.
    """

    def __init__(self, recipe: Made, merged: Merged, per_tensor: Collection[str] = ()) -> None:
        scalars = recipe.scalars
        self._recipe, self._merged = recipe, merged
        self._learnable = Learnable(tuple(scalars), frozenset(per_tensor), merged.changing)
        self._parameters: dict[str, torch.nn.Parameter] = {}
        for name, value in scalars.items():
            if abs(value) > F32.largest:
                raise UsageError(f"{name} is too large for float32, in which it is learned")
            start = torch.full(self._learnable.shape(name), float(value), dtype=torch.float32)
            self._parameters[name] = torch.nn.Parameter(start)
        different = torch.arange(1.0, len(merged.changing) + 1)
        self.recipe(**dict.fromkeys(per_tensor, different))  # refuses now what cannot be written

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors that scalars change; a scalar per tensor has values in this order."""
        return self._learnable.tensors

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Yield the scalars, in float32: of shape `()`, or `(len(tensors),)` when per tensor."""
        yield from self._parameters.values()

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yield them with their names."""
        yield from self._parameters.items()

    def __call__(self, **scalars: Scalar) -> dict[str, torch.Tensor]:
        """Return the weights, for `torch.func.functional_call(model, weights, inputs)`.

        Args:
            scalars: some of them, in place of the parameters: tensors, to which gradients flow, or
                numbers.

        Raises:
            UsageError: there is no such scalar, or a value is not finite or has the wrong shape.
            ExpressionError: something is divided by zero.
        """
        given = self._given(scalars)
        names = [name for name, value in given.items() if isinstance(value, torch.Tensor)]
        call = _Call(self._merged, self._learnable, given)
        merge: Any = _Merge.apply
        made = merge(call, names, *(given[name] for name in names))
        changing = dict(zip(self.tensors, made, strict=True))
        fixed = self._merged.fixed  # copied, for a module may write to its buffers
        return {
            name: changing[name] if name in changing else fixed[name].clone()
            for name in self._merged.names
        }

    def recipe(self, **scalars: Scalar) -> Made:
        """Return the recipe with the parameters' values, or those that are given.

        A scalar is the shortest decimal that it is in its own dtype; one per tensor is a sum of
        such decimals, each for its tensors, as `0.41["a.weight"] + 0.3["b.weight"]`. What it saves
        are the weights to the bit, with the donor and dtype that `functional` was given.

        Raises:
            UsageError: as for a call.
            ExpressionError: a scalar has more values per tensor than a recipe can hold, or is one
                that must not depend on the tensor, such as a divisor.
        """
        learned, recipe = self._learned(scalars), self._recipe
        assert recipe.evaluation is not None, "only a text has scalars"
        return type(recipe).of_program(
            recipe.evaluation.again(learned),
            written=Written(Source("<learned>", self._text(learned))),
            opening=recipe.opening,
            opened=recipe.opened,
        )

    def text(self, **scalars: Scalar) -> str:
        """Return what `recipe` returns as the text of a recipe file.

        Checkpoints in memory have no path: a comment says how to bind their names.
        """
        return self._text(self._learned(scalars))

    def _given(self, scalars: Mapping[str, Scalar]) -> dict[str, Scalar]:
        self._learnable.check(scalars)
        return {**self._parameters, **scalars}

    def _learned(self, scalars: Mapping[str, Scalar]) -> dict[str, Coefficient]:
        values = self._learnable.values(self._given(scalars))
        return self._learnable.written(values, self._merged.names)

    def _text(self, learned: Mapping[str, Coefficient]) -> str:
        return recipe_text(freed(self._recipe).resolved, learned)


def _home(plan: Plan) -> str:
    """Return the device that the donor's tensors are on."""
    devices = {array.device for array in opened(plan.operands[plan.donor]).arrays}
    return devices.pop() if len(devices) == 1 else HOST


class _Call:
    """One evaluation as its backward pass needs it: with the values of then, and no weights."""

    def __init__(self, merged: Merged, learnable: Learnable, given: Mapping[str, Scalar]) -> None:
        self.merged, self.learnable, self._given = merged, learnable, given
        self.values: Values = {}

    def evaluate(self, scalars: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the weights that change; tensors are given anew, for torch may wrap them."""
        self.values = self.learnable.values({**self._given, **scalars})
        return tuple(self.merged.evaluate(self.values).values())


class _Merge(torch.autograd.Function):
    """All weights at once, so that one reduction gives all inner products."""

    @staticmethod
    def forward(call: _Call, names: Sequence[str], *scalars: torch.Tensor) -> Any:
        return call.evaluate(dict(zip(names, scalars, strict=True)))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.call, ctx.names, *ctx.scalars = inputs  # not saved: an optimizer may change them
        ctx.set_materialize_grads(False)  # None for weights that the loss does not depend on

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        wanted = [
            name if needed else None
            for name, needed in zip(ctx.names, ctx.needs_input_grad[2:], strict=True)
        ]
        slopes: Any = _Slopes.apply
        return None, None, *slopes(ctx.call, wanted, *ctx.scalars, *gradients)


class _Slopes(torch.autograd.Function):
    """The scalars' gradients: a function of its own, so that a second derivative is an error.

    Without it torch would take them for constants, and drop a term without a word.
    """

    @staticmethod
    def forward(call: _Call, wanted: Sequence[str | None], *tensors: torch.Tensor | None) -> Any:
        scalars, gradients = tensors[: len(wanted)], tensors[len(wanted) :]
        pairs = zip(call.merged.changing, gradients, strict=True)
        given = {name: g.to_dense().contiguous() for name, g in pairs if g is not None}
        slopes = call.merged.gradients(given, call.values)
        return tuple(
            None
            if name is None or scalar is None
            else call.learnable.gradient(name, slopes, scalar)
            for name, scalar in zip(wanted, scalars, strict=True)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        raise UsageError(
            "a recipe's weights cannot be differentiated twice",
            note="their gradients by the scalars were asked for a gradient of their own",
        )
