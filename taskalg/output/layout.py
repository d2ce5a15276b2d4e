"""Where every output tensor will lie: names, shapes and dtypes become shards with finished headers.

All of it is known before anything is computed, so the header is written first and tensors follow
in any order, from several threads. The bytes depend on the arguments alone, and are those the
safetensors library writes for tensors in the same order.

A writer that sorts by name, as the library does, would be simpler; the donor's order is kept
because a merge then reads its inputs from front to back.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from taskalg.dtypes import DType
from taskalg.errors import OutputError, quoted

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
SHARD_SIZE = 5_000_000_000  # bytes of data in a shard, the Hub's unit and usual choice
LARGEST_HEADER = 25_000_000  # bytes; above this the Hub's own reader gives up


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One tensor to be written: what it is, not yet where."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class ShardLayout:
    """One file to be written: everything about it but the tensors' bytes."""

    name: str  # its final name
    header: bytes  # complete: the length, the JSON, spaces up to a multiple of eight bytes
    tensors: tuple[OutputTensor, ...]  # in the order of their bytes
    offsets: tuple[int, ...]  # of each tensor's first byte, from the start of the file [bytes]
    size: int  # of the whole file [bytes]


def lay_out(
    tensors: Sequence[OutputTensor],
    *,
    task_vector: bool = False,
    shard_size: int = SHARD_SIZE,
    single_name: str = SINGLE_NAME,
) -> tuple[ShardLayout, ...]:
    """Divide tensors into shards and give each its place.

    Shards are filled in the caller's order. Inside a shard wider dtypes come first, otherwise in
    the caller's order, so that every tensor is aligned to its own elements.

    Args:
        tensors: what to write; names differ.
        task_vector: mark the files as a task vector, not a model.
        shard_size: data in one shard [bytes]; a larger tensor gets a shard of its own.
        single_name: the file's name when one shard is enough.

    Raises:
        OutputError: a header would be larger than readers accept.
    """
    groups = _divide(tensors, shard_size)
    count = len(groups)
    if count == 1:
        names = [single_name]
    else:
        names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    pairs = zip(names, groups, strict=True)
    return tuple(_shard(name, group, task_vector) for name, group in pairs)


def index_bytes(layouts: Sequence[ShardLayout]) -> bytes:
    """Return the index that tells a loader which shard holds which tensor."""
    homes = {}
    total = 0
    for layout in layouts:
        for tensor in layout.tensors:
            homes[tensor.name] = layout.name
            total += tensor.nbytes
    index = {"metadata": {"total_size": total}, "weight_map": homes}
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def _divide(tensors: Sequence[OutputTensor], shard_size: int) -> list[list[OutputTensor]]:
    groups: list[list[OutputTensor]] = [[]]
    room = shard_size
    for tensor in tensors:
        if tensor.nbytes > room and groups[-1]:
            groups.append([])
            room = shard_size
        groups[-1].append(tensor)
        room -= tensor.nbytes
    return groups


def _shard(name: str, group: list[OutputTensor], task_vector: bool) -> ShardLayout:
    tensors = sorted(group, key=lambda tensor: -tensor.dtype.itemsize)
    ends = list(accumulate((tensor.nbytes for tensor in tensors), initial=0))
    header = _header(tensors, ends, task_vector)
    if len(header) > LARGEST_HEADER:
        raise OutputError(
            f"{quoted(name)} would have a header of {len(header):,} bytes",
            note=f"it describes {len(tensors):,} tensors; readers accept {LARGEST_HEADER:,} bytes",
            help="write smaller shards, for example --shard-size 1GB",
        )
    offsets = tuple(len(header) + end for end in ends[:-1])
    return ShardLayout(name, header, tuple(tensors), offsets, len(header) + ends[-1])


def _header(tensors: Sequence[OutputTensor], ends: Sequence[int], task_vector: bool) -> bytes:
    metadata = {"format": "pt"}
    if task_vector:
        metadata["taskalg"] = "task-vector"
    entries: dict[str, object] = {"__metadata__": metadata}
    for tensor, start, end in zip(tensors, ends[:-1], ends[1:], strict=True):
        entries[tensor.name] = {
            "dtype": tensor.dtype.code,
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
