"""The norms of vectors, layer by layer.

A stack of layers has a panel of its own, since layer 3 of an encoder and of a decoder are nothing
alike; tensors in no layer are marks beside them, not points of a line. All panels have one scale.
Modules and tensors have no such order: they are ranked, in ranking.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taskalg.algebra.selectors import layer_of
from taskalg.pictures.canvas import (
    FAINT,
    SMALL,
    Titles,
    add_axes,
    add_title,
    new_figure,
    settled,
    shown,
    style,
    widest,
)
from taskalg.pictures.lines import (
    add_legend,
    color_of,
    dash_of,
    legend_size,
    mark_of,
    set_scale,
    share_scale,
)
from taskalg.pictures.ranking import draw_ranking, largest
from taskalg.pictures.subjects import Geometry, Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 3.0  # of the panels [inches]
LAYERS = 5.6  # what stacks of layers take together, as far as they can [inches]
NARROWEST = 1.3  # panel of a stack [inches]
MARK = 0.32  # width of a part in no layer [inches]
MOST_MARKS = 16  # parts in no layer that are drawn, the largest ones
DOTTED = 36  # layers that still have a dot each
_LEFT, _GAP = 0.8, 0.22  # what the scale takes, and what is between panels [inches]
_LEGEND_ROWS = 17


@dataclass(frozen=True)
class Stack:
    """The layers of one stack."""

    name: str  # such as "encoder.block"
    layers: tuple[int, ...]
    norms: tuple[NDArray[Any], ...]  # one for each layer, of every vector


@style()
def norms_figure(geometry: Geometry, *, by: str = "layer") -> "Figure":
    """Draw the norms of vectors on parts of their tensors.

    Args:
        geometry: what `taskalg.geometry` returned.
        by: "layer" for lines over the layers of each stack; "module" or "tensor" for a ranking, of
            which the largest 40 are drawn.

    Raises:
        UsageError: matplotlib is not installed, or there is no such sort of part.
    """
    parts = geometry.by(by)
    names = tuple(map(shown, geometry.names))
    title = f"Norm{f' of {names[0]}' if len(names) == 1 else 's'} by {by}"
    stacks, rest = _stacks(parts)
    if by == "layer" and stacks:
        return settled(_over_layers(stacks, rest, names, title))
    return settled(draw_ranking(parts, names, title))


def _stacks(parts: Sequence[Part]) -> tuple[list[Stack], list[Part]]:
    """Sort parts into stacks, in the order of their layers, and what is in none."""
    found: dict[str, dict[int, NDArray[Any]]] = {}
    rest = []
    for part in parts:
        place = layer_of(part.name)
        if place is None:
            rest.append(part)
        else:
            found.setdefault(place[0], {})[place[1]] = part.norms
    stacks = [
        Stack(name, tuple(sorted(layers)), tuple(layers[layer] for layer in sorted(layers)))
        for name, layers in found.items()
    ]
    return stacks, rest


def _over_layers(
    stacks: Sequence[Stack], rest: Sequence[Part], names: tuple[str, ...], title: str
) -> "Figure":
    marks, note = largest(rest, MOST_MARKS)
    titles = Titles(title, (f"outside layers {note}",) if note else ())
    labels = [shown(part.name) for part in marks]
    count = sum(len(stack.layers) for stack in stacks)
    widths = [max(NARROWEST, LAYERS * len(stack.layers) / count) for stack in stacks]
    widths += [max(0.9, MARK * len(marks))] * bool(marks)
    panels = _panels(widths, names, titles, widest(labels) * 0.71)
    for axes, stack in zip(panels, stacks, strict=False):
        _draw_stack(axes, stack, len(names))
    if marks:
        _draw_marks(panels[-1], marks, labels, len(names))
    norms = [norms for stack in stacks for norms in stack.norms] + [part.norms for part in marks]
    set_scale(panels[0], np.array(norms, dtype=float))
    panels[0].set_ylabel("norm")
    if len(names) > 1:
        _, columns = legend_size(names, _LEGEND_ROWS)
        add_legend(panels[-1], panels[0].lines, names, columns=columns)
    return panels[0].figure  # type: ignore[return-value]


def _panels(
    widths: Sequence[float], names: tuple[str, ...], titles: Titles, slanted: float
) -> list["Axes"]:
    """Return panels side by side, in a figure with room for names beside and below them."""
    top = titles.height + 0.3
    across = _LEFT + sum(widths) + _GAP * len(widths)
    beside = legend_size(names, _LEGEND_ROWS)[0] if len(names) > 1 else 0
    width = max(across + beside, titles.width)
    figure = new_figure(width, top + HEIGHT + max(0.55, slanted + 0.25))
    add_title(figure, titles)
    starts = [_LEFT + sum(widths[:i]) + _GAP * i for i in range(len(widths))]
    panels = [
        add_axes(figure, start, top, width, HEIGHT)
        for start, width in zip(starts, widths, strict=True)
    ]
    share_scale(panels)
    return panels


def _draw_stack(axes: "Axes", stack: Stack, count: int) -> None:
    from matplotlib.ticker import MaxNLocator

    for index in range(count):
        axes.plot(
            stack.layers,
            [norms[index] for norms in stack.norms],
            color=color_of(index),
            linestyle=dash_of(index),
            marker="o" if len(stack.layers) <= DOTTED else "",
            markersize=3.5,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("layer")
    axes.set_title(shown(stack.name), loc="left", fontsize=SMALL, color=FAINT)
    axes.margins(x=0.03)


def _draw_marks(axes: "Axes", marks: Sequence[Part], labels: Sequence[str], count: int) -> None:
    for index in range(count):
        aside = 0.5 * ((index + 0.5) / count - 0.5)  # so that equal ones do not hide each other
        axes.plot(
            np.arange(len(marks)) + aside,
            [part.norms[index] for part in marks],
            color=color_of(index),
            linestyle="",
            marker=mark_of(index),
            markersize=4,
        )
    places = range(len(marks))
    axes.set_xticks(places, labels, rotation=45, ha="right", va="top", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(marks) - 0.4)
