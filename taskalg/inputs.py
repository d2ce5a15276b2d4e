"""Input files held open while a plan runs: few at a time, shared by all threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from taskalg import files
from taskalg.checkpoints.base import Shard, open_shard

OPEN_FILES = 96  # with the output's files, below the 128 that the package allows itself


@dataclass
class _Entry:
    fd: int
    users: int  # threads reading from it now; it may be closed only at 0


class InputFiles:
    """Opens shards when they are first read and closes those not used for longest."""

    def __init__(self, limit: int = OPEN_FILES) -> None:
        self._limit = limit
        self._lock = Lock()
        self._entries: dict[int, _Entry] = {}  # by id of the shard, least recently used first
        self._shards: dict[int, Shard] = {}  # keeps the ids alive

    @contextmanager
    def reading(self, shard: Shard) -> Iterator[int]:
        """Lend a descriptor for `files.read_into`."""
        entry = self._take(shard)
        try:
            yield entry.fd
        finally:
            with self._lock:
                entry.users -= 1

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for entry in self._entries.values():
                files.close(entry.fd)
            self._entries.clear()

    def _take(self, shard: Shard) -> _Entry:
        with self._lock:
            entry = self._entries.pop(id(shard), None)
            if entry is None:
                self._make_room()
                entry = _Entry(open_shard(shard), 0)
                self._shards[id(shard)] = shard
            entry.users += 1
            self._entries[id(shard)] = entry
            return entry

    def _make_room(self) -> None:
        if len(self._entries) < self._limit:
            return
        idle = next((key for key, entry in self._entries.items() if entry.users == 0), None)
        if idle is not None:
            files.close(self._entries.pop(idle).fd)
