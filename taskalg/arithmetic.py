"""Python's operators on recipes: the language's own rules, written as methods."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

from taskalg.algebra.coefficient import selected
from taskalg.algebra.operators import add, divide, multiply, negate
from taskalg.algebra.weighted_sum import Value
from taskalg.selection import selector_of


class Arithmetic(ABC):
    """`+ - * /`, unary `-` and `[...]` for a class that can combine values."""

    __array_ufunc__ = None  # NumPy's scalars leave `0.4 * recipe` to us
    __iter__ = None  # x[0], x[1], … never ends: a recipe is no sequence

    @abstractmethod
    def combine(self, rule: Callable[[Value, Value], Value], other: Any) -> Self:
        """Apply a rule to this and to a recipe or a number; NotImplemented for anything else."""

    def __add__(self, other: Any) -> Self:
        return self.combine(add, other)

    def __radd__(self, other: Any) -> Self:
        return self.combine(add, other)

    def __sub__(self, other: Any) -> Self:
        return self.combine(lambda a, b: add(a, negate(b)), other)

    def __rsub__(self, other: Any) -> Self:
        return self.combine(lambda a, b: add(negate(a), b), other)

    def __mul__(self, other: Any) -> Self:
        return self.combine(multiply, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Self:
        return self.combine(divide, other)

    def __rtruediv__(self, other: Any) -> Self:
        return self.combine(lambda a, b: divide(b, a), other)

    def __neg__(self) -> Self:
        return self.combine(lambda a, _: negate(a), 0)

    def __pos__(self) -> Self:
        return self

    def __getitem__(self, items: Any) -> Self:
        """Select tensors: `x["*.mlp.*", taskalg.exclude("*.bias")]`, `x[0:16]`, `x[-1]`."""
        selector = selector_of(items if isinstance(items, tuple) else (items,))
        return self.combine(lambda a, _: multiply(selected(selector), a), 0)

    def _has_no_order(self, other: object) -> bool:
        raise TypeError("recipes have no order; of a scalar compare float(scalar), its number")

    __lt__ = __le__ = __gt__ = __ge__ = _has_no_order

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Let a torch scalar stand on the left: `torch.tensor(0.4) * recipe`."""
        name = getattr(function, "__name__", "").strip("_")
        swapped = {"mul": "__rmul__", "add": "__radd__", "sub": "__rsub__", "div": "__rtruediv__"}
        method = swapped.get(name)
        if method is None or len(args) != 2 or not isinstance(args[1], Arithmetic):
            return NotImplemented
        return getattr(args[1], method)(args[0])
