"""The terminal: how arguments are read, errors shown and progress drawn; no command is here."""

import errno
import logging
import os
import re
import signal
import sys
import traceback
from _thread import interrupt_main
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from threading import Timer, main_thread
from types import FrameType
from typing import IO, Any

import click

from taskalg.errors import OutputError, TaskalgError, printable
from taskalg.help_pages import Page, format_first_page
from taskalg.running.stream import Progress
from taskalg.units import bytes_text

_CARETS = re.compile(r"^( +\| +)(\^+)$", re.MULTILINE)
_OPTION = re.compile(r"--[A-Za-z][A-Za-z-]*(=.*)?", re.DOTALL)
_LOG = logging.getLogger("taskalg")
_stops: list[KeyboardInterrupt] = []  # by a signal, since the command or its last input began
_SOON = 0.05  # seconds until an interruption of an import is tried again
_BUG, _INTERRUPTED = 70, 130  # exit codes; the others belong to the errors


class Failure(click.ClickException):
    """An error of ours on its way to the terminal."""

    def __init__(self, error: TaskalgError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message; carets are red on a terminal."""
        marked = _CARETS.sub(lambda m: m[1] + click.style(m[2], fg="red", bold=True), self.message)
        plain = False if os.environ.get("NO_COLOR") else None
        click.echo(marked, file=file or sys.stderr, color=plain)


class Terminated(KeyboardInterrupt):
    """SIGTERM: it ends a command as Ctrl-C does, and a session, which Ctrl-C does not."""


class Tool(click.Group):
    """The `taskalg` command: whatever happens inside becomes a message and an exit code."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in their sections; a page of two options would need them more."""
        format_first_page(self.commands, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; TaskalgErrors keep their exit codes, anything else unexpected is 70."""
        for stream in (sys.stdout, sys.stderr):  # a terminal may not know every character
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            with _terminating(), _announcing():
                return super().invoke(ctx)
        except TaskalgError as error:
            raise Failure(error) from None
        except KeyboardInterrupt:
            click.echo("interrupted; nothing was published", err=True)
            raise click.exceptions.Exit(_INTERRUPTED) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # files raise our errors
                raise Failure(OutputError("no space is left for what is printed")) from None
            tell_bug()
            raise click.exceptions.Exit(_BUG) from None


class ExpressionCommand(Page):
    """A command whose expressions may start with a minus sign, without `--` before them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the options first, then `--` and the expressions."""
        takes_value = {
            name: isinstance(option, click.Option) and not option.is_flag and not option.count
            for option in self.get_params(ctx)
            if isinstance(option, click.Option)
            for name in (*option.opts, *option.secondary_opts)
        }
        options: list[str] = []
        expressions: list[str] = []
        rest = iter(args)
        for arg in rest:
            if arg == "--":
                expressions += rest
            elif arg in takes_value:
                options.append(arg)
                value = next(rest, None) if takes_value[arg] else ""
                if value is None:  # click says that the option needs one
                    return super().parse_args(ctx, options)
                options += [value] if takes_value[arg] else []
            elif _is_option(arg, takes_value):
                options.append(arg)
            else:
                expressions.append(arg)
        arguments = [one for one in self.params if isinstance(one, click.Argument)]
        wanted = len(expressions if any(one.nargs < 0 for one in arguments) else arguments)
        misspelt = any(
            o.startswith("--") and o.partition("=")[0] not in takes_value for o in options
        )
        is_wrong = len(expressions) > wanted and not ctx.resilient_parsing
        if is_wrong and not misspelt:  # click tells that better
            raise click.UsageError(
                f"unexpected {' '.join(expressions[wanted:])!r}: put each expression in quotes", ctx
            )
        return super().parse_args(ctx, [*options, "--", *expressions])


def _is_option(arg: str, known: Container[str]) -> bool:
    """Tell `--name=value`, and a misspelt `--option` for click to refuse, from an expression."""
    return bool(_OPTION.fullmatch(arg)) and (arg.partition("=")[0] in known or "=" not in arg)


@contextmanager
def _terminating() -> Iterator[None]:
    """Make SIGTERM clean up as Ctrl-C does, and remember both."""
    forget_interruption()
    before: dict[int, Any] = {}
    try:
        for number in map(int, (signal.SIGINT, signal.SIGTERM)):
            before[number] = signal.signal(number, _stop)
    except ValueError:  # not the main thread: someone else runs us, and decides
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):  # half a module would stay half for all that a session does later
        again = Timer(_SOON, _send, [number])
        again.daemon = True
        again.start()
        return
    _stops.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
    raise _stops[-1]


def _send(number: int) -> None:
    """Send a signal to the main thread, as from outside: that ends waiting, too."""
    ident = main_thread().ident
    if hasattr(signal, "pthread_kill") and ident is not None:
        signal.pthread_kill(ident, number)
    else:  # Windows: seen when what the thread waits for has come
        interrupt_main(signal.Signals(number))


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _check_interrupted() -> None:
    """Raise again what was lost: inside the compiler's callbacks, exceptions are."""
    if _stops:
        raise _stops[-1]


def forget_interruption() -> None:
    """Begin anew: an interruption of one input does not end the next."""
    _stops.clear()


def tell_bug() -> None:
    """Say that it is ours, with the traceback of what is being handled."""
    click.echo("this is a bug in taskalg; please report it with what follows", err=True)
    click.echo(traceback.format_exc(), err=True)


class _Announcer(logging.Handler):
    """Shows what the package logs, such as what it is about to download."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        click.echo(printable(record.getMessage()), err=True)


@contextmanager
def _announcing() -> Iterator[None]:
    announcer, before = _Announcer(), _LOG.level
    is_watched = sys.stderr is not None and sys.stderr.isatty()
    _LOG.addHandler(announcer)
    _LOG.setLevel(logging.DEBUG if is_watched else logging.INFO)
    try:
        yield
    finally:
        _LOG.removeHandler(announcer)
        _LOG.setLevel(before)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Yield what draws progress: a bar on a terminal, nothing in a pipe or when quiet."""
    if quiet:
        _LOG.setLevel(logging.WARNING)
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda progress: _check_interrupted()
        return
    bar = _Bar()
    try:
        yield bar.show
    finally:
        bar.close()


class _Bar:
    """A line that says how far, how fast and how long; rich is imported when it is first drawn."""

    def __init__(self) -> None:
        self._display: Any = None
        self._task: Any = None
        self._doing = ""

    def show(self, progress: Progress) -> None:
        """Draw."""
        _check_interrupted()
        if self._doing != progress.doing:
            self.close()
            self._doing = progress.doing
            self._start(progress.total)
        size = f"{bytes_text(progress.done)} of {bytes_text(progress.total)}"
        self._display.update(self._task, completed=progress.done, total=progress.total, size=size)

    def close(self) -> None:
        """Take the bar away; the report follows."""
        if self._display is not None:
            self._display.stop()

    def _start(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Display

        self._display = Display(
            TextColumn(self._doing),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[size]}"),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._display.add_task("", total=total, size="")
        self._display.start()
