"""Files held open while a plan runs: few at a time, shared by all threads.

A merge of 72 sharded checkpoints has more files than a process may open. Each is opened when it is
first used, and the one not used for longest gives way.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

# Open at once, unless more threads than this use one each: together at most 128 for 64 threads.
INPUTS = 64
OUTPUTS = 16

Key = TypeVar("Key", bound=Hashable)


@dataclass
class _Entry:
    fd: int
    users: int  # threads that use it now; it may be closed only at 0


class Handles(Generic[Key]):
    """Descriptors by key."""

    def __init__(
        self, opening: Callable[[Key], int], closing: Callable[[int], None], limit: int
    ) -> None:
        self._opening, self._closing, self._limit = opening, closing, limit
        self._lock = Lock()
        self._entries: dict[Key, _Entry] = {}  # least recently used first

    @contextmanager
    def using(self, key: Key) -> Iterator[int]:
        """Lend a descriptor, opening the file if it is not open."""
        entry = self._take(key)
        try:
            yield entry.fd
        finally:
            with self._lock:
                entry.users -= 1

    def close(self, closing: Callable[[int], None] | None = None) -> None:
        """Close all files, in the way given or as always. Nobody uses one any more."""
        close = closing or self._closing
        with self._lock:
            while self._entries:
                close(self._entries.pop(next(iter(self._entries))).fd)

    def _take(self, key: Key) -> _Entry:
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None:
                self._make_room()
                entry = _Entry(self._opening(key), 0)
            entry.users += 1
            self._entries[key] = entry
            return entry

    def _make_room(self) -> None:
        if len(self._entries) >= self._limit:
            idle = next((key for key, entry in self._entries.items() if entry.users == 0), None)
            if idle is not None:
                self._closing(self._entries.pop(idle).fd)
