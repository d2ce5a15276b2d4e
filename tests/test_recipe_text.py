"""A sum's text as a recipe: whatever the sum is made of, the text means the same."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import taskalg as ta
from taskalg.algebra.coefficient import Coefficient, selected
from taskalg.algebra.selectors import Glob, Selector
from taskalg.errors import Source
from taskalg.language.format import format_text
from taskalg.recipe_text import recipe_text


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b", "c")):
        generator = torch.Generator().manual_seed(seed)
        state = {f"layers.{i}.w": torch.randn(2, 2, generator=generator) for i in range(3)}
        save_file(state, f"{name}.safetensors")
        save_file({f"net.{key}": value for key, value in state.items()}, f"net_{name}.safetensors")
    compiled("a").save("vector.safetensors")
    return tmp_path


def compiled(text: str) -> ta.Recipe:
    """Compile a text in which `a` and `b` may be tasks."""
    tasks = {name: f"{name}.safetensors" for name in ("a", "b")}
    return ta.compile(text, base="base.safetensors", tasks=tasks)


def text_of(recipe: ta.Recipe) -> str:
    scalars = {name: Coefficient(value) for name, value in recipe.scalars.items()}
    return recipe_text(recipe.freed().resolved, scalars)


def again(text: str) -> ta.Recipe:
    assert format_text(Source("<text>", text)) == text
    return ta.compile(text)


TEXTS = {
    "models": "x = checkpoint('a.safetensors')\ny = checkpoint('b.safetensors')\n(x + y)/2",
    "tasks": "base + 0.5*a - b[1:]",
    "other base": (
        'x = checkpoint("a.safetensors")\nt = task("b.safetensors", (x + base)/2)\n'
        'u = task("c.safetensors", x + t)\nbase + 0.5*t - u/3'
    ),
    "prefix": 't = task("net_b.safetensors", base, strip_prefix="net.")\nbase + 0.5*t',
    "a vector": 'v = checkpoint("vector.safetensors")\nbase + 0.25*v',
    "unnamed": 'base + 0.5*(checkpoint("c.safetensors") - base)',
    "scalars": "s = 1/3\nu = s*2\nf(x) = x/(s + 1)\nbase + u*f(a) - ramp(s, 1)*b",
    "minus": "s = -2\n(-a - s*b)",
    "nothing but a task": "a",
}


@pytest.mark.parametrize("case", TEXTS)
def test_the_text_means_the_same(case: str) -> None:
    recipe = compiled(TEXTS[case])
    found = again(text_of(recipe))
    assert found == recipe
    assert found.kind == recipe.kind
    assert found.scalars.keys() == recipe.scalars.keys()
    assert text_of(found) == text_of(recipe)


def test_a_scalar_that_depends_on_the_tensor_has_a_line_for_each_part() -> None:
    recipe, value = compiled("s = 0.5\nbase + s*a"), Coefficient(Fraction(-1, 3))
    for index in range(3):
        chosen = selected(Selector((Glob(f"layers.{index}.w"),), ()))
        value += chosen * Coefficient(Fraction(index + 1, 3 - index))
    assert recipe.evaluation is not None
    text = recipe_text(recipe.freed().resolved, {"s": value})
    assert text.splitlines()[2:] == [
        's = -1/3 + (1/3)["layers.0.w"] + 1["layers.1.w"] + 3["layers.2.w"]',
        "base + s*a",
    ]
    assert again(text) == ta.Recipe.of_program(recipe.evaluation.again({"s": value}))
    squared = value * value
    text = recipe_text(recipe.freed().resolved, {"s": squared})
    assert text.count("\n    + ") + text.count("\n    - ") == len(squared.parts) - 1 > 2
    assert again(text) == ta.Recipe.of_program(recipe.evaluation.again({"s": squared}))


def test_paths_are_those_that_were_opened(folder: Path) -> None:
    models = folder / "models"
    models.mkdir()
    (folder / "a.safetensors").rename(models / "tuned.safetensors")
    zoo, recipe = models / "zoo.ta", folder / "recipe.ta"
    zoo.write_text('base = checkpoint("../base.safetensors")\nx = task("tuned.safetensors")\n')
    recipe.write_text('use "models/zoo.ta"\nstrength = 0.3\nbase + strength*x\n')
    found = ta.compile(Path("recipe.ta"))
    assert text_of(found) == (
        'base = checkpoint("models/../base.safetensors")\n'
        'x = task("models/tuned.safetensors", base)\n'
        "strength = 0.3\n"
        "base + strength*x\n"
    )
    assert again(text_of(found)) == found


def test_a_path_that_no_quotes_hold_is_told(folder: Path) -> None:
    odd = folder / 'it\'s "odd".safetensors'
    (folder / "a.safetensors").rename(odd)
    recipe = ta.compile("base + x", base="base.safetensors", tasks={"x": odd})
    with pytest.raises(ta.UsageError, match="cannot be written in a recipe"):
        text_of(recipe)


def test_weights_in_memory_are_to_be_bound() -> None:
    base, x, y = ({"w": torch.rand(2)} for _ in range(3))
    recipe = ta.compile("(base + x)/2 + y", base=base, models={"x": x}, tasks={"y": y})
    assert text_of(recipe) == (
        "# base is in memory: bind the name, as with --base PATH\n"
        "# x is in memory: bind the name, as with --model x=PATH\n"
        "# y is in memory: bind the name, as with --task y=PATH\n"
        "0.5*base + 0.5*x + y\n"
    )
    assert ta.compile(text_of(recipe), base=base, models={"x": x}, tasks={"y": y}) == recipe
