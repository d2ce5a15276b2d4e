"""The command line: THE TABLE of commands. What they do is in api.py."""

import click

from taskalg.cli.again import rerun, verify
from taskalg.cli.geometry import diff, geometry
from taskalg.cli.look import check, demo, equal, explain, fmt, inspect, ops
from taskalg.cli.produce import convert, merge
from taskalg.cli.repl import repl
from taskalg.cli.shell import completion
from taskalg.cli.sweep import sweep
from taskalg.console import Tool
from taskalg.version import __version__

# As --help lists them.
COMMANDS = (
    merge,
    explain,
    check,
    equal,
    verify,
    rerun,
    geometry,
    diff,
    sweep,
    repl,
    fmt,
    inspect,
    convert,
    ops,
    demo,
    completion,
)


@click.group(
    cls=Tool,
    commands={command.name or "": command for command in COMMANDS},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="taskalg")
def main() -> None:
    """Arithmetic on model checkpoints: write the formula, get the checkpoint.

    \b
    taskalg merge "base - 0.4*toxic" --base gpt2/ --task toxic=gpt2-toxic/ -o out/
    """
