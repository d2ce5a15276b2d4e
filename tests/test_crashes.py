"""A whole merge, while everything that can fail does: every call in turn, kill -9, power loss.

SQLite's method: fail the first call, then the second, and so on until a run goes through without
meeting a fault; after each, what is there must be nothing, the new output or the old one, and the
same command must complete with the same bytes.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from taskalg import files
from taskalg.output.journal import Journal
from taskalg.output.staging import Staging
from taskalg.planning.plan import Plan
from tests.bench import common, kill
from tests.disks import Disk, recorded
from tests.faults import Faults, Killed, goes_through, unsynced
from tests.merging import WAYS, fine, inputs, loaded, merge, plan, skipped, tree, visible

OLD, NEW = "base", "base + 0.5*(ft - base)[0:3]"
WRITING = ("open", "pwrite", "truncate", "fallocate", "copy_file_range", "replace", "mkdir")
SYNCING = ("fsync", "fsync_folder")
NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
QUOTA = OSError(errno.EDQUOT, "Disk quota exceeded")
INTERRUPTED = OSError(errno.EINTR, "Interrupted system call")
MODES: dict[str, dict[str, Any]] = {
    "once": {},
    "for good": {"sticky": True},
    "killed": {"sticky": True, "error": Killed()},
    "disk full": {"sticky": True, "error": NO_SPACE, "only": WRITING},
    "quota": {"error": QUOTA, "only": WRITING},
    "signal": {"error": INTERRUPTED, "only": (*WRITING, *SYNCING, "preadv", "close", "lock")},
    "fsync": {"only": SYNCING},
    "no more fsync": {"sticky": True, "only": SYNCING},
    "short": {"short": True, "only": ("pwrite", "preadv", "copy_file_range")},
    "always short": {"short": True, "sticky": True, "only": ("pwrite", "copy_file_range")},
}


class Merge:
    """One merge to one place, over and over."""

    def __init__(self, folder: Path, way: str, overwrite: bool) -> None:
        self.out, self.overwrite, self.options = folder / "to" / way, overwrite, WAYS[way]
        self.out.parent.mkdir()
        self.old = self._made(plan(folder / "in", OLD), folder / "old" / way)
        self.new = self._made(plan(folder / "in", NEW), folder / "new" / way)
        self.plan: Plan = plan(folder / "in", NEW)
        self.allowed = [(None, None), loaded(folder / "new" / way)]
        if overwrite:
            self.allowed.append(loaded(folder / "old" / way))
        self._saved = folder / "old" / way

    def _made(self, planned: Plan, out: Path) -> dict[str, bytes]:
        merge(planned, out, **self.options)
        return tree(out)

    def restore(self) -> None:
        """Make the output what it was before the first run."""
        shutil.rmtree(self.out.parent)
        self.out.parent.mkdir()
        if self.overwrite and self._saved.is_dir():
            shutil.copytree(self._saved, self.out)
        elif self.overwrite:
            shutil.copy(self._saved, self.out)

    def attempt(self, faults: Faults) -> bool:
        """Merge with faults underneath, and tell whether it went through."""
        return goes_through(
            faults,
            lambda: merge(self.plan, self.out, overwrite=self.overwrite, **self.options),
        )

    def complete(self) -> bool:
        """Run the command again, and tell whether it went on where the first run had stopped."""
        is_there = visible(self.out) == self.new
        again = merge(self.plan, self.out, overwrite=self.overwrite or is_there, **self.options)
        assert tree(self.out) == self.new
        assert [p.name for p in self.out.parent.rglob("*") if ".taskalg" in p.name] == []
        return skipped(again)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Merge]]:
    unsynced(monkeypatch)
    fine(monkeypatch)
    inputs(tmp_path / "in")
    yield lambda way, overwrite: Merge(tmp_path, way, overwrite)


ALL = [(way, overwrite, mode) for way in WAYS for overwrite in (False, True) for mode in MODES]
QUICK = [
    *((way, False, mode) for way in WAYS for mode in ("once", "for good", "killed")),
    *(("sharded", True, mode) for mode in ("once", "killed")),
    *(("sharded", False, mode) for mode in list(MODES)[3:]),
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("way", "overwrite", "mode"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.soak) for case in ALL],
)
def test_whatever_fails_the_output_is_whole_or_absent(
    work: Callable[..., Merge], way: str, overwrite: bool, mode: str
) -> None:
    job, at, resumed = work(way, overwrite), 0, 0
    while True:
        at += 1
        job.restore()
        faults = Faults(at, **MODES[mode])
        done = job.attempt(faults)
        if not faults.failed:
            break
        where = (at, faults.calls[at - 1])
        assert loaded(job.out) in job.allowed, where
        if done:
            assert visible(job.out) == job.new, where
        if "short" in mode:
            assert done, where
        if mode != "killed" and not done:
            left = [p.name for p in job.out.parent.rglob("*") if p.name.startswith("shard-")]
            assert not left or mode == "for good" or where[1] in ("unlink", "listdir"), where
        resumed += job.complete()
    assert done
    assert at > 3
    if mode == "killed" and not overwrite:
        assert resumed > 5


def test_a_failing_fsync_is_never_tried_again(
    monkeypatch: pytest.MonkeyPatch, work: Callable[..., Merge]
) -> None:
    job = work("sharded", False)
    counter = Faults(only=("fsync",))
    assert job.attempt(counter)
    for at in range(1, len(counter.calls) + 1):
        job.restore()
        faults = Faults(at, only=("fsync",))
        assert not job.attempt(faults)
        assert len(faults.calls) == at  # of no file, for the run is over
        assert tree(job.out) == {}


@pytest.mark.soak
def test_reruns_after_kill_nine_at_any_time_write_the_same(tmp_path: Path) -> None:
    """Of processes, not of calls; `tests/bench/kill.py` does it with a gigabyte."""
    common.write_models(tmp_path, common.llama(0.3), ("base", "toxic"))
    command = kill.merge_command(tmp_path, tmp_path / "out", "50MB")
    found = kill.kill_often(command, tmp_path / "out", 20)
    assert all(each.same for each in found)
    assert sum(each.left for each in found) > 10


# ---- Power loss


def after_power_loss(job: Merge, folder: Path, random: Random) -> list[Path]:
    """Merge, and return what may be on the disk at each moment, a folder for each."""
    found: list[Path] = []

    def lose(disk: Disk) -> None:
        for _ in range(2):
            found.append(folder / str(len(found)))
            found[-1].mkdir(parents=True)
            disk.lost_power(random, found[-1])

    job.restore()
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(job.out.parent)
        disk.begin()
        disk.moment = lose
        recorded(patch, disk)
        merge(job.plan, job.out, overwrite=job.overwrite, **job.options)
    return found


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_whatever_a_power_loss_leaves_a_published_name_means_a_whole_model(
    work: Callable[..., Merge], tmp_path: Path, way: str, overwrite: bool
) -> None:
    job, resumed = work(way, overwrite), 0
    states = after_power_loss(job, tmp_path / "states", Random(0))
    assert len(states) > 80
    complete = 0
    for state in states:
        found = loaded(state / way)
        assert found in job.allowed, state
        complete += found == job.allowed[1]
        job.out = state / way
        there = visible(job.out)
        job.overwrite = overwrite or bool(there)
        resumed += job.complete()
    assert complete
    assert resumed


def record_without_sync(self: Staging, shard: int, end: int) -> None:
    if self._journal is None:
        self._journal = Journal(self._hidden, self._key, self.done)
    self._journal.append(shard, end)


@pytest.mark.parametrize("broken", ["fsync", "fsync_folder", "early record"])
def test_the_test_of_power_loss_can_fail(
    monkeypatch: pytest.MonkeyPatch, work: Callable[..., Merge], tmp_path: Path, broken: str
) -> None:
    job = work("sharded", False)
    nothing: Any = lambda fd: None  # noqa: E731
    if broken == "early record":
        monkeypatch.setattr(Staging, "_save", record_without_sync)
    else:
        monkeypatch.setattr(files, "sync" if broken == "fsync" else "sync_folder", nothing)
    wrong = 0
    for state in after_power_loss(job, tmp_path / "states", Random(0)):
        try:
            assert loaded(state / "sharded") in job.allowed
            job.out = state / "sharded"
            job.overwrite = bool(visible(job.out))
            job.complete()
        except Exception:
            wrong += 1
    assert wrong


def test_a_disk_keeps_what_was_synced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(tmp_path / "disk")
        recorded(patch, disk)
        files.write_small(tmp_path / "disk" / "a", b"1" * 64)
        files.sync_folder(tmp_path / "disk")
        fd = files.open_output(tmp_path / "disk" / "a")
        files.write_at(fd, b"2" * 64, 32)
        files.write_small(tmp_path / "disk" / "b", b"3")
        files.rename(tmp_path / "disk" / "b", tmp_path / "disk" / "c")
        files.close(fd)
        seen = set()
        for number in range(50):
            place = tmp_path / str(number)
            place.mkdir()
            disk.lost_power(Random(number), place)
            names = frozenset(os.listdir(place))
            content = (place / "a").read_bytes()
            assert content[:32] == b"1" * 32
            seen.add((names, content))
        assert {names for names, _ in seen} == {
            frozenset("a"),
            frozenset("ab"),
            frozenset("ac"),
        }
        assert len({content for _, content in seen}) > 10
