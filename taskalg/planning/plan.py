"""What will happen, decided from headers alone: canonical sum in, one step per output tensor out.

A plan is a value. It holds every byte that will be read and every exact coefficient, so it can be
shown before anything runs and held against what ran. Steps that do the same thing to other tensors
share one `Combination`; there are few of those however many tensors there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.kinds import Kind
from taskalg.checkpoints.base import TensorSpec
from taskalg.dtypes import DType
from taskalg.planning.align import Aligned
from taskalg.planning.combination import Combination
from taskalg.planning.fit import Fit
from taskalg.planning.resolve import Operand, Resolved


@dataclass(frozen=True, slots=True)
class Step:
    """One output tensor, or some rows of one."""

    name: str
    shape: tuple[int, ...]  # of the tensor
    nbytes: int  # of the output
    combination: int  # index into the plan's combinations
    sources: tuple[TensorSpec, ...]  # what is read, one for each operand of the combination
    first: int = 0  # where in the tensor the output starts [bytes]


@dataclass(frozen=True, slots=True)
class Comparison:
    """An integer tensor that the donor gives and another term has as well; both are read."""

    name: str
    donor: TensorSpec
    operand: int  # index of the other term among the plan's operands
    other: TensorSpec


@dataclass(frozen=True)
class Usage:
    """What a plan reads of one checkpoint."""

    operand: Operand
    coefficient: Coefficient  # of its file, exact; zero when it cancels
    tensors: int  # how many are read; 0 when it is never opened
    bytes_read: int  # headers left out [bytes]
    bytes_copied: int  # part of bytes_read that goes to the output as it is [bytes]


@dataclass(frozen=True)
class Choices:
    """What the user decides about a plan besides the expression."""

    donor: str | None = None  # a name; None for the rule of choose_donor
    dtype: DType | None = None  # of floating tensors; None follows the donor
    allow_partial: bool = False
    only_shared: bool = False
    rows: str = "all"  # or "common", where numbers of rows differ
    outputs: Mapping[str, DType] = field(default_factory=dict)  # of single tensors, before `dtype`


@dataclass(frozen=True)
class Plan:
    """Everything that will be read, combined and written; nothing of when or how fast."""

    kind: Kind
    aligned: Aligned  # the sum, in canonical order, and what was done to make names agree
    steps: tuple[Step, ...]  # in the donor's file order; those of one tensor follow each other
    combinations: tuple[Combination, ...]
    comparisons: tuple[Comparison, ...]
    usage: tuple[Usage, ...]  # one for each operand
    fit: Fit  # coefficients by tensor, and what --only-shared left out
    choices: Choices  # what it was made with
    measured: Mapping[str, Fraction] = field(default_factory=dict)  # numbers put in for symbols

    @property
    def total(self) -> Resolved:
        """The sum, in canonical order."""
        return self.aligned.total

    @property
    def donor(self) -> int:
        """Index of the operand that gives names, dtypes and side files."""
        return self.aligned.donor

    @property
    def operands(self) -> tuple[Operand, ...]:
        """All checkpoints of the sum, those that cancel included."""
        return tuple(operand for operand, _ in self.total.terms)

    @property
    def tensors(self) -> list[Step]:
        """The first step of each output tensor."""
        return [step for step in self.steps if step.first == 0]

    @property
    def bytes_read(self) -> int:
        """Tensor data that will be read, copies included [bytes]."""
        return sum(usage.bytes_read for usage in self.usage)

    @property
    def bytes_copied(self) -> int:
        """Part of it that goes to the output unchanged [bytes]."""
        return sum(usage.bytes_copied for usage in self.usage)

    @property
    def bytes_written(self) -> int:
        """Tensor data of the output, headers left out [bytes]."""
        return sum(step.nbytes for step in self.steps)
