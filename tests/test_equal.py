"""Equality: a proof over every tensor that could exist, or a tensor that tells two sums apart."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskalg
from taskalg import ExpressionError, Recipe
from taskalg.algebra.proof import MAX_PATTERNS, Witness, find_nonzero
from taskalg.api import build
from taskalg.compiler import Bindings
from taskalg.errors import Source
from taskalg.language.nodes import Node
from taskalg.planning.difference import where_not_zero
from tests import oracle
from tests.oracle import Row
from tests.strategies import MODELS, examples, plainly, sums
from tests.test_laws import GIVEN, compiled

# Every combination of matches and non-matches is some name's, in every layer of every stack.
FREE_PATTERNS = ("*p*", "*q*")
ENDS = ("x", "p", "q", "pq")
STACKS = [(first, last) for first in (0, 1, 3) for last in range(first, first + 8)]


def stack_name(first: int, last: int, layer: int, end: str) -> str:
    return f"from{first}to{last}.{layer}.{end}"


def row_at(node: Node, name: str, place: oracle.Place | None) -> Row:
    return oracle.nonzero(oracle.meaning(node, oracle.World(name, place, GIVEN), {}))


def all_rows(node: Node) -> dict[str, Row]:
    """Return coefficients on many tensors: all combinations of patterns in short stacks."""
    rows = {end: row_at(node, end, None) for end in ENDS}
    for first, last in STACKS:
        for layer in range(first, last + 1):
            place = oracle.Place(layer, first, last)
            for end in ENDS:
                name = stack_name(first, last, layer, end)
                rows[name] = row_at(node, name, place)
    return rows


def concrete(witness: Witness) -> tuple[str, oracle.Place | None]:
    """Make a tensor that is what a witness describes."""
    end = "".join(p.strip('"*') for p in witness.matching) or "x"
    if witness.place is None:
        return end, None
    place = oracle.Place(witness.place.layer, witness.place.first, witness.place.last)
    return stack_name(place.first, place.last, place.layer, end), place


@examples(120)
@given(sums(2, patterns=FREE_PATTERNS))
def test_zero_everywhere_is_a_proof_and_a_witness_really_differs(node: Node) -> None:
    parts = [part for _, part in compiled(plainly(node)).resolved.terms]
    witness = find_nonzero(parts)
    if witness is None:
        assert not any(all_rows(node).values())
        return
    name, place = concrete(witness)
    for pattern in (*witness.matching, *witness.other):
        assert oracle.matches(pattern.strip('"'), name) == (pattern in witness.matching)
    found = [part for part in witness.values if isinstance(part, Fraction) and part]
    assert sorted(row_at(node, name, place).values()) == sorted(found)


@examples(60)
@given(sums(2, patterns=FREE_PATTERNS), sums(2, patterns=FREE_PATTERNS))
def test_equal_without_files_means_equal_on_every_tensor(one: Node, other: Node) -> None:
    left, right = compiled(plainly(one)), compiled(plainly(other))
    if left == right:
        assert all_rows(one) == all_rows(other)
    assert left == compiled(f"--({plainly(one)})")
    assert (left == right) == (right == left)


EQUAL = [
    ("a[0:4]", "a[:4]"),
    ("a[0:4] + a[4:]", "a[0:]"),
    ("a[-1]", "a[-1:]"),
    ("a[~0:]", "a - a[0:]"),
    ('a["*p*", "*q*"]', 'a["*p*"] + a["*q*"] - a["*p*"]["*q*"]'),
    ('a[~"*p*"]', 'a - a["*p*"]'),
    ("a[2:1]", "0*a"),
    ("a[-3:2]", "a[0:2] - a[0:2][:-3]"),
    ("ramp(0, 1)*a", "a - ramp(1, 0)*a"),
    ("ramp(0, 1, 2)*a", "ramp(0, 2)*a"),
    ("ramp(1, 1, 1)*a", "a"),
    ("ramp(0, 1)*ramp(0, 1)*a", "(1 - 2*ramp(1, 0) + ramp(1, 0)*ramp(1, 0))*a"),
    ("ramp(0, 1)[0]*a", "0*a[0]"),
    ("ramp(0, 1)[0][-1]*a", "0*a"),
    ("ramp(2, 4)[-1]*a", "ramp(1, 2)[-1]*a*2"),
    ("base + toxic", "base + (toxic + b) - b"),
    ("lerp(a, b, ramp(0, 1))", "ramp(1, 0)*a + ramp(0, 1)*b"),
]
DIFFERENT = [
    ("a[0:4]", "a[0:5]", "in layer 4 of"),
    ("a[0:]", "a", "in no layer"),
    ('a["*p*"]', "a", 'a name not matching "*p*"'),
    ('a["*p*"]', 'a["*p*", "*q*"]', 'a name matching "*q*" but not matching "*p*"'),
    ("a", "a + 0.1*b", "the coefficients of b differ by -0.1"),
    ("ramp(0, 1)*a", "ramp(0, 2)*a", "the coefficients of a differ by"),
    ("ramp(0, 1, 0)*a", "0*a", "the coefficients of a differ by"),
    ("a[-1]", "a[5]", "in layer"),
    ("ramp(1, 0)[0][-1]*a", "0*a", "in layer 0 of 0 to 0"),  # a stack of one layer
]


@pytest.mark.parametrize(("left", "right"), EQUAL)
def test_sums_that_are_equal_on_every_tensor_are_proved_equal(left: str, right: str) -> None:
    assert compiled(left) == compiled(right)


@pytest.mark.parametrize(("left", "right", "words"), DIFFERENT)
def test_the_answer_names_a_tensor_that_would_tell(left: str, right: str, words: str) -> None:
    told = where_not_zero((compiled(left) - compiled(right)).resolved)
    assert told is not None
    assert words in told
    assert told.endswith("with paths the real tensor names would decide") == (
        "[" in left + right or "ramp" in left
    )


def many_patterns(count: int) -> str:
    return "a[" + ", ".join(f'"*{index}*"' for index in range(count)) + "]"


def test_twenty_patterns_are_decided_and_more_need_paths() -> None:
    assert compiled(many_patterns(MAX_PATTERNS)) != compiled("a")
    with pytest.raises(
        ExpressionError, match="21 patterns are too many to decide without"
    ) as caught:
        assert compiled(many_patterns(MAX_PATTERNS + 1)) != compiled("a")
    assert caught.value.help == "give paths: then the real tensor names decide"


def in_folder(folder: Path, text: str) -> Recipe:
    return taskalg.compile(
        text, models={"a": folder / "a.safetensors", "b": folder / "b.safetensors"}
    )


@pytest.fixture
def two_files(tmp_path: Path) -> Path:
    names = ["layers.0.p", "layers.1.p", "layers.1.q1", "head"]
    tensors = {name: oracle.Tensor("F32", (1,), bytes(4)) for name in names}
    for key in "ab":
        oracle.write_file(tmp_path / f"{key}.safetensors", tensors, {})
    return tmp_path


def test_with_paths_the_real_tensor_names_decide(two_files: Path) -> None:
    assert in_folder(two_files, "a[0:2]") == in_folder(two_files, 'a["layers.*"]')
    assert in_folder(two_files, 'a["*p"]') != in_folder(two_files, "a[0:2]")
    rest = in_folder(two_files, 'a["*p"]') - in_folder(two_files, "a[0:2]")
    assert where_not_zero(rest.resolved) == ("the coefficients of a differ by -1 on 'layers.1.q1'")


def test_with_paths_any_number_of_patterns_is_decided(two_files: Path) -> None:
    assert in_folder(two_files, many_patterns(40)) == in_folder(two_files, "a[0:]")


def test_one_file_under_two_names_is_one_checkpoint(two_files: Path) -> None:
    (two_files / "b.safetensors").unlink()
    (two_files / "b.safetensors").symlink_to(two_files / "a.safetensors")
    assert in_folder(two_files, "a") == in_folder(two_files, "b")
    assert in_folder(two_files, "0.5*a + 0.5*b").coefficients == {"a": Fraction(1)}


def test_scalars_are_equal_when_they_are_on_every_tensor() -> None:
    half = taskalg.compile("1/2")
    assert half == taskalg.compile("0.5")
    assert half != taskalg.compile("0.25")
    assert taskalg.ramp(0, 1) == 1 - taskalg.ramp(1, 0)
    assert taskalg.ramp(0, 1) != taskalg.ramp(0, 2)
    assert half != compiled("a")
    assert compiled("0*a") != half
    assert half != "1/2"


def test_models_of_the_strategies_have_no_value_in_common() -> None:
    assert len({str(compiled(name)) for name in MODELS}) == len(MODELS)


@given(st.sampled_from(EQUAL))
def test_a_difference_of_equal_sums_has_nothing_left(pair: tuple[str, str]) -> None:
    rest = compiled(f"({pair[0]}) - ({pair[1]})")
    assert rest.kind == "task vector"
    with pytest.raises(taskalg.KindError, match="nothing is left"):
        rest.check()


@pytest.mark.parametrize("text", ["x = y\ny = a\nx", "x = f\nf(t) = t\nx", "f(t) = t + f\nf(a)"])
def test_a_name_bound_further_down_is_no_undeclared_checkpoint(text: str) -> None:
    source = Source("<expr>", text)
    with pytest.raises(ExpressionError, match="is used above its binding"):
        build(source, None, Bindings(), free=True)
    free = build(Source("<expr>", "x + a"), None, Bindings(), free=True)
    assert free.coefficients == {"a": 1, "x": 1}
