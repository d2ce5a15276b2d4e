"""Measured scalars get their numbers: a plan with symbols in, one that can be evaluated out.

A number is what IEEE binary64 gives for a formula over inner products, and stands in the sum as
exactly that rational. The products are defined to the bit (products.py), so it is the same on every
machine, whatever is measured beside it and however the arguments are spelled. Rejected: a number
for each tensor as its block is summed, which would be another function, with a norm by tensor.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from taskalg.algebra.coefficient import Coefficient
from taskalg.errors import DivisionError, MismatchError, UsageError, quoted
from taskalg.expression import Expression
from taskalg.planned import check_declared
from taskalg.planning.donor import choose_donor
from taskalg.planning.naming import zero_divisor, zero_vector
from taskalg.planning.plan import Choices, Plan
from taskalg.planning.planner import with_numbers
from taskalg.planning.result import check_something_left
from taskalg.planning.rounds import Round, rounds, rounds_for
from taskalg.running.execute import rehearse
from taskalg.running.report import NOTHING, Cost
from taskalg.running.stream import Settings

if TYPE_CHECKING:
    from taskalg.measuring.adding import Products


def measured(plan: Plan, settings: Settings, out: Path | None = None) -> tuple[Plan, Cost]:
    """Measure what a plan needs, in one pass over the data for each round, and put it in.

    Args:
        plan: what to evaluate; one without measured scalars is returned as it is.
        settings: how to run; `threads` and `progress` matter.
        out: where the result goes; what is in the way there is told before data is read.

    Returns:
        The plan with numbers, and what they cost.

    Raises:
        OutputError: the output cannot be written, or is in the way.
        MismatchError: a number is not finite, or something is divided by zero.
        KindError: nothing is left of the sum.
        CheckpointError: an input cannot be read or downloaded.

    Memory: 128 MB of buffers at most.
    """
    wanted = rounds(plan)
    if not wanted:
        return plan, NOTHING
    if out is not None:
        rehearse(plan, out, settings)
    values, cost = numbers_of(wanted, settings)
    found = with_numbers(plan, values)
    check_something_left(found.total, found.fit.table)
    return found, cost


def scalar(expression: Expression, settings: Settings) -> float:
    """Return the number of a scalar. Checkpoints take the first model's names, `base` if it is one.

    Raises:
        KindError: it is a checkpoint value.
        UsageError: as for `as_float`, or a checkpoint was declared without a file.
        MismatchError: as for `measured`.
    """
    total, value = expression.resolved_scalar()
    if any(value.symbols()):
        check_declared(total)
        every = [(operand, Coefficient(1)) for operand, _ in total.terms]
        donor = choose_donor(replace(total, terms=tuple(every)))
        choices = Choices(donor=every[donor][0].called)
        values, _ = numbers_of(rounds_for(total, [value], choices, expression.items), settings)
        value = given(value, values)
    return as_float(value, expression)


def given(scalar: Coefficient, values: Mapping[str, Fraction]) -> Coefficient:
    """Put in what was measured.

    Raises:
        MismatchError: something is divided by zero.
    """
    try:
        return scalar.given(values)
    except DivisionError as error:
        raise zero_divisor(error, "that was measured") from None


def as_float(value: Coefficient, scalar: object) -> float:
    """Round the value of a scalar, once.

    Raises:
        UsageError: it is no number, or no float is so large.
    """
    if value.constant is None:
        free = next((symbol.name for symbol in value.symbols()), "")
        why = "it depends on the tensor" if value.varies else f"{free} has no value"
        raise UsageError(f"{scalar} is no number", note=why)
    try:
        return float(value.constant)
    except OverflowError:
        raise UsageError(f"{scalar} is too large for a float") from None


def numbers_of(wanted: Sequence[Round], settings: Settings) -> tuple[dict[str, Fraction], Cost]:
    """Return the numbers that some rounds measure, and what they cost."""
    from taskalg.measuring.products import products  # brings compiled kernels

    values: dict[str, Fraction] = {}
    cost = NOTHING
    for one in wanted:
        found = products(one.given(values), one.symbols, settings)
        values |= _numbers(one, found)
        cost = Cost(cost.bytes_read + found.bytes_read, cost.seconds + found.seconds)
    return values, cost


def _numbers(one: Round, found: "Products") -> dict[str, Fraction]:
    places = {total: place for place, total in enumerate(one.sums)}
    gram = found.gram.tolist()
    numbers = {}
    for name, scalar in one.scalars.items():

        def dot(x: int, y: int, name: str = name) -> float:
            return _finite(gram[x][y], name, found, x, y)

        pair = [places[total] for total in scalar.arguments]
        numbers[name] = Fraction(formula(name, scalar.function, dot, pair))
    return numbers


def formula(
    name: str, function: str, dot: Callable[[int, int], float], arguments: Sequence[int]
) -> float:
    """Return the number of a measured scalar, from inner products of its arguments.

    Args:
        name: of the scalar.
        function: "norm", "dot" or "cos".
        dot: returns the product of two sums, by their places.
        arguments: places of its arguments.

    Raises:
        MismatchError: it is the cosine of an angle with a sum that is zero.
    """
    x, y = arguments[0], arguments[-1]
    match function:
        case "norm":
            return math.sqrt(dot(x, x))
        case "dot":
            return dot(x, y)
    norms = math.sqrt(dot(x, x)) * math.sqrt(dot(y, y))
    if not norms:
        raise zero_vector(name)
    return max(-1.0, min(1.0, dot(x, y) / norms))


def _finite(product: float, name: str, found: "Products", x: int, y: int) -> float:
    """Return an inner product if it is a number.

    Raises:
        MismatchError: it is not.
    """
    if math.isfinite(product):
        return product
    parts = zip(found.tensors, found.grams[:, x, y].tolist(), strict=True)
    tensor = next((tensor for tensor, part in parts if not math.isfinite(part)), None)
    where = "all tensors together are" if tensor is None else f"tensor {quoted(tensor)} is"
    raise MismatchError(
        f"{quoted(name)} is not a finite number",
        note=f"{where} NaN or infinite there, or too large for binary64",
    )
