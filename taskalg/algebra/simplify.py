"""Program to weighted sum: evaluates the tree over exact coefficients.

Statements run top to bottom, each once, and leave values behind, so a recipe of many bindings costs
what it says and not what it would be written out. No file is opened: checkpoints are references.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from taskalg.algebra.arguments import place
from taskalg.algebra.coefficient import Coefficient, selected
from taskalg.algebra.operators import (
    FUNCTIONS,
    NOT_LINEAR,
    Operator,
    add_all,
    divide,
    multiply,
    negate,
)
from taskalg.algebra.selectors import Glob, Item, LayerRange, Selector
from taskalg.algebra.weighted_sum import Reference, Value, WeightedSum
from taskalg.errors import ExpressionError, KindError, Span, TaskalgError, quoted
from taskalg.language.builder import MAX_NESTING
from taskalg.language.nodes import (
    Binding,
    Call,
    Definition,
    Layers,
    Name,
    Node,
    Number,
    Pattern,
    Product,
    Select,
    Signed,
    String,
    Sum,
)
from taskalg.language.recipe import Program

MAX_CALLS = 100_000  # of functions, in all
_SHOWN_CALLS = 3  # places "called here" that an error from inside a function shows


@dataclass
class Environment:
    """What a program leaves behind, and what a REPL keeps."""

    values: dict[str, Value] = field(default_factory=dict)  # bindings
    functions: dict[str, Definition] = field(default_factory=dict)
    items: dict[Item, Span] = field(default_factory=dict)  # selectors' items, where first written
    free: bool = False  # an unknown name is a checkpoint nobody declared


def simplify(
    program: Program, given: Mapping[str, Value] | None = None, *, free: bool = False
) -> tuple[Value | None, Environment]:
    """Evaluate a program.

    Args:
        program: linked, so that every name is known.
        given: values bound from outside; they replace bindings of the same name and sort.
        free: whether unknown names stand for undeclared checkpoints.

    Returns:
        The expression's value (None when there is none) and everything that was bound.

    Raises:
        ExpressionError: kinds do not fit, a scalar is too long, functions expand too far.
    """
    environment = Environment(dict(given or {}), free=free)
    run = _Run(environment)
    for statement in program.statements:
        if isinstance(statement, Definition):
            environment.functions[statement.name] = statement
            continue
        value = _named(run.value(statement.value, {}, 0), statement)
        earlier = environment.values.get(statement.name)
        if earlier is None:
            environment.values[statement.name] = value
        else:
            _check_sort(earlier, value, statement)
    if program.expression is None:
        return None, environment
    return run.value(program.expression, {}, 0), environment


def _named(value: Value, statement: Binding) -> Value:
    """Give a checkpoint the name it is bound to: `toxic = task("…")`."""
    if isinstance(value, WeightedSum) and isinstance(statement.value, Call):
        only = next(iter(value.terms))
        if only.name is None and statement.value.function in ("checkpoint", "task"):
            named = replace(only, name=statement.name, span=statement.name_span)
            return WeightedSum({named: value.terms[only]})
    return value


def _check_sort(given: Value, value: Value, statement: Binding) -> None:
    if isinstance(given, Coefficient) != isinstance(value, Coefficient):
        sorts = ["a checkpoint value", "a scalar"]
        if isinstance(value, Coefficient):
            sorts.reverse()
        raise KindError(
            f"{quoted(statement.name)} is {sorts[0]} in the recipe, but {sorts[1]} was given",
            statement.span,
        )


class _Run:
    """One evaluation: the walk over the tree and its limits."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.calls = 0

    def value(self, node: Node, local: Mapping[str, Value], depth: int) -> Value:
        """Evaluate a node; `local` holds the parameters of the function around it.

        Every level costs at most three Python frames (value, _call, _expand), so that the limit on
        nesting is reached well before Python's own.
        """
        if depth > MAX_NESTING:
            raise ExpressionError(f"functions nest more than {MAX_NESTING} deep", node.span)
        try:
            match node:
                case Number():
                    return Coefficient(node.value)
                case Name():
                    return self._name(node, local)
                case Signed():
                    value = self.value(node.operand, local, depth + 1)
                    return negate(value) if node.operator == "-" else value
                case Sum():
                    return self._sum(node, local, depth + 1)
                case Product():
                    return self._product(node, local, depth + 1)
                case Select():
                    operand = self.value(node.operand, local, depth + 1)
                    return multiply(selected(self._selector(node)), operand)
                case Call():
                    return self._call(node, local, depth + 1)
        except TaskalgError as error:
            if error.span is None:
                error.span = node.span
            raise

    def _name(self, node: Name, local: Mapping[str, Value]) -> Value:
        if node.name in local:
            return local[node.name]
        values = self.environment.values
        if node.name not in values:
            assert self.environment.free, f"{node.name} was linked"
            reference = Reference(None, "checkpoint", node.name, span=node.span)
            values[node.name] = WeightedSum({reference: Coefficient(1)})
        return values[node.name]

    def _sum(self, node: Sum, local: Mapping[str, Value], depth: int) -> Value:
        signed = []
        for operator, operand in zip(("+", *node.operators), node.operands, strict=True):
            value = self.value(operand, local, depth)
            signed.append(negate(value) if operator == "-" else value)
        return add_all(signed)

    def _product(self, node: Product, local: Mapping[str, Value], depth: int) -> Value:
        result = self.value(node.operands[0], local, depth)
        for operator, operand in zip(node.operators, node.operands[1:], strict=True):
            factor = self.value(operand, local, depth)
            try:
                result = multiply(result, factor) if operator == "*" else divide(result, factor)
            except TaskalgError as error:
                if error.span is None and operator == "/":
                    error.span = operand.span
                raise
        return result

    def _selector(self, node: Select) -> Selector:
        plain: list[Item] = []
        excluded: list[Item] = []
        for written in node.items:
            item = _item(written)
            self.environment.items.setdefault(item, written.span)
            (excluded if written.excluded else plain).append(item)
        return Selector(tuple(dict.fromkeys(plain)), tuple(dict.fromkeys(excluded)))

    def _call(self, node: Call, local: Mapping[str, Value], depth: int) -> Value:
        if node.function in NOT_LINEAR:
            raise _not_linear(node)
        definition = self.environment.functions.get(node.function)
        signature = FUNCTIONS[node.function] if definition is None else _signature(definition)
        arguments = place(node, signature)
        values: list[Value | String | None] = []
        for argument in arguments:
            if argument is None or isinstance(argument, String):
                values.append(argument)
            else:
                values.append(self.value(argument, local, depth))
        if definition is None and signature.rule is None:
            return _reference(signature, values, arguments)
        for value in values:
            if isinstance(value, String):
                raise KindError("a string is an argument, not a value", value.span)
        plain = cast(list[Value], values)
        if signature.rule is not None:
            return signature.rule(plain)
        assert definition is not None
        return self._expand(definition, plain, node, depth)

    def _expand(
        self, definition: Definition, values: Sequence[Value], node: Call, depth: int
    ) -> Value:
        self.calls += 1
        if self.calls > MAX_CALLS:
            raise ExpressionError(f"functions expand to more than {MAX_CALLS:,} calls", node.span)
        names = (parameter.name for parameter in definition.parameters)
        try:
            return self.value(definition.body, dict(zip(names, values, strict=True)), depth)
        except TaskalgError as error:
            if len(error.also) < _SHOWN_CALLS:
                error.also += (("called here", node.span),)
            raise


def _not_linear(node: Call) -> ExpressionError:
    return ExpressionError(
        f"{node.function} is not available yet",
        node.function_span,
        note=f"it {NOT_LINEAR[node.function]}: that is not linear, so not one weighted sum",
        help="lerp, mean, analogy and ramp are linear; taskalg ops lists all",
    )


def _signature(definition: Definition) -> Operator:
    names = tuple(parameter.name for parameter in definition.parameters)
    usage = f"{definition.name}({', '.join(names)})"
    return Operator(definition.name, usage, "", "", names)


def _reference(
    operator: Operator,
    values: Sequence[Value | String | None],
    written: Sequence[Node | String | None],
) -> Value:
    """Mention a checkpoint: `checkpoint("path")`, `task("path", base)`."""
    names = (*operator.parameters, *operator.keywords)
    given = dict(zip(names, values, strict=True))
    at = {name: node.span for name, node in zip(names, written, strict=True) if node is not None}
    path, base, prefix = given["path"], given.get("base"), given["strip_prefix"]
    if not isinstance(path, String):
        raise KindError(
            f"{operator.name} needs a path in quotes",
            at["path"],
            help=f'write {operator.name}("path")',
        )
    if isinstance(base, Coefficient | String):
        raise KindError("a base is a checkpoint value", at["base"])
    if prefix is not None and not isinstance(prefix, String):
        raise KindError("a prefix is a text in quotes", at["strip_prefix"])
    reference = Reference(
        path.text,
        "task" if operator.name == "task" else "checkpoint",
        base=base,
        folder=path.span.source.folder,
        span=path.span,
        strip_prefix=None if prefix is None else prefix.text,
    )
    return WeightedSum({reference: Coefficient(1)})


def _item(written: Pattern | Layers) -> Item:
    if isinstance(written, Pattern):
        return Glob(written.text)
    if written.single:
        assert written.start is not None
        return LayerRange(written.start, written.start + 1 or None)
    return LayerRange(written.start, written.stop)
