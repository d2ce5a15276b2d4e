"""An expression in a session's names to a recipe file that means the same, wherever it lies.

Only the statements that it needs are written, as they were typed. Paths are what changes: one
inside the file's folder becomes relative to it, so that both can move together; any other becomes
absolute. A name of a model on the Hub stays. What was bound from outside gets a line of its own.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from taskalg import api, files
from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.weighted_sum import Reference, Value, references
from taskalg.compiler import Bindings, locate
from taskalg.errors import OutputError, Source, TaskalgError, UsageError, quoted
from taskalg.language.nodes import (
    Argument,
    Binding,
    Call,
    Definition,
    Node,
    Product,
    Recipe,
    Select,
    Signed,
    String,
    Sum,
)
from taskalg.language.parser import parse
from taskalg.language.printer import print_recipe
from taskalg.recipe_text import in_quotes
from taskalg.workbench.definitions import Statement
from taskalg.workbench.describing import checkpoint_name, sum_text
from taskalg.workbench.workspace import Workspace

Change = Callable[[String], String]


def recipe_file(workspace: Workspace, expression: Node, path: Path) -> Source:
    """Return the text of a recipe file for an expression, not written yet.

    Raises:
        UsageError: it mentions what no file can: weights in memory, or names without a file.
    """
    folder = os.path.abspath(path.parent)
    part = workspace.definitions.needed(expression)
    given = parse(Source("<session>", _given_text(part.given))).statements
    own = (one for one in given if isinstance(one, Binding))
    statements = [_moved_statement(one, folder) for one in (*own, *part.statements)]
    moved = _moved(expression, lambda string: _moved_path(string, folder))
    program = Recipe(tuple(statements), moved, Source(str(path), ""))
    return Source(str(path), print_recipe(program), folder)


def check_same(workspace: Workspace, expression: Node, source: Source) -> None:
    """Compare what a recipe file will mean with what it is to mean. Reads headers only.

    Raises:
        OutputError: they differ, as when a path means something else beside the file.
    """
    try:
        again = api.build(None, source, Bindings(), opening=workspace.opening)
        difference = workspace.recipe(expression).difference(again)
    except TaskalgError as error:  # two checkpoints with one name, or one that is not there
        difference = error.message
    if difference is not None:
        raise OutputError(
            f"{quoted(source.name)} would mean something else there",
            note=difference,
            help="write it into another folder",
        )


def _given_text(given: Mapping[str, Value]) -> str:
    """Write down what was bound from outside: scalars, checkpoints, and sums that Python made."""
    lines: dict[str, str] = {}
    for name, value in given.items():
        if isinstance(value, Coefficient):
            lines[name] = str(value)
            continue
        for reference in sorted(references([value]), key=_depth):
            if reference.name is not None:
                lines.setdefault(reference.name, _reference_text(reference))
        if checkpoint_name(value) != name:
            lines[name] = sum_text(value)
    return "".join(f"{name} = {text}\n" for name, text in lines.items())


def _depth(reference: Reference) -> int:
    """Return how many tasks deep a reference's base is: what is used is written first."""
    if reference.base is None:
        return 0
    return 1 + max(map(_depth, reference.base.terms), default=0)


def _reference_text(reference: Reference) -> str:
    name, path = reference.name or "", reference.path
    if reference.held is not None or path is None:
        raise UsageError(
            f"{quoted(name)} has no file, so no recipe can name it",
            help=f"bind it to one: :load {name} PATH",
        )
    arguments = [in_quotes(path)]
    if reference.base is not None:
        arguments.append(sum_text(reference.base))
    if reference.strip_prefix is not None:
        arguments.append(f"strip_prefix={in_quotes(reference.strip_prefix)}")
    return f"{reference.sort}({', '.join(arguments)})"


def _moved_path(path: String, folder: str) -> String:
    """Return a path as it is written in a file in a folder."""
    reference = Reference(path.text, "checkpoint", folder=path.span.source.folder)
    place = locate(reference)
    if path.text.startswith("hf://") or not files.exists(place):
        return path
    whole = os.path.abspath(place)
    inside = Path(whole).is_relative_to(folder)
    text = Path(whole).relative_to(folder).as_posix() if inside else whole
    text = f"./{text}" if text.startswith("~") else text
    in_quotes(text)
    return replace(path, text=text)


def _moved_statement(statement: Statement, folder: str) -> Statement:
    def change(path: String) -> String:
        return _moved_path(path, folder)

    if isinstance(statement, Definition):
        return replace(statement, body=_moved(statement.body, change))
    return replace(statement, value=_moved(statement.value, change))


def _moved(node: Node, change: Change) -> Node:
    """Change the paths in an expression."""
    match node:
        case Sum() | Product():
            return replace(node, operands=tuple(_moved(one, change) for one in node.operands))
        case Signed() | Select():
            return replace(node, operand=_moved(node.operand, change))
        case Call():
            return replace(node, arguments=tuple(_argument(one, change) for one in node.arguments))
        case _:
            return node


def _argument(argument: Argument, change: Change) -> Argument:
    value = argument.value
    if not isinstance(value, String):
        return replace(argument, value=_moved(value, change))
    return (
        argument if argument.keyword == "strip_prefix" else replace(argument, value=change(value))
    )
