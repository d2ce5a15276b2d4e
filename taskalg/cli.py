"""The command line: arguments in, text or JSON out. What it does is in api.py."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from taskalg import listing
from taskalg.compiler import read_recipe, recipe_source
from taskalg.console import ExpressionCommand, Tool, progress_bar
from taskalg.errors import quoted
from taskalg.language.format import format_text
from taskalg.names import Names, bindings, together
from taskalg.version import __version__

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
choices = together(
    click.option("--dtype", metavar="DTYPE", help="Of floating tensors: bf16, f16, f32, …"),
    click.option("--donor", metavar="NAME", help="Gives names, dtypes and side files."),
    click.option("--shard-size", default="5GB", metavar="SIZE", help="Of one file [5GB]."),
    click.option("--threads", type=click.IntRange(1, 64), help="By default up to 8."),
    click.option("--allow-partial", is_flag=True, help="Coefficients may add up to anything."),
    click.option("--only-shared", is_flag=True, help="Combine the tensors that all have."),
)


@click.group(cls=Tool, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="taskalg")
def main() -> None:
    """Arithmetic on model checkpoints: write the formula, get the checkpoint.

    \b
    taskalg merge "base - 0.4*toxic" --base gpt2/ --task toxic=gpt2-toxic/ -o detoxed/
    """


@main.command(cls=ExpressionCommand)
@click.argument("expr", required=False)
@bindings
@click.option("-o", "out", required=True, metavar="OUT", help="A folder, or a .safetensors file.")
@choices
@click.option("--engine", default="auto", metavar="ENGINE", help="auto, cpu or reference.")
@click.option("--on-overflow", type=click.Choice(["error", "warn"]), default="error")
@click.option("--strict", is_flag=True, help="Integer tensors that differ are an error.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier output.")
@json_option
@click.option("--quiet", is_flag=True, help="No progress, no report.")
def merge(
    expr: str | None,
    names: Names,
    out: str,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Evaluate EXPR and publish a checkpoint, all of it or nothing.

    \b
    taskalg merge "base + 0.4*math" --base llama/ --task math=llama-math/ -o merged/
    taskalg merge -f detox.ta --set strength=0.6 -o detoxed/
    """
    recipe = names.recipe(expr)
    with progress_bar(quiet or as_json) as progress:
        report = recipe.save(out, progress=progress, **settings)
    if as_json:
        _print_json(listing.report_json(report))
    elif not quiet:
        click.echo(listing.receipt(report), err=True)


@main.command(cls=ExpressionCommand)
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
    """Say what merge would do. Opens headers only.

    \b
    taskalg explain "base + 0.4*math" --base llama/ --task math=llama-math/
    """
    recipe = names.recipe(expr)
    explanation = recipe.explain(out, **settings)
    if as_json:
        _print_json(explanation.to_json())
    else:
        click.echo(str(explanation))


@main.command(cls=ExpressionCommand)
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
    """Print the kind and the canonical sum. --model NAME declares a name without a file.

    \b
    taskalg check "c + (b - a)" --model a --model b --model c
    """
    recipe = names.recipe(expr)
    kind = recipe.check(allow_partial=allow_partial)
    if as_json:
        _print_json(listing.check_json(recipe, kind))
    else:
        click.echo(listing.check_text(recipe, kind))


@main.command(cls=ExpressionCommand)
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
    """Prove that two expressions are equal, or show where they differ. No data is read.

    Exits with 0 when they are equal and 1 when they differ. Without --base, --task and --model, any
    name is a checkpoint.

    \b
    taskalg equal "base + 0.5*(a - base) + 0.5*(b - base)" "(a + b)/2"
    """
    recipes = [names.recipe(text, free=names.nothing_bound) for text in (first, second)]
    found = recipes[0].difference(recipes[1])
    if as_json:
        _print_json({"schema": 1, "equal": found is None, "difference": found})
    else:
        click.echo("equal" if found is None else f"different: {found}")
    sys.exit(0 if found is None else 1)


@main.command()
@click.argument("file", default="-")
@click.option("--check", "only_check", is_flag=True, help="Print nothing; exit 1 if it differs.")
@click.pass_context
def fmt(ctx: click.Context, file: str, only_check: bool) -> None:
    """Print a recipe in its standard form; comments and numbers stay as they are.

    \b
    taskalg fmt detox.ta
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


@main.command()
@click.argument("path")
@json_option
def inspect(path: str, as_json: bool) -> None:
    """List what is in a checkpoint: tensors, dtypes, shapes, shards.

    \b
    taskalg inspect llama/
    """
    checkpoint = listing.open_checkpoint(path)
    if as_json:
        _print_json(listing.inspect_json(checkpoint))
    else:
        click.echo(listing.inspect_text(checkpoint))


@main.command()
@json_option
def ops(as_json: bool) -> None:
    """List the operators of the language.

    \b
    taskalg ops
    """
    if as_json:
        _print_json({"schema": 1, "operators": listing.operators_json()})
    else:
        click.echo(listing.operators_text())


@main.command()
@click.argument("folder", default="taskalg-demo", metavar="[DIR]")
def demo(folder: str) -> None:
    """Train two small networks, subtract a task, and show what was forgotten.

    \b
    taskalg demo
    """
    from taskalg.demo import run_demo

    run_demo(Path(folder), click.echo)


def _print_json(found: dict[str, Any]) -> None:
    click.echo(json.dumps(found, indent=2))
