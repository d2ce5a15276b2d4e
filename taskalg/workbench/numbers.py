"""Scalars to what a session says of them: exact ones as they are, measured ones as numbers."""

from taskalg.algebra.coefficient import Coefficient
from taskalg.errors import printable
from taskalg.recipe import Recipe
from taskalg.workbench.answer import Answer
from taskalg.workbench.workspace import Workspace


def number(workspace: Workspace, recipe: Recipe) -> Answer:
    """Say what a scalar is; what has to be measured for it is measured, and kept.

    Raises:
        TaskalgError: a checkpoint cannot be measured, or something is divided by zero.
    """
    assert isinstance(recipe.value, Coefficient)
    if not any(recipe.value.symbols()):
        return Answer(printable(str(recipe)), recipe)
    with workspace.working() as showing:
        found = workspace.answers.number(recipe, showing)
    told = f"   ({found.told})" if found.told else ""
    return Answer(f"{found.value + 0.0:.6g}{told}", found.value)  # never -0
