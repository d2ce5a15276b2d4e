"""Nodes to text: parsing the text gives the same nodes, with the fewest brackets.

Sums and products are flat, so a sum inside a sum was written in brackets and keeps them; everything
else goes by precedence. A stack instead of recursion keeps the interpreter's own limit out of it.
Not `fmt`: a tree has no comments and no line breaks, so that one works on tokens (format.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

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
    Recipe,
    Select,
    Signed,
    Statement,
    String,
    Sum,
    Use,
)

# How tightly a node holds together; the grammar's ladder, loosest first.
_SUM, _PRODUCT, _UNARY, _POSTFIX = range(4)


@dataclass(frozen=True, slots=True)
class _Slot:
    """A node still to print, and what may stand in its place without brackets."""

    node: Node | String
    level: int  # the loosest one


Piece = str | _Slot


def print_node(node: Node | String) -> str:
    """Print an expression.

    Raises:
        ValueError: a string holds both sorts of quotes or a line break; no text can spell it.
    """
    printed: list[str] = []
    pending: list[Piece] = [_Slot(node, _SUM)]
    while pending:
        piece = pending.pop()
        if isinstance(piece, str):
            printed.append(piece)
        elif _level(piece.node) < piece.level:
            pending += [")", _Slot(piece.node, _SUM), "("]
        else:
            pending += reversed(list(_pieces(piece.node)))
    return "".join(printed)


def print_recipe(recipe: Recipe) -> str:
    """Print a recipe, one statement per line, each line ended.

    Raises:
        ValueError: a string holds both sorts of quotes or a line break; no text can spell it.
    """
    lines = [_statement(statement) for statement in recipe.statements]
    if recipe.expression is not None:
        text = print_node(recipe.expression)
        # A sign at the start of any line but the first would read as that line's continuation.
        lines.append(f"({text})" if lines and text[0] in "+-" else text)
    return "".join(f"{line}\n" for line in lines)


def _statement(statement: Statement) -> str:
    match statement:
        case Use():
            return f"use {_quoted(statement.path.text)}"
        case Binding():
            return f"{statement.name} = {print_node(statement.value)}"
        case Definition():
            parameters = ", ".join(parameter.name for parameter in statement.parameters)
            return f"{statement.name}({parameters}) = {print_node(statement.body)}"


def _level(node: Node | String) -> int:
    match node:
        case Sum():
            return _SUM
        case Product():
            return _PRODUCT
        case Signed():
            return _UNARY
        case _:
            return _POSTFIX


def _pieces(node: Node | String) -> Iterator[Piece]:
    """Take a node apart, one level deep."""
    match node:
        case Number():
            yield node.text
        case Name():
            yield node.name
        case String():
            yield _quoted(node.text)
        case Signed():
            yield from (node.operator, _Slot(node.operand, _UNARY))
        case Sum():
            yield from _chain(node.operands, [f" {sign} " for sign in node.operators], _PRODUCT)
        case Product():
            yield from _chain(node.operands, node.operators, _UNARY)
        case Select():
            items = ", ".join(_item(item) for item in node.items)
            yield from (_Slot(node.operand, _POSTFIX), f"[{items}]")
        case Call():
            yield from (node.function, "(", *_arguments(node), ")")


def _chain(
    operands: tuple[Node, ...], operators: list[str] | tuple[str, ...], level: int
) -> Iterator[Piece]:
    slots = [_Slot(operand, level) for operand in operands]
    following = zip(operators, slots[1:], strict=True)
    return chain(slots[:1], chain.from_iterable(following))


def _arguments(call: Call) -> Iterator[Piece]:
    for index, argument in enumerate(call.arguments):
        if index:
            yield ", "
        if argument.keyword is not None:
            yield f"{argument.keyword}="
        yield _Slot(argument.value, _SUM)


def _item(item: Pattern | Layers) -> str:
    sign = "~" if item.excluded else ""
    if isinstance(item, Pattern):
        return sign + _quoted(item.text)
    start, stop = ("" if bound is None else str(bound) for bound in (item.start, item.stop))
    return sign + (start if item.single else f"{start}:{stop}")


def _quoted(text: str) -> str:
    quote = "'" if '"' in text else '"'
    if quote in text or "\n" in text:
        raise ValueError(f"no string can hold {text!r}: there are no escapes")
    return f"{quote}{text}{quote}"
