"""What may be published of what a user typed: hub ids as they are, of other paths the last part.

A model card and a manifest go where the model goes. The name of a user, a customer or a project in
the path of a folder does not. The rule is by shape, not by a list of secrets: nothing with a
separator in it is published unless it is known to name something on the Hub.
"""

import os
import re
from collections.abc import Iterator, Mapping

from taskalg.checkpoints.hub.paths import hub_identity
from taskalg.errors import Source, printable
from taskalg.language.format import tokens
from taskalg.language.nodes import Binding, Call, Definition, Node, String, Use, children
from taskalg.language.parser import parse

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"(?:{_NAME}/)?{_NAME}")
_PLACE = re.compile(rf"{_NAME}(?:/{_NAME})*")  # a commit, then perhaps a folder or file in it
_SEPARATORS = re.compile(r"[\\/]+")
_COMMENT = re.compile(r"[ \t]*#[^\n]*")
_URL = re.compile(r"https?://\S+")
_MAYBE_LOCAL = re.compile(r"[\\/~]")


def is_origin(text: str) -> bool:
    """Tell whether a text is a hub id and what is meant of it: `org/name@commit/unet`."""
    name, at, place = text.partition("@")
    return bool(at and _HUB_ID.fullmatch(name) and _PLACE.fullmatch(place))


def hub_id(origin: str) -> str:
    """Return the hub id of an origin, without its commit."""
    return origin.partition("@")[0]


def public_path(path: str, origin: str | None = None) -> str:
    """Return what may be said of a path: what it is on the Hub, else its last part.

    >>> public_path("/home/me/gpt2-large"), public_path("~/gpt2.safetensors")
    ('gpt2-large', 'gpt2.safetensors')
    """
    known = origin or hub_identity(path)
    if known is not None and is_origin(known):
        return known
    parts = _SEPARATORS.split(os.path.abspath(os.path.expanduser(path)))
    return printable(next((part for part in reversed(parts) if part), "checkpoint"))


def looks_local(text: str) -> bool:
    """Tell a path on some machine from the name of a model on the Hub.

    >>> looks_local("/home/me/gpt2"), looks_local("org/gpt2"), looks_local("gpt2")
    (True, False, False)
    """
    return bool(text) and _HUB_ID.fullmatch(text) is None


def public_text(source: Source, known: Mapping[str, str]) -> str:
    """Return a recipe as it was written, but for its local paths.

    A path in `checkpoint`, `task` or `use` is replaced by what may be said of it. A comment that
    could hold a path is left out; the address of a page is none.

    Args:
        source: a text that parses.
        known: what may be said of the paths of checkpoints, by what was typed.
    """
    replaced = {string.span.start: string for string in _paths(source)}
    pieces: list[str] = []
    for gap, token in tokens(source.text):
        pieces.append(_COMMENT.sub(_harmless, gap))
        if token is None:
            continue
        string = replaced.get(token.start_pos or 0)
        if string is None:
            pieces.append(str(token))
        else:
            public = known.get(string.text) or public_path(string.text)
            pieces.append(f"{token[0]}{public}{token[0]}")
    return "".join(pieces)


def _harmless(found: re.Match[str]) -> str:
    comment = found.group()
    return "" if _MAYBE_LOCAL.search(_URL.sub("", comment)) else comment


def _paths(source: Source) -> Iterator[String]:
    """Yield every string that is a path: those of calls and of `use`, not those of selectors."""
    recipe = parse(source)
    stack: list[Node] = [] if recipe.expression is None else [recipe.expression]
    for statement in recipe.statements:
        match statement:
            case Use():
                yield statement.path
            case Binding():
                stack.append(statement.value)
            case Definition():
                stack.append(statement.body)
    while stack:
        node = stack.pop()
        stack += children(node)
        if isinstance(node, Call):
            yield from (
                argument.value
                for argument in node.arguments
                if isinstance(argument.value, String) and argument.keyword != "strip_prefix"
            )
