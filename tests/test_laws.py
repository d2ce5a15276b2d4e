"""Laws that span the stages: text and files in, meaning and bytes out."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import taskalg
from taskalg import Recipe
from taskalg.algebra.coefficient import selected
from taskalg.algebra.selectors import Glob, Selector, places
from taskalg.algebra.table import tabulate
from taskalg.errors import ExpressionError, Source
from taskalg.language.nodes import Node
from taskalg.language.parser import parse, parse_expression
from taskalg.language.printer import print_node
from taskalg.running import blocks
from tests import oracle, strategies
from tests.oracle import Row, Tensors, Value
from tests.strategies import (
    LEAVES,
    MODELS,
    TASKS,
    examples,
    families,
    plain_sums,
    plainly,
    recipes,
    sums,
    written,
)

HALF = Fraction(1, 2)
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where a sync costs nothing
GIVEN: dict[str, Value] = {
    **{name: {name: Fraction(1)} for name in MODELS},
    **{name: {name: Fraction(1), "base": Fraction(-1)} for name in TASKS},
    "strength": Fraction(3, 5),
}
TENSORS = [  # stacks of four, two and one layers, one that starts at 2, and names outside
    *(f"layers.{layer}.{end}" for layer in range(4) for end in ("mlp.a", "q", "p")),
    *(f"decoder.block.{layer}.p" for layer in (0, 1)),
    *(f"late.{layer}.mlp.b" for layer in (2, 3, 7)),
    "only.0.q",
    "x.q",
    "emb.p",
    "head",
]


def compiled(text: str) -> Recipe:
    """Compile with every checkpoint declared and none on disk."""
    return taskalg.compile(
        text,
        models=dict.fromkeys(MODELS),
        tasks=dict.fromkeys(TASKS),
        set={"strength": "0.6"} if "strength" in text else {},
    )


def rows_of(recipe: Recipe, names: list[str]) -> dict[str, Row]:
    """Return the non-zero coefficients that the package finds, by tensor."""
    at = places(names)
    return {
        name: {
            str(operand.name): Fraction(part.at(name, at[name]))  # type: ignore[arg-type]
            for operand, part in recipe.resolved.terms
            if part.at(name, at[name])
        }
        for name in names
    }


def expected_rows(recipe: str | Node, names: list[str]) -> dict[str, Row]:
    """Return the non-zero coefficients that the oracle finds, by tensor."""
    tree = parse(Source("<test>", recipe)) if isinstance(recipe, str) else None
    found = {}
    for name in names:
        if tree is not None:
            value = oracle.evaluate(tree, GIVEN, name, names)
        else:
            world = oracle.World(name, oracle.place_of(name, names), GIVEN)
            value = oracle.meaning(recipe, world, {})  # type: ignore[arg-type]
        found[name] = oracle.nonzero(value)
    return found


# ---- Meaning


@examples(150)
@given(data=st.data(), node=sums())
def test_every_expression_means_what_the_language_says(data: st.DataObject, node: Node) -> None:
    text = data.draw(written(node))
    assert rows_of(compiled(text), TENSORS) == expected_rows(node, TENSORS)


@examples(60)
@given(data=st.data(), recipe=recipes())
def test_bindings_and_functions_mean_what_they_are_written_out(
    data: st.DataObject, recipe: tuple[list[str], Node]
) -> None:
    lines, expression = recipe
    text = "\n".join([*lines, f"({data.draw(written(expression))})"])  # no line starts with a sign
    assert rows_of(compiled(text), TENSORS) == expected_rows(text, TENSORS)


@examples(60)
@given(sums())
def test_the_table_agrees_with_one_tensor_at_a_time(node: Node) -> None:
    recipe = compiled(plainly(node))
    parts = [part for _, part in recipe.resolved.terms]
    at = places(TENSORS)
    table = tabulate(parts, at)
    assert list(table.of) == TENSORS
    for name, place in at.items():
        row = tuple(part.at(name, place) for part in parts)
        assert table.classes[table.of[name]] == row
    assert len(set(table.classes)) == len(table.classes)


def test_lists_of_names_are_not_held_against_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe with a value for each of a thousand tensors would take a million looks."""
    monkeypatch.setattr(Selector, "selects", None)  # a call would be an error
    lists = [Selector((Glob("a"), Glob("b")), ()), Selector((Glob("b"),), ())]
    table = tabulate([selected(lists[0]) + selected(lists[1])], places(["a", "b", "c"]))
    assert [table.classes[table.of[name]] for name in "abc"] == [(Fraction(n),) for n in (1, 2, 0)]


@examples(100)
@given(sums())
def test_the_printed_form_means_the_same_and_prints_itself(node: Node) -> None:
    recipe = compiled(plainly(node))
    text = str(recipe)
    assume(text != "0")  # a scalar, and not the sum in which nothing is left
    again = compiled(text)
    assert rows_of(again, TENSORS) == rows_of(recipe, TENSORS)
    assert str(again) == text


@examples(60)
@given(sums(2), st.randoms(use_true_random=False))
def test_operands_may_stand_in_any_order(node: Node, rng: random.Random) -> None:
    text = plainly(node)
    other = f"({text}) + b - {strategies.fully(node)} + toxic"
    terms = ["b", f"({text})", f"-({text})", "toxic"]
    rng.shuffle(terms)
    assert str(compiled(" + ".join(terms))) == str(compiled(other))


@examples(150)
@given(data=st.data(), node=sums())
def test_text_and_tree_are_one_to_one(data: st.DataObject, node: Node) -> None:
    for text in (plainly(node), strategies.fully(node), data.draw(written(node))):
        assert parse_expression(Source("<test>", text)) == node


@examples(150)
@given(sums())
def test_parsing_what_the_printer_writes_gives_the_same_tree(node: Node) -> None:
    text = print_node(node)
    assert parse_expression(Source("<test>", text)) == node
    assert print_node(parse_expression(Source("<test>", text))) == text


# ---- Bytes


def save(recipe: Recipe, out: Path, **options: object) -> bytes:
    """Save to one file and return all its bytes."""
    recipe.save(out, overwrite=True, on_overflow="warn", **options)  # type: ignore[arg-type]
    return out.read_bytes()


@contextmanager
def on_disk(family: Mapping[str, Tensors]) -> Iterator[Path]:
    with TemporaryDirectory(dir=MEMORY) as folder:
        for key, tensors in family.items():
            oracle.write_file(Path(folder) / f"{key}.safetensors", tensors, {"format": "pt"})
        yield Path(folder)


def recipe_in(folder: Path, text: str) -> Recipe:
    return taskalg.compile(text, models={name: folder / f"{name}.safetensors" for name in MODELS})


def in_files(node: Node) -> str:
    """Write an expression with no names but those of files."""
    text = plainly(node).replace("strength", "0.6")
    return text.replace("toxic", "(a - base)").replace("λ", "(b - base)")


@examples(40)
@given(families(), sums(2))
def test_written_bytes_are_the_exact_sum_rounded_once(
    family: dict[str, Tensors], node: Node
) -> None:
    text, names = in_files(node), list(strategies.NAMES)
    rows = expected_rows(text, names)
    totals = {sum(row.values(), Fraction(0)) for row in rows.values()}
    with on_disk(family) as folder:
        recipe = recipe_in(folder, text)
        idle = idle_items(recipe)
        if idle or not any(rows.values()):
            with pytest.raises(ExpressionError) as caught:
                recipe.plan(allow_partial=True)
            told = caught.value.message
            assert told.startswith("nothing is left") or any(item in told for item in idle)
            return
        save(recipe, folder / "out.safetensors", allow_partial=True)
        found = oracle.read_file(folder / "out.safetensors")
    assert found == oracle.result(rows, family, is_vector=totals == {Fraction(0)})


def idle_items(recipe: Recipe) -> list[str]:
    """Return the patterns and ranges in a sum that select none of NAMES."""
    at = {name: oracle.place_of(name, strategies.NAMES) for name in strategies.NAMES}
    idle = []
    for item in {i for _, part in recipe.resolved.terms for s in part.selectors() for i in s.items}:
        if isinstance(item, Glob):
            hits = [oracle.matches(item.pattern, name) for name in at]
        else:
            hits = [oracle.in_range(item.start, item.stop, place) for place in at.values()]
        idle += [] if any(hits) else [str(item)]
    return idle


IDENTITIES = [  # left and right are the same sum: so must be the files
    ("base + ({x} - base)", "{x}"),
    ("base + ({x} - {y})", "({x} - {y}) + base"),
    ("({x} + {y}) + {z}", "{x} + ({y} + {z})"),
    ("{k}*({x} + {y})", "{k}*{x} + {k}*{y}"),
    ("({x} + {y})/4", "{x}/4 + 0.25*{y}"),
    ("--({x})", "{x}"),
    ("{x} - {y} + {y}", "{x}"),
    ("{x} - {y}", "-({y} - {x})"),
    ("mean({x}, {y}, {z})", "({x} + {y} + {z})/3"),
    ("lerp({x}, {y}, {k})", "{x} + {k}*({y} - {x})"),
    ("analogy({x}, {y}, {z})", "{z} + {y} - {x}"),
    ('{x}["*.q"] + {x}[~"*.q"]', "{x}"),
    ("{x}[0:1] + {x}[1:]", "{x}[0:]"),
    ("ramp(0, 1)*{x} + ramp(1, 0)*{x}", "{x}*ramp(1, 1)"),
    ("({x} + {y})*{k}/{k}", "{x} + {y}"),
    ("0.1*{x} + 0.2*{x} + 0.7*{x}", "{x}"),
]


@pytest.mark.parametrize(("left", "right"), IDENTITIES)
@examples(10)
@given(data=st.data())
def test_algebraic_identities_hold_byte_for_byte(
    data: st.DataObject, left: str, right: str
) -> None:
    parts = {key: f"({in_files(data.draw(plain_sums(1)))})" for key in "xyz"}
    parts["k"] = data.draw(st.sampled_from(["0.3", "2", "(1/7)", "(-1e-3)", "1"]))
    one, other = left.format(**parts), right.format(**parts)
    with on_disk(data.draw(families())) as folder:
        rows = expected_rows(one, list(strategies.NAMES))
        assume(any(rows.values()))
        recipe = recipe_in(folder, one)
        first = save(recipe, folder / "1.safetensors", allow_partial=True)
        second = save(recipe_in(folder, other), folder / "2.safetensors", allow_partial=True)
        assert first == second
        assert recipe == recipe_in(folder, other)


def shuffled_shards(rng: random.Random, tensors: Tensors, count: int) -> list[Tensors]:
    """Distribute tensors over shards; both in an order as it comes."""
    names = list(tensors)
    rng.shuffle(names)
    shards: list[Tensors] = [{} for _ in range(count)]
    for index, name in enumerate(names):
        shards[index % count if index < count else rng.randrange(count)][name] = tensors[name]
    return shards


@examples(15)
@given(families(), plain_sums(2), st.integers(1, 5), st.randoms(use_true_random=False))
def test_placement_changes_no_byte(
    family: dict[str, Tensors], node: Node, threads: int, rng: random.Random
) -> None:
    text = in_files(node)
    rows = expected_rows(text, list(strategies.NAMES))
    assume(any(rows.values()))
    with on_disk(family) as folder:
        once = recipe_in(folder, text)
        save(once, folder / "once.safetensors", allow_partial=True, threads=1)
        expected = oracle.read_file(folder / "once.safetensors")
        for key, tensors in family.items():
            count = rng.randint(1, len(tensors))
            oracle.write_folder(folder / key, shuffled_shards(rng, tensors, count))
        models = {name: folder / name for name in family}
        sharded = taskalg.compile(plainly(node) if text == plainly(node) else text, models=models)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "TARGET", rng.choice([1, 8, 40, 1000, 3_000_000]))
            size = rng.choice(["1B", "20B", "100B", "5GB"])
            report = sharded.save(
                folder / "out",
                on_overflow="warn",
                allow_partial=True,
                threads=threads,
                shard_size=size,
                engine=rng.choice(["cpu", "reference"]),
            )
        found: Tensors = {}
        for path in (folder / "out").glob("*.safetensors"):
            found |= oracle.read_file(path)
        assert found == expected
        assert report.bytes_read == report.plan.bytes_read
        assert report.bytes_copied == report.plan.bytes_copied
        assert report.bytes_written == report.plan.bytes_written


@examples(25)
@given(families(), plain_sums(2))
def test_both_engines_write_the_same_file(family: dict[str, Tensors], node: Node) -> None:
    text = in_files(node)
    assume(any(expected_rows(text, list(strategies.NAMES)).values()))
    with on_disk(family) as folder:
        recipe = recipe_in(folder, text)
        cpu = save(recipe, folder / "c.safetensors", allow_partial=True, engine="cpu")
        slow = save(recipe, folder / "r.safetensors", allow_partial=True, engine="reference")
        assert cpu == slow


def realistic(rng: random.Random, near: list[float] | None = None) -> list[float]:
    """Return weights like those of a model, or like those of one fine-tuned from `near`."""
    if near is None:
        return [rng.gauss(0, 0.02) for _ in range(5_000)]
    return [value + rng.gauss(0, 0.0005) for value in near]


@pytest.mark.parametrize("dtype", ["BF16", "F16"])  # f8 has zeros, whose sign a difference loses
def test_a_saved_task_vector_added_to_base_gives_the_fine_tuned_model(
    tmp_path: Path, dtype: str
) -> None:
    rng = random.Random(7)
    base = realistic(rng)
    form = oracle.FORMATS[dtype]
    for key, values in (("base", base), ("ft", realistic(rng, base))):
        patterns = [oracle.encode(Fraction(value), form) for value in values]
        data = b"".join(pattern.to_bytes(form.width, "little") for pattern in patterns)
        tensor = oracle.Tensor(dtype, (len(values),), data)
        oracle.write_file(tmp_path / f"{key}.safetensors", {"w": tensor}, {})
    models = {key: tmp_path / f"{key}.safetensors" for key in ("base", "ft", "tau")}
    taskalg.compile("ft - base", models=models).save(models["tau"])
    assert oracle.read_metadata(models["tau"])["taskalg"] == "task-vector"
    again = taskalg.compile("base + tau", models=models)
    assert again.kind == "model"
    again.save(tmp_path / "again.safetensors")
    assert oracle.read_file(tmp_path / "again.safetensors") == oracle.read_file(models["ft"])


def test_a_saved_task_vector_is_taken_as_it_is_by_task(tmp_path: Path) -> None:
    values = oracle.Tensor("F32", (2,), b"\0\0\x80?\0\0\0@")
    for key in ("base", "ft"):
        oracle.write_file(tmp_path / f"{key}.safetensors", {"w": values}, {})
    paths = {key: tmp_path / f"{key}.safetensors" for key in ("base", "ft", "tau")}
    base, ft = (taskalg.checkpoint(paths[key]) for key in ("base", "ft"))
    (ft - base).save(paths["tau"])
    tau = taskalg.task(paths["tau"], base)
    assert tau.kind == "task vector"
    assert (base + 0.5 * tau).coefficients == {"base": 1, "tau": HALF}


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_leaf_of_the_strategies_is_known_to_both(leaf: str) -> None:
    assert rows_of(compiled(leaf), TENSORS) == expected_rows(leaf, TENSORS)


@example("base")
@given(st.sampled_from(["base + 0.4*toxic", "a", "mean(a, b)", "-(toxic)"]))
def test_compiling_twice_gives_equal_recipes(text: str) -> None:
    assert compiled(text) == compiled(f"({text})")
