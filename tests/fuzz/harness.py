"""What the fuzz targets share: libFuzzer around a check, bounds on memory and time, and a report.

A target has a `check`, which raises when a promise is broken, and a `mutate`, which turns an input
into another one of the same structure. Neither needs atheris, so the ordinary tests use both.
"""

import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

Check = Callable[[bytes], None]
Mutate = Callable[[bytes, random.Random], bytes]

MEMORY = 256 << 20  # bytes one execution may take; a kilobyte of input explains no more
SECONDS = 10  # one execution may take; libFuzzer's default is 1200
DEFAULTS = ("-max_len=4096", f"-timeout={SECONDS}", "-rss_limit_mb=1500", "-print_final_stats=1")
REPORTS = 20  # times a run says how far it is; libFuzzer's end is not told to Python


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
    atheris.Setup([*sys.argv, f"-runs={runs}", *options], execute, custom_mutator=change)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    atheris.Fuzz()


def _given(option: str) -> bool:
    return any(argument.startswith(option.partition("=")[0] + "=") for argument in sys.argv)
