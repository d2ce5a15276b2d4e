"""One run per output: a lock in its hidden folder, held for as long as the run lives.

The kernel holds it (`flock`, or `locking` on Windows) and drops it when the process ends, however
it ends. So the file that a killed run leaves is no lock, and nobody has to find that out. What is
written in the file, who and since when, is for the message alone.

Rejected: a file that is the lock by being there, with a process id to look up. Ids are used again,
those of another machine cannot be looked up, and two runs that both find the file left over race to
replace it. Only where a file system has no locks (some mounts of Lustre and NFS) is it done that
way, without the looking up: there a lock that was left has to be removed by hand.
"""

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from taskalg import files, system
from taskalg.errors import CheckpointError, OutputError, TaskalgError, quoted

LOCK_NAME = "lock"
LARGEST_LOCK = 10_000  # bytes


class Lock:
    """A lock that this process holds on a hidden folder."""

    def __init__(self, hidden: Path, fd: int) -> None:
        self._hidden, self._fd = hidden, fd

    def release(self) -> None:
        """Give it back, and remove its file, and its folder if nothing else is in that.

        The file goes first: another run that opened it meanwhile sees that its name is gone.
        """
        path = self._hidden / LOCK_NAME
        with suppress(TaskalgError):
            if system.REMOVES_OPEN_FILES:
                files.remove(path)
        with suppress(TaskalgError):
            files.close(self._fd)
        with suppress(TaskalgError):
            if not system.REMOVES_OPEN_FILES:
                files.remove(path)
            files.remove_folder(self._hidden)


def check_lock(hidden: Path) -> None:
    """Refuse a hidden folder whose lock another run holds.

    Raises:
        OutputError: that is the case.
    """
    path = hidden / LOCK_NAME
    if files.exists(path):
        fd, is_ours = files.open_lock(path)
        files.close(fd)
        if not is_ours:
            raise _held(hidden)


def take_lock(hidden: Path) -> Lock | None:
    """Take the lock of a hidden folder; None if a run that ended removed it at the same moment.

    Raises:
        OutputError: another run holds it, or the file cannot be made.
    """
    path = hidden / LOCK_NAME
    try:
        fd, is_ours = files.open_lock(path)
    except OutputError:
        if files.is_folder(hidden):
            raise
        return None
    lock = Lock(hidden, fd)
    try:
        if not is_ours:
            raise _held(hidden)
        if _has_its_name(fd, path):
            _sign(fd)
            return lock
    except BaseException:  # also Ctrl-C, which may come between any two calls
        if is_ours and _has_its_name(fd, path):
            lock.release()
        else:
            _close_quietly(fd)
        raise
    files.close(fd)
    return None


def _close_quietly(fd: int) -> None:
    with suppress(OutputError):
        files.close(fd)


def _has_its_name(fd: int, path: Path) -> bool:
    try:
        return files.identity(fd) == files.identity(path)
    except CheckpointError:
        return False


def _sign(fd: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    owner = {"pid": os.getpid(), "host": platform.node(), "since": since}
    text = json.dumps(owner).encode()
    files.write_at(fd, text + b" " * (LARGEST_LOCK // 10 - len(text)), 0)  # over a longer one


def _held(hidden: Path) -> OutputError:
    path = hidden / LOCK_NAME
    return OutputError(
        f"another run is writing to {quoted(str(hidden.parent))}",
        note=_owner(path),
        help="wait until it is done, or choose another output; if there is no such process, "
        f"remove {quoted(str(path))}",
    )


def _owner(path: Path) -> str | None:
    """Say what the lock's file says; its owner may be just writing it, or removing it."""
    try:
        found = json.loads(files.read_small(path, LARGEST_LOCK))
        pid, host, since = int(found["pid"]), str(found["host"]), str(found["since"])
    except (ValueError, KeyError, TypeError, RecursionError, CheckpointError):
        return None
    return f"process {pid} on {quoted(host)}, since {quoted(since)[1:-1]}"
