"""Where a term takes part: coefficients by tensor, once adapters say which tensors they change.

An adapter is zero on every tensor it lacks. One that it stores whole replaces the base's, so there
the term is `adapter - base`, as for a fine-tuned model. After this every class of tensors has the
coefficients of its files, and nothing further on needs to know what an adapter is.
"""

from collections.abc import Mapping
from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.algebra.selectors import Place
from taskalg.algebra.table import Table, tabulate
from taskalg.checkpoints.base import TensorSpec
from taskalg.planning.donor import opened
from taskalg.planning.resolve import Operand, Resolved

Row = list[Number]


def output_tensors(total: Resolved, donor: int) -> Mapping[str, TensorSpec]:
    """Return the tensors of the result by name, each as the donor has it, in the donor's order.

    When the donor is an adapter, so are all terms: the tensors of the others follow.
    """
    tensors = opened(total.terms[donor][0]).tensors
    if not opened(total.terms[donor][0]).is_sparse:
        return tensors
    others = [opened(operand).tensors for operand, part in total.terms if part]
    found = dict(tensors)
    for other in others:
        found |= {name: spec for name, spec in other.items() if name not in found}
    return found


def covered(total: Resolved, at: Mapping[str, Place | None]) -> Table:
    """Return the coefficients of the sum's files on each tensor, one column for each operand."""
    table = tabulate([part for _, part in total.terms], at)
    checkpoints = [opened(operand) for operand, _ in total.terms]
    sparse = _adapters(total)
    if not sparse:
        return table
    bases = _bases(total, sparse, at)
    rows: dict[tuple[Number, ...], int] = {}
    known: dict[tuple[object, ...], int] = {}
    of: dict[str, int] = {}
    for name, index in table.of.items():
        held = tuple(name in checkpoints[column].tensors for column in sparse)
        whole = tuple(name in checkpoints[column].whole for column in sparse)
        against = tuple(base.of[name] for base in bases.values())
        key = (index, held, whole, against)
        if key not in known:
            row = list(table.classes[index])
            for column, is_held, is_whole in zip(sparse, held, whole, strict=True):
                if not is_held:
                    row[column] = Fraction(0)
                elif is_whole and row[column]:
                    base = bases[column]
                    _subtract(row, row[column], base.classes[base.of[name]])
            known[key] = rows.setdefault(tuple(row), len(rows))
        of[name] = known[key]
    return Table(tuple(rows), of)


def _adapters(total: Resolved) -> list[int]:
    """Return which terms are adapters that take part, also in what others are taken against.

    One that is taken against another comes before it, which is then subtracted as what it is.
    """
    depths: dict[Operand, int] = {}

    def depth(operand: Operand) -> int:
        if operand not in depths:
            base = total.against.get(operand)
            terms = {} if base is None else base.terms
            inner = [depth(o) for o, part in terms.items() if part and opened(o).is_sparse]
            depths[operand] = 1 + max(inner, default=0)
        return depths[operand]

    for operand, part in total.terms:
        if part and opened(operand).is_sparse:
            depth(operand)
    columns = [column for column, (operand, _) in enumerate(total.terms) if operand in depths]
    return sorted(columns, key=lambda column: -depths[total.terms[column][0]])


def _bases(total: Resolved, sparse: list[int], at: Mapping[str, Place | None]) -> dict[int, Table]:
    """Return the coefficients of what each adapter with whole tensors is taken against."""
    found = {}
    for column in sparse:
        base = total.against.get(total.terms[column][0])
        if base is not None:
            nothing = Coefficient()
            parts = [base.terms.get(operand, nothing) for operand, _ in total.terms]
            found[column] = tabulate(parts, at)
    return found


def _subtract(row: Row, factor: Number, base: tuple[Number, ...]) -> None:
    for column, value in enumerate(base):
        if value:
            product = Coefficient(factor) * Coefficient(value)
            row[column] = (Coefficient(row[column]) - product).number
