"""Puts an output in place all at once, or not at all, and takes up what a killed run left.

Everything is written and synced inside a hidden folder of the output first. Then names are given:
shards and side files, a sync of the folders, and last what a loader looks for first, the index or
the single file. An interruption before that leaves nothing a loader would find; what it leaves is
removed here or, after `kill -9`, taken up by the next run: the journal in the hidden folder says
how far each shard had come, and the list of moves which names are not yet a model. (Method: ALICE,
Pillai et al., OSDI 2014: sync the file before its rename, the folder after it.)

Names that replace an earlier output are given only after its index or single file is gone from the
disk, so that no crash can leave an old index over new shards.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType

from taskalg import files
from taskalg.checkpoints.base import Checkpoint, check_unchanged
from taskalg.errors import CheckpointError, OutputError, TaskalgError, quoted
from taskalg.output.destination import (
    Destination,
    check_destination,
    check_kind,
    check_overlap,
    check_space,
    destination,
    missing_folders,
    previous_weights,
)
from taskalg.output.digests import sha256_of
from taskalg.output.journal import digest
from taskalg.output.layout import ShardLayout, indexes
from taskalg.output.lock import check_lock
from taskalg.output.moves import (
    Move,
    in_stages,
    names_left,
    take_back,
    temporary,
    write_moves,
)
from taskalg.output.sidefiles import SideFile
from taskalg.output.staging import Staging
from taskalg.system import AnyPath

SPARE = 1_000_000  # bytes kept free beside the files, for the folders and the file system itself
_ATTEMPTS = 10  # to get a lock that another run gives back at the same moment


def stage(
    out: AnyPath,
    layouts: Sequence[ShardLayout],
    *,
    inputs: Sequence[Checkpoint] = (),
    overwrite: bool = False,
    side_files: Sequence[SideFile] = (),
    key: str = "",
) -> "Publication":
    """Check an output's destination; the `with` statement then creates its temporary files.

    Args:
        out: a name that ends in `.safetensors` for one file, any other for a folder.
        layouts: the files to be written; one for a single file, whose name `out` decides.
        inputs: the checkpoints read meanwhile; they are compared with their state at opening
            before anything gets its final name.
        overwrite: whether an earlier output may be replaced.
        side_files: what is published beside the weights; not for a single file.
        key: a digest of all that decides the bytes besides the layouts and the inputs' files. A
            run with the same one goes on where a killed one stopped; without one, none does.

    Raises:
        OutputError: the output overlaps an input, cannot be written, or is in the way.
        UsageError: several layouts, and one file to put them in.
    """
    place = destination(out)
    check_kind(place)
    check_overlap(place, inputs)
    made = Publication(place, layouts, inputs, side_files, overwrite, key)
    made.check()
    return made


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
        overwrite: bool,
        key: str,
    ) -> None:
        self._staging = Staging(place.hidden, layouts, digest(key, layouts, inputs))
        self.files = self._staging.files
        self.published = False
        self._place = place
        self._layouts = tuple(layouts)
        self._inputs = tuple(inputs)
        self._side_files = () if place.is_file else tuple(side_files)
        self._overwrite = overwrite
        self._made: list[Path] = []  # folders that were not there
        self._moves: list[Move] = []  # set once every source is complete

    def __enter__(self) -> "Publication":
        try:
            self._take_lock()
            self.check()  # again: another run may have published meanwhile
            check_space(self._place, self._needed())
            self._staging.prepare()
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

    @property
    def done(self) -> tuple[int, ...]:
        """For each shard, the bytes from its start that an interrupted run has written."""
        return self._staging.done

    def check(self) -> None:
        """Refuse a destination that something is in the way of. Changes nothing."""
        check_destination(
            self._place,
            self._layouts,
            self._side_files,
            leftovers=names_left(self._place.hidden),
            overwrite=self._overwrite,
        )

    def rehearse(self) -> None:
        """Refuse what the `with` statement would refuse. Changes nothing.

        Raises:
            OutputError: another run writes there, or there is too little space.
        """
        check_lock(self._place.hidden)
        check_space(self._place, self._needed())

    def reserving(self) -> AbstractContextManager[None]:
        """Reserve the output's space beside what the body does, which writes nothing."""
        return self._staging.reserving()

    def wrote(self, shard: int, offset: int, nbytes: int) -> None:
        """Take note of bytes that need not be written again; those of zeros count as written.

        From any thread. Now and then one of them syncs the file and records how far it is.

        Raises:
            OutputError: the sync or the record failed.
        """
        self._staging.wrote(shard, offset, nbytes)

    def add(self, side_file: SideFile) -> None:
        """Publish one more file beside the weights, or in place of one of its name."""
        if not self._place.is_file:
            others = (other for other in self._side_files if other.name != side_file.name)
            self._side_files = (*others, side_file)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each shard by its final name, read back once all are written.

        Raises:
            OutputError: one cannot be read.

        Memory: a buffer for each of at most eight threads.
        """
        moves = self._shard_moves()
        try:
            return sha256_of({move.target: self._place.hidden / move.source for move in moves})
        except CheckpointError as error:
            raise OutputError(f"the output cannot be read back: {error.message}") from error

    def publish(self) -> None:
        """Make the output durable and give it its final names.

        Raises:
            CheckpointError: an input changed since it was opened.
            OutputError: a write, sync or rename failed. Nothing is under its final name then.
        """
        for checkpoint in self._inputs:
            check_unchanged(checkpoint)
        self._staging.finish()
        stages = self._write_rest()
        files.sync_folder(self._place.hidden)
        self._moves = [move for moves in stages for move in moves]
        self._remove_previous()
        for moves in stages:
            for move in moves:
                self._rename(move)
            for folder in sorted({self._place.root, *(self._target(m).parent for m in moves)}):
                files.sync_folder(folder)
        for folder in {folder.parent: None for folder in self._made}:
            files.sync_folder(folder)  # also the folders that were made have names
        self.published = True
        self._staging.clean_up()

    def _needed(self) -> int:
        side = sum(len(side_file.content) for side_file in self._side_files)
        return sum(layout.size for layout in self._layouts) + side + SPARE

    def _take_lock(self) -> None:
        for _ in range(_ATTEMPTS):
            self._make(self._place.hidden)
            if self._staging.lock():
                return
        raise OutputError(f"other runs keep writing to {quoted(str(self._place.out))}")

    def _shard_moves(self) -> list[Move]:
        names = [layout.name for layout in self._layouts]
        if self._place.is_file:
            names = [self._place.out.name]
        return [Move(temporary(shard), name) for shard, name in enumerate(names)]

    def _write_rest(self) -> list[list[Move]]:
        """Write everything but the shards, and return all renames, in stages."""
        lists = {} if self._place.is_file else indexes(self._layouts)
        rest = lists | {side_file.name: side_file.content for side_file in self._side_files}
        moves = self._shard_moves()
        for number, (name, content) in enumerate(rest.items()):
            files.write_small(self._place.hidden / f"file-{number}", content)
            moves.append(Move(f"file-{number}", name))
        entries = {*lists, *(layout.part.single for layout in self._layouts)}
        stages = in_stages(moves, entries)
        write_moves(self._place.hidden, [move for stage in stages for move in stage])
        return stages

    def _remove_previous(self) -> None:
        entries, shards = previous_weights(self._place, self._layouts)
        for path in entries:
            files.remove(path)
        for folder in {path.parent: None for path in entries}:
            files.sync_folder(folder)
        for path in shards:
            files.remove(path)

    def _rename(self, move: Move) -> None:
        target = self._target(move)
        self._make(target.parent)
        files.rename(self._place.hidden / move.source, target)

    def _target(self, move: Move) -> Path:
        return self._place.root / move.target

    def _make(self, path: Path) -> None:
        for folder in missing_folders(path):
            self._made.append(folder)  # first: Ctrl-C may come right after it is made
            try:
                files.make_folder(folder)
            except OutputError:
                self._made.remove(folder)
                if not files.is_folder(folder):  # made by another run meanwhile
                    raise

    def _discard(self) -> None:
        """Remove what this run made; what the system refuses to remove, the next run sweeps."""
        self._staging.abandon()
        if self._staging.is_ours:
            with suppress(TaskalgError):
                take_back(self._place.hidden, self._moves)
        self._staging.clean_up()
        for folder in reversed(self._made):
            with suppress(TaskalgError):
                files.remove_folder(folder)
