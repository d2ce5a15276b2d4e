"""The norms of vectors on modules or tensors, as rows of marks: long names can be read there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from taskalg.pictures.canvas import (
    PAD,
    Titles,
    add_axes,
    add_title,
    new_figure,
    shown,
    widest,
)
from taskalg.pictures.lines import add_legend, color_of, legend_size, mark_of, set_scale
from taskalg.pictures.subjects import Part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW = 0.2  # height of a part [inches]
WIDTH = 4.2  # of the axes [inches]
MOST_ROWS = 40  # parts that are drawn, the largest ones


def draw_ranking(parts: Sequence[Part], names: tuple[str, ...], title: str) -> "Figure":
    """Draw a row for each part, in their order.

    Args:
        parts: with a norm for each vector; of more than 40 the largest are drawn.
        names: of the vectors, as they are shown.
        title: what it is.
    """
    rows, note = largest(parts, MOST_ROWS)
    labels = [shown(part.name) for part in rows]
    titles = Titles(title, (note,) if note else ())
    left, top = 2 * PAD + widest(labels), titles.height
    height = max(ROW * len(rows), 0.5)
    most = max(4, int(height / ROW))
    beside, columns = legend_size(names, most) if len(names) > 1 else (0.2, 1)
    figure = new_figure(
        max(left + WIDTH + beside + 0.2, titles.width),
        top + max(height, ROW * -(-len(names) // columns)) + 0.55,
    )
    add_title(figure, titles)
    axes = add_axes(figure, left, top, WIDTH, height)
    for index in range(len(names)):
        axes.plot(
            [part.norms[index] for part in rows],
            np.arange(len(rows)),
            color=color_of(index),
            linestyle="",
            marker=mark_of(index),
            markersize=5,
        )
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid()
    axes.set_xlabel("norm")
    set_scale(axes, np.array([part.norms for part in rows], dtype=float), axis="x")
    if len(names) > 1:
        add_legend(axes, axes.lines, names, columns=columns)
    return figure


def largest(parts: Sequence[Part], most: int) -> tuple[list[Part], str]:
    """Return at most so many parts, in their order, and a note about the others."""
    if len(parts) <= most:
        return list(parts), ""
    sizes = [np.nan_to_num(np.max(part.norms, initial=0)) for part in parts]
    kept = sorted(np.argsort(sizes, kind="stable")[::-1][:most].tolist())
    return [parts[i] for i in kept], f"the {most} largest of {len(parts):,}"
