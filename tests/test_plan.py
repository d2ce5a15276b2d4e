"""Plans: donor, dtypes, steps, what fits and what does not, and the bytes that will be read."""

import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given

import taskalg
from taskalg import ExpressionError, KindError, MismatchError, Recipe, UsageError
from taskalg.language.nodes import Node
from taskalg.planning.plan import Plan
from taskalg.running.blocks import ALIGNMENT, Block, arena_size, block_elements, cut
from taskalg.running.execute import output_layouts
from tests import oracle, strategies
from tests.oracle import Tensor, Tensors
from tests.strategies import MODELS, examples, families, plain_sums
from tests.test_laws import expected_rows, in_files, on_disk, recipe_in


def tensor(dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> Tensor:
    widths = {"I64": 8, "I32": 4, "BOOL": 1, "U8": 1}
    width = widths.get(dtype) or oracle.FORMATS[dtype].width
    count = 1
    for size in shape:
        count *= size
    return Tensor(dtype, shape, bytes(width * count))


def recipe(folder: Path, text: str, **checkpoints: Tensors) -> Recipe:
    for key, tensors in checkpoints.items():
        oracle.write_file(folder / f"{key}.safetensors", tensors, {})
    models = {key: folder / f"{key}.safetensors" for key in checkpoints}
    return taskalg.compile(text, models=models)


def donor_of(plan: Plan) -> str:
    return str(plan.operands[plan.donor].name)


def dtypes_of(plan: Plan) -> dict[str, str]:
    return {step.name: plan.combinations[step.combination].output.name for step in plan.steps}


# ---- Donor

DONORS = [
    ("0.1*base + 0.9*ft", "base"),
    ("base + (ft - base)", "ft"),
    ("0.3*a + 0.7*ft", "ft"),
    ("0.5*ft + 0.5*a", "a"),  # ties by name
    ("a + 2*b - 2*ft", "b"),
    ("ft - base", "base"),
    ("a - 2*b + 2*ft", "ft"),
    ('base["head"] + ft[~"head"]', "base"),
    ("mean(ft, b, a)", "a"),
]


@pytest.mark.parametrize(("text", "expected"), DONORS)
def test_the_donor_is_base_or_the_largest_coefficient(
    tmp_path: Path, text: str, expected: str
) -> None:
    same: Tensors = {"w": tensor(), "head": tensor()}
    made = recipe(tmp_path, text, base=same, a=same, b=same, ft=same)
    assert donor_of(made.plan(allow_partial=True)) == expected


@examples(60)
@given(families(), plain_sums(2))
def test_spelling_never_decides_the_donor(family: dict[str, Tensors], node: Node) -> None:
    text = in_files(node)
    rows = expected_rows(text, list(strategies.NAMES))
    assume(any(rows.values()))
    with on_disk(family) as folder:
        plan = recipe_in(folder, text).plan(allow_partial=True)
        assert donor_of(plan) == oracle.donor(rows)
        assert [step.name for step in plan.steps] == list(family[donor_of(plan)])


def test_a_donor_may_be_asked_for_even_one_that_cancels(tmp_path: Path) -> None:
    same: Tensors = {"w": tensor("BF16")}
    made = recipe(tmp_path, "base + (ft - base)", base={"w": tensor("F16")}, ft=same)
    assert dtypes_of(made.plan()) == {"w": "bf16"}
    assert dtypes_of(made.plan(donor="base")) == {"w": "f16"}
    with pytest.raises(UsageError) as caught:
        made.plan(donor="nobody")
    assert str(caught.value) == (
        "the donor 'nobody' is not a checkpoint of this expression\n"
        "  help: choose one of base or ft"
    )


def test_a_task_vector_is_no_donor_while_there_is_a_model(tmp_path: Path) -> None:
    oracle.write_file(tmp_path / "tau.safetensors", {"w": tensor()}, {"taskalg": "task-vector"})
    oracle.write_file(tmp_path / "a.safetensors", {"w": tensor("BF16")}, {})
    models = {key: tmp_path / f"{key}.safetensors" for key in ("tau", "a")}
    plan = taskalg.compile("a + 3*tau", models=models).plan()
    assert (donor_of(plan), dtypes_of(plan)) == ("a", {"w": "bf16"})


# ---- Dtypes

VECTOR_DTYPES = [
    (("BF16", "BF16"), "f32"),
    (("F8_E4M3", "BF16"), "f32"),
    (("BF16", "F32"), "f32"),
    (("F32", "F64"), "f64"),
    (("F64", "BF16"), "f64"),
]


@pytest.mark.parametrize(("dtypes", "expected"), VECTOR_DTYPES)
def test_a_task_vector_is_as_wide_as_its_inputs_and_32_bits_at_least(
    tmp_path: Path, dtypes: tuple[str, str], expected: str
) -> None:
    base, ft = ({"w": tensor(dtype)} for dtype in dtypes)
    made = recipe(tmp_path, "ft - base", base=base, ft=ft)
    assert dtypes_of(made.plan()) == {"w": expected}
    assert dtypes_of(made.plan(dtype="bf16")) == {"w": "bf16"}


def test_a_model_has_the_donor_s_dtype_tensor_by_tensor(tmp_path: Path) -> None:
    base = {"w": tensor("BF16"), "v": tensor("F8_E5M2"), "n": tensor("I64")}
    ft = {"w": tensor("F32"), "v": tensor("F16"), "n": tensor("I64")}
    made = recipe(tmp_path, "(base + ft)/2", base=base, ft=ft)
    assert dtypes_of(made.plan()) == {"w": "bf16", "v": "f8_e5m2", "n": "i64"}
    assert dtypes_of(made.plan(dtype="float16")) == {"w": "f16", "v": "f16", "n": "i64"}


# ---- Copies, cancellations, integers


def test_one_times_a_tensor_is_a_copy_where_the_dtype_stays(tmp_path: Path) -> None:
    both = {"w": tensor("BF16"), "head": tensor("BF16")}
    text = 'base + (ft - base)["head"]'
    plan = recipe(tmp_path, text, base=both, ft=both).plan()
    assert all(combination.is_copy for combination in plan.combinations)
    assert plan.bytes_copied == plan.bytes_read == plan.bytes_written == 8
    wide = recipe(tmp_path, text, base=both, ft=both).plan(dtype="f32")
    assert (wide.bytes_copied, wide.bytes_read, wide.bytes_written) == (0, 8, 16)


def test_a_checkpoint_that_cancels_is_read_not_at_all(tmp_path: Path) -> None:
    odd = {"other": tensor("I64", (7,))}
    plan = recipe(tmp_path, "base + (ft - base)", base=odd, ft={"w": tensor()}).plan()
    usage = {str(u.operand.name): (u.tensors, u.bytes_read) for u in plan.usage}
    assert usage == {"base": (0, 0), "ft": (1, 8)}


def test_where_nothing_is_selected_a_tensor_is_zero_and_nothing_is_read(tmp_path: Path) -> None:
    both = {"w": tensor(), "head": tensor()}
    plan = recipe(tmp_path, '(ft - base)["head"]', base=both, ft=both).plan()
    zero = next(step for step in plan.steps if step.name == "w")
    assert plan.combinations[zero.combination].is_zero
    assert plan.bytes_read == 16


def test_integers_are_the_donor_s_and_compared(tmp_path: Path) -> None:
    counted = {"w": tensor(), "n": tensor("I64", (3,))}
    plain = {"w": tensor()}
    plan = recipe(tmp_path, "mean(base, a, b)", base=counted, a=counted, b=plain).plan()
    assert [step.name for step in plan.steps] == ["w", "n"]
    assert [comparison.name for comparison in plan.comparisons] == ["n"]
    assert plan.bytes_read == 3 * 8 + 24 + 2 * 24
    vector = recipe(tmp_path, "a - base", base=counted, a=counted).plan()
    assert [step.name for step in vector.steps] == ["w"]
    assert not vector.comparisons


def test_nothing_left_on_any_tensor_is_an_error(tmp_path: Path) -> None:
    same = {"layers.0.w": tensor()}
    made = recipe(tmp_path, "a[0:1] - a", a=same)
    with pytest.raises(KindError, match="nothing is left"):
        made.plan()


# ---- What does not fit


def refused(folder: Path, text: str, **checkpoints: Tensors) -> MismatchError:
    with pytest.raises(MismatchError) as caught:
        recipe(folder, text, **checkpoints).plan()
    assert caught.value.exit_code == 3
    return caught.value


def test_names_that_differ_are_listed_and_counted(tmp_path: Path) -> None:
    base = {"w": tensor(), **{f"only.{n}": tensor() for n in range(7)}}
    ft = {"w": tensor(), "head": tensor()}
    error = refused(tmp_path, "(base + ft)/2", base=base, ft=ft)
    assert error.message == "8 tensors are not in every checkpoint"
    assert error.note is not None and error.note.startswith("'only.0' is in base, not in ft; ")
    assert error.note.endswith("; and 3 more")
    assert error.help is not None and "--only-shared" in error.help
    one = refused(tmp_path, "(base + ft)/2", base={"w": tensor()}, ft=ft)
    assert one.message == "1 tensor is not in every checkpoint"
    assert one.note == "'head' is in ft, not in base"


SHAPES: list[tuple[Tensor, Tensor, str]] = [
    (tensor(shape=(2, 3)), tensor(shape=(3, 2)), "(2, 3) in base, (3, 2) in ft: transposed"),
    (tensor(shape=(6,)), tensor(shape=(6, 1)), "(6,) in base, (6, 1) in ft"),
    (tensor("F32"), tensor("I32"), "f32 in base, i32 in ft"),
    (tensor("I64"), tensor("F32"), "i64 in base, f32 in ft"),
]


@pytest.mark.parametrize(("one", "other", "note"), SHAPES)
def test_shapes_and_sorts_of_dtype_must_agree(
    tmp_path: Path, one: Tensor, other: Tensor, note: str
) -> None:
    error = refused(tmp_path, "(base + ft)/2", base={"w": one}, ft={"w": other})
    assert (error.message, error.note) == ("tensor 'w' does not fit", note)


def test_only_where_a_term_takes_part_must_it_fit(tmp_path: Path) -> None:
    base = {"w": tensor(), "head": tensor(shape=(4,)), "extra": tensor()}
    ft = {"w": tensor(), "head": tensor(shape=(9,)), "new": tensor()}
    plan = recipe(tmp_path, 'base + (ft - base)["w"]', base=base, ft=ft).plan()
    assert {step.name for step in plan.steps} == {"w", "head", "extra"}


def test_only_shared_copies_the_donor_s_and_drops_the_rest(tmp_path: Path) -> None:
    base = {"w": tensor("BF16"), "own": tensor("BF16")}
    ft = {"w": tensor("BF16"), "head": tensor("BF16")}
    made = recipe(tmp_path, "(base + ft)/2", base=base, ft=ft)
    plan = made.plan(only_shared=True)
    assert [step.name for step in plan.steps] == ["w", "own"]
    assert (plan.fit.unshared, plan.fit.dropped) == (("own",), ("head",))
    assert plan.bytes_copied == 4
    vector = recipe(tmp_path, "ft - base", base=base, ft=ft).plan(only_shared=True)
    assert [step.name for step in vector.steps] == ["w"]


def test_a_message_shows_untrusted_names_safely(tmp_path: Path) -> None:
    error = refused(tmp_path, "(base + ft)/2", base={"\x1b[31m": tensor()}, ft={"w": tensor()})
    assert "\x1b" not in str(error)


def test_an_explanation_is_its_text_at_a_prompt(tmp_path: Path) -> None:
    found = recipe(tmp_path, "base", base={"w": tensor()}).explain()
    assert repr(found) == str(found)


def test_a_message_suggests_a_pattern_that_can_be_typed(tmp_path: Path) -> None:
    one, other = tensor(), tensor(shape=(3, 1))
    error = refused(tmp_path, "(base + ft)/2", base={'\x1b"w[0]': one}, ft={'\x1b"w[0]': other})
    assert "\x1b" not in str(error)
    assert (
        error.help
        == '1 of 1 tensors differ; leave them out with a selector, as in toxic[~"??w?0]"]'
    )


def test_selecting_nothing_is_told_before_anything_is_planned(tmp_path: Path) -> None:
    with pytest.raises(ExpressionError, match='pattern "x" matches no tensor'):
        recipe(tmp_path, 'base["x"] + base[~"x"]', base={"w": tensor()}).plan()


# ---- Blocks


def covered(blocks: list[Block], plan: Plan) -> dict[str, list[tuple[int, int]]]:
    """Return the ranges of the output that blocks write, by tensor, from its first byte."""
    found: dict[str, list[tuple[int, int]]] = {}
    for block in blocks:
        found.setdefault(str(block.shard), []).append((block.offset, block.offset + block.nbytes))
    return found


@examples(40)
@given(family=families(), node=plain_sums(2))
def test_blocks_cover_every_byte_once_in_order_and_fit_their_arena(
    family: dict[str, Tensors], node: Node
) -> None:
    text, rng = in_files(node), random.Random(plain_text(node))
    assume(any(expected_rows(text, list(strategies.NAMES)).values()))
    with on_disk(family) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("taskalg.running.blocks.TARGET", rng.choice([1, 8, 40, 600, 10**6]))
        plan = recipe_in(folder, text).plan(allow_partial=True)
        threads = rng.randint(1, 64)
        layouts = output_layouts(plan, Path("out"), rng.choice([1, 50, 10**9]))
        blocks = list(cut(plan, layouts, threads))
    for shard, layout in enumerate(layouts):
        ends = [(b.offset, b.offset + b.nbytes) for b in blocks if b.shard == shard]
        written = [
            (offset, offset + tensor.nbytes)
            for tensor, offset in zip(layout.tensors, layout.offsets, strict=True)
            if tensor.nbytes
        ]
        assert joined(ends) == joined(written)
        assert ends == sorted(ends)
    for block in blocks:
        combination = plan.combinations[block.combination]
        elements = block.nbytes // combination.output.itemsize
        sizes = [sum(piece.nbytes for piece in pieces) for pieces in block.sources]
        assert sizes == [elements * dtype.itemsize for dtype in combination.inputs]


def plain_text(node: Node) -> str:
    return strategies.plainly(node)


def joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that follow one another; overlaps stay visible."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def test_buffers_share_the_memory_whatever_the_threads_and_terms(tmp_path: Path) -> None:
    same = {"w": tensor("F64", (100,))}
    names = [f"m{index}" for index in range(40)]
    text = f"mean({', '.join(names)})"
    plan = recipe(tmp_path, text, **dict.fromkeys(names, same)).plan()
    (combination,) = plan.combinations
    for threads in (1, 8, 64, 500):
        width = 41 * 8
        room = arena_size(plan, threads) - 42 * ALIGNMENT
        assert room == block_elements(combination, threads) * width
        assert threads * room <= 128_000_000


def test_a_plan_is_the_same_however_often_it_is_made(tmp_path: Path) -> None:
    same = {"w": tensor(), "v": tensor("BF16")}
    made = [recipe(tmp_path, "(base + a)/2", base=same, a=same).explain("out") for _ in range(2)]
    assert str(made[0]) == str(made[1])
    assert made[0].to_json() == made[1].to_json()
    assert "0x" not in str(made[0])


def test_coefficients_in_a_plan_are_exact(tmp_path: Path) -> None:
    same = {"w": tensor()}
    checkpoints: dict[str, Any] = dict.fromkeys(MODELS, same)
    plan = recipe(tmp_path, "base/3 + a/7 + (1 - 1/3 - 1/7)*b + 0*ft", **checkpoints).plan()
    (combination,) = plan.combinations
    assert combination.coefficients == (Fraction(1, 3), Fraction(1, 7), Fraction(11, 21))
