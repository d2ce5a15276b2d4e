"""Tensors that stay on the GPU: tables go there once, then every call is one launch.

There is a second launch only for tensors at odd addresses, which wide loads cannot reach. Nothing
is reset between calls: counters only grow. Tiles that the GPU leaves to the CPU are few, and told
by a counter; they are fetched, settled and put back.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskalg.engines.base import Engine, Group, Tally, WeightedSumSpec
from taskalg.engines.gpu.device import on
from taskalg.engines.gpu.launch import Again, Kernels
from taskalg.engines.gpu.tables import TILES, Tables, fill, is_aligned, row_size, tabulate

_FETCHED = 4096  # tiles settled at a time; some [MB] of each input

Rows = Sequence[Sequence[Fraction]]


@dataclass(frozen=True)
class Counted:
    """What a kernel counts, in total since it was made."""

    missed: int  # tiles left to the CPU
    tally: Tally  # of the others

    @classmethod
    def of(cls, before: NDArray[np.int64], now: NDArray[np.int64]) -> "Counted":
        """Return what was counted between two readings."""
        missed, overflowed, nonfinite, tier2 = (now - before).tolist()
        return cls(missed, Tally(overflowed=overflowed, nonfinite=nonfinite, tier2=tier2))


class ResidentSums:
    """A group of tensors on one device.

    Args:
        group: where they are; the device reaches all addresses.
        device: of the kernels.
        cpu: settles what the kernels leave.
    """

    def __init__(self, group: Group, device: torch.device, cpu: Engine) -> None:
        self._group, self._device, self._lock = group, device, threading.Lock()
        count = int(group.rows.max(initial=-1)) + 1
        shape = count, row_size(len(group.inputs))
        self._numbers = torch.zeros(shape, dtype=torch.float64, pin_memory=device.type == "cuda")
        self._rows = torch.zeros(shape, dtype=torch.float64, device=device)
        aligned = is_aligned(group)
        kernels = Kernels(group.inputs, group.output)
        self._parts = [
            _Part(kernels, group, tabulate(group, chosen), is_wide, device, cpu)
            for chosen, is_wide in ((aligned, True), (~aligned, False))
            if group.counts[chosen].any()
        ]

    def evaluate(self, rows: Rows) -> Tally:
        """Evaluate all tensors for coefficients by row; wait for the result."""
        with self._lock, on(self._device):
            numbers = self._numbers.numpy()
            for row, coefficients in zip(numbers, rows, strict=False):
                fill(row, coefficients, self._group.inputs, self._group.output, copying=True)
            self._rows.copy_(self._numbers, non_blocking=True)
            for part in self._parts:
                part.start(self._rows)
            return sum((part.finish(rows) for part in self._parts), Tally())


class _Part:
    """Tensors that one launch evaluates."""

    def __init__(
        self,
        kernels: Kernels,
        group: Group,
        tables: Tables,
        is_wide: bool,
        device: torch.device,
        cpu: Engine,
    ) -> None:
        self._kernels, self._group, self._tables, self._cpu = kernels, group, tables, cpu
        self._is_wide, self._device = is_wide, device
        self._again: Again | None = None
        self._chunks = torch.from_numpy(tables.chunks).to(device)
        self._tensors = torch.from_numpy(tables.tensors).to(device)
        self._missed = torch.zeros(len(tables.chunks), dtype=torch.int32, device=device)
        self._counters = torch.zeros(4, dtype=torch.int64, device=device)
        self._reading = torch.zeros(4, dtype=torch.int64, pin_memory=device.type == "cuda")

    def start(self, rows: torch.Tensor) -> None:
        """Launch, with the rows that are in the same place every time."""
        self._before = self._reading.numpy().copy()
        if self._again is None:
            tables = self._chunks, self._tensors, rows, self._missed, self._counters
            self._again = self._kernels.sum(len(self._chunks), *tables, aligned=self._is_wide)
        else:
            self._again()
        self._reading.copy_(self._counters, non_blocking=True)

    def finish(self, rows: Rows) -> Tally:
        """Wait, and settle what is left."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        seen = Counted.of(self._before, self._reading.numpy())
        if not seen.missed:
            return seen.tally
        words = self._missed.cpu().numpy().copy()  # or zeroing would reach it
        self._missed.zero_()
        programs = np.flatnonzero(words)
        places, bits = np.nonzero(words[programs, None] >> np.arange(TILES) & 1)
        chunks = self._tables.chunks[programs[places]]
        tiles = (chunks >> 32 << 32) + (chunks & 0xFFFFFFFF) * TILES + bits
        which = self._tables.tensors[tiles >> 32, -1]
        tally = seen.tally
        for row in np.unique(which):
            mine = tiles[which == row]
            for start in range(0, len(mine), _FETCHED):
                tally += self._settle(mine[start : start + _FETCHED], rows[row])
        return tally

    def _settle(self, tiles: NDArray[np.int64], coefficients: Sequence[Fraction]) -> Tally:
        """Evaluate tiles of one row on the CPU."""
        group, count = self._group, len(tiles) * self._tables.tile
        there: Any = torch.from_numpy(tiles).to(self._device)
        staging = [
            torch.zeros(count * dtype.itemsize, dtype=torch.uint8, device=self._device)
            for dtype in (*group.inputs, group.output)
        ]
        where = torch.tensor([part.data_ptr() for part in staging], device=self._device)
        self._kernels.exchange(len(tiles), there, self._tensors, where, inward=True)
        active = [term for term, coefficient in enumerate(coefficients) if coefficient]
        spec = WeightedSumSpec(
            tuple(coefficients[term] for term in active),
            tuple(group.inputs[term] for term in active),
            group.output,
        )
        result = np.empty(count * group.output.itemsize, np.uint8)
        tally = self._cpu.prepare(spec)([staging[t].cpu().numpy() for t in active], result)
        staging[-1].copy_(torch.from_numpy(result))
        self._kernels.exchange(len(tiles), there, self._tensors, where, inward=False)
        return tally
