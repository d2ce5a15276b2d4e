"""A sweep's own folder: one sweep at a time has it, and nothing of it is left.

Its place follows from the name of the results, so that what `kill -9` leaves is found and removed
by the next run. By default it lies beside the results and not where the system keeps temporary
files: it gets a whole model, and those are often in memory.

The folder beside the results is also what keeps a second sweep from writing to the same file, so
it is made where the model goes somewhere else, too.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from taskalg import files
from taskalg.errors import OutputError, TaskalgError, quoted
from taskalg.output.lock import LOCK_NAME, Lock, take_lock

_ATTEMPTS = 10  # to get a lock that another run gives back at the same moment

_log = logging.getLogger(__name__)


@contextmanager
def scratch_folder(results: Path, folder: Path | None = None) -> Iterator[Path]:
    """Make the scratch folder of a sweep, and take it away whatever happens.

    Args:
        results: the sweep's file.
        folder: where it goes; by default beside the results.

    Raises:
        OutputError: another sweep has it, or it cannot be made.
    """
    with _made(results.parent, results.name) as beside:
        if folder is None:
            yield beside
            return
        place = hashlib.sha256(os.fsencode(os.path.abspath(results))).hexdigest()[:8]
        with _made(folder, f"{results.name}-{place}") as hidden:  # of all files of that name
            yield hidden


@contextmanager
def _made(place: Path, name: str) -> Iterator[Path]:
    """Make a hidden folder that nobody else has, empty, and remove it in the end."""
    if not files.is_folder(place):
        raise OutputError(f"there is no folder {quoted(str(place))}", help="make it first")
    hidden = Path(os.path.abspath(place)) / f".taskalg-{name}"
    if files.is_link(hidden):  # what it leads to is not ours to empty
        raise OutputError(
            f"{quoted(str(hidden))} is a link, where a sweep keeps its scratch folder",
            help="remove the link",
        )
    lock = _locked(hidden)
    try:
        empty(hidden)
        yield hidden
    finally:
        try:
            empty(hidden)
        except TaskalgError as error:
            _log.warning("%s", error.message)
        lock.release()


def _locked(hidden: Path) -> Lock:
    for attempt in range(_ATTEMPTS):
        try:
            if not files.is_folder(hidden):
                files.make_folder(hidden)
        except OutputError as error:  # or another run made it meanwhile
            if attempt + 1 == _ATTEMPTS:
                error.help = "name a file in another folder with --csv"
                raise
        lock = take_lock(hidden)
        if lock is not None:
            return lock
    raise OutputError(f"the folder {quoted(str(hidden))} is made and removed by another run")


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
