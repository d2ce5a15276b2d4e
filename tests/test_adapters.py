"""Adapters that are written: PEFT loads them, and they are the task vector they were made of."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

import taskalg as ta
from taskalg.adapters.config import config_file
from taskalg.adapters.factorize import Factored, Norms, chunks, compare, of_matrix, of_product
from taskalg.adapters.modules import Module
from taskalg.cli.main import main

# PEFT asks transformers for what it is about to drop
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:peft", "ignore:.*is_gradient_checkp")

MODELS: dict[str, tuple[Any, list[str]]] = {
    "llama": (
        LlamaConfig(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=2,
            vocab_size=60,
        ),
        ["q_proj", "down_proj", "embed_tokens"],
    ),
    "gpt2": (
        GPT2Config(
            n_embd=24,
            n_layer=2,
            n_head=2,
            vocab_size=60,
            n_positions=16,
            bos_token_id=0,
            eos_token_id=0,
        ),
        ["c_attn", "c_proj"],
    ),
}
RANKS = {"style": 4, "toxic": 6}


def randomize(model: torch.nn.Module, which: str, size: float) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if which in name:
                parameter.add_(torch.randn_like(parameter), alpha=size)


@pytest.fixture(scope="module", params=MODELS)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two adapters, and a model that was fine-tuned in full."""
    torch.manual_seed(0)
    config, modules = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    base: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    base.save_pretrained(folder / "base")
    for name, rank in RANKS.items():
        turned = request.param == "gpt2"
        options = LoraConfig(r=rank, lora_alpha=7, target_modules=modules, fan_in_fan_out=turned)
        adapted = get_peft_model(loaded(folder / "base"), options)
        randomize(adapted, "lora_", 0.1)
        adapted.save_pretrained(str(folder / name), save_embedding_layers=False)
    tuned = loaded(folder / "base")
    randomize(tuned, "", 0.02)
    tuned.save_pretrained(folder / "ft")
    return folder


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def recipe(family: Path, text: str) -> ta.Recipe:
    tasks = {name: family / name for name in RANKS}
    return ta.compile(text, base=family / "base", tasks=tasks, models={"ft": family / "ft"})


def applied(family: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The base with an adapter, as PEFT computes it."""
    merged = PeftModel.from_pretrained(loaded(family / "base"), adapter).merge_and_unload()
    state: dict[str, torch.Tensor] = merged.state_dict()
    return state


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_adapters_are_joined_exactly(family: Path, tmp_path: Path) -> None:
    report = recipe(family, "0.7*style - 0.3*toxic").save_adapter(tmp_path / "joined")
    assert report.residual < 1e-7
    assert {found.rank for found in report.residuals} == {sum(RANKS.values())}
    recipe(family, "base + 0.7*style - 0.3*toxic").save(tmp_path / "merged")
    merged = loaded(tmp_path / "merged").state_dict()
    assert furthest(applied(family, tmp_path / "joined"), merged) < 1e-6
    again = ta.compile("base + x", base=family / "base", tasks={"x": tmp_path / "joined"})
    again.save(tmp_path / "again")
    assert furthest(loaded(tmp_path / "again").state_dict(), merged) < 1e-6


def test_a_joined_adapter_is_cut_to_a_rank_by_its_singular_values(
    family: Path, tmp_path: Path
) -> None:
    whole = recipe(family, "style + toxic")
    whole.save_adapter(tmp_path / "joined")
    report = whole.save_adapter(tmp_path / "cut", rank=3)
    factors = load_file(tmp_path / "joined" / "adapter_model.safetensors")
    for found in report.residuals:
        assert found.rank == 3
    key = next(name for name in factors if "lora_A" in name)
    product = (factors[key.replace("lora_A", "lora_B")] @ factors[key]).double()
    values = torch.linalg.svdvals(product)
    best = (values[3:].norm() / values.norm()).item()
    stem = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
    residual = next(f.norms.residual for f in report.residuals if f.name.endswith(f"{stem}.weight"))
    assert residual == pytest.approx(best, rel=1e-5)


def test_a_full_fine_tune_is_extracted(family: Path, tmp_path: Path) -> None:
    report = recipe(family, "ft - base").save_adapter(tmp_path / "all", rank=60)
    wanted = loaded(family / "ft").state_dict()
    found = applied(family, tmp_path / "all")
    held = {residual.name for residual in report.residuals}
    near = {name: (found[name] - wanted[name]).abs().max().item() for name in wanted}
    # a tied head is not stored, and is kept as the embedding is
    unchanged = {n for n in near if n in held or n == "lm_head.weight"}
    assert max(near[name] for name in unchanged) < 1e-5
    assert {found.name for found in report.left_out} == wanted.keys() - unchanged
    assert all(residual.norms.residual < 1e-6 for residual in report.residuals)
    assert report.residual > 0.01  # the norms and biases that no adapter holds count


def test_the_residual_falls_with_the_rank(family: Path, tmp_path: Path) -> None:
    vector = recipe(family, "ft - base")
    left = [
        vector.save_adapter(tmp_path / str(rank), rank=rank).residual for rank in (1, 4, 16, 24)
    ]
    assert left == sorted(left, reverse=True)
    assert left[0] > 2 * left[-1]


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_the_dtype_of_the_factors(family: Path, tmp_path: Path, dtype: str) -> None:
    report = recipe(family, "style").save_adapter(tmp_path / dtype, dtype=dtype)
    factors = load_file(tmp_path / dtype / "adapter_model.safetensors")
    wanted = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[dtype]
    assert {value.dtype for value in factors.values()} == {wanted}
    assert report.residual < {"bf16": 1e-2, "f16": 1e-3, "f32": 1e-7}[dtype]


def test_modules_of_other_ranks_have_patterns(family: Path, tmp_path: Path) -> None:
    recipe(family, "style").save_adapter(tmp_path / "one")
    mixed = recipe(family, 'style + toxic["*.0.*"]')
    report = mixed.save_adapter(tmp_path / "mixed")
    assert {found.rank for found in report.residuals} == {4, 10}
    config = json.loads((tmp_path / "mixed" / "adapter_config.json").read_text())
    assert config["rank_pattern"] == config["alpha_pattern"] != {}
    text = 'base + style + toxic["*.0.*"]'
    recipe(family, text).save(tmp_path / "merged")
    merged = loaded(tmp_path / "merged").state_dict()
    assert furthest(applied(family, tmp_path / "mixed"), merged) < 1e-6


REFUSED: dict[str, tuple[str, dict[str, Any], type[ta.TaskalgError], str]] = {
    "a model": ("base + style", {}, ta.KindError, "this is a model"),
    "no rank": ("ft - base", {}, ta.UsageError, "--rank 32"),
    "rank 0": ("ft - base", {"rank": 0}, ta.UsageError, "at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_adapter_is_refused(family: Path, tmp_path: Path, case: str) -> None:
    text, options, error, words = REFUSED[case]
    with pytest.raises(error) as caught:
        recipe(family, text).save_adapter(tmp_path / "out", **options)
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_line(family: Path, tmp_path: Path) -> None:
    names = [
        f"--base={family / 'base'}",
        f"--model=ft={family / 'ft'}",
        "-o",
        f"{tmp_path / 'out'}",
    ]
    done = CliRunner().invoke(main, ["merge", "ft - base", *names, "--as-lora", "--rank=8"])
    assert done.exit_code == 0, done.output
    assert "rank 8" in done.stderr and "residual" in done.stderr
    assert "changed that no adapter can hold, like '" in done.stderr
    again = ["merge", "ft - base", *names, "--as-lora", "--rank=8", "--overwrite", "--json"]
    found = json.loads(CliRunner().invoke(main, again).stdout)
    assert found["schema"] == 1 and 0 < found["residual"] < 1
    assert all(0 <= one["residual"] < 1 for one in found["residuals"].values())
    for options, words in (
        (["--rank=8"], "--rank is for adapters"),
        (["--as-lora", "--rank=8", "--rows=common"], "--rows has no meaning for an adapter"),
        (["--as-lora", "--rank=8", "--dry-run"], "--dry-run has no meaning for an adapter"),
    ):
        refused = CliRunner().invoke(main, ["merge", "ft - base", *names, *options])
        assert refused.exit_code == 2
        assert words in refused.stderr


# ---- Factors written by hand, and models with other modules


Q = {"q": (4, 6)}


def by_hand(
    folder: Path, modules: dict[str, tuple[int, int]], size: float = 1.0, rank: int = 3
) -> Path:
    """Write an adapter of some modules, each `(rows, columns)`."""
    generator = torch.Generator().manual_seed(sum(map(ord, folder.name)))
    factors = {}
    for module, (rows, columns) in modules.items():
        key = f"base_model.model.{module}"
        factors[f"{key}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
        factors[f"{key}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * size
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("rank", [None, 1, 4, 5, 8, 9, 40])
def test_ranks_beyond_the_matrix_are_no_obstacle(tmp_path: Path, rank: int | None) -> None:
    """Three ranks of three on a matrix of four rows: a rank of 5 asks for more than there is."""
    names = ("one", "two", "three")
    paths = {name: by_hand(tmp_path / name, Q) for name in names}
    report = ta.compile("one - 2*two + three", models=paths).save_adapter(tmp_path / "x", rank=rank)
    joined = rank is None or rank >= 9
    assert report.residuals[0].rank == (9 if joined else min(rank or 9, 4))
    assert report.residual < 1e-6 or rank == 1
    assert report.bytes_read == 3 * 4 * 3 * (4 + 6)


def test_without_a_model_the_config_names_the_adapters_own(tmp_path: Path) -> None:
    paths = {name: by_hand(tmp_path / name, Q) for name in ("one", "two")}
    ta.compile("one + two", models=paths).save_adapter(tmp_path / "x")
    config = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base"


def test_ranks_of_one_module_are_not_another_s(tmp_path: Path) -> None:
    """PEFT's patterns match the ends of paths: that of `q` would be that of `block.q`, too."""
    one = by_hand(tmp_path / "one", {"block.q": (4, 6), "block.v": (4, 6), **Q})
    two = by_hand(tmp_path / "two", Q, rank=2)
    recipe = ta.compile("one + two", models={"one": one, "two": two})
    recipe.save_adapter(tmp_path / "x")
    recipe.save(tmp_path / "sum.safetensors")
    again = ta.compile("x", models={"x": tmp_path / "x"})
    again.save(tmp_path / "again.safetensors")
    wanted, found = (load_file(tmp_path / f"{name}.safetensors") for name in ("sum", "again"))
    assert furthest(found, wanted) < 1e-5


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize(
    ("size", "dtype", "error", "words"),
    [
        (np.nan, "f32", ta.CheckpointError, "'q.weight' is not finite, so it has no factors"),
        (np.inf, "f32", ta.CheckpointError, "'q.weight' is not finite, so it has no factors"),
        (1e12, "f16", ta.OverflowingError, "the factors of 'q.weight' overflow f16"),
    ],
)
def test_numbers_that_no_factor_can_hold_are_refused(
    tmp_path: Path, size: float, dtype: str, error: type[ta.TaskalgError], words: str, rank: Any
) -> None:
    style = by_hand(tmp_path / "style", Q, size)
    with pytest.raises(error) as caught:
        ta.checkpoint(style).save_adapter(tmp_path / "x", dtype=dtype, rank=rank)
    assert words in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_an_earlier_adapter_may_be_replaced_but_no_model(tmp_path: Path) -> None:
    style = ta.checkpoint(by_hand(tmp_path / "style", Q))
    style.save_adapter(tmp_path / "x")
    with pytest.raises(ta.OutputError, match="add --overwrite"):
        style.save_adapter(tmp_path / "x")
    (2 * style).save_adapter(tmp_path / "x", overwrite=True)
    model = tmp_path / "model"
    model.mkdir()
    save_file({"q.weight": torch.ones(4, 6)}, model / "model.safetensors")
    before = (model / "model.safetensors").read_bytes()
    with pytest.raises(ta.OutputError, match="of another model"):
        style.save_adapter(model, overwrite=True)
    assert [path.name for path in model.iterdir()] == ["model.safetensors"]
    assert (model / "model.safetensors").read_bytes() == before


OTHERS: dict[str, Any] = {
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=37, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2)
    ),
    "bert": lambda: BertForSequenceClassification(
        BertConfig(
            vocab_size=37,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=9,
        )
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_every_matrix_of_other_models_is_extracted(tmp_path: Path, kind: str) -> None:
    """Their embeddings of segments and of relative positions are no linear layers."""
    torch.manual_seed(0)
    model = OTHERS[kind]()
    model.save_pretrained(tmp_path / "base")
    randomize(model, "", 0.05)
    model.save_pretrained(tmp_path / "ft")
    made = ta.compile("ft - base", base=tmp_path / "base", models={"ft": tmp_path / "ft"})
    report = made.save_adapter(tmp_path / "x", rank=40)
    base = type(model).from_pretrained(tmp_path / "base")
    found = PeftModel.from_pretrained(base, tmp_path / "x").merge_and_unload().state_dict()
    left_out = {one.name for one in report.left_out}
    wanted = {n: v for n, v in model.state_dict().items() if n not in left_out}
    assert all(value.dim() < 2 for name, value in model.state_dict().items() if name in left_out)
    assert furthest({name: found[name] for name in wanted}, wanted) < 1e-5


def test_a_convolution_is_extracted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, ft = (torch.nn.Sequential(torch.nn.Conv2d(3, 5, (2, 3))) for _ in range(2))
    made = ta.compile("ft - base", base=base, models={"ft": ft})
    made.save_adapter(tmp_path / "x", rank=40)
    model: Any = base
    found = PeftModel.from_pretrained(model, tmp_path / "x").merge_and_unload()
    assert furthest(found.state_dict(), ft.state_dict() | {"0.bias": base[0].bias.data}) < 1e-5


def test_an_adapter_has_a_card_that_names_no_local_path(family: Path, tmp_path: Path) -> None:
    path = family / "style"
    made = ta.compile(f'0.5*checkpoint("{path}")')
    made.save_adapter(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert card.startswith("---\nbase_model_relation: adapter\nlibrary_name: peft\n")
    assert "`style`" in card and "% of this task vector over" in card
    config = (tmp_path / "out" / "adapter_config.json").read_text("utf-8")
    for part in family.parts[1:]:
        assert part not in card and part not in config


def test_a_base_on_the_hub_is_named_with_its_commit() -> None:
    module = Module("a", "a.weight", (2, 2), False, False)
    config = json.loads(config_file({module: 1}, "org/base@abc123", []).content)
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", "abc123")
    config = json.loads(config_file({module: 1}, "base", []).content)
    assert (config["base_model_name_or_path"], config["revision"]) == ("base", None)


def test_a_tied_head_and_a_rank_that_none_needs_are_told(family: Path, tmp_path: Path) -> None:
    report = recipe(family, "ft - base").save_adapter(tmp_path / "out", rank=60)
    is_tied = json.loads((family / "base" / "config.json").read_text()).get("tie_word_embeddings")
    assert any("merge_and_unload" in note for note in report.notes) == (is_tied is not False)
    assert any("no module has more than rank" in note for note in report.notes)
    assert not recipe(family, "ft - base").save_adapter(tmp_path / "low", rank=2).notes[1:]


# ---- The decompositions


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 10), st.integers(0, 99))
def test_factors_of_a_small_matrix_are_the_best(
    rows: int, columns: int, rank: int, seed: int
) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    rank = min(rank, rows, columns)
    found = of_matrix(matrix, rank)
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    best = np.sqrt(np.sum(values[rank:] ** 2) / np.sum(values**2))
    assert compare(chunks(matrix), found).residual == pytest.approx(best, abs=1e-12)


@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 8), st.integers(0, 99))
def test_factors_of_a_product_are_those_of_the_matrix(
    rows: int, columns: int, rank: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    b, a = rng.normal(size=(rows, 8)), rng.normal(size=(8, columns))
    rank = min(rank, rows, columns)
    found = of_product(b, a, rank)
    assert found.b.shape == (rows, rank) and found.a.shape == (rank, columns)
    values = np.linalg.svd(b @ a, compute_uv=False)
    best = np.sqrt(np.sum(values[rank:] ** 2) / np.sum(values**2))
    assert compare(iter([b @ a]), found).residual == pytest.approx(best, abs=1e-9)


def test_the_randomized_decomposition_is_near_the_best_and_repeatable() -> None:
    rng = np.random.default_rng(0)
    spectrum = 1 / np.arange(1, 1201) ** 0.7  # as slow as those of real deltas
    left = np.linalg.qr(rng.normal(size=(1300, 1200)))[0]
    right = np.linalg.qr(rng.normal(size=(1200, 1200)))[0]
    matrix = (left * spectrum @ right).astype(np.float32)
    found = of_matrix(matrix, 32)
    best = np.sqrt(np.sum(spectrum[32:] ** 2) / np.sum(spectrum**2))
    assert compare(chunks(matrix), found).residual == pytest.approx(best, rel=1e-2)
    before = torch.random.get_rng_state()
    again = of_matrix(matrix, 32)
    assert np.array_equal(again.b, found.b) and np.array_equal(again.a, found.a)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_residual_of_all_is_a_hundred_percent(tmp_path: Path) -> None:
    one = by_hand(tmp_path / "one", Q)
    report = ta.checkpoint(one).save_adapter(tmp_path / "x")
    whole = replace(report.residuals[0], norms=Norms(1.0, 1.0))
    assert "residual 100 %" in str(replace(report, residuals=(whole,)))


def test_nothing_is_left_of_nothing() -> None:
    nothing = Factored(np.zeros((3, 1)), np.zeros((1, 2)))
    assert compare(iter([np.zeros((3, 2))]), nothing).residual == 0
    assert compare(iter([np.ones((3, 2))]), nothing).residual == 1
