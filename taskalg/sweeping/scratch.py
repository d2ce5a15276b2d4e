"""A sweep's own folder: one sweep at a time has it, and nothing of it is left.

Its place follows from the name of the results, so that what `kill -9` leaves is found and removed
by the next run. By default it lies beside the results and not where the system keeps temporary
files: it gets a whole model, and those are often in memory.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from taskalg import files
from taskalg.errors import OutputError, TaskalgError, quoted
from taskalg.output.lock import LOCK_NAME, take_lock

_ATTEMPTS = 10  # to get a lock that another run gives back at the same moment


@contextmanager
def scratch_folder(results: Path, folder: Path | None = None) -> Iterator[Path]:
    """Make the scratch folder of a sweep, and take it away whatever happens.

    Args:
        results: the sweep's file.
        folder: where it goes; by default beside the results.

    Raises:
        OutputError: another sweep has it, or it cannot be made.
    """
    place = results.parent if folder is None else folder
    if not files.is_folder(place):
        raise OutputError(f"there is no folder {quoted(str(place))}", help="make it first")
    hidden = Path(os.path.abspath(place)) / f".taskalg-{results.name}"
    if files.is_link(hidden):  # what it leads to is not ours to empty
        raise OutputError(
            f"{quoted(str(hidden))} is a link, where a sweep keeps its scratch folder",
            help="remove the link",
        )
    for _ in range(_ATTEMPTS):
        if not files.is_folder(hidden):
            with suppress(OutputError):  # another run made it meanwhile, or `take_lock` says why
                files.make_folder(hidden)
        lock = take_lock(hidden)
        if lock is not None:
            break
    else:
        raise OutputError(f"the folder {quoted(str(hidden))} cannot be made or used")
    try:
        empty(hidden)
        yield hidden
    finally:
        with suppress(TaskalgError):
            empty(hidden)
        lock.release()


def empty(hidden: Path) -> None:
    """Remove everything in a scratch folder but its lock.

    Raises:
        OutputError: something cannot be removed.
    """
    for name in files.list_folder(hidden):
        if name != LOCK_NAME:
            _remove(hidden / name)


def _remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    if files.is_link(path) or not files.is_folder(path):
        files.remove(path)
        return
    for name in files.list_folder(path):
        _remove(path / name)
    files.remove_folder(path)
