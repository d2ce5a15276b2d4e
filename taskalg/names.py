"""Names that the command line binds: the options that every command with an expression has."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import click

from taskalg import api, files
from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.rationals import decimal_text
from taskalg.checkpoints.base import Opening
from taskalg.compiler import Bindings, bind, default_name, read_recipe, scalar
from taskalg.errors import ExpressionError, Source, UsageError, printable
from taskalg.recipe import Recipe
from taskalg.sweeping.grid import read_grid, split_setting

RECIPE = ".ta"  # what recipes' names end in
_OPERATORS = ("+", "-", "*", "/")
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
        """Compile an expression, the recipe file, or the expression in the file's names.

        Raises:
            TaskalgError: as `api.build` does. An expression that is a path, or a part of one that
                lacks its quotes, is told as that.
        """
        source = None
        if expression is not None:
            source = Source("<expr>", expression.removeprefix("\ufeff"))
        file = None if self.file is None else read_recipe(self.file)
        try:
            return api.build(source, file, self.bindings, opening=self.opening, free=free)
        except ExpressionError as error:
            if error.span is not None and error.span.source is source:
                error.help = _meant(source.text) or error.help
            raise


def _meant(text: str) -> str | None:
    """Return what to type for a text that is no expression; None when nobody can know."""
    if text in _OPERATORS:
        return f'put each expression in quotes: "x {text} y"'
    if text.endswith(","):
        return "leave out the comma: a space is between expressions"
    if not (text and files.exists(text)):
        return None
    path = printable(shlex.quote(text))
    if text.endswith(RECIPE):
        return f"write -f {path}"
    return f"give it a name: --model {default_name(text)}={path}"


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
_PROGRAM = together(
    click.option("-f", "file", metavar="RECIPE", help="Read a recipe; EXPR replaces its own."),
    _CHECKPOINTS,
)
_SET = click.option("--set", "scalars", metavar="NAME=VALUE", multiple=True, help="Bind a scalar.")
_SWEEP = click.option(
    "--set",
    "scalars",
    metavar="NAME=VALUES",
    multiple=True,
    help="Sweep a scalar: λ=0:1:0.05, λ=0,0.5,1; several together: a=b=0:1:0.1. Or bind it: λ=0.4.",
)


def bindings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that bind names, as its argument `names`."""
    return _PROGRAM(_SET(_named(command)))


def swept_bindings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the same, and as its argument `grid` what scalars of several values take.

    In `names` they have the values of the grid's first point.
    """
    named = _named(command)

    @wraps(command)
    def with_grid(*, scalars: tuple[str, ...], **rest: Any) -> None:
        fixed: list[str] = []
        grid: dict[str, str] = {}
        for text in scalars:
            names, values, is_swept = split_setting(text)
            if values is None:
                fixed.append(text)
            elif not is_swept:
                fixed += [f"{name}={values}" for name in names.split("=")]
            elif names in grid:
                raise UsageError(f"--set {names} is given twice")
            else:
                grid[names] = values
        first = read_grid(grid).points[0]
        fixed += [f"{name}={decimal_text(value)}" for name, value in first.items()]
        named(scalars=tuple(fixed), grid=grid, **rest)

    return _PROGRAM(_SWEEP(with_grid))


def _named(command: Callable[..., None]) -> Callable[..., None]:
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
        bound = bind(base, dict(_paths("--task", tasks)), dict(_paths("--model", models)), values)
        nothing_bound = not (file or base or tasks or models)
        opening = Opening(allow_pickle=allow_pickle)
        command(names=Names(file, bound, nothing_bound, opening), **rest)

    return with_names


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
        found = {"tasks": dict(_paths("--task", tasks)), "models": dict(_paths("--model", models))}
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


def _paths(option: str, texts: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """Read `NAME=PATH`, and `NAME` alone; what can only be a path lacks its name."""
    for text in texts:
        if "=" not in text and any(mark in text for mark in "./\\"):
            path = printable(shlex.quote(text))
            raise UsageError(
                f"{option} {path} has no name", help=f"write {option} {default_name(text)}={path}"
            )
    return _pairs(option, texts)


def _pairs(option: str, texts: tuple[str, ...]) -> list[tuple[str, str | None]]:
    pairs: list[tuple[str, str | None]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if name in dict(pairs):
            raise UsageError(f"{option} {name} is given twice")
        pairs.append((name, value if equals else None))
    return pairs
