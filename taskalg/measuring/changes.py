"""What one checkpoint changes of another, part by part, the largest change first."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from taskalg.algebra.kinds import Kind
from taskalg.errors import KindError, printable
from taskalg.expression import Expression
from taskalg.measuring.geometry import Geometry, geometry
from taskalg.measuring.parts import Part
from taskalg.measuring.tables import aligned, number_text
from taskalg.planning.donor import opened
from taskalg.running.stream import Progress


@dataclass(frozen=True)
class Change:
    """What changed of one part of a model."""

    name: str  # of the tensor, the module or the layer; of the whole model it is empty
    norm: float  # of the difference
    relative: float  # that, divided by the norm of the first checkpoint there; NaN where it is 0
    share: float  # of the squared norm of the whole difference; NaN where nothing changed
    elements: int
    changed: int  # elements that have another value
    tensors: int
    unchanged: int  # tensors of which no element has another value


@dataclass(frozen=True)
class Changes:
    """What changed from one checkpoint to another. Made by `changes`."""

    level: str  # "layer", "module" or "tensor"
    whole: Change
    parts: tuple[Change, ...]  # the largest first
    measured: Geometry  # of the first checkpoint and of the difference
    integers: int  # tensors of integers, which are not compared: a merge copies them

    def to_json(self, top: int | None = None) -> dict[str, Any]:
        """Return everything, or the largest changes only; what is NaN is null."""
        return {
            "schema": 1,
            "by": self.level,
            **_json(self.whole),
            "integers": self.integers,
            "parts": [{"name": part.name, **_json(part)} for part in self.parts[:top]],
            "bytes_read": self.measured.bytes_read,
            "seconds": self.measured.seconds,
            "cached": self.measured.cached,
        }

    def text(self, top: int | None = None) -> str:
        """Print the largest changes, and what changed in all."""
        head = (self.level, "norm", "relative", "share", "elements changed")
        rows = [(printable(part.name), *_cells(part)) for part in self.parts[:top]]
        left = len(self.parts) - len(rows)
        lines = aligned([head, *rows, ("all", *_cells(self.whole))])
        if left:
            lines.insert(-1, f"and {left:,} more")
        same, count = self.whole.unchanged, self.whole.tensors
        lines += ["", f"{same:,} of {count:,} tensors are unchanged"]
        if self.integers:
            lines.append(f"{self.integers:,} of integers, not compared")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__


def changes(
    first: Expression,
    second: Expression,
    *,
    by: str = "tensor",
    only_shared: bool = False,
    rows: str = "all",
    threads: int | None = None,
    cache: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Changes:
    """Measure what changed from one checkpoint to another, in one pass over both.

    Args:
        first: what it was.
        second: what it is.
        by: "tensor", "module" or "layer", what changes are ranked by.
        only_shared: leave out tensors that not both have.
        rows: "common" to compare the rows that both have, where vocabularies differ in size.
        threads: by default the smaller of 8 and what this process may use.
        cache: whether what was measured is looked for on disk, and kept there.
        progress: called with a `Progress` about ten times a second; cancels by raising.

    Raises:
        KindError: one is a model and the other a task vector, or one is a scalar.
        TaskalgError: as for `geometry`.
    """
    _check_kinds(first, second)
    found = geometry(
        {"first": first, "difference": second - first},
        only_shared=only_shared,
        rows=rows,
        threads=threads,
        cache=cache,
        progress=progress,
    )
    still = {part.name for part in found.by("tensor") if not part.both[1, 1]}
    square = float(found.gram[1, 1])
    parts = [_change(part, square, still) for part in found.by(by)]
    ranked = sorted(parts, key=lambda part: -part.norm if part.norm == part.norm else -math.inf)
    whole, integers = _change(found.whole, square, still), _count_integers(first)
    return Changes(by, whole, tuple(ranked), found, integers)


def _count_integers(expression: Expression) -> int:
    donor, _ = expression.resolved.terms[expression.donor_index()]
    return sum(not spec.dtype.is_floating for spec in opened(donor).tensors.values())


def _check_kinds(*both: Expression) -> None:
    """Refuse a model beside a task vector: between them everything changed, and nothing did."""
    by_kind = {one.kind: one for one in both}
    model, vector = by_kind.get(Kind.MODEL), by_kind.get(Kind.TASK_VECTOR)
    if model is not None and vector is not None:
        raise KindError(
            f"{model} is a model, {vector} a task vector: they cannot be compared",
            help=f'compare {model} with "{model} + {vector}"',
        )


def _change(part: Part, square: float, still: set[str]) -> Change:
    before, after = part.norms.tolist()
    return Change(
        name=part.name,
        norm=after,
        relative=after / before if before else math.nan,
        share=after * after / square if square else math.nan,
        elements=part.elements,
        changed=int(part.both[1, 1]),
        tensors=len(part.tensors),
        unchanged=len(still.intersection(part.tensors)),
    )


def _cells(change: Change) -> tuple[str, str, str, str]:
    relative, share, changed = (
        f"{100 * value:.2f} %" if math.isfinite(value) else "-"
        for value in (
            change.relative,
            change.share,
            change.changed / change.elements if change.elements else math.nan,
        )
    )
    return number_text(change.norm), relative, share, changed


def _json(change: Change) -> dict[str, Any]:
    numbers = {"norm": change.norm, "relative": change.relative, "share": change.share}
    return {
        **{key: value if math.isfinite(value) else None for key, value in numbers.items()},
        "elements": change.elements,
        "changed": change.changed,
        "tensors": change.tensors,
        "unchanged": change.unchanged,
    }
