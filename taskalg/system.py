"""The operating system's calls that touch files, and the way around each that is missing.

Every one goes through `primitives`, a table of plain functions. A field that is None is a call
this platform lacks, and the code beside its use is the way around: `preadv` becomes `pread`, then
a locked seek and read; `pwrite` a locked seek and write; `posix_fallocate` becomes `ftruncate`;
`copy_file_range` becomes read and write. A test replaces the table to force a fallback, or to fail
the k-th call. Python itself repeats a call that a signal interrupts (PEP 475).

Functions here raise `OSError`; files.py says whose fault it is.
"""

import errno
import io
import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

AnyPath: TypeAlias = str | os.PathLike[str]
OnPath: TypeAlias = Callable[[AnyPath], None]
OnFile: TypeAlias = Callable[[int], None]
OnView: TypeAlias = Callable[[int, memoryview], int]  # of a file: returns the bytes moved
OnViewAt: TypeAlias = Callable[[int, memoryview, int], int]  # the same, at an offset
OnViews: TypeAlias = Callable[[int, Sequence[memoryview], int], int]
Buffer: TypeAlias = "bytes | bytearray | memoryview | NDArray[Any]"

LARGEST_CALL = 0x7FFFF000  # Linux moves at most this many bytes in one call; macOS refuses more
MOST_BUFFERS = 1024  # IOV_MAX on Linux and macOS
READ_BLOCK = 8 << 20  # bytes in one call where a read has to be copied, so that the copy is small
RESERVE_BLOCK = 64 << 20  # bytes reserved in one call, and timed
AHEAD_BLOCK = 16 << 20  # bytes; 4 ms on tmpfs, so that stopping takes no longer
RESERVE_SECONDS = 0.004  # a call slower than this allocates pages, not metadata: see `reserve`
NOT_POSSIBLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)  # by another process
FAULTS = (errno.EIO, getattr(errno, "ESTALE", errno.EIO))  # of the disk, or of the way to it
REMOVES_OPEN_FILES = sys.platform != "win32"

_INPUT = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_OUTPUT = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def _readinto(fd: int, buffer: memoryview) -> int:
    return io.FileIO(fd, closefd=False).readinto(buffer) or 0


if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        os.lseek(fd, 1 << 30, os.SEEK_SET)  # beyond the content, which others may read
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _free(path: AnyPath) -> int:
    return shutil.disk_usage(path).free


@dataclass(frozen=True)
class Primitives:
    """The system calls used here; None where the platform has no such call."""

    open: Callable[..., int] = os.open
    close: OnFile = os.close
    stat: Callable[[AnyPath], os.stat_result] = os.stat
    lstat: Callable[[AnyPath], os.stat_result] = os.lstat
    fstat: Callable[[int], os.stat_result] = os.fstat
    access: Callable[[AnyPath, int], bool] = os.access
    listdir: Callable[[AnyPath], list[str]] = os.listdir
    free: Callable[[AnyPath], int] = _free
    seek: Callable[[int, int, int], int] = os.lseek
    readinto: OnView = _readinto
    write: OnView = os.write
    pread: Callable[[int, int, int], bytes] | None = None
    preadv: OnViews | None = None
    pwrite: OnViewAt | None = None
    copy_file_range: Callable[..., int] | None = None
    fallocate: Callable[[int, int, int], None] | None = None
    fsync_folder: OnFile | None = None
    truncate: Callable[[int, int], None] = os.ftruncate
    fsync: OnFile = os.fsync
    lock: OnFile = _lock
    replace: Callable[[AnyPath, AnyPath], None] = os.replace
    unlink: OnPath = os.unlink
    mkdir: OnPath = os.mkdir
    rmdir: OnPath = os.rmdir


primitives = Primitives(
    pread=getattr(os, "pread", None),
    preadv=getattr(os, "preadv", None),
    pwrite=getattr(os, "pwrite", None),
    copy_file_range=getattr(os, "copy_file_range", None),
    fallocate=getattr(os, "posix_fallocate", None),
    fsync_folder=None if os.name == "nt" else os.fsync,
)
_seek_lock = threading.Lock()  # a descriptor has one position; between seek and read it is ours


def open_to_read(path: AnyPath) -> int:
    """Open a file; O_NONBLOCK so that a pipe that took the file's place cannot hold us up."""
    return primitives.open(path, _INPUT)


def create(path: AnyPath) -> int:
    """Create a file that must not exist; its mode follows the umask."""
    return primitives.open(path, _OUTPUT, 0o666)


def open_to_write(path: AnyPath) -> int:
    """Open a file that `create` made, to go on writing to it; a link that took its place fails."""
    no_link = getattr(os, "O_NOFOLLOW", 0)
    return primitives.open(path, _OUTPUT & ~(os.O_CREAT | os.O_EXCL) | no_link)


def open_lock(path: AnyPath) -> tuple[int, bool]:
    """Open a lock file, creating it if need be, and tell whether this process holds it now.

    The kernel keeps the lock until the descriptor is closed, by this process or by its end. On a
    file system without locks, who creates the file holds it.
    """
    try:
        fd, made = create(path), True
    except FileExistsError:
        fd, made = open_to_write(path), False
    try:
        primitives.lock(fd)
    except OSError as error:
        if error.errno in HELD:
            return fd, False
        if error.errno not in (*NOT_POSSIBLE, errno.ENOLCK):
            primitives.close(fd)
            if made:
                primitives.unlink(path)
            raise
        return fd, made
    return fd, True


def read_some(fd: int, views: list[memoryview], offset: int) -> int:
    """Read into the views, one after the other, and return the bytes read: 0 at the end."""
    if primitives.preadv is not None:
        return primitives.preadv(fd, _batch(views), offset)
    first = views[0][:READ_BLOCK]
    if primitives.pread is not None:
        found = primitives.pread(fd, first.nbytes, offset)
        first[: len(found)] = found
        return len(found)
    with _seek_lock:
        primitives.seek(fd, offset, os.SEEK_SET)
        return primitives.readinto(fd, first)


def write_some(fd: int, view: memoryview, offset: int) -> int:
    """Write the beginning of a view and return how many bytes that was: at least one."""
    if primitives.pwrite is not None:
        count = primitives.pwrite(fd, view[:LARGEST_CALL], offset)
    else:
        with _seek_lock:
            primitives.seek(fd, offset, os.SEEK_SET)
            count = primitives.write(fd, view[:LARGEST_CALL])
    if count == 0:
        raise OSError(errno.EIO, "nothing was written")
    return count


def copy_some(source: int, target: int, count: int, start: int, to: int) -> int:
    """Copy inside the kernel, from `start` to `to`; 0 where that is not possible.

    An error is 0 as well: the read and write that follow meet it again, and know whose it is.
    """
    if primitives.copy_file_range is None:
        return 0
    try:
        return primitives.copy_file_range(source, target, min(count, LARGEST_CALL), start, to)
    except OSError:
        return 0


def reserve(fd: int, size: int) -> None:
    """Reserve space while that is cheap, and set the file's size.

    On a disk, reserving writes metadata: 1 GB took 0.001 s on ext4, and a full disk is found before
    any work. On tmpfs it allocates every page: 1 GB took 0.23 s, in which the merge's threads have
    nothing to do; allocated as they write, pages cost as much, but beside other work. And where a
    file system cannot reserve, glibc writes to every block. So the first slow call is the last, and
    the rest of the space is only checked, by whoever plans the output.
    """
    done = 0
    while primitives.fallocate is not None and done < size:
        count = min(RESERVE_BLOCK, size - done)
        started = time.perf_counter()
        try:
            primitives.fallocate(fd, done, count)
        except OSError as error:
            if error.errno not in NOT_POSSIBLE:
                raise
            break
        done += count
        if time.perf_counter() - started > RESERVE_SECONDS:
            break
    primitives.truncate(fd, size)


def reserve_ahead(fd: int, size: int, stop: Callable[[], bool]) -> None:
    """Go on reserving beside other work until told to stop; what fails, the writes will meet."""
    for start in range(0, size, AHEAD_BLOCK):
        if stop() or primitives.fallocate is None:
            return
        try:
            primitives.fallocate(fd, start, min(AHEAD_BLOCK, size - start))
        except OSError:
            return


def fsync_folder(path: AnyPath) -> None:
    """Sync a folder's names, where the system can do that to a folder."""
    if primitives.fsync_folder is None:
        return
    fd = primitives.open(path, os.O_RDONLY)
    try:
        primitives.fsync_folder(fd)
    except OSError as error:
        if error.errno not in NOT_POSSIBLE:
            raise
    finally:
        primitives.close(fd)


def kind(mode: int) -> str:
    """Name what is no regular file."""
    kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "named pipe"), (stat.S_ISSOCK, "socket"))
    return next((word for test, word in kinds if test(mode)), "device")


def flat(buffer: Buffer) -> memoryview:
    """Return the bytes of a contiguous buffer of any element type."""
    view = memoryview(cast("bytes", buffer))  # NumPy tells type checkers so from 3.12 on
    return view.cast("B") if view.nbytes else memoryview(b"")


def without(views: list[memoryview], count: int) -> list[memoryview]:
    """Return what is left of the views once their first `count` bytes are filled."""
    done = 0
    while done < len(views) and views[done].nbytes <= count:
        count -= views[done].nbytes
        done += 1
    rest = views[done:]
    if count:
        rest[0] = rest[0][count:]
    return rest


def _batch(views: list[memoryview]) -> list[memoryview]:
    batch = views[:MOST_BUFFERS]
    room = LARGEST_CALL
    for i, view in enumerate(batch):
        if view.nbytes > room:
            return [*batch[:i], view[:room]]
        room -= view.nbytes
    return batch
