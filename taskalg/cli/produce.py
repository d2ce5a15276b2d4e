"""Commands that write a checkpoint: arguments in, a receipt or JSON out."""

from typing import Any

import click
from click.core import ParameterSource

from taskalg import listing
from taskalg.api import checkpoint
from taskalg.cli.options import RUNNING, choices, json_option, print_json, running, show
from taskalg.console import ExpressionCommand, progress_bar
from taskalg.engines.registry import check_engine
from taskalg.errors import UsageError
from taskalg.help_pages import Page
from taskalg.names import Names, allow_pickle, bindings
from taskalg.recipe import Recipe

_ADAPTERS = ("dtype", "donor", "threads", "overwrite")  # options that --as-lora leaves


@click.command(cls=ExpressionCommand)
@click.argument("expr", required=False)
@bindings
@click.option("-o", "out", required=True, metavar="OUT", help="A folder, or a .safetensors file.")
@choices
@running
@click.option("--as-lora", is_flag=True, help="Write a task vector as a LoRA adapter.")
@click.option("--rank", type=click.IntRange(1), metavar="R", help="Of the adapter's modules.")
@click.option("--dry-run", is_flag=True, help="Check everything, explain, and write nothing.")
@json_option
@click.option("--quiet", is_flag=True, help="No progress, no report.")
def merge(
    expr: str | None,
    names: Names,
    out: str,
    as_json: bool,
    quiet: bool,
    dry_run: bool,
    as_lora: bool,
    rank: int | None,
    **settings: Any,
) -> None:
    """Evaluate EXPR and publish a checkpoint, all or nothing.

    \b
    taskalg merge "base + 0.4*math" --base llama/ --task math=llama-math/ -o merged/
    taskalg merge -f detox.ta --set strength=0.6 -o detoxed/
    taskalg merge "ft - base" --base llama/ --model ft=llama-math/ --as-lora --rank 32 -o math/
    """
    recipe = names.recipe(expr)
    if rank is not None and not as_lora:
        raise UsageError("--rank is for adapters", help="add --as-lora")
    if as_lora:
        chosen = _for_adapters(settings)
        with progress_bar(quiet or as_json) as progress:
            made = recipe.save_adapter(out, rank=rank, progress=progress, **chosen)
        _tell(str(made), made.to_json(), as_json, quiet)
        return
    if dry_run:
        _rehearse(recipe, out, as_json, settings)
        return
    with progress_bar(quiet or as_json) as progress:
        report = recipe.save(out, progress=progress, **settings)
    _tell(listing.receipt(report), listing.report_json(report), as_json, quiet)


def _tell(text: str, found: dict[str, Any], as_json: bool, quiet: bool) -> None:
    """Say what was done: JSON on stdout, or a receipt on stderr."""
    if as_json:
        print_json(found)
    elif not quiet:
        click.echo(text, err=True)


def _for_adapters(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the options that adapters have; one that they lack and that was given is refused."""
    context = click.get_current_context()
    for name in (*settings, "dry_run"):
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in _ADAPTERS:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} has no meaning for an adapter", help=f"drop {option}")
    return {name: settings[name] for name in _ADAPTERS if settings[name] is not None}


def _rehearse(recipe: Recipe, out: str, as_json: bool, settings: dict[str, Any]) -> None:
    check_engine(settings["engine"])
    planned = {name: value for name, value in settings.items() if name not in RUNNING}
    explanation = recipe.explain(out, **planned)
    explanation.rehearse(overwrite=settings["overwrite"])
    show(explanation, as_json)


@click.command(cls=Page)
@click.argument("path")
@click.option("-o", "out", required=True, metavar="OUT", help="A folder, or a .safetensors file.")
@allow_pickle
@click.option("--dtype", metavar="DTYPE", help="Of floating tensors: bf16, f16, f32, …")
@click.option("--shard-size", default="5GB", metavar="SIZE", help="Of one file [5GB].")
@click.option("--overwrite", is_flag=True, help="Replace the model that is there.")
@json_option
@click.option("--quiet", is_flag=True, help="No progress, no report.")
def convert(
    path: str, out: str, allow_pickle: bool, as_json: bool, quiet: bool, **settings: Any
) -> None:
    """Write a checkpoint as safetensors.

    \b
    taskalg convert old-bert/ -o bert/ --allow-pickle

    A folder is written with all its files; OUT may be one .safetensors file as well. Pickles whose
    tensors are no plain ranges of the file are loaded into memory.
    """
    recipe = checkpoint(path, allow_pickle=allow_pickle, in_memory=True)
    with progress_bar(quiet or as_json) as progress:
        report = recipe.save(out, progress=progress, **settings)
    _tell(listing.receipt(report), listing.report_json(report), as_json, quiet)
