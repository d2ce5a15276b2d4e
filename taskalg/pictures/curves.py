"""The curves of a sweep over one scalar: what was scored at each value, limits, and the choice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from taskalg.errors import listed
from taskalg.pictures.canvas import (
    FAINT,
    INK,
    PAPER,
    SMALL,
    Titles,
    add_axes,
    add_title,
    new_figure,
    number_text,
    shown,
    wrapped,
)
from taskalg.pictures.goals import Judged, judged
from taskalg.pictures.lines import COLORS, LEGEND_ROW, add_legend, color_of, legend_size
from taskalg.sweeping.values import Sweep

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.6  # of the panels [inches]
HEIGHT, LOWER = 3.0, 1.9  # of one panel, and of each of several [inches]
MOST_PANELS = 5
# Keys share a panel if they take a good part of its height: what all take together is at most so
# many times the largest, and the largest so many times the smallest.
_SPREAD, _LARGER = 2.5, 12
DOTTED = 61  # points that still have a dot each
_LEFT, _GAP = 0.85, 0.25  # what the scale takes, and what is between panels [inches]


@dataclass(frozen=True)
class Curve:
    """One key's scores."""

    key: str  # as it is shown
    color: str
    y: tuple[float, ...]  # in the order of the points
    base: float | None  # what the base scored
    limits: tuple[float, ...]  # of its conditions

    @property
    def span(self) -> tuple[float, float]:
        """The smallest and the largest number to be drawn."""
        drawn = [*self.y, *self.limits, *([] if self.base is None else [self.base])]
        finite = [value for value in drawn if np.isfinite(value)]
        return min(finite, default=0.0), max(finite, default=0.0)


@dataclass(frozen=True)
class Run:
    """What all curves have in common."""

    name: str  # of what is swept, as it is shown
    x: tuple[float, ...]  # its values, rising
    met: tuple[bool, ...]  # whether the points meet the conditions
    chosen: int | None  # which of the points is


def draw_curves(sweep: Sweep, names: tuple[str, ...]) -> "Figure":
    """Draw a curve for each key, keys of one size in one panel.

    Args:
        sweep: what was found.
        names: the scalar that is swept; several are equal at every point.
    """
    found = judged(sweep)
    order = sorted(range(len(sweep.points)), key=lambda i: sweep.points[i].values[names[0]])
    chosen = [place for place, i in enumerate(order) if sweep.points[i] is sweep.chosen]
    run = Run(
        " = ".join(map(shown, names)),
        tuple(float(sweep.points[i].values[names[0]]) for i in order),
        tuple(found.met[i] for i in order),
        chosen[0] if chosen else None,
    )
    panels, left_out = _panels(_curves(sweep, found, order))
    hollow = len(run.x) <= DOTTED and not all(run.met)
    notes = [
        sweep.choice,
        "hollow points do not meet the conditions" if hollow else "",
        f"not drawn: {listed(left_out)}" if left_out else "",
    ]
    return _figure(run, panels, [note for note in notes if note])


def _curves(sweep: Sweep, found: Judged, order: Sequence[int]) -> list[Curve]:
    """Return a curve for each key, what was asked for first.

    The largest λ may be what was asked for, but λ over λ says nothing.
    """
    aims = [] if found.aim in sweep.names else [found.aim]
    asked = [*aims, *(limit.key for limit in found.limits)]
    curves = []
    for index, key in enumerate(dict.fromkeys([*asked, *sweep.keys])):
        is_aim = key not in sweep.keys
        scores = found.aims if is_aim else [point.scores[key] for point in sweep.points]
        y = tuple(scores[i] for i in order)
        limits = tuple(limit.value for limit in found.limits if limit.key == key)
        curves.append(Curve(shown(key), color_of(index), y, sweep.base.get(key), limits))
    return curves


def _panels(curves: Sequence[Curve]) -> tuple[list[list[Curve]], list[str]]:
    """Sort curves into panels, as many as have colors and room; return the other keys, too."""
    panels: list[list[Curve]] = []
    left_out = []
    for index, curve in enumerate(curves):
        fitting = next((panel for panel in panels if _fit([*panel, curve])), None)
        if index >= len(COLORS) or (fitting is None and len(panels) == MOST_PANELS):
            left_out.append(curve.key)
        elif fitting is None:
            panels.append([curve])
        else:
            fitting.append(curve)
    return panels, left_out


def _fit(curves: Sequence[Curve]) -> bool:
    """Tell whether curves can share a panel without one being lost in it."""
    lows, highs = zip(*(curve.span for curve in curves), strict=True)
    heights = [high - low for low, high in zip(lows, highs, strict=True)]
    smallest = min((height for height in heights if height > 0), default=0.0)
    whole, largest = max(highs) - min(lows), max(heights)
    return bool(whole <= _SPREAD * largest and largest <= _LARGER * smallest) or whole == 0


def _figure(run: Run, panels: Sequence[Sequence[Curve]], notes: Sequence[str]) -> "Figure":
    labels = [label for curves in panels for label in _labels(curves, run)]
    across = _LEFT + WIDTH + legend_size(labels, len(labels))[0] + 0.2
    lines = tuple(line for note in notes for line in wrapped(note, across))
    titles = Titles(f"Sweep of {run.name}", lines)
    height = HEIGHT if len(panels) == 1 else LOWER
    height = max(height, max(len(_labels(curves, run)) for curves in panels) * LEGEND_ROW)
    top = titles.height + 0.25
    below = 0.55 - _GAP
    figure = new_figure(max(across, titles.width), top + len(panels) * (height + _GAP) + below)
    add_title(figure, titles)
    drawn = [
        add_axes(figure, _LEFT, top + row * (height + _GAP), WIDTH, height)
        for row in range(len(panels))
    ]
    for axes, curves in zip(drawn, panels, strict=True):
        _draw_panel(axes, curves, run)
    _share_values(drawn, run)
    return figure


def _labels(curves: Sequence[Curve], run: Run) -> list[str]:
    """Return what a panel's legend says, in the order in which things are drawn."""
    found = []
    for curve in curves:
        found.append(curve.key)
        if run.chosen is not None:
            found.append(f"chosen: {number_text(curve.y[run.chosen])}")
        if curve.base is not None:
            found.append(f"base: {number_text(curve.base)}")
        found += [f"limit: {number_text(limit)}" for limit in curve.limits]
    return found


def _draw_panel(axes: "Axes", curves: Sequence[Curve], run: Run) -> None:
    handles = [artist for curve in curves for artist in _draw(axes, curve, run)]
    add_legend(axes, handles, _labels(curves, run))
    axes.grid()
    axes.tick_params(length=2.5)
    axes.margins(x=0.03, y=0.12)
    if run.chosen is not None:
        axes.axvline(run.x[run.chosen], color=FAINT, linewidth=0.8, zorder=1)


def _draw(axes: "Axes", curve: Curve, run: Run) -> "list[Artist]":
    """Draw a curve and return what its entries in the legend show."""
    color = curve.color
    handles: list[Artist] = [*axes.plot(run.x, curve.y, color=color)]
    if len(run.x) <= DOTTED:
        faces = [color if met else PAPER for met in run.met]
        axes.scatter(run.x, curve.y, 16, faces, edgecolors=color, zorder=3)
    if run.chosen is not None:
        x, y = run.x[run.chosen], curve.y[run.chosen]
        handles += axes.plot(x, y, "o", color=color, markersize=8, markeredgecolor=INK, zorder=4)
    if curve.base is not None:
        handles.append(axes.axhline(curve.base, color=color, linestyle=":", linewidth=1.1))
    for limit in curve.limits:
        handles.append(axes.axhline(limit, color=color, linestyle="--", linewidth=1.1))
    return handles


def _share_values(panels: Sequence["Axes"], run: Run) -> None:
    for axes in panels[:-1]:
        axes.sharex(panels[-1])
        axes.tick_params(labelbottom=False)
    panels[-1].set_xlabel(run.name)
    if run.chosen is not None:
        x = run.x[run.chosen]
        words = f"{run.name} = {number_text(x)}"
        panels[0].text(
            x,
            1.02,
            words,
            transform=panels[0].get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=SMALL,
        )
