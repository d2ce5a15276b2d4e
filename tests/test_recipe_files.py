"""Recipes: bindings, functions, and files that use one another."""

from fractions import Fraction
from pathlib import Path

import pytest

import taskalg
from taskalg import CheckpointError, ExpressionError, KindError, Recipe, TaskalgError, UsageError
from tests import oracle

ONES = {"w": oracle.Tensor("F32", (1,), b"\0\0\x80\x3f")}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def checkpoints(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        oracle.write_file(folder / f"{name}.safetensors", ONES, {})


def compiled(folder: Path, text: str, **more: str) -> Recipe:
    """Compile a recipe file `main.ta` beside others."""
    write(folder, {"main.ta": text, **{name.replace("_", "."): t for name, t in more.items()}})
    return taskalg.compile(folder / "main.ta", models={"base": None, "a": None, "b": None})


def refused(folder: Path, text: str, **more: str) -> TaskalgError:
    with pytest.raises(TaskalgError) as caught:
        compiled(folder, text, **more)
    return caught.value


# ---- Bindings and functions


def test_statements_run_top_to_bottom_and_names_stand_for_values(tmp_path: Path) -> None:
    text = "k = 1/3\ntwice = 2*k\nt = a - base\nforget(t, k) = -k*t\nbase + forget(t, twice)\n"
    assert compiled(tmp_path, text).coefficients == {
        "base": Fraction(5, 3),
        "a": Fraction(-2, 3),
    }


def test_a_binding_nobody_uses_is_fine(tmp_path: Path) -> None:
    assert str(compiled(tmp_path, "x = b\ny = 3\na\n")) == "a"


def test_parameters_may_hide_bindings(tmp_path: Path) -> None:
    recipe = compiled(tmp_path, "x = 3\nf(x) = 2*x\nf(a) + (x - 4)*base\n")
    assert recipe.coefficients == {"base": -1, "a": 2}


def test_a_function_sees_what_is_bound_above_it(tmp_path: Path) -> None:
    assert compiled(tmp_path, "k = 2\nf(t) = k*t\ng(t) = f(f(t))\ng(a)\n").coefficients == {"a": 4}


def test_a_functions_arguments_may_be_keywords(tmp_path: Path) -> None:
    recipe = compiled(tmp_path, "f(t, k) = k*t\nf(k=3, t=a)\n")
    assert recipe.coefficients == {"a": 3}


def test_a_function_without_parameters_is_a_call(tmp_path: Path) -> None:
    assert compiled(tmp_path, "f() = a\nf()\n").coefficients == {"a": 1}


def test_a_recipe_without_an_expression_says_so(tmp_path: Path) -> None:
    error = refused(tmp_path, "x = 1\n")
    assert isinstance(error, UsageError)
    assert error.message == "there is no expression"


@pytest.mark.parametrize(
    "content", [b"a", b"\xef\xbb\xbfa", b"a\r\n", b"\r\n\r\na\r\n# \xc3\xa9\r\n"]
)
def test_byte_order_marks_and_line_ends_of_windows_are_fine(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "main.ta").write_bytes(content)
    assert str(taskalg.compile(tmp_path / "main.ta", models={"a": None})) == "a"


def test_a_file_that_is_not_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "main.ta").write_bytes(b"a + \xff")
    with pytest.raises(CheckpointError, match=r"main\.ta' is not UTF-8"):
        taskalg.compile(tmp_path / "main.ta")


def test_errors_name_the_file_and_the_line(tmp_path: Path) -> None:
    error = refused(tmp_path, "x = 1\n\nbase + tau\n")
    assert f"  at {tmp_path}/main.ta:3:8\n" in str(error)


# ---- Values from outside


def test_values_from_outside_replace_bindings_of_their_name() -> None:
    text = "k = 1/2\nx = b\nbase + k*(x - base)\n"
    models = {"base": None, "b": None}
    assert taskalg.compile(text, models=models, set={"k": 2}).coefficients == {"base": -1, "b": 2}
    replaced = taskalg.compile(text, models={**models, "x": None}, set={"k": "1/4"})
    assert str(replaced) == "0.75*base + 0.25*x"


def test_a_value_from_outside_must_be_of_the_same_sort() -> None:
    with pytest.raises(KindError) as caught:
        taskalg.compile("k = 1/2\nk*base", models={"base": None, "k": None})
    assert str(caught.value).startswith(
        "'k' is a scalar in the recipe, but a checkpoint value was given\n  at <expr>:1:1"
    )
    with pytest.raises(KindError, match="'x' is a checkpoint value in the recipe, but a scalar"):
        taskalg.compile("x = base\nx", models={"base": None}, set={"x": 1})


def test_a_scalar_nothing_uses_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        taskalg.compile("base", models={"base": None}, set={"k": 1})
    assert str(caught.value) == (
        "--set k is used by nothing\n  help: write k in the expression, or drop it"
    )


def test_a_scalar_may_be_given_to_a_name_nothing_binds() -> None:
    recipe = taskalg.compile("base*k", models={"base": None}, set={"k": 3})
    assert recipe.coefficients == {"base": 3}


@pytest.mark.parametrize("name", ["gpt2-large", "1st", "use", "", "a b", "mean"])
def test_a_name_from_outside_must_be_one(name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be a name|is a built-in function") as caught:
        taskalg.compile("base", models={"base": None, name: None})
    assert caught.value.help is not None


def test_one_name_for_two_things_is_refused() -> None:
    with pytest.raises(UsageError, match="'x' is bound twice"):
        taskalg.compile("x", models={"x": None}, tasks={"x": None})


def test_names_from_outside_are_normalized_like_those_in_text() -> None:
    assert str(taskalg.compile("ﬁne", models={"fine": None})) == "fine"
    assert str(taskalg.compile("fine", models={"ﬁne": None})) == "fine"


# ---- use


def test_use_brings_in_every_binding_also_what_that_file_used(tmp_path: Path) -> None:
    recipe = compiled(
        tmp_path,
        'use "zoo.ta"\nbase + forget(t, k)\n',
        zoo_ta='use "deep.ta"\nt = a - base\nforget(t, k) = -k*t\n',
        deep_ta="k = 1/4\n",
    )
    assert recipe.coefficients == {"base": Fraction(5, 4), "a": Fraction(-1, 4)}


def test_a_path_is_relative_to_the_file_that_says_it(tmp_path: Path) -> None:
    checkpoints(tmp_path / "zoo", "ft", "deep/ft")
    checkpoints(tmp_path, "ft", "own")
    write(tmp_path, {"zoo/zoo.ta": 'use "deep/deep.ta"\nx = checkpoint("ft.safetensors")\n'})
    write(tmp_path, {"zoo/deep/deep.ta": 'y = checkpoint("ft.safetensors")\n'})
    write(tmp_path, {"main.ta": 'use "zoo/zoo.ta"\nx + y - checkpoint("own.safetensors")\n'})
    recipe = taskalg.compile(tmp_path / "main.ta")
    paths = [operand.checkpoint.path for operand, _ in recipe.resolved.terms if operand.checkpoint]
    assert paths == [
        str(tmp_path / "zoo/ft.safetensors"),
        str(tmp_path / "zoo/deep/ft.safetensors"),
        str(tmp_path / "own.safetensors"),
    ]


def test_a_file_reached_twice_counts_once(tmp_path: Path) -> None:
    write(tmp_path, {"sub/left.ta": 'use "../both.ta"\nl = k\n'})
    recipe = compiled(
        tmp_path,
        'use "sub/left.ta"\nuse "right.ta"\nuse "both.ta"\nuse "./sub/../both.ta"\n(l + r)*a\n',
        right_ta='use "both.ta"\nr = k\n',
        both_ta="k = 2\n",
    )
    assert recipe.coefficients == {"a": 4}


def test_one_name_from_two_files_is_refused_at_both_places(tmp_path: Path) -> None:
    error = refused(
        tmp_path, 'use "one.ta"\nuse "two.ta"\na\n', one_ta="k = 1\n", two_ta="\nk = 2\n"
    )
    assert error.message == "'k' is bound twice"
    assert f"at {tmp_path}/two.ta:2:1" in str(error)
    assert f"first bound here\n  at {tmp_path}/one.ta:1:1" in str(error)


def test_a_used_file_has_no_expression(tmp_path: Path) -> None:
    error = refused(tmp_path, 'use "one.ta"\na\n', one_ta="k = 1\nk*base\n")
    assert isinstance(error, ExpressionError)
    assert f"{tmp_path}/one.ta' is used, so it cannot have an expression" in error.message
    assert f"at {tmp_path}/one.ta:2:1" in str(error)
    assert f"used here\n  at {tmp_path}/main.ta:1:1" in str(error)


@pytest.mark.parametrize(
    ("main", "other", "chain"),
    [
        ('use "main.ta"\na\n', "", ["main.ta", "main.ta"]),
        ('use "one.ta"\na\n', 'use "main.ta"\n', ["main.ta", "one.ta", "main.ta"]),
        ('use "one.ta"\na\n', 'use "one.ta"\n', ["main.ta", "one.ta", "one.ta"]),
    ],
)
def test_files_that_use_one_another_in_a_circle_are_refused(
    tmp_path: Path, main: str, other: str, chain: list[str]
) -> None:
    error = refused(tmp_path, main, one_ta=other)
    assert "uses itself" in error.message
    assert error.note is not None
    assert [part.rpartition("/")[2] for part in error.note.split(" -> ")] == chain


def test_a_circle_through_a_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "again.ta").symlink_to(tmp_path / "main.ta")
    assert "uses itself" in refused(tmp_path, 'use "again.ta"\na\n').message


def test_a_missing_file_is_blamed_on_the_use(tmp_path: Path) -> None:
    error = refused(tmp_path, 'x = 1\nuse "none.ta"\na\n')
    assert isinstance(error, CheckpointError)
    assert f"at {tmp_path}/main.ta:2:5" in str(error)


def test_a_mistake_in_a_used_file_is_shown_there(tmp_path: Path) -> None:
    error = refused(tmp_path, 'use "one.ta"\na\n', one_ta="k = 1 +\n")
    assert f"at {tmp_path}/one.ta:2:1" in str(error) or f"at {tmp_path}/one.ta:1:8" in str(error)


def test_files_may_use_one_another_deeply_but_not_endlessly(tmp_path: Path) -> None:
    count = 210
    write(tmp_path, {f"f{n}.ta": f'use "f{n + 1}.ta"\nx{n} = 1\n' for n in range(count)})
    write(tmp_path, {f"f{count}.ta": "k = 2\n"})
    assert "more than 200 deep" in refused(tmp_path, 'use "f0.ta"\nk*a\n').message
    assert compiled(tmp_path, 'use "f50.ta"\nk*a\n').coefficients == {"a": 2}


def test_use_from_a_text_without_a_file_is_relative_to_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"zoo.ta": "k = 2\n"})
    monkeypatch.chdir(tmp_path)
    assert taskalg.compile('use "zoo.ta"\nk*a', models={"a": None}).coefficients == {"a": 2}


# ---- checkpoint and task in a recipe


def test_a_checkpoint_has_the_name_it_is_bound_to(tmp_path: Path) -> None:
    checkpoints(tmp_path, "base", "ft")
    text = (
        'base = checkpoint("base.safetensors")\n'
        't = task("ft.safetensors")\n'
        'u = task("ft.safetensors", base)\n'
        "again = t\n"
        "base + 0.25*t + 0.25*again\n"
    )
    write(tmp_path, {"main.ta": text})
    recipe = taskalg.compile(tmp_path / "main.ta")
    assert str(recipe) == "base + 0.5*t"
    assert recipe.coefficients == {"base": Fraction(1, 2), "t": Fraction(1, 2)}
    assert recipe.kind == "model"


def test_a_task_may_have_its_own_base(tmp_path: Path) -> None:
    checkpoints(tmp_path, "base", "other", "ft")
    text = (
        'base = checkpoint("base.safetensors")\nother = checkpoint("other.safetensors")\n'
        't = task("ft.safetensors", other)\nbase + t\n'
    )
    write(tmp_path, {"main.ta": text})
    recipe = taskalg.compile(tmp_path / "main.ta")
    assert recipe.coefficients == {"base": 1, "other": -1, "t": 1}
    assert str(recipe) == "base + t"


def test_a_task_without_a_base_says_what_to_bind(tmp_path: Path) -> None:
    checkpoints(tmp_path, "ft")
    write(tmp_path, {"main.ta": 't = task("ft.safetensors")\nt\n'})
    with pytest.raises(TaskalgError) as caught:
        _ = taskalg.compile(tmp_path / "main.ta").kind
    assert caught.value.message == "the task vector 't' has no base to be taken against"
    assert caught.value.help == (
        "bind one: --base PATH, or give the finished vector: --model t=PATH"
    )


@pytest.mark.parametrize("base", ["a - b", "2*a", "a + b", "0.5*a"])
def test_a_base_must_be_a_model(tmp_path: Path, base: str) -> None:
    checkpoints(tmp_path, "a", "b", "ft")
    text = (
        'a = checkpoint("a.safetensors")\nb = checkpoint("b.safetensors")\n'
        f't = task("ft.safetensors", {base})\na + t\n'
    )
    write(tmp_path, {"main.ta": text})
    with pytest.raises(KindError, match="a base is a model"):
        _ = taskalg.compile(tmp_path / "main.ta").kind


def test_a_base_may_be_any_model(tmp_path: Path) -> None:
    checkpoints(tmp_path, "a", "b", "ft")
    text = (
        'a = checkpoint("a.safetensors")\nb = checkpoint("b.safetensors")\n'
        't = task("ft.safetensors", mean(a, b))\nt\n'
    )
    write(tmp_path, {"main.ta": text})
    recipe = taskalg.compile(tmp_path / "main.ta")
    half = Fraction(-1, 2)
    assert recipe.coefficients == {"a": half, "b": half, "t": 1}
    assert recipe.kind == "task vector"


def test_an_unnamed_checkpoint_goes_by_its_path_and_comes_last(tmp_path: Path) -> None:
    checkpoints(tmp_path, "b", "a")
    text = 'z = checkpoint("a.safetensors")\n0.5*checkpoint("b.safetensors") + 0.5*z\n'
    write(tmp_path, {"main.ta": text})
    assert str(taskalg.compile(tmp_path / "main.ta")) == '0.5*z + 0.5*checkpoint("b.safetensors")'


def test_one_file_under_several_names_goes_by_the_first(tmp_path: Path) -> None:
    checkpoints(tmp_path, "w")
    (tmp_path / "link.safetensors").symlink_to("w.safetensors")
    (tmp_path / "hard.safetensors").hardlink_to(tmp_path / "w.safetensors")
    text = (
        'b = checkpoint("w.safetensors")\na = checkpoint("link.safetensors")\n'
        'c = checkpoint("./hard.safetensors")\n0.5*b + 0.25*c + 0.25*a\n'
    )
    write(tmp_path, {"main.ta": text})
    assert str(taskalg.compile(tmp_path / "main.ta")) == "a"
    write(tmp_path, {"main.ta": text.replace("a =", "base =").replace("*a", "*base")})
    assert str(taskalg.compile(tmp_path / "main.ta")) == "base"
