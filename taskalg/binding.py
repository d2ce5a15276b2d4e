"""Names bound anew: other weights, another number, or none yet, for a name that a recipe has.

What a name stands for says what it may be bound to, so one call binds both sorts: a checkpoint
keeps its sort and what it is taken against, a scalar gets a number. A text is evaluated again; in
what Python's operators made, references are put in the place of others.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, TypeVar

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.weighted_sum import Reference, Value, WeightedSum, references, substituted
from taskalg.checkpoints.memory import is_in_memory
from taskalg.compiler import Weights, checked_name, mention
from taskalg.errors import UsageError, listed, quoted
from taskalg.expression import Expression, Opened
from taskalg.scalars import Number, to_fraction

Named = Reference | Coefficient
Made = TypeVar("Made", bound=Expression)


def freed(recipe: Made, names: Iterable[str] | None = None) -> Made:
    """Return a recipe whose scalars are known only later: symbols in its coefficients.

    Args:
        recipe: one with numbers; what one was freed from stands for it.
        names: of scalars; by default all that may be set.

    Raises:
        UsageError: there is no such scalar.
        ExpressionError: they enter in too many ways.
    """
    numeric = recipe if recipe.numeric is None else recipe.numeric
    scalars = {name: Coefficient(value) for name, value in recipe.scalars.items()}
    chosen = scalars if names is None else {n: _known(n, scalars, "scalar") for n in names}
    if not chosen or numeric.evaluation is None:
        return numeric
    symbols = {name: Coefficient.symbol(name) for name in chosen}
    return type(recipe).of_program(
        numeric.evaluation.again(symbols),
        written=recipe.written,
        opening=recipe.opening,
        opened=recipe.opened,
        numeric=numeric,
    )


def bound(recipe: Made, values: Mapping[str, Weights | Number]) -> Made:
    """Return a recipe in which names stand for something else.

    Args:
        recipe: it stays as it is.
        values: a path, a state dict or a module for a checkpoint, a number for a scalar.

    Raises:
        UsageError: there is no such name, or it takes something else.
    """
    if recipe.numeric is not None:
        return freed(bound(recipe.numeric, values), _symbols(recipe))
    names = _names(recipe)
    checked = {checked_name(name): value for name, value in values.items()}
    new = {n: _bound(n, _known(n, names, "name"), value) for n, value in checked.items()}
    opened = {key: found for key, found in recipe.opened.items() if not _is_bound(key, new)}
    if recipe.evaluation is None:
        return _substituted(recipe, new, opened)
    numbers = {name: str(one) for name, one in new.items() if isinstance(one, Coefficient)}
    return type(recipe).of_program(
        recipe.evaluation.again({name: _value(one) for name, one in new.items()}),
        written=replace(recipe.written, scalars={**recipe.written.scalars, **numbers}),
        opening=recipe.opening,
        opened=opened,
    )


def new_scalars(
    scalars: Mapping[str, Fraction], values: Mapping[str, Number]
) -> dict[str, Fraction]:
    """Return what scalars are set to.

    Args:
        scalars: those that may be set, with the values they have.
        values: new ones of some of them.

    Raises:
        UsageError: there is no such scalar, or a value is no number.
    """
    if values and not scalars:
        raise UsageError(
            "the recipe has no scalar that could be set",
            help='name one: compile("base + strength*toxic", set={"strength": 0.4}, ...)',
        )
    new = dict(scalars)
    for name, value in values.items():
        _known(name, scalars, "scalar")
        new[name] = _number(name, value)
    return new


def _symbols(recipe: Expression) -> list[str]:
    """Return the names that a freed recipe has symbols for."""
    given = {} if recipe.evaluation is None else recipe.evaluation.given
    return [name for name, value in given.items() if value == Coefficient.symbol(name)]


def _names(recipe: Expression) -> dict[str, Named]:
    """Return what has a name: scalars, and checkpoints wherever they are mentioned."""
    values = {} if recipe.evaluation is None else recipe.evaluation.environment.values
    found: dict[str, Named] = {
        name: value for name, value in values.items() if isinstance(value, Coefficient)
    }
    everything = (recipe.value, recipe.base, *values.values())
    for reference in references(one for one in everything if one is not None):
        if reference.name is not None:
            found.setdefault(reference.name, reference)
    return found


def _known(name: str, names: Mapping[str, Any], what: str) -> Any:
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=1)
    start = f"did you mean {quoted(near[0])}? " if near else ""
    raise UsageError(
        f"the recipe has no {what} {quoted(name)}",
        help=f"{start}it has {listed(sorted(names)) if names else 'none'}",
    )


def _bound(name: str, now: Named, value: Weights | Number) -> Named:
    if isinstance(now, Coefficient):
        return Coefficient(_number(name, value))
    if not (is_in_memory(value) or isinstance(value, str | os.PathLike)):
        raise _wrong(name, "a checkpoint", "a path, a state dict or a module", value)
    return mention(value, now.sort, name, base=now.base)


def _number(name: str, value: Number) -> Fraction:
    try:
        return to_fraction(value)
    except TypeError:
        raise _wrong(name, "a scalar", "a number", value) from None


def _wrong(name: str, sort: str, expected: str, found: object) -> UsageError:
    return UsageError(
        f"{quoted(name)} is {sort}, so it is bound to {expected}",
        note=f"found {type(found).__name__}",
    )


def _value(one: Named) -> Value:
    return one if isinstance(one, Coefficient) else WeightedSum({one: Coefficient(1)})


def _is_bound(opened: object, new: Mapping[str, Named]) -> bool:
    """Tell whether what was opened are weights that have given way to others."""
    return isinstance(opened, Reference) and opened.name in new


def _substituted(recipe: Made, new: Mapping[str, Named], opened: Opened) -> Made:
    """Put references in the place of those that have their names."""

    def other(reference: Reference) -> Reference:
        one = new.get(reference.name or "")
        if not isinstance(one, Reference):
            return reference
        return replace(one, sort=reference.sort, base=reference.base)

    value, base = substituted((recipe.value, recipe.base), other)
    assert value is not None
    items, opening = recipe.items, recipe.opening
    return type(recipe)(value, base=base, items=items, opened=opened, opening=opening)
