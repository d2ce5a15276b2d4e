"""Kinds: what the coefficients add up to, from cases/kinds.toml and on random trees."""

import tomllib
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given

import taskalg
from taskalg import Kind, KindError, Recipe
from taskalg.algebra.kinds import kind_of
from taskalg.language.nodes import Node
from tests import oracle
from tests.strategies import examples, plainly, scalars, sums
from tests.test_laws import GIVEN, TENSORS, compiled

CASES = tomllib.loads((Path(__file__).parent / "cases/kinds.toml").read_text("utf-8"))
PAIRS = [(text, kind) for kind, texts in CASES.items() for text in texts]


@pytest.mark.parametrize(("text", "kind"), PAIRS)
def test_the_kind_is_what_the_coefficients_add_up_to(text: str, kind: str) -> None:
    assert compiled(text).kind == kind


@pytest.mark.parametrize(("text", "kind"), PAIRS)
def test_only_models_and_task_vectors_may_be_results(text: str, kind: str) -> None:
    recipe = compiled(text)
    left = kind != "scalar" and bool(recipe.coefficients)
    if kind in ("model", "task vector") and left:
        assert recipe.check() == kind
        return
    with pytest.raises(KindError):
        recipe.check()
    if kind == "partial":
        assert recipe.check(allow_partial=True) == "partial"


def test_there_are_cases_of_every_kind() -> None:
    assert set(CASES) == set(Kind)


# ---- With files: the real tensors decide


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kinds")
    tensors = {name: oracle.Tensor("F32", (1,), bytes(4)) for name in TENSORS}
    for key in ("base", "a", "b", "ft", "toxic", "λ"):
        oracle.write_file(path / f"{key}.safetensors", tensors, {})
    vector = {"taskalg": "task-vector"}
    oracle.write_file(path / "tau.safetensors", tensors, vector)
    return path


def with_files(folder: Path, text: str) -> Recipe:
    models = {key: folder / f"{key}.safetensors" for key in ("a", "b", "ft", "tau")}
    tasks = {key: folder / f"{key}.safetensors" for key in ("toxic", "λ")}
    scalar = {"strength": "0.6"} if "strength" in text else {}
    base = folder / "base.safetensors"
    return taskalg.compile(text, base=base, models=models, tasks=tasks, set=scalar)


@examples(120)
@given(node=sums(2))
def test_with_files_the_kind_is_the_oracle_s(folder: Path, node: Node) -> None:
    worlds = [oracle.World(name, oracle.place_of(name, TENSORS), dict(GIVEN)) for name in TENSORS]
    rows = [oracle.meaning(node, world, {}) for world in worlds]
    assert with_files(folder, plainly(node)).kind == oracle.kind(rows)


@examples(60)
@given(node=sums(2))
def test_without_files_a_kind_is_proved_for_every_tensor(node: Node) -> None:
    found = compiled(plainly(node)).kind
    totals = {
        sum(oracle.nonzero(oracle.meaning(node, world, {})).values(), Fraction(0))
        for world in (
            oracle.World(name, oracle.place_of(name, TENSORS), dict(GIVEN)) for name in TENSORS
        )
    }
    if found == "model":
        assert totals == {1}
    if found == "task vector":
        assert totals == {0}


@examples(30)
@given(node=scalars())
def test_scalars_are_scalars_and_no_results(node: Node) -> None:
    recipe = compiled(plainly(node))
    assert recipe.kind == "scalar"
    with pytest.raises(KindError, match="a scalar is not a checkpoint"):
        recipe.check()


def test_a_file_that_is_a_task_vector_counts_nothing(folder: Path) -> None:
    assert with_files(folder, "tau").kind == "task vector"
    assert with_files(folder, "base + 3*tau").kind == "model"
    assert with_files(folder, "tau - base").kind == "partial"
    assert with_files(folder, "tau[0:2] + base").kind == "model"


def test_what_no_real_tensor_shows_does_not_count(folder: Path) -> None:
    text = 'base + a["no.such.tensor", "head"] - b["head"]'
    assert with_files(folder, text).kind == "model"
    assert compiled(text).kind == "partial"


PARTIAL = [  # how the first tensor that breaks the rule is named
    ("a[0:2]", "the coefficients add up to 1 on 'layers.0.mlp.a' and 0 on 'layers.2.mlp.a'"),
    ("2*a[0:2]", "on 'layers.0.mlp.a' the coefficients add up to 2"),
    ("base + a[3]", "on 'layers.3.mlp.a' the coefficients add up to 2"),
    ("ramp(1, 0)*base", "on 'layers.1.mlp.a' the coefficients add up to 2/3"),
    ("base - a['head']*0.5", "on 'head' the coefficients add up to 0.5"),
]


@pytest.mark.parametrize(("text", "note"), PARTIAL)
def test_the_error_names_the_first_tensor_that_breaks_the_rule(
    folder: Path, text: str, note: str
) -> None:
    with pytest.raises(KindError) as caught:
        with_files(folder, text).plan()
    assert caught.value.note == f"{note}: 1 makes a model, 0 makes a task vector"


def test_a_kind_of_no_tensors_is_partial() -> None:
    assert kind_of([]) is Kind.PARTIAL
