"""Inner products of gradients with operands: what the derivatives of a weighted sum are made of.

For each tensor, `<gradient, x>` for every operand x at once: a piece of the gradient is decoded
into the cache and meets all operands there, so each byte is read once. Rejected: a product and a
sum for each operand, as autograd does it, which read the gradient again every time and write
temporaries of its size in between.

Everything is added in binary64 and in one order: lane by lane within a block, the lanes by a tree,
the blocks one after the other. Blocks are cut by elements alone, so the result is the same to the
bit however many threads there are.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from taskalg.engines.base import Group
from taskalg.engines.blocks import Inputs, fill, layout
from taskalg.engines.cache import compiled, inlined
from taskalg.engines.instructions import default_arithmetic, fma, set_arithmetic
from taskalg.machine import available_threads

# Sums that are kept side by side for each operand: a power of two. Those of eight operands, 16 kB,
# stay in the level-1 cache beside what is decoded.
LANES = 256
BLOCK = 65536  # elements of one tensor that one thread adds up; a multiple of LANES
_SHARES = 8  # parts of the work for each thread, so that none waits long for the others


@inlined
def _accumulate(
    lanes: NDArray[np.float64], gradient: NDArray[np.float64], x: NDArray[np.float64], size: int
) -> None:
    for index in range(size):
        lanes[index] = fma(gradient[index], x[index], lanes[index])


@inlined
def total(lanes: NDArray[np.float64]) -> float:
    """Add a power of two of numbers in a tree: halves to each other, lane by lane, down to one."""
    width = len(lanes) // 2
    while width:
        for index in range(width):
            lanes[index] += lanes[index + width]
        width //= 2
    return float(lanes[0])


@compiled
def products(
    inputs: Inputs,
    addresses: NDArray[np.int64],
    blocks: NDArray[np.int64],
    first: int,
    last: int,
    sums: NDArray[np.float64],
) -> None:
    """Compute the inner products of a range of blocks.

    Args:
        inputs: how to decode the operands, and then the gradient; their addresses are not used.
        addresses: `(tensors, terms + 1)`, of the first elements, the gradient's last.
        blocks: `(blocks, 3)`: a tensor, and from where to where in it [elements].
        first: number of the first block.
        last: number after that of the last.
        sums: `(blocks, terms)`, of which the rows of these blocks are filled.
    """
    before = default_arithmetic()
    terms = addresses.shape[1] - 1
    gradient, x, lanes = np.empty(LANES), np.empty(LANES), np.empty((terms, LANES))
    for block in range(first, last):
        tensor, start, stop = blocks[block]
        there = Inputs(
            addresses[tensor],
            inputs.itemsizes,
            inputs.shifts,
            inputs.masks,
            inputs.scales,
            inputs.limits,
        )
        lanes[:] = 0.0
        for place in range(start, stop, LANES):
            size = min(LANES, stop - place)
            fill(gradient, there, terms, place, size)
            for term in range(terms):
                fill(x, there, term, place, size)
                _accumulate(lanes[term], gradient, x, size)
        for term in range(terms):
            sums[block, term] = total(lanes[term])
    set_arithmetic(before)


def dots(group: Group, *, threads: int | None = None) -> NDArray[np.float64]:
    """Return the inner products of gradients with inputs, for all tensors of a group.

    Args:
        group: the tensors; at the outputs' places are gradients, of the dtype of the outputs. Rows
            do not matter.
        threads: by default the smaller of 8 and what this process may use.

    Returns:
        `(n, terms)`; what is NaN or infinite in a tensor makes its products so.
    """
    dtypes, threads = (*group.inputs, group.output), threads or available_threads()
    blocks = _cut(group.counts)
    sums = np.empty((len(blocks), len(group.inputs)))
    edges = np.linspace(0, len(blocks), _SHARES * threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        shares = [
            pool.submit(products, layout(dtypes), group.addresses, blocks, first, last, sums)
            for first, last in pairwise(edges)
            if first < last
        ]
        for share in shares:
            share.result()
    totals = np.zeros((len(group.counts), len(group.inputs)))
    np.add.at(totals, blocks[:, 0], sums)  # one row after the other, unlike a reduction
    return totals


def _cut(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut tensors into blocks: `(blocks, 3)`, a tensor and from where to where in it."""
    each = -(-counts // BLOCK)
    tensors = np.repeat(np.arange(len(counts)), each)
    firsts = np.cumsum(each) - each
    starts = (np.arange(len(tensors)) - firsts[tensors]) * BLOCK
    stops = np.minimum(starts + BLOCK, counts[tensors])
    return np.stack([tensors, starts, stops], axis=1)
