"""Where a pass's results go: the files of an output in the making, or anything else of this shape.

A pass knows shards and offsets, not files, so the same pass that writes an output can compare one.
"""

from collections.abc import Callable
from typing import Protocol

from taskalg import files
from taskalg.engines.base import Bytes
from taskalg.handles import Handles


class Sink(Protocol):
    """Takes results at their place in the output, in any order, from several threads."""

    def write(self, shard: int, offset: int, data: Bytes) -> None:
        """Take bytes that were computed."""

    def copy(self, shard: int, offset: int, source: int, start: int, count: int) -> None:
        """Take `count` bytes as they are in the open file `source`, from byte `start` on."""

    def finished(self, shard: int, offset: int, nbytes: int) -> None:
        """Learn that everything in this range has been taken."""


class FileSink:
    """Writes to an output's files.

    Args:
        outputs: the files by their index among the shards.
        finished: learns which ranges are written; None when nobody asks.
    """

    def __init__(
        self, outputs: Handles[int], finished: Callable[[int, int, int], None] | None = None
    ) -> None:
        self._outputs, self._finished = outputs, finished

    def write(self, shard: int, offset: int, data: Bytes) -> None:
        """Write bytes at their place."""
        with self._outputs.using(shard) as output:
            files.write_at(output, data, offset)

    def copy(self, shard: int, offset: int, source: int, start: int, count: int) -> None:
        """Copy bytes from file to file, inside the kernel where it can."""
        with self._outputs.using(shard) as output:
            files.copy_range(source, start, output, offset, count)

    def finished(self, shard: int, offset: int, nbytes: int) -> None:
        """Pass it on."""
        if self._finished is not None:
            self._finished(shard, offset, nbytes)


class ArraySink:
    """Keeps one tensor in memory.

    Args:
        array: the tensor's bytes, to be filled.
        start: where it starts in its file [bytes].
    """

    def __init__(self, array: Bytes, start: int) -> None:
        self._array, self._start = array, start

    def write(self, shard: int, offset: int, data: Bytes) -> None:
        """Put bytes at their place."""
        self._part(offset, data.size)[:] = data

    def copy(self, shard: int, offset: int, source: int, start: int, count: int) -> None:
        """Read bytes to their place."""
        files.read_into(source, [self._part(offset, count)], start)

    def finished(self, shard: int, offset: int, nbytes: int) -> None:
        """Nobody asks."""

    def _part(self, offset: int, count: int) -> Bytes:
        return self._array[offset - self._start : offset - self._start + count]
