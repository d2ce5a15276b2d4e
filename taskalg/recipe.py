"""A recipe as a Python value: ask what it is, explain it, combine it, save it.

It is the value of an expression and of nothing else, so text and Python's operators build the same
thing. Nothing is evaluated before `save`; headers are read when something is asked that needs them.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from taskalg.algebra.canonical import coefficient_text
from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.kinds import Kind
from taskalg.algebra.proof import find_nonzero
from taskalg.algebra.selectors import Item
from taskalg.algebra.weighted_sum import Reference, Value, WeightedSum
from taskalg.arithmetic import Arithmetic
from taskalg.checkpoints.base import Checkpoint
from taskalg.checkpoints.registry import open_checkpoint
from taskalg.compiler import locate
from taskalg.difference import where_not_zero
from taskalg.dtypes import floating_dtype
from taskalg.engines.registry import check_engine
from taskalg.errors import KindError, TaskalgError, UsageError
from taskalg.execute import execute
from taskalg.explain import Explanation
from taskalg.fit import check_items
from taskalg.language.nodes import Node
from taskalg.plan import Choices, Plan, make_plan
from taskalg.report import Report
from taskalg.resolve import Resolved, Resolver
from taskalg.result import check_result, check_something_left, kind, tensor_places
from taskalg.scalars import is_number, to_fraction
from taskalg.stream import Progress, Settings
from taskalg.units import parse_size

AnyPath = str | os.PathLike[str]
Opened = dict[Reference, Checkpoint | None]


class Recipe(Arithmetic):
    """An expression as a value: what it is known before anything is evaluated.

    Made by `compile`, `checkpoint` and `task`. Recipes and numbers combine with `+ - * /`, unary
    `-` and `[...]`, as in the language; `==` tells whether two are the same sum.
    """

    __hash__ = None  # type: ignore[assignment]  # == is deep, and may read headers

    def __init__(
        self,
        value: Value,
        *,
        base: Value | None = None,
        items: Mapping[Item, Any] | None = None,
        expression: Node | None = None,
        opened: Opened | None = None,
    ) -> None:
        self.value = value  # the weighted sum of references, or the scalar
        self._base = base  # what `task` is taken against when it does not say
        self._items = dict(items or {})  # selectors' items and where they were written
        self._expression = expression  # the text's, to point at
        self.opened = {} if opened is None else opened
        self._resolved: Resolved | None = None

    # ---- What it is

    @property
    def kind(self) -> Kind:
        """What the coefficients add up to: a model, a task vector, a partial sum, or a scalar."""
        if isinstance(self.value, Coefficient):
            return Kind.SCALAR
        return kind(self.resolved)

    @property
    def coefficients(self) -> dict[str, Fraction | Coefficient]:
        """Exact coefficients by checkpoint, in canonical order, those that cancel left out.

        A number, or a `Coefficient` when it depends on the tensor.
        """
        return {
            operand.called: part if part.constant is None else part.constant
            for operand, part in self.resolved.terms
            if part
        }

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
            base = self._base if isinstance(self._base, WeightedSum) else None
            self._resolved = Resolver(self.open, base).resolve(self.value)
        return self._resolved

    def __str__(self) -> str:
        if isinstance(self.value, Coefficient):
            return coefficient_text(self.value)
        return str(self.resolved)

    def __repr__(self) -> str:
        return f"{self.kind}  {self}"

    # ---- What would happen, and making it happen

    def plan(
        self,
        *,
        dtype: str | None = None,
        donor: str | None = None,
        allow_partial: bool = False,
        only_shared: bool = False,
    ) -> Plan:
        """Decide what to read and with which coefficients. Reads headers only.

        Args:
            dtype: of floating tensors, such as "bf16"; by default the donor's.
            donor: the checkpoint whose names, dtypes and side files the result takes.
            allow_partial: whether coefficients may add up to something else than 1 or 0.
            only_shared: combine only the tensors that every term has.

        Raises:
            TaskalgError: the checkpoints do not fit, or there is no result.
        """
        choices = Choices(
            donor, None if dtype is None else floating_dtype(dtype), allow_partial, only_shared
        )
        undeclared = [o.name for o, _ in self.resolved.terms if o.checkpoint is None]
        if undeclared:
            name = undeclared[0]
            raise UsageError(
                f"{name} was declared without a file", help=f"give it one: --model {name}=PATH"
            )
        try:
            return make_plan(self.resolved, choices, self._items)
        except KindError as error:
            raise self._at(error) from None

    def check(self, *, allow_partial: bool = False) -> Kind:
        """Return the kind, as `kind` does, but refuse what could not be a result.

        Raises:
            ExpressionError: a pattern or range selects nothing.
            KindError: it is a scalar, nothing is left, or the kind is partial.
        """
        try:
            found = kind(self.resolved)
            check_result(self.resolved, found, allow_partial)
            if all(operand.checkpoint is not None for operand, _ in self.resolved.terms):
                check_items(self.resolved, self._items, tensor_places(self.resolved))
            check_something_left(self.resolved)
        except KindError as error:
            raise self._at(error) from None
        return found

    def explain(
        self,
        out: AnyPath | None = None,
        *,
        dtype: str | None = None,
        donor: str | None = None,
        shard_size: int | str = "5GB",
        threads: int | None = None,
        allow_partial: bool = False,
        only_shared: bool = False,
    ) -> Explanation:
        """Say what `save` with the same arguments would do. Reads headers only."""
        plan = self.plan(
            dtype=dtype, donor=donor, allow_partial=allow_partial, only_shared=only_shared
        )
        size = parse_size(shard_size) if isinstance(shard_size, str) else shard_size
        return Explanation(plan, Path(out or "model"), size, threads)

    def save(
        self,
        out: AnyPath,
        *,
        dtype: str | None = None,
        donor: str | None = None,
        shard_size: int | str = "5GB",
        engine: str = "auto",
        threads: int | None = None,
        on_overflow: str = "error",
        strict: bool = False,
        overwrite: bool = False,
        allow_partial: bool = False,
        only_shared: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Report:
        """Evaluate and publish: all of it, or nothing.

        The keywords are the command line's options.

        Args:
            out: a folder, or one file when it ends in `.safetensors`.
            dtype: of floating tensors, such as "bf16"; by default the donor's.
            donor: the checkpoint whose names, dtypes and side files the result takes.
            shard_size: tensor data in one file [bytes], or a text such as "5GB".
            engine: "auto", "cpu" or "reference".
            threads: by default the smaller of 8 and what this process may use.
            on_overflow: "error" or "warn", when a result is too large for its dtype.
            strict: whether integer tensors that differ are an error.
            overwrite: whether an earlier output may be replaced.
            allow_partial: whether coefficients may add up to something else than 1 or 0.
            only_shared: combine only the tensors that every term has.
            progress: called with a `Progress` about ten times a second; cancels by raising.

        Raises:
            TaskalgError: with the reason; nothing is published then.

        Memory: about 300 MB, whatever the model.
        """
        if on_overflow not in ("error", "warn"):
            raise UsageError("on_overflow is 'error' or 'warn'", note=f"found {on_overflow!r}")
        plan = self.plan(
            dtype=dtype, donor=donor, allow_partial=allow_partial, only_shared=only_shared
        )
        settings = Settings(
            threads=threads,
            fail_on_overflow=on_overflow == "error",
            strict=strict,
            overwrite=overwrite,
            shard_size=parse_size(shard_size) if isinstance(shard_size, str) else shard_size,
            progress=progress,
        )
        return execute(plan, check_engine(engine), Path(out).expanduser(), settings)

    # ---- Combining

    def __eq__(self, other: object) -> bool:
        return self.difference(other) is None if isinstance(other, Recipe) else NotImplemented

    def difference(self, other: "Recipe") -> str | None:
        """Say where two recipes differ, or None when they are equal on every tensor.

        With headers the real tensor names decide; without, every tensor that could exist. No data
        is read.

        Raises:
            ExpressionError: it cannot be decided without tensor names.
        """
        scalars = [isinstance(one.value, Coefficient) for one in (self, other)]
        if not any(scalars):
            return where_not_zero((self - other).resolved)
        if not all(scalars):
            return "one is a scalar, the other is not"
        rest = (self - other).value
        assert isinstance(rest, Coefficient)
        return None if find_nonzero([rest]) is None else f"the scalars are {self} and {other}"

    @classmethod
    def of_number(cls, number: Any) -> "Recipe":
        """Make a scalar of a Python number."""
        return cls(Coefficient(to_fraction(number)))

    @classmethod
    def combining(
        cls, rule: Callable[[Sequence[Value]], Value], recipes: Sequence["Recipe"]
    ) -> "Recipe":
        """Apply a rule of the operator table to recipes."""
        value = rule([recipe.value for recipe in recipes])
        items = {item: at for recipe in recipes for item, at in recipe._items.items()}
        opened = {key: found for recipe in recipes for key, found in recipe.opened.items()}
        base = next((recipe._base for recipe in recipes if recipe._base is not None), None)
        return cls(value, base=base, items=items, opened=opened)

    def combine(self, rule: Callable[[Value, Value], Value], other: Any) -> "Recipe":
        """Apply a rule to this recipe and a recipe or a number."""
        if is_number(other):
            other = Recipe.of_number(other)
        if not isinstance(other, Recipe):
            return NotImplemented  # type: ignore[no-any-return]
        recipes: list[Recipe] = [self, other]
        return Recipe.combining(lambda values: rule(*values), recipes)

    def open(self, reference: Reference) -> Checkpoint | None:
        """Open a checkpoint's header, once; None when it was declared without a file."""
        if reference not in self.opened:
            path = None if reference.path is None else locate(reference)
            self.opened[reference] = None if path is None else open_checkpoint(path)
        return self.opened[reference]

    def _at(self, error: TaskalgError) -> TaskalgError:
        """Point an error that has no place at the whole expression."""
        if error.span is None and self._expression is not None:
            error.span = self._expression.span
        return error


_NOTHING_TO_WRITE = "there is no checkpoint in it, so there is nothing to write"
