"""The scalars of a recipe as tensors: their shapes, and how values and gradients pass both ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from taskalg.algebra.coefficient import Coefficient
from taskalg.errors import UsageError, listed, quoted
from taskalg.memory.by_tensor import as_selectors, own_name
from taskalg.scalars import Number, to_fraction

Scalar = Number | torch.Tensor
Values = Mapping[str, Fraction]  # of symbols


@dataclass(frozen=True)
class Learnable:
    """Which scalars there are."""

    names: tuple[str, ...]
    per_tensor: frozenset[str]  # those that have a value for each tensor
    tensors: tuple[str, ...]  # which these are, in the order of the values

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a scalar."""
        return (len(self.tensors),) if name in self.per_tensor else ()

    def check(self, given: Mapping[str, Scalar]) -> None:
        """Refuse what is no scalar of the recipe, or has the wrong shape.

        Raises:
            UsageError: that is so.
        """
        for name, value in given.items():
            if name not in self.names:
                raise UsageError(
                    f"the recipe has no scalar {quoted(name)}",
                    help=f"it has {listed(sorted(self.names))}",
                )
            found, shape = tuple(getattr(value, "shape", ())), self.shape(name)
            if found not in ((), shape):
                wanted = " or ".join(map(str, dict.fromkeys([shape, ()])))
                raise UsageError(f"{name} has the shape {found}", note=f"expected {wanted}")

    def values(self, given: Mapping[str, Scalar]) -> Values:
        """Return what symbols stand for, each the shortest decimal in its dtype.

        Args:
            given: all scalars.

        Raises:
            UsageError: one is not a finite number.
        """
        values: dict[str, Fraction] = {}
        for name, value in given.items():
            if name not in self.per_tensor:
                values[name] = _number(name, value)
            elif getattr(value, "shape", ()):
                pairs = zip(self.tensors, value, strict=True)
                values |= {own_name(name, tensor): _number(name, one) for tensor, one in pairs}
            else:
                number = _number(name, value)
                values |= {own_name(name, tensor): number for tensor in self.tensors}
        return values

    def gradient(self, name: str, slopes: Mapping[str, float], like: torch.Tensor) -> torch.Tensor:
        """Return the gradient of a loss by a scalar.

        Args:
            name: of the scalar.
            slopes: how the loss changes with each symbol.
            like: the scalar.
        """
        symbols = [name]
        if name in self.per_tensor:
            symbols = [own_name(name, tensor) for tensor in self.tensors]
        each = torch.tensor([slopes.get(symbol, 0.0) for symbol in symbols], dtype=torch.float64)
        return (each if like.dim() else each.sum()).to(like)

    def written(self, values: Values, all_tensors: Sequence[str]) -> dict[str, Coefficient]:
        """Return the scalars as a recipe says them.

        Raises:
            UsageError: no pattern matches one tensor alone.
            ExpressionError: there are too many values.
        """
        found = {}
        for name in self.names:
            if name in self.per_tensor:
                each = {tensor: values[own_name(name, tensor)] for tensor in self.tensors}
                found[name] = as_selectors(each, all_tensors)
            else:
                found[name] = Coefficient(values[name])
        return found


def _number(name: str, value: Scalar) -> Fraction:
    try:
        return to_fraction(value.detach() if isinstance(value, torch.Tensor) else value)
    except UsageError as error:
        error.note = error.note or f"it is a value of {name}"
        raise
    except TypeError as error:
        raise UsageError(str(error), note=f"it is a value of {name}") from None
