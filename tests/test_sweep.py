"""Sweeps: exact grids, the point that a brute search chooses, files that resume, nothing left."""

import csv
import io
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import taskalg as ta
from taskalg.errors import TaskalgError
from taskalg.output.lock import take_lock
from taskalg.sweeping.goal import choose, read_goal
from taskalg.sweeping.grid import read_grid
from taskalg.sweeping.scores import printed_scores
from taskalg.sweeping.scratch import scratch_folder
from tests.strategies import examples
from tests.test_tensors import weights


def hidden(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob(".taskalg-*")]


# ---- Grids

numbers = st.fractions(-50, 50, max_denominator=60)


@given(numbers, numbers.filter(bool), st.integers(0, 40))
def test_a_range_has_every_step_and_both_ends_exactly(
    start: Fraction, step: Fraction, steps: int
) -> None:
    end = start + steps * step
    (axis,) = read_grid({"λ": f"{start}:{end}:{step}"}).axes
    assert axis.values == tuple(start + index * step for index in range(steps + 1))
    assert axis.values[-1] == end


def test_the_paper_s_grid_is_exact() -> None:
    points = read_grid({"λ": "0:1:0.05"}).points
    assert [point["λ"] for point in points] == [Fraction(n, 20) for n in range(21)]


@given(
    numbers,
    numbers.filter(bool),
    st.integers(0, 40),
    st.fractions(0, 1).filter(lambda f: 0 < f < 1),
)
def test_a_step_that_misses_the_end_is_refused_with_one_that_hits_it(
    start: Fraction, step: Fraction, steps: int, rest: Fraction
) -> None:
    text = f"{start}:{start + (steps + rest) * step}:{step}"
    with pytest.raises(ta.UsageError, match="does not end at") as caught:
        read_grid({"λ": text})
    written = str(caught.value.help).partition("λ=")[2]
    assert read_grid({"λ": written}).points[-1]["λ"] == start + steps * step


@given(st.lists(st.lists(numbers, min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_grid_is_every_combination_the_last_one_fastest(axes: list[list[Fraction]]) -> None:
    names = ["a", "b", "c"][: len(axes)]
    grid = read_grid(dict(zip(names, axes, strict=True)))
    unique = [list(dict.fromkeys(values)) for values in axes]
    assert [tuple(p.values()) for p in grid.points] == list(itertools.product(*unique))
    assert all(list(point) == names for point in grid.points)


@pytest.mark.parametrize(
    "settings, values",
    [
        ({"a=b": "0:1:0.5", "c": "1/3, 2"}, [(0, 0, "1/3"), (0, 0, 2), (".5", ".5", "1/3")]),
        ({"a": [0.1, Decimal("0.2"), "1/3"]}, [("1/10",), ("1/5",), ("1/3",)]),
        ({"a": torch.tensor([0.1, 0.3])}, [("1/10",), ("3/10",)]),
        ({"a": 0.7}, [("7/10",)]),
        ({"a": "1:0:-0.5, 7"}, [(1,), ("1/2",), (0,), (7,)]),
        ({"a": "0, 0:1:1, 1"}, [(0,), (1,)]),
        ({"a": "lerp(0, 1, 0.5):1:1/2"}, [("1/2",), (1,)]),
    ],
)
def test_values_are_ranges_lists_and_numbers(
    settings: dict[str, Any], values: list[tuple[Any, ...]]
) -> None:
    found = [tuple(point.values()) for point in read_grid(settings).points]
    assert found[: len(values)] == [tuple(map(Fraction, row)) for row in values]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({}, "nothing is swept"),
        ({"λ": "0:1"}, "0:1 is not a range"),
        ({"λ": "0:1:0"}, "a step of zero"),
        ({"λ": "1:0:0.1"}, "write λ=1:0:-0.1"),
        ({"λ": "0:1:1e-9"}, "too many values"),
        ({"a": "0:99:1", "b": "0:999:1"}, "the grid has 100,000 points"),
        ({"λ": "0,,1"}, "a value of 'λ' is empty"),
        ({"λ": "0::1"}, "a value of 'λ' is empty"),
        ({"λ": itertools.count()}, "'λ' has too many values"),
        ({"λ": "x"}, "must be set to a scalar"),
        ({"λ": "ramp(0, 1)"}, "is swept over numbers"),
        ({"λ": "0:1:0.5:2"}, "is not a range"),
        ({"λ": []}, "has no values"),
        ({"λ": object()}, "is swept over a text or numbers"),
        ({"a=a": "0,1"}, "'a' is swept twice"),
        ({"a": "0,1", "b=a": "0,1"}, "'a' is swept twice"),
        ({"2": "0,1"}, "cannot be a name"),
        ({"λ": [float("nan")]}, "not a finite number"),
    ],
)
def test_what_is_no_grid_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskalgError, match=re.escape(words)) as caught:
        read_grid(settings)
        raise AssertionError
    assert caught.value.exit_code == 2


# ---- The choice

scores = st.one_of(
    st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0, math.nan, math.inf, -math.inf]),
    st.floats(-2, 2).map(lambda number: round(number, 3)),
)


@examples(200)
@given(
    rows=st.lists(st.tuples(scores, scores), min_size=1, max_size=12),
    base=st.tuples(scores, scores),
    aim=st.sampled_from(["λ", "a", "b", "a - 2*b", "a*b/λ", "base.a - a"]),
    largest=st.booleans(),
    relation=st.sampled_from([">=", "<=", ">", "<", "≤", "≥"]),
    factor=st.sampled_from(["0.95", "1/2", "1"]),
)
def test_the_choice_is_that_of_a_brute_search(
    rows: list[tuple[float, float]],
    base: tuple[float, float],
    aim: str,
    largest: bool,
    relation: str,
    factor: str,
) -> None:
    points = [ta.Point({"λ": Fraction(i, 4)}, {"a": a, "b": b}) for i, (a, b) in enumerate(rows)]
    condition = f"a {relation} {factor}*base.b"
    goal = read_goal(aim if largest else None, None if largest else aim, [condition])
    chosen, nearest = choose(points, {"a": base[0], "b": base[1]}, goal)
    assert chosen is brute(points, base, aim, largest, relation, Fraction(factor))
    assert chosen is None or nearest is None
    assert nearest is None or nearest in points


def brute(
    points: list[ta.Point],
    base: tuple[float, float],
    aim: str,
    largest: bool,
    relation: str,
    factor: Fraction,
) -> ta.Point | None:
    """Choose by going through all points, in exact decimals."""
    best, most = None, Fraction(0)
    for point in points:
        numbers = [point.scores["a"], point.scores["b"], *base]
        a, b, base_a, base_b = (exact(number) for number in numbers)
        value = aimed(aim, point.values["λ"], a, b, base_a)
        if value is None or a is None or base_b is None:
            continue
        limit = factor * base_b
        met = {">": a > limit, "<": a < limit}.get(relation)
        if relation in (">=", "≥"):
            met = a >= limit
        if relation in ("<=", "≤"):
            met = a <= limit
        value = value if largest else -value
        if met and (best is None or value > most):
            best, most = point, value
    return best


def exact(score: float) -> Fraction | None:
    return Fraction(Decimal(repr(score))) if math.isfinite(score) else None


def aimed(
    aim: str, strength: Fraction, a: Fraction | None, b: Fraction | None, base_a: Fraction | None
) -> Fraction | None:
    match aim:
        case "λ":
            return strength
        case "a":
            return a
        case "b":
            return b
        case "a - 2*b":
            return None if a is None or b is None else a - 2 * b
        case "a*b/λ":
            return None if a is None or b is None or strength == 0 else a * b / strength
        case _:
            return None if a is None or base_a is None else base_a - a


def points_of(*found: float) -> list[ta.Point]:
    return [ta.Point({"λ": Fraction(i)}, {"score": one}) for i, one in enumerate(found)]


def test_of_equal_points_the_first_is_chosen_and_nan_never() -> None:
    points = points_of(math.nan, 1, 3, 3, math.inf, 2)
    assert choose(points, {}, read_goal("score", None, [])) == (points[2], None)
    assert choose(points, {}, read_goal(None, "score", [])) == (points[1], None)
    assert choose(points_of(math.nan), {}, read_goal("score", None, [])) == (None, None)


def test_a_score_is_the_decimal_that_it_prints_as() -> None:
    assert 0.1 * 3 > 0.3  # in binary64 the condition would not be met
    points = [ta.Point({"λ": Fraction(1)}, {"a": 0.3})]
    chosen, _ = choose(points, {"a": 0.1}, read_goal("λ", None, ["a >= 3*base.a"]))
    assert chosen is points[0]


def test_when_no_point_meets_the_conditions_the_one_that_misses_least_is_named() -> None:
    points = points_of(0.1, 0.4, 0.3, math.nan)
    goal = read_goal("λ", None, ["score >= 0.5", "score < 9"])
    assert choose(points, {}, goal) == (None, points[1])
    assert choose(points, {}, read_goal("λ", None, ["score > 0.4"])) == (None, points[1])


@pytest.mark.parametrize(
    "goal, words",
    [
        (("λ", "λ", []), "maximizes or minimizes, not both"),
        ((None, None, ["a > 1"]), "conditions alone choose no point"),
        (("λ", None, ["a"]), "a condition compares two sides"),
        (("λ", None, ["a = 1"]), "a condition compares two sides"),
        (("λ", None, ["a == 1"]), "a condition compares two sides"),
        (("λ", None, ["0 < a < 1"]), "a condition compares two sides"),
        (("λ", None, ["a >"]), "there is nothing to compare"),
        (("λ", None, [""]), "a condition compares two sides"),
        (("", None, []), "there is no formula"),
        (("2 λ", None, []), "no implicit multiplication"),
        (("λ", None, ["a > 0.95base.a"]), "help: write 0.95*base.a"),
        (('checkpoint("x")', None, []), "this must be a number"),
        (("λ[0:2]", None, []), "this must be a number"),
        (("a.", None, []), "unexpected '.'"),
        (("λ = 2", None, []), "there is no expression"),
        (("f(λ)", None, []), "'f'"),
    ],
)
def test_what_is_no_goal_is_refused(goal: tuple[Any, Any, list[str]], words: str) -> None:
    with pytest.raises(TaskalgError, match=re.escape(words)) as caught:
        str(read_goal(*goal))
    assert caught.value.exit_code == 2


def test_an_error_in_a_condition_points_into_what_was_typed() -> None:
    with pytest.raises(ta.ExpressionError) as caught:
        read_goal("λ", None, ["acc.norm >= 2*base.acc.norm 3"])
    assert str(caught.value).splitlines()[1:4] == [
        "  at --subject-to:1:29",
        "  1 | acc.norm >= 2*base.acc.norm 3",
        "    |                             ^",
    ]


# ---- What a scorer says


@pytest.mark.parametrize(
    "printed, found",
    [
        ("0.5", {"score": 0.5}),
        ("noise\n\n 3 \n\n", {"score": 3.0}),
        ('{"a": 1, "b.c": -2e-3}', {"a": 1.0, "b.c": -0.002}),
        ('{"a": Infinity}', {"a": math.inf}),
        (f'{{"a": 1{"0" * 400}}}', {"a": math.inf}),
        ("-inf", {"score": -math.inf}),
        (".5", {"score": 0.5}),
        ('{"e\u0301": 1, "\u00b5": 2}', {"\u00e9": 1.0, "\u03bc": 2.0}),
    ],
)
def test_the_last_line_has_the_scores(printed: str, found: dict[str, float]) -> None:
    assert printed_scores(printed, ["λ"]) == found


def test_a_number_may_be_none_as_python_prints_it() -> None:
    (found,) = printed_scores(f"{math.nan}\n", ["λ"]).values()
    assert math.isnan(found)


@pytest.mark.parametrize(
    "printed, words",
    [
        ("", "printed nothing"),
        ("0.5\nall done", "is no score"),
        ("true", "is no score"),
        ("[1]", "is no score"),
        ("[" * 100_000, "is no score"),
        ("{}", "there is no score"),
        ('{"a": {"b": 1}}', "'a' is not a number"),
        ('{"a": "1"}', "'a' is not a number"),
        ('{"a": null}', "'a' is not a number"),
        ('{"a": true}', "'a' is not a number"),
        ('{"a": 1, "a": 1}', "'a' is there twice"),
        ('{"\u00e9": 1, "e\u0301": 1}', "is there twice"),
        ('{"λ": 1}', "'λ' is a swept scalar"),
        ('{"base.a": 1}', "cannot be called"),
        ('{"sweep": 1}', "cannot be called"),
        ('{"": 1}', "cannot be the key"),
        ('{"a\\nb": 1}', "cannot be the key"),
    ],
)
def test_what_is_no_score_is_refused(printed: str, words: str) -> None:
    with pytest.raises(ta.UsageError, match=re.escape(words)):
        printed_scores(printed, ["λ"])


# ---- In memory


def states() -> dict[str, Any]:
    return {name: weights(seed) for seed, name in enumerate(("base", "ft", "b"))}


def compiled(text: str = "base + s*(ft - base)", **scalars: Any) -> ta.Recipe:
    found = states()
    names = set(re.findall("[a-z]+", text))
    models = {name: state for name, state in found.items() if name in names - {"base"}}
    return ta.compile(text, base=found["base"], models=models, set=scalars)


def copied(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    flat = [
        {name: t.contiguous().reshape(-1).view(torch.uint8).tolist() for name, t in state.items()}
        for state in (one, other)
    ]
    return flat[0] == flat[1]


class Scorer:
    """Keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[dict[str, torch.Tensor]] = []

    def __call__(self, state: Mapping[str, torch.Tensor]) -> dict[str, float]:
        self.given.append(copied(state))
        return {"first": float(next(iter(state.values())).flatten()[0]), "count": len(self.given)}


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize(
    "text, grid",
    [
        ("base + s*(ft - base)", {"s": "0:1:0.25"}),
        ("base + s*(ft - base) + t*(b - base)", {"s=t": "0, 0.3, 1/3"}),
        ("s*base + t*ft", {"s": "0.5", "t": [0.5]}),  # a model at some values only
        ("base + s*(ft - base)/norm(ft - base)", {"s": "0, 1"}),
        ("base + (ft - base)/norm(ft - s*base)", {"s": "0, 0.5"}),  # measured at each point
    ],
)
def test_a_function_is_given_the_weights_of_each_point(
    text: str, grid: dict[str, Any], with_model: bool, hold: bool
) -> None:
    recipe, score = compiled(text, **dict.fromkeys(re.findall(r"\b[st]\b", text), 0.5)), Scorer()
    model = copied(states()["b"]) if with_model else None
    found = ta.sweep(recipe, grid, score, model=model, hold=hold, minimize="count")
    assert [point.values for point in found.points] == read_grid(grid).points
    for point, state in zip(found.points, score.given, strict=True):
        assert same(state, recipe.bind(**point.values).state_dict())
    assert found.chosen is found.points[0]
    if model is not None:
        assert same(model, recipe.bind(**found.chosen.values).state_dict())


def test_a_model_is_left_with_the_recipe_as_it_is_when_nothing_is_chosen() -> None:
    recipe, model = compiled(s=0.25), copied(states()["b"])
    found = ta.sweep(recipe, {"s": "0, 1"}, lambda state: 1, model=model)
    assert found.chosen is None and found.choice == ""
    assert same(model, recipe.state_dict())


@pytest.mark.parametrize("with_model", [True, False])
def test_the_base_is_scored_once_and_first_and_may_be_the_model(with_model: bool) -> None:
    found, score = states(), Scorer()
    recipe = ta.compile(
        "base + s*(ft - base)", base=found["base"], models={"ft": found["ft"]}, set={"s": 1}
    )
    model, before = found["base"] if with_model else None, copied(found["base"])
    swept = ta.sweep(
        recipe, {"s": "1, 0.5"}, score, model=model, maximize="s", subject_to="count > base.count"
    )
    assert swept.base["count"] == 1 and len(score.given) == 3
    assert same(score.given[0], before)
    assert same(score.given[1], found["ft"])


def negated(found: Mapping[str, Any]) -> ta.Recipe:
    models = {"ft": found["ft"]}
    return ta.compile("base - s*(ft - base)", base=found["base"], models=models, set={"s": 1})


@pytest.mark.parametrize("fails", [True, False])
def test_a_model_that_is_the_base_gets_its_weights_back(fails: bool) -> None:
    found = states()
    recipe, before = negated(found), copied(found["base"])
    given: list[float] = []

    def score(state: Mapping[str, torch.Tensor]) -> float:
        given.append(first_number(state))
        return 1 / (2 - len(given)) if fails else len(given)

    if fails:
        with pytest.raises(ZeroDivisionError):
            ta.sweep(recipe, {"s": "1, 0.5"}, score, model=found["base"])
    else:
        ta.sweep(recipe, {"s": "1, 0.5"}, score, model=found["base"], maximize="s")
    assert len(set(given)) == 2  # it was written to
    assert same(found["base"], before)


@pytest.mark.parametrize(
    "name, options",
    [("ft", {}), ("base", {"hold": False}), ("base", {"options": {"donor": "ft"}})],
)
def test_a_model_that_would_be_read_after_it_is_written_is_refused(
    name: str, options: dict[str, Any]
) -> None:
    found = states()
    before = copied(found[name])
    with pytest.raises(ta.UsageError, match="the model is a checkpoint of the recipe"):
        ta.sweep(negated(found), {"s": "1, 0.5"}, lambda _: 1, model=found[name], **options)
    assert same(found[name], before)


def test_a_model_of_a_recipe_without_a_base_is_refused() -> None:
    found = {"a": weights(0), "b": weights(1)}
    recipe = ta.compile("lerp(a, b, s)", models=found, set={"s": 0})
    with pytest.raises(ta.UsageError, match="the model is a checkpoint of the recipe"):
        ta.sweep(recipe, {"s": "0, 1"}, lambda _: 1, model=found["a"])


def test_a_base_that_cannot_stay_open_is_refused_as_the_model() -> None:
    found = states()
    recipe = ta.compile(
        "s*base + t*b", base=found["base"], models={"b": found["b"]}, set={"s": 1, "t": 0}
    )
    with pytest.raises(ta.UsageError, match="the model is a checkpoint of the recipe"):
        ta.sweep(recipe, {"s": "0.5", "t": "0.5"}, lambda _: 1, model=found["base"])


def test_a_number_may_be_torch_s_and_means_the_decimal_it_prints_as() -> None:
    found = ta.sweep(compiled(s=1), {"s": "0"}, lambda _: torch.tensor(0.95))
    assert found.points[0].scores == {"score": 0.95}


def test_a_loss_may_have_a_gradient() -> None:
    loss = torch.tensor(0.1, requires_grad=True)
    assert ta.sweep(compiled(s=1), {"s": "0, 1"}, lambda _: loss).points[0].scores["score"] == 0.1


@pytest.mark.parametrize("wrong", [torch.tensor(1j), torch.tensor(True), torch.ones(1), "1", None])
def test_what_a_function_returns_is_a_number(wrong: Any) -> None:
    with pytest.raises(ta.UsageError, match="is not a number"):
        ta.sweep(compiled(s=1), {"s": "0, 1"}, lambda _: wrong)


def test_options_reach_the_evaluation() -> None:
    given: list[torch.dtype] = []

    def score(state: Mapping[str, torch.Tensor]) -> int:
        given.append(next(iter(state.values())).dtype)
        return 1

    ta.sweep(compiled(s=1), {"s": "0, 1"}, score, options={"dtype": "f64", "operands": "auto"})
    assert given == [torch.float64] * 2


def test_an_exception_of_the_function_is_the_caller_s() -> None:
    with pytest.raises(ZeroDivisionError):
        ta.sweep(compiled(s=1), {"s": "0, 1"}, lambda _: 1 / 0)


def test_progress_is_told_for_what_is_scored() -> None:
    told: list[tuple[str, int, int]] = []
    ta.sweep(
        compiled(s=1),
        {"s": "0, 1/3"},
        lambda _: 1,
        progress=lambda point, done, total: told.append((str(point), done, total)),
    )
    assert told == [("s = 0", 1, 2), ("s = 1/3", 2, 2)]


@pytest.mark.parametrize(
    "text, grid, options, words",
    [
        ("base + s*(ft - base)", {"t": "0, 1"}, {}, "no scalar 't'"),
        ("base + s*(ft - base)", {"ss": "0, 1"}, {}, "did you mean 's'?"),
        ("base + (ft - base)/s", {"s": "1, 0"}, {}, "at s = 0"),
        ("base + s*ft", {"s": "0, 1"}, {"maximize": "s"}, "at s = 1"),
        ("base + s*(ft - base)", {"s": "0"}, {"maximize": "scor"}, "did you mean 'score'?"),
        ("base + s*(ft - base)", {"s": "0"}, {"maximize": "base.x"}, "'base.x'"),
        ("ft + s*(b - ft)", {"s": "0"}, {"maximize": "base.score"}, "there is no base"),
        ("base + s*(ft - base)", {"s": "0"}, {"options": {"donor": "x"}}, "'x'"),
    ],
)
def test_what_cannot_be_swept_is_refused(
    text: str, grid: dict[str, str], options: dict[str, Any], words: str
) -> None:
    found = states()
    names = set(re.findall("[a-z]+", text))
    models = {name: state for name, state in found.items() if name in names - {"base"}}
    base = found["base"] if "base" in names else None
    recipe = ta.compile(text, base=base, models=models, set={"s": 1})
    with pytest.raises(TaskalgError, match=re.escape(words)):
        ta.sweep(recipe, grid, lambda _: 1, **options)


def test_a_model_is_for_a_function_and_decides_the_dtypes() -> None:
    with pytest.raises(ta.UsageError, match="a command scores a folder"):
        ta.sweep(compiled(s=1), {"s": "0"}, "true", model={})
    with pytest.raises(ta.UsageError, match="the model decides the dtypes"):
        ta.sweep(compiled(s=1), {"s": "0"}, lambda _: 1, model={}, options={"dtype": "f32"})


# ---- The file


def swept(path: Path, score: Callable[[Any], Any], **options: Any) -> ta.Sweep:
    grid = options.pop("grid", {"s": "0:1:0.25", "t": "0, 1/3"})
    recipe = compiled("base + s*(ft - base) + t*(b - base)", s=0, t=0)
    return ta.sweep(recipe, grid, score, csv=path, **options)


def test_a_sweep_goes_on_after_any_part_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    whole = swept(path, first_number, maximize="score", subject_to="score < 9*base.score + 9")
    content = path.read_bytes()
    rows = content.splitlines(keepends=True)
    for end in [*itertools.accumulate(map(len, rows)), *range(len(rows[0]), len(content), 7)]:
        path.write_bytes(content[:end])
        again = swept(path, first_number, maximize="score", subject_to="score < 9*base.score + 9")
        assert path.read_bytes() == content
        assert again == whole
    assert hidden(tmp_path) == []


def first_number(state: Mapping[str, torch.Tensor]) -> float:
    return sum(float(t.flatten()[0]) for t in state.values() if t.is_floating_point() and t.numel())


def test_what_is_scored_is_not_scored_again_also_on_another_grid(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    swept(path, first_number, grid={"s": "0:1:0.5"})
    before = path.read_bytes()
    calls: list[int] = []

    def score(state: Mapping[str, torch.Tensor]) -> float:
        calls.append(1)
        return first_number(state)

    found = swept(path, score, grid={"s": "0:1:0.25"})
    assert len(calls) == 2 and len(found.points) == 5
    assert path.read_bytes().startswith(before)
    assert swept(tmp_path / "other.csv", first_number, grid={"s": "0:1:0.25"}) == found


def test_the_file_is_plain_csv_with_exact_scalars(tmp_path: Path) -> None:
    path = tmp_path / "ünïcode λ.csv"
    found = swept(path, lambda _: {"a,b": 0.1, "c": math.nan})
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))
    assert [(row["s"], row["t"]) for row in rows[:3]] == [("0", "0"), ("0", "1/3"), ("0.25", "0")]
    assert {(row["a,b"], row["c"]) for row in rows} == {("0.1", "nan")}
    assert len({row["sweep"] for row in rows}) == 1
    again = swept(path, lambda _: 1 / 0)
    assert str(again) == str(found)


def test_an_expression_too_large_to_stay_open_is_swept_and_goes_on(tmp_path: Path) -> None:
    text = "base + " + "(1 - s)*" * 1001 + "(ft - base)"
    path = tmp_path / "sweep.csv"
    found = ta.sweep(compiled(text, s=0), {"s": "0, 1"}, first_number, csv=path)
    assert ta.sweep(compiled(text, s=0), {"s": "0, 1"}, lambda _: 1 / 0, csv=path) == found
    with pytest.raises(ta.UsageError, match="differs"):
        ta.sweep(compiled(f"{text}*1", s=0), {"s": "0, 1"}, lambda _: 1 / 0, csv=path)


def test_a_function_that_fails_leaves_what_is_scored(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    whole = swept(tmp_path / "whole.csv", first_number)
    calls = iter(range(4))

    def failing(state: Mapping[str, torch.Tensor]) -> float:
        next(calls)
        return first_number(state)

    with pytest.raises(StopIteration):
        swept(path, failing)
    assert len(path.read_bytes().splitlines()) == 5
    assert hidden(tmp_path) == []
    assert swept(path, first_number) == whole
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"grid": {"t": "0, 1"}}, "other scalars were swept"),
        ({"options": {"donor": "ft"}}, "differs"),
        ({"options": {"dtype": "f64"}}, "differs"),
    ],
)
def test_the_file_of_another_sweep_is_refused_and_stays(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "sweep.csv"
    swept(path, lambda _: 1, grid={"s": "0, 1"})
    before = path.read_bytes()
    with pytest.raises(ta.UsageError, match=words) as caught:
        swept(path, lambda _: 1, **{"grid": {"s": "0, 1"}} | change)
    assert "--restart" in str(caught.value)
    assert path.read_bytes() == before
    swept(path, lambda _: 2, **{"grid": {"s": "0, 1"}} | change, restart=True)
    assert path.read_bytes() != before


@pytest.mark.parametrize("content", [b"", b"hello", b"a,b\n1,2\n", b"\xff\n", b"\n", b"s,sweep"])
@pytest.mark.parametrize("restart", [True, False])
def test_a_file_that_is_none_of_ours_is_never_replaced(
    tmp_path: Path, content: bytes, restart: bool
) -> None:
    path = tmp_path / "notes.csv"
    path.write_bytes(content)
    with pytest.raises(ta.UsageError, match="is not a sweep's file"):
        swept(path, lambda _: 1, restart=restart)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "edited",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\n,,\n",
        lambda text: text.replace(",", '","').replace("\n", '"\n"')[:-1].join(['"', ""]),
        lambda text: text.replace(",1.0,", ",1,"),
    ],
)
def test_what_a_spreadsheet_makes_of_a_file_is_read(
    tmp_path: Path, edited: Callable[[str], str]
) -> None:
    path = tmp_path / "sweep.csv"
    found = swept(path, lambda _: 1, grid={"s": "0, 1"})
    path.write_text(edited(path.read_text("utf-8")), "utf-8", newline="")
    assert swept(path, lambda _: 1 / 0, grid={"s": "0, 1"}) == found
    swept(path, lambda _: 2, grid={"s": "0, 1, 2"})
    assert swept(path, lambda _: 1 / 0, grid={"s": "2"}).rows == [{"s": 2.0, "score": 2.0}]


@pytest.mark.parametrize(
    "header", ["s,a,a,sweep", "s,a,,sweep", "s,a,base.b,sweep", "s,a,s,sweep", "s,sweep"]
)
def test_columns_that_a_sweep_has_not_named_are_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "sweep.csv"
    swept(path, lambda _: {"a": 1, "b": 2}, grid={"s": "0, 1"})
    rows = path.read_text("utf-8").splitlines(keepends=True)[1:]
    path.write_text("".join([header + "\n", *rows]), "utf-8")
    with pytest.raises(ta.CheckpointError, match="line 1 of"):
        swept(path, lambda _: {"a": 1, "b": 2}, grid={"s": "0, 1"})


def test_scores_stay_in_their_columns_when_all_rows_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    swept(path, lambda _: {"a": 1, "b": 2}, grid={"s": "0, 1"})
    content = path.read_text("utf-8")
    path.write_text(content.splitlines(keepends=True)[0], "utf-8")
    swept(path, lambda _: {"b": 2, "a": 1}, grid={"s": "0, 1"})
    assert path.read_text("utf-8") == content
    path.write_text(content.splitlines(keepends=True)[0], "utf-8")
    with pytest.raises(ta.UsageError, match="other keys than before"):
        swept(path, lambda _: 1, grid={"s": "0, 1"})


def test_a_file_that_changes_meanwhile_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"

    def saved_elsewhere(_: object) -> float:
        if path.exists():
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        return 1.0

    with pytest.raises(ta.OutputError, match="was changed while the sweep ran"):
        swept(path, saved_elsewhere, grid={"s": "0:2:1"})
    swept(path, lambda _: 1, grid={"s": "0:2:1"})
    assert len(path.read_bytes().splitlines()) == 4


@pytest.mark.parametrize("row", ["1,x,{}", "1,{}", "y,1,{}", "1,2,3,{}", "1/0,2,{}"])
def test_a_damaged_row_is_named(tmp_path: Path, row: str) -> None:
    path = tmp_path / "sweep.csv"
    swept(path, lambda _: 1, grid={"s": "0, 1"})
    digest = path.read_text("utf-8").splitlines()[1].rpartition(",")[2]
    path.write_text(path.read_text("utf-8") + row.format(digest) + "\n", "utf-8")
    with pytest.raises(ta.CheckpointError, match="line 4 of"):
        swept(path, lambda _: 1, grid={"s": "0, 1"})


def test_scores_with_other_keys_are_refused() -> None:
    keys = iter(["a", "b"])
    with pytest.raises(ta.UsageError, match="other keys") as caught:
        ta.sweep(compiled(s=1), {"s": "0, 1"}, lambda _: {next(keys): 1})
    assert "at s = 1" in str(caught.value)


def test_one_sweep_at_a_time_has_a_file(tmp_path: Path) -> None:
    place = tmp_path / ".taskalg-sweep.csv"
    place.mkdir()
    lock = take_lock(place)
    assert lock is not None
    with pytest.raises(ta.OutputError, match="another run"):
        swept(tmp_path / "sweep.csv", lambda _: 1)
    lock.release()
    swept(tmp_path / "sweep.csv", lambda _: 1)
    assert os.listdir(tmp_path) == ["sweep.csv"]


def test_a_place_for_models_is_shared_and_a_file_is_not(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("one", "two", "a", "b")]
    for place in places:
        place.mkdir()
    one, two, a, b = places
    with (
        scratch_folder(one / "sweep.csv", a) as first,
        scratch_folder(two / "sweep.csv", a) as second,
    ):
        assert first != second and first.parent == second.parent == a
        with (
            pytest.raises(ta.OutputError, match="another run"),
            scratch_folder(one / "sweep.csv", b),
        ):
            raise AssertionError
    assert hidden(tmp_path) == []


def test_a_folder_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        ta.OutputError, match=r"cannot make the folder .*: file name too long"
    ) as why:
        swept(tmp_path / ("x" * 250), lambda _: 1)
    assert why.value.help == "name a file in another folder with --csv"


# ---- The value


def example() -> ta.Sweep:
    recipe = compiled("base + s*(ft - base) + t*(b - base)", s=0, t=0)
    found = iter([{"kept": n / 10, "lost": 1 / (n + 1)} for n in (10, 9, 8, 7, math.nan, 5, 4)])
    return ta.sweep(
        recipe,
        {"s": "0, 1/3, 0.5", "t": "0, 1"},
        lambda _: next(found),
        minimize="lost",
        subject_to=["kept > 0.6", "t <= 0"],
    )


def test_a_sweep_prints_a_table_and_the_choice() -> None:
    assert str(example()) == (
        "  s   t   kept        lost\n"
        "  0   0      1   0.0909091   chosen\n"
        "  0   1    0.9         0.1\n"
        "1/3   0    0.8    0.111111\n"
        "1/3   1    0.7       0.125\n"
        "0.5   0    nan         nan\n"
        "0.5   1    0.5    0.166667\n"
        "\n"
        "chosen: s = 0, t = 0, the smallest lost with kept > 0.6 and t <= 0"
    )
    assert repr(example()) == str(example())
    assert repr(example().points[1]) == "Point(s = 0, t = 1: kept 0.9, lost 0.1)"


def test_a_sweep_is_json_and_records() -> None:
    found = example()
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["schema"] == 1 and told["names"] == ["s", "t"]
    assert told["points"][2] == {
        "values": {"s": "1/3", "t": "0/1"},
        "scores": {"kept": 0.8, "lost": 1 / 9},
    }
    assert told["points"][4]["scores"] == {"kept": None, "lost": None}
    assert told["chosen"] == told["points"][0] and told["nearest"] is None
    assert (told["maximize"], told["minimize"]) == (None, "lost")
    assert told["subject_to"] == ["kept > 0.6", "t <= 0"] and told["base"] == {}
    assert found.rows[3] == {"s": 1 / 3, "t": 1.0, "kept": 0.7, "lost": 0.125}
