"""What the fuzz targets share: libFuzzer around a check, bounds on memory and time, and a report.

A target has a `check`, which raises when a promise is broken, and a `mutate`, which turns an input
into another one of the same structure. Neither needs atheris, so the ordinary tests use both.
"""

import dataclasses
import errno
import itertools
import os
import random
import resource
import stat
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Check = Callable[[bytes], None]
Mutate = Callable[[bytes, random.Random], bytes]

MEMORY = 256 << 20  # bytes one execution may take; a kilobyte of input explains no more
SECONDS = 10  # one execution may take; libFuzzer's default is 1200
DEFAULTS = ("-max_len=4096", f"-timeout={SECONDS}", "-rss_limit_mb=1500", "-print_final_stats=1")
REPORTS = 20  # times a run says how far it is; libFuzzer's end is not told to Python


class Memory:
    """Files in memory, under all I/O of the package; there are no folders and nothing to write."""

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self.files = dict(files or {})

    def install(self) -> Callable[[], None]:
        """Put the files under the package; return what takes them away again."""
        from taskalg import system  # only now, or atheris would come too late to watch it

        real = system.primitives
        calls: dict[str, Any] = {
            "open": lambda path, *rest: self._number(path),
            "close": lambda fd: None,
            "stat": lambda path: self._stat(self._number(path)),
            "lstat": lambda path: self._stat(self._number(path)),
            "fstat": self._stat,
            "listdir": lambda path: sorted(self.files),
            "preadv": self._preadv,
        }
        system.primitives = dataclasses.replace(real, **calls)

        def restore() -> None:
            system.primitives = real

        return restore

    def _number(self, path: str | os.PathLike[str]) -> int:
        """Return a file's place among the files, which is its descriptor as well."""
        for number, name in enumerate(self.files):
            if name == os.path.normpath(path):
                return number
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _content(self, fd: int) -> bytes:
        return next(itertools.islice(self.files.values(), fd, None))

    def _stat(self, fd: int) -> Any:
        size = len(self._content(fd))
        return SimpleNamespace(
            st_mode=stat.S_IFREG, st_size=size, st_mtime_ns=0, st_dev=1, st_ino=fd
        )

    def _preadv(self, fd: int, views: Sequence[memoryview], offset: int) -> int:
        content, done = self._content(fd), 0
        for view in views:
            part = content[offset + done : offset + done + view.nbytes]
            view[: len(part)] = part
            done += len(part)
        return done


class Tally:
    """Counts what became of the inputs."""

    def __init__(self, name: str, deep: str) -> None:
        self.name, self.deep = name, deep  # `deep` is the outcome whose share is promised
        self.executions = 0
        self.outcomes: Counter[str] = Counter()

    @property
    def share(self) -> float:
        """The part of all inputs that got as far as was promised."""
        return self.outcomes[self.deep] / max(1, self.executions)

    def __str__(self) -> str:
        return f"{self.name}: {self.executions:,} executions, {self.share:.1%} {self.deep}"

    def table(self) -> str:
        """List every outcome, the most frequent first."""
        return "\n".join(f"{count:12,}  {what}" for what, count in self.outcomes.most_common())


def check_message(said: str, longest: int) -> None:
    """Check that a terminal can show a message, and that no hostile name makes it long."""
    assert len(said) < longest, said
    for char in said.replace("\n", ""):
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"), said


def explore(check: Check, mutate: Mutate, seeds: list[bytes], rounds: int) -> None:
    """Check mutants of seeds, and mutants of those, without looking at coverage."""
    rng, pool = random.Random(0), list(seeds)
    for _ in range(rounds):
        mutant = mutate(rng.choice(pool), rng)
        check(mutant)
        if len(pool) < 10 * len(seeds):
            pool.append(mutant)
        else:
            pool[rng.randrange(len(seeds), len(pool))] = mutant


def run(check: Check, mutate: Mutate, tally: Tally) -> None:
    """Hand over to libFuzzer, with its options from the command line. Does not return."""
    import atheris

    wanted = [argument[6:] for argument in sys.argv if argument.startswith("-runs=")]
    runs = int(wanted[-1]) if wanted else 1_000_000
    every = max(1, runs // REPORTS)

    def execute(data: bytes) -> None:
        check(data)
        if tally.executions % every == 0:
            print(tally, file=sys.stderr, flush=True)
        if tally.executions == runs:
            print(tally.table(), file=sys.stderr, flush=True)

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.1:
            return bytes(atheris.Mutate(data, most))
        return mutate(data, rng)[:most]

    options = [option for option in DEFAULTS if not _given(option)]
    inputs = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    options += [] if inputs else [f"-runs={runs}"]  # with inputs, each of them is tried once
    atheris.Setup([*sys.argv, *options], execute, custom_mutator=change)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    atheris.Fuzz()


def _given(option: str) -> bool:
    return any(argument.startswith(option.partition("=")[0] + "=") for argument in sys.argv)
