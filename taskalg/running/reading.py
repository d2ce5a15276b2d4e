"""Inputs of blocks: bytes from files, views of arrays in memory, and products of factors.

Factors are small beside what they multiply to. Those of a tensor are read and decoded once, by the
thread that first needs them, shared by all, and dropped after the tensor's last block.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from taskalg import files
from taskalg.checkpoints.arrays import Array
from taskalg.checkpoints.base import Checkpoint, LowRank, Shard, TensorSpec, open_shard
from taskalg.dtypes import F64, DType
from taskalg.engines.base import Bytes, Engine, Evaluate, Factors, Multiply, conversion
from taskalg.handles import INPUTS, Handles
from taskalg.running.blocks import Piece
from taskalg.running.sinks import Sink

_COMPARED = 4 << 20  # bytes of each tensor that are compared at once


@dataclass(frozen=True)
class Stored:
    """One stored tensor of one of a plan's checkpoints."""

    operand: int  # index of the checkpoint
    spec: TensorSpec


class Inputs:
    """A plan's checkpoints while data is read from them, by any number of threads."""

    def __init__(self, checkpoints: Sequence[Checkpoint], engine: Engine) -> None:
        self._checkpoints, self._engine = checkpoints, engine
        self._files: Handles[Shard] = Handles(open_shard, files.close, INPUTS)
        self._products: dict[tuple[int, TensorSpec], _Product] = {}
        self._decoders: dict[DType, Evaluate] = {}
        self._lock = threading.Lock()
        self.bytes_read = 0

    def close(self) -> None:
        """Close all files."""
        self._files.close()

    def whole(self, operand: int, spec: TensorSpec) -> Bytes:
        """Return all bytes of a stored tensor."""
        content = np.empty(spec.nbytes, np.uint8)
        self.fill(operand, [Piece(spec.shard, spec.offset, spec.nbytes)], content)
        return content

    def in_place(self, operand: int, pieces: Sequence[Piece]) -> Bytes | None:
        """Return what lies together in memory that the engine uses; None when it does not."""
        first, *others = pieces
        array = None if others else self._array(operand, first)
        if array is None or array.device != self._engine.device:
            return None
        self._count(first.nbytes)
        found: Bytes = array.view(first.offset, first.nbytes, array.device)
        return found

    def _array(self, operand: int, piece: Piece) -> Array | None:
        """Return the array in memory that holds a piece; None when it is in a file, or computed."""
        arrays = self._checkpoints[operand].arrays
        return arrays[piece.shard] if arrays and piece.product is None else None

    def fill(self, operand: int, pieces: Sequence[Piece], into: Bytes) -> None:
        """Put pieces into a buffer, one after the other."""
        shards = self._checkpoints[operand].shards
        ranges: dict[int, list[tuple[int, memoryview]]] = {}  # by shard
        start = 0
        for piece in pieces:
            part = into[start : start + piece.nbytes]
            start += piece.nbytes
            array = self._array(operand, piece)
            if piece.product is not None:
                self._multiply(operand, piece, piece.product, part)
            elif array is not None:
                array.read(piece.offset, part)
            else:
                ranges.setdefault(piece.shard, []).append((piece.offset, part.data))
        for shard, wanted in ranges.items():
            with self._files.using(shards[shard]) as fd:
                files.read_ranges(fd, wanted)
        self._count(sum(piece.nbytes for piece in pieces if piece.product is None))

    def equal(self, one: Stored, other: Stored) -> bool:
        """Tell whether two stored tensors hold the same bytes. Reads all of both, in blocks."""
        size = max(one.spec.nbytes, other.spec.nbytes)
        buffers = np.empty((2, min(size, _COMPARED)), np.uint8)
        alike = True
        for start in range(0, size, _COMPARED):
            first = self._part(one, start, buffers[0])
            second = self._part(other, start, buffers[1])
            alike = alike and np.array_equal(first, second)
        return alike

    def _part(self, stored: Stored, start: int, buffer: Bytes) -> Bytes:
        spec = stored.spec
        part = buffer[: max(0, spec.nbytes - start)]
        self.fill(stored.operand, [Piece(spec.shard, spec.offset + start, part.size)], part)
        return part

    def copy(self, operand: int, piece: Piece, sink: Sink, shard: int, offset: int) -> None:
        """Give a stored piece to a sink as it is."""
        array = self._array(operand, piece)
        if array is not None:
            found = array.view(piece.offset, piece.nbytes)
            if found is None:
                found = np.empty(piece.nbytes, np.uint8)
                array.read(piece.offset, found)
            sink.write(shard, offset, found)
            return
        with self._files.using(self._checkpoints[operand].shards[piece.shard]) as fd:
            sink.copy(shard, offset, fd, piece.offset, piece.nbytes)

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self.bytes_read += nbytes

    def _multiply(self, operand: int, piece: Piece, spec: TensorSpec, into: Bytes) -> None:
        key = (operand, spec)
        with self._lock:
            product = self._products.setdefault(key, _Product(piece.parts))
        with product.lock:
            if product.multiply is None:
                assert spec.factors is not None
                product.multiply = self._engine.factored(self.factors(operand, spec.factors))
        first = piece.offset // F64.itemsize
        product.multiply(first, into)
        if spec.factors is not None and spec.factors.onto is not None:
            self._add(operand, spec.factors.onto, first, into)
        with self._lock:
            product.waiting -= 1
            if not product.waiting:
                del self._products[key]

    def factors(self, operand: int, stored: LowRank) -> Factors:
        """Read and decode the factors of a product."""
        a, b = np.ones((1, 1)), self._decoded(operand, stored.b).reshape(stored.b.shape[0], -1)
        if stored.a is not None:
            a = self._decoded(operand, stored.a).reshape(stored.a.shape[0], -1)
        if stored.transposed:
            a, b = np.ascontiguousarray(b.T), np.ascontiguousarray(a.T)
        return Factors(left=b, right=a, scale=stored.scale)

    def _add(self, operand: int, stored: TensorSpec, first: int, into: Bytes) -> None:
        """Add a range of a stored tensor's elements to those of a product."""
        width, elements = stored.dtype.itemsize, into.view(np.float64)
        offset, nbytes = stored.offset + first * width, elements.size * width
        elements += self._decoded(operand, replace(stored, offset=offset, nbytes=nbytes))

    def _decoded(self, operand: int, spec: TensorSpec) -> NDArray[np.float64]:
        """Return a stored tensor's numbers, exactly: one times them, as the engine has it."""
        if spec.dtype not in self._decoders:
            self._decoders[spec.dtype] = conversion(self._engine, spec.dtype, F64)
        numbers = np.empty(spec.nbytes // spec.dtype.itemsize, np.float64)
        content = self.whole(operand, spec)
        self._decoders[spec.dtype]([content], numbers.view(np.uint8))
        return numbers


@dataclass
class _Product:
    """A tensor's factors while its blocks are computed."""

    waiting: int  # pieces still to come
    multiply: Multiply | None = None  # once a thread has read the factors
    lock: threading.Lock = field(default_factory=threading.Lock)  # for that thread
