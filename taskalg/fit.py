"""Whether checkpoints fit together: names first, then shapes and sorts of dtype.

Only checkpoints that take part are looked at, and each only on the tensors where its coefficient is
not zero. Integer and boolean tensors are the donor's, so the others may lack them.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskalg.algebra.selectors import Glob, Item, Place, layer_of, places
from taskalg.algebra.table import Table, tabulate
from taskalg.checkpoints.base import TensorSpec
from taskalg.coverage import covered, output_tensors
from taskalg.donor import opened
from taskalg.errors import WINDOW, ExpressionError, MismatchError, Span, listed, quoted
from taskalg.resolve import Operand, Resolved

_SHOWN = 5  # mismatches a message lists


@dataclass(frozen=True)
class Fit:
    """How the checkpoints' tensors go together."""

    tensors: Mapping[str, TensorSpec]  # of the result, as the donor has them, in its order
    places: Mapping[str, Place | None]  # of those; None for all when no coefficient varies
    table: Table  # coefficients on those, one column for each operand
    rows: Mapping[str, int]  # rows that all have, of tensors whose numbers of rows differ
    unshared: tuple[str, ...]  # the donor's, not in every term: copied unchanged
    dropped: tuple[str, ...]  # not the donor's: left out


def fit(total: Resolved, donor: int, *, only_shared: bool = False, rows: str = "all") -> Fit:
    """Check that names, shapes and sorts of dtype agree.

    Args:
        total: the sum; every operand has a checkpoint.
        donor: index of the operand whose names the output takes.
        only_shared: leave out what is not in every term, where otherwise that is an error.
        rows: "common" to combine the rows that all have where their numbers differ, as those of
            vocabularies do; otherwise that is an error.

    Raises:
        MismatchError: they do not agree; the first five differences and their number are given.
    """
    names = output_tensors(total, donor)
    constant = all(part.constant is not None for _, part in total.terms)
    at: Mapping[str, Place | None] = dict.fromkeys(names) if constant else places(names)
    table = covered(total, at)
    missing, extra = _missing(total, names, table), _extra(total, names)
    if (missing or extra) and not only_shared:
        raise _names_differ(total, donor, missing, extra)
    unshared = tuple(dict.fromkeys(name for name, _ in missing))
    if unshared and len(unshared) == sum(spec.dtype.is_floating for spec in names.values()):
        raise MismatchError(
            "no tensor is in every checkpoint, so there is nothing to combine",
            note=f"{total.terms[donor][0].called} has {quoted(unshared[0])}"
            + (f", {extra[0][1].called} has {quoted(extra[0][0])}" if extra else ""),
            help="their names may differ by a prefix: taskalg inspect lists them",
        )
    shared = {name: spec for name, spec in names.items() if name not in set(unshared)}
    common = _common_rows(total, shared, table) if rows == "common" else {}
    _check_shapes(total, donor, table, {n: s for n, s in shared.items() if n not in common})
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


def _names_differ(
    total: Resolved,
    donor: int,
    missing: list[tuple[str, Operand]],
    extra: list[tuple[str, Operand]],
) -> MismatchError:
    giver = total.terms[donor][0].called
    lines = [f"{quoted(name)} is in {giver}, not in {other.called}" for name, other in missing]
    lines += [f"{quoted(name)} is in {other.called}, not in {giver}" for name, other in extra]
    return MismatchError(
        f"{_count(len(lines), 'tensor')} not in every checkpoint",
        note="; ".join(lines[:_SHOWN]) + _more(len(lines)),
        help="--only-shared combines the shared ones and keeps the rest of the donor's",
    )


def _common_rows(total: Resolved, names: Mapping[str, TensorSpec], table: Table) -> dict[str, int]:
    """Return how many rows all have, for tensors that differ in nothing else."""
    taking_part = [terms_of(row) for row in table.classes]
    held = [opened(operand).tensors for operand, _ in total.terms]
    found = {}
    for name, spec in names.items():
        others = [held[index][name] for index in taking_part[table.of[name]]]
        alike = all(
            other.shape[1:] == spec.shape[1:]
            and len(other.shape) == len(spec.shape)
            and other.dtype.is_floating == spec.dtype.is_floating
            for other in others
        )
        if alike and any(other.shape != spec.shape for other in others):
            found[name] = min(other.shape[0] for other in (spec, *others))
    return found


def _check_shapes(
    total: Resolved, donor: int, table: Table, names: Mapping[str, TensorSpec]
) -> None:
    taking_part = [terms_of(row) for row in table.classes]
    held = [opened(operand).tensors for operand, _ in total.terms]
    wrong = []
    for name, spec in names.items():
        for index in taking_part[table.of[name]]:
            other = held[index].get(name)
            if other is not None and not _alike(spec, other):
                wrong.append((name, spec, index, other))
    if not wrong:
        return
    giver = total.terms[donor][0].called
    shown = [
        f"{_described(spec, other)} in {giver}, {_described(other, spec)} in "
        f"{total.terms[index][0].called}" + (f" for {quoted(name)}" if n else "")
        for n, (name, spec, index, other) in enumerate(wrong[:_SHOWN])
    ]
    raise MismatchError(
        f"tensor {quoted(wrong[0][0])} does not fit",
        note="; ".join(shown) + _more(len(wrong)),
        help=f"{len(wrong)} of {len(names)} tensors differ; "
        f'leave them out with a selector, as in toxic[~"{_pattern(wrong[0][0])}"]',
    )


def _alike(a: TensorSpec, b: TensorSpec) -> bool:
    return a.shape == b.shape and a.dtype.is_floating == b.dtype.is_floating


def _described(spec: TensorSpec, other: TensorSpec) -> str:
    return str(spec.shape) if spec.shape != other.shape else spec.dtype.name


def _pattern(name: str) -> str:
    """Return a pattern for a name that can be typed: no quote, control character or bracket."""
    typed = "".join("?" if c in '"*?[' or not c.isprintable() else c for c in name)
    return typed if len(typed) <= WINDOW else f"{typed[:WINDOW]}*"


def _count(count: int, what: str) -> str:
    return f"1 {what} is" if count == 1 else f"{count:,} {what}s are"


def _more(count: int) -> str:
    return f"; and {count - _SHOWN:,} more" if count > _SHOWN else ""


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
