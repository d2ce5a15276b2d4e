"""Exact scalars that may depend on the tensor, and on scalars that are known only later.

A coefficient is a polynomial: a sum of rational numbers times products of selectors, ramps and
symbols. That is closed under everything the language does to scalars, multiplies out by itself, and
is a plain number in the common case. Rejected: a tree of operations kept until a tensor is known,
which would have to be simplified before two of them could be compared.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from fractions import Fraction
from math import prod

from taskalg.algebra.monomial import ONE, Monomial, Parts, Symbol, in_order, join_terms, term_texts
from taskalg.algebra.rationals import check_size
from taskalg.algebra.selectors import Place, Ramp, Selector
from taskalg.errors import DivisionError, ExpressionError

MAX_MONOMIALS = 1000  # products of selectors, ramps and symbols in one coefficient
_MAX_PRODUCTS = 100_000  # multiplied out at once; about 0.2 s


class Coefficient:
    """An exact scalar, immutable. Two are `==` when they are written out the same.

    That is less than being equal on every tensor (`x[0:4]` and `x[:4]`): proof.py decides that.
    """

    __slots__ = ("_parts",)

    def __init__(self, value: "Number | int" = 0) -> None:
        if isinstance(value, Coefficient):
            self._parts: Parts = value._parts
        else:
            self._parts = {ONE: Fraction(value)} if value else {}

    @classmethod
    def of(cls, parts: Parts) -> "Coefficient":
        """Make a coefficient from its parts; zeros are dropped, limits are checked.

        Raises:
            ExpressionError: a number is too long, or there are too many products.
        """
        made = cls()
        made._parts = {monomial: check_size(part) for monomial, part in parts.items() if part}
        if len(made._parts) > MAX_MONOMIALS:
            raise _too_many()
        return made

    @classmethod
    def symbol(cls, name: str, measured: Hashable = None) -> "Coefficient":
        """Make the scalar that is known only later, by its name and what is measured to get it."""
        return _alone(Symbol(name, measured=measured))

    @property
    def parts(self) -> Parts:
        """Monomials with their non-zero numbers."""
        return self._parts

    @property
    def constant(self) -> Fraction | None:
        """The number it is on every tensor, or None when it varies or has symbols, as written."""
        if not self._parts:
            return Fraction(0)
        return self._parts.get(ONE) if len(self._parts) == 1 else None

    @property
    def number(self) -> "Number":
        """The number it is on every tensor; itself when it varies or has symbols."""
        constant = self.constant
        return self if constant is None else constant

    @property
    def varies(self) -> bool:
        """Whether it depends on the tensor, as written."""
        return any(monomial.varies for monomial in self._parts)

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

    def __str__(self) -> str:
        return join_terms(term_texts(self._parts))

    def __repr__(self) -> str:
        return f"Coefficient({self})"

    def selectors(self) -> Iterator[Selector]:
        """Yield every selector in it, some more than once."""
        for monomial in self._parts:
            yield from monomial.selectors

    def ramps(self) -> Iterator[Ramp]:
        """Yield every ramp in it, some more than once."""
        for monomial in self._parts:
            yield from monomial.ramps

    def symbols(self) -> Iterator[Symbol]:
        """Yield every symbol that needs a value, some more than once; so no reciprocal."""
        for monomial in self._parts:
            for symbol in monomial.symbols:
                yield from [symbol] if symbol.divisor is None else _divisor(symbol).symbols()

    def at(self, name: str, place: Place | None) -> "Number":
        """Return what it is on one tensor: a number, or a coefficient in symbols alone."""
        return self.where(lambda selector: selector.selects(name, place), place)

    def where(self, holds: Callable[[Selector], bool], place: Place | None) -> "Number":
        """Return what it is where some selectors hold, at a place."""
        total = Fraction(0)
        later: dict[Monomial, Fraction] = {}
        for monomial, part in self._parts.items():
            if all(map(holds, monomial.selectors)):
                for ramp in monomial.ramps:
                    part *= ramp.at(place)
                if monomial.symbols:
                    rest = Monomial(symbols=monomial.symbols)
                    later[rest] = later.get(rest, Fraction(0)) + part
                else:
                    total += part
        return Coefficient.of({ONE: total, **later}).number if later else total

    def reciprocal(self) -> "Coefficient":
        """Return one divided by it.

        Numbers and single symbols are taken out of a divisor, so that 1/(2*s) is 0.5*(1/s).

        Raises:
            DivisionError: it is zero.
            ExpressionError: it depends on the tensor.
        """
        if self.varies:
            raise ExpressionError("a divisor must not depend on the tensor")
        if not self._parts:
            raise DivisionError("division by zero")
        monomial, number = in_order(self._parts)[0]
        outside = Coefficient(1 / number)
        if len(self._parts) > 1:
            return outside * _inverse(self * outside)
        return prod((_inverse(_alone(symbol)) for symbol in monomial.symbols), start=outside)

    def given(self, values: Mapping[str, "Number"]) -> "Coefficient":
        """Put numbers, or other coefficients, in the place of symbols; those without a value stay.

        Raises:
            DivisionError: something is divided by zero.
        """
        return self.replaced(lambda symbol: values.get(symbol.name))

    def replaced(self, new: Callable[[Symbol], "Number | None"]) -> "Coefficient":
        """Put what a function returns in the place of symbols, divisors' too; None leaves one.

        Raises:
            DivisionError: something is divided by zero.
        """
        parts: dict[Monomial, Fraction] = {}
        others = Coefficient()
        for monomial, part in self._parts.items():
            rest = Monomial(monomial.selectors, monomial.ramps) if monomial.varies else ONE
            left = []
            for symbol in monomial.symbols:
                value = _valued(symbol, new)
                if isinstance(value, Coefficient):
                    left.append(value)
                else:
                    part *= value
            if left:
                others += prod(left, start=Coefficient.of({rest: part}))
            else:
                parts[rest] = parts[rest] + part if rest in parts else part
        known = Coefficient.of(parts)
        return known + others if others else known

    def derivative(self, name: str) -> "Coefficient":
        """Return how it changes with one symbol."""
        total = Coefficient()
        for monomial, part in self._parts.items():
            for index, symbol in enumerate(monomial.symbols):
                slope = _slope(symbol, name)
                if slope:
                    symbols = monomial.symbols[:index] + monomial.symbols[index + 1 :]
                    rest = Monomial(monomial.selectors, monomial.ramps, symbols)
                    total += Coefficient.of({rest: part}) * slope
        return total

    def vanishes(self) -> bool:
        """Tell whether it is zero as written, whatever its symbols are.

        Divisors are multiplied out, so that a/(a + b) + b/(a + b) - 1 is found to be. Where that
        takes too many products the answer is no.
        """
        rest = self
        try:
            while reciprocals := {s for m in rest._parts for s in m.symbols if s.divisor}:
                rest = rest._without(max(reciprocals, key=_depth))
        except ExpressionError:
            return False
        return not rest

    def _without(self, reciprocal: Symbol) -> "Coefficient":
        """Multiply by a divisor as often as it takes for its reciprocal to be gone."""
        divisor, total = _divisor(reciprocal), Coefficient()
        most = max(monomial.symbols.count(reciprocal) for monomial in self._parts)
        for monomial, part in self._parts.items():
            symbols = tuple(symbol for symbol in monomial.symbols if symbol != reciprocal)
            missing = most - (len(monomial.symbols) - len(symbols))
            rest = Monomial(monomial.selectors, monomial.ramps, symbols)
            total += prod([divisor] * missing, start=Coefficient.of({rest: part}))
        return total


Number = Fraction | Coefficient  # a coefficient only where it has symbols


def selected(selector: Selector) -> Coefficient:
    """Return the scalar that is 1 on the selected tensors and 0 elsewhere."""
    return Coefficient.of({Monomial(frozenset({selector})): Fraction(1)})


def ramped(ramp: Ramp) -> Coefficient:
    """Return the scalar that follows depth."""
    return Coefficient.of({Monomial(ramps=(ramp,)): Fraction(1)})


def _alone(symbol: Symbol) -> Coefficient:
    return Coefficient.of({Monomial(symbols=(symbol,)): Fraction(1)})


def _inverse(divisor: Coefficient) -> Coefficient:
    text = str(divisor)
    single = len(divisor.parts) == 1 and not text.startswith("1/")
    name = f"1/{text}" if single else f"1/({text})"
    return _alone(Symbol(name, frozenset(divisor.parts.items())))


def _divisor(reciprocal: Symbol) -> Coefficient:
    return Coefficient.of(dict(reciprocal.divisor or ()))


def _depth(reciprocal: Symbol) -> tuple[int, str]:
    """Order reciprocals so that one inside another comes before it: its text is shorter."""
    return len(reciprocal.name), reciprocal.name


def _valued(symbol: Symbol, new: Callable[[Symbol], Number | None]) -> Number:
    if symbol.divisor is None:
        value = new(symbol)
        return _alone(symbol) if value is None else value
    divisor = _divisor(symbol)
    found = divisor.replaced(new)
    if not found:
        raise DivisionError("division by zero", note=f"{divisor} is 0")
    return found.reciprocal().number


def _slope(symbol: Symbol, name: str) -> Coefficient:
    if symbol.divisor is None:
        return Coefficient(symbol.name == name)
    reciprocal = _alone(symbol)  # (1/f)' = -f'/f**2
    return -_divisor(symbol).derivative(name) * reciprocal * reciprocal


def _too_many() -> ExpressionError:
    return ExpressionError(
        "a coefficient depends on the tensor in too many ways",
        note=f"the limit is {MAX_MONOMIALS:,} products of selectors, ramps and symbols",
    )
