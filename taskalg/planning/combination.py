"""What steps of a plan share: which checkpoints are combined, with which coefficients and dtypes.

Coefficients may depend on scalars that are known only later, so that one plan serves all their
values. Engines take numbers: here is the one place where a coefficient has to be one.
"""

from dataclasses import dataclass
from fractions import Fraction

from taskalg.algebra.coefficient import Number
from taskalg.dtypes import DType
from taskalg.engines.base import WeightedSumSpec
from taskalg.errors import UsageError

AS_IT_IS = (Fraction(1),)


@dataclass(frozen=True)
class Combination:
    """What happens to a tensor, without which tensor: steps share it."""

    operands: tuple[int, ...]  # indices into the plan's operands, in canonical order
    coefficients: tuple[Number, ...]  # exact, one for each of them, none is zero
    inputs: tuple[DType, ...]  # one for each of them
    output: DType
    is_computed: bool = False  # whether an input is a product, whose bytes are nowhere to copy

    @property
    def numbers(self) -> tuple[Fraction, ...]:
        """The coefficients as engines take them.

        Raises:
            UsageError: one depends on a scalar that has no value yet.
        """
        return tuple(_number(value) for value in self.coefficients)

    @property
    def spec(self) -> WeightedSumSpec:
        """What an engine does for it, unless it is a copy or nothing is left.

        Raises:
            UsageError: a coefficient depends on a scalar that has no value yet.
        """
        return WeightedSumSpec(self.numbers, self.inputs, self.output)

    @property
    def is_copy(self) -> bool:
        """Whether the one input's bytes are the result's; integers are always copied."""
        alike = self.coefficients == AS_IT_IS and self.inputs == (self.output,)
        return alike and not self.is_computed

    @property
    def is_zero(self) -> bool:
        """Whether nothing is left: the tensor is all zeros and nothing is read."""
        return not self.operands


def _number(value: Number) -> Fraction:
    """Return a coefficient of a plan as the number it must be by now.

    Raises:
        UsageError: it depends on a scalar that has no value yet.
    """
    if isinstance(value, Fraction):
        return value
    name = next(value.symbols()).name
    raise UsageError(
        f"{name} has no value",
        note=f"a coefficient is {value}",
        help=f"give it one: recipe.bind({name}=0.4)",
    )
