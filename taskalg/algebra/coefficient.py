"""Exact scalars that may depend on the tensor.

A coefficient is a polynomial: a sum of rational numbers times products of selectors and ramps. That
is closed under everything the language does to scalars, multiplies out by itself, and is a plain
number in the common case. Rejected: a tree of operations kept until a tensor is known, which would
have to be simplified before two of them could be compared.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from taskalg.algebra.rationals import check_size
from taskalg.algebra.selectors import Place, Ramp, Selector
from taskalg.errors import ExpressionError

MAX_MONOMIALS = 1000  # products of selectors and ramps in one coefficient
_MAX_PRODUCTS = 100_000  # multiplied out at once; about 0.2 s


@dataclass(frozen=True, slots=True)
class Monomial:
    """A product of selectors and ramps; the empty one is 1."""

    selectors: frozenset[Selector] = frozenset()  # a selector times itself is itself
    ramps: tuple[Ramp, ...] = ()  # in a fixed order, repeated when multiplied by themselves

    def __mul__(self, other: "Monomial") -> "Monomial":
        ramps = sorted(self.ramps + other.ramps, key=lambda ramp: ramp.values)
        return Monomial(self.selectors | other.selectors, tuple(ramps))


ONE = Monomial()


class Coefficient:
    """An exact scalar, immutable. Two are `==` when they are written out the same.

    That is less than being equal on every tensor (`x[0:4]` and `x[:4]`): proof.py decides that.
    """

    __slots__ = ("_parts",)

    def __init__(self, value: Fraction | int = 0) -> None:
        self._parts: dict[Monomial, Fraction] = {ONE: Fraction(value)} if value else {}

    @classmethod
    def of(cls, parts: Mapping[Monomial, Fraction]) -> "Coefficient":
        """Make a coefficient from its parts; zeros are dropped, limits are checked.

        Raises:
            ExpressionError: a number is too long, or there are too many products.
        """
        made = cls()
        made._parts = {monomial: check_size(part) for monomial, part in parts.items() if part}
        if len(made._parts) > MAX_MONOMIALS:
            raise _too_many()
        return made

    @property
    def parts(self) -> Mapping[Monomial, Fraction]:
        """Monomials with their non-zero numbers."""
        return self._parts

    @property
    def constant(self) -> Fraction | None:
        """The number it is on every tensor, or None when it varies as written."""
        if not self._parts:
            return Fraction(0)
        return self._parts.get(ONE) if len(self._parts) == 1 else None

    def __bool__(self) -> bool:
        return bool(self._parts)

    def __add__(self, other: "Coefficient") -> "Coefficient":
        parts = dict(self._parts)
        for monomial, part in other._parts.items():
            parts[monomial] = parts.get(monomial, Fraction(0)) + part
        return Coefficient.of(parts)

    def __neg__(self) -> "Coefficient":
        return self * Coefficient(-1)

    def __sub__(self, other: "Coefficient") -> "Coefficient":
        return self + -other

    def __mul__(self, other: "Coefficient") -> "Coefficient":
        if len(self._parts) * len(other._parts) > _MAX_PRODUCTS:
            raise _too_many()
        parts: dict[Monomial, Fraction] = {}
        for mine, left in self._parts.items():
            for theirs, right in other._parts.items():
                product = theirs if mine is ONE else mine if theirs is ONE else mine * theirs
                parts[product] = parts.get(product, Fraction(0)) + left * right
        return Coefficient.of(parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Coefficient) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(frozenset(self._parts.items()))

    def __repr__(self) -> str:
        return f"Coefficient({self._parts})"

    def selectors(self) -> Iterator[Selector]:
        """Yield every selector in it, some more than once."""
        for monomial in self._parts:
            yield from monomial.selectors

    def ramps(self) -> Iterator[Ramp]:
        """Yield every ramp in it, some more than once."""
        for monomial in self._parts:
            yield from monomial.ramps

    def at(self, name: str, place: Place | None) -> Fraction:
        """Return the number it is on one tensor."""
        total = Fraction(0)
        for monomial, part in self._parts.items():
            if all(selector.selects(name, place) for selector in monomial.selectors):
                for ramp in monomial.ramps:
                    part *= ramp.at(place)
                total += part
        return total


def selected(selector: Selector) -> Coefficient:
    """Return the scalar that is 1 on the selected tensors and 0 elsewhere."""
    return Coefficient.of({Monomial(frozenset({selector})): Fraction(1)})


def ramped(ramp: Ramp) -> Coefficient:
    """Return the scalar that follows depth."""
    return Coefficient.of({Monomial(ramps=(ramp,)): Fraction(1)})


def _too_many() -> ExpressionError:
    return ExpressionError(
        "a coefficient depends on the tensor in too many ways",
        note=f"the limit is {MAX_MONOMIALS:,} products of selectors and ramps",
    )
