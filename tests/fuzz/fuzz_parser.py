"""Fuzzes what is typed: an expression or recipe in, a canonical sum or an ExpressionError out.

Run it by hand: `python tests/fuzz/fuzz_parser.py -runs=500000`; other options are libFuzzer's.

What is promised: only a TaskalgError is raised, with exit code 2, or 4 where the text names a file
that is not as it should be; its message can be printed, and its places lie in the text. Printing
and formatting keep the tree; the canonical form parses, and means and prints the same.
"""

from contextlib import nullcontext
from typing import Any

from tests.fuzz import harness
from tests.fuzz.headers import Pairs, tensor
from tests.fuzz.headers import build as file_of
from tests.fuzz.texts import mutate

WATCHED = ["taskalg.language", "taskalg.algebra", "taskalg.compiler", "taskalg.planning.resolve"]
if __name__ == "__main__":
    import atheris

    watching: Any = atheris.instrument_imports(include=WATCHED)
else:
    watching = nullcontext()
with watching:
    from taskalg import api
    from taskalg.algebra.coefficient import Coefficient
    from taskalg.compiler import bind
    from taskalg.errors import CheckpointError, MismatchError, Source, TaskalgError
    from taskalg.language.format import format_text
    from taskalg.language.nodes import Recipe
    from taskalg.language.parser import parse
    from taskalg.language.printer import print_recipe

LONGEST = 6000  # characters of a message; the text has 400
ZERO = ("division by zero", "one of the two is zero")  # where what is measured cancels
VECTOR = Pairs([["taskalg", "task-vector"]])
MODEL_FILE = file_of(Pairs([["layers.0.w", tensor("U8", [2], 0)]]), b"\0\0")
VECTOR_FILE = file_of(
    Pairs([["__metadata__", VECTOR], ["layers.0.w", tensor("U8", [2], 0)]]), b"\0\0"
)
FILES = {
    "m.safetensors": MODEL_FILE,
    "v.safetensors": VECTOR_FILE,
    "zoo.ta": b'zoo = checkpoint("m.safetensors") - base\n',
    "loop.ta": b'use "loop.ta"\n',
    "broken.ta": b"x = (1\n",
}
GIVEN = bind(models=dict.fromkeys(["base", "a"]), tasks=dict.fromkeys(["toxic", "math"]))

tally = harness.Tally("parser", "parsed")


def check(content: bytes) -> None:
    """Take a text through every stage, and back."""
    tally.executions += 1
    text = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    source = Source("<fuzz>", text)
    try:
        tree = parse(source)
    except TaskalgError as error:
        check_error(error)
        tally.outcomes["did not parse"] += 1
        return
    tally.outcomes[tally.deep] += 1
    check_text(tree, source)
    try:
        found = api.build(None, source, GIVEN, free=True)
        if not isinstance(found.value, Coefficient):
            found.check(allow_partial=True)
        printed = str(found)
    except TaskalgError as error:
        check_error(error)
        tally.outcomes["makes no sense"] += 1
        return
    tally.outcomes["means something"] += 1
    check_meaning(found, printed, tree)


def check_text(tree: Recipe, source: Source) -> None:
    """Check that printing and formatting keep the tree, and do nothing the second time."""
    printed = print_recipe(tree)
    again = parse(Source("<printed>", printed))
    assert again == tree, printed
    assert print_recipe(again) == printed
    formatted = format_text(source)
    assert parse(Source("<formatted>", formatted)) == tree, formatted
    assert format_text(Source("<formatted>", formatted)) == formatted


def check_meaning(found: Any, printed: str, tree: Recipe) -> None:
    """Check that the canonical form, among the same statements, is the same sum."""
    statements = Source("<statements>", print_recipe(Recipe(tree.statements, None, tree.source)))
    again = api.build(Source("<canonical>", printed), statements, GIVEN, free=True)
    assert str(again) == printed
    assert terms(again) == terms(found), printed


def terms(found: Any) -> Any:
    """Return what a sum consists of, in an order that does not matter."""
    if isinstance(found.value, Coefficient):
        return found.resolved_scalar()[1]
    return {operand.called: part for operand, part in found.resolved.terms if part}


def check_error(error: TaskalgError) -> None:
    """Check an error's exit code, its places, and that a terminal can show it."""
    zero = isinstance(error, MismatchError) and error.message.endswith(ZERO)
    assert error.exit_code == 2 or isinstance(error, CheckpointError) or zero, repr(error)
    for span in [error.span, *(span for _, span in error.also)]:
        if span is not None:
            assert 0 <= span.start <= span.end <= len(span.source.text) + 1, span
    harness.check_message(str(error), LONGEST)


if __name__ == "__main__":
    harness.Memory(FILES).install()
    harness.run(check, mutate, tally)
