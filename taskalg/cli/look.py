"""Commands that answer questions and write nothing: arguments in, text or JSON out."""

import sys
from pathlib import Path
from typing import Any

import click

from taskalg import listing
from taskalg.checkpoints.base import Opening
from taskalg.cli.options import choices, json_option, print_json, show
from taskalg.compiler import read_recipe, recipe_source
from taskalg.console import ExpressionCommand
from taskalg.errors import quoted
from taskalg.help_pages import Page
from taskalg.language.format import format_text
from taskalg.names import Names, allow_pickle, bindings


@click.command(cls=ExpressionCommand)
@click.argument("expr", required=False)
@bindings
@click.option("-o", "out", metavar="OUT", help="Where it would go.")
@choices
@json_option
def explain(
    expr: str | None,
    names: Names,
    out: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Say what merge would do; no data is read.

    \b
    taskalg explain "base + 0.4*math" --base llama/ --task math=llama-math/
    """
    recipe = names.recipe(expr)
    show(recipe.explain(out, **settings), as_json)


@click.command(cls=ExpressionCommand)
@click.argument("expr", required=False)
@bindings
@click.option("--allow-partial", is_flag=True, help="Coefficients may add up to anything.")
@json_option
def check(
    expr: str | None,
    names: Names,
    allow_partial: bool,
    as_json: bool,
) -> None:
    """Print the kind and the canonical sum.

    \b
    taskalg check "c + (b - a)" --model a --model b --model c

    --model NAME declares a name without a file.
    """
    recipe = names.recipe(expr)
    kind = recipe.check(allow_partial=allow_partial)
    if as_json:
        print_json(listing.check_json(recipe, kind))
    else:
        click.echo(listing.check_text(recipe, kind))


@click.command(cls=ExpressionCommand)
@click.argument("first")
@click.argument("second")
@bindings
@json_option
def equal(
    first: str,
    second: str,
    names: Names,
    as_json: bool,
) -> None:
    """Prove two expressions equal, or show where they differ.

    \b
    taskalg equal "base + 0.5*(a - base) + 0.5*(b - base)" "(a + b)/2"

    No data is read. Exits with 0 when they are equal and 1 when they differ. Without --base, --task
    and --model, any name is a checkpoint.
    """
    recipes = [names.recipe(text, free=names.nothing_bound) for text in (first, second)]
    found = recipes[0].difference(recipes[1])
    if as_json:
        print_json({"schema": 1, "equal": found is None, "difference": found})
    else:
        click.echo("equal" if found is None else f"different: {found}")
    sys.exit(0 if found is None else 1)


@click.command(cls=Page)
@click.argument("file", default="-")
@click.option("--check", "only_check", is_flag=True, help="Print nothing; exit 1 if it differs.")
@click.pass_context
def fmt(ctx: click.Context, file: str, only_check: bool) -> None:
    """Print a recipe in its standard form.

    \b
    taskalg fmt detox.ta

    Comments and the spelling of numbers stay as they are. Without FILE, or with -, the recipe comes
    from stdin.
    """
    if file == "-":
        source = recipe_source("<stdin>", sys.stdin.buffer.read(), None)
    else:
        source = read_recipe(file)
    formatted = format_text(source)
    if not only_check:
        click.echo(formatted, nl=False)
    elif formatted != source.text:
        click.echo(f"{quoted(source.name)} is not formatted", err=True)
        ctx.exit(1)


@click.command(cls=Page)
@click.argument("path")
@allow_pickle
@json_option
def inspect(path: str, allow_pickle: bool, as_json: bool) -> None:
    """List the tensors of a checkpoint: dtype, shape, shard.

    \b
    taskalg inspect llama/
    """
    checkpoint = listing.open_checkpoint(path, Opening(allow_pickle=allow_pickle))
    if as_json:
        print_json(listing.inspect_json(checkpoint))
    else:
        click.echo(listing.inspect_text(checkpoint))


@click.command(cls=Page)
@json_option
def ops(as_json: bool) -> None:
    """List the operators of the language.

    \b
    taskalg ops
    """
    if as_json:
        print_json({"schema": 1, "operators": listing.operators_json()})
    else:
        click.echo(listing.operators_text())


@click.command(cls=Page)
@click.argument("folder", default="taskalg-demo", metavar="[DIR]")
def demo(folder: str) -> None:
    """Train two small networks and subtract a task.

    \b
    taskalg demo
    """
    from taskalg.demo.run import run_demo

    run_demo(Path(folder), click.echo)
