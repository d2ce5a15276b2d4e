"""What was measured, as HTML: tables whose cells are tinted as the pictures are."""

from collections.abc import Callable, Sequence

from taskalg.markup import Cell, Row, message, page, table, tint
from taskalg.measuring.adding import Matrix
from taskalg.measuring.tables import Measured, cosine_text, number_text, percent_text, size_text

Text = Callable[[float], str]


def geometry_html(geometry: Measured) -> str:
    """Return norms, cosines and where signs agree; red is alike, blue is opposite."""
    whole = geometry.whole
    names = geometry.names
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
    """Return a row for each vector; a share of 1 is red behind its value, -1 blue, 0 nothing."""
    rows: list[Row] = []
    for name, numbers, tints in zip(names, values.tolist(), shares.tolist(), strict=True):
        cells = [
            Cell(text(number), tint(share)) for number, share in zip(numbers, tints, strict=True)
        ]
        rows.append([name, *cells])
    return rows
