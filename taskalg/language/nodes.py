"""The syntax tree: frozen dataclasses, each with a span.

Two trees are equal when they were written the same way, wherever they stood: spans do not count,
the spelling of a number does. Sums and products are flat, so a tree is never deeper than the text's
own nesting.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from taskalg.errors import Source, Span


@dataclass(frozen=True, slots=True)
class Number:
    """A literal."""

    text: str  # its spelling: "1e-3"
    value: Fraction = field(compare=False)  # exactly what it spells
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Name:
    """A use of a binding or a parameter."""

    name: str  # after NFKC normalization
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class String:
    """A string: an argument, never a value."""

    text: str  # between the quotes, as typed
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Sum:
    """Operands joined by + and -, two or more."""

    operands: tuple["Node", ...]
    operators: tuple[str, ...]  # one fewer than operands; "+" or "-" before each but the first
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Product:
    """Operands joined by * and /, two or more, from left to right."""

    operands: tuple["Node", ...]
    operators: tuple[str, ...]  # one fewer than operands; "*" or "/" before each but the first
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Signed:
    """A unary + or -."""

    operator: str
    operand: "Node"
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One item of a selector: tensors whose whole name matches (fnmatchcase)."""

    text: str
    excluded: bool  # written with ~
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Layers:
    """One item of a selector: a range of layers, or one layer."""

    start: int | None  # first layer, negative counts from the last + 1; None is open
    stop: int | None  # layer after the last one, likewise
    single: bool  # written `i`, not `i:j`; then stop is None and start is i
    excluded: bool  # written with ~
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Select:
    """`operand[items]`."""

    operand: "Node"
    items: tuple[Pattern | Layers, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a call."""

    keyword: str | None  # its name in `f(density=0.2)`, else None
    value: "Node | String"
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """`function(arguments)`; the function is always a name."""

    function: str
    arguments: tuple[Argument, ...]
    function_span: Span = field(compare=False, repr=False)
    span: Span = field(compare=False, repr=False)


Node = Number | Name | Sum | Product | Signed | Select | Call


@dataclass(frozen=True, slots=True)
class Use:
    """`use "zoo.ta"`."""

    path: String
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Binding:
    """`name = value`."""

    name: str
    value: Node
    name_span: Span = field(compare=False, repr=False)
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Definition:
    """`name(parameters) = body`."""

    name: str
    parameters: tuple[Name, ...]
    body: Node
    name_span: Span = field(compare=False, repr=False)
    span: Span = field(compare=False, repr=False)


Statement = Use | Binding | Definition


@dataclass(frozen=True, slots=True)
class Recipe:
    """One parsed text: statements, then at most one expression."""

    statements: tuple[Statement, ...]
    expression: Node | None
    source: Source = field(compare=False, repr=False)


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes directly inside `node`; strings and selectors' items are not nodes."""
    match node:
        case Sum() | Product():
            return node.operands
        case Signed() | Select():
            return (node.operand,)
        case Call():
            return tuple(a.value for a in node.arguments if not isinstance(a.value, String))
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all nodes inside it, however deep."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        waiting += children(found)
        yield found
