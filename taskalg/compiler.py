"""Text and bindings to a value: parse, link, simplify, in one place for every door.

The one place that finds files by what a recipe says about them.
"""

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from taskalg import files
from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.evaluation import Evaluation, evaluate
from taskalg.algebra.operators import BUILTINS
from taskalg.algebra.simplify import simplify
from taskalg.algebra.weighted_sum import Reference, Sort, Sum, Value, WeightedSum
from taskalg.checkpoints.memory import called, is_in_memory
from taskalg.errors import (
    CheckpointError,
    ExpressionError,
    Source,
    UnknownNameError,
    UsageError,
    quoted,
)
from taskalg.language.nodes import Definition, Name, Node, Recipe, String, walk
from taskalg.language.parser import parse, parse_expression
from taskalg.language.recipe import Program, link
from taskalg.system import AnyPath

Weights = AnyPath | object  # a path, or a state dict or a module in memory
LARGEST_RECIPE = 50_000_000  # bytes


@dataclass(frozen=True)
class Bindings:
    """Names bound from outside: the command line's, or `compile`'s arguments."""

    values: Mapping[str, Value] = field(default_factory=dict)
    scalars: frozenset[str] = frozenset()  # those that were set, and so must be used


def bind(
    base: Weights | None = None,
    tasks: Mapping[str, Weights | None] | None = None,
    models: Mapping[str, Weights | None] | None = None,
    scalars: Mapping[str, Coefficient] | None = None,
) -> Bindings:
    """Make bindings from paths and state dicts; None declares a name without either.

    Raises:
        UsageError: a name is no name, is a built-in, or is bound twice.
    """
    values: dict[str, Value] = {}

    def add(name: str, value: Value) -> None:
        name = checked_name(name)
        if name in values:
            raise UsageError(f"{quoted(name)} is bound twice", help="give each name once")
        values[name] = value

    if base is not None:
        add("base", _alone(mention(base, "checkpoint", "base")))
    for name, weights in (models or {}).items():
        add(name, _alone(mention(weights, "checkpoint", checked_name(name))))
    for name, weights in (tasks or {}).items():
        add(name, _alone(mention(weights, "task", checked_name(name))))
    for name, value in (scalars or {}).items():
        add(name, value)
    return Bindings(values, frozenset(map(checked_name, scalars or {})))


def _alone(reference: Reference) -> Sum:
    return WeightedSum({reference: Coefficient(1)})


def mention(
    weights: Weights | None,
    sort: Sort,
    name: str | None,
    *,
    base: Sum | None = None,
    strip_prefix: str | None = None,
) -> Reference:
    """Return what stands for one checkpoint that is bound from outside."""
    if is_in_memory(weights):
        path = called(weights)
        return Reference(path, sort, name, base, strip_prefix=strip_prefix, held=weights)
    there = None if weights is None else os.fspath(cast(AnyPath, weights))
    return Reference(there, sort, name, base, strip_prefix=strip_prefix)


def checked_name(name: str) -> str:
    """Return a name in its normal form.

    Raises:
        UsageError: it cannot be a name, or is a built-in function's.
    """
    normal = unicodedata.normalize("NFKC", name)
    if not normal.isidentifier() or normal == "use":
        joined = "".join(char if char.isalnum() else "_" for char in normal)
        fixed = joined if joined[:1].isalpha() and joined != "use" else f"_{joined}"
        raise UsageError(f"{quoted(name)} cannot be a name", help=f"choose one like {fixed}")
    if normal in BUILTINS:
        raise UsageError(f"{quoted(name)} is a built-in function", help="choose another name")
    return normal


def scalar(text: str, name: str) -> Coefficient:
    """Evaluate the text of `--set name=text`, an expression without names.

    Raises:
        ExpressionError: it is no scalar.
    """
    source = Source(f"--set {name}", text)
    node = parse_expression(source)
    wrong = ExpressionError(
        f"{quoted(name)} must be set to a scalar", node.span, help=f"write --set {name}=0.4"
    )
    try:
        value, _ = simplify(link(Recipe((), node, source), builtins=BUILTINS))
    except UnknownNameError:
        raise wrong from None
    if not isinstance(value, Coefficient):
        raise wrong
    return value


def compile_text(
    expression: Source | None,
    recipe: Source | None,
    bindings: Bindings,
    *,
    free: bool = False,
) -> Evaluation:
    """Evaluate an expression, a recipe, or an expression in a recipe's names.

    Args:
        expression: replaces the recipe's own expression.
        recipe: a recipe file's text.
        bindings: names bound from outside.
        free: whether unknown names stand for undeclared checkpoints.

    Raises:
        ExpressionError: something is wrong in a text.
        UsageError: there is no expression, or a scalar was set that nothing uses.
    """
    parsed = [parse(source) for source in (recipe, expression) if source is not None]
    expressions = [one.expression for one in parsed if one.expression is not None]
    if not expressions:
        raise UsageError(
            "there is no expression",
            help='type one, like "base + 0.4*toxic", or end the recipe with one',
        )
    statements = tuple(statement for one in parsed for statement in one.statements)
    whole = Recipe(statements, expressions[-1], parsed[-1].source)
    reader = Reader(recipe)
    given = bindings.values
    program = link(whole, builtins=BUILTINS, given=given, read=reader.read, free=free)
    _check_used(program, bindings)
    return evaluate(program, given, free=free)


def read_recipe(path: str | os.PathLike[str]) -> Source:
    """Read a recipe file.

    Raises:
        CheckpointError: it cannot be read, or is not UTF-8.
    """
    name = os.fspath(path)
    content = files.read_small(name, LARGEST_RECIPE)
    return recipe_source(name, content, str(Path(name).parent))


def recipe_source(name: str, content: bytes, folder: str | None) -> Source:
    """Make a source of a recipe's bytes; what it says is relative to `folder`.

    Raises:
        CheckpointError: it is not UTF-8.
    """
    try:
        return Source(name, content.decode("utf-8-sig"), folder)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{quoted(name)} is not UTF-8 text: {error.reason}") from None


def locate(reference: Reference) -> str:
    """Return the path a reference means: beside its recipe if it is there, else as it is."""
    path = os.path.expanduser(reference.path or "")
    if reference.folder is not None and not os.path.isabs(path):
        beside = os.path.join(reference.folder, path)
        if files.exists(beside):
            return beside
    return path


class Reader:
    """Reads what `use` names, each file once."""

    def __init__(self, recipe: Source | None) -> None:
        self._read: dict[tuple[int, int], Source] = {}
        if recipe is not None and recipe.folder is not None and files.exists(recipe.name):
            self._read[files.identity(recipe.name)] = recipe

    def read(self, path: String, using: tuple[Source, ...]) -> Source | None:
        """Return the source, or None when it was read before."""
        name = os.path.join(path.span.source.folder or "", os.path.expanduser(path.text))
        try:
            mark = files.identity(name)
            earlier = self._read.get(mark)
            if earlier is None:
                self._read[mark] = read_recipe(name)
                return self._read[mark]
        except CheckpointError as error:
            error.span = error.span or path.span
            raise
        if any(earlier is source for source in using):
            raise ExpressionError(
                f"{quoted(path.text)} uses itself",
                path.span,
                note=" -> ".join([*(source.name for source in using), earlier.name]),
                help="move what both need into a third file",
            )
        return None


def _check_used(program: Program, bindings: Bindings) -> None:
    names: set[str] = set()
    tops: list[Node] = [] if program.expression is None else [program.expression]
    for statement in program.statements:
        names.add(statement.name)
        tops.append(statement.body if isinstance(statement, Definition) else statement.value)
    names |= {node.name for top in tops for node in walk(top) if isinstance(node, Name)}
    unused = sorted(bindings.scalars - names)
    if unused:
        raise UsageError(
            f"--set {unused[0]} is used by nothing",
            help=f"write {unused[0]} in the expression, or drop it",
        )


def default_name(path: Any) -> str:
    """Return the name a path suggests: its last part as an identifier.

    >>> default_name("models/gpt2-large.safetensors"), default_name("org/7b-chat@main")
    ('gpt2_large', '_7b_chat')
    """
    path = called(path).strip("<>") if is_in_memory(path) else os.fspath(path)
    last = os.path.basename(os.path.normpath(path)).partition("@")[0]
    stem = last.removesuffix(".safetensors")
    name = "".join(char if char.isalnum() else "_" for char in stem) or "_"
    name = name if name[0].isalpha() or name[0] == "_" else f"_{name}"
    name = unicodedata.normalize("NFKC", name)
    return f"{name}_" if name in BUILTINS or name == "use" else name
