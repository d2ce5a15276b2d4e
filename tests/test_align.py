"""Names that differ by a prefix, tied weights stored once or twice, buffers some leave out."""

import json
import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import taskalg
from taskalg import ExpressionError, MismatchError, Recipe
from taskalg.algebra.canonical import Canonical
from taskalg.algebra.coefficient import Coefficient
from taskalg.checkpoints.base import Checkpoint, TensorSpec
from taskalg.dtypes import F64
from taskalg.errors import TaskalgError
from taskalg.language.nodes import Node
from taskalg.planning.align import align
from taskalg.planning.plan import Plan
from taskalg.planning.resolve import Operand
from taskalg.remarks import remarks
from tests import oracle, strategies
from tests.oracle import Tensor, Tensors
from tests.strategies import examples, families, plain_sums, sums
from tests.test_execute import floats, integers
from tests.test_laws import expected_rows, in_files, on_disk, recipe_in

# ---- Laws

PREFIXES = ("transformer.", "model.", "layers.", "a.b.", "unet/", "0.", "emb.")


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def outcome(folder: Path, text: str, donor: str) -> tuple[Any, ...]:
    """Return what a plan says and the bytes a run writes, or the error."""
    recipe = recipe_in(folder, text)
    try:
        plan = recipe.plan(donor=donor, allow_partial=True)
        usage = [(u.operand.name, u.tensors, u.bytes_read, u.bytes_copied) for u in plan.usage]
        out = folder / "out.safetensors"
        options = {"allow_partial": True, "overwrite": True, "on_overflow": "warn"}
        report = recipe.save(out, donor=donor, **options)  # type: ignore[arg-type]
        return plan.kind, usage, plan.bytes_written, report.bytes_read, out.read_bytes()
    except TaskalgError as error:
        return type(error), error.message


def all_but(donor: str, family: Mapping[str, Tensors], rng: random.Random) -> dict[str, Tensors]:
    return {
        key: tensors if key == donor else prefixed(tensors, rng.choice(("", *PREFIXES)))
        for key, tensors in family.items()
    }


@examples(40)
@given(families(), plain_sums(2) | sums(2), st.integers(0, 2**32 - 1))
def test_a_prefix_changes_neither_the_plan_nor_a_byte(
    family: dict[str, Tensors], node: Node, seed: int
) -> None:
    text, rng = in_files(node), random.Random(seed)
    rows = expected_rows(text, list(strategies.NAMES))
    assume(any(rows.values()))
    donor = oracle.donor(rows)
    with on_disk(family) as folder:
        expected = outcome(folder, text, donor)
    with on_disk(all_but(donor, family, rng)) as folder:
        assert outcome(folder, text, donor) == expected


@examples(20)
@given(families(), plain_sums(2), st.integers(0, 2**32 - 1))
def test_the_names_written_are_the_donor_s(
    family: dict[str, Tensors], node: Node, seed: int
) -> None:
    text, rng = in_files(node), random.Random(seed)
    rows = expected_rows(text, list(strategies.NAMES))
    assume(any(rows.values()))
    donor, prefix = oracle.donor(rows), rng.choice(PREFIXES)
    with on_disk(family) as folder:
        expected = outcome(folder, text, donor)
        written = oracle.read_file(folder / "out.safetensors")
    with on_disk({**family, donor: prefixed(family[donor], prefix)}) as folder:
        assert outcome(folder, text, donor)[:4] == expected[:4]
        assert oracle.read_file(folder / "out.safetensors") == prefixed(written, prefix)


@examples(25)
@given(families(), plain_sums(2), st.integers(0, 2**32 - 1))
def test_a_prefix_changes_no_kind_and_makes_no_difference(
    family: dict[str, Tensors], node: Node, seed: int
) -> None:
    text, rng = in_files(node), random.Random(seed)
    rows = expected_rows(text, list(strategies.NAMES))
    assume(any(rows.values()))
    with on_disk(all_but(oracle.donor(rows), family, rng)) as folder:
        made, half = recipe_in(folder, text), recipe_in(folder, f'({text})["*p*"]')
        with on_disk(family) as plain:
            assert made.kind == recipe_in(plain, text).kind
        expected = any(row for name, row in rows.items() if not oracle.matches("*p*", name))
        assert (made != half) == expected


# ---- Files of one model that name it differently

HEAD = "lm_head.weight"
HUB_GPT2 = ["wte.weight", "wpe.weight", "h.0.attn.c_attn.weight", "h.1.mlp.bias", "ln_f.weight"]
GPT2 = [f"transformer.{name}" for name in HUB_GPT2]
LLAMA = ["model.embed_tokens.weight", "model.layers.0.q.weight", "model.norm.weight", HEAD]
BERT = ["embeddings.word_embeddings.weight", "encoder.layer.0.q.weight", "pooler.dense.bias"]
NAMED = [  # the donor's names, another's, and what is said about the other
    (HUB_GPT2, GPT2, "dropped 'transformer.' from 5 tensors"),
    (HUB_GPT2, [*GPT2, HEAD], "dropped 'transformer.' from 5 tensors"),
    ([*GPT2, HEAD], HUB_GPT2, "added 'transformer.' to 5 tensors"),
    (LLAMA, [f"_orig_mod.{name}" for name in LLAMA], "dropped '_orig_mod.' from 4 tensors"),
    ([f"module.{name}" for name in LLAMA], LLAMA, "added 'module.' to 4 tensors"),
    (LLAMA, [f"module._orig_mod.{n}" for n in LLAMA], "dropped 'module._orig_mod.' from 4 tensors"),
    (LLAMA[:3], [name[6:] for name in LLAMA[:3]], "added 'model.' to 3 tensors"),
    ([*BERT, "n"], [f"bert.{n}" for n in [*BERT, "classifier.bias"]], None),
    ([f"bert.{n}" for n in BERT] + ["classifier.bias"], BERT, "added 'bert.' to 3 tensors"),
    (BERT, [f"bert.{n}" for n in BERT] + ["classifier.bias"], "dropped 'bert.' from 3 tensors"),
    (
        LLAMA,
        [f"language_model.{name}" for name in LLAMA] + ["vision_tower.0.q.weight"],
        "dropped 'language_model.' from 4 tensors",
    ),
    (["unet/a.w", "unet/b.w"], ["a.w", "b.w"], "added 'unet/' to 2 tensors"),
    (["a.w", "b.w"], ["b.w", "a.w"], None),
    (["a.w", "b.w"], ["a.w", "b.w", "x.a.w"], None),  # agree as they are
    (["a.w"], ["encoder.a.w", "decoder.a.w"], None),  # two would do
    (["a.w", "b.w"], ["x.a.w", "x.c.w"], None),  # not all agree
    (["a.w", "b.w"], ["x.a.w", "y.b.w"], None),  # two prefixes
    (["a.w", "x.b.w"], ["x.a.w", "x.x.b.w"], "dropped 'x.' from 2 tensors"),
    (["a.w", "q"], ["p.a.w", "p.q", "q"], None),  # two tensors would be q
    (["ab.w"], ["b.w"], None),  # no whole component
    ([], ["a.w"], None),
]


def test_a_name_of_a_million_components_costs_no_more_than_others() -> None:
    long = "a." * 1_000_000
    assert list(aligned_adapter(GPT2, [f"{long}h.1.mlp.bias"]).tensors) == [f"{long}h.1.mlp.bias"]


def recipe(folder: Path, text: str, **checkpoints: Tensors) -> Recipe:
    """Write checkpoints, each to a folder of its own, and compile an expression of them."""
    for key, tensors in checkpoints.items():
        shutil.rmtree(folder / key, ignore_errors=True)
        oracle.write_folder(folder / key, [tensors])
    return taskalg.compile(text, models={key: folder / key for key in checkpoints})


def named(names: Iterable[str], first: float = 1) -> Tensors:
    return {name: floats("F32", first + n, first - n) for n, name in enumerate(names)}


def said(plan: Plan, about: str) -> list[str]:
    return [text for label, text in remarks(plan) if label == about]


@pytest.mark.parametrize(("mine", "theirs", "expected"), NAMED)
def test_one_prefix_is_dropped_or_added_or_names_stay(
    tmp_path: Path, mine: list[str], theirs: list[str], expected: str | None
) -> None:
    made = recipe(tmp_path, "(base + ft)/2", base=named(mine), ft=named(theirs))
    aligned = align(made.resolved, 0)
    renamed = aligned.alignments[1].renamed
    if expected is None:
        assert renamed is None
        return
    plan = made.plan(only_shared=True)
    assert said(plan, "names") == [f"ft: {expected}"]
    assert renamed is not None
    checkpoint = aligned.total.terms[1][0].checkpoint
    assert checkpoint is not None
    assert set(checkpoint.tensors) - {HEAD} >= set(mine) - {HEAD} or set(mine) >= {
        name for name in checkpoint.tensors if name != HEAD
    }
    assert all(name == spec.name for name, spec in checkpoint.tensors.items())


def test_the_donor_s_names_are_what_selectors_and_layers_see(tmp_path: Path) -> None:
    base = named(["h.0.w", "h.1.w", "ln_f.w"])
    ft = prefixed(named(["h.0.w", "h.1.w", "ln_f.w"], 5), "transformer.")
    made = recipe(tmp_path, 'base["h.*"] + ft[~"h.*"] + (ft - base)[1]', base=base, ft=ft)
    assert made.check() == "model"
    made.save(tmp_path / "out.safetensors")
    found = oracle.read_file(tmp_path / "out.safetensors")
    unprefixed = {name.removeprefix("transformer."): tensor for name, tensor in ft.items()}
    assert found == {**unprefixed, "h.0.w": base["h.0.w"]}
    with pytest.raises(ExpressionError, match="transformer"):
        recipe(tmp_path, 'base + (ft - base)["transformer.*"]', base=base, ft=ft).check()


def test_recipes_are_compared_under_the_names_of_the_donor(tmp_path: Path) -> None:
    base, ft = named(["h.0.w", "v"]), prefixed(named(["h.0.w", "v"]), "transformer.")
    all_of_it, rest, none = (
        recipe(tmp_path, f"base + (ft - base)[{items}]/2", base=base, ft=ft)
        for items in ('"*"', '~"transformer.*"', '~"h.*"')
    )
    assert all_of_it == rest
    assert all_of_it != none


def test_the_donor_asked_for_gives_the_names(tmp_path: Path) -> None:
    base, ft = named(["w", "v"]), prefixed(named(["w", "v"], 5), "model.")
    made = recipe(tmp_path, "(base + ft)/2", base=base, ft=ft)
    made.save(tmp_path / "out.safetensors", donor="ft")
    assert set(oracle.read_file(tmp_path / "out.safetensors")) == set(ft)
    assert said(made.plan(donor="ft"), "names") == ["base: added 'model.' to 2 tensors"]


def test_a_checkpoint_that_cancels_is_not_spoken_of(tmp_path: Path) -> None:
    names = {"base": named(["w"]), "a": named(["model.w"]), "b": named(["x.w"])}
    plan = recipe(tmp_path, "base + (a - a) + (b - base)", **names).plan()
    assert remarks(plan) == []


def aligned_adapter(mine: list[str], theirs: list[str]) -> Checkpoint:
    """Align an adapter of tensors stored as they are; nothing of it is read."""
    checkpoints = []
    for names, sparse in ((mine, False), (theirs, True)):
        specs = {name: TensorSpec(name, F64, (2,), 0, 0, 16) for name in names}
        whole = frozenset(names) if sparse else frozenset()
        checkpoints.append(
            Checkpoint("path", None, (), specs, sparse, is_sparse=sparse, whole=whole)
        )
    terms = [(Operand(None, "path", False, one), Coefficient(1)) for one in checkpoints]
    found = align(Canonical(tuple(terms), {}), 0).total.terms[1][0].checkpoint
    assert found is not None
    assert found.whole == found.tensors.keys()
    return found


ADAPTERS = [  # names of the base, of the adapter, and of the adapter afterwards
    (GPT2, ["transformer.h.1.mlp.bias"], ["transformer.h.1.mlp.bias"]),
    (GPT2, ["h.1.mlp.bias"], ["transformer.h.1.mlp.bias"]),
    (
        HUB_GPT2,
        ["transformer.h.1.mlp.bias", "transformer.wte.weight"],
        ["h.1.mlp.bias", HUB_GPT2[0]],
    ),
    (HUB_GPT2, ["transformer.h.1.mlp.bias", "h.9.mlp.bias"], None),  # all must be found
    (HUB_GPT2, ["transformer.h.1.mlp.bias", HEAD], None),
    ([*HUB_GPT2, HEAD], ["transformer.h.1.mlp.bias", HEAD], ["h.1.mlp.bias", HEAD]),
    (["a.w"], ["m.a.w", "m.b.w"], None),
]


@pytest.mark.parametrize(("mine", "theirs", "expected"), ADAPTERS)
def test_all_of_an_adapter_s_names_are_found_or_none_is_changed(
    mine: list[str], theirs: list[str], expected: list[str] | None
) -> None:
    assert list(aligned_adapter(mine, theirs).tensors) == (expected or theirs)


# ---- A prefix that is asked for


def test_a_prefix_to_strip_is_dropped_in_the_language_and_in_python(tmp_path: Path) -> None:
    base, ft = named(["w", "v"]), {**prefixed(named(["w", "v"], 5), "m."), **named(["m", "x.w"])}
    recipe(tmp_path, "base", base=base, ft=ft)
    path = tmp_path / "ft"
    text = f'base + checkpoint("{path}", strip_prefix="m.")[~"m", ~"x.*"] - base[~"m", ~"x.*"]'
    written = taskalg.compile(text, base=tmp_path / "base")
    task = f'base + task("{path}", strip_prefix="m.")[~"m", ~"x.*"]'
    vector = taskalg.compile(task, base=tmp_path / "base")
    model = taskalg.checkpoint(tmp_path / "base", name="base")
    own = taskalg.exclude("m", "x.*")
    combined = model + taskalg.task(path, model, strip_prefix="m.")[own]
    for number, made in enumerate((written, vector, combined)):
        out = tmp_path / f"{number}.safetensors"
        made.save(out, donor="base")
        assert oracle.read_file(out) == named(["w", "v"], 5)
    assert 'checkpoint("' in str(written)
    assert 'strip_prefix="m.")' in str(written)
    assert taskalg.compile(str(written), base=tmp_path / "base") == written


STRIPPED = [
    ('checkpoint("{ft}", strip_prefix="x.")', "no tensor of '{ft}' has the prefix 'x.'"),
    ('checkpoint("{ft}", strip_prefix="")', "no tensor of '{ft}' has the prefix ''"),
    ('checkpoint("{ft}", strip_prefix=2)', "a prefix is a text in quotes"),
    ('checkpoint("{ft}", "m.")', "checkpoint is given too many arguments"),
    ('checkpoint("{ft}", prefix="m.")', "checkpoint has no argument 'prefix'"),
    (
        'checkpoint("{both}", strip_prefix="m.")',
        "without 'm.' two tensors of '{both}' have one name",
    ),
    (
        '(checkpoint("{ft}", strip_prefix="m.") + checkpoint("{ft}"))/2',
        "'{ft}' is mentioned with two prefixes to strip",
    ),
]


@pytest.mark.parametrize(("text", "message"), STRIPPED)
def test_a_prefix_that_cannot_be_stripped_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    recipe(tmp_path, "ft", ft=named(["m.w"]), both=named(["m.w", "w"]))
    places = {name: str(tmp_path / name) for name in ("ft", "both")}
    with pytest.raises(TaskalgError) as caught:
        _ = taskalg.compile(text.format(**places)).kind
    assert caught.value.message == message.format(**places)
    assert caught.value.exit_code == 2
    assert caught.value.span is not None


def test_the_same_prefix_twice_is_one_checkpoint(tmp_path: Path) -> None:
    recipe(tmp_path, "ft", ft=named(["m.w"]))
    mention = f'checkpoint("{tmp_path / "ft"}", strip_prefix="m.")'
    made = taskalg.compile(f"({mention} + {mention})/2")
    assert len(made.resolved.terms) == 1
    made.save(tmp_path / "out.safetensors")
    assert oracle.read_file(tmp_path / "out.safetensors") == named(["w"])


# ---- What does not fit


def refused(folder: Path, text: str, **checkpoints: Tensors) -> MismatchError:
    with pytest.raises(MismatchError) as caught:
        recipe(folder, text, **checkpoints).plan()
    return caught.value


def test_a_prefix_that_nearly_does_is_told(tmp_path: Path) -> None:
    base = named([f"h.{n}.w" for n in range(9)] + ["a"])
    ft = {**prefixed(named([f"h.{n}.w" for n in range(9)]), "model."), "b": floats("F32", 1, 2)}
    error = refused(tmp_path, "(base + ft)/2", base=base, ft=ft)
    assert error.note is not None
    assert error.note.endswith("; and 15 more; 9 of 10 names of ft match after dropping 'model.'")
    path = tmp_path / "ft"
    assert error.help == f"write checkpoint('{path}', strip_prefix='model.') for ft"
    turned = refused(tmp_path, "(base + ft)/2", base=ft, ft=base)
    assert turned.note is not None
    assert "9 of 10 names of ft match after adding 'model.'" in turned.note
    assert turned.help == f"write checkpoint('{tmp_path / 'base'}', strip_prefix='model.') for base"
    made = recipe(tmp_path, "(base + ft)/2", base=base, ft=ft)
    with pytest.raises(MismatchError) as caught:
        made.plan(only_shared=True)
    assert caught.value.help == error.help
    text = f"(base + {str(error.help).removeprefix('write ').removesuffix(' for ft')})/2"
    fixed = taskalg.compile(text, base=tmp_path / "base")
    assert fixed.plan(only_shared=True).fit.unshared == ("a",)


def test_a_prefix_that_hardly_does_is_not_told(tmp_path: Path) -> None:
    base, ft = named("abcdef"), named(["m.a", "n.b", "o", "p", "q"])
    error = refused(tmp_path, "(base + ft)/2", base=base, ft=ft)
    assert "match after" not in str(error)
    assert error.help == "--only-shared combines the shared ones and keeps the rest of the donor's"


def test_numbers_of_rows_that_differ_have_their_own_way_on(tmp_path: Path) -> None:
    def table(rows: int, columns: int) -> Tensor:
        return Tensor("F32", (rows, columns), bytes(4 * rows * columns))

    base, ft = {"e": table(5, 2), "f": table(3, 2)}, {"e": table(6, 2), "f": table(3, 2)}
    error = refused(tmp_path, "(base + ft)/2", base=base, ft=ft)
    assert error.help is not None
    assert error.help.startswith("--rows common ")
    other = refused(tmp_path, "(base + ft)/2", base=base, ft={**ft, "f": table(2, 3)})
    assert (
        other.note
        == "(5, 2) in base, (6, 2) in ft; (3, 2) in base, (2, 3) in ft for 'f': transposed"
    )
    assert other.help is not None
    assert other.help.startswith("2 of 2 tensors differ; ")


# ---- Tied weights

WTE, T5 = "transformer.wte.weight", ["shared.weight", "encoder.block.0.q.weight"]
E, D = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
BERT_HEAD = ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"]
BERT_TIED = ["bert.embeddings.word_embeddings.weight", "cls.predictions.bias"]


def stored(
    values: Mapping[str, float], more: Iterable[str] = ("transformer.ln_f.weight",)
) -> Tensors:
    """Return tensors of one value each, and others."""
    return {**{name: floats("F32", v, v) for name, v in values.items()}, **named(more)}


TIED: list[tuple[dict[str, float], dict[str, float]]] = [  # what the donor stores, and another
    ({WTE: 1, HEAD: 1}, {WTE: 2}),
    ({WTE: 1}, {WTE: 2, HEAD: 2}),
    ({HEAD: 1}, {WTE: 2}),
    ({WTE: 1}, {HEAD: 2}),
    ({"shared.weight": 1, E: 1, D: 1, HEAD: 1}, {"shared.weight": 2}),
    ({"shared.weight": 1}, {"shared.weight": 2, E: 2, D: 2, HEAD: 2}),
    ({E: 1, D: 1}, {"shared.weight": 2}),
    ({**dict.fromkeys(BERT_TIED, 1), **dict.fromkeys(BERT_HEAD, 1)}, dict.fromkeys(BERT_TIED, 2)),
]


@pytest.mark.parametrize(("mine", "theirs"), TIED)
def test_a_weight_stored_once_or_twice_is_one_weight(
    tmp_path: Path, mine: dict[str, float], theirs: dict[str, float]
) -> None:
    made = recipe(tmp_path, "base/4 + 3*ft/4", base=stored(mine), ft=stored(theirs))
    report = made.save(tmp_path / "out.safetensors", donor="base")
    found = oracle.read_file(tmp_path / "out.safetensors")
    assert found == stored(dict.fromkeys(mine, 1.75))
    assert report.bytes_read == made.plan(donor="base").bytes_read
    assert any("ft: " in note for note in report.notes)


@pytest.mark.parametrize(("mine", "theirs"), TIED)
def test_a_vector_of_tied_weights_goes_with_either_layout(
    tmp_path: Path, mine: dict[str, float], theirs: dict[str, float]
) -> None:
    made = recipe(tmp_path, "ft - base", base=stored(mine), ft=stored(theirs))
    made.save(tmp_path / "vector.safetensors")
    models = {"base": tmp_path / "base", "v": tmp_path / "vector.safetensors"}
    taskalg.compile("base + v", models=models).save(tmp_path / "out.safetensors")
    found = oracle.read_file(tmp_path / "out.safetensors")
    assert found == stored(dict.fromkeys(mine, 2))


DIFFERENT: list[tuple[dict[str, float], dict[str, float], str]] = [
    ({WTE: 1, HEAD: 1.5}, {WTE: 2}, "base"),
    ({WTE: 1}, {WTE: 2, HEAD: 2.5}, "ft"),
]


@pytest.mark.parametrize(("mine", "theirs", "holder"), DIFFERENT)
def test_copies_that_differ_are_refused_and_can_be_left_out(
    tmp_path: Path, mine: dict[str, float], theirs: dict[str, float], holder: str
) -> None:
    base, ft = stored(mine), stored(theirs)
    made = recipe(tmp_path, "base + (ft - base)/2", base=base, ft=ft)
    with pytest.raises(MismatchError) as caught:
        made.save(tmp_path / "out.safetensors", donor="base")
    error, single = caught.value, "ft" if holder == "base" else "base"
    assert error.message == f"'{HEAD}' and '{WTE}' differ in {holder}"
    assert error.note == f"they are one weight in {single}, which stores only '{WTE}'"
    assert error.help == f'leave it out with a selector, as in (ft - base)[~"{HEAD}"]'
    assert not (tmp_path / "out.safetensors").exists()
    left_out = f'base + (ft - base)[~"{HEAD}"]/2'
    made = recipe(tmp_path, left_out, base=base, ft=ft)
    assert made.plan().aligned.copies == ()
    made.save(tmp_path / "out.safetensors")
    found = oracle.read_file(tmp_path / "out.safetensors")
    assert found == stored({**mine, WTE: 1.5})


@pytest.mark.parametrize("place", [0, 24, 49])
def test_copies_that_differ_anywhere_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr("taskalg.running.reading._COMPARED", 8)
    values = [float(n) for n in range(50)]
    other = [*values[:place], -1.0, *values[place + 1 :]]
    base = {WTE: floats("F32", *values), HEAD: floats("F32", *other), "w": floats("F32", 1)}
    ft = {name: base[name] for name in (WTE, "w")}
    made = recipe(tmp_path, "(base + ft)/2", base=base, ft=ft)
    with pytest.raises(MismatchError, match="differ in base"):
        made.save(tmp_path / "out.safetensors", donor="base")
    made = recipe(tmp_path, "(base + ft)/2", base={**base, HEAD: base[WTE]}, ft=ft)
    report = made.save(tmp_path / "out.safetensors", donor="base")
    assert report.bytes_read == 2 * (2 * 200 + 4) + 2 * 200
    (usage, _) = report.plan.usage
    assert (usage.tensors, usage.bytes_read) == (3 + 1, 2 * 200 + 4 + 2 * 200)


CONFIGS = [  # of the one that lacks a head, of the other, and whether it is the embedding
    ({"tie_word_embeddings": True}, {"tie_word_embeddings": False}, True),
    ({"tie_word_embeddings": False}, {"tie_word_embeddings": True}, False),
    ({"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}}, {}, False),
    ({"text_config": {"tie_word_embeddings": True}, "tie_word_embeddings": False}, {}, True),
    ({"text_config": {}, "tie_word_embeddings": False}, {}, False),
    ({"tie_word_embeddings": None}, {}, True),
    ({}, {}, True),
    (None, {"tie_word_embeddings": False}, False),
    (None, {"tie_word_embeddings": True}, True),
    (None, None, True),
]


@pytest.mark.parametrize(("mine", "theirs", "expected"), CONFIGS)
@pytest.mark.parametrize("donor", ["base", "ft"])
def test_the_config_of_the_one_without_a_head_says_whether_it_is_tied(
    tmp_path: Path,
    mine: dict[str, Any] | None,
    theirs: dict[str, Any] | None,
    expected: bool,
    donor: str,
) -> None:
    both = stored({WTE: 1, HEAD: 1})
    made = recipe(tmp_path, "(base + ft)/2", base=stored({WTE: 1}), ft=both)
    for name, config in (("base", mine), ("ft", theirs)):
        if config is not None:
            (tmp_path / name / "config.json").write_text(json.dumps(config), "utf-8")
    if expected:
        assert len(made.plan(donor=donor).aligned.copies) == 1
    else:
        with pytest.raises(MismatchError, match="1 tensor is not in every checkpoint"):
            made.plan(donor=donor)


def test_embeddings_of_one_model_are_one_whatever_its_head(tmp_path: Path) -> None:
    values = {"shared.weight": 1.0, HEAD: 3.0}
    made = recipe(
        tmp_path, "base + ft - base", base=stored({**values, E: 1, D: 1}), ft=stored(values)
    )
    (tmp_path / "ft" / "config.json").write_text('{"tie_word_embeddings": false}', "utf-8")
    assert len(made.plan(donor="base").aligned.copies) == 2


UNTIED: list[tuple[dict[str, float], dict[str, float]]] = [
    ({HEAD: 1, "generator_lm_head.weight": 1}, {HEAD: 1}),  # two heads are two
    ({HEAD: 1, "wpe.weight": 1}, {"wpe.weight": 1}),  # no embedding of tokens
    ({"xlm_head.weight": 1, WTE: 1}, {WTE: 1}),  # no whole component
]


@pytest.mark.parametrize(("mine", "theirs"), UNTIED)
def test_other_tensors_are_not_tied(
    tmp_path: Path, mine: dict[str, float], theirs: dict[str, float]
) -> None:
    for base, ft in ((mine, theirs), (theirs, mine)):
        error = refused(tmp_path, "(base + ft)/2", base=stored(base), ft=stored(ft))
        assert error.message == "1 tensor is not in every checkpoint"


def test_tensors_of_other_shapes_or_dtypes_are_not_tied(tmp_path: Path) -> None:
    base = {**stored({WTE: 1}), HEAD: floats("F32", 1)}
    refused(tmp_path, "(base + ft)/2", base=base, ft=stored({WTE: 1}))
    base = {**stored({WTE: 1}), HEAD: floats("BF16", 1, 1)}
    refused(tmp_path, "(base + ft)/2", base=base, ft=stored({WTE: 1}))


def test_of_another_model_nothing_is_taken_for_tied(tmp_path: Path) -> None:
    base = {**stored({WTE: 1, HEAD: 1}), **named(f"transformer.h.{n}.w" for n in range(5))}
    other = {
        **named(f"encoder.{n}.w" for n in range(5)),
        **stored({"word_embeddings.weight": 1}, ()),
    }
    error = refused(tmp_path, "(base + ft)/2", base=base, ft=other)
    assert error.message.startswith(f"{len(base) + len(other)} tensors")
    with pytest.raises(MismatchError, match="nothing to combine"):
        recipe(tmp_path, "(base + ft)/2", base=base, ft=other).plan(only_shared=True)


# ---- Derived buffers

MASK, FULL = "h.0.attn.bias", Tensor("F32", (1, 1, 2, 2), bytes(16))
BUFFERS: list[tuple[Tensors, Tensors, list[str], list[str]]] = [  # mine, theirs, copied, left out
    ({MASK: FULL}, {}, [MASK], []),
    ({}, {MASK: FULL}, [], [MASK]),
    ({MASK: FULL}, {MASK: Tensor("BOOL", (1, 1, 2, 2), bytes(4))}, [MASK], []),
    ({MASK: Tensor("BOOL", (1, 1, 2, 2), bytes(4))}, {MASK: FULL}, [MASK], []),
    ({MASK: FULL}, {MASK: Tensor("F32", (1, 1, 4, 4), bytes(64))}, [MASK], []),
    ({"a.rotary_emb.inv_freq": floats("F32", 1)}, {}, ["a.rotary_emb.inv_freq"], []),
    ({"h.0.attn.masked_bias": floats("F32", 1)}, {}, ["h.0.attn.masked_bias"], []),
    ({"e.position_ids": integers(1, 2)}, {"e.position_ids": integers(1)}, ["e.position_ids"], []),
    ({"position_ids": integers(1, 2)}, {}, ["position_ids"], []),
    ({MASK: FULL}, {MASK: FULL}, [], []),
]


@pytest.mark.parametrize(("mine", "theirs", "copied", "left_out"), BUFFERS)
def test_a_derived_buffer_that_not_all_have_is_the_donor_s(
    tmp_path: Path, mine: Tensors, theirs: Tensors, copied: list[str], left_out: list[str]
) -> None:
    base, ft = {**named(["h.0.w"]), **mine}, {**named(["h.0.w"], 3), **theirs}
    made = recipe(tmp_path, "(base + ft)/2", base=base, ft=ft)
    plan = made.plan()
    assert list(plan.aligned.buffers) == copied
    expected = [f"'{name}': copied from base" for name in copied]
    expected += [f"'{name}': not in base, left out" for name in left_out]
    assert said(plan, "buffers") == expected
    report = made.save(tmp_path / "out.safetensors")
    assert [f"{note}" for note in report.notes] == expected
    assert oracle.read_file(tmp_path / "out.safetensors") == {**named(["h.0.w"], 2), **mine}
    vector = recipe(tmp_path, "ft - base", base=base, ft=ft).plan()
    summed = [] if copied or not mine else list(mine)
    assert [step.name for step in vector.steps] == ["h.0.w", *summed]


def test_a_bias_that_is_no_mask_is_a_parameter(tmp_path: Path) -> None:
    base = {**named(["h.0.w"]), MASK: floats("F32", 1, 2)}
    error = refused(tmp_path, "(base + ft)/2", base=base, ft=named(["h.0.w"]))
    assert error.note == f"'{MASK}' is in base, not in ft"


def test_a_checkpoint_that_cancels_decides_no_buffer(tmp_path: Path) -> None:
    base = {**named(["w"]), MASK: FULL}
    plan = recipe(tmp_path, "(base + a)/2 + b - b", base=base, a=base, b=named(["w"])).plan()
    assert plan.aligned.buffers == ()


def test_a_buffer_under_another_prefix_is_a_buffer_too(tmp_path: Path) -> None:
    base = named(HUB_GPT2)
    ft = {**prefixed(named(HUB_GPT2), "transformer."), "transformer.h.0.attn.bias": FULL}
    plan = recipe(tmp_path, "(base + ft)/2", base=base, ft=ft).plan()
    assert said(plan, "buffers") == ["'transformer.h.0.attn.bias': not in base, left out"]


# ---- What explain and its JSON say


def test_what_was_done_to_names_is_explained(tmp_path: Path) -> None:
    base = {**named(HUB_GPT2), "h.0.attn.bias": FULL}
    ft = prefixed(named(HUB_GPT2), "transformer.")
    ft[HEAD] = ft[WTE]
    found = recipe(tmp_path, "(base + ft)/2", base=base, ft=ft).explain(tmp_path / "out")
    rows = [
        line for line in str(found).split("\n") if line[:6].strip() in ("names", "tied", "buffer")
    ]
    assert rows == [
        "names           ft: dropped 'transformer.' from 5 tensors",
        "tied            ft: 'lm_head.weight' is a copy of 'wte.weight'",
        "buffers         'h.0.attn.bias': copied from base",
    ]
    made = found.to_json()
    assert made["renamed"] == [{"checkpoint": "ft", "dropped": "transformer.", "tensors": 5}]
    assert made["tied"] == [{"checkpoint": "ft", "drops": HEAD, "keeps": "wte.weight"}]
    assert made["buffers"] == ["h.0.attn.bias"]
    assert made["warnings"] == []
    turned = recipe(tmp_path, "(base + ft)/2", base=ft, ft=base).explain(tmp_path / "out").to_json()
    assert turned["renamed"] == [{"checkpoint": "ft", "added": "transformer.", "tensors": 5}]
    assert turned["tied"] == [{"checkpoint": "ft", "lacks": HEAD, "takes": WTE}]


def test_integers_are_compared_in_blocks_whatever_their_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskalg.running.reading._COMPARED", 8)
    short = Tensor("I32", (3,), bytes(12))
    base = {"w": floats("F32", 1), "n": integers(1, 2, 3), "m": integers(4, 5)}
    made = recipe(tmp_path, "(base + ft)/2", base=base, ft={**base, "n": short})
    report = made.save(tmp_path / "out.safetensors")
    assert report.notes == ("integer tensors differ, those of base are taken: 'n'",)
    assert report.bytes_read == made.plan().bytes_read == 2 * 4 + 24 + 16 + (24 + 12) + 2 * 16
