"""Text to tree, through `grammar/taskalg.lark`.

Lark's LALR parser calls the builder below while it reduces, bottom up, so no tree of lark's own is
made and nothing recurses: a sum of 100,000 terms is one node, and nesting is counted as it grows.
Rejected: Earley (slow, and ambiguity would be silent) and lark's cached grammars (a pickle at a
predictable place in a shared folder).
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Lock
from typing import cast

from lark import Lark, Token, UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lark import PostLex

from taskalg.errors import ExpressionError, Source, Span, listed, printable
from taskalg.language.builder import Builder, Line
from taskalg.language.characters import check_characters, name_character
from taskalg.language.nodes import Binding, Definition, Node, Recipe, Statement, Use

# What a terminal is called in "expected …"; a test holds this against the grammar.
DISPLAY = {
    "NUMBER": "a number",
    "NAME": "a name",
    "STRING": "a string",
    "USE": "'use'",
    "_NEWLINE": "a new line",
    "$END": "the end",
    "PLUS": "'+'",
    "MINUS": "'-'",
    "STAR": "'*'",
    "SLASH": "'/'",
    "LPAR": "'('",
    "RPAR": "')'",
    "LSQB": "'['",
    "RSQB": "']'",
    "COMMA": "','",
    "COLON": "':'",
    "EQUAL": "'='",
    "TILDE": "'~'",
    "OPERATOR": "an operator",
}
_OPERATORS = ("PLUS", "MINUS", "STAR", "SLASH")
_OPERAND_ENDS = ("NUMBER", "NAME", "RPAR", "RSQB")
_OPERAND_STARTS = ("NUMBER", "NAME", "LPAR")
_lock = Lock()  # the builder holds the source of the text being parsed


class _OperatorStartsLine(Exception):
    """A line begins with an operator; raised from inside the token stream."""

    def __init__(self, token: Token) -> None:
        super().__init__(token)
        self.token = token


class _Lines(PostLex):
    """Keeps only the newlines that separate statements."""

    always_accept = ("_NEWLINE",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        """Drop newlines inside brackets, at the start and at the end; join the others."""
        depth, newline, started = 0, None, False
        for token in stream:
            if token.type == "_NEWLINE":
                if depth == 0 and started:
                    newline = token
                continue
            if newline is not None:
                if token.type in _OPERATORS:
                    raise _OperatorStartsLine(token)
                yield newline
            newline, started = None, True
            if token.type == "NAME" and not token.isascii():
                _BUILDER.name_of(token)  # a stray character is told before what it breaks
            depth += (token.type in ("LPAR", "LSQB")) - (token.type in ("RPAR", "RSQB"))
            yield token


@cache
def grammar() -> Lark:
    """Build the parser once, when it is first needed (about 15 [ms])."""
    return Lark(
        _grammar_text(),
        parser="lalr",
        lexer="basic",  # the contextual one lexes ahead of the newlines that _Lines holds back
        transformer=_BUILDER,
        postlex=_Lines(),
        keep_all_tokens=True,
        maybe_placeholders=False,
    )


def _grammar_text() -> str:
    """Find the grammar inside the installed package, else beside it in a checkout."""
    package = Path(__file__).parent.parent
    for folder in (package, package.parent):
        path = folder / "grammar" / "taskalg.lark"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise AssertionError("the package was installed without its grammar")


_BUILDER = Builder()


def parse(source: Source) -> Recipe:
    """Parse a recipe: statements, then at most one expression.

    Raises:
        ExpressionError: the text is not a recipe; the span says where.
    """
    check_characters(source)
    try:
        with _lock:
            _BUILDER.source = source
            lines = cast(list[Line], grammar().parse(source.text))
    except _OperatorStartsLine as error:
        raise _operator_starts_line(error.token, source) from None
    except UnexpectedCharacters as error:
        raise _unexpected_character(error, source) from None
    except UnexpectedToken as error:
        raise _unexpected_token(error, source) from None
    except UnexpectedInput as error:  # pragma: no cover - lark has no third sort today
        raise ExpressionError(f"cannot parse: {error}") from None
    return _recipe(lines, source)


def parse_expression(source: Source) -> Node:
    """Parse a text that must be one expression and nothing else.

    Raises:
        ExpressionError: the text is not an expression, or is a recipe with statements.
    """
    recipe = parse(source)
    if recipe.expression is None:
        end = Span(source, len(source.text), len(source.text))
        raise ExpressionError("there is no expression", end, help="type one: base + 0.4*toxic")
    if recipe.statements:
        raise ExpressionError(
            "this must be one expression, without statements",
            recipe.statements[0].span,
            help="put statements in a recipe file and give it with -f",
        )
    return recipe.expression


def _recipe(lines: list[Line], source: Source) -> Recipe:
    statements: list[Statement] = []
    expression: Line | None = None
    for line in lines:
        if expression is not None:
            raise ExpressionError(
                "a recipe has one expression, and it comes last",
                expression.span,
                also=[("but this follows", line.span)],
                help="give it a name to use it further down: x = …",
            )
        if isinstance(line.content, Use | Binding | Definition):
            statements.append(line.content)
        else:
            expression = line
    last = cast(Node | None, expression and expression.content)
    return Recipe(tuple(statements), last, source)


def _operator_starts_line(token: Token, source: Source) -> ExpressionError:
    return ExpressionError(
        f"a line starts with '{token}'",
        _span(token, source),
        note="each line is a statement of its own",
        help="put brackets around what spans several lines: ( … )",
    )


def _unexpected_character(error: UnexpectedCharacters, source: Source) -> ExpressionError:
    at, char = error.pos_in_stream or 0, error.char
    span = Span(source, at, at + 1)
    if char in "\"'":
        return ExpressionError(
            "a string is not closed",
            span,
            help=f"end it with {char} on the same line; there are no escapes",
        )
    if char == "!":
        return ExpressionError("unexpected '!'", span, help="'~' excludes what follows it")
    return ExpressionError(f"unexpected {name_character(char)}", span)


def _unexpected_token(error: UnexpectedToken, source: Source) -> ExpressionError:
    token, stack = error.token, error.state.value_stack
    before = stack[-1] if stack and isinstance(stack[-1], Token) else None
    if token.type == "$END":
        end = len(source.text)
        return ExpressionError(
            "the expression ends too soon", Span(source, end, end), note=_expected(error)
        )
    if token.type == "USE" or (before is not None and before.type == "USE"):
        return ExpressionError(
            "'use' is a word of the language: it brings in another recipe",
            _span(before if before is not None and before.type == "USE" else token, source),
            help='write use "zoo.ta" on a line of its own, or choose another name',
        )
    span, shown = _span(token, source), "end of line" if token.type == "_NEWLINE" else str(token)
    if before is not None and before.type in _OPERAND_ENDS and token.type in _OPERAND_STARTS:
        words = before.type in _OPERAND_STARTS and token.type in _OPERAND_ENDS
        return ExpressionError(
            f"unexpected {_quote(shown)}",
            span,
            note="there is no implicit multiplication",
            help=f"write {printable(before)}*{printable(token)}" if words else "write * between",
        )
    if token.type == "STRING":
        return ExpressionError(
            "a string is an argument, not a value",
            span,
            help=f"a checkpoint is bound with checkpoint({printable(token)})",
        )
    return ExpressionError(f"unexpected {_quote(shown)}", span, note=_expected(error))


def _expected(error: UnexpectedToken) -> str:
    names = set(error.accepts or error.expected)
    if names.issuperset(_OPERATORS):
        names = names.difference(_OPERATORS) | {"OPERATOR"}
    elif "NAME" in names:
        names -= {"PLUS", "MINUS"}  # a sign may start an expression, but says little here
    shown = sorted(DISPLAY[name] for name in names if name in DISPLAY)
    return f"expected {listed(shown, 'or')}"


def _quote(text: str) -> str:
    return text if text == "end of line" else f"'{printable(text)}'"


def _span(token: Token, source: Source) -> Span:
    start = token.start_pos or 0
    return Span(source, start, max(start + 1, token.end_pos or 0))
