"""What the parser calls for every rule it completes: tokens and parts in, a node out.

A part remembers where it stood with its brackets and how deeply it nests; the node inside does not.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lark import Token

from taskalg.errors import ExpressionError, Source, Span, quoted
from taskalg.language.characters import bad_name
from taskalg.language.literals import exact
from taskalg.language.nodes import (
    Argument,
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
    Statement,
    String,
    Sum,
    Use,
)

MAX_NESTING = 200  # brackets, signs, selectors and calls inside one another


@dataclass(frozen=True, slots=True)
class Part:
    """Something built, and the text it came from."""

    content: Any  # a node, an argument or a selector's item
    start: int  # offset of its first character, brackets included
    end: int
    depth: int  # how deeply it nests


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a recipe: a statement, or the expression."""

    content: Statement | Node
    span: Span


Piece = Part | Token


class Builder:
    """One method for each rule of the grammar."""

    source: Source

    def start(self, pieces: list[Any]) -> list[Line]:
        """Collect the lines."""
        return [piece for piece in pieces if isinstance(piece, Line)]

    def use(self, pieces: list[Any]) -> Line:
        """Build `use "path"`."""
        span = self._span(pieces[0], pieces[-1])
        return Line(Use(self._string(pieces[1]), span), span)

    def binding(self, pieces: list[Any]) -> Line:
        """Build `name = value`."""
        span = self._span(pieces[0], pieces[2])
        name = self.name_of(pieces[0])
        return Line(Binding(name.name, pieces[2].content, name.span, span), span)

    def definition(self, pieces: list[Any]) -> Line:
        """Build `f(x, y) = body`, checking that the left side declares parameters."""
        call: Call = pieces[0].content
        parameters = tuple(self._parameter(argument) for argument in call.arguments)
        seen: dict[str, Name] = {}
        for parameter in parameters:
            if parameter.name in seen:
                raise ExpressionError(
                    f"two parameters are named {quoted(parameter.name)}",
                    parameter.span,
                    also=[("first here", seen[parameter.name].span)],
                )
            seen[parameter.name] = parameter
        span = self._span(pieces[0], pieces[2])
        body = pieces[2].content
        return Line(Definition(call.function, parameters, body, call.function_span, span), span)

    def expression(self, pieces: list[Any]) -> Line:
        """Build the recipe's expression."""
        return Line(pieces[0].content, self._span(pieces[0], pieces[0]))

    def sum(self, pieces: list[Any]) -> Part:
        """Build a + b - c."""
        return self._chain(Sum, pieces)

    def product(self, pieces: list[Any]) -> Part:
        """Build a * b / c."""
        return self._chain(Product, pieces)

    def signed(self, pieces: list[Any]) -> Part:
        """Build -a."""
        span = self._span(pieces[0], pieces[1])
        return self._part(pieces, Signed(str(pieces[0]), pieces[1].content, span))

    def group(self, pieces: list[Any]) -> Part:
        """Build (a): the node inside, with the brackets in the part only."""
        return self._part(pieces, pieces[1].content)

    def number(self, pieces: list[Any]) -> Part:
        """Build a literal."""
        token = pieces[0]
        span = self._span(token, token)
        return self._part(pieces, Number(str(token), exact(str(token), span), span))

    def name(self, pieces: list[Any]) -> Part:
        """Build a use of a name."""
        return self._part(pieces, self.name_of(pieces[0]))

    def string(self, pieces: list[Any]) -> Part:
        """Build a string argument."""
        node = self._string(pieces[0])
        return self._part(pieces, node)

    def keyword(self, pieces: list[Any]) -> Part:
        """Build `name=value` in a call."""
        span = self._span(pieces[0], pieces[2])
        keyword = self.name_of(pieces[0]).name
        return self._part(pieces, Argument(keyword, pieces[2].content, span))

    def keyword_string(self, pieces: list[Any]) -> Part:
        """Build the string of `name="text"`."""
        return self.string(pieces)

    def call(self, pieces: list[Any]) -> Part:
        """Build f(a, key=b)."""
        name = self.name_of(pieces[0])
        arguments = tuple(_argument(piece, self) for piece in pieces[2:] if isinstance(piece, Part))
        span = self._span(pieces[0], pieces[-1])
        return self._part(pieces, Call(name.name, arguments, name.span, span))

    def select(self, pieces: list[Any]) -> Part:
        """Build a[items]."""
        items = tuple(piece.content for piece in pieces[2:] if isinstance(piece, Part))
        span = self._span(pieces[0], pieces[-1])
        return self._part(pieces, Select(pieces[0].content, items, span))

    def pattern(self, pieces: list[Any]) -> Part:
        """Build one pattern of a selector."""
        string = self._string(pieces[0])
        return self._part(pieces, Pattern(string.text, False, string.span))

    def layer(self, pieces: list[Any]) -> Part:
        """Build one layer of a selector."""
        span = self._span(pieces[0], pieces[0])
        return self._part(pieces, Layers(pieces[0].content, None, True, False, span))

    def layers(self, pieces: list[Any]) -> Part:
        """Build a range of layers."""
        colon = next(i for i, p in enumerate(pieces) if isinstance(p, Token) and p.type == "COLON")
        start = pieces[0].content if colon > 0 else None
        stop = pieces[-1].content if colon < len(pieces) - 1 else None
        span = self._span(pieces[0], pieces[-1])
        return self._part(pieces, Layers(start, stop, False, False, span))

    def excluded(self, pieces: list[Any]) -> Part:
        """Build ~item."""
        span = self._span(pieces[0], pieces[1])
        return self._part(pieces, replace(pieces[1].content, excluded=True, span=span))

    def bound(self, pieces: list[Any]) -> Part:
        """Build a layer number."""
        text = str(pieces[-1])
        span = self._span(pieces[0], pieces[-1])
        if not text.isdigit():
            raise ExpressionError("a layer is a whole number", span, note=f"found {text}")
        if len(text) > 9:
            raise ExpressionError("no model has that many layers", span)
        return self._part(pieces, -int(text) if len(pieces) > 1 else int(text))

    def _chain(self, kind: Callable[..., Node], pieces: list[Any]) -> Part:
        operands = tuple(piece.content for piece in pieces[::2])
        operators = tuple(str(piece) for piece in pieces[1::2])
        span = self._span(pieces[0], pieces[-1])
        return self._part(pieces, kind(operands, operators, span))

    def _part(self, pieces: list[Any], content: object) -> Part:
        start, end = _start(pieces[0]), _end(pieces[-1])
        depth = 1 + max((piece.depth for piece in pieces if isinstance(piece, Part)), default=0)
        if depth > MAX_NESTING:
            span = Span(self.source, start, end)
            raise ExpressionError(
                f"the expression nests more than {MAX_NESTING} deep",
                span,
                help="name its parts, one per line",
            )
        return Part(content, start, end, depth)

    def _span(self, first: Piece, last: Piece) -> Span:
        return Span(self.source, _start(first), _end(last))

    def name_of(self, token: Token) -> Name:
        """Return the normalized name a token spells."""
        span = self._span(token, token)
        name = str(token) if token.isascii() else unicodedata.normalize("NFKC", str(token))
        if not name.isidentifier():
            raise bad_name(str(token), span)
        return Name(name, span)

    def _string(self, token: Token) -> String:
        return String(str(token)[1:-1], self._span(token, token))

    def _parameter(self, argument: Argument) -> Name:
        if isinstance(argument.value, Name) and argument.keyword is None:
            return argument.value
        raise ExpressionError(
            "a parameter is a plain name",
            argument.span,
            help="write forget(t, amount) = -amount*t",
        )


def _argument(part: Part, builder: Builder) -> Argument:
    if isinstance(part.content, Argument):
        return part.content
    return Argument(None, part.content, Span(builder.source, part.start, part.end))


def _start(piece: Piece) -> int:
    return piece.start if isinstance(piece, Part) else piece.start_pos or 0


def _end(piece: Piece) -> int:
    return piece.end if isinstance(piece, Part) else piece.end_pos or 0
