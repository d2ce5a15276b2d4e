"""One safetensors file: its header becomes a shard, its tensors' places and its metadata."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from taskalg import files
from taskalg.checkpoints.base import Checkpoint, Shard, TensorSpec
from taskalg.checkpoints.header import parse_header
from taskalg.checkpoints.hub.paths import cached_sha256
from taskalg.checkpoints.quantized import refuse_quantized
from taskalg.checkpoints.unsupported import refuse_content, refuse_factors
from taskalg.errors import CheckpointError, quoted

LARGEST_HEADER = 100_000_000  # bytes; the reference reader's limit


@dataclass(frozen=True)
class ShardHeader:
    """What one file says about itself."""

    shard: Shard
    tensors: tuple[TensorSpec, ...]  # in the order of their bytes
    is_task_vector: bool
    notes: tuple[str, ...] = ()  # what a user should know about it, a sentence each


def read_header(path: Path, shard: int = 0) -> ShardHeader:
    """Read and check the header of one file; `shard` is the index its specs get.

    Raises:
        CheckpointError: it is no safetensors file, or breaks a rule of the format.
    """
    fd = files.open_input(path)
    try:
        mark = files.fingerprint(fd)
        content = _content(fd, mark.size, path)
    finally:
        files.close(fd)
    specs, metadata = parse_header(
        content, mark.size - 8 - len(content), path=str(path), shard=shard
    )
    is_task_vector = metadata.get("taskalg") == "task-vector"
    digest = hashlib.sha256(content).hexdigest()
    found = Shard(path, mark, header_hash=digest, sha256=cached_sha256(path))
    return ShardHeader(found, tuple(specs), is_task_vector)


def open_file(path: str) -> Checkpoint:
    """Open one safetensors file as a checkpoint.

    Raises:
        CheckpointError: it cannot be read, is damaged, or holds quantized tensors.
    """
    header = read_header(Path(path))
    tensors = {spec.name: spec for spec in header.tensors}
    refuse_quantized(tensors, path)
    refuse_factors(tensors, path)
    return Checkpoint(path, None, (header.shard,), tensors, header.is_task_vector)


def _content(fd: int, size: int, path: Path) -> bytes:
    start = bytearray(min(size, 64))
    files.read_into(fd, [start], 0)
    length = int.from_bytes(start[:8], "little")
    if size < 8 or length > size - 8 or length > LARGEST_HEADER:
        refuse_content(bytes(start), str(path))
    if size < 8:
        raise CheckpointError(
            f"{quoted(str(path))} is no safetensors file: it has {size} bytes",
            note="the length of its header alone takes eight",
        )
    if length > size - 8:
        raise CheckpointError(
            f"{quoted(str(path))} is no safetensors file, or is cut short",
            note=f"its first bytes announce a header of {length:,} bytes; {size - 8:,} follow",
        )
    if length > LARGEST_HEADER:
        raise CheckpointError(
            f"{quoted(str(path))} has a header of {length:,} bytes",
            note=f"no reader accepts more than {LARGEST_HEADER:,}",
        )
    content = bytearray(length)
    files.read_into(fd, [content], 8)
    return bytes(content)
