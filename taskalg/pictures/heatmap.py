"""A table of numbers as colored cells, with the numbers in them where they fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taskalg.pictures.canvas import (
    NORMAL,
    PAD,
    PAPER,
    SMALL,
    Titles,
    add_axes,
    add_title,
    ink_on,
    new_figure,
    widest,
    width_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

ROOM = 6.2  # what the cells of a side take together, as far as they can [inches]
LARGEST, SMALLEST = 0.62, 0.19  # sides of a cell [inches]
MISSING = "#d4d4d4"  # of a cell without a number
_LEAST_SIZE = 6.0  # of numbers in cells [points]
_SLANT = 45  # of names below cells that are narrower [degrees]
_BAR = 0.16  # width of the colors' scale [inches]


@dataclass(frozen=True)
class Scale:
    """How numbers become colors and words."""

    colors: str  # matplotlib's name of a colormap
    low: float
    high: float
    label: str  # what the numbers are
    text: Callable[[float], str]  # of a number in its cell


@dataclass(frozen=True)
class Side:
    """One side of the table."""

    labels: tuple[str, ...]  # of its rows or columns, as they are shown
    name: str = ""  # what they are

    @property
    def step(self) -> float:
        """How many there are for each that has a label."""
        return len(self.labels) / max(1, sum(map(bool, self.labels)))


@dataclass(frozen=True)
class Heatmap:
    """Cells drawn, and where one may draw more; cell (i, j) covers x from j and y from i."""

    figure: "Figure"
    axes: "Axes"
    mesh: "QuadMesh"


def draw_heatmap(
    values: "NDArray[Any]", rows: Side, columns: Side, scale: Scale, titles: Titles
) -> Heatmap:
    """Draw square cells, as large as fits, in a figure as large as they and their labels need.

    Args:
        values: `(rows, columns)`, the first row at the top; NaN where there is none.
        rows: their labels.
        columns: their labels, slanted where they are wider than a cell.
        scale: colors and words of the numbers.
        titles: what stands over them.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    cell = _cell(values.shape, columns)
    flat = widest(columns.labels) <= cell * columns.step - 0.06
    lean = 0.0 if flat else widest(columns.labels) * 0.71 + 0.06
    left = max(2 * PAD + widest(rows.labels), lean - cell / 2 + PAD) + 0.22 * bool(rows.name)
    top = titles.height + PAD
    height, width = (cell * count for count in values.shape)
    below = max(0.26, lean + 0.14) + 0.22 * bool(columns.name) + PAD
    across = left + width + 2 * PAD + _BAR + 0.85
    figure = new_figure(max(across, titles.width), top + max(height, LARGEST) + below)
    add_title(figure, titles)
    axes = add_axes(figure, left, top, width, height)
    colors = colormaps[scale.colors].with_extremes(bad=MISSING)
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values),
        cmap=colors,
        vmin=scale.low,
        vmax=scale.high,
        edgecolors=PAPER,
        linewidth=min(1.0, cell * 2),
    )
    _label(axes, rows, columns, flat)
    bar = figure.colorbar(
        mesh, cax=add_axes(figure, left + width + 2 * PAD, top, _BAR, max(height, LARGEST))
    )
    bar.outline.set_visible(False)
    bar.set_label(scale.label)
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=2 if height < 1 else 4, steps=[1, 2, 5, 10]))
    _write(axes, mesh, values, scale.text, cell)
    return Heatmap(figure, axes, mesh)


def _cell(shape: tuple[int, ...], columns: Side) -> float:
    """Return the side of a cell [inches]; where not all have labels, they may be tiny."""
    least = SMALLEST if columns.step == 1 else SMALLEST / 8
    return min(LARGEST, max(least, ROOM / max(shape)))


def _label(axes: "Axes", rows: Side, columns: Side, flat: bool) -> None:
    axes.invert_yaxis()
    axes.set_xticks(
        np.arange(len(columns.labels)) + 0.5,
        columns.labels,
        rotation=0 if flat else _SLANT,
        ha="center" if flat else "right",
        rotation_mode="anchor",
    )
    axes.set_yticks(np.arange(len(rows.labels)) + 0.5, rows.labels)
    axes.set_xlabel(columns.name)
    axes.set_ylabel(rows.name)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _write(
    axes: "Axes",
    mesh: "QuadMesh",
    values: "NDArray[Any]",
    text: Callable[[float], str],
    cell: float,
) -> None:
    """Write the numbers into their cells, if all fit."""
    texts = [[text(value) for value in row] for row in values.tolist()]
    longest = max((one for row in texts for one in row), key=len)
    size = min(NORMAL, 0.86 * cell / max(width_of(longest), 1e-9) * SMALL)
    if size < _LEAST_SIZE:
        return
    colors = mesh.to_rgba(np.ma.masked_invalid(values))
    for row, column in np.ndindex(*values.shape):
        axes.text(
            column + 0.5,
            row + 0.5,
            texts[row][column],
            ha="center",
            va="center",
            fontsize=size,
            color=ink_on(colors[row, column].tolist()),
        )


def thinned(labels: Sequence[str], most: int) -> tuple[str, ...]:
    """Return labels of which at most so many are not empty, at even and round distances."""
    steps = (round_one * 10**power for power in range(7) for round_one in (1, 2, 4, 5))
    step = next(step for step in steps if -(-len(labels) // step) <= most)
    return tuple(label if i % step == 0 else "" for i, label in enumerate(labels))
