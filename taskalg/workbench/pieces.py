"""Text to pieces, whatever the text: what is typed so far has no grammar yet.

A scanner of its own beside the grammar's lexer, because that one refuses a string without its end
or a stray character, and these are what a line being typed is full of. On a text that parses the
two agree; a test holds them together. Commas, brackets and colors are all found with it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PIECES = {
    "comment": r"#[^\n]*",
    "string": r"\"[^\"\n]*\"|'[^'\n]*'",
    "open string": r"[\"'][^\n]*",
    "number": r"(?:[0-9](?:_?[0-9])*(?:\.(?:[0-9](?:_?[0-9])*)?)?|\.[0-9](?:_?[0-9])*)"
    r"(?:[eE][+-]?[0-9](?:_?[0-9])*)?",
    "name": r"[A-Za-z_\x80-\U0010FFFF][A-Za-z0-9_\x80-\U0010FFFF]*",
    "opening": r"[(\[]",
    "closing": r"[)\]]",
    "comma": ",",
    "operator": r"[-+*/=:~]",
    "line end": r"\n",
    "blank": r"[ \t\f\r]+",
    "stray": ".",
}
_NAMES = list(_PIECES)
_SCANNER = re.compile("|".join(f"({pattern})" for pattern in _PIECES.values()))


@dataclass(frozen=True)
class Fragment:
    """A part of a text."""

    sort: str  # "name", "string", "open string", "blank", …; every character is in some piece
    text: str
    start: int  # offset of its first character


def pieces(text: str) -> Iterator[Fragment]:
    """Take a text apart, all of it."""
    for found in _SCANNER.finditer(text):
        yield Fragment(_NAMES[(found.lastindex or 1) - 1], found[0], found.start())


def is_complete(text: str) -> bool:
    """Tell whether every bracket is closed."""
    depth = 0
    for piece in pieces(text):
        depth += (piece.sort == "opening") - (piece.sort == "closing")
    return depth <= 0


def split(text: str, sort: str) -> list[str]:
    """Split a text at pieces of a sort outside brackets; every part keeps its offsets, by blanks.

    >>> split("a, f(b, c)", "comma")
    ['a', '   f(b, c)']
    """
    depth, start, found = 0, 0, []
    for piece in (*pieces(text), Fragment(sort, "", len(text))):
        depth += (piece.sort == "opening") - (piece.sort == "closing")
        if piece.sort == sort and (depth == 0 or piece.start == len(text)):
            found.append(" " * start + text[start : piece.start])
            start = piece.start + len(piece.text)
    return found


def inputs(text: str) -> Iterator[str]:
    r"""Split several inputs: commands are one line, statements last until brackets are closed.

    >>> list(inputs("# a zoo\nx = (1 +\n2)\n\n:models\nx"))
    ['x = (1 +\n2)', ':models', 'x']
    """
    waiting = ""
    for line in text.splitlines():
        waiting += line
        if is_command(waiting) or is_complete(waiting):
            if not is_blank(waiting):
                yield waiting
            waiting = ""
        else:
            waiting += "\n"
    if waiting:
        yield waiting.rstrip("\n")


def is_command(text: str) -> bool:
    """Tell a command from the language."""
    return text.lstrip().startswith(":")


def is_blank(text: str) -> bool:
    """Tell whether there is nothing but blanks and comments."""
    return all(piece.sort in ("blank", "line end", "comment") for piece in pieces(text))
