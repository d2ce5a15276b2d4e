"""A command that scores a model: started without a shell, and not left running.

Its words are split as a shell would, and then `{model}` is put into them, so a path with blanks in
it stays one argument. Without a shell nothing in a path or a name can be a command; who wants one
writes `sh -c '…'`.

What it prints goes to files, of which the end is read. Rejected: pipes, which hold all of it in
memory, and stay open for as long as anything that it started in the background.
"""

import hashlib
import logging
import os
import re
import shlex
import signal
import subprocess
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from taskalg import files
from taskalg.algebra.rationals import decimal_text
from taskalg.errors import UsageError, quoted

_LAST_LINES = 20  # of what a command that failed said
_LAST_BYTES = 1_000_000  # of what one printed
_PATIENCE = 5  # seconds between asking it to stop and making it
_LONGEST = 1_000_000  # seconds; Windows counts milliseconds in 32 bits
_POSIX = os.name == "posix"
_QUOTED = re.compile(r"^([\"'])(.*)\1$", re.DOTALL)
_PLACE = re.compile(r"\{(\w+)\}")
_OF_A_SHELL = frozenset(("|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "&>"))
_LARGEST_SCRIPT = 10_000_000  # bytes; larger files are told apart by size and time
_EXAMPLE = '--score "python score.py {model}"'

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
        words = [_filled(word, {**texts, "model": str(model)}) for word in self.words]
        variables = {f"TASKALG_{name}": text for name, text in texts.items()}
        variables["TASKALG_MODEL"] = str(model)
        with TemporaryFile() as printed, TemporaryFile() as said:
            process = self._started(words, variables, printed, said)
            try:
                process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                raise UsageError(
                    f"{quoted(words[0])} takes longer than {self.timeout:g} s",
                    help="give it more with --timeout, or none",
                ) from None
            finally:
                _stop(process)
            if process.returncode:
                raise _failure(words, process.returncode, _end(said))
            return _end(printed)

    def _started(
        self,
        words: list[str],
        variables: Mapping[str, str],
        printed: IO[bytes],
        said: IO[bytes],
    ) -> "subprocess.Popen[bytes]":
        try:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=None if self.is_heard else said,
                env={**os.environ, **variables},
                start_new_session=_POSIX,  # so that what it starts can be stopped with it
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"cannot run {quoted(words[0])}: {reason.lower()}", help=f"write {_EXAMPLE}"
            ) from None


def read_command(text: str, *, timeout: float | None = None, is_heard: bool = False) -> Command:
    """Split a command into its words.

    Raises:
        UsageError: there is none, a quote is not closed, it takes a shell, or its time is no time.
    """
    if timeout is not None and not 0 < timeout <= _LONGEST:
        raise UsageError(
            f"a command gets more than 0 and up to {_LONGEST:,} s",
            note=f"found {timeout:g} s",
            help="leave out --timeout to wait for as long as it takes",
        )
    words = _split(text)
    if not words:
        raise UsageError("there is no command", help=f"write {_EXAMPLE}")
    for word in words:
        if word in _OF_A_SHELL:
            raise UsageError(
                f"{quoted(word)} takes a shell, and the command is started without one",
                help='put it into a script: --score "sh score.sh {model}"',
            )
    if "{model}" not in text and "TASKALG_MODEL" not in text:
        raise UsageError(
            "the command does not say {model}, so it cannot know what to score",
            note=f"found {text}",
            help=f"write {_EXAMPLE}",
        )
    return Command(tuple(words), timeout, is_heard)


def scripts(text: str) -> str:
    """Return the digest of the files that a command names, such as its script; empty for none."""
    found = hashlib.sha256()
    named = [word for word in _split(text) if os.path.isfile(word)]
    for word in named:
        mark = files.fingerprint(word)
        if mark.size <= _LARGEST_SCRIPT:
            found.update(files.read_small(word, _LARGEST_SCRIPT))
        else:  # weights, say, that it compares with
            found.update(repr((mark.size, mark.mtime_ns)).encode())
    return found.hexdigest()[:8] if named else ""


def _split(text: str) -> list[str]:
    try:
        words = shlex.split(text, posix=_POSIX)  # elsewhere a backslash is no escape
    except ValueError as error:
        raise UsageError(f"cannot read the command: {str(error).lower()}", note=text) from None
    return words if _POSIX else [_QUOTED.sub(r"\2", word) for word in words]


def _filled(word: str, given: Mapping[str, str]) -> str:
    """Put values where their names are, however those are typed (`µ` is two characters)."""
    return _PLACE.sub(
        lambda place: given.get(unicodedata.normalize("NFKC", place[1]), place[0]), word
    )


def _end(printed: IO[bytes]) -> str:
    """Return the last lines of what a command printed."""
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - _LAST_BYTES))
    return printed.read().decode("utf-8", "replace")


def _failure(words: list[str], status: int, said: str) -> UsageError:
    """Log the last lines of what a command said, and return the error."""
    for line in said.splitlines()[-_LAST_LINES:]:
        _log.error("  | %s", line)
    names = {-number: f"it was killed by {number.name}" for number in signal.Signals}
    return UsageError(
        f"{quoted(shlex.join(words))} failed",
        note=names.get(status, f"it ended with status {status}"),
        help="what is scored is kept: run the same again once it works",
    )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a command if it still runs, and what it started in any case."""
    try:
        if process.poll() is None:
            _signal(process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
    finally:  # also when Ctrl-C comes again
        _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if _POSIX:
            os.killpg(process.pid, number)
        else:
            process.terminate()
