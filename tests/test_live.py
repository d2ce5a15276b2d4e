"""Weights that follow scalars: the bytes of files for every value, and the base when asked."""

import logging
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import taskalg as ta
from taskalg.engines.base import Group, Resident, Tally
from taskalg.engines.cpu import CpuEngine
from taskalg.memory.operands import Ranges
from tests import oracle
from tests.oracle import Tensors
from tests.strategies import examples, families
from tests.test_lora import gpt2, trained
from tests.test_resident import INTERPRETED, NAMES
from tests.test_tensors import copied, seen, torch_of, weights


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def compiled(text: str, states: Mapping[str, Any], scalars: Mapping[str, Any]) -> ta.Recipe:
    """Compile with what the text uses."""
    words = set(re.findall("[a-z]+", text))
    models = {name: state for name, state in states.items() if name in words - {"base"}}
    used = {name: number for name, number in scalars.items() if name in words}
    return ta.compile(text, base=states["base"], models=models, set=used)


def mixed(text: str = "base + s*(ft - base)") -> ta.Recipe:
    states = {name: weights(seed) for seed, name in enumerate(("base", "ft", "b"))}
    return compiled(text, states, {"s": 0.4, "t": "1/3"})


def saved(recipe: ta.Recipe, folder: Path, **options: Any) -> Tensors:
    recipe.save(folder / "out.safetensors", overwrite=True, **options)
    return oracle.read_file(folder / "out.safetensors")


def in_order(tensors: Any) -> Tensors:
    return dict(sorted(seen(tensors).items()))


# ---- The same bytes as files

TEXTS = [
    "base + s*(ft - base)",
    "lerp(base, ft, s)",
    "s*base + t*ft",
    "base + (ft - base)[0:2]*s - t*(b - base)['*.mlp.*']",
    "base + ramp(s, t)*(ft - base) + 0.3*(b - base)",
    "(s*base + t*ft)/(s + t)",
    "base + s*t*(ft - b)['head'] + s*s*(b - base)",
    "mean(base, ft) + 0*s*b",
]
value = st.sampled_from([0, 1, -1, 0.5, 0.35, "1/3", 2, 1e-30, "123456789/1000"])


@pytest.mark.parametrize("name", NAMES)
@examples(5 if INTERPRETED else 25)
@given(
    family=families(("base", "ft", "b")),
    text=st.sampled_from(TEXTS),
    calls=st.lists(st.tuples(value, value), min_size=1, max_size=3),
    in_place=st.booleans(),
)
def test_every_set_gives_the_bytes_of_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    family: dict[str, Tensors],
    text: str,
    calls: list[tuple[Any, Any]],
    in_place: bool,
) -> None:
    states = {key: {n: torch_of(t) for n, t in one.items()} for key, one in family.items()}
    kept = {key: copied(state) for key, state in states.items()}
    recipe = compiled(text, states, {"s": 1, "t": 2})
    options: dict[str, Any] = {"allow_partial": True, "on_overflow": "warn", "donor": "base"}
    live = recipe.live(states["base"] if in_place else None, engine=name, **options)
    folder = tmp_path_factory.mktemp("live")
    for s, t in calls:
        assume("t*ft" not in text or Fraction(s) + Fraction(t))  # nothing left, or divided by it
        values = {name: number for name, number in (("s", s), ("t", t)) if name in recipe.scalars}
        live.set(**values)
        wanted = saved(compiled(text, kept, values), folder, **options)
        assert in_order(live.state_dict()) == dict(sorted(wanted.items()))
    live.reset()
    assert seen(live.state_dict()) == seen(kept["base"])
    assert seen(states["ft"]) == seen(kept["ft"])


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32", "f64", "f8_e4m3", "f8_e5m2"])
def test_the_result_may_have_another_dtype(tmp_path: Path, engine: str, dtype: str) -> None:
    recipe = mixed()
    live = recipe.live(dtype=dtype, engine=engine)
    live.set(s=0.25)
    assert in_order(live.state_dict()) == saved(recipe.bind(s=0.25), tmp_path, dtype=dtype)


def test_a_task_vector_is_followed_too(tmp_path: Path, engine: str) -> None:
    recipe = mixed("s*(ft - base)['w']")
    live = recipe.live(engine=engine)
    live.set(s=-2)
    assert in_order(live.state_dict()) == saved(recipe.bind(s=-2), tmp_path)
    assert not live.state_dict()["v"].any()
    with pytest.raises(ta.UsageError, match="a task vector has no base to go back to"):
        live.reset()


def test_common_rows_and_what_is_not_shared(tmp_path: Path, engine: str) -> None:
    base = {"e": torch.randn(7, 5), "w": torch.randn(3), "own": torch.randn(2)}
    ft = {"e": torch.randn(9, 5), "w": torch.randn(3)}
    for text in ("base + s*(ft - base)", "s*base + (1 - s)*ft"):
        recipe = ta.compile(text, base=base, models={"ft": ft}, set={"s": 0.5})
        options: dict[str, Any] = {"rows": "common", "only_shared": True}
        live = recipe.live(engine=engine, **options)
        live.set(s=0.9)
        assert in_order(live.state_dict()) == saved(recipe.bind(s=0.9), tmp_path, **options)
        live.reset()
        assert seen(live.state_dict()) == seen(base)


def test_reset_goes_back_to_the_base_whatever_the_first_scalars_are(engine: str) -> None:
    live = mixed().bind(s=1).live(engine=engine)
    assert seen(live.state_dict()) == seen(weights(1))
    live.reset()
    assert seen(live.state_dict()) == seen(weights(0))


def test_a_donor_that_has_no_coefficient_is_what_reset_goes_back_to(engine: str) -> None:
    base, ft = weights(1), weights(2)
    text = "s*base['w'] + (1 - s)*ft['w'] + ft[~'w']"
    live = ta.compile(text, base=base, models={"ft": ft}, set={"s": 0.5}).live(engine=engine)
    assert torch.equal(live.state_dict()["v"], ft["v"])
    live.reset()
    assert seen(live.state_dict()) == seen(base)
    live.set(s=1)
    assert torch.equal(live.state_dict()["v"], ft["v"])


def test_files_are_held_and_closed(tmp_path: Path, engine: str) -> None:
    paths = {}
    for seed, name in enumerate(("base", "ft", "b")):
        paths[name] = tmp_path / f"{name}.safetensors"
        oracle.write_file(paths[name], seen(weights(seed)), {})
    models = {"ft": paths["ft"], "b": paths["b"]}
    recipe = ta.compile("base + s*(ft - b)", base=paths["base"], models=models, set={"s": 1})
    live = recipe.live(engine=engine)
    expected = [saved(recipe.bind(s=s), tmp_path) for s in (0.1, 3)]
    for path in paths.values():
        path.unlink()
    for s, wanted in zip((0.1, 3), expected, strict=True):
        live.set(s=s)
        assert in_order(live.state_dict()) == dict(sorted(wanted.items()))


def test_adapters_are_multiplied_once(tmp_path: Path, engine: str) -> None:
    model = gpt2()
    model.save_pretrained(tmp_path / "base")
    trained(gpt2(), tmp_path / "a", seed=1)
    recipe = ta.compile(
        "base + s*style",
        base=tmp_path / "base",
        tasks={"style": tmp_path / "a" / "style"},
        set={"s": 1},
    )
    live = recipe.live(model, engine=engine)
    for s in (0.3, 0, -1):
        live.set(s=s)
        wanted = saved(recipe.bind(s=s), tmp_path)
        found = seen(model.state_dict())
        assert {name: found[name] for name in wanted} == wanted
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()


# ---- Models in place


class Model(torch.nn.Module):
    """Tied, not contiguous, with a buffer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.one = torch.nn.Linear(5, 5)
        self.two = torch.nn.Linear(5, 5)
        self.two.weight = self.one.weight
        self.plane = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("steps", torch.arange(3) + seed)


def test_a_model_that_is_an_operand_follows_and_goes_back(tmp_path: Path, engine: str) -> None:
    base, ft = Model(1), Model(2)
    kept = copied(base.state_dict())
    recipe = ta.compile("base + s*(ft - base)", base=kept, models={"ft": ft}, set={"s": 0.5})
    before = {name: id(parameter) for name, parameter in base.named_parameters()}
    assert not base.plane.weight.is_contiguous()
    live = recipe.bind(base=base).live(base, engine=engine)
    for s in (0.5, 0.1):
        live.set(s=s)
        wanted = saved(recipe.bind(s=s), tmp_path)
        assert in_order(base.state_dict()) == dict(sorted(wanted.items()))
        assert seen(live.state_dict()) == seen(base.state_dict())
    live.reset()
    assert seen(base.state_dict()) == seen(kept)
    assert base.one.weight.data_ptr() == base.two.weight.data_ptr()
    assert {name: id(parameter) for name, parameter in base.named_parameters()} == before


def test_a_model_has_its_own_dtypes_and_prefix(engine: str) -> None:
    base, ft = weights(1, torch.float32), weights(2, torch.float32)
    model = {f"model.{name}": value.clone() for name, value in base.items()}
    model |= {"model.w": model["model.w"].to(torch.bfloat16)}
    recipe = ta.compile("base + s*(ft - base)", base=base, models={"ft": ft}, set={"s": 0.5})
    live = recipe.live(model, engine=engine)
    live.set(s=0.7)
    expected = {f"model.{name}": torch.zeros_like(value) for name, value in base.items()}
    expected["model.w"] = torch.zeros_like(model["model.w"])
    recipe.bind(s=0.7).load_into(expected)
    assert seen(model) == seen(expected)
    assert live.state_dict()["w"] is not model["model.w"]
    assert live.state_dict()["w"].data_ptr() == model["model.w"].data_ptr()


def test_autograd_is_told() -> None:
    layer = torch.nn.Linear(2, 2)
    state = {name: torch.randn_like(value) for name, value in layer.state_dict().items()}
    live = ta.compile("base + s*x", base=state, tasks={"x": state}, set={"s": 0}).live(layer)
    total = (layer(torch.ones(2, requires_grad=True)) ** 2).sum()
    live.set(s=1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_two_names_of_one_weight_must_be_equal_in_the_result() -> None:
    base, ft = Model(1), Model(2).state_dict()
    ft["two.weight"] = ft["two.weight"] + 1
    recipe = ta.compile("base + s*(ft - base)", base=base, models={"ft": ft}, set={"s": 0.5})
    with pytest.raises(ta.MismatchError, match=r"'two\.weight' and 'one\.weight' are one tensor"):
        recipe.live(base)


def test_operands_in_memory_are_used_where_they_are(engine: str) -> None:
    """So what changes in them shows."""
    base, ft = weights(1), weights(2)
    recipe = ta.compile("base + s*(ft - base)", base=base, models={"ft": ft}, set={"s": 0})
    live = recipe.live(engine=engine)
    ft["w"].fill_(3)
    live.set(s=1)
    assert (live.state_dict()["w"] == 3).all()


# ---- Scalars, and what the weights are


def test_scalars_that_are_left_out_stay() -> None:
    live = mixed("s*base + t*ft").live(allow_partial=True)
    assert live.values == {"s": Fraction(2, 5), "t": Fraction(1, 3)}
    live.set(t=torch.tensor(0.3))
    assert live.values == {"s": Fraction(2, 5), "t": Fraction(3, 10)}
    live.reset()
    assert live.values == {}
    live.set()
    assert live.values == {"s": Fraction(2, 5), "t": Fraction(3, 10)}


def test_the_recipe_of_the_weights_saves_them(tmp_path: Path) -> None:
    live = mixed().live()
    live.set(s=0.15)
    made = live.recipe()
    assert made.scalars["s"] == Fraction(3, 20)
    assert saved(made, tmp_path) == in_order(live.state_dict())
    live.reset()
    with pytest.raises(ta.UsageError, match="the weights are not the recipe's"):
        live.recipe()


BAD: dict[str, tuple[str, dict[str, Any], type[ta.TaskalgError], str]] = {
    "unknown": ("base + s*(ft - base)", {"ss": 1}, ta.UsageError, "did you mean 's'"),
    "a checkpoint": ("base + s*(ft - base)", {"ft": 1}, ta.UsageError, "no scalar 'ft'"),
    "no number": ("base + s*(ft - base)", {"s": [1]}, ta.UsageError, "found list"),
    "not finite": ("base + s*(ft - base)", {"s": float("nan")}, ta.UsageError, "not a finite"),
    "division": ("(ft + s*base)/(1 + s)", {"s": -1}, ta.ExpressionError, "division by zero"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_changes_nothing(case: str) -> None:
    text, scalars, kind, words = BAD[case]
    live = mixed(text).live()
    before, values = seen(live.state_dict()), live.values
    with pytest.raises(kind, match=words):
        live.set(**scalars)
    assert seen(live.state_dict()) == before
    assert live.values == values


def test_a_recipe_without_scalars_says_how_to_write_one() -> None:
    base, ft = weights(1), weights(2)
    live = ta.compile("base + 0.3*(ft - base)", base=base, models={"ft": ft}).live()
    live.set()
    live.reset()
    assert seen(live.state_dict()) == seen(base)
    with pytest.raises(ta.UsageError, match=r"no scalar that could be set\s+help: name one: "):
        live.set(strength=0.3)


def overflowing(s: float) -> ta.Recipe:
    base = {"a": torch.ones(3).half(), "b": torch.ones(2).half()}
    ft = {"a": base["a"], "b": torch.full((2,), 60_000.0).half()}
    return ta.compile("base + s*(ft - base)", base=base, models={"ft": ft}, set={"s": s})


def test_an_overflow_takes_the_weights_back(engine: str) -> None:
    live = overflowing(0).live(engine=engine)
    live.set(s=0.01)
    before = seen(live.state_dict())
    words = r"tensor 'b' overflows f16\s+note: .*the weights are what they were"
    with pytest.raises(ta.OverflowingError, match=words):
        live.set(s=3)
    assert seen(live.state_dict()) == before
    assert live.values == {"s": Fraction(1, 100)}
    live.reset()
    with pytest.raises(ta.OverflowingError, match="the weights are those of the donor"):
        live.set(s=3)
    assert live.values == {}
    assert live.state_dict()["b"].tolist() == [1, 1]


def test_an_overflow_at_the_start_leaves_the_donor(engine: str) -> None:
    model = {"a": torch.zeros(3).half(), "b": torch.zeros(2).half()}
    with pytest.raises(ta.OverflowingError, match="'b' overflows f16"):
        overflowing(3).live(model, engine=engine)
    assert model["b"].tolist() == [1, 1]


def test_an_overflow_stays_where_there_is_nothing_to_go_back_to(engine: str) -> None:
    base, ft = ({"a": torch.full((2,), number).half()} for number in (60_000.0, -60_000.0))
    recipe = ta.compile("s*(ft - base)", base=base, models={"ft": ft}, set={"s": 1})
    model = {"a": torch.ones(2).half()}
    with pytest.raises(ta.OverflowingError, match="the weights have it"):
        recipe.live(model, engine=engine)
    assert model["a"].isinf().all()


def test_an_overflow_may_be_a_warning(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    live = overflowing(0).live(engine=engine, on_overflow="warn")
    with caplog.at_level(logging.WARNING):
        live.set(s=3)
    assert caplog.messages == ["results overflow in 'b'"]
    assert live.state_dict()["b"].tolist() == [float("inf")] * 2
    assert live.values == {"s": 3}


def test_what_is_interrupted_has_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def resident(self: CpuEngine, group: Group, *, threads: int | None = None) -> Resident:
        def evaluate(rows: Any) -> Tally:
            calls.append(rows)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return Tally()

        return evaluate

    monkeypatch.setattr(CpuEngine, "resident", resident)
    live = mixed().live()
    with pytest.raises(KeyboardInterrupt):
        live.set(s=1)
    assert live.values == {}
    live.set(s=1)
    assert live.values["s"] == 1


def test_only_what_a_scalar_changes_is_evaluated_again() -> None:
    base, ft = weights(1), weights(2)
    text = "base + s*(ft - base)['w'] + 0.5*(ft - base)['v']"
    live = ta.compile(text, base=base, models={"ft": ft}, set={"s": 0}).live()
    state = live.state_dict()
    half, bias = state["v"].clone(), state["b"].clone()
    state["v"].zero_()
    state["b"].zero_()
    live.set(s=1)
    assert not state["v"].any()
    assert torch.equal(state["w"], ft["w"])
    live.reset()
    assert torch.equal(state["v"], base["v"])
    live.set(s=1)
    assert torch.equal(state["v"], half)
    assert torch.equal(bias, base["b"])


def test_what_is_held_and_moved_is_shown() -> None:
    live = mixed().live()
    assert str(live).splitlines() == [
        "base - s*base + s*ft",
        "  s = 0.4",
        "  base: 9.31 kB in place",
        "  ft: 9.31 kB in place",
        "  one set reads 18.6 kB and writes 9.31 kB on cpu (cpu)",
    ]
    live.reset()
    assert repr(live).splitlines()[1] == "  reset"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"operands": "gpu"}, "operands is 'auto' or 'cpu'"),
        ({"on_overflow": "no"}, "on_overflow is 'error' or 'warn'"),
        ({"device": "meta"}, "'meta' holds no numbers"),
        ({"engine": "abacus"}, "no engine is named 'abacus'"),
    ],
)
def test_options_that_mean_nothing_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ta.UsageError, match=words):
        mixed().live(**options)


def test_a_model_decides_its_dtype_and_device() -> None:
    with pytest.raises(ta.UsageError, match="the model decides the dtypes"):
        mixed().live(weights(1), dtype="f32")
    with pytest.raises(ta.UsageError, match="holds no numbers"):
        mixed().live(weights(1), device="meta")


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6))),
    st.integers(0, 30),
    st.integers(0, 6),
)
def test_ranges_overlap_where_they_share_an_address(
    parts: list[tuple[int, int]], start: int, size: int
) -> None:
    ranges = Ranges((first, first + count) for first, count in parts)
    shared = {at for first, count in parts for at in range(first, first + count)}
    assert ranges.overlap(start, size) == bool(shared & set(range(start, start + size)))
