"""What an opened checkpoint is: every tensor's place, found by reading headers only.

Nothing here holds a file open or a tensor in memory. A tensor's bytes are the range `offset` to
`offset + nbytes` of one shard, row-major and little-endian, whatever the format around them; the
offset need not be aligned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from taskalg import files
from taskalg.dtypes import DType
from taskalg.errors import CheckpointError, quoted
from taskalg.files import Fingerprint


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a checkpoint: what it is and where its bytes lie."""

    name: str  # untrusted text: quoted in messages, never a path
    dtype: DType
    shape: tuple[int, ...]
    shard: int  # index into the checkpoint's shards
    offset: int  # of its first byte, from the start of the file [bytes]
    nbytes: int


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint, and the state it was in when its header was read."""

    path: Path
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors on disk: one file, or a folder of shards."""

    path: str  # as the user gave it
    folder: Path | None  # where side files are; None for a bare file, which has none
    shards: tuple[Shard, ...]
    tensors: Mapping[str, TensorSpec]  # by name, in file order: by shard, then by offset
    is_task_vector: bool  # the files say so; whether its numbers are small is not looked at

    @property
    def identity(self) -> frozenset[tuple[int, int]]:
        """Devices and inodes of the shards: equal for two paths to the same checkpoint."""
        marks = (shard.fingerprint for shard in self.shards)
        return frozenset((mark.device, mark.inode) for mark in marks)

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data, headers left out."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def open_shard(shard: Shard) -> int:
    """Open a shard for reading with `files.read_into`; `files.close` gives it back.

    Raises:
        CheckpointError: it cannot be read, or is not the file whose header was read.
    """
    fd = files.open_input(shard.path)
    try:
        _compare(shard, files.fingerprint(fd))
    except CheckpointError:
        files.close(fd)
        raise
    return fd


def check_unchanged(checkpoint: Checkpoint) -> None:
    """Compare each shard with its state when the checkpoint was opened. Reads no data.

    Raises:
        CheckpointError: a shard changed since, or is gone.
    """
    for shard in checkpoint.shards:
        _compare(shard, files.fingerprint(shard.path))


def _compare(shard: Shard, now: Fingerprint) -> None:
    if now != shard.fingerprint:
        raise CheckpointError(
            f"{quoted(str(shard.path))} changed while it was read",
            note=_difference(shard.fingerprint, now),
            help="run the command again once nothing writes to it",
        )


def _difference(before: Fingerprint, now: Fingerprint) -> str:
    if before.size != now.size:
        return f"it had {before.size:,} bytes and now has {now.size:,}"
    if (before.device, before.inode) != (now.device, now.inode):
        return "another file has its name now"
    return "its modification time is another now"
