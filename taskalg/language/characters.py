"""Characters that mislead a reader, or that a keyboard put in place of an ASCII one."""

import re
import unicodedata

from taskalg.errors import ExpressionError, Source, Span

# Never allowed, not even in strings and comments: marks that reorder what a reader sees (Trojan
# Source), and controls that a terminal obeys, in whatever quotes the text later on.
_BIDIRECTIONAL = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_CONTROL = "\x00-\x08\x0b\x0e-\x1f\x7f-\x9f"  # all but tab, line feed, form feed, return
_MISLEADING = re.compile(f"[{_BIDIRECTIONAL}]|[{_CONTROL}]")


def name_character(char: str) -> str:
    """Name a character for a message: quoted, and called by its Unicode name when that helps."""
    if char.isascii() and char.isprintable():
        return f"'{char}'"
    name = unicodedata.name(char, "") or f"control character {ord(char)}"
    shown = f"'{char}' " if char.isprintable() else ""
    return f"{shown}U+{ord(char):04X} ({name})"


def check_characters(source: Source) -> None:
    """Refuse characters that would make a reader see another text than the parser does.

    Raises:
        ExpressionError: a control character, named, with its place.
    """
    found = _MISLEADING.search(source.text)
    if found:
        control = unicodedata.category(found.group()) == "Cc"
        order = "it changes the order in which the text is shown"
        raise ExpressionError(
            f"unexpected {name_character(found.group())}",
            Span(source, found.start(), found.end()),
            note="a terminal obeys it instead of showing it" if control else order,
            help="delete it",
        )


_LOOKALIKES = {"−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "∗": "*", "÷": "/", "∕": "/"}
_LOOKALIKES |= {"“": '"', "”": '"', "‘": "'", "’": "'", "＝": "=", "，": ",", "（": "(", "）": ")"}


def bad_name(token: str, span: Span) -> ExpressionError:
    """Return the error that says which character of a token keeps it from being a name."""
    wrong = (i for i, char in enumerate(token) if not _may_stand_in_name(char))
    offset = next(wrong, 0)
    char = token[offset]
    plain = _LOOKALIKES.get(char)
    at = Span(span.source, span.start + offset, span.start + offset + 1)
    help = f"write {plain}" if plain else None
    return ExpressionError(f"unexpected {name_character(char)}", at, help=help)


def _may_stand_in_name(char: str) -> bool:
    return ("a" + unicodedata.normalize("NFKC", char)).isidentifier()
