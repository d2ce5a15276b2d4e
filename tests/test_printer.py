import re
import unicodedata
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskalg.errors import ExpressionError, Source, Span
from taskalg.language.nodes import (
    Argument,
    Binding,
    Call,
    Definition,
    Layers,
    Name,
    Node,
    Pattern,
    Product,
    Recipe,
    Select,
    Signed,
    Statement,
    String,
    Sum,
    Use,
)
from taskalg.language.parser import parse, parse_expression
from taskalg.language.printer import print_node, print_recipe

NOWHERE = Span(Source("<made>", ""), 0, 0)


# ---- Trees


def literal(text: str) -> Node:
    return parse_expression(Source("<number>", text))


def _name(text: str) -> str:
    return unicodedata.normalize("NFKC", f"x{text}")


letters = st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd", "Mn"]), max_size=3)
names = st.one_of(
    st.sampled_from(["a", "base", "τ_toxic", "ﬁne", "use_", "λ"]).map(
        lambda name: unicodedata.normalize("NFKC", name)
    ),
    letters.map(_name).filter(str.isidentifier),
)
visible = st.characters(exclude_categories=["Cs", "Cf", "Cc"], exclude_characters="\n\"'")
texts = st.builds("".join, st.lists(st.one_of(visible, st.just('"')), max_size=4)) | st.builds(
    "".join, st.lists(st.one_of(visible, st.just("'")), max_size=4)
)
numbers = st.sampled_from(["2", "0", "0.4", ".5", "2.", "1e-3", "1_000", "1E+2_0"]).map(literal)
uses_of_names = names.map(lambda name: Name(name, NOWHERE))
strings = texts.map(lambda text: String(text, NOWHERE))
bounds = st.integers(-999_999_999, 999_999_999)
patterns = st.builds(Pattern, texts, st.booleans(), st.just(NOWHERE))
single = st.builds(lambda i, out: Layers(i, None, True, out, NOWHERE), bounds, st.booleans())
ranges = st.builds(
    lambda i, j, out: Layers(i, j, False, out, NOWHERE),
    st.none() | bounds,
    st.none() | bounds,
    st.booleans(),
)
items = st.lists(patterns | single | ranges, min_size=1, max_size=3).map(tuple)


def chains(kind: Any, signs: str, inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    parts = st.lists(st.tuples(st.sampled_from(signs), inner), min_size=1, max_size=3)
    return st.builds(
        lambda first, rest: kind(
            (first, *(node for _, node in rest)), tuple(sign for sign, _ in rest), NOWHERE
        ),
        inner,
        parts,
    )


def larger(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    argument = st.builds(Argument, st.none() | names, inner | strings, st.just(NOWHERE))
    arguments = st.lists(argument, max_size=3).map(tuple)
    return st.one_of(
        chains(Sum, "+-", inner),
        chains(Product, "*/", inner),
        st.builds(Signed, st.sampled_from("+-"), inner, st.just(NOWHERE)),
        st.builds(Select, inner, items, st.just(NOWHERE)),
        st.builds(Call, names, arguments, st.just(NOWHERE), st.just(NOWHERE)),
    )


trees: st.SearchStrategy[Node] = st.recursive(numbers | uses_of_names, larger, max_leaves=12)
parameters = st.lists(uses_of_names, max_size=3, unique_by=lambda name: name.name).map(tuple)
statements: st.SearchStrategy[Statement] = st.one_of(
    st.builds(Use, strings, st.just(NOWHERE)),
    st.builds(Binding, names, trees, st.just(NOWHERE), st.just(NOWHERE)),
    st.builds(Definition, names, parameters, trees, st.just(NOWHERE), st.just(NOWHERE)),
)
recipes = st.builds(
    Recipe,
    st.lists(statements, max_size=4).map(tuple),
    st.none() | trees,
    st.just(NOWHERE.source),
)


def parsed(text: str) -> Node:
    return parse_expression(Source("<expr>", text))


# ---- Properties


@given(trees)
def test_parsing_what_was_printed_gives_the_same_tree(tree: Node) -> None:
    assert parsed(print_node(tree)) == tree


@given(recipes)
def test_parsing_a_printed_recipe_gives_the_same_recipe(recipe: Recipe) -> None:
    text = print_recipe(recipe)
    assert parse(Source("<recipe>", text)) == recipe
    assert text.count("\n") == len(recipe.statements) + (recipe.expression is not None)


@given(trees)
def test_no_pair_of_brackets_can_be_left_out(tree: Node) -> None:
    text = print_node(tree)
    for start, end in groups(text):
        without = f"{text[:start]} {text[start + 1 : end]} {text[end + 1 :]}"
        with suppress(ExpressionError):
            assert parsed(without) != tree


def groups(text: str) -> list[tuple[int, int]]:
    """Return where brackets open and close that are not a call's."""
    hidden = re.sub(r"\"[^\"\n]*\"|'[^'\n]*'", lambda found: "_" * len(found.group()), text)
    opened: list[int] = []
    pairs = []
    for at, char in enumerate(hidden):
        if char == "(":
            opened.append(at)
        elif char == ")":
            pairs.append((opened.pop(), at))
    return [(a, b) for a, b in pairs if a == 0 or hidden[a - 1] in "(+-*/ [,="]


# ---- Cases


@pytest.mark.parametrize(
    "text",
    [
        "base + 0.4*-toxic + 0.3*(sent_yelp - lm_yelp + lm_amazon)",
        "a - (b + c)",
        "(a + b) + c",
        "a*(b*c)",
        "(a*b)*c",
        "a/(b/c)",
        "-(a*b)",
        "(a + b)[0:16]",
        "(-a)[0]",
        "-a[0]",
        "f(a)[1:, :-2, ~3, ~:]['say \"x\"']",
        'task("x", base=b + c)',
        "mean(a, -b)",
        "f()",
        "--a - +b",
    ],
)
def test_a_text_with_the_fewest_brackets_is_printed_as_it_is(text: str) -> None:
    assert print_node(parsed(text)) == text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("((a))", "a"),
        ("base + 0.4*(-toxic)", "base + 0.4*-toxic"),
        ("(a*b) + (c)", "a*b + c"),
        ("(-a)*b", "-a*b"),
        ("x[007, -0]", "x[7, 0]"),
        ("mean(a,b,)", "mean(a, b)"),
        ("ﬁne", "fine"),
    ],
)
def test_needless_brackets_and_spellings_go(text: str, printed: str) -> None:
    assert print_node(parsed(text)) == printed


def test_a_last_line_that_starts_with_a_sign_gets_brackets() -> None:
    recipe = parse(Source("<recipe>", "b = a\n(-a + b)"))
    assert print_recipe(recipe) == "b = a\n(-a + b)\n"


def test_nothing_is_printed_as_nothing() -> None:
    assert print_recipe(parse(Source("<recipe>", "# only this"))) == ""


def test_the_deepest_and_the_longest_text_can_be_printed() -> None:
    deep = "-" * 199 + "a"
    assert print_node(parsed(deep)) == deep
    wide = " + ".join(["a"] * 20_000)
    assert print_node(parsed(wide)) == wide


@pytest.mark.parametrize("text", ["both ' and \"", "two\nlines"])
def test_a_string_that_no_text_can_spell_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no escapes"):
        print_node(String(text, NOWHERE))
