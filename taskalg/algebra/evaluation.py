"""A program, its value, and what it was evaluated with, so that it can be evaluated again.

The statements are kept and not only their value: a scalar is multiplied into many coefficients, and
none of them says where it came from.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.simplify import Environment, simplify
from taskalg.algebra.weighted_sum import Reference, Value, WeightedSum
from taskalg.language.nodes import Call, Definition, Name, Node, walk
from taskalg.language.recipe import Program


@dataclass(frozen=True)
class Evaluation:
    """A program's value, what it left behind, and what it was given."""

    program: Program  # linked; it has an expression
    given: Mapping[str, Value]  # bound from outside, in place of its own bindings
    free: bool  # whether unknown names stand for undeclared checkpoints
    value: Value
    environment: Environment

    def again(self, values: Mapping[str, Value]) -> "Evaluation":
        """Evaluate the program with other values in the place of its bindings.

        Raises:
            ExpressionError: one is of another sort than the binding, or they do not fit.
        """
        return evaluate(self.program, {**self.given, **values}, free=self.free)

    @property
    def base(self) -> Value | None:
        """What tasks are taken against, declared when only they were."""
        values = self.environment.values
        declared = any(map(_has_declared_task, values.values()))
        if "base" not in values and declared:
            return WeightedSum({Reference(None, "checkpoint", "base"): Coefficient(1)})
        return values.get("base")

    @property
    def scalars(self) -> dict[str, Fraction]:
        """Numbers that may be set: those from outside, and bindings in which there is no scalar."""
        values = self.environment.values
        scalars = {name: value for name, value in values.items() if isinstance(value, Coefficient)}
        derived = set()
        inside: dict[str, set[str]] = {}  # names that the functions mention
        for statement in self.program.statements:
            if isinstance(statement, Definition):
                parameters = {parameter.name for parameter in statement.parameters}
                inside[statement.name] = {*_mentioned(statement.body, inside)} - parameters
            elif not scalars.keys().isdisjoint(_mentioned(statement.value, inside)):
                derived.add(statement.name)
        numbers = {name: value.constant for name, value in scalars.items()}
        settable = scalars.keys() - (derived - self.given.keys())
        return {n: number for n, number in numbers.items() if number is not None and n in settable}


def evaluate(program: Program, given: Mapping[str, Value], *, free: bool = False) -> Evaluation:
    """Evaluate a program that has an expression.

    Args:
        program: linked, so that every name is known.
        given: values bound from outside; they replace bindings of the same name and sort.
        free: whether unknown names stand for undeclared checkpoints.

    Raises:
        ExpressionError: kinds do not fit, a scalar is too long, functions expand too far.
    """
    value, environment = simplify(program, given, free=free)
    assert value is not None, "the program has an expression"
    return Evaluation(program, given, free, value, environment)


def _has_declared_task(value: Value) -> bool:
    """Tell whether a value is a task that was declared without a file."""
    if not isinstance(value, WeightedSum):
        return False
    return any(r.sort == "task" and r.path is None for r in value.terms)


def _mentioned(node: Node, inside: Mapping[str, set[str]]) -> Iterator[str]:
    """Yield the names in a node, and in the functions that it calls."""
    for found in walk(node):
        if isinstance(found, Name):
            yield found.name
        elif isinstance(found, Call):
            yield from inside.get(found.function, ())
