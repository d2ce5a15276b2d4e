"""Weights to scores: `python -m taskalg.demo WEIGHTS` asks them the demo's questions.

It prints one JSON object on the digits by which a strength is chosen, so it can be the `--score` of
`taskalg sweep` on what the demo leaves behind.
"""

import json
from pathlib import Path

import click

from taskalg import files
from taskalg.console import Failure
from taskalg.demo.digits import CHOOSE, HELPER, TARGET, Digits
from taskalg.errors import TaskalgError

_WEIGHTS = "model.safetensors"  # in a folder


@click.command()
@click.argument("weights", type=click.Path(path_type=Path))
def score(weights: Path) -> None:
    """Print how many digits are answered correctly, by question."""
    path = weights / _WEIGHTS if files.is_folder(weights) else weights
    try:
        found = Digits().accuracy(path, CHOOSE)
    except TaskalgError as error:
        raise Failure(error) from None
    named = {TARGET: found.target, HELPER: found.helper, "control": found.control}
    click.echo(json.dumps(named))


if __name__ == "__main__":
    score(prog_name="python -m taskalg.demo")
