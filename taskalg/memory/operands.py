"""A plan's operands on one device: addresses that stay valid as long as this is kept.

What lies on the device already is used where it is; the rest, from files, from host memory or
computed from an adapter's factors, is brought there once, into one buffer for each checkpoint.
Rejected: a tensor of its own for each, which allocators round up, and pinning rounds up to pages.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from taskalg.checkpoints.arrays import Array
from taskalg.checkpoints.base import Checkpoint
from taskalg.engines.base import Bytes
from taskalg.machine import available_threads
from taskalg.running.blocks import Piece
from taskalg.running.reading import Inputs, Stored
from taskalg.units import bytes_text

_ALIGNMENT = 256  # bytes; what CUDA's own allocator keeps, and more than any load is wide
_SPARED = 0.1  # of a GPU's free memory, for what is computed with the weights


@dataclass(frozen=True)
class Holding:
    """Where one checkpoint's operands are."""

    bytes_in_place: int  # in memory that is the user's
    bytes_copied: int  # in ours
    is_away: bool  # whether ours is host memory that a GPU reads at every evaluation

    def __str__(self) -> str:
        parts = [f"{bytes_text(self.bytes_in_place)} in place"] if self.bytes_in_place else []
        where = " in pinned host memory" if self.is_away else ""
        parts += [f"{bytes_text(self.bytes_copied)} copied{where}"] if self.bytes_copied else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Operands:
    """Stored tensors on a device."""

    addresses: Mapping[Stored, int]  # of first elements
    holdings: Mapping[int, Holding]  # by operand, of those that any tensor is of
    memory: tuple[Any, ...]  # keeps it


class Ranges:
    """Memory that will be written to.

    Args:
        parts: where each starts and ends.
    """

    def __init__(self, parts: Iterable[tuple[int, int]]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []  # of merged ranges
        for start, end in sorted(parts):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def overlap(self, address: int, nbytes: int) -> bool:
        """Tell whether some of it lies in a range of memory."""
        index = bisect_right(self._starts, address + nbytes - 1)
        return nbytes > 0 and index > 0 and self._ends[index - 1] > address


class Bringing:
    """Brings operands of a plan to a device.

    Args:
        inputs: where they are read from.
        checkpoints: the same.
        device: where to.
        written: memory that will be overwritten, so nothing can stay there.
    """

    def __init__(
        self,
        inputs: Inputs,
        checkpoints: Sequence[Checkpoint],
        device: torch.device,
        written: Ranges,
    ) -> None:
        self._inputs, self._checkpoints = inputs, checkpoints
        self._device, self._written = device, written

    def bring(self, wanted: Iterable[Stored], *, away: bool = False) -> Operands:
        """Bring stored tensors, each once.

        Args:
            wanted: which; some may be there several times.
            away: whether what has to be copied stays in pinned host memory. Otherwise only what
                does not fit on a GPU does.
        """
        addresses: dict[Stored, int] = {}
        holdings, memory = {}, []
        by_operand: dict[int, list[Stored]] = {}
        for stored in dict.fromkeys(wanted):
            by_operand.setdefault(stored.operand, []).append(stored)
        for operand, tensors in by_operand.items():
            there = {stored: array for stored in tensors if (array := self._in_place(stored))}
            rest = [stored for stored in tensors if stored not in there]
            places, size = _side_by_side(rest)
            buffer = self._buffer(size, away)
            self._fill(buffer, dict(zip(rest, places, strict=True)))
            addresses |= {stored: a.address + stored.spec.offset for stored, a in there.items()}
            addresses |= zip(rest, (buffer.data_ptr() + place for place in places), strict=True)
            in_place = sum(stored.spec.nbytes for stored in there)
            is_away = size > 0 and buffer.device != self._device
            copied = sum(stored.spec.nbytes for stored in rest)
            holdings[operand] = Holding(in_place, copied, is_away)
            memory += [buffer, *there.values()]
        return Operands(addresses, holdings, tuple(memory))

    def _in_place(self, stored: Stored) -> Array | None:
        """Return the memory that a tensor can stay in, None when it has to be copied."""
        array, spec = self.array(stored), stored.spec
        if array is None or not _is_on(array, self._device):
            return None
        return None if self._written.overlap(array.address + spec.offset, spec.nbytes) else array

    def array(self, stored: Stored) -> Array | None:
        """Return the memory that a tensor is in; None when it is in a file, or a product."""
        arrays = self._checkpoints[stored.operand].arrays
        return arrays[stored.spec.shard] if arrays and stored.spec.factors is None else None

    def copy(self, stored: Stored, target: torch.Tensor) -> None:
        """Copy a tensor's bytes to a flat tensor of bytes, on whatever device."""
        array, spec = self.array(stored), stored.spec
        if array is not None and _is_on(array, target.device):
            target.copy_(array.tensor()[spec.offset : spec.offset + spec.nbytes])
        elif target.device.type == "cpu":
            self._read(stored, target.numpy())
        else:
            content = np.empty(spec.nbytes, np.uint8)
            self._read(stored, content)
            target.copy_(torch.from_numpy(content))

    def _read(self, stored: Stored, into: Bytes) -> None:
        spec = stored.spec
        is_product = spec.factors is not None
        piece = Piece(spec.shard, spec.offset, spec.nbytes, spec if is_product else None)
        if spec.nbytes:
            self._inputs.fill(stored.operand, [piece], into)
        if is_product:  # a copy of it has to be what one times it is
            numbers = into.view(np.float64)
            numbers[np.isnan(numbers)] = np.nan

    def _fill(self, buffer: torch.Tensor, places: Mapping[Stored, int]) -> None:
        def copy(stored: Stored) -> None:
            start = places[stored]
            self.copy(stored, buffer[start : start + stored.spec.nbytes])

        with ThreadPoolExecutor(available_threads()) as pool:
            for _ in pool.map(copy, places):
                pass

    def _buffer(self, size: int, away: bool) -> torch.Tensor:
        if self._device.type != "cuda":
            return torch.empty(size, dtype=torch.uint8, device=self._device)
        free, _ = torch.cuda.mem_get_info(self._device)
        if away or size > free * (1 - _SPARED):
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return torch.empty(size, dtype=torch.uint8, device=self._device)


def _is_on(array: Array, device: torch.device) -> bool:
    return array.device == str(device)


def _side_by_side(wanted: Sequence[Stored]) -> tuple[list[int], int]:
    """Return where each tensor starts in a buffer, and the buffer's size [bytes]."""
    places, end = [], 0
    for stored in wanted:
        places.append(end)
        end += stored.spec.nbytes + -stored.spec.nbytes % _ALIGNMENT
    return places, end
