"""Tensors that stay in memory: cut into blocks once, then evaluated for ever new coefficients.

Threads take blocks as in a merge, but nothing is read from anywhere and nothing of a block is
worked out again, so what is left is the speed of memory. Small tensors are gathered into buffers
and scattered back by a compiled kernel, many in one block, because a block costs Python some 30
[microseconds] whatever its size. So are those whose output is one of their inputs: the compiled
tiers may write an element before they are done with reading it.

Threads are started by each call. Rejected: threads that wait for the next one. A start costs 30 to
60 [microseconds], a thousandth of a pass over any model worth more than one thread; threads that
wait would have to be stopped by somebody, and are missing after a fork.
"""

import ctypes
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskalg.dtypes import DType
from taskalg.engines.base import Bytes, Engine, Evaluate, Group, Resident, Tally, WeightedSumSpec
from taskalg.engines.cache import compiled, inlined
from taskalg.engines.instructions import load, store
from taskalg.machine import available_threads

# Bytes of a block's inputs and output: what running/blocks.py measured best for a merge holds here.
_TARGET = 3_000_000
# Bytes of a thread's buffers: they stay in the second level cache, and are worth a block's 30 us.
_GATHERED = 1_000_000
_SMALL = 128_000  # bytes of a tensor's inputs and output up to which it is gathered
_GRAIN = 512  # elements; blocks are cut at multiples of what an engine looks at together
_ALIGNMENT = 64  # bytes; one cache line, and the widest vector load

_ONE = (Fraction(1),)

Table = NDArray[np.int64]


@dataclass(frozen=True)
class _Block:
    """Elements that are evaluated at once, by one row of coefficients."""

    row: int
    addresses: Table  # `(terms + 1, pieces)`, the output's last
    counts: Table  # `(pieces,)` [elements]
    views: tuple[Bytes, ...]  # of the memory itself, the output's last; none if it is gathered


@dataclass(frozen=True)
class _Sum:
    """What one row of coefficients asks for."""

    terms: tuple[int, ...]  # those that take part
    evaluate: Evaluate


def blockwise(engine: Engine, group: Group, *, threads: int | None = None) -> Resident:
    """Return a function that evaluates a group's tensors by blocks, with an engine's `prepare`."""
    return _Blockwise(engine, group, threads or available_threads()).evaluate


class _Blockwise:
    def __init__(self, engine: Engine, group: Group, threads: int) -> None:
        self._engine, self._group, self._threads = engine, group, threads
        self._dtypes = (*group.inputs, group.output)
        self._blocks = list(_cut(group))
        self._rows: list[tuple[Fraction, ...]] = []  # of the last call
        self._sums: list[_Sum] = []  # of these
        self._lock = threading.Lock()

    def evaluate(self, rows: Sequence[Sequence[Fraction]]) -> Tally:
        with self._lock:
            last = zip(self._rows, self._sums, strict=True)
            known = dict(last) if len(rows) > 1 else {}  # hashing takes a third of making one
            self._rows = [tuple(row) for row in rows]
            self._sums = [known.get(row) or self._sum(row) for row in self._rows]
            run = _Run(self._dtypes, self._blocks, self._sums)
            return run.all(min(self._threads, len(self._blocks)))

    def _sum(self, row: Sequence[Fraction]) -> _Sum:
        group = self._group
        terms = tuple(term for term, coefficient in enumerate(row) if coefficient)
        spec = WeightedSumSpec(
            tuple(row[term] for term in terms),
            tuple(group.inputs[term] for term in terms),
            group.output,
        )
        if not terms:
            return _Sum(terms, _clear)
        if spec.coefficients == _ONE and spec.inputs == (spec.output,):
            return _Sum(terms, _copy)
        return _Sum(terms, self._engine.prepare(spec))


class _Run:
    """One call: what its threads share."""

    def __init__(
        self, dtypes: Sequence[DType], blocks: Sequence[_Block], sums: Sequence[_Sum]
    ) -> None:
        self._dtypes, self._sums = dtypes, sums
        self._waiting = iter(blocks)
        self._lock = threading.Lock()
        self._tally = Tally()
        self._failure: BaseException | None = None

    def all(self, threads: int) -> Tally:
        """Evaluate all blocks, the calling thread among the others."""
        others = [threading.Thread(target=self._work, daemon=True) for _ in range(threads - 1)]
        try:
            for other in others:
                other.start()
            self._work()
        finally:
            self._waiting = iter(())
            for other in others:
                if other.ident is not None:
                    other.join()
        if self._failure is not None:
            raise self._failure
        return self._tally

    def _work(self) -> None:
        tally, buffers = Tally(), _Buffers(self._dtypes)
        try:
            while (block := self._next()) is not None:
                total = self._sums[block.row]
                if block.views:
                    inputs = [block.views[term] for term in total.terms]
                    tally += total.evaluate(inputs, block.views[-1])
                else:
                    tally += buffers.evaluate(total, block)
        except BaseException as error:
            self._failure, self._waiting = self._failure or error, iter(())
        with self._lock:
            self._tally += tally

    def _next(self) -> _Block | None:
        with self._lock:
            return next(self._waiting, None)


class _Buffers:
    """One thread's copies of small tensors, side by side, one buffer for each dtype."""

    def __init__(self, dtypes: Sequence[DType]) -> None:
        self._sizes = np.array([dtype.itemsize for dtype in dtypes])
        self._memory: list[Bytes] = []  # made when first needed

    def evaluate(self, total: _Sum, block: _Block) -> Tally:
        """Gather what takes part, evaluate, and scatter the result."""
        if not self._memory:
            most = _most(_GATHERED, self._sizes)
            self._memory = [_aligned(most * size) for size in self._sizes]
            self._addresses = np.array([part.ctypes.data for part in self._memory])
        count = int(block.counts.sum())
        parts = [part[: count * size] for part, size in zip(self._memory, self._sizes, strict=True)]
        where = block.addresses, block.counts, self._addresses, self._sizes
        _move(*where, np.array(total.terms, np.int64), True)
        tally = total.evaluate([parts[term] for term in total.terms], parts[-1])
        _move(*where, np.array([len(parts) - 1]), False)
        return tally


@compiled
def _move(
    pieces: Table,
    counts: Table,
    buffers: Table,
    sizes: Table,
    chosen: Table,
    inward: bool,
) -> None:
    """Copy pieces of the chosen tensors into their buffers, one after the other, or back."""
    for place in chosen:
        buffer = buffers[place]
        for piece in range(len(counts)):
            nbytes = counts[piece] * sizes[place]
            if inward:
                _copy_bytes(pieces[place, piece], buffer, nbytes)
            else:
                _copy_bytes(buffer, pieces[place, piece], nbytes)
            buffer += nbytes


@inlined
def _copy_bytes(source: int, target: int, nbytes: int) -> None:
    for index in range(nbytes):
        store(target, index, np.uint8, np.uint64(load(source, index, np.uint8)))


def _copy(inputs: Sequence[Bytes], output: Bytes) -> Tally:
    output[:] = inputs[0]
    return Tally()


def _clear(inputs: Sequence[Bytes], output: Bytes) -> Tally:
    output[:] = 0
    return Tally()


def _aligned(nbytes: int) -> Bytes:
    memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + nbytes]


def _most(nbytes: int, sizes: Table) -> int:
    """Return how many elements of all dtypes together take at most that many bytes."""
    return max(1, nbytes // int(sizes.sum()) // _GRAIN) * _GRAIN


def _cut(group: Group) -> Iterator[_Block]:
    """Yield every block, those of one row after the other."""
    order = np.argsort(group.rows, kind="stable")
    ends = np.flatnonzero(np.diff(group.rows[order])) + 1
    for members in np.split(order, ends):
        if members.size:
            yield from _cut_row(group, members)


def _cut_row(group: Group, members: NDArray[np.intp]) -> Iterator[_Block]:
    sizes = np.array([dtype.itemsize for dtype in (*group.inputs, group.output)])
    row, most, few = int(group.rows[members[0]]), _most(_TARGET, sizes), _most(_GATHERED, sizes)
    gathered: list[tuple[Table, int]] = []
    room = few
    for index in members:
        addresses, count = group.addresses[index], int(group.counts[index])
        if count * sizes.sum() > _SMALL and addresses[-1] not in addresses[:-1]:
            for start in range(0, count, most):
                yield _in_place(row, addresses + start * sizes, sizes, min(most, count - start))
            continue
        for start in range(0, count, few):
            size = min(few, count - start)
            if size > room:
                yield _together(row, gathered)
                gathered, room = [], few
            gathered.append((addresses + start * sizes, size))
            room -= size
    if gathered:
        yield _together(row, gathered)


def _in_place(row: int, addresses: Table, sizes: NDArray[np.int64], count: int) -> _Block:
    views = tuple(map(view, addresses.tolist(), (count * sizes).tolist()))
    return _Block(row, addresses[:, None], np.array([count]), views)


def _together(row: int, pieces: Sequence[tuple[Table, int]]) -> _Block:
    addresses = np.stack([place for place, _ in pieces], axis=1)
    return _Block(row, addresses, np.array([count for _, count in pieces]), ())


def view(address: int, nbytes: int) -> Bytes:
    """Return memory as an array; whoever gave the address keeps it."""
    memory: Any = (ctypes.c_uint8 * nbytes).from_address(address)
    return np.frombuffer(memory, np.uint8)
