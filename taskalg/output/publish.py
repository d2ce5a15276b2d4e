"""Puts an output in place all at once, or not at all.

Everything is written and synced inside a hidden folder of the output first. Then names are given:
shards and side files, a sync of the folder, and last the one file a loader looks for, the index or
the single file. An interruption before that leaves nothing a loader would find; what it leaves is
removed here or, after `kill -9`, by the next run, which knows from the list of moves in the hidden
folder which names are not yet a model. (Method: ALICE, Pillai et al., OSDI 2014: sync the file
before its rename, the folder after it.)

Names that replace an earlier output are given only after its index or single file is gone from the
disk, so that no crash can leave an old index over new shards.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from taskalg import files, system
from taskalg.checkpoints.base import Checkpoint, check_unchanged
from taskalg.errors import TaskalgError
from taskalg.handles import OUTPUTS, Handles
from taskalg.output.destination import (
    Destination,
    check_destination,
    check_kind,
    check_overlap,
    check_space,
    destination,
    previous_weights,
)
from taskalg.output.layout import INDEX_NAME, ShardLayout, index_bytes
from taskalg.output.moves import (
    Move,
    done_targets,
    names_left,
    read_moves,
    remove_hidden,
    write_moves,
)
from taskalg.output.sidefiles import SideFile
from taskalg.system import AnyPath

SPARE = 1_000_000  # bytes kept free beside the files, for the folders and the file system itself


def stage(
    out: AnyPath,
    layouts: Sequence[ShardLayout],
    *,
    inputs: Sequence[Checkpoint] = (),
    overwrite: bool = False,
    side_files: Sequence[SideFile] = (),
) -> "Publication":
    """Check an output's destination; the `with` statement then creates its temporary files.

    Args:
        out: a name that ends in `.safetensors` for one file, any other for a folder.
        layouts: the files to be written; one for a single file, whose name `out` decides.
        inputs: the checkpoints read meanwhile; they are compared with their state at opening
            before anything gets its final name.
        overwrite: whether an earlier output may be replaced.
        side_files: what is published beside the weights; not for a single file.

    Raises:
        OutputError: the output overlaps an input, cannot be written, or is in the way.
        UsageError: several layouts, and one file to put them in.
    """
    place = destination(out)
    check_kind(place)
    check_overlap(place, inputs)
    leftovers = names_left(place.hidden)
    check_destination(place, layouts, side_files, leftovers=leftovers, overwrite=overwrite)
    return Publication(place, layouts, inputs, side_files)


class Publication:
    """An output in the making. Leaving it without `publish` removes every trace.

    Attributes:
        files: the shards by their place among the layouts, headers already written; write tensors
            to `files.using(i)` with `files.write_at` and `files.copy_range`, from any thread.
        published: whether the output is in place.
    """

    def __init__(
        self,
        place: Destination,
        layouts: Sequence[ShardLayout],
        inputs: Sequence[Checkpoint],
        side_files: Sequence[SideFile],
    ) -> None:
        self.files: Handles[int] = Handles(self._open, _sync_and_close, OUTPUTS)
        self.published = False
        self._place = place
        self._layouts = tuple(layouts)
        self._inputs = tuple(inputs)
        self._side_files = () if place.is_file else tuple(side_files)
        self._made: list[Path] = []  # folders that were not there
        self._moves: list[Move] = []  # set once every source is complete

    def __enter__(self) -> "Publication":
        try:
            self._sweep()
            check_space(self._place, self._needed())
            for folder in (self._place.root, self._place.hidden):
                self._make(folder)
            for layout in self._layouts:
                fd = files.create_output(self._place.hidden / layout.name, layout.size)
                try:
                    files.write_at(fd, layout.header, 0)
                finally:
                    files.close(fd)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.published:
            self._discard()

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

    def _reserve(self, stop: threading.Event) -> None:
        with suppress(TaskalgError):
            for shard, layout in enumerate(self._layouts):
                with self.files.using(shard) as fd:
                    system.reserve_ahead(fd, layout.size, stop.is_set)
                if stop.is_set():
                    return

    def publish(self) -> None:
        """Make the output durable and give it its final names.

        Raises:
            CheckpointError: an input changed since it was opened.
            OutputError: a write, sync or rename failed. Nothing is under its final name then.
        """
        for checkpoint in self._inputs:
            check_unchanged(checkpoint)
        for shard in range(len(self._layouts)):  # also one that has a header only
            with self.files.using(shard):
                pass
        self.files.close()
        *moves, last = self._write_rest()
        files.sync_folder(self._place.hidden)
        self._moves = [*moves, last]
        self._remove_previous()
        for move in moves:
            self._rename(move)
        for folder in sorted({self._target(move).parent for move in moves}):
            files.sync_folder(folder)
        self._rename(last)
        files.sync_folder(self._place.root)
        if self._place.root in self._made:
            files.sync_folder(self._place.root.parent)
        self.published = True
        with suppress(TaskalgError):
            remove_hidden(self._place.hidden)

    def _open(self, shard: int) -> int:
        return files.open_output(self._place.hidden / self._layouts[shard].name)

    def _needed(self) -> int:
        side = sum(len(side_file.content) for side_file in self._side_files)
        return sum(layout.size for layout in self._layouts) + side + SPARE

    def _write_rest(self) -> list[Move]:
        """Write everything but the shards, and return all renames, the decisive one last."""
        hidden, single = self._place.hidden, len(self._layouts) == 1
        moves = []
        for number, side_file in enumerate(self._side_files):
            files.write_small(hidden / f"side-{number}", side_file.content)
            moves.append(Move(f"side-{number}", side_file.name))
        shards = [Move(layout.name, layout.name) for layout in self._layouts]
        if self._place.is_file:
            shards = [Move(self._layouts[0].name, self._place.out.name)]
        if not single:
            files.write_small(hidden / INDEX_NAME, index_bytes(self._layouts))
            shards.append(Move(INDEX_NAME, INDEX_NAME))
        moves = [*shards[:-1], *moves, shards[-1]]
        write_moves(hidden, moves)
        return moves

    def _remove_previous(self) -> None:
        entries, shards = previous_weights(self._place)
        for path in entries:
            files.remove(path)
        if entries:
            files.sync_folder(self._place.root)
        for path in shards:
            files.remove(path)

    def _rename(self, move: Move) -> None:
        target = self._target(move)
        self._make(target.parent)
        files.rename(self._place.hidden / move.source, target)

    def _target(self, move: Move) -> Path:
        return self._place.root / move.target

    def _make(self, folder: Path) -> None:
        if not files.exists(folder):
            files.make_folder(folder)
            self._made.append(folder)

    def _sweep(self) -> None:
        """Remove what an interrupted run left."""
        root, hidden = self._place.root, self._place.hidden
        for target in done_targets(hidden, read_moves(hidden)):
            files.remove(root / target)
        if files.exists(hidden):
            remove_hidden(hidden)

    def _discard(self) -> None:
        """Remove what this run made; what the system refuses to remove, the next run sweeps."""
        self.files.close(_close_quietly)
        with suppress(TaskalgError):
            for target in done_targets(self._place.hidden, self._moves):
                files.remove(self._place.root / target)
            if self._place.hidden in self._made:
                remove_hidden(self._place.hidden)
                self._made.remove(self._place.hidden)
        for folder in reversed(self._made):
            with suppress(TaskalgError):
                files.remove_folder(folder)


def _sync_and_close(fd: int) -> None:
    """Close a file that was written to: whatever was written through it is on the disk then."""
    try:
        files.sync(fd)
    finally:
        files.close(fd)


def _close_quietly(fd: int) -> None:
    with suppress(TaskalgError):
        files.close(fd)
