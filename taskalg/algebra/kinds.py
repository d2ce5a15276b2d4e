"""Kinds are computed, never declared: a kind is what the coefficients add up to."""

from collections.abc import Iterable
from enum import StrEnum
from fractions import Fraction


class Kind(StrEnum):
    """What a value is."""

    SCALAR = "scalar"  # no checkpoint in it
    MODEL = "model"  # coefficients add up to 1 on every tensor
    TASK_VECTOR = "task vector"  # … to 0 on every tensor
    PARTIAL = "partial"  # … to anything else, or not to the same everywhere


def kind_of(totals: Iterable[Fraction]) -> Kind:
    """Return the kind of a checkpoint value from its total on every tensor.

    >>> kind_of([Fraction(1)]), kind_of([Fraction(0), Fraction(0)]), kind_of([Fraction(2)])
    (<Kind.MODEL: 'model'>, <Kind.TASK_VECTOR: 'task vector'>, <Kind.PARTIAL: 'partial'>)
    """
    distinct = set(totals)
    if distinct == {Fraction(1)}:
        return Kind.MODEL
    return Kind.TASK_VECTOR if distinct == {Fraction(0)} else Kind.PARTIAL
