"""A plan for people, and as JSON: every question before the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.kinds import Kind
from taskalg.coefficients import coefficients_json, members_by_class
from taskalg.dtypes import F64
from taskalg.engines.tiers import UNLIMITED, may_be_bounded, tier_note
from taskalg.errors import LISTED, listed, printable, quoted
from taskalg.machine import available_threads
from taskalg.markup import message, page, pairs, paragraph, table
from taskalg.measuring.told import (
    bytes_measured,
    cancelled,
    measured_json,
    measured_rows,
    only_measured,
    reading,
)
from taskalg.output.destination import is_file_output
from taskalg.output.layout import SHARD_SIZE
from taskalg.planning.donor import opened
from taskalg.planning.plan import Plan, Usage
from taskalg.planning.rounds import Round, rounds
from taskalg.remarks import remarks, remarks_json, warnings
from taskalg.running.blocks import MEMORY, arena_size, factors_size
from taskalg.running.execute import output_layouts, rehearse
from taskalg.running.stream import Settings
from taskalg.units import bytes_text

SCHEMA = 1  # of every JSON object the package prints; grows when a name changes its meaning
# The process without its blocks: interpreter, numpy, numba and its kernels, with Python 3.11 and
# numba 0.68 up to 155 MB, and 237 MB in the run that compiles the kernels, rounded up; headers are
# about 500 bytes per tensor and checkpoint.
_PROCESS = 250_000_000  # [bytes]
_HEADER = 500  # [bytes]
_LATER = "correctly rounded; how, the measured numbers decide"


@dataclass(frozen=True)
class Explanation:
    """What a plan will do. `print` it, or take `to_json`."""

    plan: Plan
    out: Path
    shard_size: int = SHARD_SIZE  # [bytes]
    threads: int | None = None

    @cached_property
    def passes(self) -> tuple[Round, ...]:
        """The passes over the data that measure, before the one that sums."""
        return rounds(self.plan)

    @property
    def memory(self) -> int:
        """An upper bound of the process's resident memory [bytes]."""
        threads = self.threads or available_threads()
        specs = sum(len(opened(operand).tensors) for operand in self.plan.operands)
        buffers = threads * arena_size(self.plan, threads) + factors_size(self.plan, threads)
        measuring = (MEMORY + factors_size(one.plan, threads) for one in self.passes)
        return _PROCESS + max([buffers, *measuring]) + _HEADER * specs

    def __str__(self) -> str:
        plan = self.plan
        blocks = [
            _pairs(
                [
                    (str(plan.kind), _adds_up(plan.kind)),
                    ("simplified", printable(str(plan.total))),
                ]
            ),
            _table(plan, only_measured(plan, self.passes)),
            _classes(plan),
            _pairs(self._rows()),
        ]
        return "\n\n".join(block for block in blocks if block)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        plan = self.plan
        header, *rows = _read(plan, only_measured(plan, self.passes))
        return page(
            paragraph(str(plan.kind), str(plan.total)),
            table(header, rows, numbers=(1, 2, 3)),
            message("\n".join([*_sentences(plan), *_classes(plan).splitlines()])),
            pairs(self._rows()),
        )

    def rehearse(self, *, overwrite: bool = False) -> None:
        """Refuse what `save` would refuse before it writes anything. Creates nothing.

        Raises:
            OutputError: the output cannot be written, or is in the way.
        """
        settings = Settings(overwrite=overwrite, shard_size=self.shard_size)
        rehearse(self.plan, self.out, settings)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object: exact coefficients as "p/q", sizes in bytes."""
        plan = self.plan
        return {
            "schema": SCHEMA,
            **plan_json(plan),
            "tensors": len(plan.tensors),
            "shards": len(output_layouts(plan, self.out, self.shard_size)),
            "dtypes": sorted({c.output.name for c in plan.combinations}),
            "donor": plan.operands[plan.donor].called,
            **measured_json(self.passes),
            "bytes_read": plan.bytes_read + bytes_measured(self.passes),
            "bytes_copied": plan.bytes_copied,
            "bytes_written": plan.bytes_written,
            "peak_memory": self.memory,
            **remarks_json(plan),
            "warnings": list(warnings(plan, self.out)),
            "unshared": list(plan.fit.unshared),
            "dropped": list(plan.fit.dropped),
        }

    def _rows(self) -> list[tuple[str, str]]:
        plan = self.plan
        donor = plan.operands[plan.donor]
        name = printable(donor.called)
        layouts = output_layouts(plan, self.out, self.shard_size)
        dtypes = listed(sorted({c.output.name for c in plan.combinations}))
        like = f" like {name}" if _follows_donor(plan) else ""
        shards = f"{len(layouts)} shard{'s' if len(layouts) != 1 else ''}"
        output = f"{_tensors(len(plan.tensors))}, {dtypes}{like}, {bytes_text(plan.bytes_written)}"
        has_sides = opened(donor).folder is not None and plan.kind is not Kind.TASK_VECTOR
        sides = f"from {name}" if has_sides and not is_file_output(self.out) else "none"
        rows = [
            ("output", f"{output} in {shards}"),
            ("side files", sides),
            *measured_rows(self.passes),
            ("rounding", _LATER if self.passes else _rounding(plan)),
            *_left_out(plan),
            *remarks(plan),
            *(("warning", text) for text in warnings(plan, self.out)),
            (
                "cost",
                f"{reading(plan, self.passes)}, {bytes_text(plan.bytes_written)} written, "
                f"at most {bytes_text(self.memory)} of memory",
            ),
        ]
        return rows


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return the names that every command's JSON has, as far as a plan knows them."""
    names = [usage.operand.called for usage in plan.usage]
    left = cancelled(plan)
    return {
        "kind": str(plan.kind),
        "simplified": str(plan.total),
        "coefficients": coefficients_json(plan, names),
        "checkpoints_read": [name for name in names if name not in left],
        "checkpoints_cancelled": left,
    }


def _adds_up(kind: Kind) -> str:
    totals = {Kind.MODEL: "1", Kind.TASK_VECTOR: "0"}
    return f"coefficients add up to {totals.get(kind, 'neither 1 nor 0')}"


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{left:<16}{right}" for left, right in rows)


def _table(plan: Plan, measured: Sequence[Usage]) -> str:
    """One row per checkpoint that is read; a sentence for those that are not."""
    rows = _read(plan, measured)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{a:<{widths[0]}}   {b:>{widths[1]}}   {c:>{widths[2]}}   {d:>{widths[3]}}   {e}"
        for a, b, c, d, e in rows
    ]
    return "\n".join([*lines, *_sentences(plan)])


def _read(plan: Plan, measured: Sequence[Usage]) -> list[tuple[str, str, str, str, str]]:
    """Return what the columns are, and a row for each checkpoint that is read."""
    summed = [(_shown(usage.coefficient), usage) for usage in plan.usage if usage.tensors]
    return [("checkpoint", "coefficient", "tensors", "read", "from")] + [
        (
            printable(usage.operand.called),
            coefficient,
            f"{usage.tensors:,}",
            bytes_text(usage.bytes_read),
            _source(usage),
        )
        for coefficient, usage in [*summed, *(("measured", usage) for usage in measured)]
    ]


def _shown(coefficient: Coefficient) -> str:
    text = str(coefficient)
    if len(text) <= 40:
        return text
    return "varies" if coefficient.varies else "measured"


def _source(usage: Usage) -> str:
    checkpoint = opened(usage.operand)
    path = printable(usage.operand.path or "")
    commit = (checkpoint.origin or "").partition("@")[2]
    absent = any(shard.remote is not None for shard in checkpoint.shards)
    details = [
        (len(checkpoint.shards) > 1, f"{len(checkpoint.shards)} shards"),
        (commit not in path, f"commit {commit[:7]}"),
        (absent, "to be downloaded"),
    ]
    told = ", ".join(words for is_so, words in details if is_so)
    return f"{path} ({told})" if told else path


def _sentences(plan: Plan) -> list[str]:
    lines = []
    copied = [usage.operand.called for usage in plan.usage if usage.bytes_copied]
    if copied and plan.bytes_copied == plan.bytes_read == plan.bytes_written:
        words = "is copied as it is" if len(copied) == 1 else "are copied as they are"
        lines.append(f"{listed(copied)} {words}")
    elif plan.bytes_copied:
        lines.append(f"{bytes_text(plan.bytes_copied)} of it is copied as it is")
    left = list(map(printable, cancelled(plan)))
    if left:
        verb = "cancels and is" if len(left) == 1 else "cancel and are"
        lines.append(f"{listed(left)} {verb} never opened for data")
    return lines


def _classes(plan: Plan) -> str:
    """When coefficients vary: a few example tensors of each class."""
    if not any(part.varies for _, part in plan.total.terms):
        return ""
    names = [printable(usage.operand.called) for usage in plan.usage]
    members = members_by_class(plan)
    classes = [i for i in range(len(members)) if members[i]]
    lines = ["coefficients vary with the tensor"]
    for index in classes[:LISTED]:
        row = plan.fit.table.classes[index]
        values = [
            f"{name} {Coefficient(value)}" for name, value in zip(names, row, strict=True) if value
        ]
        examples = listed([quoted(name) for name in members[index][:2]], "or")
        count = _tensors(len(members[index]))
        lines.append(f"  {', '.join(values) or 'zero'}   on {count} like {examples}")
    if len(classes) > LISTED:
        lines.append(f"  and {len(classes) - LISTED} more classes (--json lists all)")
    return "\n".join(lines)


def _tensors(count: int) -> str:
    return f"{count:,} tensor{'' if count == 1 else 's'}"


def _follows_donor(plan: Plan) -> bool:
    tensors = opened(plan.operands[plan.donor]).tensors
    return all(
        step.name in tensors
        and plan.combinations[step.combination].output == tensors[step.name].dtype
        and not tensors[step.name].factors
        for step in plan.steps
    )


def _rounding(plan: Plan) -> str:
    specs = [c.spec for c in plan.combinations if not c.is_copy and not c.is_zero]
    if not specs:
        return "none: bytes are copied"
    binades = min(tier_note(spec).binades for spec in specs)
    if binades < 0:
        if all(may_be_bounded(spec) for spec in specs if tier_note(spec).binades < 0):
            return "correctly rounded; a bound on each sum's error says how"
        wide = any(F64 in (*spec.inputs, spec.output) for spec in specs)
        why = "float64 takes" if wide else "these coefficients take"
        return f"correctly rounded; {why} the double-double tier"
    if binades >= UNLIMITED:
        return "correctly rounded, in the fast tier"
    return f"correctly rounded; fast tier while one block's magnitudes stay within 2^{binades}"


def _left_out(plan: Plan) -> list[tuple[str, str]]:
    rows, vector = [], plan.kind is Kind.TASK_VECTOR
    for label, names, verb in (
        ("not shared", plan.fit.unshared, "left out" if vector else "copied unchanged"),
        ("dropped", plan.fit.dropped, "not in the donor"),
    ):
        if names:
            rows.append((label, f"{listed([quoted(name) for name in names])}: {verb}"))
    return rows
