"""System calls that fail on purpose: the k-th of them, once or from then on."""

import dataclasses
import errno
import threading
from collections.abc import Callable
from typing import Any

import pytest

from taskalg import system
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
    ) -> None:
        self.at = at  # the first call counts 1; 0 never fails
        self.sticky = sticky
        self.error = error or OSError(errno.EIO, "Input/output error")
        self.only = only  # names of calls that count; all if empty
        self.calls: list[str] = []
        self.failed = False
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
                self.calls.append(name)
                number = len(self.calls)
            if self.at and (number == self.at or (self.sticky and number > self.at)):
                self.failed = True
                raise self.error
            return call(*arguments)

        return counted


def inject(monkeypatch: pytest.MonkeyPatch, faults: Faults) -> None:
    """Put `faults` under all I/O of the package until the test ends."""
    monkeypatch.setattr(system, "primitives", faults.primitives(system.primitives))


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Take calls away, as on a platform that lacks them."""
    gone: dict[str, Any] = dict.fromkeys(names)
    monkeypatch.setattr(system, "primitives", dataclasses.replace(system.primitives, **gone))
