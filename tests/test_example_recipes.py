"""Each recipe in examples/recipes is the formula that it says it is.

The formulas are written in NumPy and binary64, a tensor at a time, and share nothing with the
package. The recipes are evaluated in binary32 and rounded once: the two differ by at most one unit
in the last place.
"""

import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import taskalg as ta

RECIPES = Path(__file__).parent.parent / "examples" / "recipes"
PARTS = ("attn.weight", "mlp.bias")
LAYERS = [f"model.layers.{layer}.{part}" for layer in range(4) for part in PARTS]
NAMES = ["embed.weight", "lm_head.weight", *LAYERS]
PLACE = re.compile(r'(\w+) = (?:checkpoint|task)\("([\w.-]+)"\)')
Array = np.ndarray[Any, Any]
Models = dict[str, dict[str, Array]]  # by the recipe's names, then by tensor
Of = Callable[[str], Any]  # a model's tensor
Formula = Callable[[Of, str, Models], Any]  # of the tensor with this name


def detox(of: Of, *_: object) -> Any:
    return of("base") - 0.4 * (of("toxic") - of("base"))


def headline(of: Of, *_: object) -> Any:
    base = of("base")
    amazon = (of("sent_yelp") - base) - (of("lm_yelp") - base) + (of("lm_amazon") - base)
    return base - 0.4 * (of("toxic") - base) + 0.3 * amazon


def analogy(of: Of, *_: object) -> Any:
    a, b, c = (of(name) - of("base") for name in ("lm_yelp", "sent_yelp", "lm_amazon"))
    return of("base") + 0.7 * (c + (b - a))


def addition(of: Of, *_: object) -> Any:
    return of("base") + 0.4 * sum(of(name) - of("base") for name in ("cars", "digits", "signs"))


def chat_vector(of: Of, name: str, _: Models) -> Any:
    if fnmatch(name, "*embed*") or name.startswith("lm_head."):
        return of("korean")
    return of("korean") + of("chat") - of("base")


def lines(of: Of, name: str, _: Models) -> Any:
    layer = re.search(r"layers\.(\d)\.", name)
    strength = 1 / 2 + 0.3 * (int(layer[1]) if layer else 0) / 3  # of four layers, the last is 3
    return of("base") + strength * (of("cars") + of("digits") - 2 * of("base"))


def orthogonal(of: Of, name: str, models: Models) -> Any:
    code, math = (
        {key: models[task][key] - models["base"][key] for key in NAMES} for task in ("code", "math")
    )
    both = sum(float((code[key] * math[key]).sum()) for key in NAMES)
    squares = sum(float((code[key] ** 2).sum()) for key in NAMES)
    return of("base") + code[name] + math[name] - both / squares * code[name]


def soup(of: Of, *_: object) -> Any:
    return np.mean([of("low"), of("middle"), of("high")], axis=0)


def wise_ft(of: Of, *_: object) -> Any:
    return 0.5 * of("zero_shot") + 0.5 * of("tuned")


def expo(of: Of, *_: object) -> Any:
    return of("dpo") + 0.3 * (of("dpo") - of("sft"))


FORMULAS: dict[str, Formula] = {
    formula.__name__: formula
    for formula in (
        *(detox, headline, analogy, addition, chat_vector),
        *(lines, orthogonal, soup, wise_ft, expo),
    )
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for recipe in RECIPES.glob("*.ta"):
        shutil.copy(recipe, tmp_path)
    return tmp_path


def checkpoints(folder: Path, recipe: str) -> Models:
    """Make every checkpoint that a recipe or the one it uses reads; return what is in them."""
    text = (folder / f"{recipe}.ta").read_text(encoding="utf-8")
    if 'use "zoo.ta"' in text:
        text += (folder / "zoo.ta").read_text(encoding="utf-8")
    generator, made = np.random.default_rng(0), {}
    for name, path in PLACE.findall(text):
        made[name] = {tensor: generator.normal(size=12).astype(np.float32) for tensor in NAMES}
        (folder / path).mkdir()
        save_file(made[name], folder / path / "model.safetensors")
    return {name: {n: t.astype(np.float64) for n, t in one.items()} for name, one in made.items()}


def differing(
    recipe: ta.Recipe, formula: Formula, models: Models, donor: str | None = None
) -> list[str]:
    """Return the tensors in which a recipe is not the formula."""
    wrong, merged = [], recipe.state_dict(donor=donor)
    for name in NAMES:
        tensors = {model: named[name] for model, named in models.items()}
        expected = formula(tensors.__getitem__, name, models)
        if not np.allclose(merged[name].to(torch.float64), expected, rtol=2**-23, atol=1e-12):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("name", FORMULAS)
def test_a_recipe_is_its_formula(name: str, folder: Path) -> None:
    models = checkpoints(folder, name)
    assert differing(ta.compile(folder / f"{name}.ta"), FORMULAS[name], models) == []


@pytest.mark.parametrize("name", FORMULAS)
def test_another_recipe_is_not(name: str, folder: Path) -> None:
    models = checkpoints(folder, name)
    recipe = ta.compile(folder / f"{name}.ta")
    for model in set(re.findall(r"\w+", str(recipe))) & set(models):
        moved = {key: tensor + 0.01 for key, tensor in models[model].items()}
        assert len(differing(recipe, FORMULAS[name], models | {model: moved})) >= 6


def test_a_chat_vector_goes_with_a_vocabulary_that_grew(folder: Path) -> None:
    models = checkpoints(folder, "chat_vector")
    for name in ("embed.weight", "lm_head.weight"):
        models["korean"][name] = np.append(models["korean"][name], [1.0, 2.0, 3.0])
    grown = {name: tensor.astype(np.float32) for name, tensor in models["korean"].items()}
    save_file(grown, folder / "llama-2-7b-korean" / "model.safetensors")
    recipe = ta.compile(folder / "chat_vector.ta")
    assert differing(recipe, chat_vector, models, donor="korean") == []


def test_every_recipe_has_a_formula() -> None:
    assert {path.stem for path in RECIPES.glob("*.ta")} == {*FORMULAS, "zoo"}
