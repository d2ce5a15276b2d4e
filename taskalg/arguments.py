"""Python's arguments where they come in: what cannot be one is told before anything is done."""

from os import PathLike

from taskalg.errors import UsageError, quoted
from taskalg.expression import Expression

_MADE = "make one with taskalg.compile(TEXT, …) or taskalg.checkpoint(PATH)"


def recipe_in(argument: object, what: str) -> Expression:
    """Return an argument that has to be a recipe.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(argument, Expression):
        return argument
    raise wrong(f"{what} is a recipe", argument, _MADE)


def wrong(wanted: str, argument: object, help: str) -> UsageError:
    """Return the error that an argument is something else: what was wanted, found, and to type."""
    is_text = isinstance(argument, str | PathLike)
    found = quoted(str(argument)) if is_text else type(argument).__name__
    return UsageError(wanted, note=f"found {found}", help=help)
