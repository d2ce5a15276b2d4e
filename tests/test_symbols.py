"""Scalars that are known only later: put in later, they give what they would have at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import taskalg
from taskalg import ExpressionError, Kind, KindError, Recipe, UsageError
from taskalg.algebra.coefficient import Coefficient, ramped, selected
from taskalg.algebra.proof import find_nonzero
from taskalg.algebra.selectors import Glob, Item, LayerRange, Place, Ramp, Selector, places
from taskalg.checkpoints.base import Checkpoint, Opening
from taskalg.checkpoints.registry import open_checkpoint
from taskalg.planning.plan import Plan
from tests.strategies import (
    LEAVES,
    TASKS,
    chains,
    constants,
    examples,
    product,
    scalars,
    sums,
    total,
    written,
)
from tests.test_lora import write

NAMES = ("s", "t", "u")
fractions = st.fractions(-3, 3, max_denominator=9)
given_values = st.fixed_dictionaries(dict.fromkeys(NAMES, fractions))
Values = Mapping[str, Fraction]


# ---- The ring


@dataclass(frozen=True)
class Dual:
    """A number and how it changes: an oracle for derivatives that knows no polynomial."""

    value: Fraction
    slope: Fraction

    def __add__(self, other: "Dual") -> "Dual":
        return Dual(self.value + other.value, self.slope + other.slope)

    def __sub__(self, other: "Dual") -> "Dual":
        return Dual(self.value - other.value, self.slope - other.slope)

    def __mul__(self, other: "Dual") -> "Dual":
        return Dual(self.value * other.value, self.value * other.slope + self.slope * other.value)

    def __truediv__(self, other: "Dual") -> "Dual":
        over = self.value / other.value
        return Dual(over, (self.slope - over * other.slope) / other.value)


Formula = str | Fraction | tuple["Formula", str, "Formula"]
formulas: st.SearchStrategy[Formula] = st.recursive(
    st.sampled_from(NAMES) | fractions,
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner),
    max_leaves=9,
)


def evaluated(
    formula: Formula, leaf: Callable[[Any], Any], divide: Callable[[Any, Any], Any]
) -> Any:
    if not isinstance(formula, tuple):
        return leaf(formula)
    a, b = (evaluated(formula[index], leaf, divide) for index in (0, 2))
    match formula[1]:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
    return divide(a, b)


def polynomial(formula: Formula) -> Coefficient:
    """Build a formula with symbols in it."""
    built: Coefficient = evaluated(
        formula,
        lambda leaf: Coefficient.symbol(leaf) if isinstance(leaf, str) else Coefficient(leaf),
        lambda a, b: a * b.reciprocal(),
    )
    return built


def dual(formula: Formula, values: Values, by: str) -> Dual:
    def leaf(found: str | Fraction) -> Dual:
        if isinstance(found, Fraction):
            return Dual(found, Fraction(0))
        return Dual(values[found], Fraction(found == by))

    found: Dual = evaluated(formula, leaf, lambda a, b: a / b)
    return found


@examples(300)
@given(formulas, given_values, st.sampled_from(NAMES))
def test_values_put_in_later_and_slopes_are_those_of_the_formula(
    formula: Formula, values: Values, by: str
) -> None:
    try:
        expected = dual(formula, values, by)
        found = polynomial(formula)
    except (ZeroDivisionError, ExpressionError):
        assume(False)
    assert found.given(values).constant == expected.value
    assert found.derivative(by).given(values).constant == expected.slope
    rest = {name: value for name, value in values.items() if name != by}
    assert found.given(rest).given(values).constant == expected.value
    assert found.given(rest).derivative(by).given(values).constant == expected.slope
    assert {symbol.name for symbol in found.symbols()} <= set(NAMES)
    assert not list(found.given(values).symbols())


def leaves() -> st.SearchStrategy[Coefficient]:
    ramps = st.lists(fractions, min_size=2, max_size=3).map(lambda some: ramped(Ramp(tuple(some))))
    items: st.SearchStrategy[Item] = st.sampled_from(
        [Glob("*p*"), Glob("*q*"), LayerRange(0, 2), LayerRange(-1, None)]
    )
    chosen = items.map(lambda item: selected(Selector((item,), ())))
    symbols = st.sampled_from(NAMES).map(Coefficient.symbol)
    divided = symbols.map(lambda symbol: (symbol * symbol + Coefficient(1)).reciprocal())
    return fractions.map(Coefficient) | symbols | divided | ramps | chosen


coefficients = st.recursive(
    leaves(),
    lambda inner: (
        st.builds(lambda a, b: a + b, inner, inner) | st.builds(lambda a, b: a * b, inner, inner)
    ),
    max_leaves=5,
)
PLACES: list[tuple[str, Place | None]] = [
    ("p", None),
    ("q.1", Place(1, 0, 4)),
    ("pq", Place(4, 0, 4)),
]


@examples(150)
@given(coefficients, coefficients, given_values)
def test_putting_values_in_is_a_homomorphism_and_slopes_follow_leibniz(
    a: Coefficient, b: Coefficient, values: Values
) -> None:
    assert (a + b).given(values) == a.given(values) + b.given(values)
    assert (a * b).given(values) == a.given(values) * b.given(values)
    assert a.given({}) == a
    assert (a + b).derivative("s") == a.derivative("s") + b.derivative("s")
    assert (a * b).derivative("s") == a.derivative("s") * b + a * b.derivative("s")
    for name, place in PLACES:  # on a tensor and with values, in either order
        at_once = a.given(values).at(name, place)
        assert isinstance(at_once, Fraction)
        assert Coefficient(a.at(name, place)).given(values).constant == at_once


@examples(100)
@given(formulas, formulas)
def test_what_is_zero_for_all_values_is_found_to_be(a: Formula, b: Formula) -> None:
    try:
        x, y = polynomial(a), polynomial(b)
        over = y.reciprocal()
    except ExpressionError:
        assume(False)
    assume(not y.vanishes())
    assert (x * y * over - x).vanishes()
    assert ((x + y) * over - x * over - Coefficient(1)).vanishes()
    assert not (x * over - x * over + Coefficient(1)).vanishes()
    assert find_nonzero([x * y * over - x]) is None


@examples(100)
@given(formulas, given_values)
def test_what_is_not_zero_for_some_values_is_never_taken_for_zero(
    formula: Formula, values: Values
) -> None:
    try:
        found = polynomial(formula)
        assume(found.given(values))
    except ExpressionError:
        assume(False)
    assert not found.vanishes()
    assert find_nonzero([found]) is not None


def test_each_product_of_symbols_must_be_zero_on_its_own() -> None:
    s, t = Coefficient.symbol("s"), Coefficient.symbol("t")
    half, whole = (selected(Selector((LayerRange(0, stop),), ())) for stop in (2, None))
    other = selected(Selector((LayerRange(None, 2),), ()))
    assert find_nonzero([s * (half - other)]) is None
    witness = find_nonzero([s * (half - other) + t * (whole - half)])
    assert witness is not None and witness.place is not None and witness.place.layer >= 2
    assert witness.values == (t,)


def test_a_divisor_that_becomes_zero_is_named() -> None:
    s, t = Coefficient.symbol("s"), Coefficient.symbol("t")
    over = (s - t).reciprocal()
    assert over.given({"s": Fraction(3), "t": Fraction(1)}).constant == Fraction(1, 2)
    half = over.given({"s": Fraction(1)})
    for found, note in ((over, "s - t is 0"), (half, "1 - t is 0")):
        with pytest.raises(ExpressionError, match="division by zero") as caught:
            found.given({"s": Fraction(1), "t": Fraction(1)})
        assert caught.value.note == note
    with pytest.raises(ExpressionError, match="must not depend on the tensor") as caught:
        over.given({"s": ramped(Ramp((Fraction(0), Fraction(1))))})
    assert caught.value.note is None
    with pytest.raises(ExpressionError, match="division by zero"):
        (s - s).reciprocal()


TEXTS = {
    "s": "s",
    "0.4*s - t": "0.4*s - t",
    "s*s/2": "0.5*s*s",
    "1/s": "1/s",
    "3/(2*s)": "1.5/s",
    "1/(s*t)": "1/s/t",
    "t/(1 - s)": "t/(1 - s)",
    "t/(2 - 2*s)": "0.5*t/(1 - s)",
    "1/(1/s)": "1/(1/s)",
    "s*ramp(0, 1)": "ramp(0, 1)*s",
    "ramp(0, s)": "ramp(0, 1)*s",
    "s[0:2]/t": "s[0:2]/t",
    "s/s": "s/s",
    "-s/3": "-1/3*s",
}


@pytest.mark.parametrize(("text", "printed"), TEXTS.items())
def test_symbols_are_printed_as_one_would_write_them(text: str, printed: str) -> None:
    scalar = taskalg.compile(text, set={n: 2 for n in "st" if n in text}).freed()
    assert str(scalar) == printed
    again = taskalg.compile(printed, set={n: 2 for n in "st" if n in printed}).freed()
    assert again == scalar  # what is printed is an expression that means the same


def test_a_product_of_too_many_free_scalars_is_refused() -> None:
    long = taskalg.compile("s = 1\n" + "*".join(["s"] * 201))
    with pytest.raises(ExpressionError, match="too many scalars that have no value yet"):
        long.freed()
    assert taskalg.compile("s = 1\n" + "*".join(["s"] * 200)).freed() is not None


# ---- Recipes


def with_scalars(text: str, first: Fraction) -> Recipe:
    return taskalg.compile(
        f"strength = {first.numerator}/{first.denominator}\n({text})",
        models={name: None for name in LEAVES if name not in TASKS},
        tasks=dict.fromkeys(TASKS),
    )


divided = st.builds(lambda node, by: product((node, by), "/"), sums(1), constants(1))
trees = sums(2) | divided | chains(total, sums(1) | divided, "+-") | scalars(2)
tensors = places(["p", "0.p", "1.q", "2.mlp.a", "x.1.p", "x.3.b", "a.q"])


@examples(300)
@given(trees.flatmap(written), fractions, fractions)
def test_a_freed_sum_at_some_values_is_the_sum_with_these_values(
    text: str, first: Fraction, second: Fraction
) -> None:
    try:
        recipe, expected = with_scalars(text, first), with_scalars(text, second)
    except ExpressionError:
        assume(False)  # division by zero
    assert recipe.scalars == {"strength": first}
    freed = recipe.freed()
    assert freed.scalars == {"strength": first}
    for found, wanted in ((freed, expected), (recipe.bind(strength=second), expected)):
        mine, theirs = by_name(found), by_name(wanted)
        assert mine.keys() == theirs.keys()
        for name, part in theirs.items():
            for tensor, place in tensors.items():
                value = Coefficient(mine[name].at(tensor, place)).given({"strength": second})
                assert value.constant == part.at(tensor, place)


def by_name(recipe: Recipe) -> dict[str | None, Coefficient]:
    if isinstance(recipe.value, Coefficient):
        return {None: recipe.value}
    return {reference.name: part for reference, part in recipe.value.terms.items()}


def layered(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    shapes = {f"layers.{n}.{part}.weight": (4, 3) for n in range(4) for part in "qk"}
    state = {n: torch.tensor(rng.normal(size=s), dtype=dtype) for n, s in shapes.items()}
    return {**state, "head.weight": torch.ones(2, 4, dtype=dtype), "n": torch.arange(3)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    start = "base_model.model."
    factors = {
        f"{start}layers.{n}.q.lora_{part}.weight": torch.ones(shape)
        for n in (0, 2)
        for part, shape in (("A", (2, 3)), ("B", (4, 2)))
    }
    factors[f"{start}head.weight"] = torch.full((2, 4), 3.0)
    style = tmp_path_factory.mktemp("symbols") / "style"
    write(style, factors, lora_alpha=2, modules_to_save=["head"])
    states = {name: layered(seed) for seed, name in enumerate(("base", "a", "b"))}
    return {**states, "wide": layered(9, torch.float64), "style": style}


RECIPES = [
    "base + s*(a - base)",
    "base + s*(a - base) + (1 - t)*(b - base)",
    "lerp(a, b, s)",
    "(s*a + t*b)/(s + t)",
    "base + (a - base)*s/(2 + t)",
    "base + s*(a - base)[0:2] + s*t*(b - base)['*.k.*', ~3]",
    "base + ramp(s, 0.5, 1 - t)*(a - base)",
    "base + s*(ramp(0, t)*(a - base))[1:]",
    "s*(a - b)",
    "base + s*style",
    "(1 - s)*a + s*base + t*style",
    "a + (s - 0.5)*style + t*(b - base)",
    "base + s*(wide - base)",
]


def plan(weights: dict[str, Any], text: str, values: Values) -> Recipe:
    lines = [f"{name} = {value.numerator}/{value.denominator}\n" for name, value in values.items()]
    models = {name: found for name, found in weights.items() if name in text}
    return taskalg.compile("".join(lines) + text, models=models)


def rows(made: Plan, values: Values) -> dict[str, tuple[object, ...]]:
    """Return what a plan does to each tensor, terms of zero left out."""
    found: dict[str, tuple[object, ...]] = {}
    for step in made.steps:
        combination = made.combinations[step.combination]
        numbers = [Coefficient(c).given(values).constant for c in combination.coefficients]
        terms = {
            made.operands[operand].called: (number, source.dtype)
            for operand, number, source in zip(
                combination.operands, numbers, step.sources, strict=True
            )
            if number
        }
        found[step.name] = (terms, step.shape, step.nbytes, combination.output)
    return found


@pytest.mark.parametrize("text", RECIPES)
@given(values=st.lists(st.fractions(Fraction(1, 9), 2, max_denominator=9), min_size=4, max_size=4))
@examples(8)
def test_a_plan_holds_for_all_values(
    weights: dict[str, Any], text: str, values: list[Fraction]
) -> None:
    first, second = (dict(zip("st", values[i:], strict=False)) for i in (0, 2))
    freed = plan(weights, text, first).freed()
    made = freed.plan()
    expected = plan(weights, text, second)
    donor = made.operands[made.donor].called
    assert rows(made, second) == rows(expected.plan(donor=donor), {})
    assert rows(made, first) == rows(plan(weights, text, first).plan(), {})
    assert made.kind is expected.kind is freed.kind
    assert freed.plan(donor=donor).donor == made.donor


@examples(60)
@given(
    sums(2, ("base", "a", "b"), ("*.q.*", "*", "*.[kq].*")).flatmap(written), fractions, fractions
)
def test_a_plan_of_any_sum_holds_for_all_values(
    weights: dict[str, Any], text: str, first: Fraction, second: Fraction
) -> None:
    models = {name: weights[name] for name in ("base", "a", "b")}
    recipe = taskalg.compile(f"strength = {first}\n({text})", models=models)
    expected = recipe.bind(strength=second)
    try:
        made = recipe.freed().plan(allow_partial=True)
        donor = made.operands[made.donor].called
        wanted = expected.plan(donor=donor, allow_partial=True)
    except (ExpressionError, KindError):
        assume(False)  # a range selects nothing, or nothing is left
    assume(made.kind is wanted.kind)
    left, right = rows(made, {"strength": second}), rows(wanted, {})
    assert {n: row[0] for n, row in left.items()} == {n: row[0] for n, row in right.items()}


def test_the_numbers_choose_the_donor(weights: dict[str, Any]) -> None:
    for first, donor in ((Fraction(1, 4), "b"), (Fraction(3, 4), "a")):
        made = plan(weights, "s*a + (1 - s)*b", {"s": first}).freed().plan()
        assert made.operands[made.donor].called == donor


def test_a_kind_holds_for_all_values(weights: dict[str, Any]) -> None:
    recipe = plan(weights, "s*a + t*b", {"s": Fraction(1, 2), "t": Fraction(1, 2)})
    assert recipe.kind is Kind.MODEL
    assert recipe.freed().kind is Kind.PARTIAL
    with pytest.raises(KindError) as caught:
        recipe.freed().plan()
    assert (
        caught.value.note
        == "the coefficients add up to s + t: 1 makes a model, 0 makes a task vector"
    )
    assert caught.value.help and "divide by (s + t)" in caught.value.help
    assert recipe.freed().plan(allow_partial=True).kind is Kind.PARTIAL
    assert recipe.freed(["s"]).kind is Kind.PARTIAL
    with pytest.raises(KindError, match="must be a model") as caught:
        plan(weights, "base + s*a[0:2]", {"s": Fraction(1)}).freed().check()
    assert caught.value.note and "1 + s" in caught.value.note


def test_a_free_scalar_reaches_no_engine(weights: dict[str, Any], tmp_path: Path) -> None:
    recipe = plan(weights, "base + s*(a - base)", {"s": Fraction(1, 2)})
    with pytest.raises(UsageError) as caught:
        recipe.freed().save(tmp_path / "out.safetensors")
    assert str(caught.value).startswith("s has no value")
    assert caught.value.help == "give it one: recipe.bind(s=0.4)"
    assert not list(tmp_path.iterdir())
    recipe.save(tmp_path / "out.safetensors")


# ---- Which scalars there are


SCALARS: dict[str, tuple[str, dict[str, Any], dict[str, Fraction]]] = {
    "bindings": ("s = 0.4\nt = 1/3\ns*t*a", {}, {"s": Fraction(2, 5), "t": Fraction(1, 3)}),
    "derived": ("s = 0.4\nt = 2*s\nu = t\nu*a", {}, {"s": Fraction(2, 5)}),
    "in a function": ("s = 1\nf(x) = s*x\nt = f(2)\nt*a", {}, {"s": Fraction(1)}),
    "two functions": ("s = 1\nf(x) = s*x\ng(x) = f(x)\nt = g(2)\nt*a", {}, {"s": Fraction(1)}),
    "hidden by a parameter": (
        "s = 1\nf(s) = s*2\nt = f(3)\n(s + t)*a",
        {},
        {"s": Fraction(1), "t": Fraction(6)},
    ),
    "set": ("s = 0.4\nt = 2*s\nt*a", {"t": 5}, {"t": Fraction(5), "s": Fraction(2, 5)}),
    "set alone": ("λ*a", {"λ": "0.1"}, {"λ": Fraction(1, 10)}),
    "varies": ("r = ramp(0, 1)\ns = 2\nr*s*a", {}, {"s": Fraction(2)}),
    "none": ("0.4*a", {}, {}),
}


@pytest.mark.parametrize("case", SCALARS.values(), ids=list(SCALARS))
def test_scalars_are_those_that_nothing_else_decides(
    case: tuple[str, dict[str, Any], dict[str, Fraction]],
) -> None:
    text, values, expected = case
    recipe = taskalg.compile(text, models={"a": None}, set=values)
    assert recipe.scalars == expected
    freed = recipe.freed()
    assert {s.name for c in by_name(freed).values() for s in c.symbols()} <= expected.keys()
    assert str(freed.bind(**expected)) == str(freed) and freed.scalars == expected
    if expected:
        name = next(iter(expected))
        only = by_name(recipe.freed([name]))
        assert {s.name for c in only.values() for s in c.symbols()} <= {name}
    assert (recipe + recipe).scalars == {}
    assert (recipe + recipe).freed() == recipe + recipe


def test_a_scalar_that_is_not_there_cannot_be_freed() -> None:
    recipe = taskalg.compile("strength = 0.4\nstrength*a", models={"a": None})
    with pytest.raises(UsageError) as caught:
        recipe.freed(["strenght"])
    assert str(caught.value).startswith("the recipe has no scalar 'strenght'")
    assert caught.value.help == "did you mean 'strength'? it has strength"


def test_files_are_opened_once_however_often_a_text_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counting(path: str, opening: Opening) -> Checkpoint:
        opened.append(path)
        return open_checkpoint(path, opening)

    monkeypatch.setattr("taskalg.expression.open_checkpoint", counting)
    taskalg.compile("a", models={"a": layered(1)}).save(tmp_path / "a.safetensors")
    text = f's = 0.4\na = checkpoint("{tmp_path / "a.safetensors"}")\nbase + s*(a - base)'
    recipe = taskalg.compile(text, base=layered(2))
    recipe.plan()
    recipe.freed().plan()
    recipe.bind(s=3).plan()
    recipe.bind(base=layered(3)).freed().plan()
    assert len(opened) == 1
