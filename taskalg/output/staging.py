"""An output's hidden folder: its lock, its temporary files, and how far they are written.

One run at a time has it. A run of the same key as one that was killed takes up that one's files;
any other removes them.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from taskalg import files, system
from taskalg.errors import TaskalgError
from taskalg.handles import OUTPUTS, Handles
from taskalg.output.journal import JOURNAL_NAME, Journal, resumable
from taskalg.output.layout import ShardLayout
from taskalg.output.lock import LOCK_NAME, Lock, take_lock
from taskalg.output.moves import read_moves, remove_hidden, take_back, temporary
from taskalg.output.watermarks import Watermarks


class Staging:
    """A hidden folder while a run writes to it.

    Attributes:
        files: the shards by their place among the layouts, headers already written.
        done: for each shard, the bytes from its start that an interrupted run has written.
        is_ours: whether this run has the folder, and what is in it.
    """

    def __init__(self, hidden: Path, layouts: Sequence[ShardLayout], key: str) -> None:
        self.files: Handles[int] = Handles(self._open, _sync_and_close, OUTPUTS)
        self.done = (0,) * len(layouts)
        self.is_ours = False
        self._hidden, self._layouts, self._key = hidden, tuple(layouts), key
        self._lock: Lock | None = None
        self._marks: Watermarks | None = None  # None when no other run could use them
        self._journal: Journal | None = None  # from the first record on

    def lock(self) -> bool:
        """Take the folder's lock; False if the folder is gone: make it and try again.

        Raises:
            OutputError: another run has it.
        """
        self._lock = take_lock(self._hidden)
        return self._lock is not None

    def prepare(self) -> None:
        """Make the temporary files, or take up those of an interrupted run of the same key."""
        self.is_ours = True
        take_back(self._hidden, read_moves(self._hidden))
        self.done = resumable(self._hidden, self._key, self._layouts)
        kept = {temporary(shard) for shard, end in enumerate(self.done) if end}
        remove_hidden(self._hidden, keep={LOCK_NAME, *kept, *((JOURNAL_NAME,) if kept else ())})
        for shard, layout in enumerate(self._layouts):
            path = self._hidden / temporary(shard)
            if self.done[shard]:
                files.continue_output(path, self.done[shard], layout.size)
            else:
                _create(path, layout)
        if self._key:
            self._marks = Watermarks(self._layouts, self.done, self._save)

    @contextmanager
    def reserving(self) -> Iterator[None]:
        """Reserve the output's space beside what the body does, which writes nothing.

        On tmpfs that allocates every page, which otherwise the writes would wait for.
        """
        stop = threading.Event()
        worker = threading.Thread(target=self._reserve, args=(stop,), daemon=True)
        worker.start()
        try:
            yield
        finally:
            stop.set()
            worker.join()

    def wrote(self, shard: int, offset: int, nbytes: int) -> None:
        """Take note of bytes that are written. From any thread."""
        if self._marks is not None:
            self._marks.add(shard, offset, nbytes)

    def finish(self) -> None:
        """Sync and close all temporary files."""
        for shard in range(len(self._layouts)):  # also one that has a header only
            with self.files.using(shard):
                pass
        self.files.close()

    def abandon(self) -> None:
        """Close the temporary files, whatever is in them."""
        self.files.close(_close_quietly)

    def clean_up(self) -> None:
        """Give the folder back, empty; what cannot be removed, the next run sweeps."""
        with suppress(TaskalgError):
            if self._journal is not None:
                self._journal.close()
        with suppress(TaskalgError):
            if self.is_ours:
                remove_hidden(self._hidden)
        if self._lock is not None:
            self._lock.release()

    def _open(self, shard: int) -> int:
        return files.open_output(self._hidden / temporary(shard))

    def _reserve(self, stop: threading.Event) -> None:
        with suppress(TaskalgError):
            for shard, layout in enumerate(self._layouts):
                with self.files.using(shard) as fd:
                    system.reserve_ahead(fd, layout.size, stop.is_set)
                if stop.is_set():
                    return

    def _save(self, shard: int, end: int) -> None:
        """Make the beginning of a shard durable, and the record that it is. One at a time."""
        with self.files.using(shard) as fd:
            files.sync(fd)
        if self._journal is None:
            self._journal = Journal(self._hidden, self._key, self.done)
        self._journal.append(shard, end)


def _create(path: Path, layout: ShardLayout) -> None:
    fd = files.create_output(path, layout.size)
    try:
        files.write_at(fd, layout.header, 0)
    finally:
        files.close(fd)


def _sync_and_close(fd: int) -> None:
    """Close a file that was written to: whatever was written through it is on the disk then."""
    try:
        files.sync(fd)
    finally:
        files.close(fd)


def _close_quietly(fd: int) -> None:
    with suppress(TaskalgError):
        files.close(fd)
