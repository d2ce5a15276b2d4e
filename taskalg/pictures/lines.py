"""Lines that are told apart, what they are called beside them, and the scale they share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taskalg.pictures.canvas import PAD, SMALL, number_text, widest

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

# Okabe and Ito 2008, told apart by color-blind people as well; without yellow, faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKS = ("o", "s", "^", "D", "v", "P")
DECADES = 2  # numbers that span more have a logarithmic scale
LEGEND_ROW = 0.175  # height [inches]
_HANDLE = 0.45  # width of a line's sample, with its distance [inches]


def color_of(index: int) -> str:
    """Return a line's color; they come again after seven lines."""
    return COLORS[index % len(COLORS)]


def dash_of(index: int) -> Any:
    """Return how a line is dashed, which tells lines of one color apart."""
    return DASHES[index // len(COLORS) % len(DASHES)]


def mark_of(index: int) -> str:
    """Return the mark of a vector's points, which tells those of one color apart."""
    return MARKS[index // len(COLORS) % len(MARKS)]


def legend_size(labels: Sequence[str], rows: int) -> tuple[float, int]:
    """Return a legend's width [inches] and its columns; a column has at most so many rows."""
    columns = -(-len(labels) // rows)
    return columns * (widest(labels) + _HANDLE) + PAD, columns


def add_legend(
    axes: "Axes", handles: Sequence["Artist"], labels: Sequence[str], *, columns: int = 1
) -> None:
    """Say beside the axes what lines are."""
    width = axes.get_window_extent().width / axes.figure.dpi
    axes.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(1 + 0.1 / width, 1),
        borderaxespad=0,
        borderpad=0,
        labelspacing=LEGEND_ROW * 72 / SMALL - 1.15,
        handlelength=2,
        handletextpad=0.6,
        columnspacing=1.2,
        ncols=columns,
    )


def set_scale(axes: "Axes", numbers: "NDArray[Any]", *, axis: str = "y") -> None:
    """Let an axis of sizes begin at 0, or be logarithmic where they span many decades.

    A logarithmic axis with zeros to show is linear below the smallest other number.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    finite = numbers[np.isfinite(numbers)]
    positive = finite[finite > 0]
    line = getattr(axes, f"{axis}axis")
    limit, scale = (getattr(axes, f"set_{axis}{what}") for what in ("lim", "scale"))
    if not positive.size or positive.max() <= positive.min() * 10**DECADES:
        limit(0, positive.max() * 1.06 if positive.size else 1)
        return
    if positive.size == finite.size:
        scale("log")
    else:
        scale("symlog", linthresh=10 ** np.floor(np.log10(positive.min())))
        limit(0, positive.max() * 2)
    line.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
    line.set_minor_formatter(NullFormatter())


def share_scale(panels: Sequence["Axes"]) -> None:
    """Let panels side by side have the first one's scale, and a grid."""
    for axes in panels:
        axes.grid(axis="y")
        axes.tick_params(length=2.5)
    for axes in panels[1:]:
        axes.sharey(panels[0])
        axes.tick_params(which="both", labelleft=False, left=False)
        axes.spines["left"].set_visible(False)
