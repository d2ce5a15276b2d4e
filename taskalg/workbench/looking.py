"""Commands that answer from names and headers."""

from taskalg.errors import TaskalgError, UsageError, printable, quoted
from taskalg.language.nodes import Binding, Node
from taskalg.listing import columns
from taskalg.recipe import Recipe
from taskalg.workbench.answer import Answer
from taskalg.workbench.definitions import definition_text
from taskalg.workbench.describing import file_row, value_text
from taskalg.workbench.line import Line
from taskalg.workbench.stating import bind
from taskalg.workbench.workspace import Workspace


def models(workspace: Workspace, line: Line) -> Answer:
    """List the checkpoints: name, kind, what is in the file."""
    _check_end(line)
    found = workspace.checkpoints()
    if not found:
        return Answer("no checkpoint is bound; :load base PATH binds one")
    return Answer("\n".join(columns([(name, *_row(one)) for name, one in found.items()])))


def let(workspace: Workspace, line: Line) -> Answer:
    """Bind as `NAME = EXPR` does; alone, list what is bound that is no checkpoint."""
    if not line.is_empty:
        program = line.recipe()
        if program.expression is not None or not program.statements:
            raise line.wrong("there is nothing to bind")
        return bind(workspace, workspace.flattened(program))
    checkpoints = workspace.checkpoints()
    given = workspace.definitions.given
    lines = [f"{n} = {value_text(v)}" for n, v in given.items() if n not in checkpoints]
    for one in workspace.definitions.statements:
        if one.name not in checkpoints:
            left = f"{one.name} = " if isinstance(one, Binding) else ""
            lines.append(f"{left}{definition_text(one)}")
    return Answer(printable_lines(lines) or "nothing is bound but checkpoints; :models lists them")


def forget(workspace: Workspace, line: Line) -> Answer:
    """Unbind a name that nothing depends on."""
    name, line = line.first("name")
    _check_end(line)
    before = workspace.definitions
    if workspace.last is not None and name in before.needed(workspace.last).bound:
        workspace.last = None
    workspace.definitions = before.without(name)
    return Answer(f"{name} is forgotten")


def explain(workspace: Workspace, line: Line) -> Answer:
    """Say what `:merge` would do."""
    found = workspace.recipe(asked(workspace, line)).explain()
    return Answer(str(found), found)


def equal(workspace: Workspace, line: Line) -> Answer:
    """Prove that two expressions are equal, or say where they differ."""
    expressions = line.expressions()
    if len(expressions) != 2:
        raise line.wrong("two expressions are compared", note=f"found {len(expressions)}")
    first, second = (workspace.recipe(one) for one in expressions)
    found = first.difference(second)
    return Answer("equal" if found is None else f"different: {printable(found)}", found is None)


def history(workspace: Workspace, line: Line) -> Answer:
    """List the last inputs with their numbers, this one left out."""
    count = line.count(len(workspace.inputs))
    numbered = list(enumerate(workspace.inputs, 1))[:-1]
    return Answer("\n".join(_numbered(*one) for one in numbered[-count:]))


def asked(workspace: Workspace, line: Line) -> Node:
    """Return the expression of a line, or the last sum that was shown.

    Raises:
        TaskalgError: there is neither, or it is none.
    """
    if not line.is_empty:
        return line.expression()
    if workspace.last is None:
        raise line.wrong("there is no expression, and no sum was shown before")
    return workspace.last


def printable_lines(lines: list[str]) -> str:
    """Join lines that may hold untrusted text."""
    return "\n".join(map(printable, lines))


def _numbered(number: int, text: str) -> str:
    label = f"<{number}>"
    return printable_lines(text.split("\n")).replace("\n", f"\n{'':<6}").join([f"{label:<6}", ""])


def _row(recipe: Recipe) -> tuple[str, ...]:
    try:
        return (str(recipe.kind), *file_row(recipe))
    except TaskalgError as error:
        return "?", "", "", printable(error.message)


def _check_end(line: Line) -> None:
    if not line.is_empty:
        raise UsageError(f"nothing is expected after it, found {quoted(line.rest.strip())}")
