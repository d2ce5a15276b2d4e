"""A disk that loses power: what of a run's work is on it at every moment, and what may be.

The calls that change a folder are recorded as they are made. On the disk for certain is what was
synced: a file's bytes as they were at its last fsync, a name once its folder was synced. Anything
else may be there or not, names independently of each other and of the bytes behind them, except
that a rename is one change and that a change needs those before it on the same name. (Method:
ALICE, Pillai et al., OSDI 2014.)
"""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from taskalg import system

FOLDER = -1  # in place of a file's number


@dataclass
class Change:
    """One change of names: what a path is afterwards, None for nothing."""

    names: dict[str, int | None]
    folders: set[str]  # that it is on the disk once one of them is synced


@dataclass
class Disk:
    """Names and bytes below a folder, synced and not."""

    root: Path
    names: dict[str, int] = field(default_factory=dict)  # on the disk
    waiting: list[Change] = field(default_factory=list)  # in memory
    synced: dict[int, bytes] = field(default_factory=dict)  # bytes of files, on the disk
    current: dict[int, bytes] = field(default_factory=dict)  # the same, in memory
    moment: Callable[["Disk"], None] = lambda disk: None  # called after every change

    def __post_init__(self) -> None:
        self._numbers: dict[int, int] = {}  # by inode, which the system uses again
        self._paths: dict[int, str] = {}  # of descriptors
        self._real = system.primitives

    def begin(self) -> None:
        """Take what lies in the folder for synced."""
        for path in sorted(self.root.rglob("*")):
            if path.is_dir():
                self.names[str(path)] = FOLDER
                continue
            number = len(self.synced) + 1
            self._numbers[path.stat().st_ino] = self.names[str(path)] = number
            self.synced[number] = self.current[number] = path.read_bytes()

    def primitives(self) -> system.Primitives:
        """Return a table of calls that are recorded here."""
        names = "open pwrite truncate copy_file_range fsync fsync_folder replace unlink mkdir rmdir"
        wrapped: dict[str, Any] = {name: self._wrap(name) for name in names.split()}
        return dataclasses.replace(self._real, **wrapped)

    def _wrap(self, name: str) -> Any:
        call, note = getattr(self._real, name), getattr(self, f"_{name}")

        def recorded(*arguments: Any) -> Any:
            before = self._before(name, arguments)
            result = call(*arguments)
            if note(result, before, *arguments):
                self.moment(self)
            return result

        return recorded

    def _before(self, name: str, arguments: tuple[Any, ...]) -> int:
        """Return the number of the file that a call takes the name of."""
        if name in ("replace", "unlink"):
            return self._numbers.get(os.stat(arguments[0]).st_ino, 0)
        return int(name == "open" and not os.path.exists(arguments[0]))

    def _inside(self, path: Any) -> bool:
        return self.root in Path(path).parents

    def _change(self, names: dict[Any, int | None]) -> bool:
        found = {str(path): number for path, number in names.items() if self._inside(path)}
        if found:
            self.waiting.append(Change(found, {os.path.dirname(path) for path in found}))
        return bool(found)

    def _open(self, fd: int, is_new: int, path: Any, *rest: Any) -> bool:
        self._paths[fd] = str(path)
        if not is_new:
            return False
        number = len(self.synced) + 1
        self._numbers[os.fstat(fd).st_ino] = number
        self.synced[number] = self.current[number] = b""
        return self._change({path: number})

    def _number(self, fd: int) -> int:
        return self._numbers.get(os.fstat(fd).st_ino, 0)

    def _written(self, fd: int) -> bool:
        self.current[self._number(fd)] = os.pread(fd, os.fstat(fd).st_size, 0)
        return True

    def _pwrite(self, result: Any, before: int, fd: int, *rest: Any) -> bool:
        return self._written(fd)

    def _truncate(self, result: Any, before: int, fd: int, *rest: Any) -> bool:
        return self._written(fd)

    def _copy_file_range(self, result: Any, before: int, source: int, to: int, *_: Any) -> bool:
        return self._written(to)

    def _fsync(self, result: Any, before: int, fd: int) -> bool:
        self._written(fd)
        number = self._number(fd)
        self.synced[number] = self.current[number]
        return True

    def _fsync_folder(self, result: Any, before: int, fd: int) -> bool:
        folder = self._paths[fd]
        last = max((i for i, c in enumerate(self.waiting) if folder in c.folders), default=-1)
        chosen = {i for i in range(last + 1) if folder in self.waiting[i].folders}
        self.names = self._applied(chosen)
        kept = self._with_earlier(chosen)
        self.waiting = [c for i, c in enumerate(self.waiting) if i not in kept]
        return True

    def _replace(self, result: Any, number: int, source: Any, target: Any) -> bool:
        return self._change({source: None, target: number})

    def _unlink(self, result: Any, number: int, path: Any) -> bool:
        return self._change({path: None})

    def _mkdir(self, result: Any, before: int, path: Any) -> bool:
        return self._change({path: FOLDER})

    def _rmdir(self, result: Any, before: int, path: Any) -> bool:
        return self._change({path: None})

    def _with_earlier(self, chosen: set[int]) -> set[int]:
        """Add the changes that chosen ones need: earlier ones of the same names."""
        found = set(chosen)
        for i in sorted(chosen, reverse=True):
            for j in range(i):
                if self.waiting[j].names.keys() & self.waiting[i].names.keys():
                    found |= self._with_earlier({j})
        return found

    def _applied(self, chosen: set[int]) -> dict[str, int]:
        names: dict[str, int | None] = dict(self.names)
        for i in sorted(self._with_earlier(chosen)):
            names |= self.waiting[i].names
        return {path: number for path, number in names.items() if number is not None}

    def lost_power(self, random: Random, into: Path) -> None:
        """Write into an empty folder what is on the disk after a power loss, by chance."""
        some = random.choice((0.0, 0.5, 1.0))
        chosen = {i for i in range(len(self.waiting)) if random.random() < some}
        names = self._applied(chosen)
        for path in sorted(names, key=len):
            place = into / Path(path).relative_to(self.root)
            if not place.parent.is_dir():
                continue  # in a folder that is not there
            if names[path] == FOLDER:
                place.mkdir()
            else:
                place.write_bytes(self._bytes(names[path], random))

    def _bytes(self, number: int, random: Random) -> bytes:
        """Return a file's bytes: of those not synced some are there, eight at a time, some not.

        Each by chance; or all but eight near the end, as where a whole header made it.
        """
        both = (self.synced[number], self.current[number])
        size = len(random.choice(both))
        old, new = (content.ljust(size, b"\0") for content in both)
        starts = range(0, size, 8)
        hole = random.choice(starts[-6:]) if starts else 0
        lost = {i for i in starts if random.random() < 0.5} if random.random() < 0.5 else {hole}
        return b"".join((old if i in lost else new)[i : i + 8] for i in starts)[:size]


def recorded(monkeypatch: pytest.MonkeyPatch, disk: Disk) -> None:
    """Put a disk under all I/O of the package until the test ends."""
    monkeypatch.setattr(system, "primitives", disk.primitives())
