"""Commands that write a checkpoint: arguments in, a receipt or JSON out."""

from typing import Any

import click

from taskalg import listing
from taskalg.cli.options import choices, json_option, print_json
from taskalg.console import ExpressionCommand, progress_bar
from taskalg.names import Names, bindings


@click.command(cls=ExpressionCommand)
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
        print_json(listing.report_json(report))
    elif not quiet:
        click.echo(listing.receipt(report), err=True)
