"""Scalars that the data decides: what they are, that nothing else decides them, what is refused."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import taskalg
from taskalg import (
    CheckpointError,
    ExpressionError,
    KindError,
    MismatchError,
    OutputError,
    Progress,
    Recipe,
    TaskalgError,
    UsageError,
    VerificationError,
)
from taskalg.cli.main import main
from taskalg.errors import Source
from taskalg.language import nodes
from taskalg.language.parser import parse_expression
from taskalg.measuring.adding import added
from taskalg.measuring.answers import Answers
from taskalg.measuring.products import products
from taskalg.output.manifest import read_manifest
from taskalg.planning.rounds import rounds
from taskalg.running.execute import execute
from taskalg.running.report import Cost
from taskalg.running.stream import Settings
from tests import oracle
from tests.hub_server import Hub
from tests.merging import tree
from tests.oracle import FORMATS, Row, Tensor, Tensors
from tests.strategies import NAMES, examples, fully, plain_sums, plainly, random_checkpoint, written
from tests.test_hub import hub, models, server  # noqa: F401
from tests.test_hub import recipe as from_hub
from tests.test_laws import compiled
from tests.test_lora import write

KEYS = ("base", "a", "b", "ft", "toxic", "λ")
MODELS, TASKS = ("a", "b", "ft"), ("toxic", "λ")
SHAPES = {name: ((2, 3), (7,), (), (3, 1), (5,))[index] for index, name in enumerate(NAMES)}


def family(seed: int, keys: tuple[str, ...] = KEYS) -> dict[str, Tensors]:
    """Return checkpoints of small numbers, of any dtypes, and an integer tensor."""
    rng = random.Random(seed)
    counts = Tensor("I64", (2,), bytes(range(16)))
    return {
        key: {**random_checkpoint(rng, SHAPES, tuple(FORMATS), "small"), "counts": counts}
        for key in keys
    }


def put(folder: Path, checkpoints: dict[str, Tensors]) -> Path:
    folder.mkdir(exist_ok=True)
    for key, tensors in checkpoints.items():
        oracle.write_file(folder / f"{key}.safetensors", tensors, {})
    return folder


def read(folder: Path, text: str, **scalars: Any) -> Recipe:
    return taskalg.compile(
        text,
        base=folder / "base.safetensors",
        models={key: folder / f"{key}.safetensors" for key in MODELS},
        tasks={key: folder / f"{key}.safetensors" for key in TASKS},
        set=scalars or ({"strength": "0.6"} if "strength" in text else {}),
    )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put(tmp_path_factory.mktemp("measured"), family(5))


def content(made: Recipe, out: Path, **options: Any) -> bytes:
    made.save(out / "made.safetensors", overwrite=True, **options)
    return (out / "made.safetensors").read_bytes()


# ---- What they are


class Reference:
    """What an expression is, by the oracle; numbers that were recorded have to be the oracle's."""

    def __init__(self, text: str, checkpoints: dict[str, Tensors], recorded: list[float]) -> None:
        self.node = parse_expression(Source("<test>", text))
        self.checkpoints, self.recorded = checkpoints, recorded
        self.given = {
            **{key: {key: Fraction(1)} for key in ("base", *MODELS)},
            **{key: {key: Fraction(1), "base": Fraction(-1)} for key in TASKS},
        }

    def rows(self, node: nodes.Node) -> dict[str, Row]:
        names = list(self.checkpoints["base"])
        return {name: oracle.nonzero(self.value(node, name, names)) for name in names}

    def value(self, node: nodes.Node, name: str, names: list[str]) -> oracle.Value:
        world = oracle.World(name, oracle.place_of(name, names), dict(self.given))
        world.measure = self.measure
        return oracle.meaning(node, world, {})

    def measure(self, node: nodes.Call) -> Fraction:
        values = [argument.value for argument in node.arguments]
        sums = [oracle.elements(self.rows(one), self.checkpoints) for one in values]  # type: ignore[arg-type]
        expected, size = oracle.measured(node.function, sums)
        nearest = min(self.recorded, key=lambda number: abs(number - expected))
        assert abs(nearest - expected) <= 1e-13 * size
        return Fraction(nearest)


TEXTS = (
    "base + toxic/norm(toxic)*norm(λ)",
    "base + λ - dot(λ, toxic)/dot(toxic, toxic)*toxic",
    "λ - dot(λ, toxic)/dot(toxic, toxic)*toxic",
    "base + cos(ft - a, toxic)*(b - a)",
    'base + norm(toxic["*p*"])/norm(a - b/3)*λ[0:2]',
    "base + toxic/norm(norm(toxic)*λ + dot(a, b)*toxic)",
    "base + norm(0.1*a + 0.2*b - 0.3*ft)/10*(a - ft)",
    "base + ramp(0, cos(toxic, λ))*(b - a)",
)


@pytest.mark.parametrize("text", TEXTS)
@examples(12)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_result_is_the_exact_sum_with_the_numbers_that_were_measured(
    text: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoints = family(seed)
    folder = put(tmp_path_factory.mktemp("law"), checkpoints)
    made = read(folder, text)
    report = made.save(folder / "out.safetensors", on_overflow="warn", strict=False)
    recorded = [float(value) for value in report.plan.measured.values()]
    assert all(Fraction(number) in report.plan.measured.values() for number in recorded)
    wanted = Reference(text, checkpoints, recorded)
    is_vector = made.kind == "task vector"
    expected = oracle.result(wanted.rows(wanted.node), checkpoints, is_vector=is_vector)
    assert oracle.read_file(folder / "out.safetensors") == expected


@examples(25)
@given(data=st.data(), node=plain_sums(2), other=plain_sums(1))
def test_spelling_and_brackets_do_not_change_a_number(
    data: st.DataObject, node: nodes.Node, other: nodes.Node, zoo: Path
) -> None:
    spelled = [plainly(node), fully(node), data.draw(written(node))]
    norms = {float(read(zoo, f"norm({text})")) for text in spelled}
    assert len(norms) == 1
    beside = plainly(other)
    dots = {
        float(read(zoo, f"dot({x}, {y})")) for x, y in ((spelled[0], beside), (beside, spelled[1]))
    }
    assert len(dots) == 1
    assert str(read(zoo, f"dot({spelled[0]}, {beside})")) == str(
        read(zoo, f"dot({beside}, {spelled[2]})")
    )


def test_what_is_measured_beside_it_does_not_change_a_number(zoo: Path, tmp_path: Path) -> None:
    alone = float(read(zoo, "norm(toxic - λ)"))
    text = "base + (norm(toxic - λ) + dot(a, b) + norm(norm(ft)*b) + cos(λ, 3*a))*0.001*toxic"
    report = read(zoo, text).save(tmp_path / "x.safetensors")
    assert float(report.plan.measured["norm(toxic - λ)"]) == alone
    assert len(report.plan.measured) == 5


@given(st.lists(st.floats(), min_size=9, max_size=9))
def test_products_of_one_piece_are_added_as_those_of_many(numbers: list[float]) -> None:
    alone = np.array(numbers).reshape(1, 3, 3)
    several = np.concatenate([alone, np.zeros((1, 3, 3))])
    assert np.array_equal(added(alone), added(several), equal_nan=True)


def test_threads_and_blocks_and_engines_do_not_change_a_byte(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = read(zoo, "base + toxic/norm(toxic)*norm(λ - a + b)")
    expected = content(made, tmp_path, threads=1)
    assert content(made, tmp_path, engine="reference") == expected
    assert content(made, tmp_path, engine="gpu") == expected
    monkeypatch.setattr("taskalg.running.blocks.TARGET", 48)
    monkeypatch.setattr("taskalg.measuring.forming._TARGET", 48)
    assert content(made, tmp_path, threads=3) == expected


def test_a_number_is_that_of_textbooks(zoo: Path) -> None:
    x, y = (doubles(zoo, key) - doubles(zoo, "base") for key in TASKS)
    assert float(read(zoo, "norm(toxic)")) == pytest.approx(np.linalg.norm(x), rel=1e-14)
    assert float(read(zoo, "dot(toxic, λ)")) == pytest.approx(x @ y, rel=1e-12)
    assert float(read(zoo, "cos(toxic, toxic)")) == 1
    assert float(read(zoo, "cos(toxic, -toxic/3)")) == -1
    assert float(read(zoo, "2*norm(toxic)/norm(toxic) + 1")) == 3
    assert float(read(zoo, "dot(toxic[0], toxic[1:])")) == 0
    assert float(read(zoo, "norm(toxic - toxic)")) == 0


def doubles(folder: Path, key: str) -> np.ndarray[Any, Any]:
    tensors = oracle.read_file(folder / f"{key}.safetensors")
    numbers = [
        float(oracle.decode(pattern, FORMATS[tensors[name].dtype]))
        for name in NAMES
        for pattern in tensors[name].patterns
    ]
    return np.array(numbers)


def test_orthogonal_parts_are_orthogonal(zoo: Path, tmp_path: Path) -> None:
    rest = read(zoo, "λ - dot(λ, toxic)/dot(toxic, toxic)*toxic")
    assert abs(float(taskalg.cos(rest, read(zoo, "toxic")))) < 1e-15
    rest.save(tmp_path / "rest", dtype="f64")
    stored = taskalg.checkpoint(tmp_path / "rest", name="rest")
    assert stored.kind == "task vector"
    assert abs(float(taskalg.cos(stored, read(zoo, "toxic")))) < 1e-14


def test_integers_and_derived_buffers_are_not_measured(tmp_path: Path) -> None:
    ones = np.ones(4, np.float32)
    for key, extra in (("base", 0), ("ft", 5)):
        tensors = {
            "w": Tensor("F32", (4,), (ones * (1 + extra)).tobytes()),
            "h.0.rotary.inv_freq": Tensor("F32", (4,), (ones * (7 + extra)).tobytes()),
            "ids": Tensor("I64", (1,), bytes([extra] * 8)),
        }
        oracle.write_file(tmp_path / f"{key}.safetensors", tensors, {})
    base, ft = (taskalg.checkpoint(tmp_path / f"{k}.safetensors", name=k) for k in ("base", "ft"))
    assert float(taskalg.norm(ft)) == 12
    assert float(taskalg.norm(ft - base)) == 10


def test_an_adapter_is_measured_as_the_product_that_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weights = {"model.layers.0.q_proj.weight": rng.normal(size=(4, 6)).astype(np.float32)}
    moved = {name: value + np.outer(np.ones(4), np.arange(6)) for name, value in weights.items()}
    folder = tmp_path / "models"
    folder.mkdir()
    for key, tensors in (("base", weights), ("ft", moved)):
        stored = {
            name: Tensor("F32", value.shape, value.astype(np.float32).tobytes())
            for name, value in tensors.items()
        }
        oracle.write_file(folder / f"{key}.safetensors", stored, {})
    base = taskalg.checkpoint(folder / "base.safetensors", name="base")
    task = taskalg.task(folder / "ft.safetensors", base, name="ft")
    report = (task / taskalg.norm(task)).save_adapter(tmp_path / "adapter", rank=1)
    assert report.bytes_read == 2 * (2 * 4 * 6 * 4)  # two models, once to measure, once to sum
    adapter = taskalg.task(tmp_path / "adapter", base, name="adapter")
    assert float(taskalg.norm(adapter)) == pytest.approx(1, rel=1e-6)
    assert float(taskalg.cos(adapter, task)) == pytest.approx(1, rel=1e-6)
    made = (base + adapter / taskalg.norm(adapter)).state_dict(dtype="f64")
    length = sum(
        np.linalg.norm(tensor.numpy() - weights[name].astype(np.float64)) ** 2
        for name, tensor in made.items()
    )
    assert length == pytest.approx(1, rel=1e-14)


def test_an_adapter_s_base_may_depend_on_what_is_measured(tmp_path: Path) -> None:
    key = "base_model.model.layers.0.q"
    factors = {f"{key}.lora_A.weight": torch.zeros(1, 3), f"{key}.lora_B.weight": torch.zeros(2, 1)}
    head = {"base_model.model.head.weight": torch.tensor([9.0])}
    write(tmp_path / "x", {**factors, **head}, r=1, modules_to_save=["head"])
    weight = torch.zeros(2, 3)
    base = {"layers.0.q.weight": weight, "head.weight": torch.tensor([1.0])}
    ft = {"layers.0.q.weight": weight, "head.weight": torch.tensor([3.0])}
    text = f'moved = base + norm(ft)*(ft - base)\nx = task("{tmp_path / "x"}", moved)\n'

    def made(expression: str) -> Recipe:
        return taskalg.compile(text + expression, base=base, models={"ft": ft})

    moved = 1 + 3 * (3 - 1)
    assert float(made("norm(x)")) == 9 - moved
    assert Answers().number(made("norm(x)")).value == 9 - moved
    report = made("base + norm(x)*(ft - base)").explain()
    assert [list(one.scalars) for one in report.passes] == [["norm(ft)"], ["norm(x)"]]
    assert "never opened" not in str(report)
    only_it = made("base + x").save(tmp_path / "out.safetensors")
    assert only_it.plan.measured == {"norm(ft)": 3}
    found = taskalg.checkpoint(tmp_path / "out.safetensors").state_dict()
    assert found["head.weight"].item() == 1 + 9 - moved


def test_names_and_ties_are_made_to_agree_with_the_donor_s(tmp_path: Path) -> None:
    words, layer = np.arange(6, dtype=np.float32), np.full(2, 3, np.float32)
    named = {
        "base": {"model.embed_tokens.weight": words, "lm_head.weight": words, "w": layer},
        "tied": {"model.embed_tokens.weight": words, "w": layer},
        "longer": {"x.model.embed_tokens.weight": words, "x.lm_head.weight": words, "x.w": layer},
    }
    for key, arrays in named.items():
        tensors = {n: Tensor("F32", array.shape, array.tobytes()) for n, array in arrays.items()}
        oracle.write_folder(tmp_path / key, [tensors])
        config = {"model_type": "llama", "tie_word_embeddings": True}
        (tmp_path / key / "config.json").write_text(json.dumps(config), "utf-8")
    base, tied, longer = (taskalg.checkpoint(tmp_path / key, name=key) for key in named)
    whole, alone = (2 * 55 + 18) ** 0.5, (55 + 18) ** 0.5
    assert float(taskalg.norm(tied)) == alone
    for other in (tied, longer):  # only measured; the donor stores the weight twice
        assert float(taskalg.dot(base, other)) == 2 * 55 + 18
        made = base + taskalg.norm(other) * (tied - base)["w"]
        report = made.save(tmp_path / "x.safetensors", overwrite=True)
        assert [float(value) for value in report.plan.measured.values()] == [whole]


# ---- What they are called, and which are equal

EQUAL = (
    ("a/norm(a)", "a/norm(1*a)"),
    ("norm(a)", "norm(a + b - b)"),
    ("dot(a, toxic)", "dot(toxic, a)"),
    ("norm(toxic)", "norm(toxic + base - base)"),
    ("base + cos(a, b)*toxic", "base + cos(b, a)*toxic"),
    ("norm(norm(a)*b)", "norm((norm(a + 0*b)*0.5 + norm(a)/2)*b)"),
    ("norm(a - a)*b + a", "a"),
)
PROVED = (
    ("norm(a[0:4])", "norm(a[:4])"),
    ('dot(a["*"], b[0:2] + b[2:])', "dot(b[0:], a)"),
    ("base + norm(norm(a[0:4])*b)*toxic", "base + norm(norm(a[:4])*b)*toxic"),
    ("base + (norm(a) + norm(b))*toxic/(norm(a) + norm(b))", "base + toxic"),
)
DIFFERENT = (
    ("norm(a)", "norm(b)"),
    ("norm(2*a)", "2*norm(a)"),
    ("norm(a)", "dot(a, a)"),
    ("base + norm(a)*toxic", "base + norm(b)*toxic"),
    ("norm(a[0])", "norm(a[1])"),
)


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_arguments_are_one_unknown(one: str, other: str) -> None:
    assert compiled(one) == compiled(other)
    assert str(compiled(one)) == str(compiled(other))


@pytest.mark.parametrize(("one", "other"), PROVED)
def test_arguments_are_proved_to_be_equal(one: str, other: str, zoo: Path) -> None:
    assert compiled(one) == compiled(other)
    assert read(zoo, one) == read(zoo, other)


def test_proofs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskalg.planning.difference._MAX_PROOFS", 0)
    assert compiled("norm(a[0:4])") != compiled("norm(a[:4])")


def test_real_names_decide_about_arguments_too(zoo: Path) -> None:
    one, other = 'norm(a["*mlp*"])', 'norm(a["*.mlp.*"])'
    assert read(zoo, one) == read(zoo, other)
    assert compiled(one) != compiled(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_arguments_are_different_unknowns(one: str, other: str) -> None:
    assert compiled(one) != compiled(other)
    assert compiled(one).difference(compiled(other)) is not None


@pytest.mark.parametrize("text", [*TEXTS, *(text for pair in EQUAL for text in pair)])
def test_what_is_printed_means_the_same(text: str) -> None:
    printed = str(compiled(text))
    assert str(compiled(printed)) == printed
    assert compiled(printed) == compiled(text)


def test_a_name_in_two_recipes_may_be_two_files(zoo: Path, tmp_path: Path) -> None:
    one = taskalg.checkpoint(zoo / "a.safetensors", name="x")
    other = taskalg.checkpoint(zoo / "b.safetensors", name="x")
    both = taskalg.norm(one) - taskalg.norm(other)
    with pytest.raises(UsageError, match="two checkpoints are named 'x'"):
        float(both)
    named = taskalg.checkpoint(zoo / "b.safetensors", name="y")
    assert float(taskalg.norm(one) - taskalg.norm(named)) != 0
    again = taskalg.checkpoint(zoo / "a.safetensors", name="again")
    assert float(taskalg.norm(one) - taskalg.norm(again)) == 0
    assert taskalg.norm(one) == taskalg.norm(again)


NAMED = {"one": 1, "two": 2}


def test_files_without_names_and_of_one_path_are_told_apart(tmp_path: Path) -> None:
    for key, seed in NAMED.items():
        folder = put(tmp_path / key, family(seed, ("a",)))
        (folder / "part.ta").write_text(f'{key} = norm(checkpoint("a.safetensors"))\n', "utf-8")
    both = 'use "one/part.ta"\nuse "two/part.ta"\n'
    (tmp_path / "all.ta").write_text(f"{both}one - two\n", "utf-8")
    with pytest.raises(UsageError, match="two different scalars are written"):
        float(taskalg.compile(tmp_path / "all.ta"))
    x = {"w": torch.ones(1)}  # a vector is measured with the number of each
    one, two = (taskalg.norm(taskalg.checkpoint(tmp_path / k / "a.safetensors")) for k in NAMED)
    (tmp_path / "all.ta").write_text(f"{both}(one - two)*x\n", "utf-8")
    found = taskalg.geometry({"v": taskalg.compile(tmp_path / "all.ta", models={"x": x})})
    assert found.norms.tolist() == [abs(float(one) - float(two))]


# ---- Plans


def test_explain_reads_headers_and_says_what_will_be_measured(zoo: Path) -> None:
    text = "base + norm(norm(toxic)*λ[0:2])*(b - a)"
    explained = read(zoo, text).explain()
    found = explained.to_json()
    assert found["passes"] == 3
    assert found["measured"] == {"norm(toxic)": None, "norm(norm(toxic)*λ[0:2])": None}
    assert found["checkpoints_read"] == ["base", "a", "b", "toxic", "λ"]
    assert found["checkpoints_cancelled"] == []
    assert "passes          3: 2 measure, one sums" in str(explained)
    (row,) = (line for line in str(explained).splitlines() if line.startswith("λ "))
    assert row.split()[1:3] == ["measured", "2"]


def test_the_bytes_that_are_measured_are_exact(zoo: Path) -> None:
    plan = read(zoo, 'base + norm(toxic - λ)*(b - a)/norm(b["*p*"])').plan()
    (only,) = rounds(plan)
    assert products(only.plan, only.symbols, Settings()).bytes_read == only.plan.bytes_read
    read_of = {usage.operand.called for usage in only.plan.usage if usage.tensors}
    assert read_of == {"toxic", "λ", "b"}  # both tasks are taken against the one base


def test_what_all_passes_read_is_told_before_and_after(zoo: Path, tmp_path: Path) -> None:
    made = read(zoo, "base + toxic/norm(norm(toxic)*b)")
    found = made.explain().to_json()
    summed, toxic, b = made.plan().bytes_read, size(zoo, "toxic", "base"), size(zoo, "b")
    assert (found["bytes_read"], found["bytes_measured"]) == (summed + toxic + b, toxic + b)
    assert made.save(tmp_path / "x").bytes_read == found["bytes_read"]


def size(folder: Path, *keys: str) -> int:
    stored = [oracle.read_file(folder / f"{key}.safetensors") for key in keys]
    return sum(len(tensors[name].data) for tensors in stored for name in NAMES)


def test_the_time_of_all_passes_is_told(zoo: Path, tmp_path: Path) -> None:
    plan = read(zoo, "base + toxic").plan()
    report = execute(plan, "cpu", tmp_path / "x.safetensors", spent=Cost(5, 1000.0))
    assert report.bytes_read == 5 + plan.bytes_read
    assert report.seconds > 1000


def test_what_is_too_much_for_one_pass_takes_more(zoo: Path, tmp_path: Path) -> None:
    norms = [f"norm({index}*toxic)" for index in range(2, 72)]
    made = read(zoo, f"base + ({' + '.join(norms)})/1e6*toxic")
    assert [len(one.scalars) for one in rounds(made.plan())] == [64, 6]
    numbers = made.save(tmp_path / "x.safetensors").plan.measured
    assert {float(numbers[name]) for name in (norms[0], norms[69])} == {
        float(read(zoo, norms[0])),
        float(read(zoo, norms[69])),
    }


def test_coefficients_of_one_pass_stay_within_the_limit(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskalg.planning.rounds.MAX_MONOMIALS", 4)
    made = read(zoo, 'base + (norm(a[0] + a["head"]) + norm(b[0] + b["head"]) + norm(ft))*toxic')
    assert [len(one.scalars) for one in rounds(made.plan())] == [2, 1]


def test_explain_loads_nothing_heavy(zoo: Path) -> None:
    code = f"""
import sys, taskalg
made = taskalg.compile("base + a - base/norm(a)*norm(base) + (base - a)",
                       base={str(zoo / "base.safetensors")!r},
                       models={{"a": {str(zoo / "a.safetensors")!r}}})
str(made.explain(allow_partial=True))
print({{"numba", "torch", "matplotlib"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_coefficient_that_turns_out_zero_cancels(zoo: Path, tmp_path: Path) -> None:
    made = read(zoo, "base + dot(toxic[0], toxic[1:])*λ")
    report = made.save(tmp_path / "x.safetensors")
    usage = {one.operand.called: one.tensors for one in report.plan.usage}
    assert usage["λ"] == 0
    assert oracle.read_file(tmp_path / "x.safetensors") == oracle.read_file(
        zoo / "base.safetensors"
    )


def test_nothing_left_after_measuring_is_an_error(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(KindError, match="nothing is left"):
        read(zoo, "dot(toxic[0], toxic[1:])*λ").save(tmp_path / "x.safetensors")


@pytest.mark.parametrize("option", ["only_shared", "rows"])
def test_what_is_shared_is_decided_for_every_scalar_alone(option: str, tmp_path: Path) -> None:
    def tensors(first: int, rows: int, *more: str) -> Tensors:
        weights = np.arange(first, first + 2 * rows, dtype=np.float32)
        found = {"w": Tensor("F32", (rows, 2), weights.tobytes())}
        return found | {name: Tensor("F32", (1,), np.float32(first).tobytes()) for name in more}

    shared = option == "only_shared"
    checkpoints = {
        "base": tensors(1, 3, "b"),
        "a": tensors(2, 3, "b") if shared else tensors(2, 5, "b"),
        "c": tensors(7, 3) if shared else tensors(7, 2, "b"),
    }
    folder = put(tmp_path / "models", checkpoints)
    base, a, c = (taskalg.checkpoint(folder / f"{k}.safetensors", name=k) for k in checkpoints)
    options: dict[str, Any] = {"only_shared": True} if shared else {"rows": "common"}
    alone = base + (a - base) / taskalg.norm(a - base)
    beside = base + (a - base) / taskalg.norm(a - base) + (c - base) / taskalg.norm(c - base)
    first = alone.save(tmp_path / "one.safetensors", **options).plan.measured
    second = beside.save(tmp_path / "two.safetensors", **options).plan
    assert first["norm(-base + a)"] == second.measured["norm(-base + a)"]
    assert len(rounds(beside.plan(**options))) == 2
    assert float(second.measured["norm(-base + a)"]) == pytest.approx(7**0.5)
    assert float(second.measured["norm(-base + c)"]) == pytest.approx(
        6 * 6**0.5 if shared else (36 * 5) ** 0.5
    )


# ---- Every door


SCALED = "base + strength*toxic/norm(toxic)*norm(λ)"


def test_all_doors_give_what_save_writes(zoo: Path, tmp_path: Path) -> None:
    made = read(zoo, SCALED, strength="0.5")
    content(made, tmp_path)
    expected = taskalg.checkpoint(tmp_path / "made.safetensors").state_dict()

    def check(found: dict[str, torch.Tensor]) -> None:
        assert found.keys() == expected.keys()
        assert all(bits(found[name]) == bits(tensor) for name, tensor in expected.items())

    check(made.state_dict())
    check(dict(made.tensors()))
    live = made.live()
    check(live.state_dict())
    live.set(strength=2)
    live.set(strength=0.5)
    check(live.state_dict())
    check(live.recipe().state_dict())
    functional = made.functional()
    check({name: tensor.detach() for name, tensor in functional().items()})
    check(functional.recipe().state_dict())
    model = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    made.load_into(model)
    check(model)
    model = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    made.live(model)
    check(model)


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().reshape(-1).view(torch.uint8).numpy())


def test_what_was_learned_is_a_recipe_that_measures_again(zoo: Path, tmp_path: Path) -> None:
    made = read(zoo, SCALED, strength="0.5")
    text = made.functional().text()
    assert "norm(λ)*strength*toxic/norm(toxic)" in text
    (tmp_path / "learned.ta").write_text(text, "utf-8")
    assert content(taskalg.compile(tmp_path / "learned.ta"), tmp_path) == content(made, tmp_path)


def test_gradients_are_by_scalars_beside_what_is_measured(zoo: Path) -> None:
    functional = read(zoo, SCALED, strength="0.5").functional(dtype="f64")
    sum(t.sum() for t in functional().values() if t.is_floating_point()).backward()  # type: ignore[union-attr]
    (parameter,) = functional.parameters()
    numbers = (doubles(zoo, "toxic") - doubles(zoo, "base")).sum()
    ratio = float(read(zoo, "norm(λ)")) / float(read(zoo, "norm(toxic)"))
    assert parameter.grad is not None
    assert parameter.grad.item() == pytest.approx(numbers * ratio, rel=1e-6)


@pytest.mark.parametrize("door", ["live", "functional"])
def test_what_is_measured_cannot_depend_on_a_freed_scalar(door: str, zoo: Path) -> None:
    made = read(zoo, "base + strength*toxic/norm(strength*toxic)", strength="0.5")
    assert made.state_dict()
    with pytest.raises(UsageError, match="depends on strength"):
        getattr(made, door)()


@pytest.mark.parametrize("by_operators", [True, False])
def test_bind_reaches_into_what_is_measured(by_operators: bool, zoo: Path, tmp_path: Path) -> None:
    base = taskalg.checkpoint(zoo / "base.safetensors", name="base")

    def made(key: str) -> Recipe:
        if not by_operators:
            path = zoo / f"{key}.safetensors"
            text = "scale = norm(toxic)\nbase + toxic/scale*norm(norm(toxic)*(toxic + base))"
            return taskalg.compile(text, base=zoo / "base.safetensors", tasks={"toxic": path})
        toxic = taskalg.task(zoo / f"{key}.safetensors", base, name="toxic")
        inner = taskalg.norm(toxic) * (toxic + base)
        return base + toxic / taskalg.norm(toxic) * taskalg.norm(inner)

    bound = made("a").bind(toxic=zoo / "b.safetensors")
    assert content(bound, tmp_path) == content(made("b"), tmp_path)
    assert content(bound, tmp_path) != content(made("a"), tmp_path)


def test_a_name_that_is_only_measured_can_be_bound(zoo: Path) -> None:
    base = taskalg.checkpoint(zoo / "base.safetensors", name="base")
    other = taskalg.task(zoo / "a.safetensors", base, name="other")
    made = taskalg.norm(other)
    assert float(made.bind(other=zoo / "b.safetensors")) == float(read(zoo, "norm(b - base)"))


def test_state_dicts_are_measured_too(zoo: Path) -> None:
    held = {
        key: taskalg.checkpoint(zoo / f"{key}.safetensors").state_dict() for key in ("base", "a")
    }
    text = "base + (a - base)/norm(a - base)"
    there = taskalg.compile(text, base=held["base"], models={"a": held["a"]}).state_dict()
    expected = read(zoo, text).state_dict()
    assert all(bits(there[name]) == bits(tensor) for name, tensor in expected.items())


def test_progress_says_measuring_and_cancels(zoo: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    made = read(zoo, "base + toxic/norm(toxic)")
    made.save(tmp_path / "x.safetensors", progress=seen.append)
    assert seen[0].doing == "measuring"
    assert seen[-1].doing == "merging"
    first = [one for one in seen if one.doing == "measuring"]
    assert first[-1].done == first[-1].total

    def stop(found: Progress) -> None:
        if found.doing == "measuring":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.save(tmp_path / "y.safetensors", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_what_is_in_the_way_is_told_before_data_is_read(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")

    def never(found: Progress) -> None:
        raise AssertionError("it was measured")

    with pytest.raises(OutputError):
        read(zoo, "base + toxic/norm(toxic)").save(tmp_path / "x.safetensors", progress=never)


def test_a_dry_run_measures_nothing(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskalg.measuring.products.products", None)
    paths = ["--base", f"{zoo}/base.safetensors", "--task", f"toxic={zoo}/toxic.safetensors"]
    text = "base + toxic/norm(toxic)"
    for command in (["merge", text, *paths, "-o", "out", "--dry-run"], ["check", text, *paths]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
    assert "norm(toxic)" in result.output


def test_check_tells_what_is_measured_from_what_cancels() -> None:
    names = ["--model", "base", "--model", "a", "--model", "b", "--task", "toxic"]
    text = "base + norm(a)*toxic + b - b"
    command = ["check", text, *names]
    found = CliRunner().invoke(main, command).output
    assert found.splitlines()[-2:] == ["measured        a", "cancelled       b"]
    report = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert report["checkpoints_read"] == ["base", "a", "toxic"]
    assert report["checkpoints_cancelled"] == ["b"]


# ---- Manifests


@pytest.fixture
def output(zoo: Path, tmp_path: Path) -> Path:
    text = "base + toxic/norm(toxic)*norm(norm(λ)*a[0:2])"
    read(zoo, text).save(tmp_path / "out")
    return tmp_path / "out"


def where(zoo: Path, *keys: str) -> dict[str, Any]:
    return {"models": {key: zoo / f"{key}.safetensors" for key in keys}}


def test_a_rerun_measures_again_and_writes_the_same(
    output: Path, zoo: Path, tmp_path: Path
) -> None:
    inputs = where(zoo, "base", "a", "toxic", "λ")
    manifest = read_manifest(output)
    assert [one.name for one in manifest.inputs] == ["base", "a", "toxic", "λ"]
    assert manifest.cancelled == ("b", "ft") or manifest.cancelled == ()
    assert manifest.measured["norm(-base + λ)"] == float(read(zoo, "norm(λ)"))
    assert len(manifest.measured) == 3
    taskalg.rerun(output, tmp_path / "again", **inputs)
    assert tree(output) == tree(tmp_path / "again")
    found = taskalg.verify(output, **inputs)
    assert found.ok
    assert found.method == "inputs"


def test_an_input_that_is_only_measured_is_an_input(output: Path, zoo: Path) -> None:
    with pytest.raises(UsageError, match="where 'a' is"):
        taskalg.rerun(output, "again", **where(zoo, "base", "toxic", "λ"))


@pytest.mark.parametrize("door", ["verify", "rerun"])
def test_another_input_is_told_by_the_number(
    door: str, output: Path, zoo: Path, tmp_path: Path
) -> None:
    folder = put(tmp_path / "others", {"λ": oracle.read_file(zoo / "λ.safetensors")})
    content = bytearray((folder / "λ.safetensors").read_bytes())
    content[-17] ^= 1  # of a float32: an exponent
    (folder / "λ.safetensors").write_bytes(content)
    inputs = where(zoo, "base", "a", "toxic")
    inputs["models"]["λ"] = folder / "λ.safetensors"
    arguments = [output] if door == "verify" else [output, tmp_path / "again"]
    with pytest.raises(VerificationError, match=r"is not what taskalg\.json says"):
        getattr(taskalg, door)(*arguments, **inputs)


def changed(output: Path, change: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads((output / "taskalg.json").read_text("utf-8"))
    change(found)
    (output / "taskalg.json").write_text(json.dumps(found), "utf-8")


@pytest.mark.parametrize("value", ["7", None, True, [1.5]])
def test_a_number_in_a_manifest_is_a_number(output: Path, value: object) -> None:
    changed(output, lambda found: found["measured"].update({"norm(-base + λ)": value}))
    with pytest.raises(CheckpointError, match="measured"):
        read_manifest(output)


def test_a_manifest_cannot_have_other_files_measured(
    output: Path, zoo: Path, tmp_path: Path
) -> None:
    def hostile(found: dict[str, Any]) -> None:
        found["files"] += f' + (norm(checkpoint("{zoo}/ft.safetensors"))*(a - toxic))'

    changed(output, hostile)
    with pytest.raises(CheckpointError, match="no sum of the inputs it names"):
        taskalg.rerun(output, tmp_path / "x", **where(zoo, "base", "a", "toxic", "λ"))


def test_a_manifest_without_numbers_is_that_of_an_older_version(zoo: Path, tmp_path: Path) -> None:
    read(zoo, "base + toxic/2").save(tmp_path / "out")
    changed(tmp_path / "out", lambda found: found.pop("measured"))
    assert taskalg.verify(tmp_path / "out", **where(zoo, "base", "toxic")).ok


def test_the_card_tells_the_numbers(output: Path) -> None:
    card = (output / "README.md").read_text("utf-8")
    number = read_manifest(output).measured["norm(-base + toxic)"]
    assert f"norm(-base + toxic) = {number}" in card
    assert "| `base` | about " in card


def test_the_receipt_tells_the_numbers(zoo: Path, tmp_path: Path) -> None:
    command = ["merge", "base + toxic/norm(toxic)", "-o", str(tmp_path / "out")]
    command += ["--base", f"{zoo}/base.safetensors", "--task", f"toxic={zoo}/toxic.safetensors"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    number = float(read(zoo, "norm(toxic)"))
    assert f"measured norm(toxic) = {number:.6g}\n" in result.output
    report = CliRunner().invoke(main, [*command, "--overwrite", "--json"])
    assert json.loads(report.stdout)["measured"] == {"norm(toxic)": number}


# ---- The Hub


def test_a_checkpoint_that_is_only_measured_is_downloaded(models: Hub, tmp_path: Path) -> None:  # noqa: F811
    made = from_hub(
        "base + (base - ft)/norm(other)", base="org/base", ft="org/ft", other="org/other"
    )
    made.explain()
    made.save(tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert [one.name for one in manifest.inputs] == ["base", "ft", "other"]
    assert taskalg.verify(tmp_path / "out", sample=1).ok


# ---- What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base + toxic/dot(toxic[0], toxic[1:])", "division by zero"),
        ("base + toxic/(norm(toxic) - norm(-toxic))", "division by zero"),
        ("base + toxic/norm(toxic - toxic)", "division by zero"),
        ("base + cos(toxic, λ - λ)*toxic", "one of the two is zero"),
        ('base + cos(toxic, λ[0]["head"])*toxic', "one of the two is zero"),
    ],
)
def test_a_zero_divisor_is_a_mismatch(text: str, message: str, zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=message) as caught:
        read(zoo, text).save(tmp_path / "x.safetensors")
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_scalar_divided_by_zero_is_a_mismatch(zoo: Path) -> None:
    for text in ("1/dot(toxic[0], toxic[1:])", "3/(norm(toxic) - norm(-toxic))"):
        for number in (float, Answers().number):
            with pytest.raises(MismatchError, match="division by zero"):
                number(read(zoo, text))


def test_a_scalar_that_no_float_can_hold_is_refused(zoo: Path) -> None:
    assert float(read(zoo, "1e-400*norm(toxic)")) == 0
    for number in (float, Answers().number):
        with pytest.raises(UsageError, match="too large for a float"):
            number(read(zoo, "1e300*norm(toxic)*1e300"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
def test_a_number_that_is_not_finite_names_the_tensor(value: float, tmp_path: Path) -> None:
    fine = Tensor("F64", (2,), np.ones(2).tobytes())
    bad = Tensor("F64", (2,), np.array([1, value]).tobytes())
    put(tmp_path, {"base": {"x": fine, "y": fine}, "ft": {"x": fine, "y": bad}})
    base, ft = (taskalg.checkpoint(tmp_path / f"{k}.safetensors", name=k) for k in ("base", "ft"))
    assert float(taskalg.norm(base)) == 2
    for made in (taskalg.norm(ft), taskalg.dot(ft, ft - base), taskalg.cos(base, ft)):
        with pytest.raises(MismatchError, match="is not a finite number") as caught:
            float(made)
        assert "'y'" in (caught.value.note or "")


def test_what_selects_nothing_is_refused_inside_too(zoo: Path) -> None:
    for text in ('base + norm(toxic["*none*"])*toxic', "base + norm(a[9])*toxic"):
        with pytest.raises(ExpressionError, match="no tensor"):
            read(zoo, text).explain()


def test_checkpoints_that_do_not_fit_are_refused_before_data_is_read(
    zoo: Path, tmp_path: Path
) -> None:
    put(tmp_path, {"other": {"x": Tensor("F32", (1,), bytes(4))}})
    other = taskalg.checkpoint(tmp_path / "other.safetensors", name="other")
    with pytest.raises(MismatchError):
        (read(zoo, "base") + taskalg.norm(other) * read(zoo, "toxic")).explain()


def test_a_scalar_is_no_result_and_a_sum_is_no_number(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(KindError):
        read(zoo, "norm(toxic)").save(tmp_path / "x")
    with pytest.raises(KindError, match="a checkpoint value is no number"):
        float(read(zoo, "toxic"))
    with pytest.raises(UsageError, match="depends on the tensor"):
        float(read(zoo, "ramp(0, norm(toxic))"))
    with pytest.raises(UsageError) as caught:
        float(read(zoo, "strength*norm(toxic)").freed())
    assert caught.value.note == "strength has no value"
    with pytest.raises(UsageError, match="declared without a file"):
        float(compiled("norm(a)"))
    with pytest.raises(KindError, match="norm is measured of checkpoint values"):
        taskalg.norm(read(zoo, "norm(toxic)"))


def nested(depth: int) -> str:
    return "norm(a)" if depth == 1 else f"norm({nested(depth - 1)}*b)"


def test_nesting_and_length_are_bounded() -> None:
    assert str(compiled(nested(20))) == nested(20)
    with pytest.raises(ExpressionError, match="more than 20 deep"):
        compiled(nested(21))
    lines = ["x0 = a", *(f"x{i + 1} = x{i} + norm(x{i})*b[{i}]" for i in range(18)), "x18"]
    with pytest.raises(ExpressionError, match="too long"):
        compiled("\n".join(lines))


@pytest.mark.parametrize("named", [True, False])
def test_length_in_files_is_bounded_too(named: bool, zoo: Path) -> None:
    """A scalar's short name is written once for each part of a base, at every depth."""
    moved = " + ".join(["base", *(f"{i}/99*(a - base)[{i % 2}]" for i in range(1, 40))])
    moved = f'{moved} + (b - a)["head"] + (b - base)[0]'
    task = f'task("{zoo}/ft.safetensors", moved)'
    lines = [f"moved = {moved}", f"x = {task}" if named else "", "y0 = norm(a)"]
    lines += [f"y{i + 1} = norm(y{i}*{'x' if named else task})" for i in range(12)]
    with pytest.raises(ExpressionError, match="too long"):
        read(zoo, "\n".join([*lines, "base + y12*(a - base)"])).explain()


def test_a_task_against_what_is_measured_of_it_is_refused(zoo: Path) -> None:
    text = 'toxic = task("t", base + norm(toxic)*(a - base))\ntoxic'
    with pytest.raises(TaskalgError):
        taskalg.compile(text, base=zoo / "base.safetensors")


def test_a_base_may_be_made_with_what_is_measured(zoo: Path, tmp_path: Path) -> None:
    text = (
        f"moved = base + toxic/norm(toxic)\n"
        f'x = task("{zoo}/ft.safetensors", moved)\nbase + x/norm(x)'
    )
    report = read(zoo, text).save(tmp_path / "x")
    assert set(report.plan.measured) == {"norm(toxic)", "norm(x)"}
    assert len(rounds(read(zoo, text).plan())) == 2
    plain = read(zoo, "base + (ft - base - toxic/norm(toxic))/norm(ft - base - toxic/norm(toxic))")
    assert content(plain, tmp_path) == (tmp_path / "x" / "model.safetensors").read_bytes()
