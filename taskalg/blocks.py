"""A plan's steps, cut and joined into blocks: the units of work that threads take.

A large tensor is cut, so that memory does not grow with it; small neighbors with the same
combination are joined, so that 18,000 norms cost no more than their bytes. Blocks come in the order
of the output file, which is the donor's order, so disks see mostly sequential reads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from taskalg.checkpoints.base import TensorSpec
from taskalg.output.layout import ShardLayout
from taskalg.plan import Combination, Plan, Step

MEMORY = 128_000_000  # bytes of all buffers together, whatever the threads and terms
# Bytes of one thread's buffers. Large enough that Python's share of a block (about 60 us) is small
# beside it, small enough for the second and third level cache: on two cores of an EPYC 9004 with
# five bf16 inputs, 1.5 to 6 MB differed by less than the noise; 0.4 MB cost 25 % and 24 MB 15 %.
TARGET = 3_000_000
ALIGNMENT = 64  # bytes; one cache line, and the widest vector load
_GRAIN = 512  # elements; cut at multiples of what an engine looks at together


@dataclass(slots=True)
class Piece:
    """Bytes of one input that lie together in its file and in the block."""

    shard: int  # index into the checkpoint's shards
    offset: int  # in that file [bytes]
    nbytes: int


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


def cut(plan: Plan, layouts: Sequence[ShardLayout], threads: int) -> Iterator[Block]:
    """Yield every block of a plan, in the order of the output.

    Tensors that are all zeros have no blocks: a new file holds zeros already.
    """
    limits = [block_elements(combination, threads) for combination in plan.combinations]
    steps = {step.name: step for step in plan.steps}
    for shard, layout in enumerate(layouts):
        yield from _cut_shard(plan, steps, layout, shard, limits)


def _cut_shard(
    plan: Plan, steps: Mapping[str, Step], layout: ShardLayout, shard: int, limits: Sequence[int]
) -> Iterator[Block]:
    block: Block | None = None
    for tensor, offset in zip(layout.tensors, layout.offsets, strict=True):
        step = steps[tensor.name]
        combination = plan.combinations[step.combination]
        if combination.is_zero or step.nbytes == 0:
            continue
        limit = limits[step.combination] * combination.output.itemsize
        if block is not None and _fits(block, step, offset, limit):
            _extend(block, step, combination, 0, step.nbytes)
            continue
        if block is not None:
            yield block
        block = None
        for start in range(0, step.nbytes, limit):
            if block is not None:
                yield block
            block = Block(shard, offset + start, step.combination)
            block.sources = [[] for _ in step.sources]
            _extend(block, step, combination, start, min(limit, step.nbytes - start))
    if block is not None:
        yield block


def _fits(block: Block, step: Step, offset: int, limit: int) -> bool:
    return (
        block.combination == step.combination
        and block.offset + block.nbytes == offset
        and block.nbytes + step.nbytes <= limit
    )


def _extend(block: Block, step: Step, combination: Combination, start: int, count: int) -> None:
    """Add `count` bytes of a step's output, from byte `start` on, to the block's end."""
    block.steps.append(step)
    block.nbytes += count
    width = combination.output.itemsize
    for pieces, source in zip(block.sources, step.sources, strict=True):
        _add(pieces, source, start // width, count // width)


def _add(pieces: list[Piece], source: TensorSpec, first: int, elements: int) -> None:
    size = source.dtype.itemsize
    offset, nbytes = source.offset + first * size, elements * size
    if pieces:
        last = pieces[-1]
        if last.shard == source.shard and last.offset + last.nbytes == offset:
            last.nbytes += nbytes
            return
    pieces.append(Piece(source.shard, offset, nbytes))
