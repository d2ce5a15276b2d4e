"""A command that scores a model: started without a shell, and not left running.

Its words are split as a shell would, and then `{model}` is put into them, so a path with blanks in
it stays one argument. Without a shell nothing in a path or a name can be a command; who wants one
writes `sh -c '…'`.
"""

import logging
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from taskalg.algebra.rationals import decimal_text
from taskalg.errors import UsageError, quoted

_LAST_LINES = 20  # of what a command that failed said
_PATIENCE = 5  # seconds between asking it to stop and making it
_POSIX = os.name == "posix"
_QUOTED = re.compile(r"^([\"'])(.*)\1$", re.DOTALL)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command:
    """What scores a folder."""

    words: tuple[str, ...]  # with `{model}`, and `{name}` for a scalar's value
    timeout: float | None  # seconds for one point
    is_heard: bool  # whether what it says on stderr is passed on

    def run(self, model: Path, values: Mapping[str, Fraction]) -> str:
        """Run it, and return what it printed on stdout.

        Args:
            model: the folder, which replaces `{model}`; also in TASKALG_MODEL.
            values: of the swept scalars, each also in TASKALG_ and its name; empty for the base.

        Raises:
            UsageError: it cannot be started, fails, or takes too long.
        """
        texts = {name: decimal_text(value) for name, value in values.items()}
        given = {**texts, "model": str(model)}  # last: a path may have anything in it
        words = [_filled(word, given) for word in self.words]
        variables = {f"TASKALG_{name}": text for name, text in texts.items()}
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=None if self.is_heard else subprocess.PIPE,
                env={**os.environ, **variables, "TASKALG_MODEL": str(model)},
                start_new_session=_POSIX,  # so that what it starts can be stopped with it
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"cannot run {quoted(words[0])}: {reason}") from None
        return self._finish(process, words)

    def _finish(self, process: "subprocess.Popen[bytes]", words: list[str]) -> str:
        try:
            out, said = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            _stop(process)
            raise UsageError(
                f"{quoted(words[0])} takes longer than {self.timeout:g} s",
                help="give it more with --timeout, or none",
            ) from None
        except BaseException:
            _stop(process)
            raise
        if process.returncode:
            _pass_on(said or b"")
            raise UsageError(
                f"{quoted(shlex.join(words))} failed",
                note=f"it ended with status {process.returncode}",
                help="what is scored is kept: run the same again once it works",
            )
        return out.decode("utf-8", "replace")


def read_command(text: str, *, timeout: float | None = None, is_heard: bool = False) -> Command:
    """Split a command into its words.

    Raises:
        UsageError: there is none, a quote is not closed, or it has no time.
    """
    if timeout is not None and not timeout > 0:
        raise UsageError("a command needs more time", note=f"found {timeout:g} s")
    try:
        words = shlex.split(text, posix=_POSIX)  # elsewhere a backslash is no escape
    except ValueError as error:
        raise UsageError(f"cannot read the command: {str(error).lower()}", note=text) from None
    if not _POSIX:
        words = [_QUOTED.sub(r"\2", word) for word in words]
    if not words:
        raise UsageError("there is no command", help='write --score "python score.py {model}"')
    if "{model}" not in text:
        _log.warning("the command does not say {model}: only TASKALG_MODEL tells it the folder")
    return Command(tuple(words), timeout, is_heard)


def _filled(word: str, given: Mapping[str, str]) -> str:
    for name, text in given.items():
        word = word.replace(f"{{{name}}}", text)
    return word


def _pass_on(said: bytes) -> None:
    """Log the last lines of what a command said."""
    for line in said.decode("utf-8", "replace").splitlines()[-_LAST_LINES:]:
        _log.error("  | %s", line)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a command and what it started."""
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with suppress(ProcessLookupError, PermissionError):
            if _POSIX:
                os.killpg(process.pid, number)
            else:
                process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_PATIENCE)
            return
