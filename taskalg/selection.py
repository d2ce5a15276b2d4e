"""Python's brackets to selectors: what stands inside `recipe[...]`."""

from dataclasses import dataclass
from typing import Any

from taskalg.algebra.selectors import Glob, Item, LayerRange, Selector
from taskalg.errors import UsageError

_EXPECTED = 'a pattern like "*.mlp.*", a layer, or a range of layers like 0:16'


@dataclass(frozen=True)
class Excluded:
    """Items that a selector leaves out: `~` in the language. Made by `exclude`."""

    items: tuple[Item, ...]


def exclude(*items: str | int | slice) -> Excluded:
    """Leave tensors out of a selection.

    For example `toxic["*.mlp.*", taskalg.exclude("*.bias")]`.

    Args:
        items: patterns, layers, or ranges of layers written `slice(0, 16)`.

    Raises:
        UsageError: an item is none of these.
    """
    return Excluded(tuple(_item(item) for item in items))


def selector_of(items: tuple[Any, ...]) -> Selector:
    """Return the selector that brackets around these items mean.

    Raises:
        UsageError: an item is no pattern, layer or range.
    """
    plain: list[Item] = []
    excluded: list[Item] = []
    for item in items:
        if isinstance(item, Excluded):
            excluded += item.items
        else:
            plain.append(_item(item))
    if not plain and not excluded:
        raise UsageError("the brackets select nothing", note=f"expected {_EXPECTED}")
    return Selector(tuple(dict.fromkeys(plain)), tuple(dict.fromkeys(excluded)))


def _item(item: Any) -> Item:
    if isinstance(item, str):
        return Glob(item)
    if isinstance(item, bool) or not isinstance(item, int | slice):
        raise UsageError(f"{item!r} selects no tensors", note=f"expected {_EXPECTED}")
    if isinstance(item, int):
        return LayerRange(item, item + 1 or None)
    bounds = (item.start, item.stop)
    if item.step is not None or any(not isinstance(b, int | None) for b in bounds):
        raise UsageError(f"{item!r} is no range of layers", note="there are no steps")
    return LayerRange(*bounds)
