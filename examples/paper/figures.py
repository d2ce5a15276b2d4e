"""Pictures of tables: how far something gets, what goes with what, curves and matrices."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def arrows(ways: Mapping[str, tuple[float, float, float]], title: str, label: str) -> "Figure":
    """Draw a row for each start, end and goal: a dot, an arrow and a bar.

    Args:
        ways: numbers by name; an arrow that leads away from the goal is red.
        title: of the picture.
        label: what the numbers are.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.5 + len(ways) / 4), layout="constrained")
    axes = figure.subplots()
    for row, (start, end, goal) in enumerate(ways.values()):
        axes.plot(start, row, "o", color="tab:gray")
        axes.plot(goal, row, "|", color="black", markersize=12)
        is_nearer = abs(goal - end) < abs(goal - start)
        style = {"arrowstyle": "->", "color": "tab:blue" if is_nearer else "tab:red"}
        axes.annotate("", (end, row), (start, row), arrowprops=style)
    axes.set_yticks(range(len(ways)), list(ways))
    axes.invert_yaxis()
    axes.set(xlabel=label, title=title)
    return figure


def scatter(
    causes: Mapping[str, Sequence[float]], effects: Sequence[float], label: str
) -> "Figure":
    """Draw effects over several causes, side by side.

    Args:
        causes: numbers by label.
        effects: as many numbers.
        label: what those are.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.5 * len(causes), 3.5), layout="constrained")
    panels = figure.subplots(1, len(causes), sharey=True, squeeze=False)[0]
    for axes, (name, cause) in zip(panels, causes.items(), strict=True):
        axes.plot(cause, effects, "o")
        axes.set_xlabel(name)
    panels[0].set_ylabel(label)
    return figure


def curves(
    places: Sequence[float],
    heights: Mapping[str, Sequence[float]],
    title: str,
    labels: tuple[str, str],
    *,
    logarithmic: bool = False,
) -> "Figure":
    """Draw lines over the same places.

    Args:
        places: rising; each is written at the axis if they are few.
        heights: numbers by name, as many as places.
        title: of the picture.
        labels: what places and heights are.
        logarithmic: whether places are as far apart as their logarithms.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, line in heights.items():
        axes.plot(places, line, ".-", label=name)
    axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
    if logarithmic:
        axes.set_xscale("log")
    if len(places) <= 10:
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.set_xticks([], minor=True)
    axes.legend()
    return figure


def matrix(cells: Mapping[tuple[str, str], float], title: str, digits: int) -> "Figure":
    """Draw the cells of a symmetric matrix that has no diagonal.

    Args:
        cells: numbers by the names of row and column, of which one order will do.
        title: of the picture.
        digits: of the numbers, after the point.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for pair in cells for name in pair))
    both = {**cells, **{pair[::-1]: number for pair, number in cells.items()}}
    size = (max(5, 1.5 + 0.7 * len(names)), 1 + 0.6 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    rows = [[both.get((row, column), math.nan) for column in names] for row in names]
    shown = axes.imshow(rows, cmap="Blues", aspect="auto")
    middle = (max(cells.values()) + min(cells.values())) / 2
    for (row, column), number in both.items():
        color = "white" if number > middle else "black"
        place = (names.index(column), names.index(row))
        axes.text(*place, f"{number:.{digits}f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title(title)
    figure.colorbar(shown)
    return figure
