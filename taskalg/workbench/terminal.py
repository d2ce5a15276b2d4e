"""A session at a terminal, or with its inputs from a pipe: asks, answers, and keeps going.

prompt_toolkit edits lines where it is installed; it is imported when somebody is there to type. At
a terminal an error is told and the session goes on, as does Ctrl-C in a line or in a merge. A
script ends with its first error, for what follows may rest on what failed.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.util import find_spec
from threading import Timer

import click
import platformdirs

from taskalg.console import Failure, Terminated, forget_interruption, tell_bug
from taskalg.language.parser import grammar
from taskalg.workbench.answer import Answer
from taskalg.workbench.session import Session

# Seconds after which the grammar is built, which takes 40 ms: after the first prompt, which waits
# for nothing, and before anybody has typed an expression.
_READING = 0.2
PROMPT, MORE = ">>> ", "... "
Ask = Callable[[], str]  # raises EOFError at the end, KeyboardInterrupt when a line is dropped


def converse(session: Session) -> None:
    """Ask and answer until the user leaves."""
    warming = Timer(_READING, grammar)
    warming.daemon = True
    warming.start()
    ask = _asking(session)
    while True:
        try:
            text = ask()
        except EOFError:
            return
        except Terminated:
            raise
        except KeyboardInterrupt:
            continue
        if _answered(session, text):
            return


def run_script(session: Session, lines: Iterable[str]) -> None:
    """Answer the inputs of a script.

    Raises:
        TaskalgError: of the first input that is wrong; the ones after it are not looked at.
    """
    waiting = ""
    for line in lines:
        waiting += line
        if session.is_complete(waiting):
            if _followed(session, waiting):
                return
            waiting = ""
    _followed(session, waiting)


def _answered(session: Session, text: str) -> bool:
    """Answer what was typed, whatever happens; tell whether the session is over."""
    forget_interruption()
    try:
        for answer in session.answers(text):
            _tell(answer)
            if answer.leaves:
                return True
    except Terminated:
        raise
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
    except Exception:
        tell_bug()
    return False


def _followed(session: Session, text: str) -> bool:
    """Answer a part of a script; tell whether it is over."""
    for answer in session.answers(text):
        if answer.error is not None:
            raise answer.error
        _tell(answer)
        if answer.leaves:
            return True
    return False


def _tell(answer: Answer) -> None:
    if answer.error is not None:
        Failure(answer.error).show()
    elif answer.text:
        click.echo(answer.text)


def _asking(session: Session) -> Ask:
    """Return what asks for an input: a line editor, or a plain line where there is none."""
    is_there = find_spec("prompt_toolkit") is not None
    if is_there and os.environ.get("TERM") != "dumb":  # where the editor would not know Ctrl-D
        from taskalg.workbench.prompting import line_editor

        history = platformdirs.user_state_path("taskalg") / "history"
        return line_editor(session, history, prompt=PROMPT, more=MORE).prompt
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - lets `input` edit the line
    if not is_there:
        click.echo('for completion and colors: pip install "taskalg[repl]"', err=True)
    return _plain(session)


def _plain(session: Session) -> Ask:
    def ask() -> str:
        try:
            lines = [input(PROMPT)]
            while not session.is_complete("\n".join(lines)) and (len(lines) == 1 or lines[-1]):
                lines.append(input(MORE))
        except (EOFError, KeyboardInterrupt):
            click.echo()  # what follows starts a line of its own
            raise
        return "\n".join(lines)

    return ask
