"""What was measured, as HTML: tables whose cells are tinted as the pictures are."""

from collections.abc import Callable, Sequence

from taskalg.markup import Cell, Row, message, page, table, tint
from taskalg.measuring.adding import Matrix
from taskalg.measuring.tables import Measured, cosine_text, number_text, percent_text, size_text

Text = Callable[[float], str]


def geometry_html(geometry: Measured) -> str:
    """Return norms, cosines and where signs agree; red is alike, blue is opposite."""
    whole, names = geometry.whole, geometry.names
    columns = range(1, len(names) + 1)
    norms: Row = ["norm", *map(number_text, whole.norms.tolist())]
    angles = _square(names, whole.cosines, whole.cosines, cosine_text)
    signs = _square(names, whole.agreement, 2 * whole.agreement - 1, percent_text)
    return page(
        table(("", *names), [norms], numbers=columns),
        table(("cosine", *names), angles, numbers=columns),
        table(("signs agree", *names), signs, numbers=columns),
        message(size_text(whole)),
    )


def _square(names: Sequence[str], values: Matrix, shares: Matrix, text: Text) -> list[Row]:
    rows = zip(names, values.tolist(), shares.tolist(), strict=True)
    return [
        [name, *(Cell(text(value), tint(share)) for value, share in zip(row, tints, strict=True))]
        for name, row, tints in rows
    ]
