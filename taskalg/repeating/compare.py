"""A sink that writes nothing: it holds what a pass gives against an output that is there."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from taskalg import files
from taskalg.engines.base import Bytes
from taskalg.handles import OUTPUTS, Handles
from taskalg.output.layout import ShardLayout

_BLOCK = 8 << 20  # bytes compared at once


@dataclass(frozen=True)
class Difference:
    """One tensor that is not what it should be."""

    name: str
    elements: int  # that differ
    nbytes: int  # that differ [bytes]


class ComparingSink:
    """Compares with the files of an output, all of which have the right size.

    Args:
        out: the output's folder.
        layouts: what its files should be.

    Attributes:
        compared: bytes held against the output so far, headers left out [bytes].
    """

    def __init__(self, out: Path, layouts: Sequence[ShardLayout]) -> None:
        self.compared = 0
        self._layouts = layouts
        self._files: Handles[int] = Handles(
            lambda shard: files.open_input(out / layouts[shard].name), files.close, OUTPUTS
        )
        self._lock = Lock()
        self._found: dict[str, Difference] = {}

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The tensors that differ, in the order of the output."""
        names = (tensor.name for layout in self._layouts for tensor in layout.tensors)
        return tuple(self._found[name] for name in names if name in self._found)

    def write(self, shard: int, offset: int, data: Bytes) -> None:
        """Compare bytes that were computed with those at their place."""
        there = np.empty(data.nbytes, np.uint8)
        with self._files.using(shard) as fd:
            files.read_into(fd, [there], offset)
        wrong = np.flatnonzero(there != data)
        with self._lock:
            self.compared += data.nbytes
            if wrong.size:
                self._blame(shard, offset + wrong)

    def copy(self, shard: int, offset: int, source: int, start: int, count: int) -> None:
        """Compare bytes of an input with those at their place."""
        for done in range(0, count, _BLOCK):
            expected = np.empty(min(_BLOCK, count - done), np.uint8)
            files.read_into(source, [expected], start + done)
            self.write(shard, offset + done, expected)

    def zero(self, shard: int, offset: int, nbytes: int) -> None:
        """Compare the bytes at a place with zeros."""
        for done in range(0, nbytes, _BLOCK):
            self.write(shard, offset + done, np.zeros(min(_BLOCK, nbytes - done), np.uint8))

    def finished(self, shard: int, offset: int, nbytes: int) -> None:
        """Know already."""

    def close(self) -> None:
        """Close the output's files."""
        self._files.close()

    def _blame(self, shard: int, wrong: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        """Count the bytes at these places of a file for the tensors they belong to."""
        layout = self._layouts[shard]
        while wrong.size:
            index = bisect_right(layout.offsets, int(wrong[0])) - 1
            tensor, start = layout.tensors[index], layout.offsets[index]
            inside = wrong[wrong < start + tensor.nbytes]
            wrong = wrong[inside.size :]
            elements = np.unique((inside - start) // tensor.dtype.itemsize).size
            before = self._found.get(tensor.name, Difference(tensor.name, 0, 0))
            self._found[tensor.name] = Difference(
                tensor.name, before.elements + elements, before.nbytes + inside.size
            )
