"""What could stand where the cursor is: names, functions, commands, paths, tensor patterns."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.operators import FUNCTIONS, OPERATORS
from taskalg.algebra.weighted_sum import Value
from taskalg.checkpoints.base import Checkpoint
from taskalg.errors import printable
from taskalg.workbench.commands import COMMANDS
from taskalg.workbench.definitions import definition_text
from taskalg.workbench.describing import checkpoint_name, value_text
from taskalg.workbench.pieces import Fragment, is_command, pieces
from taskalg.workbench.vectors import PICTURES
from taskalg.workbench.workspace import Workspace

_MOST = 200  # paths and patterns; nobody reads more
_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")  # a component that is a number


@dataclass(frozen=True)
class Offer:
    """One completion."""

    text: str  # what is put in
    replaces: int  # characters before the cursor that give way to it
    meta: str = ""  # a few words about it


def offers(workspace: Workspace, before: str) -> list[Offer]:
    """Return completions for a text that ends at the cursor."""
    if is_command(before):
        return list(_in_command(workspace, before))
    return list(_in_expression(workspace, before))


def _in_command(workspace: Workspace, before: str) -> Iterator[Offer]:
    name, blank, rest = before.lstrip().partition(" ")
    if not blank:
        yield from _starting([(f":{one.name}", one.doc) for one in COMMANDS], name)
        return
    command = next((one for one in COMMANDS if f":{one.name}" == name), None)
    if command is None:
        return
    word = rest.rpartition(" ")[2]
    if word.startswith("--"):
        yield from _starting([(one, "") for one in command.options], word)
    elif _is_in_quotes(rest):
        yield from _in_expression(workspace, rest)
    else:
        for sort in command.takes:
            yield from _of_sort(sort, workspace, rest, word)


def _of_sort(sort: str, workspace: Workspace, rest: str, word: str) -> Iterator[Offer]:
    match sort:
        case "topics":
            yield from _starting([(one.name, one.doc) for one in (*COMMANDS, *OPERATORS)], word)
        case "pictures":
            yield from _starting([(one, "") for one in PICTURES], word)
        case "paths":
            yield from _paths(word, None)
        case _:
            yield from _in_expression(workspace, rest)


def _in_expression(workspace: Workspace, before: str) -> Iterator[Offer]:
    found = list(pieces(before))
    last = found[-1] if found else Fragment("blank", "", 0)
    if last.sort == "open string":
        typed = last.text[1:]
        if _innermost(found) == "[":
            yield from _patterns(workspace, typed)
        else:
            yield from _paths(typed, last.text[0])
    elif last.sort == "name":
        yield from _starting(_names(workspace), last.text)
    elif last.sort not in ("number", "string", "comment", "closing"):
        yield from _starting(_names(workspace), "")


def _innermost(found: list[Fragment]) -> str:
    """Return the bracket that the end stands in."""
    open_: list[str] = []
    for piece in found:
        if piece.sort == "opening":
            open_.append(piece.text)
        elif piece.sort == "closing" and open_:
            open_.pop()
    return open_[-1] if open_ else ""


def _is_in_quotes(text: str) -> bool:
    *_, last = [*pieces(" "), *pieces(text)]
    return last.sort == "open string"


def _names(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Yield what may stand in an expression, and a few words about it."""
    definitions = workspace.definitions
    for name in definitions.names:
        statement = definitions.statement(name)
        if statement is not None:
            yield name, definition_text(statement)
        else:
            yield name, _given_text(definitions.given[name])
    for function in definitions.functions:
        yield f"{function.name}(", definition_text(function)
    for operator in FUNCTIONS.values():
        yield f"{operator.name}(", operator.usage


def _given_text(value: Value) -> str:
    if checkpoint_name(value) is None or isinstance(value, Coefficient):
        return value_text(value)
    return next((one.path or "" for one in value.terms), "")


def _starting(found: Iterable[tuple[str, str]], typed: str) -> Iterator[Offer]:
    for text, meta in found:
        if text.startswith(typed):
            yield Offer(text, len(typed), printable(meta))


def _paths(typed: str, quote: str | None) -> Iterator[Offer]:
    """Complete a path; one with blanks gets quotes if it has none."""
    folder, name = os.path.split(typed)
    try:
        entries = sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda one: one.name)
    except (OSError, ValueError):  # a NUL is no part of a path
        return
    fitting = [e for e in entries if e.name.startswith(name) and not _is_hidden(e.name, name)]
    for entry in fitting[:_MOST]:
        end = "/" if entry.is_dir() else (quote or "")
        text = os.path.join(folder, entry.name)
        if quote is None and " " in text:
            text, end = f'"{text}', "/" if entry.is_dir() else '"'
        if text.isprintable():
            yield Offer(text + end, len(typed))


def _is_hidden(name: str, typed: str) -> bool:
    return name.startswith(".") and not typed.startswith(".")


def _patterns(workspace: Workspace, typed: str) -> Iterator[Offer]:
    """Complete a pattern component by component, over the names of tensors that were opened.

    Numbers become `*`, so that a model of forty layers offers what one layer has.
    """
    opened = [one for one in workspace.opened.values() if isinstance(one, Checkpoint)]
    names = {_NUMBER.sub("*", name) for one in opened for name in one.tensors}
    if typed.startswith("*."):
        names = {f"*.{end}" for name in names for end in _endings(name)}
    found = {_up_to_dot(name, len(typed)) for name in names if name.startswith(typed)}
    for text in sorted(found)[:_MOST]:
        if text.isprintable():
            yield Offer(text, len(typed))


def _endings(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[index:]) for index in range(1, len(parts)))


def _up_to_dot(name: str, start: int) -> str:
    dot = name.find(".", start)
    return name if dot < 0 else name[: dot + 1]
