"""Commands that measure vectors: arguments in, tables or JSON out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from taskalg.algebra.kinds import Kind
from taskalg.algebra.weighted_sum import Value, WeightedSum
from taskalg.api import checkpoint
from taskalg.cli.options import json_option, print_json
from taskalg.console import ExpressionCommand, progress_bar
from taskalg.errors import UsageError, listed, printable
from taskalg.measuring.changes import changes
from taskalg.measuring.geometry import Geometry
from taskalg.measuring.geometry import geometry as measure
from taskalg.measuring.parts import LEVELS
from taskalg.measuring.tables import nan_notes, parts_text
from taskalg.names import RECIPE, Names, bindings, together
from taskalg.recipe import Recipe
from taskalg.units import bytes_text

_TOP = 20  # changes that are listed
_ROWS = "common: measure the rows that all have, of vocabularies that grew."

_measuring = together(
    click.option("--only-shared", is_flag=True, help="Leave out tensors that not all have."),
    click.option("--rows", type=click.Choice(["all", "common"]), default="all", help=_ROWS),
    click.option("--threads", type=click.IntRange(1, 64), metavar="N", help="By default up to 8."),
    click.option("--no-cache", is_flag=True, help="Neither look for earlier results nor keep any."),
)


@click.command(cls=ExpressionCommand)
@click.argument("exprs", nargs=-1, metavar="[EXPR]...")
@bindings
@click.option("--by", type=click.Choice(LEVELS), help="List the parts of the model, too.")
@click.option("--plot", metavar="FILE", help="Draw cosines, or norms --by: a .png, .svg or .pdf.")
@_measuring
@json_option
@click.option("--quiet", is_flag=True, help="No progress, only the tables.")
def geometry(
    exprs: tuple[str, ...],
    names: Names,
    by: str | None,
    plot: str | None,
    no_cache: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Measure norms, angles and signs of vectors.

    \b
    taskalg geometry --base llama/ --task math=llama-math/ --task code=llama-code/
    taskalg geometry -f zoo.ta toxic "sent_yelp - lm_yelp" --by layer

    Files are read once, together; what was measured is kept until one changes.
    """
    if plot is not None:
        _check_plot(plot)
    vectors = {text: names.recipe(text) for text in exprs} or _bound(names)
    with progress_bar(quiet or as_json) as progress:
        found = measure(vectors, cache=not no_cache, progress=progress, **settings)
    if plot is not None:
        _draw(found, by, plot)
    if as_json:
        print_json(found.to_json(by))
        return
    click.echo(str(found) if by is None else f"{found}\n\n{parts_text(found, by)}")
    if quiet:
        return
    if plot is not None:
        click.echo(f"wrote {printable(plot)}", err=True)
    _tell(found)
    _tell_kinds(vectors)


@click.command(cls=ExpressionCommand)
@click.argument("first")
@click.argument("second")
@bindings
@click.option("--by", type=click.Choice(LEVELS), default="tensor", help="What is ranked [tensor].")
@click.option(
    "--top", type=click.IntRange(1), default=_TOP, metavar="N", help=f"How many [{_TOP}]."
)
@_measuring
@json_option
@click.option("--quiet", is_flag=True, help="No progress, only the table.")
def diff(
    first: str,
    second: str,
    names: Names,
    by: str,
    top: int,
    no_cache: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Rank what changed most between two checkpoints.

    \b
    taskalg diff llama/ llama-math/ --by layer
    taskalg diff base "base + 0.4*math" --base llama/ --task math=llama-math/

    They are paths, or expressions in bound names. For each part of the model,

    \b
    norm              is the length of the difference between the two,
    relative          that in percent of the length of FIRST there,
    share             the part's share in the squared length of the whole difference,
    elements changed  the numbers that differ at all.
    """
    recipes = [_checkpoint(text, names) for text in (first, second)]
    with progress_bar(quiet or as_json) as progress:
        found = changes(*recipes, by=by, cache=not no_cache, progress=progress, **settings)
    if as_json:
        print_json(found.to_json(top))
        return
    click.echo(found.text(top))
    if not quiet:
        _tell(found.measured)


def _tell(found: Geometry) -> None:
    """Say on stderr what it took, and what is no number."""
    click.echo("from the cache; no data read" if found.cached else _cost(found), err=True)
    for note in nan_notes(found):
        click.echo(f"note: {note}", err=True)


def _cost(found: Geometry) -> str:
    if not found.bytes_read:
        return "no data read"
    rate = bytes_text(found.bytes_read / max(found.seconds, 1e-9))
    return f"read {bytes_text(found.bytes_read)} · {found.seconds:.1f} s · {rate}/s"


def _tell_kinds(vectors: Mapping[str, Recipe]) -> None:
    """Say which are models where others are task vectors: angles between the two say little."""
    found = []
    for kind in (Kind.MODEL, Kind.TASK_VECTOR):
        names = [printable(name) for name, recipe in vectors.items() if recipe.kind is kind]
        if names:
            verb = f"is a {kind}" if len(names) == 1 else f"are {kind}s"
            found.append(f"{listed(names)} {verb}")
    if len(found) > 1:
        click.echo(f"note: {', '.join(found)}", err=True)


def _check_plot(plot: str) -> None:
    """Refuse a picture that cannot be saved before anything is measured for it."""
    from taskalg.pictures.canvas import check_picture

    check_picture(plot)


def _draw(found: Geometry, by: str | None, plot: str) -> None:
    from taskalg.pictures.canvas import save_figure
    from taskalg.pictures.cosines import cosines_figure
    from taskalg.pictures.norms import norms_figure

    save_figure(cosines_figure(found) if by is None else norms_figure(found, by=by), plot)


def _bound(names: Names) -> dict[str, Recipe]:
    """Return the vectors that names are bound to: tasks, or all models when there are none.

    Raises:
        UsageError: there is none.
    """
    values = dict(names.bindings.values)
    if names.file is not None:
        evaluation = names.recipe("0").evaluation  # for its names; it need not end with any sum
        assert evaluation is not None, "it was compiled from a text"
        values = dict(evaluation.environment.values)
    sorts = {name: _sort(value) for name, value in values.items() if name != "base"}
    tasks = [name for name, sort in sorts.items() if sort == "task"]
    found = tasks or [name for name, sort in sorts.items() if sort is not None]
    if not found:
        raise UsageError(
            "there are no vectors to measure", help="name one: --base PATH --task math=PATH"
        )
    return {name: names.recipe(name) for name in found}


def _sort(value: Value) -> str | None:
    """Return the sort of checkpoint that a name is bound to; None when it is something else."""
    if not isinstance(value, WeightedSum) or len(value.terms) != 1:
        return None
    ((reference, part),) = value.terms.items()
    return reference.sort if part.constant == 1 else None


def _checkpoint(text: str, names: Names) -> Recipe:
    """Take a text for a path when that is there, or nothing is bound; else for an expression."""
    is_there = text not in names.bindings.values and Path(text).exists()
    if (names.nothing_bound or is_there) and not text.endswith(RECIPE):
        return checkpoint(text, allow_pickle=names.opening.allow_pickle)
    return names.recipe(text)
