"""A plan's steps, cut and joined into blocks: the units of work that threads take.

A large tensor is cut, so that memory does not grow with it; small neighbors with the same
combination are joined, so that 18,000 norms cost no more than their bytes. Blocks come in the order
of the output file, which is the donor's order, so disks see mostly sequential reads.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from taskalg.checkpoints.base import LowRank, TensorSpec
from taskalg.dtypes import F64
from taskalg.output.layout import ShardLayout
from taskalg.planning.combination import Combination
from taskalg.planning.plan import Plan, Step

MEMORY = 128_000_000  # bytes of all buffers together, whatever the threads and terms
# Bytes of one thread's buffers. Large enough that Python's share of a block (about 60 us) is small
# beside it, small enough for the second and third level cache: on two cores of an EPYC 9004 with
# five bf16 inputs, 1.5 to 6 MB differed by less than the noise; 0.4 MB cost 25 % and 24 MB 15 %.
TARGET = 3_000_000
ALIGNMENT = 64  # bytes; one cache line, and the widest vector load
_GRAIN = 512  # elements; cut at multiples of what an engine looks at together


@dataclass(slots=True)
class Piece:
    """Bytes of one input that lie together in its file, or its product, and in the block."""

    shard: int  # index into the checkpoint's shards, or its arrays
    offset: int  # in that file, array or product [bytes]
    nbytes: int
    product: TensorSpec | None = None  # whose elements are computed; None for stored bytes
    parts: int = 1  # how many pieces of that will be computed


@dataclass(slots=True)
class Block:
    """One range of one output file, all with one combination."""

    shard: int  # index of the output file
    offset: int  # in that file [bytes]
    combination: int  # index into the plan's combinations
    nbytes: int = 0  # of the output
    steps: list[Step] = field(default_factory=list)  # the tensors it holds, whole or a part of one
    sources: list[list[Piece]] = field(default_factory=list)  # for each operand, in buffer order


def block_elements(combination: Combination, threads: int) -> int:
    """Return how many elements a block may have so that all buffers share the memory."""
    width = sum(dtype.itemsize for dtype in combination.inputs) + combination.output.itemsize
    elements = min(TARGET, MEMORY // threads) // width
    return max(1, elements // _GRAIN * _GRAIN or elements)


def arena_size(plan: Plan, threads: int) -> int:
    """Return the bytes of one thread's buffers, enough for every block of the plan."""
    sizes = [
        block_elements(c, threads) * (sum(d.itemsize for d in c.inputs) + c.output.itemsize)
        + ALIGNMENT * (len(c.inputs) + 2)
        for c in plan.combinations
        if not c.is_copy
    ]
    return max(sizes, default=0)


def factors_size(plan: Plan, threads: int) -> int:
    """Return the most bytes of decoded factors at once: of a tensor a thread, and of one between.

    While a thread decodes and packs those of one checkpoint, it has two more copies of them.
    """
    kept = packed = 0
    for step in plan.steps:
        sizes = [_factors_size(source.factors) for source in step.sources if source.factors]
        kept, packed = max(kept, sum(sizes)), max(packed, *sizes, 0)
    return (threads + 1) * kept + 2 * threads * packed


def _factors_size(factors: LowRank) -> int:
    parts = (factors.a, factors.b)
    return F64.itemsize * sum(math.prod(part.shape) for part in parts if part is not None)


def cut(
    plan: Plan, layouts: Sequence[ShardLayout], threads: int, done: Sequence[int] = ()
) -> Iterator[Block]:
    """Yield every block of a plan, in the order of the output; those of zeros have no sources.

    Args:
        plan: what to cut.
        layouts: the output's files.
        threads: how many share the memory.
        done: for each file, the bytes from its start that need not be written again.
    """
    limits = [block_elements(combination, threads) for combination in plan.combinations]
    steps: dict[str, list[Step]] = {}
    for step in plan.steps:
        steps.setdefault(step.name, []).append(step)
    for shard, layout in enumerate(layouts):
        first = done[shard] if done else 0
        placed = (
            (step, start + step.first)
            for tensor, start in zip(layout.tensors, layout.offsets, strict=True)
            for step in steps[tensor.name]
        )
        blocks = _cut_shard(plan, placed, shard, limits, first)
        yield from (block for block in blocks if block.offset + block.nbytes > first)


def cut_steps(plan: Plan, steps: Sequence[Step], threads: int) -> Iterator[Block]:
    """Yield the blocks of some of a plan's steps, whose outputs follow each other from 0 on."""
    limits = [block_elements(combination, threads) for combination in plan.combinations]
    return cut_at(plan, steps, limits)


def cut_at(plan: Plan, steps: Sequence[Step], limits: Sequence[int]) -> Iterator[Block]:
    """Yield the same in blocks of at most so many elements, a number for each combination.

    A tensor that has more is cut at their multiples.
    """
    starts = accumulate((step.nbytes for step in steps), initial=0)
    return _cut_shard(plan, zip(steps, starts, strict=False), 0, limits, 0)


def _cut_shard(
    plan: Plan,
    placed: Iterable[tuple[Step, int]],
    shard: int,
    limits: Sequence[int],
    first: int,
) -> Iterator[Block]:
    """Yield the blocks of steps that each have their place in one file [bytes]."""
    block: Block | None = None
    for step, offset in placed:
        combination = plan.combinations[step.combination]
        if step.nbytes == 0:
            continue
        limit = limits[step.combination] * combination.output.itemsize
        if block is not None and _fits(block, step, offset, limit):
            _extend(block, step, combination, range(step.nbytes))
            continue
        if block is not None:
            yield block
        *whole, block = _blocks(step, combination, shard, offset, limit, first)
        yield from whole
    if block is not None:
        yield block


def _blocks(
    step: Step, combination: Combination, shard: int, offset: int, limit: int, first: int
) -> Iterator[Block]:
    """Yield a step alone: one block, or several if it is large; those before `first` are there."""
    starts = range(0, step.nbytes, limit)
    parts = 1 + sum(offset + start > first for start in starts[1:])
    for start in starts:
        block = Block(shard, offset + start, step.combination)
        block.sources = [[] for _ in step.sources]
        part = range(start, min(start + limit, step.nbytes))
        _extend(block, step, combination, part, parts)
        yield block


def _fits(block: Block, step: Step, offset: int, limit: int) -> bool:
    return (
        block.combination == step.combination
        and block.offset + block.nbytes == offset
        and block.nbytes + step.nbytes <= limit
    )


def _extend(
    block: Block, step: Step, combination: Combination, part: range, parts: int = 1
) -> None:
    """Add a part of a step's output [bytes], one of `parts`, to the block's end."""
    block.steps.append(step)
    block.nbytes += len(part)
    width = combination.output.itemsize
    for pieces, source in zip(block.sources, step.sources, strict=True):
        size = source.dtype.itemsize
        offset = source.offset + part.start // width * size
        nbytes = len(part) // width * size
        if source.factors is not None:
            pieces.append(Piece(source.shard, offset, nbytes, source, parts))
        elif pieces and _continues(pieces[-1], source.shard, offset):
            pieces[-1].nbytes += nbytes
        else:
            pieces.append(Piece(source.shard, offset, nbytes))


def _continues(last: Piece, shard: int, offset: int) -> bool:
    return last.product is None and last.shard == shard and last.offset + last.nbytes == offset
