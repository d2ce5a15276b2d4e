"""A program at a terminal that a test types on: the other end of a pseudo-terminal."""

import os
import re
import select
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROWS, COLUMNS = 40, 100
PROMPT = ">>>"
PATIENCE = 60.0  # seconds until a test gives up
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


class Terminal:
    """A running program, what it has shown, and keys to press."""

    def __init__(self, command: Sequence[str], folder: Path, **environment: str) -> None:
        import fcntl
        import pty
        import termios

        self.keyboard, screen = pty.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.program = subprocess.Popen(
            [sys.executable, *command],
            stdin=screen,
            stdout=screen,
            stderr=screen,
            cwd=folder,
            env=os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"} | environment,
            preexec_fn=lambda: os.login_tty(screen),  # so that Ctrl-C is a signal
            pass_fds=(screen,),
        )
        os.close(screen)
        self.raw = ""  # all that was shown, with colors and movements
        self._seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.program.kill()
        self.program.wait()
        os.close(self.keyboard)

    def press(self, keys: str) -> None:
        """Press keys, as a terminal sends them."""
        os.write(self.keyboard, keys.encode())

    def sees(self, text: str, then: str = PROMPT) -> str:
        """Wait until the program shows a text, and a prompt after it; return what it showed.

        Colors are left out. What was returned once is not looked at again.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            shown = _CONTROLS.sub("", self.raw[self._seen :])
            place = shown.find(text)
            if place >= 0 and then in shown[place + len(text) :]:
                self._seen = len(self.raw)
                return shown
            assert time.monotonic() < deadline, f"no {text!r} in {shown!r}"
            assert self._read(), f"it ended without {text!r} in {shown!r}"

    def ends(self) -> int:
        """Wait until the program ends; return its exit code."""
        while self._read():
            pass
        return self.program.wait(PATIENCE)

    def _read(self) -> bool:
        ready, _, _ = select.select([self.keyboard], [], [], PATIENCE)
        try:
            found = os.read(self.keyboard, 65536) if ready else b""
        except OSError:  # how Linux says that the other end is closed
            found = b""
        self.raw += found.decode(errors="replace")
        return bool(found)
