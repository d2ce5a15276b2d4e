"""Scalars with a value for each tensor, as layer-wise AdaMerging and aTLAS learn them.

In a plan each tensor gets symbols of its own, `strength["a.weight"]`, so that nothing which works
with symbols needs to know. In a recipe the scalar is a sum of numbers, each times the selector of
its tensors, which the language has anyway. Rejected: a sort of scalar that holds a table.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient, Number, selected
from taskalg.algebra.selectors import Glob, Selector
from taskalg.errors import UsageError, quoted
from taskalg.planning.combination import Combination
from taskalg.planning.plan import Plan


def own_name(name: str, tensor: str) -> str:
    """Return what a tensor's own symbol is called."""
    return f"{name}[{tensor!r}]"


def separated(plan: Plan, names: Collection[str]) -> Plan:
    """Give each tensor symbols of its own in the place of those with these names."""
    combinations: dict[Combination, int] = {}
    steps = []
    for step in plan.steps:
        own = {name: Coefficient.symbol(own_name(name, step.name)) for name in names}
        shared = plan.combinations[step.combination]
        row = tuple(_put(number, own) for number in shared.coefficients)
        index = combinations.setdefault(replace(shared, coefficients=row), len(combinations))
        steps.append(replace(step, combination=index))
    return replace(plan, steps=tuple(steps), combinations=tuple(combinations))


def _put(number: Number, symbols: Mapping[str, Coefficient]) -> Number:
    return number if isinstance(number, Fraction) else number.given(symbols).number


def as_selectors(values: Mapping[str, Fraction], tensors: Collection[str]) -> Coefficient:
    """Write values by tensor as one scalar; tensors with the same value share a selector.

    Args:
        values: by the names of tensors.
        tensors: all names that there are.

    Raises:
        UsageError: no pattern matches one name alone.
        ExpressionError: there are too many values.
    """
    alike: dict[Fraction, list[Glob]] = {}
    for name, value in values.items():
        alike.setdefault(value, []).append(exact_pattern(name, tensors))
    parts = [
        selected(Selector(tuple(patterns), ())) * Coefficient(value)
        for value, patterns in alike.items()
    ]
    merged = {monomial: number for part in parts for monomial, number in part.parts.items()}
    return Coefficient.of(merged)


def exact_pattern(name: str, tensors: Collection[str]) -> Glob:
    """Return the pattern that matches one tensor's name and no other's.

    A text in quotes holds one sort of quotes and no control characters; `?` stands for the rest.

    Raises:
        UsageError: it matches another, too.
    """
    typed = "".join(f"[{char}]" if char in "*?[" else char for char in name)
    other = '"' if "'" in typed else ""
    pattern = "".join("?" if c == other or not c.isprintable() else c for c in typed)
    found = Glob(pattern)
    if pattern != typed and sum(map(found.matches, tensors)) > 1:
        raise UsageError(
            f"no pattern can be written for {quoted(name)} alone",
            note="a text in quotes holds one sort of quotes and no control characters",
        )
    return found
