import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskalg.errors import ExpressionError, Source
from taskalg.language.format import format_text
from taskalg.language.nodes import Recipe
from taskalg.language.parser import parse
from taskalg.language.printer import print_recipe
from tests.test_printer import recipes

CASES = tomllib.loads((Path(__file__).parent / "cases/format.toml").read_text("utf-8"))["case"]
TOKEN = re.compile(
    r"\"[^\"\n]*\"|'[^'\n]*'|\n"
    r"|[0-9.][0-9_.]*(?:[eE][+-]?[0-9_]+)?|[A-Za-z_\x80-\U0010FFFF][\w\x80-\U0010FFFF]*|[^ ]"
)
blanks = st.sampled_from(["", " ", "  ", "\t", " \f", "\r"])
comments = st.sampled_from(["#", "#x", "# y ", "##z", "#!w", "#  λ 'u", '# "(', "#\tv\r"])
breaks = st.builds(
    lambda before, comment, end, after: before + comment + end + after,
    blanks,
    st.just("") | comments,
    st.sampled_from(["\n", "\r\n"]),
    blanks,
)


def formatted(text: str) -> str:
    return format_text(Source("<recipe>", text))


def tree(text: str) -> Recipe:
    return parse(Source("<recipe>", text))


@st.composite
def untidy(draw: st.DrawFn) -> str:
    """Return a recipe with odd spacing, comments, and line breaks where they may be."""
    tokens = TOKEN.findall(print_recipe(draw(recipes)))
    pieces = [draw(st.sampled_from(["", "\ufeff"]))]
    opened = 0
    for token in tokens:
        pieces.append(draw(blanks | breaks) if opened else draw(blanks))
        pieces.append(draw(st.lists(breaks, min_size=1).map("".join)) if token == "\n" else token)
        opened += (token in "([") - (token in ")]")
    return "".join([*pieces, draw(st.just("") | comments)])


def comments_of(text: str) -> list[str]:
    """Return the comments, without what formatting may change in them."""
    found = re.findall(r"\"[^\"\n]*\"|'[^'\n]*'|(#[^\n]*)", text)
    return [re.sub(r"\s", "", comment) for comment in found if comment]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_cases(case: dict[str, Any]) -> None:
    expected = case["formatted"].removeprefix("\n")
    assert formatted(case["text"]) == expected
    assert formatted(expected) == expected


@given(untidy())
def test_the_tree_stays(text: str) -> None:
    assert tree(formatted(text)) == tree(text.removeprefix("\ufeff"))


@given(untidy())
def test_formatting_twice_changes_nothing(text: str) -> None:
    once = formatted(text)
    assert formatted(once) == once


@given(untidy())
def test_comments_and_line_breaks_stay(text: str) -> None:
    result = formatted(text)
    assert comments_of(result) == comments_of(text)
    # Lines stay lines: only blank ones at either end go.
    blank = re.compile(r"^\ufeff?\s*|\s*$")
    assert result.strip().count("\n") == blank.sub("", text).count("\n")


@given(untidy())
def test_layout(text: str) -> None:
    result = formatted(text)
    lines = result.split("\n")
    assert result == "" or (result.endswith("\n") and not result.endswith("\n\n"))
    assert all(line == line.rstrip(" \t\r\f") for line in lines)
    assert all((len(line) - len(line.lstrip(" "))) % 4 == 0 for line in lines)
    assert not result.startswith(("\n", "\ufeff"))


@given(recipes)
def test_a_printed_recipe_is_formatted(recipe: Recipe) -> None:
    text = print_recipe(recipe)
    assert formatted(text) == text


@pytest.mark.parametrize("text", ["a +", "a\n+ b", "a b", "(a", "a $ b", "a \u202e b", '"x'])
def test_a_text_that_does_not_parse_raises_the_parsers_error(text: str) -> None:
    with pytest.raises(ExpressionError) as of_parser:
        tree(text)
    with pytest.raises(ExpressionError) as of_format:
        formatted(text)
    assert str(of_format.value) == str(of_parser.value)


def test_a_long_text_takes_linear_time() -> None:
    text = "+".join(["a"] * 20_000)
    assert formatted(text) == " + ".join(["a"] * 20_000) + "\n"


@pytest.mark.parametrize(
    ("text", "help"),
    [("a + 2b", "write 2*b"), ("a b", "write a*b"), ("2(a)", "write * between")],
)
def test_implicit_multiplication_is_told(text: str, help: str) -> None:
    with pytest.raises(ExpressionError) as error:
        tree(text)
    assert (error.value.note, error.value.help) == ("there is no implicit multiplication", help)
