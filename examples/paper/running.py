"""Run every seed of some experiments on all cores, with progress on a terminal.

Each seed has a process and one thread of its own: matrices this small are no faster with more, and
sums then have one order on a machine, so that a second run finds the same numbers.
"""

import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.pool import AsyncResult
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from paper.experiment import SEEDS, Experiment, Results, Section, Trial

_MARK = ".reproduced"  # in a folder that was made here, and may be made again
_OFTEN = 0.1  # seconds between two looks at the workers

_shared: list[MutableSequence[float]] = []  # in a worker: how much of each job is done


@dataclass(frozen=True)
class _Job:
    """One seed of an experiment, as a process is told of it."""

    experiment: Experiment
    seed: int
    folder: Path  # of this seed's checkpoints
    fast: bool

    def run(self, index: int) -> Results:
        """Measure; in a worker, whose row in the table of shares is given."""

        def told(share: float) -> None:
            _shared[0][index] = share

        found = self.experiment.measure(Trial(self.seed, self.folder, self.fast, told))
        told(1)
        return found


def run_all(experiments: Sequence[Experiment], out: Path, *, fast: bool) -> dict[str, Section]:
    """Measure all seeds of some experiments; return what they say, by the experiments' names.

    Args:
        experiments: the longest begin first, so that cores are busy to the end.
        out: gets a folder of checkpoints for every seed; new, empty, or of an earlier run.
        fast: one seed, and less of everything.

    Raises:
        click.ClickException: the folder holds something else.
    """
    seeds = SEEDS[:1] if fast else SEEDS
    _prepare(out, [experiment.name for experiment in experiments])
    jobs = [
        _Job(experiment, seed, out / experiment.name / f"seed-{seed}", fast)
        for experiment in sorted(experiments, key=lambda e: -e.seconds)
        for seed in seeds
    ]
    for job in jobs:
        job.folder.mkdir(parents=True)
    found = dict(
        zip([(job.experiment.name, job.seed) for job in jobs], _measured(jobs), strict=True)
    )
    return {e.name: e.tell([found[e.name, seed] for seed in seeds]) for e in experiments}


def _measured(jobs: Sequence[_Job]) -> list[Results]:
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of torch
    shares = context.Array("d", len(jobs))
    workers = min(len(jobs), multiprocessing.cpu_count())
    with context.Pool(workers, _start, (shares,)) as pool, _progress(jobs) as progress:
        running = [pool.apply_async(job.run, (index,)) for index, job in enumerate(jobs)]
        while not all(map(AsyncResult.ready, running)):
            for job in running:
                if job.ready():
                    job.get()  # what one of them raises ends all
            progress(shares[:])
            time.sleep(_OFTEN)
        return [job.get() for job in running]


def _start(shares: MutableSequence[float]) -> None:
    """Prepare a worker."""
    import torch

    _shared.append(shares)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers


@contextmanager
def _progress(jobs: Sequence[_Job]) -> Iterator[Callable[[Sequence[float]], None]]:
    """Show a bar for each experiment, on stderr if that is a terminal."""
    expected = [job.experiment.seconds for job in jobs]
    bar = (TextColumn("{task.description:<16}"), BarColumn(), TaskProgressColumn())
    console = Console(stderr=True)
    columns = (*bar, TimeElapsedColumn(), TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        everything = bars.add_task("everything", total=sum(expected))
        rows = {job.experiment.name: bars.add_task(job.experiment.name, total=0) for job in jobs}

        def show(shares: Sequence[float]) -> None:
            done = dict.fromkeys(rows, 0.0)
            for job, share in zip(jobs, shares, strict=True):
                done[job.experiment.name] += share * job.experiment.seconds
            for name, row in rows.items():
                total = sum(
                    s for s, job in zip(expected, jobs, strict=True) if job.experiment.name == name
                )
                bars.update(row, completed=done[name], total=total)
            bars.update(everything, completed=sum(done.values()))

        yield show


def _prepare(out: Path, names: Sequence[str]) -> None:
    """Make a folder, or remove what an earlier run of the same left there."""
    mark = out / _MARK
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise click.ClickException(
            f"{out} holds something else; give another folder, as --out mine"
        )
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()
    for name in names:
        shutil.rmtree(out / name, ignore_errors=True)
