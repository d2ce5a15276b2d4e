"""References to checkpoints: opens headers, and says what each name stands for.

Until here a sum holds mentions (`checkpoint("a")`, `task("b")`). Here every mention meets its file:
two names of one file become one term, a task's base is subtracted, unless the file turns out to be
a task vector, and the sum gets its canonical order. No data is read.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from taskalg.algebra.canonical import Canonical, sort_key
from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.measured import ordered
from taskalg.algebra.proof import find_nonzero
from taskalg.algebra.weighted_sum import (
    Measured,
    Reference,
    Sum,
    Value,
    WeightedSum,
    measured_in,
)
from taskalg.checkpoints.base import Checkpoint
from taskalg.errors import KindError, TaskalgError, UnknownNameError, UsageError, quoted
from taskalg.planning.naming import ByKey, Naming

Open = Callable[[Reference], Checkpoint | None]  # None for a name declared without a file


@dataclass(frozen=True, eq=False)
class Operand:
    """One checkpoint of a sum, whatever it is called. Two are the same only when identical."""

    name: str | None  # the first of its names: `base`, else by code point; None when it has none
    path: str | None  # as the user gave it under that name; None when declared without a file
    is_task: bool  # its name stands for the checkpoint minus a base
    checkpoint: Checkpoint | None  # headers only; None when declared without a file
    strip_prefix: str | None = None  # was dropped from the names of its tensors

    @property
    def called(self) -> str:
        """What messages, plans and JSON call it: its name, else its path."""
        return self.name or self.path or ""

    @property
    def is_task_vector(self) -> bool:
        """Whether the file itself is a task vector, and so counts 0 in the total."""
        return self.checkpoint is not None and self.checkpoint.is_task_vector


Resolved = Canonical[Operand]


class Resolver:
    """Resolves sums over one set of files, each opened once."""

    def __init__(self, open_reference: Open, base: Sum | None) -> None:
        self._open = open_reference
        self._base = base  # what the program binds to `base`
        self._opened: dict[Reference, Checkpoint | None] = {}
        self._resolving: set[Reference] = set()
        self._mentions: dict[object, list[Reference]] = {}  # by what they turn out to be
        self._arguments: dict[Measured[Reference], tuple[ByKey, ...]] = {}  # of what is measured

    def resolve(self, value: Value) -> tuple[Resolved, Coefficient]:
        """Resolve a sum and everything its tasks are taken against, or a scalar.

        Returns:
            The sum, of a scalar zero times what is measured in it; and the scalar, of a sum zero.

        Raises:
            CheckpointError: a file cannot be opened.
            KindError: a task's base is not a model.
            MismatchError: something is divided by what is measured of nothing.
            UnknownNameError: a task has no base.
            UsageError: two files have one name.
        """
        if isinstance(value, WeightedSum):
            return self._resolved(self._by_key(value), Coefficient())
        return self._resolved(WeightedSum.adding(self._measured(value)), value)

    def _resolved(self, by_key: ByKey, scalar: Coefficient) -> tuple[Resolved, Coefficient]:
        by_base = {key: self._by_key(base) for key, base in self._bases().items()}
        operands = {key: _operand(key, mentions, self) for key, mentions in self._mentions.items()}
        _check_names(operands.values())
        tasks = {key: base for key, base in by_base.items() if operands[key].is_task}
        naming = Naming(operands, tasks, self._arguments.__getitem__)
        terms = ordered(naming.total(by_key)).terms
        against = {operands[key]: naming.total(base) for key, base in by_base.items()}
        named = naming.scalar(scalar)
        bases = {operand: base for operand, base in against.items() if operand.is_task}
        sparse = {o: base for o, base in against.items() if _is_sparse(o.checkpoint)}
        return Canonical(terms, bases, sparse, naming.measured), named

    def opened(self, reference: Reference) -> Checkpoint | None:
        """Open a reference's header, once."""
        if reference not in self._opened:
            try:
                self._opened[reference] = self._open(reference)
            except TaskalgError as error:
                error.span = error.span or reference.span
                raise
        return self._opened[reference]

    def base_of(self, reference: Reference) -> Sum:
        """Return what a task is taken against."""
        base = reference.base if reference.base is not None else self._base
        if base is None:
            name = reference.name or reference.path or "task"
            raise UnknownNameError(
                f"the task vector {quoted(name)} has no base to be taken against",
                reference.span,
                help=f"bind one: --base PATH, or give the finished vector: --model {name}=PATH",
            )
        return base

    def _by_key(self, total: Sum) -> ByKey:
        """Replace references by what they are, and tasks by their difference."""
        parts: list[ByKey] = []
        for reference, coefficient in total.terms.items():
            checkpoint = self.opened(reference)
            key = reference.name if checkpoint is None else checkpoint.identity
            mentions = self._mentions.setdefault(key, [])
            if reference not in mentions:
                _check_prefix(reference, mentions)
                mentions.append(reference)
            parts.append(WeightedSum({key: coefficient}))
            if _is_difference(reference, checkpoint):
                parts.append(self._against(reference).scaled(-coefficient))
            elif self._has_base(reference, checkpoint):
                parts.append(self._against(reference).scaled(Coefficient()))
            parts += self._measured(coefficient)
        return WeightedSum.adding(parts)

    def _measured(self, scalar: Coefficient) -> Iterator[ByKey]:
        """Yield zero times everything that is measured in a scalar, which has to be opened too."""
        for one in measured_in([scalar]):
            if one not in self._arguments:
                self._arguments[one] = tuple(map(self._by_key, one.arguments))
            yield from (total.scaled(Coefficient()) for total in self._arguments[one])

    def _against(self, reference: Reference) -> ByKey:
        if reference in self._resolving:
            raise KindError("a task vector is taken against itself", reference.span)
        self._resolving.add(reference)
        base = self._by_key(self.base_of(reference))
        self._resolving.discard(reference)
        vectors = {key for key, found in self._mentions.items() if self._is_vector(found[0])}
        total = sum((c for k, c in base.terms.items() if k not in vectors), Coefficient(-1))
        if find_nonzero([total]):
            raise KindError(
                "a base is a model",
                reference.span,
                note="the coefficients of this one do not add up to 1",
            )
        return base

    def _is_vector(self, reference: Reference) -> bool:
        checkpoint = self.opened(reference)
        return checkpoint is not None and checkpoint.is_task_vector

    def _has_base(self, reference: Reference, checkpoint: Checkpoint | None) -> bool:
        """Tell whether an adapter's base has a part in the sum, though nothing of it is added.

        It has the names that the adapter is zero on, and what whole tensors are taken against.
        """
        if checkpoint is None or not checkpoint.is_sparse:
            return False
        if self._base is not None and reference in self._base.terms:
            return False  # it is the base itself, which `_against` refuses
        known = reference.base is not None or self._base is not None
        return known or bool(checkpoint.whole)

    def _bases(self) -> dict[object, Sum]:
        return {
            key: self.base_of(reference)
            for key, mentions in list(self._mentions.items())
            for reference in (_first(mentions),)
            for checkpoint in (self.opened(reference),)
            if _is_difference(reference, checkpoint) or self._has_base(reference, checkpoint)
        }


def _is_difference(reference: Reference, checkpoint: Checkpoint | None) -> bool:
    vector = checkpoint is not None and checkpoint.is_task_vector
    return reference.sort == "task" and not vector


def _is_sparse(checkpoint: Checkpoint | None) -> bool:
    return checkpoint is not None and checkpoint.is_sparse


def _first(mentions: list[Reference]) -> Reference:
    return min(mentions, key=lambda mention: sort_key(mention.name, mention.path))


def _operand(key: object, mentions: list[Reference], resolver: Resolver) -> Operand:
    first = _first(mentions)
    checkpoint = resolver.opened(first)
    is_task = first.name is not None and _is_difference(first, checkpoint)
    return Operand(first.name, first.path, is_task, checkpoint, first.strip_prefix)


def _check_prefix(reference: Reference, mentions: list[Reference]) -> None:
    first = mentions[0] if mentions else reference
    if reference.strip_prefix != first.strip_prefix:
        raise UsageError(
            f"{quoted(reference.path or '')} is mentioned with two prefixes to strip",
            reference.span,
            note="they are "
            + " and ".join(quoted(r.strip_prefix or "") for r in (first, reference)),
            help="write the same strip_prefix wherever it is mentioned",
        )


def _check_names(operands: Iterable[Operand]) -> None:
    seen: dict[str, Operand] = {}
    for operand in operands:
        if operand.name is None:
            continue
        other = seen.setdefault(operand.name, operand)
        if other is not operand:
            raise UsageError(
                f"two checkpoints are named {quoted(operand.name)}",
                note=f"they are {operand.path} and {other.path}",
                help="give one another name: checkpoint(path, name=…)",
            )
