"""Inner products of many sums, in one pass over the files: a plan with a symbol for each sum in.

The sums are measured together: `#0*x + #1*y + ...` is planned like any other sum, so checkpoints
are resolved, names aligned and each byte read once as for a merge. Sum k is what is left where #k
is 1 and the other symbols are 0.

A product depends on its two sums alone, to the bit: not on what is measured beside them, how they
were written, threads or blocks. Each element of a sum is its exact value, rounded once to binary64.
engines/gram.py defines the product on a piece of a tensor; a tensor's is the sum of its pieces',
and the whole one that of the tensors', each exact but for one rounding to binary64 (`math.fsum`),
so that no order shows. A tensor with an element that is not finite, or with a product that is too
large, has products that are NaN.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Self

import numpy as np

from taskalg.dtypes import F64
from taskalg.engines.base import Bytes
from taskalg.engines.gram import PIECE
from taskalg.engines.registry import get_engine
from taskalg.machine import available_threads
from taskalg.measuring.adding import Counts, Matrix, Products, Tensor
from taskalg.measuring.forming import Program, form, takes_part
from taskalg.planning.mismatch import copies_differ
from taskalg.planning.plan import Plan, Step
from taskalg.running.arena import Arena
from taskalg.running.blocks import Block, Piece, cut_at
from taskalg.running.crew import share
from taskalg.running.execute import fetched_inputs
from taskalg.running.reading import Inputs, Stored
from taskalg.running.stream import Progress, Settings


def _bytes(plan: Plan) -> int:
    """Return the bytes of tensors that `products` reads for a plan; headers are left out."""
    sources = sum(spec.bytes_stored for step in _measured(plan) for spec in step.sources)
    return sources + sum(one.one.nbytes + one.other.nbytes for one in plan.aligned.copies)


def products(
    plan: Plan, symbols: Sequence[str], settings: Settings, *, signs: bool = False
) -> Products:
    """Measure the sums of a plan in one pass over its files.

    Args:
        plan: of sums side by side, each times its symbol (`plan_together`).
        symbols: one for each sum.
        settings: how to run; `threads` and `progress` matter.
        signs: whether signs are compared, too.

    Raises:
        CheckpointError: an input cannot be read or downloaded, or changed meanwhile.
        MismatchError: copies of a tied weight differ.
        BaseException: what `progress` raised to cancel.

    Memory: 128 MB of buffers at most, and `8 * n * n` bytes for each tensor.
    """
    with _Measuring(plan, symbols, settings, signs=signs) as run:
        start = time.perf_counter()
        run.compare()
        run.stream()
        return run.found(time.perf_counter() - start)


def _measured(plan: Plan) -> list[Step]:
    """Return the steps whose tensors are measured; the others are copied in a merge."""
    taking_part = [takes_part(combination) for combination in plan.combinations]
    return [step for step in plan.steps if taking_part[step.combination]]


class _Measuring:
    """One pass over the data: what its threads share."""

    def __init__(
        self, plan: Plan, symbols: Sequence[str], settings: Settings, *, signs: bool
    ) -> None:
        self._plan, self._settings, self._signs = plan, settings, signs
        self._steps, self._threads = _measured(plan), settings.threads or available_threads()
        self._engine = get_engine("auto")
        self.inputs = Inputs(fetched_inputs(plan, settings), self._engine)
        self._programs = {
            index: form(combination, symbols, self._engine)
            for index, combination in enumerate(plan.combinations)
            if takes_part(combination)
        }
        shape = (len(self._steps), len(symbols), len(symbols))
        self._grams, self._counts = np.zeros(shape), np.zeros((2 * signs, *shape), np.int64)
        self._index = {step.name: index for index, step in enumerate(self._steps)}
        self._tensors = [Tensor(step.nbytes // F64.itemsize) for step in self._steps]
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.inputs.close()

    def compare(self) -> None:
        """Compare copies of tied weights, of which one is measured."""
        for copies in self._plan.aligned.copies:
            one, other = (Stored(copies.operand, spec) for spec in (copies.one, copies.other))
            if not self.inputs.equal(one, other):
                raise copies_differ(self._plan.aligned, copies)

    def stream(self) -> None:
        """Measure all blocks; report progress from this thread."""
        sizes = [PIECE] * len(self._plan.combinations)
        for index, program in self._programs.items():
            sizes[index] = program.block(self._threads)
        used = [step for step in self._steps if step.sources]
        share(
            cut_at(self._plan, used, sizes),
            self._worker,
            self._threads,
            look=self._show_progress,
            stop=threading.Event(),
        )

    def found(self, seconds: float) -> Products:
        """Return what was measured."""
        agreeing, both = self._counts if self._signs else (None, None)
        return Products(
            tensors=tuple(self._index),
            grams=self._grams,
            elements=np.array([tensor.elements for tensor in self._tensors], np.int64),
            agreeing=agreeing,
            both=both,
            bytes_read=self.inputs.bytes_read,
            seconds=seconds,
        )

    def _show_progress(self) -> None:
        if self._settings.progress is not None:
            total = _bytes(self._plan)
            self._settings.progress(Progress(self.inputs.bytes_read, total, "measuring"))

    def _worker(self) -> Callable[[Block], None]:
        room = [program.room(self._threads) for program in self._programs.values()]
        return partial(self._measure, Arena(max(room, default=0), self._engine))

    def _measure(self, arena: Arena, block: Block) -> None:
        program = self._programs[block.combination]
        arena.clear()
        sources = [
            self._source(operand, pieces, arena)
            for operand, pieces in zip(
                self._plan.combinations[block.combination].operands, block.sources, strict=True
            )
        ]
        parts = list(_parts(block))
        pieces = [piece for _, some in parts for piece in some]
        products, counts = program.run(
            sources, np.array(pieces, np.int64), arena, signs=self._signs
        )
        with self._lock:
            first = 0
            for step, some in parts:
                last = first + len(some)
                elements = some[-1][1] - some[0][0]
                self._take(step, program, products[first:last], counts[first:last], elements)
                first = last

    def _source(self, operand: int, pieces: Sequence[Piece], arena: Arena) -> Bytes:
        there = self.inputs.in_place(operand, pieces)
        if there is not None:
            return there
        source = arena.take(sum(piece.nbytes for piece in pieces))
        self.inputs.fill(operand, pieces, source)
        return source

    def _take(
        self, step: Step, program: Program, products: Matrix, counts: Counts, elements: int
    ) -> None:
        """Take the products of a part of a tensor."""
        index = self._index[step.name]
        done = self._tensors[index].take(products, counts, elements)
        if done is None:
            return
        where = np.ix_(program.symbols, program.symbols)
        self._grams[index][where] = done[0]
        for found, count in zip(self._counts, done[1], strict=self._signs):
            found[index][where] = np.triu(count) + np.triu(count, 1).T


def _parts(block: Block) -> Iterator[tuple[Step, list[tuple[int, int]]]]:
    """Yield the tensors of a block and their pieces in it, from where to where [elements].

    A part of a tensor is alone in its block, and begins at one of the tensor's pieces.
    """
    others = sum(step.nbytes for step in block.steps[1:])
    start = 0
    for step in block.steps:
        nbytes = step.nbytes if start else block.nbytes - others
        end = start + nbytes // F64.itemsize
        starts = range(start, end, PIECE)
        yield step, [(place, min(place + PIECE, end)) for place in starts]
        start = end
