"""What is measured for a plan, in words: rows of `explain`, and what of its JSON they are."""

from collections.abc import Sequence
from typing import Any

from taskalg.errors import listed, printable
from taskalg.planning.plan import Plan, Usage
from taskalg.planning.resolve import Operand, Resolved
from taskalg.planning.rounds import Round
from taskalg.units import bytes_text


def measured_rows(passes: Sequence[Round]) -> list[tuple[str, str]]:
    """Say what is measured before anything is summed, and in how many passes over the data."""
    if not passes:
        return []
    names = listed([printable(name) for one in passes for name in one.scalars])
    count = len(passes)
    words = "one measures, one sums" if count == 1 else f"{count} measure, one sums"
    return [("measured", names), ("passes", f"{'two' if count == 1 else count + 1}: {words}")]


def measured_json(passes: Sequence[Round]) -> dict[str, Any]:
    """Return the same as JSON, sizes in bytes."""
    return {
        "passes": 1 + len(passes),
        "measured": {name: None for one in passes for name in one.scalars},  # known when merged
        "bytes_measured": bytes_measured(passes),
    }


def bytes_measured(passes: Sequence[Round]) -> int:
    """Return what is read to measure, headers left out [bytes]."""
    return sum(one.plan.bytes_read for one in passes)


def reading(plan: Plan, passes: Sequence[Round]) -> str:
    """Say how much is read."""
    measured = bytes_measured(passes)
    read = f"{bytes_text(plan.bytes_read + measured)} read"
    return f"{read}, {bytes_text(measured)} of it to measure" if measured else read


def only_measured(plan: Plan, passes: Sequence[Round]) -> list[Usage]:
    """Return what is read, when it first is, of checkpoints that are measured and not summed."""
    known = {usage.operand.called for usage in plan.usage if usage.tensors}
    found: dict[str, Usage] = {}
    for usage in (usage for one in passes for usage in one.plan.usage if usage.tensors):
        if usage.operand.called not in known:
            found.setdefault(usage.operand.called, usage)
    return list(found.values())


def measured_of(total: Resolved) -> set[Operand]:
    """Return the checkpoints that something is measured of."""
    used: set[Operand] = set()
    for one in total.measured.values():
        for argument in one.arguments:
            used.update(operand for operand, part in argument.terms.items() if part)
    for operand in list(used):
        base = total.against.get(operand)
        if base is not None and operand.checkpoint is not None and operand.checkpoint.whole:
            used.update(base.terms)
    return used


def cancelled(plan: Plan) -> list[str]:
    """Return the checkpoints of which no data is read, not even to measure."""
    used = measured_of(plan.total)
    left = [usage.operand for usage in plan.usage if not usage.tensors]
    return [operand.called for operand in left if operand not in used]
