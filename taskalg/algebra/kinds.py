"""Kinds are computed, never declared: a kind is what the coefficients add up to."""

from collections.abc import Iterable
from enum import StrEnum
from fractions import Fraction

from taskalg.algebra.coefficient import Coefficient, Number


class Kind(StrEnum):
    """What a value is."""

    SCALAR = "scalar"  # no checkpoint in it
    MODEL = "model"  # coefficients add up to 1 on every tensor
    TASK_VECTOR = "task vector"  # … to 0 on every tensor
    PARTIAL = "partial"  # … to anything else, or not to the same everywhere


def kind_of(totals: Iterable[Number]) -> Kind:
    """Return the kind of a checkpoint value from its total on every tensor.

    >>> kind_of([Fraction(1)]), kind_of([Fraction(0), Fraction(0)]), kind_of([Fraction(2)])
    (<Kind.MODEL: 'model'>, <Kind.TASK_VECTOR: 'task vector'>, <Kind.PARTIAL: 'partial'>)
    """
    distinct = set(totals)
    if distinct and all(_always(total, Fraction(1)) for total in distinct):
        return Kind.MODEL
    if distinct and all(_always(total, Fraction(0)) for total in distinct):
        return Kind.TASK_VECTOR
    return Kind.PARTIAL


def _always(total: Number, value: Fraction) -> bool:
    """Tell whether a total is a number, whatever the symbols in it are."""
    if isinstance(total, Fraction):
        return total == value
    return (total - Coefficient(value)).vanishes()
