"""Whose fault it is when the system refuses: an `OSError` becomes an error that names the file.

Beside files.py and not in it, so that what is said about a failure can be read in one piece.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from taskalg.errors import CheckpointError, OutputError, TaskalgError, quoted
from taskalg.system import AnyPath

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MAKE_ROOM = "free some space, or choose an output on another disk"
names: dict[int, str] = {}  # what messages call an open descriptor


def called(path: AnyPath | int) -> str:
    """Return what messages call a file, or an open descriptor."""
    return names.get(path, f"descriptor {path}") if isinstance(path, int) else os.fspath(path)


def reading(path: AnyPath | int) -> AbstractContextManager[None]:
    """Blame the input for what fails inside."""
    return _blaming(CheckpointError, "read", path)


def writing(action: str, path: AnyPath | int) -> AbstractContextManager[None]:
    """Blame the output for what fails inside; `action` completes "cannot"."""
    return _blaming(OutputError, action, path)


@contextmanager
def _blaming(kind: type[TaskalgError], action: str, path: AnyPath | int) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        words = getattr(error, "strerror", None) or str(error)
        raise kind(
            f"cannot {action} {quoted(called(path))}: {words[:1].lower()}{words[1:]}",
            help=_MAKE_ROOM if getattr(error, "errno", None) in _FULL else None,
        ) from error
