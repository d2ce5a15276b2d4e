"""A command's line: words, options and expressions are taken off it, and keep their places.

What is taken off leaves blanks behind, so that whatever is left has the offsets it was typed at,
and an error in it points into the line as the user sees it.
"""

import difflib
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

from taskalg.errors import ExpressionError, Source, Span, TaskalgError, UsageError, quoted
from taskalg.language.nodes import Node, Recipe
from taskalg.language.parser import parse, parse_expression
from taskalg.workbench.pieces import split

_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+""")
_LAST_NUMBER = re.compile(r"(?:^|[^-+*/,(\[:=\s])\s+([0-9]{1,9})\s*$")
_WIDE = 60  # columns of a usage in a message; :help shows all of it
_QUOTED = re.compile(r""""([^"]*)"|'([^']*)'""")


@dataclass(frozen=True)
class Word:
    """One word, as in a shell: quotes hold it together and are no part of it."""

    text: str  # without quotes
    start: int
    end: int


@dataclass(frozen=True)
class Line:
    """What is left of a line, and the line."""

    source: Source  # all of it, as typed
    rest: str  # as long as that, with blanks in the place of what was taken
    usage: str  # of the command, for messages

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return not self.rest.strip()

    @property
    def words(self) -> tuple[Word, ...]:
        """The words that are left."""
        return tuple(
            Word(_QUOTED.sub(lambda q: q[1] or q[2] or "", found[0]), *found.span())
            for found in _WORD.finditer(self.rest)
        )

    def first(self, what: str) -> tuple[str, "Line"]:
        """Take the first word.

        Raises:
            UsageError: there is none.
        """
        return self._take(0, what)

    def last(self, what: str) -> tuple[str, "Line"]:
        """Take the last word.

        Raises:
            UsageError: there is none.
        """
        return self._take(-1, what)

    def option(self, name: str) -> tuple[bool, "Line"]:
        """Take an option without a value, such as `--overwrite`."""
        for word in self.words:
            if word.text == name:
                return True, self._without(word.start, word.end)
        return False, self

    def value(self, name: str) -> tuple[str | None, "Line"]:
        """Take an option and the word after it, if it is there.

        Raises:
            UsageError: it is there twice, or without a word.
        """
        values, line = self.values(name)
        if len(values) > 1:
            raise self.wrong(f"{name} is given twice")
        return (values[0] if values else None), line

    def values(self, name: str) -> tuple[tuple[str, ...], "Line"]:
        """Take an option as often as it is there, and the words after it.

        Raises:
            UsageError: it is there without a word.
        """
        words, found, line = (*self.words, None), list[str](), self
        for option, word in pairwise(words):
            if option is not None and option.text == name:
                if word is None:
                    raise self.wrong(f"{name} has no value")
                found.append(word.text)
                line = line._without(option.start, word.end)
        return tuple(found), line

    def expression(self) -> Node:
        """Parse what is left as one expression.

        Raises:
            ExpressionError: it is none.
        """
        return self._parsed(self.rest)

    def recipe(self) -> Recipe:
        """Parse what is left as statements and an expression, either of which may be missing.

        Raises:
            ExpressionError: it is none.
        """
        return parse(Source(self.source.name, self.rest))

    def count(self, default: int) -> int:
        """Take what is left as a whole number.

        Raises:
            UsageError: it is none.
        """
        text = self.rest.strip()
        if text and not (text.isascii() and text.isdigit() and int(text)):
            raise self.wrong(f"{quoted(text)} is no number of lines")
        return int(text) if text else default

    def last_number(self, default: int) -> tuple[int, "Line"]:
        """Take the last word if it is a whole number that no operator stands before."""
        found = _LAST_NUMBER.search(self.rest)
        if found is None:
            return default, self
        return int(found[1]), self._without(*found.span(1))

    def span(self, word: Word) -> Span:
        """Return where a word is."""
        return Span(self.source, word.start, word.end)

    def expressions(self) -> tuple[Node, ...]:
        """Parse what is left as expressions with commas between them, or blanks as in a shell.

        Raises:
            ExpressionError: one of them is none.
        """
        parts = split(self.rest, "comma")
        return tuple(one for part in parts for one in self._one_or_words(part))

    def wrong(self, message: str, *, note: str | None = None) -> UsageError:
        """Return an error that says how the command is written."""
        usage = textwrap.shorten(self.usage, _WIDE, placeholder=" ...")
        return UsageError(message, note=note, help=f"write {usage}")

    def _take(self, index: int, what: str) -> tuple[str, "Line"]:
        if not self.words:
            raise self.wrong(f"there is no {what}")
        word = self.words[index]
        if word.text.startswith("--"):
            known = re.findall(r"--[a-z-]+", self.usage)
            near = difflib.get_close_matches(word.text, known, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise self.wrong(f"there is no option {quoted(word.text)}{guess}")
        return word.text, self._without(word.start, word.end)

    def _without(self, start: int, end: int) -> "Line":
        return replace(self, rest=self.rest[:start] + " " * (end - start) + self.rest[end:])

    def _one_or_words(self, text: str) -> Sequence[Node]:
        """Parse one expression, or a text of which every word is one: `holes "a - b"`."""
        try:
            return [self._parsed(text)]
        except ExpressionError as error:
            words = [one for one in split(text, "blank") if one.strip()]
            try:
                return [self._parsed(_unquoted(word)) for word in words]
            except ExpressionError:
                if error.help is not None and len(words) > 1:
                    error.help = f"put commas between expressions: {self.usage}"
                raise error from None

    def _parsed(self, text: str) -> Node:
        if not text.strip():
            end = Span(self.source, len(self.source.text), len(self.source.text))
            raise UsageError("there is no expression", end, help=f"write {self.usage}")
        return parse_expression(Source(self.source.name, text))


def _unquoted(word: str) -> str:
    """Put blanks in the place of quotes around a whole word."""
    text = word.lstrip()
    if _QUOTED.fullmatch(text) is None:
        return word
    return " " * (len(word) - len(text) + 1) + text[1:-1]


@contextmanager
def pointing_into(source: Source) -> Iterator[None]:
    """Let errors in a part of a line, with blanks around it, show the line as it was typed."""
    try:
        yield
    except TaskalgError as error:
        if error.span is not None:
            error.span = _as_typed(error.span, source)
        error.also = tuple((words, _as_typed(span, source)) for words, span in error.also)
        raise


def _as_typed(span: Span, source: Source) -> Span:
    return replace(span, source=source) if span.source.name == source.name else span
