"""The public door: text, files and Python numbers become recipes.

Three ways in, one value out: `compile` for text, `checkpoint` and `task` for Python's operators.
"""

import os
from collections.abc import Mapping

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.operators import FUNCTIONS
from taskalg.algebra.weighted_sum import Sort, WeightedSum
from taskalg.arguments import recipe_in
from taskalg.checkpoints.base import Opening
from taskalg.compiler import (
    Bindings,
    Weights,
    bind,
    checked_name,
    compile_text,
    default_name,
    mention,
    read_recipe,
)
from taskalg.errors import Source, UsageError
from taskalg.expression import Written, opened_as
from taskalg.recipe import Recipe
from taskalg.scalars import Number, to_fraction


def compile(
    source: str | os.PathLike[str],
    *,
    base: Weights | None = None,
    tasks: Mapping[str, Weights | None] | None = None,
    models: Mapping[str, Weights | None] | None = None,
    set: Mapping[str, Number] | None = None,
    allow_pickle: bool = False,
) -> Recipe:
    """Compile an expression or a recipe.

    Args:
        source: text; or a `Path`, which is read.
        base: the checkpoint called `base`: a path, a state dict or a module.
        tasks: the same by name; their task vectors are taken against `base`.
        models: the same by name. None declares a name without a file.
        set: scalars by name; exact, a float is the shortest decimal it prints as.
        allow_pickle: whether PyTorch pickles may be read, with `weights_only=True`.

    Raises:
        ExpressionError: something is wrong in the text; the span says where.
        UsageError: something is wrong with a binding.
    """
    scalars = {name: Coefficient(to_fraction(value)) for name, value in (set or {}).items()}
    bindings = bind(base, tasks, models, scalars)
    opening = Opening(allow_pickle=allow_pickle)
    if isinstance(source, str):
        text = Source("<expr>", source.removeprefix("\ufeff"))
        return build(text, None, bindings, opening=opening)
    return build(None, read_recipe(source), bindings, opening=opening)


def build(
    expression: Source | None,
    recipe: Source | None,
    bindings: Bindings,
    *,
    opening: Opening | None = None,
    free: bool = False,
) -> Recipe:
    """Compile an expression, a recipe, or an expression in a recipe's names.

    Args:
        expression: replaces the recipe's own.
        recipe: a recipe file's text.
        bindings: names bound from outside.
        opening: what is allowed when checkpoints are opened.
        free: whether unknown names stand for checkpoints that nobody declared.

    Raises:
        ExpressionError: something is wrong in a text.
        UsageError: there is no expression, or a scalar was set that nothing uses.
    """
    evaluation = compile_text(expression, recipe, bindings, free=free)
    written = Written(recipe, expression, _scalars(bindings))
    return Recipe.of_program(evaluation, written=written, opening=opening)


def checkpoint(
    path: Weights,
    *,
    name: str | None = None,
    strip_prefix: str | None = None,
    allow_pickle: bool = False,
    in_memory: bool = False,
) -> Recipe:
    """Mention a checkpoint: a model, or a task vector when the file is one.

    Args:
        path: a safetensors file or a Hugging Face folder; or a state dict or module in memory.
        name: what messages and plans call it; by default the path's last part.
        strip_prefix: dropped from the names of its tensors. By default a prefix is dropped or added
            where that alone makes all names agree.
        allow_pickle: whether it may be a PyTorch pickle, read with `weights_only=True`.
        in_memory: whether a pickle of which no tensor is a plain range may be loaded.

    Raises:
        CheckpointError: it cannot be opened.
        UsageError: no tensor has the prefix.
    """
    opening = Opening(allow_pickle=allow_pickle, in_memory=in_memory)
    return _mention(path, "checkpoint", name, None, strip_prefix, opening)


def task(
    path: Weights,
    base: Recipe,
    *,
    name: str | None = None,
    strip_prefix: str | None = None,
    allow_pickle: bool = False,
) -> Recipe:
    """Mention a task vector: the checkpoint minus `base`, or the file itself when it is a vector.

    Args:
        path: a fine-tuned checkpoint, or a saved task vector; on disk or in memory.
        base: what it was fine-tuned from.
        name: what messages and plans call it; by default the path's last part.
        strip_prefix: dropped from the names of its tensors, as for `checkpoint`.
        allow_pickle: whether it may be a PyTorch pickle, read with `weights_only=True`.

    Raises:
        CheckpointError: it cannot be opened.
        UsageError: no tensor has the prefix.
    """
    opening = Opening(allow_pickle=allow_pickle)
    return _mention(path, "task", name, base, strip_prefix, opening)


def _mention(
    path: Weights,
    sort: Sort,
    name: str | None,
    base: Recipe | None,
    strip_prefix: str | None,
    opening: Opening,
) -> Recipe:
    called = checked_name(name if name is not None else default_name(path))
    against = None if base is None else recipe_in(base, "a base").value
    if isinstance(against, Coefficient):
        raise UsageError("a base is a checkpoint, not a scalar")
    reference = mention(path, sort, called, base=against, strip_prefix=strip_prefix)
    opened = {} if base is None else dict(base.opened)
    value = WeightedSum({reference: Coefficient(1)})
    opened.pop(opened_as(reference), None)  # what was allowed to the base is not allowed here
    recipe = Recipe(value, opened=opened, opening=opening)
    recipe.open(reference)
    return recipe


def lerp(a: Recipe, b: Recipe, t: Recipe | Number) -> Recipe:
    """Move from a (t = 0) to b (t = 1)."""
    return _call("lerp", a, b, t)


def mean(*recipes: Recipe) -> Recipe:
    """Average recipes."""
    return _call("mean", *recipes)


def analogy(a: Recipe, b: Recipe, c: Recipe) -> Recipe:
    """Return c + (b - a): a is to b as c is to the result."""
    return _call("analogy", a, b, c)


def norm(x: Recipe) -> Recipe:
    """Return the Euclidean norm of a recipe: a scalar that is measured when a number is needed.

    That is when something it stands in is evaluated, or in `float(norm(x))`.
    """
    return _call("norm", x)


def dot(x: Recipe, y: Recipe) -> Recipe:
    """Return the inner product of two recipes, a scalar that is measured like `norm`."""
    return _call("dot", x, y)


def cos(x: Recipe, y: Recipe) -> Recipe:
    """Return the cosine of the angle between two recipes, a scalar that is measured like `norm`."""
    return _call("cos", x, y)


def ramp(*values: Number) -> Recipe:
    """Return a scalar that goes with depth from the first value to the last."""
    return _call("ramp", *values)


def _call(name: str, *arguments: Recipe | Number) -> Recipe:
    operator = FUNCTIONS[name]
    if len(arguments) < len(operator.parameters):
        raise UsageError(f"{name} needs more arguments", help=f"write {operator.usage}")
    assert operator.rule is not None
    recipes = [a if isinstance(a, Recipe) else Recipe.of_number(a) for a in arguments]
    return Recipe.combining(operator.rule, recipes)


def _scalars(bindings: Bindings) -> dict[str, str]:
    values = {name: bindings.values[name] for name in bindings.scalars}
    return {n: str(v) for n, v in values.items() if isinstance(v, Coefficient)}
