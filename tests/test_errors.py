"""Every message, word for word, from cases/errors.toml; and what all messages have in common."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

import taskalg
from taskalg import ExpressionError, TaskalgError, errors
from taskalg.errors import Source, Span, listed, printable, quoted

CASES = tomllib.loads((Path(__file__).parent / "cases/errors.toml").read_text("utf-8"))["case"]


def refused(text: str, case: dict[str, Any]) -> TaskalgError:
    models = case.get("models", ["base", "math", "code"])
    with pytest.raises(TaskalgError) as caught:
        taskalg.compile(
            text,
            models=dict.fromkeys(models),
            tasks=dict.fromkeys(case.get("tasks", ["toxic"] if "base" in models else [])),
            set=case.get("set", {}),
        ).check()
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["text"].replace("\n", "; "))
def test_the_message_is_word_for_word(case: dict[str, Any]) -> None:
    before, _, rest = case["text"].partition("«")
    marked, _, after = rest.partition("»")
    error = refused(before + marked + after, case)
    assert str(error) == case["says"]
    assert error.span is not None
    assert (error.span.start, error.span.end) == (len(before), len(before + marked))
    assert type(error).__name__ == case.get("error", "ExpressionError")
    assert error.exit_code == case.get("code", 2)


def test_there_are_enough_cases_and_none_twice() -> None:
    assert len(CASES) >= 100
    assert len({(case["text"], str(case.get("models"))) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["text"].replace("\n", "; "))
def test_messages_keep_to_the_house_style(case: dict[str, Any]) -> None:
    first, *rest = case["says"].splitlines()
    assert not first.endswith(".")
    assert first[0].islower() or not first[0].isalpha()
    assert "Error" not in first
    assert all(line.startswith("  ") for line in rest)
    assert printable(case["says"].replace("\n", "")) == case["says"].replace("\n", "")


# ---- Drawing


def drawn(text: str, start: int, end: int, name: str = "<expr>") -> list[str]:
    return errors.draw(Span(Source(name, text), start, end))


def test_carets_count_the_cells_a_terminal_uses() -> None:
    assert drawn("漢 + é\u0301x", 0, 1)[2] == "    | ^^"
    assert drawn("漢 + é\u0301x", 4, 6)[2] == "    |      ^"
    assert drawn("\ta + b", 1, 2)[1:] == ["  1 |  a + b", "    |  ^"]


def test_a_span_of_several_lines_is_marked_to_the_end_of_its_first() -> None:
    assert drawn("(a +\r\nb)", 0, 8) == ["  at <expr>:1:1", "  1 | (a +", "    | ^^^^"]


def test_the_end_of_the_text_has_one_caret() -> None:
    assert drawn("a +\n", 4, 4) == ["  at <expr>:2:1", "  2 | ", "    | ^"]


@pytest.mark.parametrize("start", [0, 1, 50, 500, 999])
def test_of_a_long_line_a_part_is_shown_with_the_caret_in_it(start: int) -> None:
    place, line, carets = drawn("abcdefghij" * 100, start, start + 1)
    assert place == f"  at <expr>:1:{start + 1}"
    assert len(line) <= errors.WINDOW + len("  1 | ……")
    assert line[len(carets) - 1] == "abcdefghij"[start % 10]
    assert carets.count("^") == 1


def test_the_gutter_grows_with_the_line_number() -> None:
    assert drawn("\n" * 99 + "x", 99, 100) == ["  at <expr>:100:1", "  100 | x", "      | ^"]


def test_what_upsets_a_terminal_is_escaped() -> None:
    assert printable("a\x1b[31m\u202e\ud800\tb") == "a\\x1b[31m\\u202e\\ud800 b"
    assert drawn("a", 0, 1, "evil\nname")[0] == "  at evil\\x0aname:1:1"
    assert quoted("\x00") == "'\\x00'"


def test_a_message_escapes_what_it_was_given() -> None:
    error = TaskalgError("no \x1b[2J", note="found \u202e", help="delete \x07")
    assert str(error) == "no \\x1b[2J\n  note: found \\u202e\n  help: delete \\x07"


def test_lists_show_five_and_count_the_rest() -> None:
    assert listed([]) == ""
    assert listed(["a", "b"], "or") == "a or b"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_an_error_without_a_place_is_its_sentence_note_and_help() -> None:
    error = TaskalgError("it is wrong", note="found 1", help="write 2")
    assert str(error) == "it is wrong\n  note: found 1\n  help: write 2"
    assert isinstance(ExpressionError("x"), TaskalgError)
    assert (TaskalgError("x").exit_code, ExpressionError("x").exit_code) == (70, 2)
