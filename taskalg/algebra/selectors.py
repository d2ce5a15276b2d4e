"""Coefficients that depend on the tensor: patterns, ranges of layers, ramps.

A selector is 1 on the tensors it selects and 0 elsewhere; a ramp is a number that follows depth.
Both are functions of a tensor's name and of its place in the stack of layers it belongs to.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import translate
from fractions import Fraction
from functools import lru_cache

from taskalg.algebra.rationals import decimal_text

_OPEN = frozenset("*?[")  # what makes a pattern more than a name
_LONGEST_LAYER = 9  # digits; a longer component is an identifier, not a layer


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands in its stack."""

    layer: int
    first: int  # first layer of the stack
    last: int  # last layer of the stack; equal to `first` in a stack of one


@dataclass(frozen=True, slots=True, order=True)
class Glob:
    """Tensors whose whole name matches; `*` crosses dots (`fnmatchcase`)."""

    pattern: str

    def matches(self, name: str) -> bool:
        """Return whether the name matches."""
        return _compiled(self.pattern)(name) is not None

    def __str__(self) -> str:
        quote = "'" if '"' in self.pattern else '"'
        return f"{quote}{self.pattern}{quote}"


@dataclass(frozen=True, slots=True)
class LayerRange:
    """Layers from `start` up to but without `stop`; negative counts from the last + 1."""

    start: int | None
    stop: int | None

    def contains(self, place: Place | None) -> bool:
        """Return whether the place is in the range; a tensor in no stack is in none."""
        if place is None:
            return False
        after = place.last + 1
        start = 0 if self.start is None else self.start + after * (self.start < 0)
        stop = after if self.stop is None else self.stop + after * (self.stop < 0)
        return start <= place.layer < stop

    def __str__(self) -> str:
        if self.start is not None and self.stop == (self.start + 1 or None):
            return str(self.start)
        start, stop = ("" if bound is None else str(bound) for bound in (self.start, self.stop))
        return f"{start}:{stop}"


Item = Glob | LayerRange


@dataclass(frozen=True, slots=True)
class Selector:
    """A set of tensors: any plain item matches, or there is none, and no excluded item does."""

    plain: tuple[Item, ...]
    excluded: tuple[Item, ...]

    def selects(self, name: str, place: Place | None) -> bool:
        """Return whether the tensor is in the set."""
        if any(_holds(item, name, place) for item in self.excluded):
            return False
        return not self.plain or any(_holds(item, name, place) for item in self.plain)

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names it is a list of, whole ones; None when it is something else."""
        globs = [item.pattern for item in self.plain if isinstance(item, Glob)]
        is_list = self.plain and len(globs) == len(self.items)
        return tuple(globs) if is_list and _OPEN.isdisjoint("".join(globs)) else None

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, plain ones first."""
        return self.plain + self.excluded

    def __str__(self) -> str:
        items = [str(item) for item in self.plain] + [f"~{item}" for item in self.excluded]
        return f"[{', '.join(items)}]"


@dataclass(frozen=True, slots=True)
class Ramp:
    """Piecewise linear in depth = (layer - first) / (last - first); `values[0]` outside stacks.

    With two values it is the layer scaling of LiNeS (Wang et al. 2024, arXiv 2410.17146, eq. 5).
    """

    values: tuple[Fraction, ...]  # at equally spaced depths from 0 to 1, two or more

    def __str__(self) -> str:
        return f"ramp({', '.join(map(decimal_text, self.values))})"

    def at(self, place: Place | None) -> Fraction:
        """Return the value for a tensor at `place`, exactly."""
        if place is None or place.first == place.last:
            return self.values[0]
        return self.at_depth(Fraction(place.layer - place.first, place.last - place.first))

    def at_depth(self, depth: Fraction) -> Fraction:
        """Return the value at a depth in [0, 1]."""
        position = depth * (len(self.values) - 1)
        left = min(int(position), len(self.values) - 2)
        a, b = self.values[left], self.values[left + 1]
        return a + (b - a) * (position - left)


def _holds(item: Item, name: str, place: Place | None) -> bool:
    return item.matches(name) if isinstance(item, Glob) else item.contains(place)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(translate(pattern)).match


def layer_of(name: str) -> tuple[str, int] | None:
    """Return a name's stack and layer: the first component that is all digits, or None.

    >>> layer_of("model.layers.12.mlp.up.weight"), layer_of("lm_head.weight")
    (('model.layers', 12), None)
    """
    components = name.split(".")
    for index, component in enumerate(components):
        if component.isdigit() and component.isascii() and len(component) <= _LONGEST_LAYER:
            return ".".join(components[:index]), int(component)
    return None


def places(names: Iterable[str]) -> dict[str, Place | None]:
    """Return every tensor's place; first and last layers are counted for each stack."""
    found = {name: layer_of(name) for name in names}
    ends: dict[str, tuple[int, int]] = {}
    for entry in found.values():
        if entry is not None:
            first, last = ends.get(entry[0], (entry[1], entry[1]))
            ends[entry[0]] = (min(first, entry[1]), max(last, entry[1]))
    return {
        name: None if entry is None else Place(entry[1], *ends[entry[0]])
        for name, entry in found.items()
    }
