"""The command that opens a session: arguments in, a conversation or a script's answers out."""

import gc
import io
import shutil
import sys
from functools import partial

import click

from taskalg.console import progress_bar
from taskalg.errors import UsageError
from taskalg.help_pages import Page
from taskalg.names import Names, bindings


@click.command(cls=Page)
@click.argument("recipe", required=False)
@bindings
def repl(recipe: str | None, names: Names) -> None:
    """Try expressions; :help in it lists what can be typed.

    \b
    taskalg repl zoo.ta
    taskalg repl --base gpt2/ --task toxic=gpt2-toxic/

    Without a terminal the lines of stdin are answered, up to the first error:

    \b
    echo "base - toxic" | taskalg repl zoo.ta
    """
    if recipe is not None and names.file is not None:
        raise UsageError("two recipes are given", help='put use "..." into one of them')
    gc.freeze()  # what is imported by now stays: the collector need not look at it again (25 ms)
    from taskalg.workbench.session import Session
    from taskalg.workbench.terminal import converse, run_script

    working = partial(progress_bar, False)
    session = Session(
        names.bindings, opening=names.opening, working=working, columns=_terminal_columns
    )
    started = session.start(recipe or names.file)
    if started.text:
        click.echo(started.text, err=True)
    if sys.stdin is not None and sys.stdin.isatty():
        click.echo(":help says what can be typed", err=True)
        converse(session)
    elif sys.stdin is not None:
        text = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", errors="replace")
        run_script(session, text)


def _terminal_columns() -> int:
    return shutil.get_terminal_size().columns
