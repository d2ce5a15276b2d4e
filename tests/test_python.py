"""Recipes as Python values: operators, numbers of every sort, brackets, saving."""

import operator
import threading
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import taskalg
from taskalg import Kind, KindError, Progress, Recipe, TaskalgError, UsageError, files
from taskalg.scalars import to_fraction
from tests import oracle
from tests.strategies import examples

NAMES = [*(f"layers.{n}.{part}" for n in range(4) for part in ("mlp.w", "bias")), "head"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("python")
    for number, key in enumerate(("base", "ft", "other")):
        data = b"".join(np.float32(number + index).tobytes() for index in range(3))
        tensors = {name: oracle.Tensor("F32", (3,), data) for name in NAMES}
        oracle.write_file(path / f"{key}.safetensors", tensors, {})
    return path


@pytest.fixture
def base(folder: Path) -> Recipe:
    return taskalg.checkpoint(folder / "base.safetensors")


@pytest.fixture
def ft(folder: Path) -> Recipe:
    return taskalg.checkpoint(folder / "ft.safetensors")


def text(folder: Path, expression: str) -> Recipe:
    models = {key: folder / f"{key}.safetensors" for key in ("base", "ft", "other")}
    return taskalg.compile(expression, models=models)


# ---- Operators


def test_operators_build_what_text_builds(folder: Path, base: Recipe, ft: Recipe) -> None:
    built = base + 0.4 * (ft - base) - (-ft) / 4 * 2 + +base
    assert built == text(folder, "base + 0.4*(ft - base) - (-ft)/4*2 + base")
    assert str(built) == "1.6*base + 0.9*ft"


def test_sum_mean_lerp_analogy_and_ramp_are_the_language_s(
    folder: Path, base: Recipe, ft: Recipe
) -> None:
    other = taskalg.checkpoint(folder / "other.safetensors")
    assert sum([base, ft, other]) / 3 == taskalg.mean(base, ft, other)
    assert taskalg.lerp(base, ft, 0.25) == text(folder, "lerp(base, ft, 0.25)")
    assert taskalg.lerp(base, ft, taskalg.ramp(0, 1)).kind is Kind.MODEL
    assert taskalg.analogy(base, ft, other) == text(folder, "analogy(base, ft, other)")
    assert base + taskalg.ramp(0.2, 1) * (ft - base) == text(
        folder, "base + ramp(0.2, 1)*(ft - base)"
    )


def test_brackets_are_the_language_s(folder: Path, base: Recipe, ft: Recipe) -> None:
    tau = ft - base
    pairs = [
        (tau["*.mlp.*"], '(ft - base)["*.mlp.*"]'),
        (tau[0:2], "(ft - base)[0:2]"),
        (tau[-1], "(ft - base)[-1]"),
        (tau[1:, "head"], '(ft - base)[1:, "head"]'),
        (
            tau["*", taskalg.exclude("*.bias", slice(0, 2), -1)],
            '(ft - base)["*", ~"*.bias", ~0:2, ~-1]',
        ),
        (tau[taskalg.exclude(0)], "(ft - base)[~0]"),
        (taskalg.ramp(0, 1)[2:] * tau, "ramp(0, 1)[2:]*(ft - base)"),
    ]
    for built, written in pairs:
        assert built == text(folder, written)
        assert built.kind is Kind.TASK_VECTOR


@pytest.mark.parametrize("items", [1.5, None, (), slice(0, 4, 2), slice("a", "b"), True, b"x", [0]])
def test_brackets_take_patterns_layers_and_ranges_only(base: Recipe, items: Any) -> None:
    with pytest.raises(UsageError):
        base[items]


def test_a_recipe_is_no_sequence_no_truth_and_no_key(base: Recipe) -> None:
    with pytest.raises(TypeError):
        iter(base)
    with pytest.raises(TypeError):
        hash(base)
    with pytest.raises(TypeError):
        _ = base**2  # type: ignore[operator]


MISUSES: list[tuple[Callable[[Recipe], Any], type[Exception]]] = [
    (lambda x: x + 1, KindError),
    (lambda x: 1 - x, KindError),
    (lambda x: x * x, KindError),
    (lambda x: 1 / x, KindError),
    (lambda x: x / 0, TaskalgError),
    (lambda x: x / taskalg.ramp(0, 1), TaskalgError),
    (lambda x: x + "a", TypeError),
    (lambda x: "2" * x, TypeError),
    (lambda x: x * None, TypeError),
    (lambda x: [1] + x, TypeError),  # noqa: RUF005
    (lambda x: x * float("nan"), UsageError),
    (lambda x: x * float("inf"), UsageError),
    (lambda x: x * 1j, TypeError),
    (lambda x: x * np.arange(3.0), TypeError),
    (lambda x: torch.ones(3) * x, TypeError),
    (lambda x: taskalg.mean(), UsageError),
    (lambda x: taskalg.ramp(x, 1), TaskalgError),
    (lambda x: taskalg.lerp(x, x, x), KindError),
    (lambda x: x * 10**1300, TaskalgError),
    (lambda x: taskalg.task("none.safetensors", taskalg.ramp(0, 1)), UsageError),
    (lambda x: taskalg.task("none.safetensors", "base.safetensors"), UsageError),  # type: ignore[arg-type]
    (lambda x: taskalg.sweep("2*x", {"s": "0:1:1"}, len), UsageError),  # type: ignore[arg-type]
    (lambda x: taskalg.sweep(x, "s=0:1:1", len), UsageError),  # type: ignore[arg-type]
    (lambda x: taskalg.sweep(x, {"s": "0:1:1"}, 3), UsageError),  # type: ignore[arg-type]
    (lambda x: taskalg.sweep(x, {"s": "0:1:1"}, len, model="path"), UsageError),
    (lambda x: taskalg.norm(x) > 3, TypeError),
    (lambda x: f"{x:.3f}", TypeError),
]


@pytest.mark.parametrize(("misuse", "kind"), MISUSES, ids=range(len(MISUSES)))
def test_misuse_is_told_as_what_it_is(
    base: Recipe, misuse: Callable[[Recipe], Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        misuse(base)


def test_a_scalar_is_a_number_where_it_has_to_be_one(base: Recipe) -> None:
    norm = taskalg.norm(base)
    assert f"{norm:.3f}" == f"{float(norm):.3f}"
    assert f"{norm} {base}" == "norm(base) base"
    with pytest.raises(TypeError, match=r"compare float\(scalar\)"):
        _ = norm >= 3


# ---- Numbers

NUMBERS: list[tuple[Any, Fraction]] = [
    (2, Fraction(2)),
    (True, Fraction(1)),
    (0.4, Fraction(2, 5)),
    (0.1 + 0.2, Fraction("0.30000000000000004")),
    (1e-300, Fraction(1, 10**300)),
    (-0.0, Fraction(0)),
    (Fraction(1, 3), Fraction(1, 3)),
    (Decimal("0.1"), Fraction(1, 10)),
    (Decimal("-1E-3"), Fraction(-1, 1000)),
    (np.float64(0.4), Fraction(2, 5)),
    (np.float32(0.3), Fraction(3, 10)),
    (np.float16(0.1), Fraction(1, 10)),
    (np.float32(1e-30), Fraction(1, 10**30)),
    (np.int64(-3), Fraction(-3)),
    (np.uint8(200), Fraction(200)),
    (np.array(0.3, np.float32), Fraction(3, 10)),
    (torch.tensor(0.3), Fraction(3, 10)),
    (torch.tensor(0.1, dtype=torch.bfloat16), Fraction(1, 10)),
    (torch.tensor(0.7, dtype=torch.float16), Fraction(7, 10)),
    (torch.tensor(0.4, dtype=torch.float64), Fraction(2, 5)),
    (torch.tensor(5), Fraction(5)),
    (torch.nn.Parameter(torch.tensor(0.5)), Fraction(1, 2)),
]


@pytest.mark.parametrize(("number", "value"), NUMBERS, ids=[repr(n) for n, _ in NUMBERS])
def test_a_number_means_the_shortest_decimal_of_its_dtype_on_either_side(
    base: Recipe, number: Any, value: Fraction
) -> None:
    assert to_fraction(number) == value
    expected = {"base": value} if value else {}
    assert (base * number).coefficients == expected
    assert (number * base).coefficients == expected
    if value:
        assert (base / number).coefficients == {"base": 1 / value}
    ramp = taskalg.ramp(0, 1)
    assert number + ramp == ramp + number
    assert number - ramp == -(ramp - number)
    assert isinstance(number - ramp, Recipe)


@pytest.mark.parametrize("text", ["1/3", " 0.25 ", "-2/4", "1e-3", "+1_000"])
def test_texts_are_exact_where_a_number_is_asked_for(text: str) -> None:
    assert to_fraction(text) == Fraction(text.replace("_", "").strip())


@pytest.mark.parametrize("text", ["", "a", "1/0", "1 2", "0x1", "1/2/3", "nan", "1e", "--1", "٣"])
def test_texts_that_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(TaskalgError):
        to_fraction(text)


@examples(150)
@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_float32_is_the_shortest_decimal_that_is_it_again(number: float) -> None:
    value = to_fraction(np.float32(number))
    assert np.float32(float(value)) == np.float32(number)
    assert value == Fraction(str(np.float32(number)))
    assert to_fraction(torch.tensor(number)) == value


@given(st.fractions())
def test_scalars_of_the_set_argument_are_exact(value: Fraction) -> None:
    recipe = taskalg.compile("k*base", models={"base": None}, set={"k": value})
    assert recipe.coefficients == ({"base": value} if value else {})


# ---- What a recipe says of itself


def test_a_recipe_says_its_kind_and_its_sum(base: Recipe, ft: Recipe) -> None:
    assert repr(base + 0.4 * (ft - base)) == "model  0.6*base + 0.4*ft"
    assert repr(taskalg.ramp(0, 1)).startswith("scalar")
    assert (ft - base).kind == "task vector"
    assert (base + ft).kind is Kind.PARTIAL


def test_coefficients_that_vary_are_shown_as_such(base: Recipe) -> None:
    varies = base[0:2].coefficients["base"]
    assert not isinstance(varies, Fraction)
    assert varies.constant is None


def test_names_default_to_the_path_s_last_part(folder: Path, tmp_path: Path) -> None:
    assert str(taskalg.checkpoint(folder / "ft.safetensors")) == "ft"
    assert str(taskalg.checkpoint(folder / "ft.safetensors", name="λ")) == "λ"
    with pytest.raises(UsageError):
        taskalg.checkpoint(folder / "ft.safetensors", name="a-b")
    oracle.write_folder(tmp_path / "gpt2-large", [{"w": oracle.Tensor("F32", (), bytes(4))}])
    assert str(taskalg.checkpoint(tmp_path / "gpt2-large")) == "gpt2_large"


def test_two_files_of_one_name_are_refused(folder: Path, tmp_path: Path, ft: Recipe) -> None:
    content = (folder / "ft.safetensors").read_bytes()
    (tmp_path / "ft.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match="two checkpoints are named 'ft'"):
        _ = (ft - taskalg.checkpoint(tmp_path / "ft.safetensors")).kind


def test_a_task_is_taken_against_its_base(folder: Path, base: Recipe) -> None:
    task = taskalg.task(folder / "ft.safetensors", base, name="tau")
    assert str(base + 0.5 * task) == "base + 0.5*tau"
    assert (base + 0.5 * task).coefficients == {"base": Fraction(1, 2), "tau": Fraction(1, 2)}
    assert base + task == taskalg.checkpoint(folder / "ft.safetensors")


def test_recipes_are_values_and_stay_as_they_are(base: Recipe, ft: Recipe) -> None:
    before = str(base), str(ft)
    _ = base + ft, base * 2, -ft, base[0:1], (base - ft).kind
    assert (str(base), str(ft)) == before


def test_equality_is_by_meaning(folder: Path, base: Recipe, ft: Recipe) -> None:
    assert base + (ft - base) == ft
    assert base[0:4] + base["head"] == base
    assert base != ft
    assert base != "base" and base != 1
    assert operator.eq(taskalg.compile("1/2"), taskalg.compile("0.5"))


# ---- Saving


def test_saving_again_needs_overwrite_and_gives_the_same_bytes(
    tmp_path: Path, base: Recipe, ft: Recipe
) -> None:
    out, recipe = tmp_path / "out.safetensors", base + Fraction(1, 3) * (ft - base)
    report = recipe.save(out)
    content = out.read_bytes()
    assert str(report).startswith(f"Report({len(NAMES)} tensors")
    with pytest.raises(taskalg.OutputError, match="exists already"):
        recipe.save(out)
    recipe.save(out, overwrite=True, threads=3)
    assert out.read_bytes() == content


def test_a_bad_option_is_told_before_anything_runs(tmp_path: Path, base: Recipe) -> None:
    for options in (
        {"on_overflow": "ignore"},
        {"dtype": "int8"},
        {"engine": "abacus"},
        {"shard_size": "big"},
        {"donor": "nobody"},
    ):
        with pytest.raises(UsageError):
            base.save(tmp_path / "out", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_what_was_declared_without_a_file_cannot_be_saved(tmp_path: Path) -> None:
    recipe = taskalg.compile("base", models={"base": None})
    with pytest.raises(UsageError, match="base was declared without a file"):
        recipe.save(tmp_path / "out")


class Stop(Exception):
    pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold the workers up until progress was told: tiny files are done before anyone looks."""
    event, write_at = threading.Event(), files.write_at

    def write_once_told(*arguments: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            assert event.wait(60)
        write_at(*arguments)

    monkeypatch.setattr(files, "write_at", write_once_told)
    return event


def test_progress_is_told_in_bytes(
    tmp_path: Path, base: Recipe, ft: Recipe, told: threading.Event
) -> None:
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        told.set()

    recipe = (base + ft) / 2
    recipe.save(tmp_path / "out.safetensors", progress=watch, threads=2)
    plan = recipe.plan()
    assert {progress.total for progress in seen} == {plan.bytes_read + plan.bytes_written}
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[0].done <= plan.bytes_read  # nothing is written before the first was told


def test_raising_in_progress_cancels_and_leaves_nothing_behind(
    tmp_path: Path, base: Recipe, ft: Recipe, told: threading.Event
) -> None:
    def cancel(_: Progress) -> None:
        told.set()
        raise Stop

    running = threading.active_count()
    with pytest.raises(Stop):
        ((base + ft) / 2).save(tmp_path / "out", progress=cancel)
    assert threading.active_count() == running
    assert list(tmp_path.iterdir()) == []


def test_several_threads_may_save_at_once(tmp_path: Path, base: Recipe, ft: Recipe) -> None:
    recipe = (base + ft) / 2
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(3):
                recipe.save(tmp_path / f"{number}-{turn}.safetensors", threads=2)
                assert (base - ft).kind == "task vector"
                assert taskalg.compile("1/2 + 1/2") == taskalg.compile("1")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_explain_says_what_save_will_do(base: Recipe, ft: Recipe) -> None:
    explanation = (base + 0.4 * (ft - base)).explain("out.safetensors")
    shown = str(explanation)
    assert "0.6*base + 0.4*ft" in shown
    assert explanation.to_json()["coefficients"] == {"base": "3/5", "ft": "2/5"}
    assert explanation.to_json()["bytes_read"] == 2 * 12 * len(NAMES)
