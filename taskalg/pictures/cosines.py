"""The cosines between task vectors, as a heatmap.

Blue is apart, white is orthogonal, red is alike: the middle of the colors is 0 and their ends are
-1 and 1 whatever was measured, so that two pictures can be compared.
"""

from typing import TYPE_CHECKING

import numpy as np

from taskalg.pictures.canvas import Titles, settled, shown, style
from taskalg.pictures.heatmap import Scale, Side, draw_heatmap
from taskalg.pictures.subjects import Geometry

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@style()
def cosines_figure(geometry: Geometry) -> "Figure":
    """Draw the cosines between vectors, in their order.

    The numbers stand in the cells as long as they can be read there, up to about 20 vectors. A
    vector of zeros has no cosines: its cells are gray.

    Args:
        geometry: what `taskalg.geometry` returned.

    Raises:
        UsageError: matplotlib is not installed.
    """
    names = Side(tuple(map(shown, geometry.names)))
    scale = Scale("RdBu_r", -1, 1, "cosine", _two_digits)
    cosines = np.asarray(geometry.cosines, dtype=float)
    drawn = draw_heatmap(cosines, names, names, scale, Titles("Cosines between vectors"))
    return settled(drawn.figure)


def _two_digits(value: float) -> str:
    """Print a cosine; what rounds to zero has no sign."""
    if value != value:
        return "–"
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "\N{MINUS SIGN}")
