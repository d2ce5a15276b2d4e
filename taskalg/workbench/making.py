"""Commands that bind or write something: checkpoints, recipe files, merged models."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from taskalg import files, listing
from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.weighted_sum import Value
from taskalg.compiler import checked_name, default_name, read_recipe
from taskalg.errors import (
    CheckpointError,
    ExpressionError,
    OutputError,
    Source,
    TaskalgError,
    UsageError,
    listed,
    printable,
    quoted,
)
from taskalg.language.nodes import Argument, Binding, Call, String, Use
from taskalg.language.parser import parse
from taskalg.recipe_text import in_quotes
from taskalg.workbench.answer import Answer
from taskalg.workbench.line import Line
from taskalg.workbench.looking import asked
from taskalg.workbench.saving import check_same, recipe_file
from taskalg.workbench.stating import bind, loaded, show
from taskalg.workbench.workspace import Workspace


def load(workspace: Workspace, line: Line) -> Answer:
    """Bind a checkpoint to a name, or all names of a recipe file."""
    is_task, line = line.option("--task")
    words = line.words
    if len(words) == 1 and not is_task:
        return load_recipe(workspace, _recipe(words[0].text))
    if len(words) != 2:
        raise line.wrong("a name and a path are expected, or the path of a recipe")
    name, path = words
    in_quotes(path.text)
    at = line.span(path)
    argument = Argument(None, String(path.text, at), at)
    call = Call("task" if is_task else "checkpoint", (argument,), at, at)
    return bind(workspace, [Binding(checked_name(name.text), call, line.span(name), at)])


def load_recipe(
    workspace: Workspace, source: Source, given: Mapping[str, Value] | None = None
) -> Answer:
    """Take over the names of a recipe, and show its expression, if it has one.

    Args:
        workspace: gets the names.
        source: the recipe.
        given: what stands for some names in place of what the recipe binds to them.
    """
    program = parse(source)
    statements = workspace.flattened(program)
    workspace.definitions = workspace.definitions.replacing(statements).giving(given or {})
    answer = loaded(workspace, [one.name for one in statements])
    if program.expression is None:
        return answer
    try:
        shown = show(workspace, program.expression)
    except TaskalgError as error:  # the names are bound all the same
        shown = Answer.of_error(error)
    return replace(shown, text="\n".join(filter(None, (answer.text, shown.text))))


def _recipe(path: str) -> Source:
    """Read a recipe, and refuse what is a checkpoint."""
    if files.is_folder(path) or path.endswith(".safetensors"):
        raise UsageError(
            f"{quoted(path)} is no recipe: a checkpoint is loaded under a name",
            help=f":load {default_name(path)} {path}",
        )
    try:
        return read_recipe(path)
    except CheckpointError as error:
        error.help = error.help or "a recipe is expected; a checkpoint is :load NAME PATH"
        raise


def save(workspace: Workspace, line: Line) -> Answer:
    """Write a recipe file, all of it or nothing."""
    overwrite, line = line.option("--overwrite")
    name, line = line.first("file")
    expression = asked(workspace, line)
    if isinstance(workspace.recipe(expression).value, Coefficient):
        raise line.wrong("a scalar is no recipe: there is nothing to write")
    path = files.at_home(name)
    source = recipe_file(workspace, expression, path)
    check_same(workspace, expression, source)
    if not files.is_folder(path.parent):
        raise OutputError(f"there is no folder {quoted(str(path.parent))}", help="make it first")
    if files.exists(path):
        _check_replaceable(path, name, overwrite)
    _publish(path, source.text)
    names = [one.name for one in parse(source).statements if not isinstance(one, Use)]
    told = f"with {listed(names)}" if names else "without names"
    return Answer(f"wrote {printable(name)}  {told}", source)


def merge(workspace: Workspace, line: Line) -> Answer:
    """Evaluate, and publish a checkpoint."""
    overwrite, line = line.option("--overwrite")
    out, line = line.last("folder to write")
    if line.is_empty:
        raise line.wrong("an expression and a folder to write are expected")
    try:
        expression = line.expression()
    except ExpressionError as error:
        error.help = error.help or f"{quoted(out)} was taken as OUT; write {line.usage}"
        raise
    recipe = workspace.recipe(expression)
    with workspace.working() as showing:
        report = recipe.save(out, overwrite=overwrite, progress=showing)
    return Answer(listing.receipt(report), report)


def _check_replaceable(path: Path, name: str, overwrite: bool) -> None:
    """Refuse to replace a file that is not said to be, or that holds anything but a recipe."""
    try:
        parse(read_recipe(path))
    except TaskalgError:  # weights, say
        problem = f"{quoted(name)} is there already, and is no recipe"
        raise OutputError(problem, help="choose another file") from None
    if not overwrite:
        raise OutputError(f"{quoted(name)} is there already", help="add --overwrite to replace it")


def _publish(path: Path, text: str) -> None:
    """Write a file under another name first, so that nobody sees half of it."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        files.write_small(hidden, text.encode())
        files.rename(hidden, path)
    finally:
        files.remove(hidden)
