"""System calls that fail on purpose: the k-th of them, once or from then on."""

import dataclasses
import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from taskalg import system
from taskalg.errors import TaskalgError
from taskalg.system import Primitives

FIELDS = [field.name for field in dataclasses.fields(Primitives)]


class Faults:
    """Counts calls, and fails those it is told to.

    Attributes:
        calls: the name of each call so far.
        failed: whether one was made to fail.
    """

    def __init__(
        self,
        at: int = 0,
        *,
        sticky: bool = False,
        error: BaseException | None = None,
        only: tuple[str, ...] = (),
        short: bool = False,
        starting: str = "",
    ) -> None:
        self.at = at  # the first call counts 1; 0 never fails
        self.sticky = sticky
        self.error = error or OSError(errno.EIO, "Input/output error")
        self.only = only  # names of calls that count; all if empty
        self.short = short  # reads and writes move one byte where they would fail
        self.starting = starting  # only calls of this name count until one fails
        self.calls: list[str] = []
        self.failed = False
        self._open: set[int] = set()
        self._lock = threading.Lock()

    def primitives(self, real: Primitives) -> Primitives:
        """Return a table whose calls go through this object."""
        wrapped = {name: self._wrap(name, getattr(real, name)) for name in FIELDS}
        return Primitives(**wrapped)

    def _wrap(self, name: str, call: Callable[..., Any] | None) -> Any:
        if call is None or (self.only and name not in self.only):
            return call

        def counted(*arguments: Any) -> Any:
            with self._lock:
                if not self.starting or name == self.starting or self.failed:
                    self.calls.append(name)
                number = len(self.calls)
            if self.at and (number == self.at or (self.sticky and number > self.at)):
                self.failed = True
                return self._fail(name, call, arguments)
            result = call(*arguments)
            self._note(name, arguments, result)
            return result

        return counted

    def _fail(self, name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if name == "close":  # as on Linux, where a descriptor is gone also when close fails
            call(*arguments)
            self._note(name, arguments, None)
        if self.short and name in ("pwrite", "write", "preadv", "copy_file_range"):
            return self._some(name, call, arguments)
        raise self.error

    def _some(self, name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Move fewer bytes than asked for: one."""
        if name == "copy_file_range":
            source, target, _, *rest = arguments
            return call(source, target, 1, *rest)
        fd, data, *rest = arguments
        part = [data[0][:1]] if name == "preadv" else data[:1]
        return call(fd, part, *rest)

    def _note(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        with self._lock:
            if name == "open":
                self._open.add(result)
            if name == "close":
                self._open.discard(arguments[0])

    def kill(self) -> BaseException:
        """Let no call go through from here on, as after kill -9, and return what to raise."""
        self.at, self.sticky, self.error = 1, True, Killed()
        return self.error

    def end(self) -> None:
        """Close what is still open, as the system does at the end of a process."""
        for fd in self._open:
            with suppress(OSError):
                os.close(fd)
        self._open.clear()


class Killed(BaseException):
    """No call goes through from here on, as after kill -9."""


def inject(monkeypatch: pytest.MonkeyPatch, faults: Faults) -> None:
    """Put `faults` under all I/O of the package until the test ends."""
    monkeypatch.setattr(system, "primitives", faults.primitives(system.primitives))


def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync nothing: a thousand runs would wait for the disk."""
    nothing: Any = lambda fd: None  # noqa: E731
    quick = dataclasses.replace(system.primitives, fsync=nothing, fsync_folder=nothing)
    monkeypatch.setattr(system, "primitives", quick)


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Take calls away, as on a platform that lacks them."""
    gone: dict[str, Any] = dict.fromkeys(names)
    monkeypatch.setattr(system, "primitives", dataclasses.replace(system.primitives, **gone))


def goes_through(faults: Faults, action: Callable[[], object]) -> bool:
    """Do something with faults underneath, and tell whether it went through."""
    with pytest.MonkeyPatch.context() as patch:
        inject(patch, faults)
        try:
            action()
        except TaskalgError as error:
            assert error.exit_code in (4, 5)
            return False
        except Killed:
            return False
        finally:
            faults.end()
    return True
