"""What coefficients are sums of: products of selectors, ramps and symbols, and their text.

A symbol is a scalar that is known only later. Kept beside selectors and ramps it needs no algebra
of its own: a plan is made once, and new values are put into a few small polynomials. A divisor that
depends on symbols has no polynomial, so its reciprocal is a symbol too, called what it is written.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from taskalg.algebra.rationals import decimal_text
from taskalg.algebra.selectors import Ramp, Selector
from taskalg.errors import ExpressionError

MAX_SYMBOLS = 200  # in one product; sorted anew for each factor


@dataclass(frozen=True, slots=True)
class Symbol:
    """A scalar that is known only later, or one divided by a sum of such.

    Names alone do not tell two apart: `norm(a)` may be of two files that are both called `a`.
    """

    name: str  # what it is called; a reciprocal's is its text: "1/strength", "1/(a + b)"
    divisor: "frozenset[tuple[Monomial, Fraction]] | None" = None  # what one is divided by
    measured: Hashable = None  # a `Measured`, of which it is the number, until that is resolved

    @property
    def order(self) -> tuple[str, int]:
        """What products sort it by."""
        return self.name, hash(self)


@dataclass(frozen=True, slots=True)
class Monomial:
    """A product of selectors, ramps and symbols; the empty one is 1."""

    selectors: frozenset[Selector] = frozenset()  # a selector times itself is itself
    ramps: tuple[Ramp, ...] = ()  # in a fixed order, repeated when multiplied by themselves
    symbols: tuple[Symbol, ...] = ()  # likewise

    def __mul__(self, other: "Monomial") -> "Monomial":
        ramps = sorted(self.ramps + other.ramps, key=lambda ramp: ramp.values)
        symbols = sorted(self.symbols + other.symbols, key=lambda symbol: symbol.order)
        if len(symbols) > MAX_SYMBOLS:
            raise ExpressionError(
                "too many scalars that have no value yet are multiplied",
                note=f"the limit is {MAX_SYMBOLS} factors",
            )
        return Monomial(self.selectors | other.selectors, tuple(ramps), tuple(symbols))

    @property
    def varies(self) -> bool:
        """Whether it depends on the tensor."""
        return bool(self.selectors or self.ramps)

    def times(self, number: Fraction, name: str | None = None) -> str:
        """Print it times a number and, if there is one, a name: `-0.4*strength*toxic[0:16]`."""
        factors = [str(ramp) for ramp in self.ramps]
        factors += [symbol.name for symbol in self.symbols if symbol.divisor is None]
        factors += [] if name is None else [name]
        chosen = "".join(sorted(map(str, self.selectors)))
        below = "".join(s.name.removeprefix("1") for s in self.symbols if s.divisor is not None)
        written = decimal_text(number)
        if not factors:
            return f"{written}{chosen}{below}"
        start = {"1": "", "-1": "-"}.get(written, f"{written}*")
        return f"{start}{'*'.join(factors)}{chosen}{below}"


ONE = Monomial()
Parts = Mapping[Monomial, Fraction]  # monomials with their non-zero numbers


def in_order(parts: Parts) -> list[tuple[Monomial, Fraction]]:
    """Return parts in the order in which they are printed: plain ones first."""
    return sorted(parts.items(), key=lambda item: _key(item[0]))


def _key(monomial: Monomial) -> tuple[int, int, int, str]:
    counts = (len(monomial.selectors), len(monomial.ramps), len(monomial.symbols))
    return (*counts, monomial.times(Fraction(1), ""))


def term_texts(parts: Parts, name: str | None = None) -> list[str]:
    """Print each part alone, or times a name."""
    return [monomial.times(number, name) for monomial, number in in_order(parts)]


def join_terms(texts: Sequence[str]) -> str:
    """Join signed terms: `["base", "-0.4*toxic"]` becomes `base - 0.4*toxic`."""
    if not texts:
        return "0"
    rest = (f" - {t[1:]}" if t.startswith("-") else f" + {t}" for t in texts[1:])
    return texts[0] + "".join(rest)
