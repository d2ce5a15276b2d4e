"""What was measured, as aligned text and as JSON."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from taskalg.errors import cells, listed, printable, quoted
from taskalg.measuring.adding import Matrix
from taskalg.measuring.parts import Part

_FEW = 3  # vectors whose angles are listed part by part; of more there are too many pairs


class Measured(Protocol):
    """Vectors that were measured."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the vectors."""

    @property
    def whole(self) -> Part:
        """On all tensors."""

    @property
    def bytes_read(self) -> int:
        """When they were measured."""

    @property
    def seconds(self) -> float:
        """Likewise."""

    @property
    def cached(self) -> bool:
        """Whether that was an earlier time."""

    def by(self, level: str, /) -> tuple[Part, ...]:
        """Return the same for parts of the model."""


def geometry_text(geometry: Measured) -> str:
    """Print norms, cosines, and where signs agree."""
    names = [printable(name) for name in geometry.names]
    whole = geometry.whole
    norms = [("norm", *map(number_text, whole.norms.tolist()))]
    blocks = [
        aligned([("", *names), *norms]),
        _square("cosine", names, whole.cosines, cosine_text),
        _square("signs agree", names, whole.agreement, percent_text),
    ]
    return "\n\n".join([*("\n".join(block) for block in blocks), size_text(whole)])


def size_text(part: Part) -> str:
    """Say how large each vector is."""
    tensors = f"{len(part.tensors):,} tensor{'' if len(part.tensors) == 1 else 's'}"
    return f"{tensors}, {part.elements:,} elements"


def parts_text(geometry: Measured, level: str) -> str:
    """Print norms part by part, and the angles between few vectors."""
    names = [printable(name) for name in geometry.names]
    count = len(names)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)] if count <= _FEW else []
    head = (level, *names, *(f"cos({names[i]}, {names[j]})" for i, j in pairs))
    rows = [
        (
            printable(part.name),
            *map(number_text, part.norms.tolist()),
            *(cosine_text(part.cosines[pair]) for pair in pairs),
        )
        for part in geometry.by(level)
    ]
    return "\n".join(aligned([head, *rows]))


def geometry_json(geometry: Measured, by: str | None) -> dict[str, Any]:
    """Return everything, also for parts if a level is given; what is NaN is null."""
    found = {
        "schema": 1,
        "names": list(geometry.names),
        "tensors": len(geometry.whole.tensors),
        **_part_json(geometry.whole),
        "bytes_read": geometry.bytes_read,
        "seconds": geometry.seconds,
        "cached": geometry.cached,
    }
    if by is not None:
        parts = [{"name": part.name, **_part_json(part)} for part in geometry.by(by)]
        found |= {"by": by, "parts": parts}
    return found


def nan_notes(geometry: Measured) -> list[str]:
    """Say which tensors have no products that are numbers."""
    diagonals = ((part.name, part.gram.diagonal()) for part in geometry.by("tensor"))
    names = [quoted(name) for name, squares in diagonals if not np.isfinite(squares).all()]
    return [f"NaN or Inf, or too large for binary64, in {listed(names)}"] if names else []


def number_text(value: float) -> str:
    """Print a number to four digits: `12.41`, `0.003100`, `0`, `NaN`."""
    if value == 0:
        return "0"
    return f"{value:#.4g}".rstrip(".") if math.isfinite(value) else "NaN"


def _part_json(part: Part) -> dict[str, Any]:
    return {
        "elements": part.elements,
        "norms": _numbers(part.norms.tolist()),
        "gram": _numbers(part.gram.tolist()),
        "cosines": _numbers(part.cosines.tolist()),
        "agreement": _numbers(part.agreement.tolist()),
    }


def _numbers(found: Any) -> Any:
    if isinstance(found, list):
        return [_numbers(one) for one in found]
    return found if math.isfinite(found) else None


def _square(
    title: str, names: Sequence[str], values: Matrix, text: Callable[[float], str]
) -> list[str]:
    rows = zip(names, values.tolist(), strict=True)
    return aligned([(title, *names), *((name, *map(text, row)) for name, row in rows)])


def cosine_text(value: float) -> str:
    """Print a cosine to four places."""
    return f"{value:.4f}" if math.isfinite(value) else "NaN"


def percent_text(value: float) -> str:
    """Print a share."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else "NaN"


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align the first column to the left and the others to the right."""
    widths = [max(cells(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        others = (
            " " * (width - cells(text)) + text for text, width in zip(rest, widths[1:], strict=True)
        )
        lines.append("   ".join([first + " " * (widths[0] - cells(first)), *others]))
    return lines
