"""Text to tree: precedence, spans, lines, and that no text at all can break it."""

import random
import threading
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import taskalg
from taskalg import ExpressionError, TaskalgError
from taskalg.errors import Source, Span
from taskalg.language import nodes
from taskalg.language.nodes import Node, children
from taskalg.language.parser import DISPLAY, grammar, parse, parse_expression
from tests.strategies import examples, fully, recipes, sums, written


def tree(text: str) -> Node:
    return parse_expression(Source("<test>", text))


BRACKETED = [  # text, and the same with brackets around every operator
    ("a + b - c", "(a + b - c)"),
    ("a - b - c + d", "(a - b - c + d)"),
    ("a*b + c/d", "((a * b) + (c / d))"),
    ("a/b*c", "(a / b * c)"),
    ("-a*b", "((-a) * b)"),
    ("-a + b", "((-a) + b)"),
    ("a*-b", "(a * (-b))"),
    ("a - -b", "(a - (-b))"),
    ("-+-a", "(-(+(-a)))"),
    ("-a[0]", "(-(a[0]))"),
    ("a*b[0]", "(a * (b[0]))"),
    ("a[0][1:]", "((a[0])[1:])"),
    ("f(a)[0]", "(f(a)[0])"),
    ("(a + b)*c", "((a + b) * c)"),
    ("(a + b) + c", "((a + b) + c)"),
    ("a + (b + c)", "(a + (b + c))"),
    ("((a))", "a"),
    ("f(a + b, k=-1)", "f((a + b), k=(-1))"),
    ("f(a,)", "f(a)"),
    ("f()", "f()"),
    ("a['x', ~\"y\", 3, -1, :, 1:, :2, -3:-1, ~0,]", 'a["x", ~"y", 3, -1, :, 1:, :2, -3:-1, ~0]'),
    ("2*.5*1.*1e-3*1_000", "(2 * .5 * 1. * 1e-3 * 1_000)"),
    ("a\n", "a"),
    ("\n\n  a  # a comment\n\n# another", "a"),
    ("(a\n + b\n\n)", "(a + b)"),
    ("a[\n0\n]", "(a[0])"),
    ("f(\r\na,\r\nb)\r\n", "f(a, b)"),
    ("user + users", "(user + users)"),
]


@pytest.mark.parametrize(("text", "expected"), BRACKETED)
def test_operators_bind_as_the_ladder_says(text: str, expected: str) -> None:
    bracketed = fully(tree(text))
    if bracketed.startswith("(") and not expected.startswith("("):
        bracketed = bracketed[1:-1]
    assert bracketed == expected
    assert tree(expected) == tree(text)


def test_long_sums_and_products_are_flat() -> None:
    node = tree(" + ".join("abc"))
    assert isinstance(node, nodes.Sum)
    assert len(node.operands) == 3
    assert node.operators == ("+", "+")


NUMBERS = [
    ("0.1", "1/10"),
    ("1e-3", "1/1000"),
    ("1_000.5_0", "2001/2"),
    (".5E+1", "5"),
    ("007", "7"),
]


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_a_literal_is_the_exact_rational_it_spells(text: str, value: str) -> None:
    node = tree(text)
    assert isinstance(node, nodes.Number)
    assert (str(node.value), node.text) == (value, text)


@pytest.mark.parametrize(
    "text", ["1__0", "_1", "1_", "1e", "0x10", "1.2.3", "1e1.5", "١٢", "1 000"]
)
def test_what_is_no_number_is_refused_or_a_name(text: str) -> None:
    with pytest.raises(ExpressionError):
        taskalg.compile(text)


def test_names_are_normalized_and_spans_are_as_typed() -> None:
    node = tree("  ﬁne + τ_toxic")
    assert isinstance(node, nodes.Sum)
    first, second = node.operands
    assert isinstance(first, nodes.Name) and isinstance(second, nodes.Name)
    assert (first.name, second.name) == ("fine", "τ_toxic")
    assert (first.span.start, first.span.end) == (2, 5)


def test_spans_do_not_count_when_trees_are_compared_but_spellings_do() -> None:
    assert tree("a+b") == tree("( a  +\tb )")
    assert tree("0.5") != tree(".5")
    assert tree("a + b") != tree("b + a")


def test_a_byte_order_mark_at_the_start_is_no_character_of_the_text() -> None:
    assert taskalg.compile("\ufeffa", models={"a": None}) == taskalg.compile(
        "a", models={"a": None}
    )


def test_strings_have_no_escapes() -> None:
    node = tree(r"""a["\n", '"']""")
    assert isinstance(node, nodes.Select)
    assert [item.text for item in node.items if isinstance(item, nodes.Pattern)] == ["\\n", '"']


def test_a_recipe_is_lines_and_at_most_one_expression() -> None:
    text = 'use "zoo.ta"\nx = 1\n\nf(a, b) = a*b  # note\nf(x, x)\n'
    recipe = parse(Source("<test>", text))
    assert [type(s).__name__ for s in recipe.statements] == ["Use", "Binding", "Definition"]
    assert isinstance(recipe.expression, nodes.Call)
    assert parse(Source("<test>", "# only a comment")).expression is None
    assert parse(Source("<test>", "")).statements == ()


def test_every_terminal_has_words_for_a_message() -> None:
    names = {terminal.name for terminal in grammar().terminals}
    ignored = {name for name in names if name == "COMMENT" or name.startswith("__")}
    assert names - ignored <= set(DISPLAY)


# ---- Spans


def spans(node: Node) -> Iterator[tuple[Node, Span]]:
    yield node, node.span
    for child in children(node):
        yield from spans(child)


@examples(80)
@given(data=st.data(), node=sums(2))
def test_the_text_in_a_node_s_span_is_that_node_again(data: st.DataObject, node: Node) -> None:
    text = data.draw(written(node))
    for part, span in spans(tree(text)):
        assert span.source.text == text
        assert tree(text[span.start : span.end]) == part


# ---- Any text at all

MODELS = dict.fromkeys(("base", "a", "b", "ft"))
WORDS = [
    *("base", "a", "toxic", "f", "x", "use", "lerp", "mean", "ramp", "task", "checkpoint", "ties"),
    *(
        "0",
        "1",
        "0.4",
        "1e999999",
        "2_0",
        ".5",
        "-1",
        '"*.mlp.*"',
        "'x'",
        '"',
        "'",
        "λ",
        "漢",
        "\0",
    ),
    *(
        "+",
        "-",
        "*",
        "/",
        "(",
        ")",
        "[",
        "]",
        ",",
        ":",
        "=",
        "~",
        "\n",
        "\r\n",
        " ",
        "#",
        "!",
        "\u202e",
    ),
]


def outcome(text: str) -> str:
    """Compile and ask everything; the result or the error must be ours."""
    try:
        recipe = taskalg.compile(text, models=MODELS, tasks={"toxic": None})
        words = f"{recipe.kind} {recipe}" if recipe.kind != "scalar" else "scalar"
        recipe.check()
        return words
    except TaskalgError as error:
        places = [span for span in (error.span, *(span for _, span in error.also)) if span]
        for span in places:
            if span.source.name == "<expr>":
                assert 0 <= span.start <= span.end <= len(text)
        told = str(error)
        assert "\x1b" not in told and "\0" not in told
        return told


@examples(150)
@given(st.text())
@example("\ufeff")
@example("a\ufeff")
@example("\ud800")
@example("a\x85b")
@example("a\u2028b")
@example("\x0c")
def test_any_text_gives_a_result_or_an_error_of_ours(text: str) -> None:
    outcome(text)


@examples(250)
@given(st.lists(st.sampled_from(WORDS), max_size=12).map("".join))
def test_any_soup_of_tokens_gives_a_result_or_an_error_of_ours(text: str) -> None:
    outcome(text)


@examples(150)
@given(data=st.data(), recipe=recipes(), rng=st.randoms(use_true_random=False))
def test_a_damaged_recipe_gives_a_result_or_an_error_of_ours(
    data: st.DataObject, recipe: tuple[list[str], Node], rng: random.Random
) -> None:
    lines, expression = recipe
    text = "\n".join([*lines, data.draw(written(expression))])
    for _ in range(rng.randint(1, 3)):
        at, end = sorted(rng.randint(0, len(text)) for _ in range(2))
        end = min(end, at + 5)
        text = text[:at] + rng.choice(["", text[at:end] * 2, rng.choice(WORDS)]) + text[end:]
    outcome(text)


DEEP = 100_000
DEEP_TEXTS = {
    "brackets": "(" * DEEP + "a" + ")" * DEEP,
    "open brackets": "(" * DEEP,
    "signs": "-" * DEEP + "a",
    "selectors": "a" + "[0]" * DEEP,
    "calls": "mean(" * DEEP + "a" + ")" * DEEP,
    "calls to nothing": "f(" * DEEP,
    "open selectors": "a[" * DEEP,
    "brackets in lines": "x = " + "(\n" * DEEP,
}


@pytest.mark.parametrize("text", DEEP_TEXTS.values(), ids=DEEP_TEXTS)
def test_nesting_of_any_sort_is_refused_however_deep(text: str) -> None:
    told = outcome(text)
    assert "nests more than 200 deep" in told or "ends too soon" in told or "unexpected" in told


NESTED = [("(", "a", ")"), ("-", "a", ""), ("", "a", "[0:]"), ("mean(", "a", ")")]


@pytest.mark.parametrize(("before", "leaf", "after"), NESTED)
def test_nesting_of_190_is_fine_and_of_201_is_not(before: str, leaf: str, after: str) -> None:
    assert outcome(before * 190 + leaf + after * 190).startswith(("model", "an expression must"))
    assert "nests more than 200 deep" in outcome(before * 201 + leaf + after * 201)


LONG = {
    "a name": "n" * 1_000_000,
    "a number": "1" * 1_000_000,
    "a fraction": "0." + "1" * 1_000_000,
    "a string": 'a["' + "*" * 1_000_000 + '"]',
    "a comment": "a #" + "c" * 1_000_000,
    "spaces": " " * 1_000_000 + "a",
    "newlines": "\n" * 1_000_000 + "a",
    "an exponent": "1e" + "9" * 1_000_000,
    "zeros": "0" * 1_000_000 + "*a + a",
    "underscores": "1" + "_1" * 500_000,
    "letters beyond ASCII": "漢" * 1_000_000,
    "marks": "a" + "\u0301" * 1_000_000,
    "hyphens": "a" + "-a" * 20_000,
    "words with hyphens": "x-" * 50_000 + "x",
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_tokens_of_a_million_characters_end_in_time_and_in_short_messages(text: str) -> None:
    assert len(outcome(text)) < 2_500_000


def test_several_threads_may_parse_at_once() -> None:
    found: dict[int, list[str]] = {}

    def work(number: int) -> None:
        text = " + ".join(f"a{number}" for _ in range(50))
        found[number] = [fully(tree(text)) for _ in range(20)]
        with pytest.raises(ExpressionError) as caught:
            tree(f"a{number} + + * {number}")
        assert caught.value.span is not None
        found[number].append(caught.value.span.source.text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(6):
        assert len(set(found[number])) == 2
        assert all(f"a{number}" in text for text in found[number])
