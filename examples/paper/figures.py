"""Pictures of tables: how far something gets, and what goes with what."""

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
