"""How sums are formed on one combination of a plan: its symbols in, a program for blocks out.

Nearly all are differences of two checkpoints, or one of them, which the kernel forms with a single
IEEE operation. The rest goes through the engine, block by block, as for an output of binary64.
Both round the exact value once, so it does not show which of the two it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.dtypes import F64, DType
from taskalg.engines.base import Bytes, Engine, Evaluate, WeightedSumSpec
from taskalg.engines.blocks import Inputs, layout
from taskalg.engines.gram import PIECE, Sums, grams, make_sums
from taskalg.planning.combination import Combination
from taskalg.running.arena import Arena
from taskalg.running.blocks import ALIGNMENT, MEMORY

Terms = list[tuple[int, Fraction]]  # operands by their place in the combination, and factors

# Bytes of one thread's buffers. With nine bf16 inputs a quarter less time than 3 MB, for less is
# done in Python, and a twentieth less than 12 MB, more of which has left the caches.
_TARGET = 6_000_000
_ALONE = -1  # in the place of a second operand


@dataclass(frozen=True)
class Computed:
    """A sum that the engine forms, before the kernel takes it as one more operand."""

    operands: tuple[int, ...]  # places in the combination
    evaluate: Evaluate


@dataclass(frozen=True)
class Program:
    """What is done to each block of one combination."""

    symbols: tuple[int, ...]  # which sums are not zero there, by the numbers of their symbols
    inputs: tuple[DType, ...]  # of the combination's operands, and then of what is computed
    computed: tuple[Computed, ...]
    sums: Sums  # one for each of `symbols`
    layout: Inputs  # of `inputs`

    def block(self, threads: int) -> int:
        """Return how many elements a block may have: a multiple of a piece, one at least."""
        most = min(_TARGET, MEMORY // threads) // max(1, self._width)
        return max(PIECE, most // PIECE * PIECE)

    def room(self, threads: int) -> int:
        """Return the bytes of one thread's buffers."""
        return self.block(threads) * self._width + ALIGNMENT * (len(self.inputs) + 1)

    @property
    def _width(self) -> int:
        return sum(dtype.itemsize for dtype in self.inputs)

    def run(
        self, sources: Sequence[Bytes], pieces: NDArray[np.int64], arena: Arena, *, signs: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Measure a block.

        Args:
            sources: the bytes of each operand.
            pieces: `(pieces, 2)`, from where to where [elements].
            arena: memory for what is computed.
            signs: whether they are counted.

        Returns:
            What `grams` fills: products and counts.
        """
        found = list(sources)
        for one in self.computed:
            found.append(arena.take(int(pieces[-1, 1]) * F64.itemsize))
            one.evaluate([sources[place] for place in one.operands], found[-1])
        addresses = np.array([source.ctypes.data for source in found], np.int64)
        inputs = self.layout._replace(addresses=addresses)
        count, n = len(pieces), len(self.symbols)
        products = np.empty((count, n, n))
        counts = np.zeros((count * signs, 2, n, n), np.int64)
        grams(inputs, self.sums, pieces, products, counts)
        return products, counts


def takes_part(combination: Combination) -> bool:
    """Tell whether tensors of a combination are measured: those that are copied have no symbol."""
    return not any(isinstance(number, Fraction) for number in combination.coefficients)


def form(combination: Combination, symbols: Sequence[str], engine: Engine) -> Program:
    """Decide how each sum is formed.

    Args:
        combination: its coefficients are linear in the symbols.
        symbols: one for each sum.
        engine: forms what is not a difference.
    """
    rows = {index: _row(combination, symbols, name) for index, name in enumerate(symbols)}
    used = {index: terms for index, terms in rows.items() if terms}
    inputs, computed = list(combination.inputs), []
    places, factors = [], []
    for terms in used.values():
        direct = _direct(terms)
        if direct is None:
            direct = [(len(inputs), Fraction(1))]
            inputs.append(F64)
            computed.append(_computed(terms, combination, engine))
        operands, numbers = zip(*direct, *[(_ALONE, Fraction(0))] * (2 - len(direct)), strict=True)
        places.append(operands)
        factors.append([float(number) for number in numbers])
    sums = make_sums(np.array(places, np.int64), np.array(factors), inputs)
    return Program(tuple(used), tuple(inputs), tuple(computed), sums, layout(inputs))


def _row(combination: Combination, symbols: Sequence[str], one: str) -> Terms:
    """Return the terms of one sum: its symbol is 1, the others are 0."""
    values: dict[str, Number] = {name: Fraction(name == one) for name in symbols}
    given = tuple(Coefficient(number).given(values).number for number in combination.coefficients)
    numbers = replace(combination, coefficients=given).numbers  # refuses symbols that are left
    return [(place, number) for place, number in enumerate(numbers) if number]


def _direct(terms: Terms) -> Terms | None:
    """Order terms as the kernel takes them; None when it would round more than once."""
    unit_first = sorted(terms, key=lambda term: abs(term[1]) != 1)
    exact = all(_is_binary64(number) for _, number in terms)
    one_rounding = len(terms) == 1 or (len(terms) == 2 and abs(unit_first[0][1]) == 1)
    return unit_first if exact and one_rounding else None


def _is_binary64(number: Fraction) -> bool:
    try:
        return Fraction(float(number)) == number
    except OverflowError:
        return False


def _computed(terms: Terms, combination: Combination, engine: Engine) -> Computed:
    operands, numbers = zip(*terms, strict=True)
    inputs = tuple(combination.inputs[place] for place in operands)
    return Computed(operands, engine.prepare(WeightedSumSpec(numbers, inputs, F64)))
