"""Names that the command line binds: the options that every command with an expression has."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import click

from taskalg import api
from taskalg.algebra.coefficient import Coefficient
from taskalg.compiler import Bindings, bind, read_recipe, scalar
from taskalg.errors import Source, UsageError
from taskalg.recipe import Recipe

F = TypeVar("F", bound=Callable[..., Any])


def together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Join decorators, so that commands can share options."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


@dataclass(frozen=True)
class Names:
    """What the command line binds."""

    file: str | None  # a recipe's path
    bindings: Bindings
    nothing_bound: bool  # neither a recipe nor a checkpoint was given

    def recipe(self, expression: str | None, *, free: bool = False) -> Recipe:
        """Compile an expression, the recipe file, or the expression in the file's names."""
        source = None
        if expression is not None:
            source = Source("<expr>", expression.removeprefix("\ufeff"))
        file = None if self.file is None else read_recipe(self.file)
        return api.build(source, file, self.bindings, free=free)


_BINDINGS = together(
    click.option("-f", "file", metavar="RECIPE", help="Read a recipe; EXPR replaces its own."),
    click.option(
        "--base", "bases", metavar="PATH", multiple=True, help="Bind base to a checkpoint."
    ),
    click.option(
        "--task", "tasks", metavar="NAME=PATH", multiple=True, help="Bind a checkpoint minus base."
    ),
    click.option(
        "--model", "models", metavar="NAME=PATH", multiple=True, help="Bind a checkpoint as it is."
    ),
    click.option("--set", "scalars", metavar="NAME=VALUE", multiple=True, help="Bind a scalar."),
)


def bindings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that bind names, as its argument `names`."""

    @wraps(command)
    def with_names(
        *,
        file: str | None,
        bases: tuple[str, ...],
        tasks: tuple[str, ...],
        models: tuple[str, ...],
        scalars: tuple[str, ...],
        **rest: Any,
    ) -> None:
        if len(bases) > 1:
            raise UsageError("--base is given twice", help="bind others with --model NAME=PATH")
        base = next(iter(bases), None)
        values = dict(_scalar(*pair) for pair in _pairs("--set", scalars))
        bound = bind(base, dict(_pairs("--task", tasks)), dict(_pairs("--model", models)), values)
        command(names=Names(file, bound, not (file or base or tasks or models)), **rest)

    return _BINDINGS(with_names)


def _scalar(name: str, value: str | None) -> tuple[str, Coefficient]:
    if value is None:
        raise UsageError(f"--set {name} has no value", help=f"write --set {name}=0.4")
    return name, scalar(value, name)


def _pairs(option: str, texts: tuple[str, ...]) -> list[tuple[str, str | None]]:
    pairs: list[tuple[str, str | None]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if name in dict(pairs):
            raise UsageError(f"{option} {name} is given twice")
        pairs.append((name, value if equals else None))
    return pairs
