"""Whether checkpoints fit together: names first, then shapes and sorts of dtype.

Only checkpoints that take part are looked at, and each only on the tensors where its coefficient is
not zero. Integer and boolean tensors are the donor's, so the others may lack them.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.algebra.selectors import Glob, Item, Place, layer_of, places
from taskalg.algebra.table import Table, tabulate
from taskalg.checkpoints.base import TensorSpec
from taskalg.errors import ExpressionError, Span, listed, quoted
from taskalg.planning.align import Aligned
from taskalg.planning.coverage import covered, output_tensors
from taskalg.planning.donor import opened
from taskalg.planning.mismatch import (
    Misfit,
    alike_but_for_rows,
    names_differ,
    nothing_shared,
    shapes_differ,
)
from taskalg.planning.resolve import Operand, Resolved


@dataclass(frozen=True)
class Fit:
    """How the checkpoints' tensors go together."""

    tensors: Mapping[str, TensorSpec]  # of the result, as the donor has them, in its order
    places: Mapping[str, Place | None]  # of those; None for all when no coefficient varies
    table: Table  # coefficients on those, one column for each operand
    rows: Mapping[str, int]  # rows that all have, of tensors whose numbers of rows differ
    unshared: tuple[str, ...]  # the donor's, not in every term: copied unchanged
    dropped: tuple[str, ...]  # not the donor's: left out

    def given(self, values: Mapping[str, Number]) -> "Fit":
        """Put numbers in the place of symbols in the coefficients."""
        classes = tuple(
            tuple(Coefficient(number).given(values).number for number in row)
            for row in self.table.classes
        )
        return replace(self, table=replace(self.table, classes=classes))


def fit(aligned: Aligned, *, only_shared: bool = False, rows: str = "all") -> Fit:
    """Check that names, shapes and sorts of dtype agree.

    Args:
        aligned: the sum; every operand has a checkpoint, and the donor's names where it can.
        only_shared: leave out what is not in every term, where otherwise that is an error.
        rows: "common" to combine the rows that all have where their numbers differ, as those of
            vocabularies do; otherwise that is an error.

    Raises:
        MismatchError: they do not agree; the first five differences and their number are given.
    """
    total, donor = aligned.total, aligned.donor
    names = output_tensors(total, donor)
    varies = any(part.varies for _, part in total.terms)
    at: Mapping[str, Place | None] = places(names) if varies else dict.fromkeys(names)
    table = covered(total, at)
    given = set(aligned.buffers)
    summed = {n: spec for n, spec in names.items() if n not in given} if given else names
    missing, extra = _missing(total, summed, table), _extra(total, names)
    if (missing or extra) and not only_shared:
        raise names_differ(aligned, missing, extra)
    unshared = tuple(dict.fromkeys(name for name, _ in missing))
    if unshared and len(unshared) == sum(spec.dtype.is_floating for spec in summed.values()):
        raise nothing_shared(aligned, missing, extra)
    left_out = set(unshared)
    shared = {name: spec for name, spec in summed.items() if name not in left_out}
    common = _common_rows(total, shared, table) if rows == "common" else {}
    misfits = _misfits(total, table, {n: s for n, s in shared.items() if n not in common})
    if misfits:
        raise shapes_differ(aligned, misfits)
    dropped = tuple(dict.fromkeys(name for name, _ in extra))
    return Fit(names, at, table, common, unshared, dropped)


def terms_of(row: tuple[object, ...]) -> list[int]:
    """Return the operands that take part in a class of tensors."""
    return [index for index, value in enumerate(row) if value]


def _missing(
    total: Resolved, names: Mapping[str, TensorSpec], table: Table
) -> list[tuple[str, Operand]]:
    """List the donor's floating tensors that a term lacks."""
    taking_part = [terms_of(row) for row in table.classes]
    operands = [operand for operand, _ in total.terms]
    held = [opened(operand).tensors for operand in operands]
    return [
        (name, operands[index])
        for name, spec in names.items()
        if spec.dtype.is_floating
        for index in taking_part[table.of[name]]
        if name not in held[index]
    ]


def _extra(total: Resolved, names: Mapping[str, TensorSpec]) -> list[tuple[str, Operand]]:
    """List floating tensors of a term that the donor lacks."""
    found = []
    for operand, part in total.terms:
        tensors = opened(operand).tensors
        unknown = [n for n, spec in tensors.items() if n not in names and spec.dtype.is_floating]
        if unknown and part:
            at = places(tensors)
            table = tabulate([part], {name: at[name] for name in unknown})
            found += [(name, operand) for name in unknown if any(table.classes[table.of[name]])]
    return found


def _common_rows(total: Resolved, names: Mapping[str, TensorSpec], table: Table) -> dict[str, int]:
    """Return how many rows all have, for tensors that differ in nothing else."""
    taking_part = [terms_of(row) for row in table.classes]
    held = [opened(operand).tensors for operand, _ in total.terms]
    found = {}
    for name, spec in names.items():
        others = [held[index][name] for index in taking_part[table.of[name]]]
        if all(alike_but_for_rows(spec, other) for other in others) and any(
            other.shape != spec.shape for other in others
        ):
            found[name] = min(other.shape[0] for other in (spec, *others))
    return found


def _misfits(total: Resolved, table: Table, names: Mapping[str, TensorSpec]) -> list[Misfit]:
    """List tensors of terms whose shape or sort of dtype is not the donor's."""
    taking_part = [terms_of(row) for row in table.classes]
    held = [opened(operand).tensors for operand, _ in total.terms]
    return [
        Misfit(spec, other, index)
        for name, spec in names.items()
        for index in taking_part[table.of[name]]
        if (other := held[index].get(name)) is not None and not _alike(spec, other)
    ]


def _alike(a: TensorSpec, b: TensorSpec) -> bool:
    return a.shape == b.shape and a.dtype.is_floating == b.dtype.is_floating


def check_items(
    total: Resolved, items: Mapping[Item, Span], at: Mapping[str, Place | None]
) -> None:
    """Refuse patterns and ranges of the sum that select no tensor.

    Raises:
        ExpressionError: one selects nothing; near misses are listed.
    """
    used = {item: None for _, part in total.terms for s in part.selectors() for item in s.items}
    if not used:
        return
    names = {name: at.get(name) for name in at}
    for operand, part in total.terms:
        if part:
            names |= {n: p for n, p in places(opened(operand).tensors).items() if n not in at}
    for item in used:
        if isinstance(item, Glob):
            selects = any(item.matches(name) for name in names)
        else:
            selects = any(item.contains(place) for place in names.values())
        if not selects:
            raise _selects_nothing(item, items.get(item), names)


def _near(pattern: str, names: Sequence[str]) -> list[str]:
    """Return names that nearly match: one for each component that is spelled almost the same."""
    examples: dict[str, str] = {}
    for name in names:
        for component in name.split("."):
            examples.setdefault(component, name)
    words = [word for word in re.split(r"[*?\[\].!]+", pattern) if word]
    near = [w for word in words for w in difflib.get_close_matches(word, examples, n=2)]
    return list(dict.fromkeys(examples[word] for word in near))[:3]


def _selects_nothing(
    item: Item, span: Span | None, names: Mapping[str, Place | None]
) -> ExpressionError:
    if isinstance(item, Glob):
        near = _near(item.pattern, list(names))
        return ExpressionError(
            f"pattern {item} matches no tensor",
            span,
            note=f"there is {listed([quoted(n) for n in near])}" if near else None,
            help="a pattern is matched with the whole name; * stands for any characters",
        )
    stacks: dict[str, Place] = {}
    for name, place in names.items():
        found = layer_of(name)
        if found is not None and place is not None:
            stacks[found[0]] = place
    shown = [f"{quoted(s)} has layers {p.first} to {p.last}" for s, p in sorted(stacks.items())]
    return ExpressionError(
        f"no tensor is in layer{'s' if ':' in str(item) else ''} {item}",
        span,
        note=listed(shown) if shown else "no tensor is in a layer: no name has a number in it",
    )
