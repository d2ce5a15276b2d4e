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
    return Answer(f"{number_text(found.value)}{told}", found.value)


def number_text(value: float) -> str:
    """Print a measured number: six digits.

    >>> number_text(0.0312345678), number_text(-0.0)
    ('0.0312346', '0')
    """
    return f"{value + 0.0:.6g}"
