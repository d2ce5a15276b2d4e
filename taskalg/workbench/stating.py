"""New bindings, and what is said of them: the value, what was there before, and what follows."""

from collections.abc import Sequence
from dataclasses import replace

from taskalg.algebra.coefficient import Coefficient
from taskalg.errors import TaskalgError, listed, printable
from taskalg.language.nodes import Binding, Definition, Node
from taskalg.workbench.answer import Answer
from taskalg.workbench.definitions import Definitions, Statement, definition_text
from taskalg.workbench.describing import checkpoint_name, described, place
from taskalg.workbench.numbers import number
from taskalg.workbench.words import in_session
from taskalg.workbench.workspace import Workspace, name_node


def bind(workspace: Workspace, new: Sequence[Statement]) -> Answer:
    """Bind names; all of them, or none when the last cannot be shown.

    Raises:
        TaskalgError: what was written makes no sense, or its checkpoints cannot be opened.
    """
    before = workspace.definitions
    was = _told_before(workspace, new[-1].name) if len(new) == 1 else None
    workspace.definitions = before.replacing(new)
    try:
        if len(new) > 1:
            return loaded(workspace, [one.name for one in new])
        return _one(workspace, new[0], was, before)
    except BaseException:  # also an interruption while a header is on its way
        workspace.definitions = before
        raise


def show(workspace: Workspace, expression: Node) -> Answer:
    """Say what an expression is; a sum is what later commands are about by default.

    Raises:
        TaskalgError: it makes no sense, or its checkpoints do not fit.
    """
    recipe = workspace.recipe(expression)
    if isinstance(recipe.value, Coefficient):
        return number(workspace, recipe)
    answer = Answer(described(recipe), recipe)
    workspace.last = expression
    return answer


def loaded(workspace: Workspace, names: Sequence[str]) -> Answer:
    """Open the headers of what was bound, and say which cannot be opened."""
    wrong: dict[str, str] = {}
    for name, recipe in workspace.checkpoints().items():
        try:
            if name in names:
                recipe.resolved  # noqa: B018 - opens it
        except TaskalgError as error:
            error.help = None if error.help is None else in_session(error.help)
            wrong[name] = str(error)
    right = [name for name in dict.fromkeys(names) if name not in wrong]
    lines = [f"{listed(right)} loaded (headers only)"] if right else []
    return Answer("\n".join([*lines, *wrong.values()]), tuple(names))


def _one(workspace: Workspace, new: Statement, was: str | None, before: Definitions) -> Answer:
    follow = workspace.definitions.followers([new.name])
    history = [f"was {was}"] if was is not None else []
    if follow and was is not None:
        history.append(f"{listed(follow)} follow{'s' if len(follow) == 1 else ''}")
    if isinstance(new, Definition):
        return Answer("\n".join([definition_text(new), *_joined(history)]))
    recipe = workspace.recipe(name_node(new.name))
    if isinstance(recipe.value, Coefficient):
        text = ", ".join([f"{new.name} = {recipe}", *_joined(history)])
        return Answer(printable(text), recipe)
    answer = show(workspace, name_node(new.name))
    return replace(answer, text="\n".join([answer.text, *_joined(history)]))


def _joined(history: list[str]) -> list[str]:
    return ["; ".join(history)] if history else []


def _told_before(workspace: Workspace, name: str) -> str | None:
    """Say in one line what a name stood for; None when it is new."""
    old = workspace.definitions.statement(name)
    if isinstance(old, Definition):
        return definition_text(old)
    if name not in workspace.definitions.names:
        return None
    try:
        recipe = workspace.recipe(name_node(name))
        return place(recipe) if checkpoint_name(recipe.value) else printable(str(recipe))
    except TaskalgError:  # a file that is gone by now
        return definition_text(old) if isinstance(old, Binding) else "bound to something else"
