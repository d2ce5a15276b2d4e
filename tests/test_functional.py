"""Recipes as functions: what is saved comes out, and autograd's own gradients come back."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch.multiprocessing.reductions import StorageWeakRef

import taskalg as ta
from taskalg.cli.main import main
from taskalg.errors import Source
from taskalg.language.format import format_text

Tensors = dict[str, torch.Tensor]
NAMES = ["embed.weight", *(f"layers.{i}.{part}" for i in range(3) for part in ("attn", "mlp"))]
SHAPES = [(5, 3), (4, 4), (7,), (1, 9), (), (2, 3, 2), (0, 3)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def weights(seed: int, dtype: torch.dtype = torch.float32) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes = zip(NAMES, SHAPES, strict=True)
    made = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes}
    return made | {"steps": torch.arange(3)}


def recipe(text: str, dtype: torch.dtype = torch.float32, **scalars: Any) -> ta.Recipe:
    base, one, two = (weights(seed, dtype) for seed in range(3))
    return ta.compile(text, base=base, tasks={"one": one, "two": two}, set=scalars)


def saved(found: ta.Recipe, folder: Path) -> Tensors:
    found.save(folder / "saved.safetensors", overwrite=True)
    return load_file(folder / "saved.safetensors")


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and bits(a[name]).equal(bits(b[name]))
        for name in a
    )


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


# ---- Laws

# A recipe, and the same in torch: base, both task vectors, both scalars, and how deep a tensor is.
Plain = Callable[..., torch.Tensor]
SUMS: dict[str, Plain] = {
    "base + s*one - u*two": lambda b, x, y, s, u, n, d: b + s * x - u * y,
    "base + s*u*one + s*s*two": lambda b, x, y, s, u, n, d: b + s * u * x + s * s * y,
    "base + one/s + two/(s + u)": lambda b, x, y, s, u, n, d: b + x / s + y / (s + u),
    "base + (s*one + u*two)/(s + u)": lambda b, x, y, s, u, n, d: b + (s * x + u * y) / (s + u),
    'base + s*one["*.mlp"] + u*two[1:]': lambda b, x, y, s, u, n, d: (
        b + s * x * ("mlp" in n) + u * y * (d is not None and d > 0)
    ),
    "base + ramp(s, u)*one": lambda b, x, y, s, u, n, d: b + (s + (u - s) * (d or 0)) * x,
    "base + ramp(s, 0.5, 1)*u*one[0:2]": lambda b, x, y, s, u, n, d: (
        b + (0 if d in (None, 1) else s if d == 0 else 0.5) * u * x
    ),
    "lerp(base, base + one, s)*u + (1 - u)*base": lambda b, x, y, s, u, n, d: b + s * u * x,
    "s*one - 1e-3*u*two": lambda b, x, y, s, u, n, d: s * x - 1e-3 * u * y,
    "base + (s - 1)*one + (1 - s)*one + u*two": lambda b, x, y, s, u, n, d: b + u * y + 0 * s,
}


def depth(name: str) -> float | None:
    return int(name.split(".")[1]) / 2 if name.startswith("layers") else None


def directions() -> Tensors:
    """Return a gradient for each tensor but one, short enough for any dtype."""
    made = weights(9, torch.bfloat16)
    return {name: made[name] for name in NAMES if name != "layers.1.attn"}


def descend(found: Mapping[str, torch.Tensor]) -> None:
    """Give the weights those gradients."""
    pairs = ((found[name], d) for name, d in directions().items() if found[name].requires_grad)
    torch.stack(
        [(tensor * d.to(tensor.dtype)).sum().double() for tensor, d in pairs]
    ).sum().backward()  # type: ignore[no-untyped-call]


def oracle(text: str, dtype: torch.dtype, *scalars: Any) -> list[torch.Tensor]:
    """Return what autograd says in binary64; of vectors, each entry is for one tensor."""
    values = [torch.as_tensor(one).double().requires_grad_() for one in scalars]
    base, one, two = (weights(seed, dtype) for seed in range(3))
    total = torch.zeros((), dtype=torch.float64)
    for name, direction in directions().items():
        b, x, y = (w[name].double() for w in (base, one, two))
        mine = [v[NAMES.index(name)] if v.dim() else v for v in values]
        made = SUMS[text](b, x - b, y - b, *mine, name, depth(name))
        total = total + (made * direction.double()).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None for value in values)
    return [value.grad for value in values if value.grad is not None]


def close(parameter: torch.Tensor, wanted: torch.Tensor) -> bool:
    assert parameter.grad is not None
    return torch.allclose(parameter.grad.double(), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", SUMS)
def test_weights_are_those_saved_and_gradients_those_of_autograd(
    text: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    f = recipe(text, dtype, s="0.37", u="-1.25").functional()
    found = f()
    assert same(found, saved(f.recipe(), tmp_path))
    descend(found)
    assert all(map(close, f.parameters(), oracle(text, dtype, 0.37, -1.25)))


MANY = [text for text in SUMS if "/" not in text and "ramp" not in text]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", MANY)
def test_so_they_are_with_a_value_for_each_tensor(
    text: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    f = recipe(text, dtype, s="0.37", u="-1.25").functional(per_tensor=["u"])
    s, u = f.parameters()
    assert u.shape == (len(f.tensors),)
    with torch.no_grad():
        u.add_(torch.linspace(-0.5, 0.7, len(u)))
    found = f()
    assert same(found, saved(f.recipe(), tmp_path))
    descend(found)
    every = torch.full((len(NAMES),), -1.25, dtype=torch.float64)
    where = [NAMES.index(name) for name in f.tensors]
    every[where] = u.detach().double()
    wanted = oracle(text, dtype, 0.37, every)
    assert close(s, wanted[0])
    assert close(u, wanted[1][where])


# ---- Values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_tensor_means_the_shortest_decimal_of_its_dtype(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    made = recipe("base + s*one - u*two", s=0, u="1/3")
    f = made.functional()
    own = torch.tensor(0.3, dtype=dtype, requires_grad=True)
    found = f(s=own, u="1/3")
    assert same(found, saved(made.bind(s="0.3"), tmp_path))
    assert same(found, saved(f.recipe(s=own, u="1/3"), tmp_path))
    assert f.recipe(s=own, u=Fraction(1, 3)).scalars == {"s": Fraction(3, 10), "u": Fraction(1, 3)}
    descend(found)
    assert own.grad is not None and own.grad.dtype == dtype
    wanted = oracle("base + s*one - u*two", torch.float32, 0.3, 1 / 3)[0]
    assert own.grad == wanted.to(dtype)
    assert all(parameter.grad is None for parameter in f.parameters())


def test_one_value_may_stand_for_all_tensors(tmp_path: Path) -> None:
    text = "base + s*one - u*two"
    f = recipe(text, s=0, u=1).functional(per_tensor=("s", "u"))
    own = torch.tensor(0.3, requires_grad=True)
    found = f(s=own)
    assert same(found, saved(recipe(text, s="0.3", u=1), tmp_path))
    descend(found)
    assert close(own, oracle(text, torch.float32, 0.3, 1)[0])


def test_gradients_flow_to_what_scalars_were_computed_from() -> None:
    f = recipe("base + s*one - u*two", s=0, u=0).functional()
    logits = torch.zeros(2, requires_grad=True)
    s, u = logits.softmax(0)
    descend(f(s=s, u=u))
    wanted = oracle("base + s*one - u*two", torch.float32, 0.5, 0.5)
    slope = (wanted[0] - wanted[1]) / 4
    assert close(logits, torch.stack([slope, -slope]))


# ---- Autograd


def test_only_what_requires_a_gradient_gets_one() -> None:
    f = recipe("base + s*one - u*two", s="0.37", u="-1.25").functional()
    s, u = f.parameters()
    u.requires_grad_(False)
    descend(f())
    assert s.grad is not None and u.grad is None
    s.requires_grad_(False)
    assert not any(tensor.requires_grad for tensor in f().values())
    own = torch.ones((), requires_grad=True)
    with torch.no_grad():
        assert not any(tensor.requires_grad for tensor in f(s=own).values())


def test_tensors_that_no_scalar_changes_have_no_gradient_and_memory_of_their_own() -> None:
    f = recipe('base + s*one["*.mlp"] + two["*.attn"]', s=1).functional()
    assert f.tensors == tuple(name for name in NAMES if "mlp" in name)
    found = f()
    assert {name for name in found if found[name].requires_grad} == set(f.tensors)
    wanted = {name: tensor.detach().clone() for name, tensor in found.items()}
    for tensor in found.values():
        tensor.detach().zero_()
    assert same(f(), wanted)
    assert list(found) == [*NAMES, "steps"]


def test_a_backward_pass_uses_the_values_of_its_forward_pass() -> None:
    text = "base + s*u*one + s*s*two"
    f = recipe(text, s="0.37", u="-1.25").functional()
    early = f()
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.add_(5)
    late = f()
    descend(early)
    assert all(map(close, f.parameters(), oracle(text, torch.float32, 0.37, -1.25)))
    assert not torch.equal(early["embed.weight"], late["embed.weight"])


@pytest.mark.parametrize("form", ["expanded", "turned", "sparse"])
def test_a_gradient_may_have_any_form(form: str) -> None:
    f = recipe("base + s*one - u*two", s=1, u=1).functional()
    found = f()["embed.weight"]
    loss = {
        "expanded": lambda: found.sum(),
        "turned": lambda: (found.t() @ torch.arange(5.0)).sum(),
        "sparse": lambda: torch.nn.functional.embedding(
            torch.tensor([1, 1, 4]), found, sparse=True
        ).sum(),
    }[form]()
    loss.backward()  # type: ignore[no-untyped-call]
    weight = {"expanded": torch.ones(5), "turned": torch.arange(5.0)}
    rows = weight.get(form, torch.tensor([0.0, 2, 0, 0, 1])).double()
    s, _ = f.parameters()
    vector = weights(1)["embed.weight"].double() - weights(0)["embed.weight"].double()
    assert close(s, (vector.sum(1) * rows).sum())


def test_a_second_derivative_is_refused() -> None:
    f = recipe("base + s*s*one - u*two", s=1, u=1).functional()
    s, u = f.parameters()
    (slope,) = torch.autograd.grad(f()["embed.weight"].sum(), s, create_graph=True)
    with pytest.raises(ta.UsageError, match="cannot be differentiated twice"):
        (slope + u).backward()  # type: ignore[no-untyped-call]
    descend(f())  # the first still can


def test_torch_func_can_differentiate_it() -> None:
    f = recipe("base + s*one - u*two", s=1, u=1).functional()
    slope = torch.func.grad(lambda s: f(s=s)["layers.0.attn"].sum())(torch.tensor(0.5))
    vector = weights(1)["layers.0.attn"].double() - weights(0)["layers.0.attn"].double()
    assert slope.item() == pytest.approx(vector.sum().item(), rel=1e-6)


def test_the_number_of_threads_changes_no_bit() -> None:
    def slopes(threads: int) -> list[float]:
        f = recipe("base + s*one - u*two", s="0.1", u="0.7").functional(threads=threads)
        descend(f())
        return [parameter.grad.item() for parameter in f.parameters() if parameter.grad is not None]

    assert slopes(1) == slopes(2) == slopes(5)


def test_weights_live_no_longer_than_they_are_needed() -> None:
    f = recipe("base + s*one - u*two", s=1, u=1).functional()
    found = f()
    storages: list[Any] = [StorageWeakRef(found[name].untyped_storage()) for name in NAMES]  # type: ignore[no-untyped-call]
    descend(found)
    assert not any(storage.expired() for storage in storages)
    del found
    assert all(storage.expired() for storage in storages)


def test_what_is_too_large_is_infinite() -> None:
    f = recipe("base + s*one - u*two", torch.float16, s=1, u=1).functional()
    assert f(s=1e6)["embed.weight"].isinf().any()


def test_a_module_learns_with_an_optimizer() -> None:
    torch.manual_seed(0)
    models = [torch.nn.Linear(6, 2) for _ in range(3)]
    made = ta.compile(
        "base + s*one + u*two",
        base=models[0],
        tasks={"one": models[1], "two": models[2]},
        set={"s": 0, "u": 0},
    )
    goal = made.bind(s="0.8", u="-0.3").state_dict()
    f, images = made.functional(), torch.randn(50, 6)
    optimizer = torch.optim.Adam(f.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        wanted, found = (torch.func.functional_call(models[0], w, images) for w in (goal, f()))
        torch.nn.functional.mse_loss(found, wanted).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert [p.item() for p in f.parameters()] == pytest.approx([0.8, -0.3], abs=1e-3)
    assert [name for name, _ in f.named_parameters()] == ["s", "u"]


# ---- Recipes of what was learned


def files(folder: Path, state: Callable[[int], Tensors] = weights) -> dict[str, Path]:
    paths = {name: folder / f"{name}.safetensors" for name in ("base", "one", "two")}
    for seed, path in enumerate(paths.values()):
        save_file(state(seed), path)
    return paths


DIVISOR = ("quotient", ("u",))  # may not depend on the tensor
TEXTS = {
    "sum": "base + s*one - u*two",
    "product": 'base + s*u*one["*.mlp"] - ramp(s, 0.5)*two',
    "quotient": "base + (s*one + two)/(s + u)",
    "vector": "u*two - s*one",
    "functions": "f(t, by) = by*t\nx = s/2\nbase + f(one, x) + f(two, u)",
}


@pytest.mark.parametrize(
    ("case", "per_tensor"),
    [(case, names) for case in TEXTS for names in ((), ("u",)) if (case, names) != DIVISOR],
)
def test_the_text_of_what_was_learned_makes_the_same_file(
    case: str, per_tensor: tuple[str, ...], tmp_path: Path
) -> None:
    paths = files(tmp_path)
    tasks = {name: paths[name] for name in ("one", "two")}
    made = ta.compile(TEXTS[case], base=paths["base"], tasks=tasks, set={"s": "0.2", "u": "1"})
    f, generator = made.functional(per_tensor=per_tensor), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator))
    found = {name: tensor.detach() for name, tensor in f().items()}
    assert same(found, saved(f.recipe(), tmp_path))
    learned, out = tmp_path / "learned.ta", tmp_path / "out.safetensors"
    learned.write_text(f.text(), encoding="utf-8")
    done = CliRunner().invoke(main, ["merge", "-f", str(learned), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert same(found, load_file(out))
    assert ta.compile(learned) == f.recipe()
    assert format_text(Source("learned.ta", f.text())) == f.text()


def test_the_text_says_what_scalars_are() -> None:
    f = recipe("base + s*one - u*two", s="0.25", u="-1/3").functional()
    assert f.text() == (
        "# base is in memory: bind the name, as with --base PATH\n"
        "# one is in memory: bind the name, as with --task one=PATH\n"
        "# two is in memory: bind the name, as with --task two=PATH\n"
        "s = 0.25\n"
        "u = -0.33333334\n"
        "base + s*one - u*two\n"
    )


def test_a_recipe_in_memory_is_bound_by_name(tmp_path: Path) -> None:
    f = recipe("base + s*one - u*two", s="0.25", u=2).functional(per_tensor=["s"])
    (tmp_path / "learned.ta").write_text(f.text(), encoding="utf-8")
    base, one, two = (weights(seed) for seed in range(3))
    again = ta.compile(tmp_path / "learned.ta", base=base, tasks={"one": one, "two": two})
    assert same(saved(again, tmp_path), {n: t.detach() for n, t in f().items()})


ODD = ["a*b", "axb", "[a-z]", "q?", "q!", 'say "x"', "it's", "tab\tbed", "[!a]", "a]b", "x\\y"]


def test_any_name_of_a_tensor_can_be_written_down(tmp_path: Path) -> None:
    def state(seed: int) -> Tensors:
        return {name: torch.randn(3, generator=torch.Generator().manual_seed(seed)) for name in ODD}

    paths = files(tmp_path, state)
    made = ta.compile("base + s*one", base=paths["base"], tasks={"one": paths["one"]}, set={"s": 0})
    f = made.functional(per_tensor=["s"])
    values = torch.arange(1.0, len(ODD) + 1)
    (tmp_path / "learned.ta").write_text(f.text(s=values), encoding="utf-8")
    wanted = {name: tensor.detach() for name, tensor in f(s=values).items()}
    assert same(saved(ta.compile(tmp_path / "learned.ta"), tmp_path), wanted)


def test_equal_values_share_a_selector() -> None:
    f = recipe("base + s*one", s="0.5").functional(per_tensor="s")
    assert f.text().count("0.5") == 1
    values = torch.tensor([0.5] * 3 + [0.0] * 2 + [-0.25] * (len(f.tensors) - 5))
    assert [f.text(s=values).count(text) for text in ("0.5[", "- 0.25[", "layers.1")] == [1, 1, 0]


def test_the_example_learns_more_than_a_grid_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    import learn_coefficients

    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        found = learn_coefficients.main()
    torch.set_num_threads(threads)
    base, learned, grid, hindsight = map(sum, found.values())
    assert learned < 0.985 * hindsight <= hindsight <= grid < base
    assert str(ta.compile(tmp_path / "learned" / "learned.ta")).startswith("base + 0.60")


# ---- What cannot be


def bad(make: Callable[[], object], *words: str) -> None:
    with pytest.raises(ta.TaskalgError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_slope_beyond_binary64_is_its_largest_number() -> None:
    f = recipe("base + one/s", s=1).functional()
    s = torch.tensor(1e-200, dtype=torch.float64, requires_grad=True)
    total = f(s=s)["layers.0.attn"].sum()
    (gradient,) = torch.autograd.grad(total, s, torch.tensor(0.0), retain_graph=True)
    assert gradient == 0
    (gradient,) = torch.autograd.grad(total, s)
    assert not gradient.isfinite()


def test_mistakes_are_told() -> None:
    made = recipe("base + s*one - u*two", s=1, u=1)
    f = made.functional(per_tensor=["u"])
    bad(lambda: f(t=1), "no scalar 't'", "it has s and u")
    bad(lambda: f(s=torch.ones(2)), "s has the shape (2,)", "expected ()")
    bad(lambda: f(u=torch.ones(2)), "u has the shape (2,)", "expected (7,) or ()")
    bad(lambda: f(s=torch.tensor(float("nan"))), "nan is not a finite number", "a value of s")
    bad(lambda: f(s=[0.1, 0.2]), "list is not a number", "a value of s")
    bad(lambda: f(s=torch.tensor(1j)), "torch.complex64 is not a real number", "a value of s")
    bad(lambda: made.functional(per_tensor=["t"]), "no scalar 't'")
    bad(lambda: made.functional(device="nowhere"), "device 'nowhere' cannot be used")
    bad(lambda: recipe("base + 0.5*one").functional(), "no scalars to learn")
    bad(lambda: recipe("base + s*one", s="1e400").functional(), "s is too large for float32")
    bad(lambda: recipe("s*base + u*one", s=1, u=0).functional(), "must be a model or a task vector")
    bad(lambda: recipe("base + one/s", s=1).functional(per_tensor=["s"]), "depend on the tensor")
    bad(lambda: recipe("base + ramp(s, 1)*one", s=1).functional(per_tensor=["s"]), "the tensor")
    bad(lambda: recipe("base + one/s", s=1).functional()(s=0), "division by zero")
    many = {str(index): torch.rand(1) for index in range(1001)}
    large = ta.compile(
        "s*one", tasks={"one": many}, base={**many, "0": torch.rand(1)}, set={"s": 1}
    )
    bad(lambda: large.functional(per_tensor=["s"]), "depends on the tensor in too many ways")


def test_names_that_no_pattern_tells_apart_are_told() -> None:
    base, one = ({name: torch.rand(2) for name in ("a\tb", "a b")} for _ in range(2))
    made = ta.compile("base + s*one", base=base, tasks={"one": one}, set={"s": 0})
    made.functional()
    bad(lambda: made.functional(per_tensor=["s"]), "no pattern can be written", "alone")
