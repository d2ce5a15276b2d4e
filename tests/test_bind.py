"""Names of a recipe bound anew: it is what it would be, had they been bound so at first."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import taskalg
from taskalg import Recipe, TaskalgError, UsageError
from taskalg.output.manifest import read_manifest
from tests.strategies import examples

State = dict[str, torch.Tensor]


def state(seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn((5, 3), generator=generator) for name in ("a.0.w", "a.1.w")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bind")
    for seed, name in enumerate(("base", "ft", "other", "fourth")):
        save_file(state(seed), path / f"{name}.safetensors")
    return path


def result(recipe: Recipe, folder: Path) -> State:
    recipe.save(folder / "out" / "x.safetensors", overwrite=True)
    return load_file(folder / "out" / "x.safetensors")


def same(recipe: Recipe, expected: Recipe, folder: Path) -> bool:
    """Compare recipes and, as two files of one name are no different to `==`, what they give."""
    found, wanted = result(recipe, folder), result(expected, folder)
    return str(recipe) == str(expected) and all(torch.equal(found[n], wanted[n]) for n in wanted)


TEXT = """
base = checkpoint("base.safetensors")
ft = task("ft.safetensors")
own = task("ft.safetensors", checkpoint("other.safetensors"))
s = 0.4
t = s/2
base + s*ft + t*own[0]
"""


def with_text(folder: Path, text: str = TEXT) -> Recipe:
    (folder / "recipe.ta").write_text(text, "utf-8")
    return taskalg.compile(folder / "recipe.ta")


CHANGES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a number": ({"s": 0.3}, "s = 0.4", "s = 0.3"),
    "a derived one": ({"t": "1/3"}, "t = s/2", "t = 1/3"),
    "a task": ({"ft": 2}, 'ft = task("ft.s', 'ft = task("other.s'),
    "one with its own base": ({"own": 3}, 'own = task("ft.s', 'own = task("fourth.s'),
    "the base of tasks": ({"base": 3}, 'checkpoint("base.s', 'checkpoint("fourth.s'),
}
STATES = {2: "other", 3: "fourth"}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("held", [True, False], ids=["in memory", "by path"])
def test_a_name_of_a_text_is_bound_as_if_it_had_been_written(
    folder: Path, held: bool, change: tuple[dict[str, Any], str, str]
) -> None:
    values, old, new = change
    assert TEXT.count(old) == 1
    expected = with_text(folder, TEXT.replace(old, new))
    recipe = with_text(folder)
    before = result(recipe, folder)
    weights = {
        name: (state(value) if held else folder / f"{STATES[value]}.safetensors")
        if isinstance(value, int)
        else value
        for name, value in values.items()
    }
    bound = recipe.bind(**weights)
    assert same(bound, expected, folder)
    assert str(recipe) == str(with_text(folder)) and recipe.scalars == {"s": Fraction(2, 5)}
    after = result(recipe, folder)
    assert all(torch.equal(before[name], after[name]) for name in before)


def operators(base: Any, ft: Any, other: Any) -> Recipe:
    """Build a recipe in which base is mentioned three times, twice as a task's base."""
    start = taskalg.checkpoint(base, name="base")
    toxic = taskalg.task(ft, start, name="toxic")
    own = taskalg.task(other, 0.5 * start + 0.5 * taskalg.checkpoint(ft, name="ft"), name="own")
    return start + 0.5 * toxic - own[0] / 4


def test_names_of_what_operators_made_are_bound_wherever_they_are(folder: Path) -> None:
    a, b, c, d = (state(seed) for seed in range(4))
    recipe = operators(a, b, c)
    before = str(recipe)
    assert same(recipe.bind(base=d), operators(d, b, c), folder)
    assert same(recipe.bind(toxic=c, ft=c), operators(a, c, c), folder)
    assert same(recipe.bind(own=folder / "fourth.safetensors"), operators(a, b, d), folder)
    assert same(recipe.bind(base=b, own=a).bind(base=a, own=c), recipe, folder)
    assert str(recipe) == before


DECLARED: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("base + 0.5*(x - base)", {"base": None, "models": {"x": None}}, {"base": 0, "x": 1}),
    ("base + 0.5*x", {"tasks": {"x": None}, "models": {"base": None}}, {"base": 0, "x": 1}),
    ("0.5*x + 0.5*y", {"models": {"x": None, "y": None}}, {"x": 0, "y": 2}),
]


@pytest.mark.parametrize(("text", "declared", "seeds"), DECLARED)
def test_names_declared_without_files_get_them(
    folder: Path, text: str, declared: dict[str, Any], seeds: dict[str, int]
) -> None:
    if declared.get("base", "") is None:
        declared = {"models": {"base": None, **declared["models"]}}
    recipe = taskalg.compile(text, **declared)
    with pytest.raises(UsageError, match="declared without a file"):
        recipe.plan()
    given_at_once: dict[str, Any] = {
        sort: {name: state(seeds[name]) for name in names} for sort, names in declared.items()
    }
    expected = taskalg.compile(text, **given_at_once)
    assert same(recipe.bind(**{n: state(i) for n, i in seeds.items()}), expected, folder)
    one_by_one = recipe
    for name, seed in seeds.items():
        one_by_one = one_by_one.bind(**{name: state(seed)})
    assert same(one_by_one, expected, folder)


def test_a_base_that_only_its_task_needs_is_a_name_too(folder: Path) -> None:
    recipe = taskalg.compile("0.5*x", tasks={"x": None})
    bound = recipe.bind(x=state(1), base=state(0))
    expected = taskalg.compile("0.5*x", base=state(0), tasks={"x": state(1)})
    assert same(bound, expected, folder)


def test_modules_numpy_arrays_and_numbers_of_every_sort_are_taken(folder: Path) -> None:
    layers = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
    a, b = (layer.weight.data.double() for layer in layers)
    recipe = taskalg.compile("s = 1\nx + s*(y - x)", models={"x": None, "y": None})
    for number in (0.25, "1/4", np.float32(0.25), torch.tensor(0.25), Fraction(1, 4)):
        bound = recipe.bind(x=layers[0], y=layers[1], s=number)
        assert bound.scalars == {"s": Fraction(1, 4)}
        found = result(bound, folder)["weight"]
        assert torch.equal(found, (0.75 * a + 0.25 * b).float())
    arrays = [{"w": np.full(3, float(value), np.float32)} for value in (1, 2)]
    bound = recipe.bind(x=arrays[0], y=arrays[1], s=0.5)
    assert result(bound, folder)["w"].tolist() == [1.5] * 3


@examples(60)
@given(st.fractions(max_denominator=99), st.floats(-4, 4), st.fractions(max_denominator=99))
def test_a_number_bound_twice_is_the_last_one_and_exact(
    first: Fraction, second: float, third: Fraction
) -> None:
    recipe = taskalg.compile("s*a + t*a", models={"a": None}, set={"s": 1, "t": 0})
    bound = recipe.bind(s=first, t=third).bind(s=second)
    assert bound.scalars == {"s": Fraction(repr(second)), "t": third}
    assert bound.coefficients.get("a", 0) == Fraction(repr(second)) + third


def test_a_normal_form_of_a_name_is_that_name() -> None:
    recipe = taskalg.compile("µ*a", models={"a": None}, set={"μ": 2})  # micro sign; Greek mu
    assert recipe.bind(µ=3).scalars == {"μ": Fraction(3)}


MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown": ({"zoo": 1}, "the recipe has no name 'zoo'", "it has base, ft, own, s and t"),
    "nearly": ({"bas": "x"}, "the recipe has no name 'bas'", "did you mean 'base'?"),
    "a number": ({"ft": 0.4}, "'ft' is a checkpoint, so it is bound to a path, a state", "float"),
    "nothing": ({"ft": None}, "'ft' is a checkpoint, so it is bound to a path, a state", "NoneTy"),
    "weights": ({"s": {}}, "'s' is a scalar, so it is bound to a number", "found dict"),
    "no number": ({"s": "x"}, "'x' is not a number", "write it like 0.4"),
    "infinite": ({"s": float("inf")}, "inf is not a finite number", ""),
    "a recipe": ({"ft": taskalg.compile("1")}, "'ft' is bound to a recipe", "+ - * /"),
    "no file": ({"ft": "nowhere"}, "nowhere", ""),
    "no name": ({"a b": 1}, "'a b' cannot be a name", "a_b"),
}


@pytest.mark.parametrize("case", MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_says_what_there_is(folder: Path, case: tuple[dict[str, Any], str, str]) -> None:
    values, words, more = case
    with pytest.raises(TaskalgError) as caught:
        with_text(folder).bind(**values).plan()
    assert words in str(caught.value) and more in str(caught.value)


def test_a_recipe_is_no_weights_at_any_door(folder: Path) -> None:
    recipe = with_text(folder)
    with pytest.raises(UsageError, match="'x' is bound to a recipe"):
        taskalg.compile("2*x", models={"x": recipe}).plan()
    with pytest.raises(UsageError, match="'x' is bound to a recipe"):
        taskalg.checkpoint(recipe, name="x")
    with pytest.raises(UsageError, match="is bound to a recipe"):
        taskalg.task(recipe, recipe)


def test_what_operators_made_has_no_named_scalars(folder: Path) -> None:
    recipe = with_text(folder)
    for made in (recipe + recipe - recipe, 1 * recipe):
        assert made.scalars == {}
        with pytest.raises(UsageError, match="has no name 's'") as caught:
            made.bind(s=1)
        assert caught.value.help == "it has base, ft and own"
    assert taskalg.compile("1/3").scalars == {}
    with pytest.raises(UsageError, match="it has none"):
        taskalg.compile("1/3").bind(x=1)


def test_the_manifest_says_what_was_bound(tmp_path: Path, folder: Path) -> None:
    recipe = with_text(folder).bind(s=0.3)
    assert dict(recipe.written.scalars) == {"s": "0.3"}
    recipe.save(tmp_path / "out")
    assert read_manifest(tmp_path / "out").set == {"s": "0.3"}
    assert dict(recipe.bind(t=1).written.scalars) == {"s": "0.3", "t": "1"}
    assert dict(with_text(folder).written.scalars) == {}


def test_what_gave_way_is_not_kept() -> None:
    import gc
    import weakref

    first = torch.nn.Linear(3, 2)
    recipe = taskalg.compile("2*x", models={"x": first})
    recipe.plan(allow_partial=True)
    bound = recipe.bind(x=torch.nn.Linear(3, 2))
    bound.plan(allow_partial=True)
    gone = weakref.ref(first.weight)
    del recipe, first
    gc.collect()
    assert gone() is None
