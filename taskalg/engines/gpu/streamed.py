"""Blocks in host memory: over to the GPU, summed there, and back.

Every thread of a pass has a lane: a stream, and memory on the GPU that it uses again and again.
What one lane copies overlaps with what another computes, and as many blocks are in flight as there
are threads. Buffers in host memory are pinned (`pinned`), or copies would not be asynchronous.
Rejected: one queue of copies and launches with events between them, which is the same overlap with
a scheduler of our own.
"""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskalg.engines.base import Bytes, Evaluate, Tally, WeightedSumSpec
from taskalg.engines.gpu.device import within_memory
from taskalg.engines.gpu.launch import Kernels
from taskalg.engines.gpu.resident import Counted
from taskalg.engines.gpu.tables import TILES, fill, row_size, tile_size

_ALIGNMENT = 256  # bytes; more than the widest load asks for


def pinned(nbytes: int) -> Bytes:
    """Return host memory that a GPU copies from and to while the processor goes on."""
    found: Bytes = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
    return found


class Lane:
    """One thread's stream and memory.

    Attributes:
        chunks: of one tensor, in order, for the kernel.
        missed: the kernel's bits.
        counters: the kernel's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._is_gpu = device, device.type == "cuda"
        self._stream: Any = None
        if self._is_gpu:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._reading = torch.zeros(4, dtype=torch.int64, pin_memory=self._is_gpu)
        self._words = torch.zeros(0, dtype=torch.int64)
        with self.using():
            self._memory = torch.zeros(0, dtype=torch.uint8, device=device)
            self.chunks = torch.zeros(0, dtype=torch.int64, device=device)
            self.missed = torch.zeros(0, dtype=torch.int32, device=device)
            self.counters = torch.zeros(4, dtype=torch.int64, device=device)

    def using(self) -> AbstractContextManager[object]:
        """Have what follows done on this lane's stream, after what was asked of the GPU before."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.default_stream(self._device))
        return torch.cuda.stream(self._stream)

    def buffers(self, sizes: Sequence[int]) -> list[torch.Tensor]:
        """Return memory on the device, `sizes` [bytes], which is theirs until the next call."""
        starts = np.cumsum([0, *(size + -size % _ALIGNMENT for size in sizes)]).tolist()
        if starts[-1] > self._memory.numel():
            self._memory = torch.empty(starts[-1], dtype=torch.uint8, device=self._device)
        pairs = zip(starts, sizes, strict=False)
        return [self._memory[start : start + size] for start, size in pairs]

    def make_room(self, programs: int) -> None:
        """Have tables for so many programs."""
        if programs > self.chunks.numel():
            self.chunks = torch.arange(programs, dtype=torch.int64, device=self._device)
            self.missed = torch.zeros(programs, dtype=torch.int32, device=self._device)

    def send(self, words: NDArray[np.int64], there: torch.Tensor) -> None:
        """Copy a few words to the device."""
        if len(words) > self._words.numel():
            self._words = torch.zeros(len(words), dtype=torch.int64, pin_memory=self._is_gpu)
        self._words.numpy()[: len(words)] = words
        there.copy_(self._words[: len(words)], non_blocking=True)

    def counted(self) -> Counted:
        """Wait for everything, and return what was counted since the last time."""
        before = self._reading.numpy().copy()
        self._reading.copy_(self.counters, non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()
        return Counted.of(before, self._reading.numpy())


class Lanes:
    """A lane for each thread."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._local = device, threading.local()

    def mine(self) -> Lane:
        """Return the calling thread's."""
        found: Lane | None = getattr(self._local, "lane", None)
        if found is None:
            found = self._local.lane = Lane(self._device)
        return found


class StreamedSum:
    """One weighted sum of blocks.

    Args:
        spec: the sum.
        lanes: of the threads that will call.
        cpu: the same sum on the CPU, for blocks with an element the kernel cannot settle.
    """

    def __init__(self, spec: WeightedSumSpec, lanes: Lanes, cpu: Evaluate) -> None:
        self._spec, self._lanes, self._cpu = spec, lanes, cpu
        self._kernels = Kernels(spec.inputs, spec.output)
        self._elements = tile_size(spec.inputs) * TILES  # of a program
        row = np.zeros(row_size(len(spec.inputs)))
        fill(row, spec.coefficients, spec.inputs, spec.output)
        self._row = row.view(np.int64)

    def evaluate(self, inputs: Sequence[Bytes], output: Bytes) -> Tally:
        """Evaluate a block; called from several threads at once."""
        count = output.size // self._spec.output.itemsize
        if not count:
            return self._cpu(inputs, output)
        lane = self._lanes.mine()
        with within_memory("blocks of all threads"), lane.using():
            self._start(lane, inputs, output, count)
            seen = lane.counted()
            if seen.missed:
                lane.missed.zero_()
        return self._cpu([*map(_on_host, inputs)], output) if seen.missed else seen.tally

    def _start(self, lane: Lane, inputs: Sequence[Bytes], output: Bytes, count: int) -> None:
        terms = len(inputs)
        control_size = 8 * (terms + 3 + len(self._row))
        sizes = [0 if _is_there(block) else block.size for block in inputs]
        *buffers, result, control = lane.buffers([*sizes, output.size, control_size])
        for there, block in zip(buffers, inputs, strict=True):
            if not _is_there(block):
                there.copy_(_tensor(block), non_blocking=True)
        places: list[Any] = [
            block if _is_there(block) else there
            for there, block in zip(buffers, inputs, strict=True)
        ]
        addresses = [place.data_ptr() for place in (*places, result)]
        words = control.view(torch.int64)
        record = np.array([*addresses, count, 0], np.int64)
        lane.send(np.concatenate([record, self._row]), words)
        programs = -(-count // self._elements)
        lane.make_room(programs)
        rows = words[terms + 3 :].view(torch.float64)
        tables = lane.chunks, words[: terms + 3], rows, lane.missed, lane.counters
        is_wide = all(address % 16 == 0 for address in addresses)
        self._kernels.sum(programs, *tables, aligned=is_wide)
        torch.from_numpy(output).copy_(result, non_blocking=True)


def _is_there(block: Any) -> bool:
    """Tell whether a block is on the device already."""
    return isinstance(block, torch.Tensor)


def _on_host(block: Any) -> Bytes:
    found: Bytes = block.cpu().numpy() if _is_there(block) else block
    return found


def _tensor(block: Bytes) -> torch.Tensor:
    return torch.from_numpy(block if block.flags.writeable else block.copy())
