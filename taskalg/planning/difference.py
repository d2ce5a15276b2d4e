"""Where two sums differ: the sum of their difference, looked at tensor by tensor.

With headers the real tensor names decide; without, every tensor that could exist. What is measured
is an unknown, and one unknown where its arguments are equal in that sense.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.algebra.proof import find_nonzero
from taskalg.algebra.selectors import places
from taskalg.algebra.table import tabulate
from taskalg.algebra.weighted_sum import Measured, WeightedSum
from taskalg.errors import ExpressionError, quoted
from taskalg.planning.donor import opened
from taskalg.planning.resolve import Operand, Resolved
from taskalg.planning.result import tensor_places

_MAX_PROOFS = 50  # that two measured scalars are equal; one takes a second at most


def where_not_zero(rest: Resolved) -> str | None:
    """Say where a difference of two sums is not zero; None is a proof that it is, everywhere.

    Raises:
        ExpressionError: it cannot be decided without tensor names.
    """
    same = unknowns(rest)
    parts = [part.given(same) for _, part in rest.terms]
    varies = any(part.varies for part in parts)
    if varies and _all_opened(rest):
        table = tabulate(parts, tensor_places(rest))
        for name, index in table.of.items():
            if not all(Coefficient(value).vanishes() for value in table.classes[index]):
                return _telling(rest, table.classes[index], quoted(name))
        return None
    witness = find_nonzero(parts)
    if witness is None:
        return None
    values = iter(witness.values)
    row = [next(values) if part else Fraction(0) for part in parts]
    if not varies:
        return _telling(rest, row, None)
    undecided = "with paths the real tensor names would decide"
    return f"{_telling(rest, row, str(witness))}; {undecided}"


def unknowns(total: Resolved) -> dict[str, Coefficient]:
    """Return one symbol for measured scalars that are equal, by the names of the others.

    `norm(a[0:4])` is `norm(a[:4])`, which their texts do not tell.
    """
    found: dict[str, Coefficient] = {}
    tries = 0
    kept: dict[str, Measured[Operand]] = {}
    for name, one in sorted(total.measured.items(), key=lambda item: item[1].depth):
        arguments = [_given(argument, found) for argument in one.arguments]
        for other, known in kept.items():
            if known.function != one.function or tries == _MAX_PROOFS:
                continue
            tries += 1
            if _are_equal(total, known.arguments, arguments):
                found[name] = Coefficient.symbol(other)
                break
        else:
            kept[name] = Measured(one.function, tuple(arguments))
    return found


def _given(argument: WeightedSum[Operand], found: dict[str, Coefficient]) -> WeightedSum[Operand]:
    return WeightedSum({operand: part.given(found) for operand, part in argument.terms.items()})


def _are_equal(
    total: Resolved, ours: Sequence[WeightedSum[Operand]], theirs: Sequence[WeightedSum[Operand]]
) -> bool:
    """Tell whether arguments are equal in one order or the other; no, where that is hard to say."""
    minus = Coefficient(-1)
    for order in (theirs, theirs[::-1]):
        rests = [
            WeightedSum.adding([one, other.scaled(minus)])
            for one, other in zip(ours, order, strict=True)
        ]
        parts = [part for rest in rests for part in rest.terms.values()]
        if _vanish(total, parts):
            return True
    return False


def _vanish(total: Resolved, parts: Iterable[Coefficient]) -> bool:
    left = [part for part in parts if part]
    if not any(part.varies for part in left):
        return all(part.vanishes() for part in left)
    if _all_opened(total):
        specs = (opened(operand).tensors for operand, _ in total.terms)
        table = tabulate(left, places({name: None for tensors in specs for name in tensors}))
        return all(Coefficient(value).vanishes() for row in table.classes for value in row)
    try:
        return find_nonzero(left) is None
    except ExpressionError:
        return False


def _all_opened(total: Resolved) -> bool:
    return all(operand.checkpoint is not None for operand, _ in total.terms)


def _telling(rest: Resolved, row: Sequence[Number], where: str | None) -> str:
    """Name the first checkpoint whose coefficients differ, by how much, and where."""
    operand, value = next(
        (operand, value) for (operand, _), value in zip(rest.terms, row, strict=True) if value
    )
    text = f"the coefficients of {operand.called} differ by {Coefficient(value)}"
    return text if where is None else f"{text} on {where}"
