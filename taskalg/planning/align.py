"""Checkpoints to the donor's names: what one model is called in different files becomes one name.

Decided from headers, before anything is looked at by name, so selectors, ramps and layers see the
donor's names only. Nothing is guessed: a prefix goes only when all names agree without it, and
tied weights are taken for one only when their bytes turn out to be the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.selectors import places
from taskalg.checkpoints.base import Checkpoint, TensorSpec, parts_of
from taskalg.checkpoints.orientation import turned
from taskalg.errors import UsageError, quoted
from taskalg.planning.buffers import is_derived
from taskalg.planning.donor import opened
from taskalg.planning.prefixes import Match, Prefix, Side, agree, find_prefix
from taskalg.planning.resolve import Operand, Resolved
from taskalg.planning.tied import NO_TIES, Copies, Ties, find_ties, may_be_tied


@dataclass(frozen=True)
class Alignment:
    """What was done to one checkpoint's names."""

    renamed: Match | None = None  # all of them agree with the donor's after this
    nearly: Match | None = None  # most would after this, so it was left alone
    ties: Ties = NO_TIES
    own_buffers: tuple[str, ...] = ()  # derived ones that the donor lacks: left out
    no_buffers: tuple[str, ...] = ()  # the donor's derived ones that it lacks, or has otherwise


@dataclass(frozen=True)
class Aligned:
    """A sum whose checkpoints have the donor's names."""

    total: Resolved
    donor: int  # index of the operand whose names they are
    alignments: tuple[Alignment, ...]  # one for each operand

    @property
    def buffers(self) -> tuple[str, ...]:
        """The donor's derived buffers that another lacks: they are copied, never summed."""
        return tuple(dict.fromkeys(name for one in self.alignments for name in one.no_buffers))

    @property
    def copies(self) -> tuple["Duplicate", ...]:
        """What has to be compared before tied weights may be taken for one."""
        found: dict[tuple[int, Copies], Duplicate] = {}
        for index, one in enumerate(self.alignments):
            for copies in one.ties.in_donor:
                duplicate = Duplicate(self.donor, copies.one, copies.other, index)
                found.setdefault((self.donor, copies), duplicate)
            for copies in one.ties.in_other:
                found[index, copies] = Duplicate(index, copies.one, copies.other, self.donor)
        return tuple(found.values())


@dataclass(frozen=True)
class Duplicate:
    """A weight that one file stores twice and another once; both copies are read."""

    operand: int  # whose file stores both
    one: TensorSpec  # under the name that the other lacks
    other: TensorSpec
    against: int  # the operand whose file stores one of them


def align(total: Resolved, donor: int) -> Aligned:
    """Give every checkpoint of a sum the donor's names, where that can be done without guessing.

    Args:
        total: the sum; every operand has a checkpoint.
        donor: index of the operand whose names the output takes.

    Raises:
        CheckpointError: a `config.json` is needed and is none.
    """
    aligner = _Aligner(opened(total.terms[donor][0]))
    done: dict[Operand, Operand] = {}
    alignments = []
    for index, (operand, part) in enumerate(total.terms):
        alignment = Alignment()
        if index != donor:
            checkpoint, alignment = aligner.align(opened(operand), part)
            if checkpoint is not operand.checkpoint:
                done[operand] = replace(operand, checkpoint=checkpoint)
        alignments.append(alignment)
    renamed = total.over(lambda operand: done.get(operand, operand)) if done else total
    return Aligned(renamed, donor, tuple(alignments))


def strip_prefix(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    """Drop a prefix from the names that have it.

    Raises:
        UsageError: no name has it, two tensors would have one name, or it is a part's folder.
    """
    change = Prefix(prefix, dropped=True)
    names = {name: change.rename(name) for name in checkpoint.tensors if name.startswith(prefix)}
    if not prefix or not names:
        raise UsageError(
            f"no tensor of {quoted(checkpoint.path)} has the prefix {quoted(prefix)}",
            note=f"its first one is {quoted(next(iter(checkpoint.tensors), ''))}",
            help="taskalg inspect lists all",
        )
    for name, new in names.items():
        if new in checkpoint.tensors and new not in names:
            raise UsageError(
                f"without {quoted(prefix)} two tensors of {quoted(checkpoint.path)} have one name",
                note=f"it holds {quoted(name)} and {quoted(new)}",
            )
    owners = parts_of(names, checkpoint.parts)
    inside = next((part.folder for part in owners if part.folder), None)
    if inside is not None or parts_of(names.values(), checkpoint.parts) != owners:
        raise UsageError(
            f"without {quoted(prefix)} names of {quoted(checkpoint.path)} are in other folders",
            note="the model has several parts, and names begin with the folder of theirs",
            help=f"give that folder: {quoted(f'{checkpoint.path}/{inside}')}" if inside else None,
        )
    return replace(with_names(checkpoint, names), stripped=prefix)


class _Aligner:
    """Aligns checkpoints with one donor, whose names are sorted out once."""

    def __init__(self, donor: Checkpoint) -> None:
        self.donor = donor
        self.buffers = [spec for spec in donor.tensors.values() if is_derived(spec)]

    @cached_property
    def side(self) -> Side:
        """The donor's names."""
        return _side(self.donor)

    def align(self, checkpoint: Checkpoint, part: Coefficient) -> tuple[Checkpoint, Alignment]:
        """Return a checkpoint with the donor's names, itself when they are its own."""
        match, ties = None, NO_TIES
        if checkpoint.tensors.keys() != self.donor.tensors.keys():
            side = _side(checkpoint)
            match = self._match(side, checkpoint.is_sparse)
            if match is not None and not match.complete:
                return checkpoint, Alignment(nearly=match)
            if match is not None:
                checkpoint = with_names(checkpoint, match.names)
            if match is not None or 2 * self._matching(side) >= len(side.needed):
                ties = self._ties(checkpoint, part)
        if checkpoint.is_sparse:
            checkpoint = turned(checkpoint, self.donor)
        checkpoint, own, lacking = self._buffers(_tied(checkpoint, ties), part)
        return checkpoint, Alignment(match, None, ties, own, lacking)

    def _match(self, side: Side, sparse: bool) -> Match | None:
        """Find the prefix between its names and the donor's; None when none is needed or helps."""
        if agree(self.side, side, sparse=sparse):
            return None
        return find_prefix(self.side, side, sparse=sparse)

    def _matching(self, side: Side) -> int:
        return sum(name in self.side.names for name in side.needed)

    def _ties(self, checkpoint: Checkpoint, part: Coefficient) -> Ties:
        if checkpoint.is_sparse or self.donor.is_sparse:
            return NO_TIES  # what an adapter lacks is zero
        names = [*self.donor.tensors, *checkpoint.tensors]
        at = places(names) if part.varies else dict.fromkeys(names)
        return find_ties(self.donor, checkpoint, lambda name: bool(part.at(name, at[name])))

    def _buffers(
        self, checkpoint: Checkpoint, part: Coefficient
    ) -> tuple[Checkpoint, tuple[str, ...], tuple[str, ...]]:
        """Leave out derived buffers that are not like the donor's.

        Returns:
            The checkpoint without them; those that the donor lacks; and those of the donor that
            the checkpoint lacks now.
        """
        if not part or checkpoint.is_sparse or self.donor.is_sparse:
            return checkpoint, (), ()
        tensors, theirs = checkpoint.tensors, self.donor.tensors
        own: tuple[str, ...] = ()
        if tensors.keys() != theirs.keys():
            unknown = (spec for name, spec in tensors.items() if name not in theirs)
            own = tuple(spec.name for spec in unknown if is_derived(spec))
        lacking = tuple(
            spec.name for spec in self.buffers if not _alike(spec, tensors.get(spec.name))
        )
        left_out = {*own, *lacking}
        if left_out.intersection(tensors):
            kept = {name: spec for name, spec in tensors.items() if name not in left_out}
            checkpoint = replace(checkpoint, tensors=kept)
        return checkpoint, own, lacking


def _side(checkpoint: Checkpoint) -> Side:
    """Tell names that must agree from those that savers store or leave out as they like."""
    floating = [spec for spec in checkpoint.tensors.values() if spec.dtype.is_floating]
    needed = [
        spec.name
        for spec in floating
        if checkpoint.is_sparse or not (is_derived(spec) or may_be_tied(spec.name))
    ]
    return Side(checkpoint.tensors, needed)


def _alike(spec: TensorSpec, other: TensorSpec | None) -> bool:
    if other is None:
        return False
    return spec.shape == other.shape and spec.dtype.is_floating == other.dtype.is_floating


def with_names(checkpoint: Checkpoint, names: Mapping[str, str]) -> Checkpoint:
    """Return a checkpoint in which some tensors have another name; their order is kept."""
    renamed = (
        replace(spec, name=names[name]) if name in names else spec
        for name, spec in checkpoint.tensors.items()
    )
    whole = frozenset(names.get(name, name) for name in checkpoint.whole)
    return replace(checkpoint, tensors={spec.name: spec for spec in renamed}, whole=whole)


def _tied(checkpoint: Checkpoint, ties: Ties) -> Checkpoint:
    """Return a checkpoint that stores tied weights under the donor's names."""
    if not ties:
        return checkpoint
    tensors = {n: spec for n, spec in checkpoint.tensors.items() if n not in ties.dropped}
    for name, partner in ties.lent.items():
        tensors[name] = replace(checkpoint.tensors[partner], name=name)
    return replace(checkpoint, tensors=tensors)
