"""Options that several commands share, and how JSON is printed."""

import json
from typing import Any

import click

from taskalg.explain import Explanation
from taskalg.names import together

_OVERFLOW = "A result too large for its dtype: stop, or say so and go on."
_ROWS = "common: combine the rows that all have, of vocabularies that grew."

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
choices = together(
    click.option("--dtype", metavar="DTYPE", help="Of floating tensors: bf16, f16, f32, …"),
    click.option("--donor", metavar="NAME", help="Gives names, dtypes and side files."),
    click.option("--shard-size", default="5GB", metavar="SIZE", help="Of one file [5GB]."),
    click.option("--threads", type=click.IntRange(1, 64), metavar="N", help="By default up to 8."),
    click.option("--allow-partial", is_flag=True, help="Coefficients may add up to anything."),
    click.option("--only-shared", is_flag=True, help="Combine the tensors that all have."),
    click.option("--rows", type=click.Choice(["all", "common"]), default="all", help=_ROWS),
)
running = together(
    click.option("--engine", default="auto", metavar="ENGINE", help="auto, cpu, gpu or reference."),
    click.option(
        "--on-overflow", type=click.Choice(["error", "warn"]), default="error", help=_OVERFLOW
    ),
    click.option("--strict", is_flag=True, help="Integer tensors that differ are an error."),
    click.option("--overwrite", is_flag=True, help="Replace the model that is there."),
    click.option("--hash", is_flag=True, help="Record the SHA-256 of every file read and written."),
)
RUNNING = ("engine", "on_overflow", "strict", "overwrite", "hash")  # what explain has no use for


def show(explanation: Explanation, as_json: bool) -> None:
    """Print what a merge will do on stdout."""
    if as_json:
        print_json(explanation.to_json())
    else:
        click.echo(str(explanation))


def print_json(found: dict[str, Any]) -> None:
    """Print one object on stdout."""
    click.echo(json.dumps(found, indent=2))
