"""Text to tidier text: spacing and indentation, and nothing else.

Works on the parser's own tokens; comments and line breaks are what stands between two of them. Line
breaks, blank lines, brackets and the spelling of names, numbers and strings stay as typed, so the
tree stays too. Printing the tree instead would lose all of these (printer.py does that).
"""

from collections.abc import Iterator

from lark import Token

from taskalg.errors import Source
from taskalg.language.parser import grammar, parse

INDENT = 4  # spaces for each bracket that is open where a line starts
_OPEN, _CLOSE = ("LPAR", "LSQB"), ("RPAR", "RSQB")
_SIGNS = ("PLUS", "MINUS")
_OPERANDS = ("NAME", "NUMBER", *_CLOSE)  # after one of these a sign is binary


def format_text(source: Source) -> str:
    """Return the text with spacing normalized; empty when nothing but blanks is in it.

    Formatting twice changes nothing more, and the result parses to the same tree.

    Raises:
        ExpressionError: the text does not parse; the error is the parser's own.
    """
    plain = Source(source.name, source.text.removeprefix("\ufeff"), source.folder)
    parse(plain)
    writer = _Writer()
    for gap, token in tokens(plain.text):
        writer.gap(gap)
        writer.token(token)
    return "".join(f"{line}\n" for line in writer.finished())


def tokens(text: str) -> Iterator[tuple[str, Token | None]]:
    """Yield each token and what stands before it; the last gap comes with None."""
    end = 0
    for token in grammar().lex(text):
        if token.type != "_NEWLINE":
            start = token.start_pos or 0
            yield text[end:start], token
            end = start + len(token)
    yield text[end:], None


class _Writer:
    """Lines as they grow."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.pieces: list[str] = []  # of the line being written
        self.opened = 0  # brackets open here
        self.indent = 0  # brackets open where the line starts, without those it starts by closing
        self.leading = True  # whether the line has only closing brackets so far
        self.last: Token | None = None
        self.unary = False  # whether the last token is a sign that belongs to what follows

    def gap(self, gap: str) -> None:
        """Write what stands between two tokens: comments and line breaks."""
        for index, part in enumerate(gap.split("\n")):
            if index:
                self._end_line()
            if comment := _comment(part):
                self.pieces.append(f"  {comment}" if self.pieces else comment)

    def token(self, token: Token | None) -> None:
        """Write a token, spaced from the one before it."""
        if token is None:
            return
        closing = token.type in _CLOSE
        self.opened -= closing
        unary = token.type in _SIGNS and (self.last is None or self.last.type not in _OPERANDS)
        if self.pieces and self._spaced(token, unary):
            self.pieces.append(" ")
        if self.leading:
            self.indent, self.leading = self.opened, closing
        self.pieces.append(str(token))
        self.opened += token.type in _OPEN
        self.last, self.unary = token, unary

    def finished(self) -> list[str]:
        """Return the lines, without blank ones at either end."""
        self._end_line()
        kept = [index for index, line in enumerate(self.lines) if line]
        return self.lines[kept[0] : kept[-1] + 1] if kept else []

    def _end_line(self) -> None:
        blank = " " * (INDENT * self.indent) if self.pieces else ""
        self.lines.append(blank + "".join(self.pieces))
        self.pieces.clear()
        self.indent, self.leading = self.opened, True

    def _spaced(self, token: Token, unary: bool) -> bool:
        """Tell whether a space stands between the last token and this one."""
        last = "" if self.last is None else self.last.type
        if token.type in _SIGNS and not unary:
            return True
        if last in _SIGNS and not self.unary:
            return True
        if "EQUAL" in (last, token.type):
            return self.opened == 0
        return last == "USE" or (last == "COMMA" and token.type not in _CLOSE)


def _comment(part: str) -> str:
    """Return the comment in a part of a line, or nothing: `# text`, but `#!` as it is."""
    comment = part.replace("\r", " ").strip()
    text = comment.lstrip("#")
    if not text or text[0].isspace() or comment.startswith("#!"):
        return comment
    return f"{comment[: -len(text)]} {text}"
