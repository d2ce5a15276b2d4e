"""What kind a sum is, and whether it may be a result.

With headers the real tensors decide; without them, every tensor that could exist.
"""

from collections.abc import Mapping
from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.algebra.kinds import Kind, kind_of
from taskalg.algebra.proof import find_nonzero
from taskalg.algebra.rationals import decimal_text
from taskalg.algebra.selectors import Place, places
from taskalg.algebra.table import Table, tabulate
from taskalg.errors import KindError, listed, quoted
from taskalg.planning.resolve import Operand, Resolved

_RULE = "1 makes a model, 0 makes a task vector"


def counted_total(total: Resolved) -> Coefficient:
    """Add up the coefficients; files that are task vectors count 0."""
    parts = (part for operand, part in total.terms if not operand.is_task_vector)
    return sum(parts, Coefficient())


def tensor_places(total: Resolved) -> dict[str, Place | None]:
    """Return the names of all tensors in a sum and their places."""
    names: dict[str, None] = {}
    for operand, part in total.terms:
        if operand.checkpoint is not None and part:
            names |= dict.fromkeys(operand.checkpoint.tensors)
    return places(names)


def kind(total: Resolved) -> Kind:
    """Return the kind of a sum."""
    sums = counted_total(total)
    if not sums.varies:
        return kind_of([sums.number])
    if all(operand.checkpoint is not None for operand, _ in total.terms):
        return kind_of(row[0] for row in tabulate([sums], tensor_places(total)).classes)
    if find_nonzero([sums - Coefficient(1)]) is None:
        return Kind.MODEL
    return Kind.TASK_VECTOR if find_nonzero([sums]) is None else Kind.PARTIAL


def check_something_left(total: Resolved, table: Table | None = None) -> None:
    """Refuse a sum in which every coefficient cancels.

    Raises:
        KindError: nothing is left.
    """
    if table is not None:
        left = any(any(row) for row in table.classes)
    else:
        left = find_nonzero([part for _, part in total.terms]) is not None
    if not left:
        names = [operand.called for operand, _ in total.terms]
        raise KindError(
            "nothing is left: every coefficient cancels",
            note=f"{listed(names)} cancel{'s' if len(names) == 1 else ''} on every tensor",
        )


def check_result(total: Resolved, found: Kind, allow_partial: bool) -> None:
    """Refuse a partial result, unless that was asked for.

    Raises:
        KindError: the coefficients add up to neither 1 nor 0.
    """
    if found is not Kind.PARTIAL or allow_partial:
        return
    sums = counted_total(total)
    raise KindError(
        "an expression must be a model or a task vector",
        note=f"{_where(total, sums)}: {_RULE}",
        help=_help(total, sums),
    )


def _where(total: Resolved, sums: Coefficient) -> str:
    """Say what the coefficients add up to, and on which tensor the rule first breaks."""
    if not sums.varies:
        return f"the coefficients add up to {sums}"
    if any(operand.checkpoint is None for operand, _ in total.terms):
        witness = find_nonzero([sums - Coefficient(1)])
        assert witness is not None, "a partial sum is not 1 everywhere"
        found = Coefficient(witness.values[0]) + Coefficient(1)
        return f"the coefficients add up to {found} on {witness}"
    by_name = _sums_by_name(sums, tensor_places(total))
    kinds = {name: value for name, value in by_name.items() if value not in (0, 1)}
    name, value = next(iter(kinds.items()), next(iter(by_name.items())))
    if kinds:
        return f"on {quoted(name)} the coefficients add up to {Coefficient(value)}"
    other = next(n for n, v in by_name.items() if v != value)
    first, second = Coefficient(value), Coefficient(by_name[other])
    return f"the coefficients add up to {first} on {quoted(name)} and {second} on {quoted(other)}"


def _sums_by_name(sums: Coefficient, at: Mapping[str, Place | None]) -> dict[str, Number]:
    table = tabulate([sums], at)
    return {name: table.classes[index][0] for name, index in table.of.items()}


def _help(total: Resolved, sums: Coefficient) -> str:
    base = next((operand for operand, _ in total.terms if operand.name == "base"), None)
    allow = "--allow-partial writes it all the same"
    value = sums.constant
    if sums.varies:
        return f"select a difference, as in base + (ft - base)[…]; {allow}"
    if value is None:
        return f"divide by ({sums}) to average, or add differences: base + …*(ft - base)"
    for operand, part in total.terms:
        if operand.is_task and part.constant and value + part.constant in (0, 1):
            name = operand.name
            return (
                f'{name} is already a task vector; drop "- base", or bind it with --model {name}=…'
            )
    if base is not None:
        name = _model_beside(total, base, value)
        if name is not None:
            sign, size = "-" if value < 1 else "+", abs(value - 1)
            factor = "" if size == 1 else f"{decimal_text(size)}*"
            return (
                f"if {name} is a fine-tuned model, bind it with --task {name}=..., "
                f"or write base {sign} {factor}({name} - base)"
            )
    return f"divide by {decimal_text(value)} to average: (…)/{_bracketed(value)}; {allow}"


def _bracketed(value: Fraction) -> str:
    text = decimal_text(value)
    return text if text.replace(".", "").isdigit() else f"({text})"


def _model_beside(total: Resolved, base: Operand, value: Fraction) -> str | None:
    """Return a model that was added to the base as if it were a task vector."""
    for operand, part in total.terms:
        plain = not operand.is_task and not operand.is_task_vector and operand is not base
        if plain and operand.name is not None and part.constant == value - 1:
            return operand.name
    return None
