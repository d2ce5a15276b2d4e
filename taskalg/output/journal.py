"""The journal in an output's hidden folder: how far each shard is complete and synced.

A run that follows `kill -9` or a power loss goes on from there, if the journal is of the same plan
with the same inputs and the files are what it says. Nothing else is believed: a journal that is
damaged, or says what cannot be, is as good as none, and the run starts over.

A record is one line, sealed by a checksum and synced after the bytes it speaks of. So a crash
between the two loses progress, never correctness, and of a line that was being written at the crash
only the end can be missing: a last line that is not whole is ignored.
"""

import hashlib
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from taskalg import files
from taskalg.checkpoints.base import Checkpoint
from taskalg.errors import TaskalgError
from taskalg.output.layout import ShardLayout
from taskalg.output.moves import temporary

JOURNAL_NAME = "journal"
LARGEST_JOURNAL = 100_000_000  # bytes; a record of 40 bytes for each step of 256 MB: far below
_RECORD = re.compile(rb"(\d{1,9}) (\d{1,18})")


class Journal:
    """A journal that is written to: made new, with what is already known."""

    def __init__(self, hidden: Path, key: str, done: Sequence[int]) -> None:
        lines = [key, *(f"{shard} {end}" for shard, end in enumerate(done) if end)]
        content = b"".join(map(_sealed, lines))
        files.remove(hidden / JOURNAL_NAME)
        self._end = len(content)
        self._fd = files.create_output(hidden / JOURNAL_NAME, self._end)
        try:
            files.write_at(self._fd, content, 0)
            files.sync(self._fd)
            files.sync_folder(hidden)  # the names of the files it speaks of
        except BaseException:
            files.close(self._fd)
            raise

    def append(self, shard: int, done: int) -> None:
        """Record that the first `done` bytes of a shard are complete and synced."""
        line = _sealed(f"{shard} {done}")
        files.write_at(self._fd, line, self._end)
        files.sync(self._fd)
        self._end += len(line)

    def close(self) -> None:
        """Close the file; it stays where it is."""
        files.close(self._fd)


def digest(key: str, layouts: Sequence[ShardLayout], inputs: Sequence[Checkpoint]) -> str:
    """Return what two runs have in common only if they write the same bytes; "" if unknown.

    Args:
        key: the caller's, of everything that decides the bytes but the arguments below.
        layouts: the files to be written.
        inputs: checkpoints by the state of their files. Arrays in memory have none to compare.
    """
    if not key or any(checkpoint.arrays for checkpoint in inputs):
        return ""
    found = hashlib.sha256(key.encode())
    for layout in layouts:
        found.update(repr((layout.name, layout.size, layout.header)).encode())
    for checkpoint in inputs:
        found.update(repr([shard.fingerprint for shard in checkpoint.shards]).encode())
    return found.hexdigest()


def resumable(hidden: Path, key: str, layouts: Sequence[ShardLayout]) -> tuple[int, ...]:
    """Return how many bytes of each shard need not be written again; zeros to start over."""
    nothing = (0,) * len(layouts)
    path = hidden / JOURNAL_NAME
    if not key or files.is_link(path) or not files.is_file(path):
        return nothing
    try:
        done = _parse(files.read_small(path, LARGEST_JOURNAL), key, layouts)
        fits = all(
            _fits(hidden / temporary(shard), layout, done[shard])
            for shard, layout in enumerate(layouts)
            if done[shard]
        )
    except (ValueError, TaskalgError):
        return nothing
    return done if fits else nothing


def _parse(content: bytes, key: str, layouts: Sequence[ShardLayout]) -> tuple[int, ...]:
    """Return what is done, or raise ValueError at what this package did not write for this key."""
    *lines, _ = content.split(b"\n")
    while lines and _opened(lines[-1]) is None:
        lines.pop()  # torn; should lines before it be damaged as well, less is believed
    if not lines or _opened(lines[0]) != key.encode():
        raise ValueError("another run's")
    done = [0] * len(layouts)
    for line in lines[1:]:
        record = _RECORD.fullmatch(_opened(line) or b"")
        if record is None:
            raise ValueError("damaged")
        shard, end = int(record[1]), int(record[2])
        if shard >= len(done) or not done[shard] < end <= layouts[shard].size:
            raise ValueError("impossible")
        done[shard] = end
    return tuple(done)


def _fits(path: Path, layout: ShardLayout, done: int) -> bool:
    """Tell whether a temporary file is there, holds what is done, and begins as it should."""
    if files.is_link(path) or not files.is_file(path):
        return False
    if not done <= files.fingerprint(path).size <= layout.size:
        return False
    header = bytearray(len(layout.header))
    fd = files.open_input(path)
    try:
        files.read_into(fd, [header], 0)
    finally:
        files.close(fd)
    return header == layout.header


def _sealed(text: str) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text.encode()), text.encode())


def _opened(line: bytes) -> bytes | None:
    """Return what a line says; None if its checksum does not agree."""
    text = line[9:]
    return text if line[:9] == b"%08x " % zlib.crc32(text) else None
