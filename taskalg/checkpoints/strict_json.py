"""JSON as it should be: UTF-8, one object or list, and no key twice.

The standard parser keeps the last of two equal keys and accepts NaN; a header or an index with
either means different things to different readers.
"""

import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from taskalg.errors import printable, quoted

T = TypeVar("T")


class NotStrictError(Exception):
    """What is wrong with a text, as the rest of a sentence about it."""

    def __init__(self, message: str, note: str | None = None) -> None:
        super().__init__(message)
        self.note = note


def parse_object(
    content: bytes, count_strings: Callable[[dict[str, Any]], int] | None = None
) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        content: the text's bytes.
        count_strings: says how many strings such an object has when no key was there twice. If
            the text has as many, there was none, and a slower second pass is saved.

    Raises:
        NotStrictError: it is not one JSON object in UTF-8 without repeated keys.
    """
    return _parse(content, dict, "object", count_strings)


def parse_list(content: bytes) -> list[Any]:
    """Parse a JSON list.

    Raises:
        NotStrictError: it is not one JSON list in UTF-8 without repeated keys.
    """
    return _parse(content, list, "list", None)


def _parse(content: bytes, kind: type[T], word: str, count_strings: Callable[[T], int] | None) -> T:
    try:
        text = content.decode("utf-8")
        found = json.loads(text, parse_constant=_no_constant)
        if not isinstance(found, kind):
            raise NotStrictError(f"is not a JSON {word}")
        if count_strings is None or not _has_strings(text, count_strings(found)):
            json.loads(text, object_pairs_hook=_unique)
        if "\\u" in text:  # half of a surrogate pair passes the parser and is no character
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise NotStrictError("is not UTF-8", str(error)) from None
    except RecursionError:
        raise NotStrictError("is nested too deep") from None
    except ValueError as error:
        if content.startswith(b"\xef\xbb\xbf"):
            raise NotStrictError("starts with a byte-order mark") from None
        raise NotStrictError("is not JSON", printable(str(error))) from None
    return found


def _has_strings(text: str, count: int) -> bool:
    return "\\" not in text and text.count('"') == 2 * count


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise NotStrictError(f"has {quoted(key)} twice")
        found[key] = value
    return found


def _no_constant(word: str) -> NoReturn:
    raise NotStrictError(f"holds {word}, which is not JSON")
