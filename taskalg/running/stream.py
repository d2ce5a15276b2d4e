"""The streaming pass: threads take blocks, one after the other.

Each reads what a block needs, has the engine sum it in the cache, and writes it at its place: every
input byte is read once, every output byte written once, and nothing of the size of a tensor is ever
held. A pass may take its blocks in several goes, as an output in memory does; kernels and open
files are kept between them. Rejected: separate reader and writer threads, which hand blocks from
one core's cache to another's.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from taskalg.algebra.kinds import Kind
from taskalg.checkpoints.base import Checkpoint
from taskalg.engines.base import Bytes, Engine, Evaluate, Tally
from taskalg.errors import MismatchError, UsageError, listed, quoted
from taskalg.machine import available_threads
from taskalg.output.layout import SHARD_SIZE
from taskalg.planning.combination import Combination
from taskalg.planning.mismatch import copies_differ
from taskalg.planning.plan import Plan
from taskalg.running.arena import Arena
from taskalg.running.blocks import Block, Piece, arena_size
from taskalg.running.crew import share
from taskalg.running.reading import Inputs, Stored
from taskalg.running.report import overflow_error
from taskalg.running.sinks import Sink

_COPY = 64 << 20  # bytes copied between two looks at whether to stop


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: int  # bytes read and written so far, downloaded, or factorized
    total: int  # bytes that will be
    # Or "downloading" and "measuring", which come first; or "factorizing", for adapters.
    doing: str = "merging"


@dataclass(frozen=True)
class Settings:
    """How to run, none of which changes a byte of a tensor."""

    threads: int | None = None  # None: the smaller of 8 and what this process may use
    fail_on_overflow: bool = True
    strict: bool = False  # integer tensors that differ are an error
    overwrite: bool = False
    shard_size: int = SHARD_SIZE  # [bytes]
    progress: Callable[[Progress], None] | None = None  # cancels by raising

    def __post_init__(self) -> None:
        """Refuse what would be no threads at all, which write nothing.

        Raises:
            UsageError: their number is not one.
        """
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise UsageError("threads is a number from 1 on, or None", note=f"found {self.threads}")


class Pass:
    """One run over the data: what its threads share. Close it, or use it as a context.

    Args:
        plan: what to evaluate.
        engine: does it.
        checkpoints: the plan's, on this machine.
        settings: how to run.

    Attributes:
        inputs: where data is read from.
        threads: how many share the memory of the blocks.
        tally: what the engine saw so far.
    """

    def __init__(
        self, plan: Plan, engine: Engine, checkpoints: Sequence[Checkpoint], settings: Settings
    ) -> None:
        self.plan, self.settings = plan, settings
        self.inputs = Inputs(checkpoints, engine)
        self.threads = settings.threads or available_threads()
        self._engine = engine
        self.tally = Tally()
        self.bytes_copied = self.bytes_written = 0
        self._evaluates = [_prepare(engine, combination) for combination in plan.combinations]
        self._lock = threading.Lock()
        self._arena_size = arena_size(plan, self.threads)
        self._overflowed: dict[str, None] = {}  # tensors, in order of discovery
        self._nonfinite: dict[str, None] = {}
        self._different: tuple[str, ...] = ()  # integer tensors
        self._skipped = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.inputs.close()

    def compare(self) -> None:
        """Compare what is to be equal, before anything is evaluated.

        Raises:
            MismatchError: copies of a tied weight differ; or integer tensors, and `strict` is set.
        """
        self._compare_copies()
        self._compare_integers()

    def stream(self, blocks: Iterator[Block], sink: Sink, *, skipped: int = 0) -> None:
        """Evaluate blocks, all or some of the plan's; report progress from this thread.

        Args:
            blocks: what to do, cut for this pass's threads.
            sink: takes the results.
            skipped: bytes of the output that are there already; progress begins with them.

        Raises:
            BaseException: whatever stopped a thread, or what `progress` raised to cancel.
        """
        self._skipped, self._stop = skipped, threading.Event()
        share(
            blocks,
            lambda: partial(self._do, sink, Arena(self._arena_size, self._engine)),
            self.threads,
            look=self._show_progress,
            stop=self._stop,
        )

    @property
    def bytes_read(self) -> int:
        """Bytes of tensors read so far, copies included."""
        return self.inputs.bytes_read + self.bytes_copied

    def notes(self) -> tuple[str, ...]:
        """Say what a user should know about the result."""
        found = (
            (f"integer tensors differ, those of {self._donor()} are taken: ", self._different),
            (f"not in every checkpoint, {self._without()}: ", self.plan.fit.unshared),
            (f"not in {self._donor()}, left out: ", self.plan.fit.dropped),
            ("results overflow in ", sorted(self._overflowed)),
            ("NaN or Inf in the inputs of ", sorted(self._nonfinite)),
        )
        return tuple(words + listed([quoted(n) for n in names]) for words, names in found if names)

    def _compare_copies(self) -> None:
        for copies in self.plan.aligned.copies:
            one, other = (Stored(copies.operand, spec) for spec in (copies.one, copies.other))
            if not self.inputs.equal(one, other):
                raise copies_differ(self.plan.aligned, copies)

    def _compare_integers(self) -> None:
        different: dict[str, None] = {}
        for comparison in self.plan.comparisons:
            donor = Stored(self.plan.donor, comparison.donor)
            if not self.inputs.equal(donor, Stored(comparison.operand, comparison.other)):
                different[comparison.name] = None
        self._different = tuple(different)
        if different and self.settings.strict:
            raise MismatchError(
                "integer tensors differ between the checkpoints",
                note=f"they are {listed([quoted(name) for name in different])}",
                help=f"without --strict those of {self._donor()} are taken",
            )

    def _without(self) -> str:
        vector = self.plan.kind is Kind.TASK_VECTOR
        return "left out" if vector else f"copied from {self._donor()}"

    def _donor(self) -> str:
        return self.plan.operands[self.plan.donor].called

    def _show_progress(self) -> None:
        if self.settings.progress is not None:
            total = self.plan.bytes_read + self.plan.bytes_written
            before = total * self._skipped // max(1, self.plan.bytes_written)
            done = before + self.bytes_read + self.bytes_written
            self.settings.progress(Progress(min(done, total), total))

    def _do(self, sink: Sink, arena: Arena, block: Block) -> None:
        combination = self.plan.combinations[block.combination]
        if combination.is_copy:
            self._copy(block, combination, sink)
        elif combination.is_zero:
            self._zero(block, sink)
        else:
            self._sum(block, combination, sink, arena)
        if not self._stop.is_set():  # a copy may have been cut short
            sink.finished(block.shard, block.offset, block.nbytes)

    def _sum(self, block: Block, combination: Combination, sink: Sink, arena: Arena) -> None:
        arena.clear()
        sources = []
        for operand, pieces in zip(combination.operands, block.sources, strict=True):
            source = self.inputs.in_place(operand, pieces)
            if source is None:
                source = arena.take(sum(piece.nbytes for piece in pieces))
                self.inputs.fill(operand, pieces, source)
            sources.append(source)
        result = arena.take(block.nbytes)
        tally = self._evaluates[block.combination](sources, result)
        if tally.overflowed or tally.nonfinite:
            self._blame(block, combination, sources)
        sink.write(block.shard, block.offset, result)
        with self._lock:
            self.tally += tally
            self.bytes_written += block.nbytes

    def _copy(self, block: Block, combination: Combination, sink: Sink) -> None:
        offset = block.offset
        for piece in block.sources[0]:
            for start in range(0, piece.nbytes, _COPY):
                if self._stop.is_set():
                    return
                count = min(_COPY, piece.nbytes - start)
                part = Piece(piece.shard, piece.offset + start, count)
                self.inputs.copy(combination.operands[0], part, sink, block.shard, offset)
                offset += count
        with self._lock:
            self.bytes_copied += block.nbytes
            self.bytes_written += block.nbytes

    def _zero(self, block: Block, sink: Sink) -> None:
        sink.zero(block.shard, block.offset, block.nbytes)
        with self._lock:
            self.bytes_written += block.nbytes

    def _blame(self, block: Block, combination: Combination, sources: Sequence[Bytes]) -> None:
        """Find which tensors of a block overflow or have NaN, by evaluating them one by one.

        Raises:
            OverflowingError: one overflows, and that is an error.
        """
        width, start = combination.output.itemsize, 0
        others = sum(step.nbytes for step in block.steps[1:])  # whole; the first may be a part
        for step in block.steps:
            end = start + (step.nbytes if start else block.nbytes - others) // width
            parts = [
                source[start * dtype.itemsize : end * dtype.itemsize]
                for source, dtype in zip(sources, combination.inputs, strict=True)
            ]
            scratch = np.empty((end - start) * width, np.uint8)
            tally = self._evaluates[block.combination](parts, scratch)
            with self._lock:
                self._overflowed |= {step.name: None} if tally.overflowed else {}
                self._nonfinite |= {step.name: None} if tally.nonfinite else {}
            if tally.overflowed and self.settings.fail_on_overflow:
                raise overflow_error(step.name, combination.output)
            start = end


def _prepare(engine: Engine, combination: Combination) -> Evaluate:
    if combination.is_copy or combination.is_zero:
        return _nothing
    evaluate = engine.prepare(combination.spec)
    nothing = np.empty(0, np.uint8)  # compiles or loads the kernel, once for all
    evaluate([nothing] * len(combination.inputs), nothing)
    return evaluate


def _nothing(inputs: Sequence[Bytes], output: Bytes) -> Tally:
    raise AssertionError("copied tensors never reach an engine")
