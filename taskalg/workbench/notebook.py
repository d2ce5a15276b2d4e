"""A session in a notebook: `%load_ext taskalg`, then `%taskalg` lines and `%%taskalg` cells.

IPython is never imported here: what it calls gets its shell, and what it shows brings its own HTML.
There is one session for a kernel. Recipes that Python has bound are names in it; the last value of
a cell is its result, so that `_`, `Out` and `fix = %taskalg base - 0.4*toxic` work.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import click

from taskalg.algebra.operators import BUILTINS
from taskalg.console import progress_bar
from taskalg.markup import page, text
from taskalg.recipe import Recipe
from taskalg.running.stream import Progress
from taskalg.units import bytes_text
from taskalg.workbench.answer import Answer
from taskalg.workbench.pieces import pieces
from taskalg.workbench.session import Session


class ToldError(Exception):
    """An error of a session on its way to the notebook, which shows it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows instead of a traceback."""
        return str(self).split("\n")


class Notebook:
    """A session and the shell of the notebook it is in."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        is_page = hasattr(shell, "kernel")
        self._session = Session(working=_progress if is_page else partial(progress_bar, False))

    def magic(self, line: str, cell: str | None = None) -> object:
        """Try expressions of task arithmetic: `%taskalg :help` lists what can be typed.

        A `%%taskalg` cell holds several inputs, each on its line. The last value is the result, as
        in `fix = %taskalg base - 0.4*toxic`, and recipes that Python has bound are names.

        Raises:
            ToldError: an input is wrong; what follows it is not looked at.
        """
        written = line if cell is None else f"{line}\n{cell}"
        self._session.give(self._recipes(written))
        last = Answer("")
        for answer in self._session.answers(written):
            _print(last)
            if answer.error is not None:
                raise ToldError(answer.text) from answer.error
            last = answer
        if is_rich(last.value):
            return last.value
        _print(last)
        is_number = isinstance(last.value, int | float) and not isinstance(last.value, bool)
        return last.value if is_number else None

    def _recipes(self, written: str) -> dict[str, Recipe]:
        """Return the recipes that Python has bound to names in a text."""
        names = {piece.text for piece in pieces(written) if piece.sort == "name"} - BUILTINS
        known = {name: self._shell.user_ns.get(name) for name in names}
        return {name: one for name, one in known.items() if isinstance(one, Recipe)}


class Work:
    """A line of HTML that says how far work is; it replaces itself, and is empty at the end."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress

    def __repr__(self) -> str:
        found = self._progress
        if found is None:
            return ""
        return f"{found.doing}  {bytes_text(found.done)} of {bytes_text(found.total)}"

    def _repr_html_(self) -> str:
        found = self._progress
        if found is None:
            return ""
        bar = f'<progress value="{found.done}" max="{max(1, found.total)}"></progress>'
        return page(bar, " ", text(repr(self)))


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """Show one piece of work, and take it away at its end."""
    from IPython import display

    showing: Any = display.display
    handles: list[Any] = []

    def show(progress: Progress) -> None:
        if handles:
            handles[0].update(Work(progress))
        else:
            handles.append(showing(Work(progress), display_id=True))

    try:
        yield show
    finally:
        for handle in handles:
            handle.update(Work())


def is_rich(value: object) -> bool:
    """Tell whether a value brings what a notebook shows: a table, or a picture."""
    return hasattr(value, "_repr_html_") or hasattr(value, "_repr_png_")


def register(shell: Any) -> None:
    """Give IPython's shell our magics."""
    shell.register_magic_function(Notebook(shell).magic, "line_cell", "taskalg")


def _print(answer: Answer) -> None:
    if answer.text:
        click.echo(answer.text)
