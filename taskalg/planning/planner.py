"""A sum to its plan: one step for each output tensor, in the donor's order."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from taskalg.algebra.coefficient import Number
from taskalg.algebra.kinds import Kind
from taskalg.algebra.selectors import Item
from taskalg.checkpoints.base import TensorSpec
from taskalg.dtypes import F32, DType
from taskalg.errors import DivisionError, Span
from taskalg.planning.align import Aligned, align
from taskalg.planning.combination import AS_IT_IS, Combination
from taskalg.planning.donor import choose_donor, opened
from taskalg.planning.fit import Fit, check_items, fit, terms_of
from taskalg.planning.naming import zero_divisor
from taskalg.planning.plan import Choices, Comparison, Plan, Step, Usage
from taskalg.planning.resolve import Resolved
from taskalg.planning.result import check_result, check_something_left, kind


def make_plan(
    total: Resolved, choices: Choices | None = None, items: Mapping[Item, Span] | None = None
) -> Plan:
    """Decide, tensor by tensor, what to read and with which coefficients.

    Reads headers only, and those are in memory already. Steps come in the donor's file order.

    Args:
        total: sum to evaluate; every operand has a checkpoint.
        choices: donor, dtype, and what to allow.
        items: where selectors' items were written, to complain about those that select nothing.

    Returns:
        Plan with one step per output tensor. `plan.bytes_read` [bytes] is exact.

    Raises:
        KindError: nothing is left, or the result is partial and that is not allowed.
        MismatchError: names, shapes or sorts of dtype differ.
        ExpressionError: a pattern or range selects nothing.

    Memory: about 500 [bytes] per tensor.
    """
    choices = choices or Choices()
    aligned = align(total, choose_donor(total, choices.donor))
    total = aligned.total
    found = kind(total)
    check_result(total, found, choices.allow_partial)
    fitted = fit(aligned, only_shared=choices.only_shared, rows=choices.rows)
    check_items(total, items or {}, fitted.places)
    check_something_left(total, fitted.table)
    return _Planner(aligned, found, choices, fitted).plan()


def plan_measuring(
    total: Resolved, choices: Choices, items: Mapping[Item, Span] | None = None
) -> Plan:
    """Plan a sum that is measured: what is not summed, such as integer tensors, is left out.

    Any sum can be measured, also one of which nothing is left.

    Raises:
        MismatchError: names, shapes or sorts of dtype differ.
        ExpressionError: a pattern or range selects nothing.
    """
    aligned = align(total, choose_donor(total, choices.donor))
    fitted = fit(aligned, only_shared=choices.only_shared, rows=choices.rows)
    check_items(aligned.total, items or {}, fitted.places)
    return _Planner(aligned, Kind.TASK_VECTOR, choices, fitted).plan()


def with_numbers(plan: Plan, values: Mapping[str, Fraction]) -> Plan:
    """Put numbers in the place of what is measured; a checkpoint that cancels then is not read.

    Names stay aligned as they were, and the sum as it is printed.

    Raises:
        MismatchError: a divisor turns out to be zero.
    """
    try:
        fitted = plan.fit.given(values)
    except DivisionError as error:
        raise zero_divisor(error, "that was measured") from None
    found = _Planner(plan.aligned, plan.kind, plan.choices, fitted).plan()
    return replace(found, measured={**plan.measured, **values})


class _Planner:
    """Collects steps; the combinations they share are numbered as they come."""

    def __init__(self, aligned: Aligned, kind: Kind, choices: Choices, fitted: Fit) -> None:
        self.aligned, self.donor, self.kind = aligned, aligned.donor, kind
        self.choices, self.fit = choices, fitted
        self.tensors = [opened(operand).tensors for operand, _ in aligned.total.terms]
        self.taking_part = [terms_of(row) for row in fitted.table.classes]
        self.rows = [tuple(value for value in row if value) for row in fitted.table.classes]
        self.combinations: dict[Combination, int] = {}
        self.known: dict[tuple[object, ...], int] = {}  # the same by what is cheap to compare
        self.steps: list[Step] = []
        self.comparisons: list[Comparison] = []

    def plan(self) -> Plan:
        unshared = {*self.fit.unshared, *self.aligned.buffers}
        for spec in self.fit.tensors.values():
            if not spec.dtype.is_floating:
                self._copy_integer(spec)
            elif spec.name not in unshared:
                self._combine(spec)
            elif self.kind is not Kind.TASK_VECTOR:
                self._add(spec, [self.donor], AS_IT_IS, self._output(spec, []))
        return Plan(
            self.kind,
            self.aligned,
            tuple(self.steps),
            tuple(self.combinations),
            tuple(self.comparisons),
            self._usage(),
            self.fit,
            self.choices,
        )

    def _combine(self, spec: TensorSpec) -> None:
        """Combine a tensor; or, where numbers of rows differ, its first ones."""
        index = self.fit.table.of[spec.name]
        operands, row = self.taking_part[index], self.rows[index]
        output = self._output(spec, operands)
        count = self.fit.rows.get(spec.name)
        if count is None:
            self._add(spec, operands, row, output)
            return
        self._add(spec, operands, row, output, range(count))
        rest = range(count, spec.shape[0])
        if rest and self.kind is Kind.TASK_VECTOR:
            self._add(spec, [], (), output, rest)
        elif rest:
            self._add(spec, [self.donor], AS_IT_IS, output, rest)

    def _output(self, spec: TensorSpec, operands: list[int]) -> DType:
        """Follow the donor; a difference of 8 or 16 bit numbers needs more bits than they have."""
        chosen = self.choices.outputs.get(spec.name, self.choices.dtype)
        if chosen is not None:
            return chosen
        if self.kind is not Kind.TASK_VECTOR and spec.factors is None:
            return spec.dtype
        sources = [self.tensors[operand][spec.name] for operand in operands]
        stored = [source.dtype for source in sources if source.factors is None]
        return max([F32, *stored], key=lambda dtype: dtype.itemsize)

    def _add(
        self,
        spec: TensorSpec,
        operands: list[int],
        row: tuple[Number, ...],
        output: DType,
        rows: range | None = None,
    ) -> None:
        """Add a step for a tensor, or for some of its rows."""
        sources = tuple([self.tensors[operand][spec.name] for operand in operands])
        codes = [source.dtype.code for source in sources]
        is_computed = any(source.factors is not None for source in sources)
        key = (id(row), *operands, *codes, output.code, is_computed)
        index = self.known.get(key)
        if index is None:
            inputs = tuple(source.dtype for source in sources)
            combination = Combination(tuple(operands), row, inputs, output, is_computed)
            index = self.combinations.setdefault(combination, len(self.combinations))
            self.known[key] = index
        nbytes, first = spec.nbytes // spec.dtype.itemsize * output.itemsize, 0
        if rows is not None:
            each = nbytes // spec.shape[0]
            nbytes, first = each * len(rows), each * rows.start
            sources = tuple(_rows_of(source, rows) for source in sources)
        self.steps.append(Step(spec.name, spec.shape, nbytes, index, sources, first))

    def _copy_integer(self, spec: TensorSpec) -> None:
        if self.kind is Kind.TASK_VECTOR:
            return
        self._add(spec, [self.donor], AS_IT_IS, spec.dtype)
        for operand in self.taking_part[self.fit.table.of[spec.name]]:
            other = self.tensors[operand].get(spec.name)
            if operand != self.donor and other is not None:
                self.comparisons.append(Comparison(spec.name, spec, operand, other))

    def _usage(self) -> tuple[Usage, ...]:
        count = len(self.aligned.total.terms)
        tensors, read, copied = [0] * count, [0] * count, [0] * count
        parts = [(combination.operands, combination.is_copy) for combination in self.combinations]
        for step in self.steps:
            operands, is_copy = parts[step.combination]
            for operand, source in zip(operands, step.sources, strict=True):
                tensors[operand] += 1
                read[operand] += source.bytes_stored
                copied[operand] += source.nbytes * is_copy
        for comparison in self.comparisons:
            tensors[comparison.operand] += 1
            read[comparison.operand] += comparison.other.nbytes
            read[self.donor] += comparison.donor.nbytes
        for copies in self.aligned.copies:
            tensors[copies.operand] += 1
            read[copies.operand] += copies.one.nbytes + copies.other.nbytes
        return tuple(
            Usage(operand, part, tensors[i], read[i], copied[i])
            for i, (operand, part) in enumerate(self.aligned.total.terms)
        )


def _rows_of(spec: TensorSpec, rows: range) -> TensorSpec:
    """Return a range of a tensor's rows as a tensor of its own."""
    each = spec.nbytes // spec.shape[0]
    shape = (len(rows), *spec.shape[1:])
    offset, nbytes = spec.offset + each * rows.start, each * len(rows)
    return replace(spec, shape=shape, offset=offset, nbytes=nbytes)
