"""Every byte of I/O the package does, and whose fault it is when that fails.

Reading blames the input (`CheckpointError`, exit 4), writing the output (`OutputError`, exit 5).
Short reads and writes are continued. A failed fsync is never tried again: the kernel has marked
the lost pages clean, so a second one would lie (Rebello et al. 2020, "Can Applications Recover
from fsync Failures?"). The calls themselves: system.py; how a failure is told: blame.py.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from taskalg import system
from taskalg.blame import called, names, reading, writing
from taskalg.errors import CheckpointError, OutputError, quoted
from taskalg.system import AnyPath, Buffer

COPY_BLOCK = 8 << 20  # bytes held while a copy goes through memory


@dataclass(frozen=True)
class Fingerprint:
    """What tells one state of a file from another without reading it."""

    size: int  # [bytes]
    mtime_ns: int
    device: int
    inode: int


def fingerprint(path: AnyPath | int) -> Fingerprint:
    """Return the fingerprint of a file, or of an open descriptor; a CheckpointError without one."""
    found = _look(path)
    return Fingerprint(found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino)


def identity(path: AnyPath | int) -> tuple[int, int]:
    """Return device and inode, after links: equal for two names of one file or folder."""
    found = _look(path)
    return found.st_dev, found.st_ino


def at_home(path: AnyPath) -> Path:
    """Spell out the `~` of a path; that of a user nobody knows is a name like any other."""
    return Path(os.path.expanduser(path))


def exists(path: AnyPath) -> bool:
    """Tell whether something is there, after links; a broken link is nothing."""
    return _mode(path) != 0


def is_file(path: AnyPath) -> bool:
    """Tell whether a regular file is there, after links."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: AnyPath) -> bool:
    """Tell whether a folder is there, after links."""
    return stat.S_ISDIR(_mode(path))


def is_link(path: AnyPath) -> bool:
    """Tell whether a symbolic link is there, whether or not it leads anywhere."""
    return stat.S_ISLNK(_mode(path, follow=False))


def list_folder(path: AnyPath) -> list[str]:
    """Return the sorted names in a folder."""
    with reading(path):
        return sorted(system.primitives.listdir(path))


def is_writable(folder: AnyPath) -> bool:
    """Tell whether this user may create files in a folder."""
    with writing("look at", folder):
        return system.primitives.access(folder, os.W_OK | os.X_OK)


def free_space(folder: AnyPath) -> int:
    """Return the bytes this user may still write below `folder`."""
    with writing("look for space in", folder):
        return system.primitives.free(folder)


def bytes_on_disk(path: AnyPath) -> int:
    """Return the bytes a file takes up, which are fewer than its size where it has holes."""
    with writing("look at", path):
        found = system.primitives.stat(path)
    return getattr(found, "st_blocks", -(-found.st_size // 512)) * 512


def open_input(path: AnyPath) -> int:
    """Open a regular file for reading; `close` gives it back. A pipe would wait forever.

    Raises:
        CheckpointError: it is missing, unreadable, or a folder, pipe, device or socket.
    """
    _refuse_special(path, _look(path).st_mode)
    with reading(path):
        fd = system.open_to_read(path)
    names[fd] = os.fspath(path)
    try:
        _refuse_special(path, _look(fd).st_mode)
    except CheckpointError:
        close(fd)
        raise
    return fd


def close(fd: int) -> None:
    """Close a descriptor that `open_input` or `create_output` returned."""
    with writing("close", names.pop(fd, f"descriptor {fd}")):
        system.primitives.close(fd)


def read_into(fd: int, buffers: Sequence[Buffer], offset: int) -> None:
    """Fill all buffers, one after the other, from `offset` on.

    Raises:
        CheckpointError: the file ends first, or a read fails.
    """
    views = [view for view in map(system.flat, buffers) if view.nbytes]
    while views:
        with reading(fd):
            count = system.read_some(fd, views, offset)
        if count == 0:
            raise CheckpointError(
                f"{quoted(called(fd))} ends too early, at byte {offset:,}",
                note="the file is shorter than its header says, or was cut while it was read",
                help="download or copy it again",
            )
        offset += count
        views = system.without(views, count)


def read_ranges(fd: int, ranges: Sequence[tuple[int, memoryview]]) -> None:
    """Fill each buffer from its own offset on, as `read_into` does, at the cost of the calls."""
    with reading(fd):
        counts = [system.read_some(fd, [view], offset) for offset, view in ranges]
    for (offset, view), count in zip(ranges, counts, strict=True):
        if count < view.nbytes:
            read_into(fd, [view[count:]], offset + count)


def read_small(path: AnyPath, limit: int) -> bytes:
    """Return a whole file of at most `limit` bytes; a CheckpointError if it is larger."""
    fd = open_input(path)
    try:
        content = bytearray(min(fingerprint(fd).size, limit + 1))
        if len(content) > limit:
            message = f"{quoted(os.fspath(path))} is too large for what its name says it is"
            raise CheckpointError(message, note=f"at most {limit:,} bytes are read")
        read_into(fd, [content], 0)
        return bytes(content)
    finally:
        close(fd)


def copy_range(source: int, start: int, target: int, to: int, count: int) -> None:
    """Copy `count` bytes from `start` in one file to `to` in another, in the kernel if it can."""
    done = 0
    while done < count:
        moved = system.copy_some(source, target, count - done, start + done, to + done)
        if moved == 0:
            break
        done += moved
    block = bytearray(min(COPY_BLOCK, count - done))
    while done < count:
        part = memoryview(block)[: count - done]
        read_into(source, [part], start + done)
        write_at(target, part, to + done)
        done += part.nbytes


def create_output(path: AnyPath, size: int) -> int:
    """Create a file that must not exist yet, `size` bytes long, its mode from the umask.

    Raises:
        OutputError: it cannot be created, or there is no space for it. Nothing is left behind.
    """
    with writing("create", path):
        fd = system.create(path)
        names[fd] = os.fspath(path)
        try:
            system.reserve(fd, size)
        except BaseException:
            with suppress(OSError, OutputError):
                close(fd)
                system.primitives.unlink(path)
            raise
    return fd


def open_output(path: AnyPath) -> int:
    """Open a file that `create_output` made and that was closed, to go on writing to it."""
    with writing("open", path):
        fd = system.open_to_write(path)
    names[fd] = os.fspath(path)
    return fd


def continue_output(path: AnyPath, keep: int, size: int) -> None:
    """Keep the first `keep` bytes of a file of an earlier run, and follow them with zeros."""
    fd = open_output(path)
    try:
        with writing("reserve", path):
            system.primitives.truncate(fd, keep)
            system.reserve(fd, size)
    finally:
        close(fd)


def open_lock(path: AnyPath) -> tuple[int, bool]:
    """Open a lock file, made if need be, and tell whether this process holds the lock now."""
    with writing("lock", path):
        fd, is_ours = system.open_lock(path)
    names[fd] = os.fspath(path)
    return fd, is_ours


def write_at(fd: int, buffer: Buffer, offset: int) -> None:
    """Write the whole buffer at `offset`."""
    view = system.flat(buffer)
    with writing("write", fd):
        while view.nbytes:
            count = system.write_some(fd, view, offset)
            offset += count
            view = view[count:]


def write_small(path: AnyPath, content: bytes) -> None:
    """Create a file that must not exist yet, with this content, and sync it."""
    fd = create_output(path, len(content))
    try:
        write_at(fd, content, 0)
        sync(fd)
    finally:
        close(fd)


def sync(fd: int) -> None:
    """Put a file's bytes on stable storage."""
    with writing("sync", fd):
        system.primitives.fsync(fd)


def sync_folder(path: AnyPath) -> None:
    """Put a folder's names on stable storage, where the system can do that to a folder."""
    with writing("sync", path):
        system.fsync_folder(path)


def rename(source: AnyPath, target: AnyPath) -> None:
    """Give a file its final name; a file that has the name already is replaced."""
    with writing("rename to", target):
        system.primitives.replace(source, target)


def remove(path: AnyPath) -> None:
    """Remove a file; that it is not there is no error."""
    with writing("remove", path), suppress(FileNotFoundError):
        system.primitives.unlink(path)


def make_folder(path: AnyPath) -> None:
    """Make a folder that must not exist yet."""
    with writing("make the folder", path):
        system.primitives.mkdir(path)


def remove_folder(path: AnyPath) -> None:
    """Remove an empty folder."""
    with writing("remove", path):
        system.primitives.rmdir(path)


def _look(path: AnyPath | int) -> os.stat_result:
    look = system.primitives
    with reading(path):
        return look.fstat(path) if isinstance(path, int) else look.stat(path)


def _mode(path: AnyPath, follow: bool = True) -> int:
    look = system.primitives.stat if follow else system.primitives.lstat
    try:
        with reading(path):
            return look(path).st_mode
    except CheckpointError as error:
        if getattr(error.__cause__, "errno", None) in system.FAULTS:
            raise  # nobody knows whether it is there
        return 0


def _refuse_special(path: AnyPath, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{quoted(os.fspath(path))} is a {system.kind(mode)}, not a file")
