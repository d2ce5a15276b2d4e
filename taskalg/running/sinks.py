"""Where a pass's results go: the files of an output in the making, or anything else of this shape.

A pass knows shards and offsets, not files, so the same pass that writes an output can compare one.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
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

    def zero(self, shard: int, offset: int, nbytes: int) -> None:
        """Take `nbytes` zeros."""

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

    def zero(self, shard: int, offset: int, nbytes: int) -> None:
        """Leave them: a new file holds zeros already."""

    def finished(self, shard: int, offset: int, nbytes: int) -> None:
        """Pass it on."""
        if self._finished is not None:
            self._finished(shard, offset, nbytes)


class MemorySink:
    """Keeps tensors in memory.

    Args:
        arrays: the bytes of each, to be filled; in the output one follows the other.
    """

    def __init__(self, arrays: Sequence[Bytes]) -> None:
        self._arrays = arrays
        self._starts = list(accumulate((array.size for array in arrays), initial=0))

    def write(self, shard: int, offset: int, data: Bytes) -> None:
        """Put bytes at their place."""
        start = 0
        for part in self._parts(offset, data.size):
            part[:] = data[start : start + part.size]
            start += part.size

    def copy(self, shard: int, offset: int, source: int, start: int, count: int) -> None:
        """Read bytes to their place."""
        files.read_into(source, [part.data for part in self._parts(offset, count)], start)

    def zero(self, shard: int, offset: int, nbytes: int) -> None:
        """Put zeros at their place."""
        for part in self._parts(offset, nbytes):
            part[:] = 0

    def finished(self, shard: int, offset: int, nbytes: int) -> None:
        """Nobody asks."""

    def _parts(self, offset: int, count: int) -> Iterator[Bytes]:
        """Yield the arrays' parts that a range covers."""
        index, end = bisect_right(self._starts, offset) - 1, offset + count
        while offset < end:
            start = offset - self._starts[index]
            part = self._arrays[index][start : start + end - offset]
            yield part
            offset += part.size
            index += 1
