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

from taskalg.checkpoints.base import WHOLE_MODEL, Part, parts_of
from taskalg.dtypes import DType
from taskalg.errors import OutputError, quoted

SHARD_SIZE = 5_000_000_000  # bytes of data in a shard, the Hub's unit and usual choice
LARGEST_HEADER = 25_000_000  # bytes; above this the Hub's own reader gives up


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One tensor to be written: what it is, not yet where."""

    name: str  # in the donor; in its file without its part's prefix
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class ShardLayout:
    """One file to be written: everything about it but the tensors' bytes."""

    part: Part  # what it belongs to
    name: str  # its final path inside the output, parts joined by "/"
    header: bytes  # complete: the length, the JSON, spaces up to a multiple of eight bytes
    tensors: tuple[OutputTensor, ...]  # in the order of their bytes
    offsets: tuple[int, ...]  # of each tensor's first byte, from the start of the file [bytes]
    size: int  # of the whole file [bytes]


def lay_out(
    tensors: Sequence[OutputTensor],
    *,
    task_vector: bool = False,
    shard_size: int = SHARD_SIZE,
    parts: Sequence[Part] = (WHOLE_MODEL,),
) -> tuple[ShardLayout, ...]:
    """Divide tensors into shards and give each its place.

    Every part has shards of its own, in its sub-folder. They are filled in the caller's order.
    Inside a shard wider dtypes come first, otherwise in the caller's order, so that every tensor
    is aligned to its own elements.

    Args:
        tensors: what to write; names differ.
        task_vector: mark the files as a task vector, not a model.
        shard_size: data in one shard [bytes]; a larger tensor gets a shard of its own.
        parts: what the output consists of; a part without tensors gets a file all the same.

    Raises:
        OutputError: a header would be larger than readers accept.
    """
    by_part: dict[Part, list[OutputTensor]] = {part: [] for part in parts}
    for tensor, part in zip(tensors, parts_of((t.name for t in tensors), parts), strict=True):
        by_part[part].append(tensor)
    layouts: list[ShardLayout] = []
    for part, group in by_part.items():
        groups = _divide(group, shard_size) if part.may_shard else [group]
        names = [part.shard(i, len(groups)) for i in range(1, len(groups) + 1)]
        names = names if len(groups) > 1 else [part.single]
        pairs = zip(names, groups, strict=True)
        layouts += (_shard(part, name, group, task_vector) for name, group in pairs)
    return tuple(layouts)


def indexes(layouts: Sequence[ShardLayout]) -> dict[str, bytes]:
    """Return the index of every part with several shards, by its path inside the output.

    It tells a loader which shard holds which tensor.
    """
    by_part: dict[Part, list[ShardLayout]] = {}
    for layout in layouts:
        by_part.setdefault(layout.part, []).append(layout)
    return {part.index: _index(part, found) for part, found in by_part.items() if len(found) > 1}


def _index(part: Part, layouts: Sequence[ShardLayout]) -> bytes:
    start = len(part.prefix)
    homes = {}
    total = 0
    for layout in layouts:
        for tensor in layout.tensors:
            homes[tensor.name[start:]] = layout.name[start:]
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


def _shard(part: Part, name: str, group: list[OutputTensor], task_vector: bool) -> ShardLayout:
    tensors = sorted(group, key=lambda tensor: -tensor.dtype.itemsize)
    ends = list(accumulate((tensor.nbytes for tensor in tensors), initial=0))
    names = [tensor.name.removeprefix(part.prefix) for tensor in tensors]
    header = _header(names, tensors, ends, task_vector)
    if len(header) > LARGEST_HEADER:
        size = max(1, ends[-1] * LARGEST_HEADER // (2 * len(header)))  # half of it, to be sure
        raise OutputError(
            f"{quoted(name)} would have a header of {len(header):,} bytes",
            note=f"it describes {len(tensors):,} tensors; readers accept {LARGEST_HEADER:,} bytes",
            help=f"write smaller shards: --shard-size {size}B",
        )
    offsets = tuple(len(header) + end for end in ends[:-1])
    return ShardLayout(part, name, header, tuple(tensors), offsets, len(header) + ends[-1])


def _header(
    names: Sequence[str], tensors: Sequence[OutputTensor], ends: Sequence[int], task_vector: bool
) -> bytes:
    metadata = {"format": "pt"}
    if task_vector:
        metadata["taskalg"] = "task-vector"
    entries: dict[str, object] = {"__metadata__": metadata}
    for name, tensor, start, end in zip(names, tensors, ends[:-1], ends[1:], strict=True):
        entries[name] = {
            "dtype": tensor.dtype.code,
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
