"""Checkpoints measured once, and every product of their sums from that: a Gram matrix of atoms.

The atoms are vectors that little cancels between: of a fine-tuned model its difference to a
reference, the reference itself, and task vectors as their files have them. Every sum of the
checkpoints is a combination of atoms, exactly and on each tensor, so its norm and its angles follow
from the products of atoms without reading a byte. Where a combination cancels, by more than a
thousand in its norm, the sum itself is measured instead.

Rejected: products of the checkpoints themselves. A task vector is a thousandth of its model, so six
of sixteen digits would be gone before anything is asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.selectors import places
from taskalg.algebra.weighted_sum import WeightedSum
from taskalg.dtypes import F64
from taskalg.measuring.adding import Matrix, Products
from taskalg.measuring.combining import Combining, Row
from taskalg.measuring.numbers import numbers_of
from taskalg.measuring.store import Store
from taskalg.planning.donor import opened
from taskalg.planning.plan import Choices, Plan
from taskalg.planning.planner import with_numbers
from taskalg.planning.resolve import Operand, Resolved
from taskalg.planning.rounds import plan_together, rounds_for, symbols_of, with_bases
from taskalg.running.stream import Settings

Total = WeightedSum[Operand]
Mark = tuple[object, ...]  # tells files, in the state they are in, from others


@dataclass(frozen=True)
class Pass:
    """One pass over data."""

    checkpoints: int  # that were read
    seconds: float


class Measuring:
    """How sums are measured; whoever asks may change it between two questions.

    Args:
        settings: threads and progress.
        store: where products are looked for and kept.
        only_shared: leave out tensors that not all have.
        rows: "common" for the rows that all have, where numbers of rows differ.

    Attributes:
        passes: over data, so far.
    """

    def __init__(
        self, settings: Settings, store: Store, *, only_shared: bool = False, rows: str = "all"
    ) -> None:
        self.settings, self.store = settings, store
        self.only_shared, self.rows = only_shared, rows
        self.passes: list[Pass] = []


@dataclass(frozen=True, eq=False)
class Frame:
    """Some checkpoints' atoms, measured, and other sums that were measured beside them."""

    total: Resolved  # has every checkpoint; its coefficients do not matter
    how: Measuring
    references: Mapping[Operand, Operand]  # what a model's atom is the difference to
    sums: Mapping[Total, int]  # what was measured, and its place in the products
    plan: Plan
    products: Products
    cached: bool  # whether no data was read

    @cached_property
    def gram(self) -> Matrix:
        """Products of what was measured, on all tensors together."""
        return self.products.gram

    def dot(self, x: Total, y: Total) -> float:
        """Return the inner product of two sums; NaN where it is no finite number."""
        found = None
        if x in self.sums and y in self.sums:
            return float(self.gram[self.sums[x], self.sums[y]])
        left = self._row(x)
        right = left if x is y else self._row(y)
        if left is not None and right is not None:
            found = self._combining.dot(left, right)
        if found is None:
            _, measured, _ = measured_together(self.total, [x, y], self.references, self.how)
            found = float(measured.gram[0, 1])
        return found

    def here(self, total: Total) -> Total | None:
        """Write a sum in this frame's checkpoints; None when it has another one."""
        terms = {self._by_mark.get(mark(one)): part for one, part in total.terms.items() if part}
        return None if None in terms else WeightedSum({o: c for o, c in terms.items() if o})

    def covers(self, operands: Iterable[Operand]) -> bool:
        """Tell whether sums of some checkpoints can be asked for without reading any."""
        mine = [self._by_mark.get(mark(operand)) for operand in operands]
        return all(one and self._row(WeightedSum({one: Coefficient(1)})) for one in mine)

    def _row(self, total: Total) -> Row | None:
        """Write a sum in atoms; None when not all that it needs were measured."""
        row: dict[int, Coefficient] = {}
        for operand, part in total.terms.items():
            reference = self.references.get(operand)
            for one in [operand] if reference is None else [operand, reference]:
                place = self.sums.get(atom(one, self.references))
                if place is None:
                    return None
                row[place] = row.get(place, Coefficient()) + part
        return {place: part for place, part in row.items() if part}

    @cached_property
    def _combining(self) -> Combining:
        found = self.products
        return Combining(found.tensors, found.grams, self.gram, places(self.plan.fit.tensors))

    @cached_property
    def _by_mark(self) -> dict[Mark, Operand]:
        return {mark(operand): operand for operand, _ in self.total.terms}


def frame_of(
    total: Resolved, used: Iterable[Operand], sums: Sequence[Total], how: Measuring
) -> Frame:
    """Measure atoms of checkpoints and some sums of them, in one pass or from the store.

    Args:
        total: has every checkpoint.
        used: those whose sums will be asked for; the others are not read for it.
        sums: what is measured beside the atoms, because it is sure to be asked for.
        how: to measure.

    Raises:
        TaskalgError: the checkpoints do not fit, or cannot be read.
    """
    references = _references(total)
    needed = dict.fromkeys(used)
    needed |= dict.fromkeys(references[one] for one in needed if one in references)
    atoms = [atom(operand, references) for operand in needed]
    wanted = list(dict.fromkeys([*atoms, *sums]))
    plan, found, cached = measured_together(total, wanted, references, how)
    where = {one: place for place, one in enumerate(wanted)}
    return Frame(total, how, references, where, plan, found, cached)


def measured_together(
    total: Resolved, sums: Sequence[Total], references: Mapping[Operand, Operand], how: Measuring
) -> tuple[Plan, Products, bool]:
    """Measure sums side by side; and tell whether that was done before."""
    first = next(iter(references.values()), None)
    donor = None if first is None else first.called
    choices = Choices(donor, F64, only_shared=how.only_shared, rows=how.rows)
    plan = plan_together(total, sums, choices)
    plan = _with_numbers(plan, total, sums, how)
    found = how.store.load(plan, len(sums))
    if found is not None:
        return plan, found, True
    from taskalg.measuring.products import products  # brings compiled kernels

    found = products(plan, symbols_of(len(sums)), how.settings, signs=True)
    how.store.save(plan, found)
    how.passes.append(Pass(_checkpoints(plan), found.seconds))
    return plan, found, False


def _with_numbers(plan: Plan, total: Resolved, sums: Sequence[Total], how: Measuring) -> Plan:
    """Put in what is measured for the bases of adapters that replace tensors."""
    terms = (term for one in sums for term in one.terms.items())
    choices = replace(plan.choices, donor=plan.operands[plan.donor].called)
    wanted = rounds_for(total, with_bases(total, terms), choices)
    if not wanted:
        return plan
    values, cost = numbers_of(wanted, how.settings)
    how.passes += [Pass(_checkpoints(one.plan), cost.seconds / len(wanted)) for one in wanted]
    return with_numbers(plan, values)


def _checkpoints(plan: Plan) -> int:
    return sum(usage.tensors > 0 for usage in plan.usage)


def atom(operand: Operand, references: Mapping[Operand, Operand]) -> Total:
    """Return what is measured of a checkpoint."""
    one = {operand: Coefficient(1)}
    reference = references.get(operand)
    return WeightedSum(one if reference is None else {**one, reference: Coefficient(-1)})


def mark(operand: Operand) -> Mark:
    """Return what tells a checkpoint, in the state it was opened in, from others."""
    checkpoint = opened(operand)
    if checkpoint.arrays:
        return (checkpoint.identity, operand.strip_prefix)
    return (*(shard.fingerprint for shard in checkpoint.shards), operand.strip_prefix)


def _references(total: Resolved) -> dict[Operand, Operand]:
    """Choose what each model is taken against: a task's base if it is one checkpoint.

    Otherwise the first model in canonical order. What others are taken against stays itself.
    """
    models = [operand for operand, _ in total.terms if not operand.is_task_vector]
    chosen = {operand: _base(operand, total) or models[0] for operand in models}
    kept = {reference for operand, reference in chosen.items() if operand != reference}
    return {operand: one for operand, one in chosen.items() if operand not in (*kept, one)}


def _base(operand: Operand, total: Resolved) -> Operand | None:
    base = total.bases.get(operand)
    parts = [] if base is None else [(one, part) for one, part in base.terms.items() if part]
    if len(parts) == 1 and parts[0][1].constant == 1 and not parts[0][0].is_task_vector:
        return parts[0][0]
    return None
