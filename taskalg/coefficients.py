"""A plan's exact coefficients for programs: by checkpoint, and by class of tensors if they vary."""

from collections.abc import Sequence
from typing import Any

from taskalg.algebra.canonical import sort_key
from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.errors import LISTED
from taskalg.planning.plan import Plan


def coefficients_json(plan: Plan, names: Sequence[str]) -> Any:
    """Return coefficients as "p/q" by checkpoint; when they vary, one object per class.

    Args:
        plan: the plan.
        names: what to call its operands.
    """
    parts = [part.given(plan.measured) for _, part in plan.total.terms]
    if not any(part.varies for part in parts):
        return _row(names, [part.number for part in parts])
    members = members_by_class(plan)
    return [
        {
            "tensors": len(members[index]),
            "examples": members[index][:LISTED],
            "coefficients": _row(names, row),
        }
        for index, row in enumerate(plan.fit.table.classes)
        if members[index]
    ]


def fraction_text(value: Number) -> str:
    """Print a coefficient for a program: always "p/q", but for one that has no value yet."""
    if isinstance(value, Coefficient):
        return str(value)
    return f"{value.numerator}/{value.denominator}"


def members_by_class(plan: Plan) -> list[list[str]]:
    """Return the output tensors of each class of coefficients."""
    members: list[list[str]] = [[] for _ in plan.fit.table.classes]
    for step in plan.tensors:
        members[plan.fit.table.of[step.name]].append(step.name)
    return members


def _row(names: Sequence[str], row: Sequence[Number]) -> dict[str, str]:
    pairs = sorted(zip(names, row, strict=True), key=lambda pair: sort_key(pair[0], None))
    return {name: fraction_text(value) for name, value in pairs if value}
