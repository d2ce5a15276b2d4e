"""Output tensors of a plan, one after the other, to the factors an adapter stores."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskalg.adapters.factorize import (
    Factored,
    Matrix,
    Norms,
    chunks,
    compare,
    of_matrix,
    of_product,
    product_chunks,
)
from taskalg.adapters.modules import Module
from taskalg.adapters.report import Residual
from taskalg.dtypes import F32, F64, DType
from taskalg.engines.base import Bytes, Engine, conversion
from taskalg.errors import CheckpointError, OverflowingError, quoted
from taskalg.output.layout import OutputTensor
from taskalg.planning.plan import Step
from taskalg.running.blocks import cut_steps
from taskalg.running.sinks import MemorySink
from taskalg.running.stream import Pass


@dataclass(frozen=True)
class Form:
    """What an adapter should be like."""

    rank: int | None = None  # of every module; None joins the factors there are
    dtype: DType = F32  # of the factors


def is_factored(step: Step) -> bool:
    """Tell whether a tensor is a sum of products."""
    found = (source.factors for source in step.sources)
    return all(f is not None and f.a is not None and f.onto is None for f in found)


class Maker:
    """Makes factors and keeps them.

    Args:
        run: evaluates tensors and reads their factors.
        engine: rounds factors.
        form: what they should be like.

    Attributes:
        factors: for each module the bytes of both factors, `b` first.
        residuals: what they leave over.
        left_out: tensors that change and are no module's weight.
    """

    def __init__(self, run: Pass, engine: Engine, form: Form) -> None:
        self.factors: dict[Module, tuple[Bytes, Bytes]] = {}
        self.ranks: dict[Module, int] = {}
        self.residuals: list[Residual] = []
        self.left_out: list[Residual] = []
        self._run, self._engine, self._form = run, engine, form

    def take(self, step: Step, module: Module | None) -> None:
        """Make the factors of one tensor.

        Raises:
            CheckpointError: it cannot be read, or is not finite.
        """
        if step.sources and module is None:
            self._leave_out(step)
        elif step.sources and module is not None:
            self._factorize(step, module)

    def stored(self) -> dict[str, tuple[OutputTensor, Bytes]]:
        """Return what an adapter's file holds, by key."""
        found = {}
        for module, (b, a) in self.factors.items():
            rank = self.ranks[module]
            rows = zip(module.keys(), module.shapes(rank), (a, b), strict=True)
            for key, shape, content in rows:
                tensor = OutputTensor(key, self._form.dtype, shape, content.nbytes)
                found[key] = tensor, content
        return found

    def _factorize(self, step: Step, module: Module) -> None:
        rows: Iterator[Matrix]
        if is_factored(step):
            b, a = self._joined(step, module)
            _check_finite(step, b, a)
            rank = self._form.rank
            whole = rank is None or rank >= len(a)
            rank = min(rank or len(a), len(b), a.shape[1])
            factored = Factored(b, a) if whole else of_product(b, a, rank)
            rows = product_chunks(b, a)
        else:
            assert self._form.rank is not None, "check_form asks for one"
            matrix = self._dense(step).reshape(step.shape[0], -1)
            matrix = np.ascontiguousarray(matrix.T) if module.is_turned else matrix
            if not matrix.any():
                return
            factored = of_matrix(matrix, min(self._form.rank, *matrix.shape))
            rows = chunks(matrix)
        pair = (
            self._converted(factored.b, self._form.dtype, step),
            self._converted(factored.a, self._form.dtype, step),
        )
        kept = Factored(
            self._numbers(pair[0]).reshape(factored.b.shape),
            self._numbers(pair[1]).reshape(factored.a.shape),
        )
        self.factors[module], self.ranks[module] = pair, len(factored.a)
        self.residuals.append(Residual(step.name, len(factored.a), compare(rows, kept)))

    def _joined(self, step: Step, module: Module) -> tuple[Matrix, Matrix]:
        """Put the factors of all terms side by side, coefficients and scales in `b`."""
        combination = self._run.plan.combinations[step.combination]
        lefts, rights = [], []
        for index, operand in enumerate(combination.operands):
            stored = step.sources[index].factors
            assert stored is not None
            factors = self._run.inputs.factors(operand, stored)
            left, right = factors.left, factors.right
            if module.is_turned:
                left, right = right.T, left.T
            coefficient = combination.numbers[index] * Fraction(factors.scale)
            lefts.append(left * float(coefficient))
            rights.append(right)
        return np.concatenate(lefts, axis=1), np.concatenate(rights, axis=0)

    def _dense(self, step: Step) -> NDArray[np.float32]:
        """Evaluate one tensor of the plan into memory."""
        array = np.empty(step.nbytes, np.uint8)
        run = self._run
        run.stream(cut_steps(run.plan, [step], run.threads), MemorySink([array]))
        numbers = array.view(np.float32)
        _check_finite(step, numbers)
        return numbers

    def _leave_out(self, step: Step) -> None:
        numbers = self._dense(step).astype(np.float64)
        whole = float(np.vdot(numbers, numbers))
        if whole:
            self.left_out.append(Residual(step.name, 0, Norms(whole, whole)))

    def _converted(self, numbers: Matrix, dtype: DType, step: Step) -> Bytes:
        """Round binary64 numbers to a dtype, once.

        Raises:
            OverflowingError: one is too large for it.
        """
        content = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8)
        result = np.empty(numbers.size * dtype.itemsize, np.uint8)
        round_all = conversion(self._engine, F64, dtype)
        if round_all([content], result).overflowed:
            raise OverflowingError(
                f"the factors of {quoted(step.name)} overflow {dtype}",
                note=f"the largest is {np.abs(numbers).max():.3g}",
                help="choose a wider --dtype",
            )
        return result

    def _numbers(self, content: Bytes) -> Matrix:
        """Return the numbers of what is stored."""
        dtype = self._form.dtype
        numbers = np.empty(content.size // dtype.itemsize, np.float64)
        conversion(self._engine, dtype, F64)([content], numbers.view(np.uint8))
        return numbers


def _check_finite(step: Step, *parts: NDArray[np.floating[Any]]) -> None:
    if not all(np.isfinite(part).all() for part in parts):
        raise CheckpointError(
            f"tensor {quoted(step.name)} is not finite, so it has no factors",
            note="one of the inputs has NaN or Inf there",
        )
