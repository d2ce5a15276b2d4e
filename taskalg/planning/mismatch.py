"""What is told when checkpoints do not fit together: examples, how many, and one way on."""

from collections.abc import Sequence
from dataclasses import dataclass

from taskalg.checkpoints.base import TensorSpec
from taskalg.errors import WINDOW, MismatchError, quoted
from taskalg.planning.align import Aligned, Duplicate
from taskalg.planning.donor import opened
from taskalg.planning.resolve import Operand

_SHOWN = 5  # mismatches a message lists
_NEARLY = 2  # a prefix is told of when it makes one name in so many agree

Names = Sequence[tuple[str, Operand]]


@dataclass(frozen=True)
class Misfit:
    """A tensor that two checkpoints have, and that does not fit."""

    donor: TensorSpec
    other: TensorSpec
    operand: int  # index of the operand that has `other`


def names_differ(aligned: Aligned, missing: Names, extra: Names) -> MismatchError:
    """Tell that names differ.

    Args:
        aligned: the sum.
        missing: tensors of the donor, each with an operand that lacks it.
        extra: tensors that the donor lacks, each with an operand that has it.
    """
    giver = _donor(aligned).called
    lines = [f"{quoted(name)} is in {giver}, not in {other.called}" for name, other in missing]
    lines += [f"{quoted(name)} is in {other.called}, not in {giver}" for name, other in extra]
    note, help = _prefix(aligned)
    return MismatchError(
        f"{_count(len(lines), 'tensor')} not in every checkpoint",
        note="; ".join(lines[:_SHOWN]) + _more(len(lines)) + note,
        help=help or "--only-shared combines the shared ones and keeps the rest of the donor's",
    )


def nothing_shared(aligned: Aligned, missing: Names, extra: Names) -> MismatchError:
    """Tell that no tensor is in all checkpoints; the arguments are those of `names_differ`."""
    theirs = f", {extra[0][1].called} has {quoted(extra[0][0])}" if extra else ""
    note, help = _prefix(aligned)
    return MismatchError(
        "no tensor is in every checkpoint, so there is nothing to combine",
        note=f"{_donor(aligned).called} has {quoted(missing[0][0])}{theirs}{note}",
        help=help or "taskalg inspect lists the names of each",
    )


def shapes_differ(aligned: Aligned, misfits: Sequence[Misfit]) -> MismatchError:
    """Tell that shapes or sorts of dtype differ."""
    giver, first = _donor(aligned).called, misfits[0].donor.name
    shown = [
        f"{_described(misfit.donor, misfit.other)} in {giver}, "
        f"{_described(misfit.other, misfit.donor)} in {_operand(aligned, misfit.operand).called}"
        + (f" for {quoted(misfit.donor.name)}" if index else "")
        + (": transposed" if _transposed(misfit) else "")
        for index, misfit in enumerate(misfits[:_SHOWN])
    ]
    count, total = len(misfits), len(opened(_donor(aligned)).tensors)
    help = (
        f"{count:,} of {total:,} tensors differ; "
        f'leave them out with a selector, as in toxic[~"{_pattern(first)}"]'
    )
    if all(alike_but_for_rows(misfit.donor, misfit.other) for misfit in misfits):
        help = "--rows common combines the rows that all have and keeps the donor's others"
    return MismatchError(
        f"tensor {quoted(first)} does not fit",
        note="; ".join(shown) + _more(count),
        help=help,
    )


def copies_differ(aligned: Aligned, found: Duplicate) -> MismatchError:
    """Tell that a weight which one checkpoint stores once is two in another."""
    holder, single = (_operand(aligned, index) for index in (found.operand, found.against))
    one, other = quoted(found.one.name), quoted(found.other.name)
    left = single if found.operand == aligned.donor else holder
    plain = not (left.is_task or left.is_task_vector)
    difference = f"({left.called} - {_donor(aligned).called})" if plain else left.called
    return MismatchError(
        f"{one} and {other} differ in {holder.called}",
        note=f"they are one weight in {single.called}, which stores only {other}",
        help=f'leave it out with a selector, as in {difference}[~"{_pattern(found.one.name)}"]',
    )


def _prefix(aligned: Aligned) -> tuple[str, str | None]:
    """Return an addition to a note, and what helps, when a prefix would nearly do."""
    for index, one in enumerate(aligned.alignments):
        match = one.nearly
        if match is not None and _NEARLY * match.matching >= match.total:
            operand = _operand(aligned, index)
            prefix, verb = quoted(match.prefix.text), "adding"
            longer = _donor(aligned)
            if match.prefix.dropped:
                longer, verb = operand, "dropping"
            return (
                f"; {match.matching:,} of {match.total:,} names of {operand.called} match after "
                f"{verb} {prefix}",
                f"write checkpoint({quoted(longer.path or '')}, strip_prefix={prefix}) "
                f"for {longer.called}",
            )
    return "", None


def alike_but_for_rows(a: TensorSpec, b: TensorSpec) -> bool:
    """Tell whether two tensors could be combined if their numbers of rows agreed."""
    alike = len(a.shape) == len(b.shape) > 0 and a.shape[1:] == b.shape[1:]
    return alike and a.dtype.is_floating == b.dtype.is_floating


def _transposed(misfit: Misfit) -> bool:
    shape = misfit.other.shape
    return misfit.donor.shape == shape[::-1] != shape


def _donor(aligned: Aligned) -> Operand:
    return _operand(aligned, aligned.donor)


def _operand(aligned: Aligned, index: int) -> Operand:
    return aligned.total.terms[index][0]


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
