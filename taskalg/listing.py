"""What the commands print, as text and as JSON, from values that others computed."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from taskalg.algebra.kinds import Kind
from taskalg.algebra.operators import OPERATORS
from taskalg.checkpoints.base import Checkpoint, TensorSpec
from taskalg.checkpoints.registry import open_checkpoint
from taskalg.coefficients import fraction_text
from taskalg.errors import listed, printable
from taskalg.explain import SCHEMA, plan_json
from taskalg.measuring.told import measured_of
from taskalg.recipe import Recipe
from taskalg.repeating.verify import Verification
from taskalg.running.report import Report
from taskalg.units import bytes_text

__all__ = [
    "check_json",
    "check_text",
    "inspect_json",
    "inspect_text",
    "open_checkpoint",
    "operators_json",
    "operators_text",
    "receipt",
    "report_json",
    "verification_json",
]


def receipt(report: Report) -> str:
    """Say what a merge did: what was written, what it cost, what was seen."""
    plan, tally = report.plan, report.tally
    shards = f"{report.shards} shard{'' if report.shards == 1 else 's'}"
    tensors = f"{len(plan.tensors):,} tensor{'' if len(plan.tensors) == 1 else 's'}"
    written = f"{tensors}, {shards}, {bytes_text(report.bytes_written)}"
    rate = (report.bytes_read + report.bytes_written) / max(report.seconds, 1e-9)
    seen = [
        f"{tally.overflowed:,} results overflow" if tally.overflowed else "no overflow",
        f"{tally.nonfinite:,} NaN or Inf in the inputs" if tally.nonfinite else "no NaN",
    ]
    if report.bytes_copied:
        seen.append(f"{bytes_text(report.bytes_copied)} copied unscanned")
    costs = [
        f"read {bytes_text(report.bytes_read)}",
        f"{report.seconds:.1f} s",
        f"{bytes_text(rate)}/s",
        f"peak {bytes_text(report.peak_memory)}",
    ]
    lines = [f"wrote {printable(str(report.out))}  {written}"]
    if plan.measured:
        values = [f"{printable(name)} = {float(v):.6g}" for name, v in plan.measured.items()]
        lines.append(f"measured {listed(values)}")
    lines.append(" · ".join([*costs, ", ".join(seen)]))
    return "\n".join([*lines, *(f"note: {note}" for note in report.notes)])


def report_json(report: Report) -> dict[str, Any]:
    """Return everything a merge did, sizes in bytes and times in seconds."""
    return {
        "schema": SCHEMA,
        "out": str(report.out),
        **plan_json(report.plan),
        "tensors": len(report.plan.tensors),
        "shards": report.shards,
        "measured": {name: float(value) for name, value in report.plan.measured.items()},
        "bytes_read": report.bytes_read,
        "bytes_copied": report.bytes_copied,
        "bytes_written": report.bytes_written,
        "seconds": report.seconds,
        "peak_memory": report.peak_memory,
        "overflowed": report.tally.overflowed,
        "nonfinite": report.tally.nonfinite,
        "bounded": report.tally.bounded,
        "tier2": report.tally.tier2,
        "tier3": report.tally.tier3,
        "notes": list(report.notes),
    }


def verification_json(found: Verification) -> dict[str, Any]:
    """Return what a verification found, sizes in bytes."""
    return {
        "schema": SCHEMA,
        "out": str(found.out),
        "ok": found.ok,
        "method": found.method,
        "tensors": found.tensors,
        "bytes": found.nbytes,
        "bytes_compared": found.compared,
        "problems": list(found.problems),
        "differences": [
            {"name": one.name, "elements": one.elements, "bytes": one.nbytes}
            for one in found.differences
        ],
    }


def check_text(recipe: Recipe, kind: Kind) -> str:
    """Print a kind, the canonical sum, and the files' coefficients."""
    terms = recipe.resolved.terms
    rows = [(printable(o.called), str(part)) for o, part in terms if part]
    used = measured_of(recipe.resolved)
    lines = [f"{kind!s:<16}{printable(str(recipe.resolved))}", "", *columns(rows)]
    for word, are_used in (("measured", True), ("cancelled", False)):
        names = [printable(o.called) for o, part in terms if not part and (o in used) is are_used]
        if names:
            lines.append(f"{word:<16}{', '.join(names)}")
    return "\n".join(lines)


def check_json(recipe: Recipe, kind: Kind) -> dict[str, Any]:
    """Return what `check` knows, under the names that `merge --json` has."""
    terms, used = recipe.resolved.terms, measured_of(recipe.resolved)
    return {
        "schema": SCHEMA,
        "kind": str(kind),
        "simplified": str(recipe.resolved),
        "coefficients": {
            operand.called: str(part) if part.constant is None else fraction_text(part.constant)
            for operand, part in terms
            if part
        },
        "checkpoints_read": [o.called for o, part in terms if part or o in used],
        "checkpoints_cancelled": [o.called for o, part in terms if not part and o not in used],
    }


def inspect_text(checkpoint: Checkpoint) -> str:
    """Print what a checkpoint is, then a line for each tensor."""
    tensors = checkpoint.tensors.values()
    dtypes = Counter(_stored_as(tensor) for tensor in tensors)
    shards = [shard.path.name for shard in checkpoint.shards]
    rows = [
        ("name", "dtype", "shape", "size", "file"),
        *(
            (
                printable(tensor.name),
                _stored_as(tensor),
                "x".join(map(str, tensor.shape)) or "scalar",
                bytes_text(tensor.bytes_stored),
                printable(shards[tensor.shard]),
            )
            for tensor in tensors
        ),
    ]
    kind = "task vector" if checkpoint.is_task_vector else "checkpoint"
    held = ", ".join(f"{count:,} {name}" for name, count in sorted(dtypes.items()))
    files = f"{len(shards)} file{'' if len(shards) == 1 else 's'}"
    size = bytes_text(sum(tensor.bytes_stored for tensor in tensors))
    head = f"{kind}   {len(tensors):,} tensors ({held}), {size} in {files}"
    notes = [f"note: {printable(note)}" for note in checkpoint.notes]
    return "\n".join([head, *notes, "", *columns(rows)])


def _stored_as(tensor: TensorSpec) -> str:
    """Return a tensor's dtype, or its rank when only its factors are stored."""
    return tensor.dtype.name if tensor.factors is None else f"rank {tensor.factors.rank}"


def inspect_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint is, and every tensor of it."""
    return {
        "schema": SCHEMA,
        "path": checkpoint.path,
        "kind": str(Kind.TASK_VECTOR) if checkpoint.is_task_vector else "checkpoint",
        "bytes": sum(tensor.bytes_stored for tensor in checkpoint.tensors.values()),
        "notes": list(checkpoint.notes),
        "shards": [shard.path.name for shard in checkpoint.shards],
        "tensors": [
            {
                "name": tensor.name,
                "dtype": tensor.dtype.name,
                "shape": list(tensor.shape),
                "bytes": tensor.bytes_stored,
                "rank": None if tensor.factors is None else tensor.factors.rank,
                "shard": checkpoint.shards[tensor.shard].path.name,
            }
            for tensor in checkpoint.tensors.values()
        ],
    }


def operators_text() -> str:
    """Print the operator table."""
    return "\n".join(columns([(op.usage, op.doc) for op in OPERATORS]))


def operators_json() -> list[dict[str, str]]:
    """Return the operator table."""
    return [
        {"name": op.name, "usage": op.usage, "doc": op.doc, "example": op.example}
        for op in OPERATORS
    ]


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align columns to the left; the last is not padded."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [
        "   ".join([*(f"{t:<{w}}" for t, w in zip(row[:-1], widths, strict=True)), row[-1]])
        for row in rows
    ]
