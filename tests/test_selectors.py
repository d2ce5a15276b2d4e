"""Selectors and ramps on names: layers, stacks, patterns, and what selects nothing."""

import fnmatch
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskalg
from taskalg import ExpressionError, Recipe
from taskalg.algebra.selectors import Glob, LayerRange, Place, Ramp, layer_of, places
from tests import oracle
from tests.strategies import examples

LAYERS = [
    ("model.layers.12.mlp.up.weight", ("model.layers", 12)),
    ("h.0.attn.bias", ("h", 0)),
    ("decoder.block.3.layer.0.w", ("decoder.block", 3)),
    ("0.weight", ("", 0)),
    ("layers.007.w", ("layers", 7)),
    ("blocks.1", ("blocks", 1)),
    ("lm_head.weight", None),
    ("h12.w", None),
    ("layers.-1.w", None),
    ("layers.1a.w", None),
    ("layers.٣.w", None),  # an Arabic digit
    ("", None),
    ("..3..", (".", 3)),
]


@pytest.mark.parametrize(("name", "expected"), LAYERS)
def test_a_layer_is_the_first_component_that_is_all_digits(
    name: str, expected: tuple[str, int] | None
) -> None:
    assert layer_of(name) == expected
    if name.isascii():
        assert oracle.stack_and_layer(name) == expected


def test_stacks_are_counted_apart() -> None:
    names = ["encoder.block.0.w", "encoder.block.5.w", "decoder.block.2.w", "decoder.block.3.w"]
    found = places([*names, "head"])
    assert found["encoder.block.5.w"] == Place(5, 0, 5)
    assert found["decoder.block.2.w"] == Place(2, 2, 3)
    assert found["head"] is None


PARTS = st.sampled_from(["0", "1", "12", "a", "layers", "", "x1"])


@given(st.lists(st.lists(PARTS, max_size=4).map(".".join), unique=True, max_size=8))
def test_places_are_those_of_the_oracle(names: list[str]) -> None:
    for name, place in places(names).items():
        expected = oracle.place_of(name, names)
        if expected is None:
            assert place is None
        else:
            assert place == Place(expected.layer, expected.first, expected.last)


PATTERN_PARTS = [
    "*",
    "?",
    "a",
    "b",
    "A",
    ".",
    "[ab]",
    "[!a]",
    "[a-b]",
    "[",
    "]",
    "!",
    "-",
    "[]a]",
    "\n",
]
patterns = st.lists(st.sampled_from(PATTERN_PARTS), max_size=6).map("".join)


@examples(400)
@given(patterns, st.text("abAB.[]!-\n", max_size=5))
def test_patterns_match_as_the_oracle_and_fnmatch_say(pattern: str, name: str) -> None:
    found = Glob(pattern).matches(name)
    assert found == oracle.matches(pattern, name)
    assert found == fnmatch.fnmatchcase(name, pattern)


def test_a_pattern_is_the_whole_name_and_case_counts() -> None:
    assert Glob("*.mlp.*").matches("layers.0.mlp.up.weight")
    assert not Glob("mlp").matches("layers.0.mlp")
    assert not Glob("*.MLP.*").matches("layers.0.mlp.up")


bounds = st.none() | st.integers(-6, 6)


@examples(200)
@given(bounds, bounds, st.integers(0, 4), st.integers(0, 6))
def test_ranges_hold_the_layers_the_oracle_says(
    start: int | None, stop: int | None, first: int, length: int
) -> None:
    for layer in range(first, first + length + 1):
        found = LayerRange(start, stop).contains(Place(layer, first, first + length))
        assert found == oracle.in_range(start, stop, oracle.Place(layer, first, first + length))
    assert not LayerRange(start, stop).contains(None)


def test_ranges_are_python_s_where_a_stack_starts_at_zero() -> None:
    layers = list(range(7))
    for start in (None, *range(-9, 9)):
        for stop in (None, *range(-9, 9)):
            chosen = [n for n in layers if LayerRange(start, stop).contains(Place(n, 0, 6))]
            assert chosen == layers[start:stop]


fractions = st.fractions(-3, 3, max_denominator=7)


@examples(150)
@given(st.lists(fractions, min_size=2, max_size=5), st.integers(0, 5), st.integers(0, 9))
def test_ramps_are_piecewise_linear_in_depth(
    values: list[Fraction], first: int, length: int
) -> None:
    ramp = Ramp(tuple(values))
    last = first + length
    for layer in range(first, last + 1):
        expected = oracle.ramp_value(values, oracle.Place(layer, first, last))
        assert ramp.at(Place(layer, first, last)) == expected
    assert ramp.at(None) == values[0]
    assert ramp.at(Place(last, last, last)) == values[0]
    if length:
        assert ramp.at(Place(first, first, last)) == values[0]
        assert ramp.at(Place(last, first, last)) == values[-1]


# ---- On files


NAMES = ["emb.weight", *(f"layers.{n}.{part}.weight" for n in range(4) for part in ("mlp", "attn"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("selectors")
    for key in ("base", "ft"):
        tensors = {name: oracle.Tensor("F32", (1,), bytes(4)) for name in NAMES}
        oracle.write_file(path / f"{key}.safetensors", tensors, {})
    return path


def compiled(folder: Path, text: str) -> Recipe:
    models = {key: folder / f"{key}.safetensors" for key in ("base", "ft")}
    return taskalg.compile(text, models=models)


NOTHING = [
    (
        "base + (ft - base)[«4:»]",
        "no tensor is in layers 4:",
        "'layers' has layers 0 to 3",
    ),
    ("base + (ft - base)[0, «7»]", "no tensor is in layer 7", "'layers' has layers 0 to 3"),
    ("base + (ft - base)[~«-9»]", "no tensor is in layer -9", "'layers' has layers 0 to 3"),
    (
        'base + (ft - base)[«"*.mpl.*"»]',
        'pattern "*.mpl.*" matches no tensor',
        "there is 'layers.0.mlp.weight'",
    ),
    (
        'base + (ft - base)["*", ~«"emb"»]',
        'pattern "emb" matches no tensor',
        "there is 'emb.weight'",
    ),
    ('base + (ft - base)[«"zzz"»]', 'pattern "zzz" matches no tensor', None),
    ("x = (ft - base)[«4:»]\nbase + x", "no tensor is in layers 4:", "'layers' has layers 0 to 3"),
]


@pytest.mark.parametrize(("text", "message", "note"), NOTHING)
def test_a_selector_that_selects_nothing_is_an_error_at_its_place(
    folder: Path, text: str, message: str, note: str | None
) -> None:
    before, _, rest = text.partition("«")
    marked, _, after = rest.partition("»")
    with pytest.raises(ExpressionError) as caught:
        compiled(folder, before + marked + after).plan()
    error = caught.value
    assert (error.message, error.note) == (message, note)
    assert error.span is not None
    start = len(before) - (before[-1:] == "~")
    assert (error.span.start, error.span.end) == (start, len(before + marked))


def test_check_looks_at_what_is_selected_when_it_has_headers(folder: Path) -> None:
    with pytest.raises(ExpressionError, match='pattern "zzz" matches no tensor'):
        compiled(folder, 'base + (ft - base)["zzz"]').check()
    with pytest.raises(ExpressionError, match="no tensor is in layer 99"):
        compiled(folder, "base + (ft - base)[99]").check()


def test_a_selector_whose_checkpoint_cancels_is_not_looked_at(folder: Path) -> None:
    assert compiled(folder, 'base + ft["zzz"] - ft["zzz"]').plan().kind == "model"


def test_layers_come_from_the_donor(tmp_path: Path) -> None:
    short = {f"layers.{n}.w": oracle.Tensor("F32", (1,), bytes(4)) for n in range(2)}
    long = {f"layers.{n}.w": oracle.Tensor("F32", (1,), bytes(4)) for n in range(4)}
    oracle.write_file(tmp_path / "base.safetensors", short, {})
    oracle.write_file(tmp_path / "ft.safetensors", long, {})
    recipe = compiled(tmp_path, "base + (ft - base)[-1]")
    steps = {step.name: step for step in recipe.plan(only_shared=True).steps}
    plan = recipe.plan(only_shared=True)
    assert plan.combinations[steps["layers.1.w"].combination].operands == (1,)
    assert plan.combinations[steps["layers.0.w"].combination].operands == (0,)
