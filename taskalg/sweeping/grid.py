"""Values of scalars to the points of a grid, all of them exact.

`0:1:0.05` is 21 numbers, none of them a sum of rounded steps, and the last one is 1. A step that
misses the end is refused: whoever writes `0:1:0.3` expects either 0.9 or 1 to be the last, and only
they know which.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, product

from taskalg.algebra.rationals import decimal_text
from taskalg.compiler import checked_name, scalar
from taskalg.errors import UsageError, printable, quoted
from taskalg.scalars import Number, is_number, to_fraction

MAX_POINTS = 10_000  # each is an evaluation and a scoring
EXAMPLE = "λ=0:1:0.05"
Values = str | Number | Iterable[Number]


@dataclass(frozen=True)
class Axis:
    """Scalars that move together, and what they take."""

    names: tuple[str, ...]
    values: tuple[Fraction, ...]  # each once, in the order they were given


@dataclass(frozen=True)
class Grid:
    """Axes that move independently."""

    axes: tuple[Axis, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All swept scalars, in the order they were given."""
        return tuple(name for axis in self.axes for name in axis.names)

    @property
    def points(self) -> list[dict[str, Fraction]]:
        """Every combination of values; those of the last axis change fastest."""
        return [
            {
                name: value
                for axis, value in zip(self.axes, values, strict=True)
                for name in axis.names
            }
            for values in product(*(axis.values for axis in self.axes))
        ]


def read_grid(settings: Mapping[str, Values]) -> Grid:
    """Return the grid of some scalars.

    Args:
        settings: by name, or by names that share their values, `a=b`: a text like `0:1:0.05` or
            `0, 0.5, 1`, numbers, or one number.

    Raises:
        UsageError: something is no number, a step misses its end, or there are too many points.
        ExpressionError: a text cannot be read.
    """
    axes = tuple(_axis(names, values) for names, values in settings.items())
    names = [name for axis in axes for name in axis.names]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{quoted(name)} is swept twice", help="give each name once")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MAX_POINTS:
        raise _too_many(f"the grid has {count:,} points")
    if not axes:
        raise UsageError("nothing is swept", help=f'give a scalar values: --set "{EXAMPLE}"')
    return Grid(axes)


def split_setting(text: str) -> tuple[str, str | None, bool]:
    """Return what `NAME=VALUES` names and gives, and whether it is several values.

    >>> split_setting("a=b=0:1:0.5"), split_setting("s=ramp(0, 1)")
    (('a=b', '0:1:0.5', True), ('s', 'ramp(0, 1)', False))
    """
    *names, values = _split(text, "=")
    if not names:
        return text, None, False
    several = len(_split(values, ",")) > 1 or len(_split(values, ":")) > 1
    return "=".join(names), values, several


def _axis(written: str, values: Values) -> Axis:
    names = tuple(checked_name(name.strip()) for name in written.split("="))
    label = "=".join(names)
    if isinstance(values, str):
        found = [value for item in _split(values, ",") for value in _item(item, label)]
    elif is_number(values):
        found = [to_fraction(values)]
    elif isinstance(values, Iterable):
        found = [to_fraction(value) for value in islice(values, MAX_POINTS + 1)]
        if len(found) > MAX_POINTS:
            raise _too_many(f"{quoted(label)} has too many values")
    else:
        raise UsageError(
            f"{quoted(label)} is swept over a text or numbers",
            note=f"found {type(values).__name__}",
        )
    if not found:
        raise UsageError(f"{quoted(label)} has no values", help=f'write "{EXAMPLE}"')
    return Axis(names, tuple(dict.fromkeys(found)))


def _item(text: str, name: str) -> Iterable[Fraction]:
    """Return the values of `a` or `a:b:step`."""
    parts = [_number(part, name) for part in _split(text, ":")]
    if len(parts) == 1:
        return parts
    if len(parts) != 3:
        shown = printable(text.strip())
        raise UsageError(f"{shown} is not a range", help=f"write {name}={EXAMPLE[2:]}, with a step")
    start, end, step = parts
    return _range(start, end, step, name)


def _range(start: Fraction, end: Fraction, step: Fraction, name: str) -> Iterable[Fraction]:
    shown = [decimal_text(value) for value in (start, end, step)]
    if step == 0:
        raise UsageError(
            f"{':'.join(shown)} has a step of zero", help=f"write {name}={EXAMPLE[2:]}"
        )
    steps = (end - start) / step
    if steps < 0:
        shown[2] = decimal_text(-step)
        raise UsageError(
            f"a step of {decimal_text(step)} does not lead from {shown[0]} to {shown[1]}",
            help=f"write {name}={':'.join(shown)}",
        )
    if steps >= MAX_POINTS:
        raise _too_many(f"{':'.join(shown)} has too many values")
    last = start + math.floor(steps) * step
    if last != end:
        raise UsageError(
            f"{':'.join(shown)} does not end at {shown[1]}",
            note=f"the last value before it is {decimal_text(last)}",
            help=f"write {name}={shown[0]}:{decimal_text(last)}:{shown[2]}",
        )
    return (start + index * step for index in range(math.floor(steps) + 1))


def _number(text: str, name: str) -> Fraction:
    if not text.strip():
        raise UsageError(f"a value of {quoted(name)} is empty", help=f"write {name}={EXAMPLE[2:]}")
    value = scalar(text, name).constant
    if value is None:
        raise UsageError(f"{quoted(name)} is swept over numbers", note=f"found {quoted(text)}")
    return value


def _too_many(what: str) -> UsageError:
    return UsageError(what, note=f"at most {MAX_POINTS:,} are tried", help="take larger steps")


def _split(text: str, separator: str) -> list[str]:
    """Divide a text at separators that stand outside brackets."""
    depth, parts = 0, [""]
    for char in text:
        depth += (char in "([") - (char in ")]")
        if char == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts
