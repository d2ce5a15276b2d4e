"""Norms, angles and signs of vectors, and of everything that can be written in their names.

One pass over the files measures the vectors and the atoms of their checkpoints (frame.py). Whatever
is asked after that follows from products that are in memory, or on disk from an earlier time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

from taskalg.algebra.coefficient import Coefficient, Number
from taskalg.algebra.weighted_sum import Value, WeightedSum, references
from taskalg.arguments import recipe_in, wrong
from taskalg.compiler import Bindings, compile_text
from taskalg.errors import KindError, Source, UsageError
from taskalg.expression import Expression
from taskalg.measuring.adding import Matrix
from taskalg.measuring.frame import Frame, Measuring, Total, frame_of
from taskalg.measuring.geometry_html import geometry_html
from taskalg.measuring.numbering import measure
from taskalg.measuring.numbers import scalar
from taskalg.measuring.parts import Part, grouped, part_of
from taskalg.measuring.store import Store
from taskalg.measuring.tables import geometry_json, geometry_text
from taskalg.planned import check_declared, checked_rows
from taskalg.planning.resolve import Resolved
from taskalg.planning.rounds import symbols_of
from taskalg.running.stream import Progress, Settings


@dataclass(frozen=True, eq=False)
class Geometry:
    """What was measured of some vectors. Made by `geometry`."""

    names: tuple[str, ...]  # of the vectors
    whole: Part  # the vectors, not as stored but in the order of their names
    bytes_read: int  # when they were measured
    seconds: float  # likewise
    cached: bool  # whether that was an earlier time
    frame: Frame = field(repr=False)  # what was measured, for other questions
    places: tuple[int, ...] = field(repr=False)  # of the vectors in what was measured
    meaning: Callable[[str], Expression] = field(repr=False)  # of a text in their names

    @property
    def norms(self) -> Matrix:
        """Lengths of the vectors, `(n,)`."""
        return self.whole.norms

    @property
    def gram(self) -> Matrix:
        """Inner products, `(n, n)`."""
        return self.whole.gram

    @property
    def cosines(self) -> Matrix:
        """Cosines of the angles between the vectors, `(n, n)`; NaN for one that is zero."""
        return self.whole.cosines

    @property
    def agreement(self) -> Matrix:
        """Share of the elements where neither is zero in which signs agree, `(n, n)`."""
        return self.whole.agreement

    def by(self, level: str) -> tuple[Part, ...]:
        """Return the same for parts of the model, in its order.

        Args:
            level: "layer", by the number in the tensors' names; "module", by these names without
                their last component; or "tensor".
        """
        found = self.frame.products
        groups = grouped(found.tensors, level)
        return tuple(part_of(found, self.places, name, rows) for name, rows in groups.items())

    def norm(self, x: Expression | str) -> float:
        """Return the length of anything in the vectors' names. Reads no data, unless x cancels.

        Raises:
            ExpressionError: something is wrong in the text.
            UsageError: it has a checkpoint that was not measured.
            MismatchError: a number is not finite.
        """
        return self._measure("norm", x)

    def dot(self, x: Expression | str, y: Expression | str) -> float:
        """Return an inner product, likewise."""
        return self._measure("dot", x, y)

    def cos(self, x: Expression | str, y: Expression | str) -> float:
        """Return the cosine of an angle, likewise; one with a vector that is zero has none."""
        return self._measure("cos", x, y)

    def _measure(self, function: str, *operands: Expression | str) -> float:
        values = [
            self.meaning(x) if isinstance(x, str) else recipe_in(x, "what is measured")
            for x in operands
        ]
        return measure(self.frame, function, values)

    def to_json(self, by: str | None = None) -> dict[str, Any]:
        """Return everything as JSON, also for parts if a level is given; what is NaN is null."""
        return geometry_json(self, by)

    def __str__(self) -> str:
        return geometry_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return geometry_html(self)


def geometry(
    vectors: Mapping[str, Expression] | Sequence[Expression],
    *,
    only_shared: bool = False,
    rows: str = "all",
    threads: int | None = None,
    cache: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Geometry:
    """Measure vectors in one pass over their files: norms, inner products, angles, signs.

    Afterwards the norm, and the products and angles, of everything in their names follow without
    reading the files again. What was measured of files that did not change comes from disk.

    Args:
        vectors: recipes, by what they are called; those in a list by what they are written as.
        only_shared: leave out tensors that not every checkpoint has.
        rows: "common" to measure the rows that all have, where vocabularies differ in size.
        threads: by default the smaller of 8 and what this process may use.
        cache: whether what was measured is looked for on disk, and kept there.
        progress: called with a `Progress` about ten times a second; cancels by raising.

    Raises:
        UsageError: there is no vector, two have one name, or one is no recipe.
        KindError: one of them is a scalar.
        MismatchError: the checkpoints do not fit.
        CheckpointError: a file cannot be read.

    Memory: 128 MB of buffers at most, and `24 * n * n` bytes for each tensor and n checkpoints.
    """
    by_name = _named(vectors)
    if not by_name:
        raise UsageError("there are no vectors to measure", help="name one: --task math=PATH")
    settings = Settings(threads=threads, progress=progress)
    store = Store.of_user() if cache else Store(None)
    together = _together([_numeric(vector, settings) for vector in by_name.values()])
    total, sums = together.resolved, _separated(together.resolved, len(by_name))
    check_declared(total)
    used = [operand for one in sums for operand, part in one.terms.items() if part]
    how = Measuring(settings, store, only_shared=only_shared, rows=checked_rows(rows))
    frame = frame_of(total, used, sums, how)
    places = [frame.sums[one] for one in sums]
    return Geometry(
        names=tuple(by_name),
        whole=part_of(frame.products, places, "", range(len(frame.products.tensors))),
        bytes_read=frame.products.bytes_read,
        seconds=frame.products.seconds,
        cached=frame.cached,
        frame=frame,
        places=tuple(places),
        meaning=partial(_meaning, together, _bindings(together, by_name)),
    )


def _named(vectors: object) -> dict[str, Expression]:
    if isinstance(vectors, str) or not isinstance(vectors, Iterable):
        raise wrong("vectors are recipes in a list, or by name", vectors, "write geometry([x, y])")
    if isinstance(vectors, Mapping):
        return {name: recipe_in(vector, "a vector") for name, vector in vectors.items()}
    found = [recipe_in(vector, "a vector") for vector in vectors]
    named = {str(vector): vector for vector in found}
    if len(named) < len(found):
        raise UsageError("a vector is given twice", help="give them names: {name: vector}")
    return named


def _numeric(vector: Expression, settings: Settings) -> Expression:
    """Put numbers in the place of what is measured in a vector's own coefficients."""
    if isinstance(vector.value, Coefficient):
        raise KindError("a scalar is no vector", note=f"found {vector}")
    parts = vector.value.terms
    symbols = {symbol for part in parts.values() for symbol in part.symbols() if symbol.measured}
    if not symbols:
        return vector
    values = {}  # by symbol: two may have one name until they are resolved
    for symbol in symbols:
        alone = Coefficient.symbol(symbol.name, symbol.measured)
        values[symbol] = Fraction(scalar(_with(vector, alone), settings))
    numbers = {leaf: part.replaced(values.get) for leaf, part in parts.items()}
    return _with(vector, WeightedSum(numbers))


def _with(vector: Expression, value: Value) -> Expression:
    """Return another value of the same checkpoints."""
    return vector.combining(lambda _: value, [vector])


def _together(vectors: Sequence[Expression]) -> Expression:
    """Return one sum with all vectors, each times a symbol."""
    names = symbols_of(len(vectors))

    def beside(sums: Sequence[Value]) -> Value:
        parts = zip(sums, names, strict=True)
        return WeightedSum.adding(
            one.scaled(Coefficient.symbol(name))
            for one, name in parts
            if isinstance(one, WeightedSum)
        )

    return type(vectors[0]).combining(beside, vectors)


def _separated(total: Resolved, count: int) -> list[Total]:
    """Return each of the sums that were put together, in checkpoints."""
    names = symbols_of(count)
    found = []
    for one in names:
        values: dict[str, Number] = {name: Fraction(name == one) for name in names}
        found.append(WeightedSum({operand: part.given(values) for operand, part in total.terms}))
    return found


def _bindings(together: Expression, vectors: Mapping[str, Expression]) -> Bindings:
    """Return what can be named: vectors, and their checkpoints."""
    values: dict[str, Value] = {
        one.name: WeightedSum({one: Coefficient(1)})
        for one in references([together.value])
        if one.name is not None
    }
    values |= {name: vector.value for name, vector in vectors.items() if name.isidentifier()}
    return Bindings(values)


def _meaning(together: Expression, names: Bindings, text: str) -> Expression:
    found = compile_text(Source("<expr>", text), None, names)
    return type(together)(
        found.value,
        base=together.base,
        items=found.environment.items,
        opened=together.opened,
        opening=together.opening,
    )
