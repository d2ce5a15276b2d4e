"""What an experiment is: one function measures one seed, another tells what all seeds say.

Both are given values and return values, so that seeds can run in processes of their own, and a
report can be printed, written as Markdown or checked by a test.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = (0, 1, 2)  # decided before anything was run, and not changed since
Results = Mapping[str, Any]  # what one seed found: numbers, texts, and collections of such


@dataclass(frozen=True)
class Trial:
    """One run of an experiment."""

    seed: int  # of data, heads, first weights and batches
    folder: Path  # gets the checkpoints; empty
    fast: bool  # whether less will do: fewer cases, steps and points
    told: Callable[[float], None]  # called with the share that is done, 0 to 1


@dataclass(frozen=True)
class Table:
    """Rows of text."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # the first cell of each is its name

    def text(self) -> str:
        """Align the columns, numbers to the right."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]
        return "\n".join(
            "   ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
            for line in lines
        )

    def markdown(self) -> str:
        """Write the table as GitHub shows it."""
        rule = ("---", *("--:" for _ in self.head[1:]))
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.head, rule, *self.rows)]
        return "\n".join(lines)

    def csv(self) -> str:
        """Write the table for a spreadsheet."""
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows([self.head, *self.rows])
        return written.getvalue()


@dataclass(frozen=True)
class Picture:
    """Something to look at; matplotlib is imported when it is drawn."""

    name: str  # of its file, without a suffix
    caption: str
    draw: Callable[[], "Figure"]


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and what became of it here."""

    paper: str
    here: str  # with the number that was measured
    holds: bool


@dataclass(frozen=True)
class Section:
    """What all seeds of an experiment say."""

    text: str  # paragraphs, before the tables
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]
    claims: tuple[Claim, ...]
    remarks: str = ""  # what failed and why, and what to try; after the pictures


@dataclass(frozen=True)
class Experiment:
    """A section of the paper."""

    name: str  # of its files
    title: str
    seconds: float  # one seed takes on one core, about: the longest begin first
    measure: Callable[[Trial], Results]  # a function of a module, for other processes to find
    tell: Callable[[Sequence[Results]], Section]


def percent(share: float) -> str:
    """Write 0.123 as 12.3."""
    return f"{100 * share:.1f}"


def mean_percent(shares: Sequence[float]) -> str:
    """Write the mean of some shares, and half the distance of the outermost, in percent."""
    if len(shares) == 1:
        return percent(shares[0])
    return f"{percent(fmean(shares))} ± {percent((max(shares) - min(shares)) / 2)}"
