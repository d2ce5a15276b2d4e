"""The canonical form: one for every linear expression, from cases/sums.toml and by its laws."""

import random
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskalg
from taskalg import ExpressionError
from taskalg.algebra.rationals import decimal_text
from taskalg.language.nodes import Node
from tests.strategies import examples, fully, plainly, sums, written
from tests.test_laws import compiled

CASES = tomllib.loads((Path(__file__).parent / "cases/sums.toml").read_text("utf-8"))["case"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["text"])
def test_the_sum_and_its_text_are_these(case: dict[str, Any]) -> None:
    recipe = compiled(case["text"])
    assert str(recipe) == case["prints"]
    if "sum" in case:
        expected = [(name, Fraction(text)) for name, text in case["sum"].items()]
        assert list(recipe.coefficients.items()) == expected
    assert str(compiled(case["prints"])) == case["prints"]


@examples(80)
@given(data=st.data(), node=sums(2))
def test_spelling_and_brackets_do_not_change_the_form(data: st.DataObject, node: Node) -> None:
    texts = {str(compiled(text)) for text in (plainly(node), fully(node), data.draw(written(node)))}
    assert len(texts) == 1


@given(st.randoms(use_true_random=False))
def test_the_order_of_terms_does_not_change_the_form(rng: random.Random) -> None:
    terms = ["base", "0.3*a", "b[0:2]", "-0.4*toxic", "ramp(0, 1)*ft", 'a["*p*"]', "λ"]
    expected = str(compiled(" + ".join(terms)))
    rng.shuffle(terms)
    assert str(compiled(" + ".join(terms))) == expected


@given(st.fractions(max_denominator=10**6) | st.fractions())
def test_a_coefficient_s_text_is_exactly_that_number(value: Fraction) -> None:
    text = decimal_text(value)
    assert Fraction(text) == value
    if value:
        assert compiled(f"{text}*a").coefficients == {"a": value}


def test_a_sum_in_which_nothing_is_left_prints_as_zero() -> None:
    assert str(compiled("a - a")) == "0"
    assert compiled("a - a").coefficients == {}


# ---- Limits


@pytest.mark.soak
def test_a_sum_of_100_000_terms_works() -> None:
    recipe = compiled(" + ".join(["0.00001*a"] * 99_999 + ["0.00001*b"]))
    assert str(recipe) == "0.99999*a + 0.00001*b"


@pytest.mark.soak
def test_a_product_and_a_mean_of_100_000_terms_work() -> None:
    assert compiled("*".join(["1"] * 100_000) + "*a").coefficients == {"a": 1}
    assert compiled(f"mean({', '.join(['a'] * 100_000)})").coefficients == {"a": 1}


def test_a_sum_a_product_and_a_mean_of_10_000_terms_work() -> None:
    assert str(compiled(" + ".join(["0.0001*a"] * 9_999 + ["0.0001*b"]))) == "0.9999*a + 0.0001*b"
    assert compiled("*".join(["1"] * 10_000) + "*a").coefficients == {"a": 1}
    assert compiled(f"mean({', '.join(['a'] * 10_000)})").coefficients == {"a": 1}


def test_a_sum_of_many_names_works() -> None:
    models = {f"m{index:05d}": None for index in range(5_000)}
    recipe = taskalg.compile("+".join(reversed(models)), models=models)
    assert list(recipe.coefficients) == list(models)


def test_a_recipe_of_5_000_lines_works() -> None:
    lines = [f"v{n} = v{n - 1} + a" for n in range(1, 5_000)]
    assert compiled("\n".join(["v0 = a", *lines, "v4999"])).coefficients == {"a": 5_000}


DOUBLING = "\n".join(["d0(x) = x + x", *(f"d{n}(x) = d{n - 1}(d{n - 1}(x))" for n in range(1, 30))])


def test_functions_may_expand_to_100_000_calls_and_no_more() -> None:
    assert compiled(f"{DOUBLING}\nd11(a)").coefficients == {"a": 2**2048}
    with pytest.raises(ExpressionError, match=r"too long|more than 100,000 calls"):
        compiled(f"{DOUBLING}\nd29(a)")
    same = "\n".join(["s0(x) = x", *(f"s{n}(x) = s{n - 1}(s{n - 1}(x))" for n in range(1, 30))])
    with pytest.raises(ExpressionError, match="functions expand to more than 100,000 calls"):
        compiled(f"{same}\ns20(a)")


def test_functions_nest_no_deeper_than_200() -> None:
    lines = ["g0(x) = x", *(f"g{n}(x) = g{n - 1}(x)" for n in range(1, 300))]
    with pytest.raises(ExpressionError, match="functions nest more than 200 deep"):
        compiled("\n".join([*lines, "g299(a)"]))
    assert compiled("\n".join([*lines, "g60(a)"])).coefficients == {"a": 1}


@pytest.mark.parametrize(
    "text", ["2**a", "x = 1e600\n(x*x*x)*a", "1e-1233*1e-1*a/10", "a/1e1233/10"]
)
def test_a_scalar_has_at_most_4096_bits(text: str) -> None:
    with pytest.raises(ExpressionError, match=r"too long to be exact|unexpected '\*'"):
        compiled(text)


def test_4096_bits_are_enough_for_these() -> None:
    assert compiled("1e1233*a").coefficients == {"a": 10**1233}
    assert compiled("1e-1233*a").coefficients == {"a": Fraction(1, 10**1233)}
    with pytest.raises(ExpressionError, match="too long"):
        compiled("1e1234*a")


def test_a_coefficient_may_depend_on_the_tensor_in_only_so_many_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def text(count: int) -> str:
        return " + ".join(f"a[{index}]" for index in range(count))

    too_many = "depends on the tensor in too many ways"
    product = "*".join(f'(1 + 1["{index}"])' for index in range(14))
    powers = "*".join(["(ramp(0, 1) + ramp(1, 2) + ramp(3, 1) + 1[0])"] * 40)
    for scalar in (product, powers):
        with pytest.raises(ExpressionError, match=too_many):
            compiled(f"({scalar})*a")
    monkeypatch.setattr("taskalg.algebra.coefficient.MAX_MONOMIALS", 500)
    assert len(compiled(text(500)).resolved.terms) == 1
    with pytest.raises(ExpressionError, match=too_many):
        compiled(text(501))
