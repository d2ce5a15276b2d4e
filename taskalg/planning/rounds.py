"""What has to be measured before a sum can be evaluated, in passes over the data.

Everything that is measured and depends on no other number goes into one pass, what depends on that
into the next. A pass is planned like any other sum, `#0*x + #1*y + ...` with a symbol for each
argument, so names are aligned with the same donor's and every byte is read once.

What a scalar is measured of does not depend on what is measured beside it. So derived buffers,
which are left out as soon as one checkpoint lacks them, are never measured; and with only_shared
or common rows, where all terms decide what is summed, every scalar has a pass of its own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from taskalg.algebra.canonical import Canonical
from taskalg.algebra.coefficient import MAX_MONOMIALS, Coefficient
from taskalg.algebra.selectors import Item
from taskalg.algebra.weighted_sum import Measured, WeightedSum
from taskalg.dtypes import F64
from taskalg.errors import Span, UsageError, quoted
from taskalg.planning.buffers import is_derived
from taskalg.planning.donor import opened
from taskalg.planning.plan import Choices, Plan
from taskalg.planning.planner import plan_measuring, with_numbers
from taskalg.planning.resolve import Operand, Resolved

_MOST = 64  # scalars in one pass, whose work grows with the square of their arguments


@dataclass(frozen=True)
class Round:
    """What one pass measures."""

    plan: Plan  # of all sums, each times its symbol
    sums: tuple[WeightedSum[Operand], ...]  # different from each other
    scalars: Mapping[str, Measured[Operand]]  # what is made of their products, by name

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that stand before the sums."""
        return symbols_of(len(self.sums))

    def given(self, values: Mapping[str, Fraction]) -> Plan:
        """Return the plan with the numbers of earlier rounds; what cancels is not read."""
        found = with_numbers(self.plan, values)
        return replace(found, steps=tuple(step for step in found.steps if step.sources))


def symbols_of(count: int) -> tuple[str, ...]:
    """Return the symbols of that many sums; no scalar has a name like them."""
    return tuple(f"#{index}" for index in range(count))


def rounds(plan: Plan, items: Mapping[Item, Span] | None = None) -> tuple[Round, ...]:
    """Return what has to be measured for a plan, in order. Reads headers only.

    Args:
        plan: with symbols for what is measured; one that has its numbers needs nothing more.
        items: where selectors' items were written, to complain about those that select nothing.

    Raises:
        UsageError: what is measured depends on a scalar that has no value yet.
        MismatchError: the checkpoints do not fit.
        ExpressionError: a pattern or range selects nothing.
    """
    if plan.measured or not plan.total.measured:
        return ()
    donor = plan.operands[plan.donor].called
    parts = with_bases(plan.total, plan.total.terms)
    return rounds_for(plan.total, parts, replace(plan.choices, donor=donor), items)


def rounds_for(
    total: Resolved,
    parts: Iterable[Coefficient],
    choices: Choices,
    items: Mapping[Item, Span] | None = None,
) -> tuple[Round, ...]:
    """Return what has to be measured for some coefficients, as `rounds` does.

    Args:
        total: has every checkpoint that is measured, if only as zero.
        parts: which coefficients.
        choices: the donor by name, and which tensors take part.
        items: as for `rounds`.
    """
    depths = _depths(total, parts)
    most = 1 if choices.only_shared or choices.rows != "all" else _MOST
    chosen = replace(choices, dtype=F64, outputs={})
    return tuple(
        _round(total, names, chosen, items)
        for depth in sorted({*depths.values()})
        for names in _passes(total, sorted(n for n in depths if depths[n] == depth), most)
    )


def with_bases(
    total: Resolved, terms: Iterable[tuple[Operand, Coefficient]]
) -> Iterator[Coefficient]:
    """Yield coefficients of terms, and of what is subtracted from tensors that adapters replace."""
    seen: set[Operand] = set()
    waiting = list(terms)
    while waiting:
        operand, part = waiting.pop()
        yield part
        base = total.against.get(operand)
        if part and base is not None and operand not in seen and opened(operand).whole:
            seen.add(operand)
            waiting += base.terms.items()


def _passes(total: Resolved, names: Sequence[str], most: int) -> Iterator[list[str]]:
    """Divide scalars that could be measured at once, where they are too many for one pass."""
    chosen: list[str] = []
    used = 0
    for name in names:
        sums = total.measured[name].arguments
        size = max(len(part.parts) for one in sums for part in one.terms.values()) * len(sums)
        if chosen and (len(chosen) == most or used + size > MAX_MONOMIALS):
            yield chosen
            chosen, used = [], 0
        chosen.append(name)
        used += size
    if chosen:
        yield chosen


def _depths(total: Resolved, parts: Iterable[Coefficient]) -> dict[str, int]:
    """Return what is measured for coefficients, and in which round: after what it depends on."""
    found: dict[str, int] = {}

    def depth(name: str, inside_of: str) -> int:
        if name not in total.measured:
            raise UsageError(
                f"{quoted(inside_of)} depends on {name}, which has no value yet",
                note="what is measured is measured once, before scalars are set",
                help=f"write a number in the place of {name} there",
            )
        if name not in found:
            inner = [depth(other, name) for other in _names(_parts(total, name))]
            found[name] = 1 + max(inner, default=0)
        return found[name]

    for name in _names(parts):
        if name in total.measured:
            depth(name, name)
    return found


def _parts(total: Resolved, name: str) -> Iterator[Coefficient]:
    """Yield the coefficients on which a measured scalar depends."""
    terms = (term for one in total.measured[name].arguments for term in one.terms.items())
    return with_bases(total, terms)


def _names(parts: Iterable[Coefficient]) -> list[str]:
    return list({symbol.name: None for part in parts for symbol in part.symbols()})


def _round(
    total: Resolved, names: Sequence[str], choices: Choices, items: Mapping[Item, Span] | None
) -> Round:
    scalars = {name: total.measured[name] for name in names}
    sums = tuple({one: None for scalar in scalars.values() for one in scalar.arguments})
    return Round(plan_together(total, sums, choices, items), sums, scalars)


def plan_together(
    total: Resolved,
    sums: Sequence[WeightedSum[Operand]],
    choices: Choices,
    items: Mapping[Item, Span] | None = None,
) -> Plan:
    """Plan sums of a total's operands side by side, each times its symbol of `symbols_of`.

    Raises:
        MismatchError: the checkpoints do not fit.
        ExpressionError: a pattern or range selects nothing.
    """
    symbols = [Coefficient.symbol(name) for name in symbols_of(len(sums))]
    beside = WeightedSum.adding(map(WeightedSum.scaled, sums, symbols)).terms
    operands = [operand for operand, _ in total.terms]
    terms = tuple((operand, beside.get(operand, Coefficient())) for operand in operands)
    weights = {operand: _weights(operand) for operand in operands}
    summed = Canonical(terms, {}, total.against).over(weights.__getitem__)
    return plan_measuring(summed, choices, items)


def _weights(operand: Operand) -> Operand:
    """Return a checkpoint without what is never measured: integers, and derived buffers."""
    checkpoint = opened(operand)
    kept = {
        name: spec
        for name, spec in checkpoint.tensors.items()
        if spec.dtype.is_floating and not is_derived(spec)
    }
    return replace(operand, checkpoint=replace(checkpoint, tensors=kept))
