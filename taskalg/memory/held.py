"""A plan that stays: operands and targets on one device, evaluated as often as scalars change.

Everything that depends on tensors is done once: operands are brought, and their addresses handed to
an engine, one group for each combination of dtypes. What is left for new values of the scalars is
to put them into a few small polynomials, and one call of the engine for each group. Tensors that no
scalar changes are evaluated once, and those that are the donor's anyway are copied and not held.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch

from taskalg.algebra.coefficient import Number
from taskalg.algebra.kinds import Kind
from taskalg.checkpoints.base import Checkpoint, TensorSpec
from taskalg.dtypes import DType
from taskalg.engines.base import Engine, Group, Resident, Tally
from taskalg.memory.loading import compare_shared
from taskalg.memory.operands import Bringing, Ranges
from taskalg.memory.targets import Targets, span
from taskalg.planning.donor import opened
from taskalg.planning.plan import Plan, Step
from taskalg.running.execute import fetched_inputs
from taskalg.running.reading import Stored
from taskalg.running.stream import Pass, Settings

Rows = Sequence[Sequence[Fraction]]

_NOTHING, _ONE = Fraction(0), Fraction(1)


@dataclass(frozen=True)
class Part:
    """Tensors that one call of the engine evaluates."""

    names: tuple[str, ...]  # a tensor of which some rows are summed is there for each sum
    operands: tuple[tuple[int, ...], ...]  # of each row's terms
    rows: tuple[tuple[Number, ...], ...]  # coefficients by row
    group: Group
    evaluate: Resident

    @property
    def is_fixed(self) -> bool:
        """Whether no scalar changes it."""
        return all(isinstance(number, Fraction) for row in self.rows for number in row)


@dataclass(frozen=True)
class _Sum:
    """One step's sum, with the donor among its terms."""

    step: Step
    operands: tuple[int, ...]
    row: tuple[Number, ...]
    sources: tuple[Stored, ...]
    output: DType

    @property
    def alike(self) -> tuple[tuple[DType, ...], DType]:
        """What tensors of one group share."""
        return tuple(source.spec.dtype for source in self.sources), self.output


class Held:
    """A plan's operands in memory, and the tensors it is evaluated into.

    Args:
        plan: what to evaluate; its coefficients may have symbols.
        targets: where to, of the plan's dtypes and on the device. They may be the memory of
            operands, which are copied before.
        engine: evaluates; it can use that device's memory.
        away: whether operands that are not on the device stay in host memory. Otherwise only those
            do that do not fit.
        threads: of an engine on the host.
        checkpoints: the plan's, on this machine; None fetches them.

    Attributes:
        parts: what is evaluated.
        holdings: where operands are, by their index in the plan.

    Raises:
        CheckpointError: an operand cannot be read.
        MismatchError: tensors that have to be equal are not.

    Memory: all operands of sums that are not in memory on the device already.
    """

    def __init__(
        self,
        plan: Plan,
        targets: Targets,
        engine: Engine,
        *,
        device: torch.device,
        away: bool = False,
        threads: int | None = None,
        checkpoints: Sequence[Checkpoint] | None = None,
    ) -> None:
        self.plan, self.targets, self.device = plan, targets, device
        self._engine, self._threads = engine, threads
        self._is_settled = False  # whether what no scalar changes is as it should be
        self._plain = {name: _plain(target) for name, target in targets.tensors.items()}
        self._tracked = [t for t in targets.tensors.values() if not t.is_inference()]
        self._loose = [
            (t, p) for name, t in targets.tensors.items() if t is not (p := self._plain[name])
        ]
        steps = [step for step in plan.steps if step.name in targets.tensors]
        sums = [self._sum(step) for step in steps if not self._is_given(step)]
        if checkpoints is None:
            checkpoints = fetched_inputs(plan, Settings())
        written = Ranges(span(t)[1:] for t in targets.tensors.values() if t.numel())
        # a pass that evaluates nothing, and so needs no coefficients
        with Pass(replace(plan, combinations=()), engine, checkpoints, Settings()) as run:
            run.compare()
            compare_shared(plan, run.inputs, targets)
            bringing = Bringing(run.inputs, checkpoints, device, written)
            operands = bringing.bring((one for s in sums for one in s.sources), away=away)
            self._give([step for step in steps if self._is_given(step)], bringing)
        self.holdings, self._operands = operands.holdings, operands
        self.parts = tuple(self._parts(sums))

    def evaluate(self, values: Mapping[str, Fraction]) -> Tally:
        """Evaluate all sums.

        Args:
            values: of all scalars.

        Raises:
            ExpressionError: something is divided by zero; nothing is written then.
        """
        rows = [self.rows(part, values) for part in self.parts]
        return self._run(rows, fixed=not self._is_settled)

    def restore(self) -> None:
        """Evaluate the donor alone."""
        donor = self.plan.donor
        rows = [
            [[_ONE if operand == donor else _NOTHING for operand in row] for row in part.operands]
            for part in self.parts
        ]
        self._run(rows, fixed=True)
        self._is_settled = False

    @property
    def moved(self) -> tuple[int, int, int]:
        """Bytes that one evaluation reads, writes, and reads from host memory for a GPU."""
        read = written = away = 0
        for part in (part for part in self.parts if not part.is_fixed):
            counts = part.group.counts
            written += int(counts.sum()) * part.group.output.itemsize
            for row, operands in enumerate(part.operands):
                elements = int(counts[part.group.rows == row].sum())
                for operand, dtype in zip(operands, part.group.inputs, strict=True):
                    read += elements * dtype.itemsize
                    away += elements * dtype.itemsize * self.holdings[operand].is_away
        return read, written, away

    def rows(self, part: Part, values: Mapping[str, Fraction]) -> list[list[Fraction]]:
        """Put values into a part's coefficients."""
        return [[_valued(number, values) for number in row] for row in part.rows]

    def overflowing(self, values: Mapping[str, Fraction]) -> list[str]:
        """Find out which tensors overflow, by evaluating them one by one."""
        found: dict[str, None] = {}
        for part in self.parts:
            rows, group = self.rows(part, values), part.group
            for index, name in enumerate(part.names):
                one = slice(index, index + 1)
                places = group.rows[one], group.addresses[one], group.counts[one]
                alone = self._engine.resident(Group(group.inputs, group.output, *places))
                if alone(rows).overflowed:
                    found[name] = None
        return list(found)

    def _run(self, rows: Sequence[Rows], *, fixed: bool) -> Tally:
        self._is_settled = False  # until all of it is done
        tally = Tally()
        for part, given in zip(self.parts, rows, strict=True):
            if fixed or not part.is_fixed:
                tally += part.evaluate(given)
        self._publish()
        self._is_settled = True
        return tally

    def _publish(self) -> None:
        """Have autograd know that targets changed, and copy to those that are not contiguous."""
        torch.autograd.graph.increment_version(self._tracked)
        for target, plain in self._loose:
            with torch.inference_mode(target.is_inference()), torch.no_grad():
                target.copy_(plain)

    def _is_given(self, step: Step) -> bool:
        """Tell whether a step's result is zero or the donor's, whatever the scalars are."""
        combination = self.plan.combinations[step.combination]
        is_donor = combination.operands == (self.plan.donor,)
        return combination.is_zero or (combination.is_copy and is_donor)

    def _give(self, steps: Sequence[Step], bringing: Bringing) -> None:
        """Write what is zero or the donor's."""
        for step in steps:
            part = self._bytes(step)
            if self.plan.combinations[step.combination].is_zero:
                part.zero_()
            else:
                bringing.copy(Stored(self.plan.donor, step.sources[0]), part)
        self._publish()

    def _bytes(self, step: Step) -> torch.Tensor:
        """Return the memory that a step is evaluated into."""
        plain = self._plain[step.name]
        flat = plain.as_strided((plain.numel(),), (1,)).view(torch.uint8)
        return flat[step.first : step.first + step.nbytes]

    def _sum(self, step: Step) -> _Sum:
        """Return a step's sum; the donor takes part, with zero where nothing asks for it."""
        combination, donor = self.plan.combinations[step.combination], self.plan.donor
        operands, row, sources = combination.operands, combination.coefficients, step.sources
        if donor not in operands and self.plan.kind is not Kind.TASK_VECTOR:
            spec = opened(self.plan.operands[donor]).tensors[step.name]
            operands, row = (*operands, donor), (*row, _NOTHING)
            sources = (*sources, _part_of(spec, step, combination.output))
        stored = tuple(map(Stored, operands, sources))
        return _Sum(step, operands, row, stored, combination.output)

    def _parts(self, sums: Sequence[_Sum]) -> Iterator[Part]:
        """Put sums together that have the same dtypes."""
        groups: dict[object, list[_Sum]] = {}
        for one in sums:
            is_fixed = all(isinstance(number, Fraction) for number in one.row)
            groups.setdefault((one.alike, is_fixed), []).append(one)
        for members in groups.values():
            inputs, output = members[0].alike
            rows: dict[tuple[tuple[int, ...], tuple[Number, ...]], int] = {}
            which = [rows.setdefault((one.operands, one.row), len(rows)) for one in members]
            group = Group(
                inputs,
                output,
                np.array(which, np.int64),
                np.array([self._addresses(one) for one in members], np.int64),
                np.array([one.step.nbytes // output.itemsize for one in members], np.int64),
            )
            yield Part(
                tuple(one.step.name for one in members),
                tuple(operands for operands, _ in rows),
                tuple(row for _, row in rows),
                group,
                self._engine.resident(group, threads=self._threads),
            )

    def _addresses(self, one: _Sum) -> list[int]:
        sources = [self._operands.addresses[source] for source in one.sources]
        return [*sources, self._bytes(one.step).data_ptr()]


def _plain(target: torch.Tensor) -> torch.Tensor:
    """Return a target whose bytes are its elements, row by row: itself, or another."""
    if target.is_contiguous() and not (target.is_neg() or target.is_conj()):
        return target
    return torch.empty(target.shape, dtype=target.dtype, device=target.device)


def _part_of(spec: TensorSpec, step: Step, output: DType) -> TensorSpec:
    """Return what of a tensor a step is the sum for."""
    first, count = step.first // output.itemsize, step.nbytes // output.itemsize
    width = spec.dtype.itemsize
    return replace(spec, offset=spec.offset + first * width, nbytes=count * width)


def _valued(number: Number, values: Mapping[str, Fraction]) -> Fraction:
    if isinstance(number, Fraction):
        return number
    value = number.given(values).constant
    assert value is not None, "every scalar has a value"
    return value
