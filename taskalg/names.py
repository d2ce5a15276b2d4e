"""Names that the command line binds: the options that every command with an expression has."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import click

from taskalg import api
from taskalg.algebra.coefficient import Coefficient
from taskalg.checkpoints.base import Opening
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
    opening: Opening  # what is allowed when checkpoints are opened

    def recipe(self, expression: str | None, *, free: bool = False) -> Recipe:
        """Compile an expression, the recipe file, or the expression in the file's names."""
        source = None
        if expression is not None:
            source = Source("<expr>", expression.removeprefix("\ufeff"))
        file = None if self.file is None else read_recipe(self.file)
        return api.build(source, file, self.bindings, opening=self.opening, free=free)


allow_pickle = click.option(
    "--allow-pickle", is_flag=True, help="Read PyTorch pickles: tensors only, nothing is run."
)
_CHECKPOINTS = together(
    click.option(
        "--base", "bases", metavar="PATH", multiple=True, help="Bind base to a checkpoint."
    ),
    click.option(
        "--task", "tasks", metavar="NAME=PATH", multiple=True, help="Bind a checkpoint minus base."
    ),
    click.option(
        "--model", "models", metavar="NAME=PATH", multiple=True, help="Bind a checkpoint as it is."
    ),
    allow_pickle,
)
_BINDINGS = together(
    click.option("-f", "file", metavar="RECIPE", help="Read a recipe; EXPR replaces its own."),
    _CHECKPOINTS,
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
        allow_pickle: bool,
        **rest: Any,
    ) -> None:
        base = _one(bases)
        values = dict(_scalar(*pair) for pair in _pairs("--set", scalars))
        bound = bind(base, dict(_pairs("--task", tasks)), dict(_pairs("--model", models)), values)
        nothing_bound = not (file or base or tasks or models)
        opening = Opening(allow_pickle=allow_pickle)
        command(names=Names(file, bound, nothing_bound, opening), **rest)

    return _BINDINGS(with_names)


def locations(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where checkpoints are, as its argument `where`."""

    @wraps(command)
    def with_locations(
        *,
        bases: tuple[str, ...],
        tasks: tuple[str, ...],
        models: tuple[str, ...],
        allow_pickle: bool,
        **rest: Any,
    ) -> None:
        found = {"tasks": dict(_pairs("--task", tasks)), "models": dict(_pairs("--model", models))}
        for option, paths in found.items():
            for name in (name for name, path in paths.items() if path is None):
                raise UsageError(f"--{option[:-1]} {name} has no path", help=f"write {name}=PATH")
        where = {"base": _one(bases), **found, "allow_pickle": allow_pickle}
        command(where=where, **rest)

    return _CHECKPOINTS(with_locations)


def _one(bases: tuple[str, ...]) -> str | None:
    if len(bases) > 1:
        raise UsageError("--base is given twice", help="bind others with --model NAME=PATH")
    return next(iter(bases), None)


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
