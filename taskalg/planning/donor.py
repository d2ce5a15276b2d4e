"""The donor: the checkpoint whose names, order, dtypes and side files the output takes."""

from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.selectors import places
from taskalg.algebra.table import tabulate
from taskalg.checkpoints.base import Checkpoint
from taskalg.errors import UsageError, listed, quoted
from taskalg.planning.resolve import Operand, Resolved


def choose_donor(total: Resolved, name: str | None = None) -> int:
    """Return the donor's index among the operands. The spelling of a sum never decides.

    The one asked for; else `base` if its coefficient is not zero everywhere; else the checkpoint
    with the largest coefficient on any tensor, models before task vectors, ties by name. If that
    is an adapter, which has few of a model's tensors, what it was trained on stands in.

    Raises:
        UsageError: no operand has the name asked for.
    """
    operands = [operand for operand, _ in total.terms]
    if name is not None:
        return _named(operands, name)
    largest = [_largest(operand, part) for operand, part in total.terms]
    for index, operand in enumerate(operands):
        if operand.name == "base" and largest[index] is not None:
            return index
    ranked = [
        (not operands[index].is_task_vector, value, -index)
        for index, value in enumerate(largest)
        if value is not None
    ]
    best = -max(ranked)[2] if ranked else 0
    return _standing_in(total, best) if opened(operands[best]).is_sparse else best


def _standing_in(total: Resolved, adapter: int) -> int:
    """Return the index of what an adapter was trained on, its own when that is not known."""
    operands = [operand for operand, _ in total.terms]
    base = total.against.get(operands[adapter])
    parts = {} if base is None else {o: _largest(o, part) for o, part in base.terms.items()}
    known = [(value, -operands.index(operand)) for operand, value in parts.items() if value]
    return -max(known)[1] if known else adapter


def opened(operand: Operand) -> Checkpoint:
    """Return an operand's checkpoint; planning starts only when all have one."""
    assert operand.checkpoint is not None, f"{operand.name} was declared without a file"
    return operand.checkpoint


def _named(operands: list[Operand], name: str) -> int:
    for index, operand in enumerate(operands):
        if name in (operand.name, operand.path):
            return index
    known = [operand.called for operand in operands]
    raise UsageError(
        f"the donor {quoted(name)} is not a checkpoint of this expression",
        help=f"choose one of {listed(known, 'or')}",
    )


def _largest(operand: Operand, part: Coefficient) -> Fraction | None:
    """Return the largest coefficient on any of its tensors, None when it is zero on all.

    One that depends on a symbol counts as 1.
    """
    if part.constant is not None:
        return part.constant or None
    table = tabulate([part], places(opened(operand).tensors))
    values = [Coefficient(row[0]).constant or Fraction(1) for row in table.classes if row[0]]
    return max(values, default=None)
