"""Where a mistake is, and how it is told.

Every error the package raises on purpose is a `TaskalgError`: a sentence, a place in the user's
text when there is one, what was found against what was expected, and one thing to type. Inner code
raises the sentence and the span; a span carries its own source, so nothing has to be added on the
way out. `str(error)` is plain text; color is the command line's business.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

WINDOW = 100  # characters of a long source line that a message shows
LISTED = 5  # items a list in a message shows before "and 12 more"


@dataclass(frozen=True)
class Source:
    """A text someone wrote, and what to call it."""

    name: str  # what messages call it: "<expr>" or a file's path as the user gave it
    text: str = field(repr=False)  # exactly as typed, without a leading byte-order mark
    folder: str | None = None  # where the file lies: what it says is relative to this; None for
    # text that is no file's

    def place(self, offset: int) -> tuple[int, int]:
        """Return the line and column of an offset [characters], both counted from 1."""
        before = self.text[:offset]
        return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


@dataclass(frozen=True)
class Span:
    """A half-open range of characters in one source."""

    source: Source
    start: int  # offset of the first character
    end: int  # offset after the last one; equal to start at the end of the text

    def to(self, other: "Span") -> "Span":
        """Return the span from the start of this one to the end of `other`."""
        return Span(self.source, self.start, other.end)


class TaskalgError(Exception):
    """Anything that went wrong and is worth telling: the root of the package's exceptions.

    Attributes:
        message: what is wrong, in one line.
        span: where, or None when no text is to blame.
        note: what was found against what was expected, or None.
        help: one thing to type, or None.
        also: further places, each with a few words ("first bound here").
        exit_code: what the command line returns for it.
    """

    exit_code = 70

    def __init__(
        self,
        message: str,
        span: Span | None = None,
        *,
        note: str | None = None,
        help: str | None = None,
        also: Sequence[tuple[str, Span]] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.span = span
        self.note = note
        self.help = help
        self.also = tuple(also)

    def __str__(self) -> str:
        lines = [printable(self.message)]
        if self.span is not None:
            lines += draw(self.span)
        for words, span in self.also:
            lines += [f"  {words}", *draw(span)]
        for label, words_or_none in (("note", self.note), ("help", self.help)):
            if words_or_none is not None:
                lines.append(f"  {label}: {printable(words_or_none)}")
        return "\n".join(lines)


class ExpressionError(TaskalgError):
    """The text is not an expression, or does not make sense as one."""

    exit_code = 2


class KindError(ExpressionError):
    """The kinds do not fit: a scalar where a checkpoint is needed, or a total that is no model."""


class UnknownNameError(ExpressionError):
    """A name is used that nothing binds."""


class DivisionError(ExpressionError):
    """Something is divided by a scalar that is zero."""


class UsageError(TaskalgError):
    """The arguments, not the expression, are at fault."""

    exit_code = 2


class MismatchError(TaskalgError):
    """Checkpoints are readable, each alone, but do not fit together."""

    exit_code = 3


class OverflowingError(TaskalgError):
    """A result is too large for the output's dtype although every input was finite."""

    exit_code = 3


class CheckpointError(TaskalgError):
    """An input cannot be read, is damaged, is hostile, or changed while it was read."""

    exit_code = 4


class OutputError(TaskalgError):
    """The output cannot be written: space, permission, or something is already there."""

    exit_code = 5


class VerificationError(TaskalgError):
    """An output, or an input of it, is not what its manifest says."""

    exit_code = 6


def draw(span: Span) -> list[str]:
    """Return the place, the source line and a row of carets below it.

    Carets count display cells: a wide character is two, a combining mark none, a tab one space. A
    span of several lines is marked to the end of its first line; of a long line a part is shown.
    """
    text = span.source.text
    line, column = span.source.place(span.start)
    begin = span.start - (column - 1)
    end = text.find("\n", begin)
    row = text[begin : end if end >= 0 else len(text)].rstrip("\r")
    first, last = column - 1, min(len(row), column - 1 + max(1, span.end - span.start))
    left = max(0, min(first - WINDOW // 3, len(row) - WINDOW))
    right = min(len(row), left + WINDOW)
    before = ("…" if left else "") + row[left:first]
    after = row[first:right] + ("…" if right < len(row) else "")
    gutter, carets = " " * len(str(line)), max(1, cells(row[first : min(last, right)]))
    return [
        f"  at {printable(span.source.name)}:{line}:{column}",
        f"  {line} | {printable(before + after)}",
        f"  {gutter} | {' ' * cells(before)}{'^' * carets}",
    ]


def cells(text: str) -> int:
    """Count the cells a terminal gives to `text` as `printable` shows it."""
    return sum(_width(char) for char in printable(text))


def _width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def printable(text: str) -> str:
    """Make untrusted text safe on a terminal: tabs become spaces, control characters escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_safe(char) for char in text)


def _safe(char: str) -> str:
    if char == "\t":
        return " "
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"\\u{ord(char):04x}" if ord(char) > 0xFF else f"\\x{ord(char):02x}"
    return char


def quoted(name: str) -> str:
    """Quote a name for a message: escaped when it would upset a terminal, cut when it is long."""
    if len(name) > 2 * WINDOW:
        name = f"{name[:WINDOW]}…{name[-WINDOW:]}"
    return f"'{printable(name)}'"


def listed(items: Sequence[str], conjunction: str = "and") -> str:
    """Join up to five items; the rest are counted: `a, b, c, d, e and 12 more`.

    >>> listed(["a"]), listed(["a", "b", "c"]), listed([str(i) for i in range(9)])
    ('a', 'a, b and c', '0, 1, 2, 3, 4 and 4 more')
    """
    shown = list(items[:LISTED])
    if len(items) > LISTED:
        return f"{', '.join(shown)} {conjunction} {len(items) - LISTED} more"
    if len(shown) > 1:
        return f"{', '.join(shown[:-1])} {conjunction} {shown[-1]}"
    return "".join(shown)
