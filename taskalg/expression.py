"""An expression as a Python value: what it is, before anything is planned.

It is the value of an expression and of nothing else, so text and Python's operators build the same
thing. Headers are read when something is asked that needs them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Self

from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.algebra.evaluation import Evaluation
from taskalg.algebra.kinds import Kind
from taskalg.algebra.proof import find_nonzero
from taskalg.algebra.selectors import Item
from taskalg.algebra.weighted_sum import Reference, Value, WeightedSum
from taskalg.arithmetic import Arithmetic
from taskalg.checkpoints.base import Checkpoint, Opening
from taskalg.checkpoints.memory import open_memory
from taskalg.checkpoints.registry import open_checkpoint
from taskalg.compiler import locate
from taskalg.errors import KindError, MismatchError, Source, TaskalgError, UsageError, quoted
from taskalg.planning.align import align, strip_prefix
from taskalg.planning.difference import unknowns, where_not_zero
from taskalg.planning.donor import choose_donor, opened
from taskalg.planning.fit import check_items
from taskalg.planning.resolve import Operand, Resolved, Resolver
from taskalg.planning.result import check_result, check_something_left, kind, tensor_places
from taskalg.scalars import is_number, to_fraction

Opened = dict[object, Checkpoint | None]  # by what was opened, whatever mentions it


@dataclass(frozen=True)
class Written:
    """What a user typed, before anything was made of it."""

    recipe: Source | None = None  # a recipe file
    expression: Source | None = None  # beside it, or without one
    scalars: Mapping[str, str] = field(default_factory=dict)  # bound from outside, as exact text


class Expression(Arithmetic):
    """What is known of a sum of checkpoints, or of a scalar, from headers alone."""

    __hash__ = None  # type: ignore[assignment]  # == is deep, and may read headers

    def __init__(
        self,
        value: Value,
        *,
        base: Value | None = None,
        items: Mapping[Item, Any] | None = None,
        opened: Opened | None = None,
        opening: Opening | None = None,
        written: Written | None = None,
        evaluation: Evaluation | None = None,
        numeric: Self | None = None,
    ) -> None:
        self.value = value  # the weighted sum of references, or the scalar
        self.base = base  # what `task` is taken against when it does not say
        self.items = dict(items or {})  # selectors' items and where they were written
        self.written = written or Written()  # what the user typed, for the manifest
        self.opening = opening or Opening()  # what the user allows when files are opened
        self.opened = {} if opened is None else opened
        self.evaluation = evaluation  # of its text; None when Python's operators made it
        self.numeric = numeric  # where its scalars are symbols: the same with their numbers
        self._resolved: Resolved | None = None
        self._aligned: Resolved | None = None
        self._scalar: tuple[Resolved, Coefficient] | None = None

    @property
    def kind(self) -> Kind:
        """What the coefficients add up to: a model, a task vector, a partial sum, or a scalar."""
        if isinstance(self.value, Coefficient):
            return Kind.SCALAR
        return kind(self.aligned)

    @property
    def coefficients(self) -> dict[str, Number]:
        """Exact coefficients by checkpoint, in canonical order, those that cancel left out.

        A number, or a `Coefficient` when it depends on the tensor.
        """
        return {operand.called: part.number for operand, part in self.resolved.terms if part}

    @property
    def scalars(self) -> dict[str, Fraction]:
        """Scalars that may be set, by name, with their values.

        Those set from outside, and bindings that mention no other scalar. Python's operators name
        none.
        """
        if self.numeric is not None:
            return self.numeric.scalars
        return {} if self.evaluation is None else self.evaluation.scalars

    @property
    def resolved(self) -> Resolved:
        """The canonical sum. Opens headers.

        Raises:
            KindError: it is a scalar.
            CheckpointError: a file cannot be opened.
        """
        if isinstance(self.value, Coefficient):
            raise self._at(KindError("a scalar is not a checkpoint", note=_NOTHING_TO_WRITE))
        if self._resolved is None:
            self._resolved = self._resolve(self.value)[0]
        return self._resolved

    def resolved_scalar(self) -> tuple[Resolved, Coefficient]:
        """Return a scalar in names, and zero times what is measured in it. Opens headers of that.

        Raises:
            KindError: it is a checkpoint value.
            CheckpointError: a file cannot be opened.
        """
        if not isinstance(self.value, Coefficient):
            raise self._at(KindError("a checkpoint value is no number", help="write norm(…) of it"))
        if self._scalar is None:
            self._scalar = self._resolve(self.value)
        return self._scalar

    def _resolve(self, value: Value) -> tuple[Resolved, Coefficient]:
        base = self.base if isinstance(self.base, WeightedSum) else None
        try:
            return Resolver(self.open, base).resolve(value)
        except MismatchError as error:  # a division by what is measured of nothing
            raise self._at(error) from None

    @property
    def aligned(self) -> Resolved:
        """The canonical sum, its checkpoints' tensors under their donor's names.

        As it is while a checkpoint is declared without a file.
        """
        if not _all_opened(self.resolved):
            return self.resolved
        if self._aligned is None:
            self._aligned = align(self.resolved, self.donor_index()).total
        return self._aligned

    def __str__(self) -> str:
        if isinstance(self.value, Coefficient):
            return str(self.resolved_scalar()[1])
        return str(self.resolved)

    def __repr__(self) -> str:
        return f"{self.kind}  {self}"

    def check(self, *, allow_partial: bool = False) -> Kind:
        """Return the kind, as `kind` does, but refuse what could not be a result.

        Raises:
            ExpressionError: a pattern or range selects nothing.
            KindError: it is a scalar, nothing is left, or the kind is partial.
        """
        try:
            found = kind(self.aligned)
            check_result(self.aligned, found, allow_partial)
            if _all_opened(self.resolved):
                check_items(self.aligned, self.items, tensor_places(self.aligned))
            check_something_left(self.resolved)
        except KindError as error:
            raise self._at(error) from None
        return found

    def __eq__(self, other: object) -> bool:
        return self.difference(other) is None if isinstance(other, Expression) else NotImplemented

    def difference(self, other: "Expression") -> str | None:
        """Say where two recipes differ, or None when they are equal on every tensor.

        With headers the real tensor names decide; without, every tensor that could exist. No data
        is read.

        Raises:
            ExpressionError: it cannot be decided without tensor names.
        """
        scalars = [isinstance(one.value, Coefficient) for one in (self, other)]
        if not any(scalars):
            return where_not_zero(self._less(other))
        if not all(scalars):
            return "one is a scalar, the other is not"
        total, rest = (self - other).resolved_scalar()
        rest = rest.given(unknowns(total))
        return None if find_nonzero([rest]) is None else f"the scalars are {self} and {other}"

    def _less(self, other: "Expression") -> Resolved:
        """Return the sum of the difference, its tensors under the names this one's donor has."""
        rest = (self - other).resolved
        if not _all_opened(rest):
            return rest
        donor, _ = self.resolved.terms[self.donor_index()]
        same = (i for i, (operand, _) in enumerate(rest.terms) if _are_one(operand, donor))
        return align(rest, next(same)).total

    def donor_index(self) -> int:
        """Return which checkpoint gives names and dtypes: its numbers choose, also where freed."""
        return choose_donor(self.resolved if self.numeric is None else self.numeric.resolved)

    @classmethod
    def of_number(cls, number: Any) -> Self:
        """Make a scalar of a Python number."""
        return cls(Coefficient(to_fraction(number)))

    @classmethod
    def of_program(
        cls,
        evaluation: Evaluation,
        *,
        written: Written | None = None,
        opening: Opening | None = None,
        opened: Opened | None = None,
        numeric: Self | None = None,
    ) -> Self:
        """Make the expression that a program ends with."""
        return cls(
            evaluation.value,
            base=evaluation.base,
            items=evaluation.environment.items,
            opened=opened,
            opening=opening,
            written=written,
            evaluation=evaluation,
            numeric=numeric,
        )

    @classmethod
    def combining(
        cls, rule: Callable[[Sequence[Value]], Value], recipes: Sequence["Expression"]
    ) -> Self:
        """Apply a rule of the operator table to recipes."""
        value = rule([recipe.value for recipe in recipes])
        items = {item: at for recipe in recipes for item, at in recipe.items.items()}
        opened = {key: found for recipe in recipes for key, found in recipe.opened.items()}
        base = next((recipe.base for recipe in recipes if recipe.base is not None), None)
        opening = Opening(allow_pickle=any(recipe.opening.allow_pickle for recipe in recipes))
        return cls(value, base=base, items=items, opened=opened, opening=opening)

    def combine(self, rule: Callable[[Value, Value], Value], other: Any) -> Self:
        """Apply a rule to this recipe and a recipe or a number."""
        if is_number(other):
            other = self.of_number(other)
        if not isinstance(other, Expression):
            return NotImplemented  # type: ignore[no-any-return]
        return self.combining(lambda values: rule(*values), [self, other])

    def open(self, reference: Reference) -> Checkpoint | None:
        """Open a checkpoint's header, once; None when it was declared without a file."""
        key = opened_as(reference)
        if key not in self.opened:
            found = self._found(reference)
            if found is not None and reference.strip_prefix is not None:
                found = strip_prefix(found, reference.strip_prefix)
            self.opened[key] = found
        return self.opened[key]

    def _found(self, reference: Reference) -> Checkpoint | None:
        if isinstance(reference.held, Expression):
            raise UsageError(
                f"{quoted(reference.name or '')} is bound to a recipe, which has no weights yet",
                help="combine recipes with + - * /, or save that one first",
            )
        if reference.held is not None:
            return open_memory(reference.held)
        if reference.path is None:
            return None
        return open_checkpoint(locate(reference), self.opening)

    def _at(self, error: TaskalgError) -> TaskalgError:
        """Point an error that has no place at the whole expression."""
        expression = None if self.evaluation is None else self.evaluation.program.expression
        if error.span is None and expression is not None:
            error.span = expression.span
        return error


def opened_as(reference: Reference) -> object:
    """Return what tells one opening from another."""
    if reference.held is not None:
        return reference  # which keeps it in memory, so that nothing else gets its place there
    return reference.path, reference.folder, reference.strip_prefix


def _all_opened(total: Resolved) -> bool:
    return all(operand.checkpoint is not None for operand, _ in total.terms)


def _are_one(a: Operand, b: Operand) -> bool:
    return opened(a).identity == opened(b).identity


_NOTHING_TO_WRITE = "it is one number, so there is nothing to write"
