"""What a sweep found: curves over one scalar, or a heatmap over two.

A third scalar has no place on paper: what is drawn then is the best over its values, and the
picture says so. Scalars that are swept together count as one.
"""

from fractions import Fraction
from typing import TYPE_CHECKING

from taskalg.pictures.canvas import settled, style
from taskalg.pictures.curves import draw_curves
from taskalg.pictures.grids import draw_grid
from taskalg.sweeping.values import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@style()
def sweep_figure(sweep: Sweep) -> "Figure":
    """Draw the scores of a sweep, its conditions and the chosen point.

    Args:
        sweep: what `taskalg.sweep` returned.

    Raises:
        UsageError: matplotlib is not installed.
    """
    axes = independent(sweep)
    if len(axes) == 1:
        return settled(draw_curves(sweep, axes[0]))
    return settled(draw_grid(sweep, axes))


def independent(sweep: Sweep) -> list[tuple[str, ...]]:
    """Return the scalars that vary, those together that are equal at every point."""
    columns = {name: tuple(point.values[name] for point in sweep.points) for name in sweep.names}
    groups: dict[tuple[Fraction, ...], list[str]] = {}
    for name, column in columns.items():
        groups.setdefault(column, []).append(name)
    varying = [tuple(names) for column, names in groups.items() if len(set(column)) > 1]
    return varying or [sweep.names]
