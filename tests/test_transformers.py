"""Merged folders load in transformers as if it had saved them, and hold the exact numbers."""

import json
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import taskalg

torch = pytest.importorskip("torch", reason="checkpoints are made with torch")
transformers = pytest.importorskip("transformers", reason="checkpoints are made with transformers")
EXPRESSION = "base + 0.4*(-toxic) + 0.3*(sent_yelp - lm_yelp + lm_amazon)"
COEFFICIENTS = {
    "base": Fraction("1.1"),
    "toxic": Fraction("-0.4"),
    "sent_yelp": Fraction("0.3"),
    "lm_yelp": Fraction("-0.3"),
    "lm_amazon": Fraction("0.3"),
}
TOKENIZER = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {}, "unk_token": "?"}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny Llama and four models near it, sharded, each with other shards."""
    folder = tmp_path_factory.mktemp("models")
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    for number, name in enumerate(COEFFICIENTS):
        with torch.no_grad():
            for tensor in model.parameters() if number else ():
                tensor += (0.002 * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        model.save_pretrained(folder / name, max_shard_size=f"{12 + 4 * number}KB")
        assert (folder / name / "model.safetensors.index.json").exists()
    text = json.dumps(TOKENIZER)
    (folder / "base" / "tokenizer.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def recipe(models: Path) -> taskalg.Recipe:
    tasks = {name: models / name for name in COEFFICIENTS if name != "base"}
    return taskalg.compile(EXPRESSION, base=models / "base", tasks=tasks)


@pytest.fixture(scope="module")
def merged(recipe: taskalg.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("merged") / "model"
    recipe.save(out)
    return out


def load(folder: Path) -> Any:
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not found[key], key
    return model


def tensors(folder: Path) -> Iterator[tuple[str, str, list[int], bytes]]:
    """Read a folder's tensors with nothing but the format's description."""
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        start = 8 + struct.unpack_from("<Q", content)[0]
        entries: dict[str, Any] = json.loads(content[8:start])
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            data = content[start + begin : start + end]
            yield name, entry["dtype"], entry["shape"], data


def numbers(data: bytes) -> list[Fraction]:
    patterns = struct.unpack(f"<{len(data) // 2}H", data)
    return [Fraction(struct.unpack("<f", struct.pack("<I", p << 16))[0]) for p in patterns]


def rounded(exact: Fraction, precision: int, width: int) -> int:
    """Round to nearest even, once; the pattern of a bf16 or f32 number in its normal range."""
    size = abs(exact)
    if not size:
        return 0
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    assert -126 <= exponent < 127
    significand = round(size / Fraction(2) ** (exponent - precision + 1))  # ties to even
    pattern = ((exponent + 126) << (precision - 1)) + significand
    return pattern | (exact < 0) << (width - 1)


def expected(models: Path, precision: int, width: int) -> dict[str, bytes]:
    """Evaluate the expression on every element in exact rationals."""
    inputs = {
        model: {name: numbers(data) for name, _, _, data in tensors(models / model)}
        for model in COEFFICIENTS
    }
    code = {16: "H", 32: "I"}[width]
    found = {}
    for name, base in inputs["base"].items():
        totals = [
            sum((c * inputs[model][name][i] for model, c in COEFFICIENTS.items()), Fraction(0))
            for i in range(len(base))
        ]
        patterns = [rounded(total, precision, width) for total in totals]
        found[name] = struct.pack(f"<{len(patterns)}{code}", *patterns)
    return found


def test_it_loads_with_nothing_missing_unexpected_or_mismatched(merged: Path) -> None:
    model = load(merged)
    assert model.dtype == torch.bfloat16
    assert torch.isfinite(model(torch.arange(8)[None]).logits).all()


def test_every_element_is_the_exact_sum_rounded_once(models: Path, merged: Path) -> None:
    found = {name: data for name, _, _, data in tensors(merged)}
    assert found == expected(models, precision=8, width=16)


def test_transformers_sees_the_numbers_that_were_written(merged: Path) -> None:
    state = load(merged).state_dict()
    for name, _, shape, data in tensors(merged):
        assert list(state[name].shape) == shape
        assert state[name].contiguous().view(torch.uint8).numpy().tobytes() == data


def test_side_files_come_along(models: Path, merged: Path) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (merged / name).read_bytes() == (models / "base" / name).read_bytes()
    weights = {path.name for path in merged.iterdir() if "safetensors" in path.name}
    assert weights == {"model.safetensors"}


def test_another_dtype_is_exact_too_and_the_config_says_it(
    models: Path, recipe: taskalg.Recipe, tmp_path: Path
) -> None:
    recipe.save(tmp_path / "wide", dtype="f32")
    config = json.loads((tmp_path / "wide" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "float32"
    assert load(tmp_path / "wide").dtype == torch.float32
    found = {name: data for name, _, _, data in tensors(tmp_path / "wide")}
    assert found == expected(models, precision=24, width=32)


def test_shards_load_as_one_file_does(recipe: taskalg.Recipe, merged: Path, tmp_path: Path) -> None:
    report = recipe.save(tmp_path / "sharded", shard_size="20KB")
    shards = list((tmp_path / "sharded").glob("model-*.safetensors"))
    assert len(shards) == report.shards > 2
    state, other = load(merged).state_dict(), load(tmp_path / "sharded").state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_a_task_vector_added_again_is_the_fine_tuned_model(models: Path, tmp_path: Path) -> None:
    bound: dict[str, Any] = {"base": models / "base"}
    taskalg.compile("toxic", tasks={"toxic": models / "toxic"}, **bound).save(tmp_path / "vector")
    assert not (tmp_path / "vector" / "config.json").exists()
    taskalg.compile("base + v", tasks={"v": tmp_path / "vector"}, **bound).save(tmp_path / "again")
    load(tmp_path / "again")
    found = {name: data for name, _, _, data in tensors(tmp_path / "again")}
    assert found == {name: data for name, _, _, data in tensors(models / "toxic")}


# ---- Models whose files name and store the same weights in different ways


def gpt2(seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def t5(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 32, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))


def bert(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.BertForMaskedLM(
        transformers.BertConfig(**sizes, intermediate_size=16, max_position_embeddings=16)
    )


def save_all(model: Any, path: Path) -> None:
    """Save every name of a model's state, tied ones twice, as `torch.save` would."""
    from safetensors.torch import save_file

    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, path)


FAMILIES = [
    (gpt2, "AutoModelForCausalLM", {"lm_head.weight"}),
    (t5, "AutoModelForSeq2SeqLM", {"lm_head.weight", "encoder.embed_tokens.weight"}),
    (bert, "AutoModelForMaskedLM", {"cls.predictions.decoder.weight"}),
]


@pytest.mark.parametrize(("make", "auto", "twice"), FAMILIES)
@pytest.mark.parametrize("donor", ["a", "b"])
def test_a_tied_model_averages_with_one_that_stores_its_head(
    tmp_path: Path, make: Any, auto: str, twice: set[str], donor: str
) -> None:
    tied, full = make(1).eval(), make(2).eval()
    tied.save_pretrained(tmp_path / "a")
    full.save_pretrained(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").unlink()
    save_all(full, tmp_path / "b" / "model.safetensors")
    names = {model: {name for name, *_ in tensors(tmp_path / model)} for model in ("a", "b")}
    assert names["b"] - names["a"] >= twice
    models = {name: tmp_path / name for name in ("a", "b")}
    taskalg.compile("(a + b)/2", models=models).save(tmp_path / "out", donor=donor)
    assert {name for name, *_ in tensors(tmp_path / "out")} == names[donor]
    loaded = getattr(transformers, auto).from_pretrained(tmp_path / "out").state_dict()
    other = full.state_dict()
    for name, tensor in tied.state_dict().items():
        mean = (tensor.double() + other[name].double()) / 2  # exact: both have 24 bits, near alike
        assert torch.equal(loaded[name], mean.float()), name


def test_copies_that_differ_in_a_model_are_refused(tmp_path: Path) -> None:
    gpt2(1).save_pretrained(tmp_path / "a")
    model = gpt2(2)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight + 1)
    save_all(model, tmp_path / "b.safetensors")
    models = {"a": tmp_path / "a", "b": tmp_path / "b.safetensors"}
    with pytest.raises(taskalg.MismatchError, match=r"'lm_head.weight' and .* differ in b"):
        taskalg.compile("(a + b)/2", models=models).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("donor", ["hub", "ft"])
def test_hub_gpt2_lacks_the_prefix_of_its_fine_tuned_models(tmp_path: Path, donor: str) -> None:
    hub, ft = gpt2(1), gpt2(2)
    hub.transformer.save_pretrained(tmp_path / "hub")
    ft.save_pretrained(tmp_path / "ft")
    models = {"hub": tmp_path / "hub", "ft": tmp_path / "ft"}
    made = taskalg.compile('hub + (ft - hub)["*h.1.*"]', models=models)
    report = made.save(tmp_path / "out", donor=donor)
    assert "'transformer.'" in report.notes[0]
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in hub.state_dict().items():
        assert torch.equal(loaded[name], ft.state_dict()[name] if ".h.1." in name else tensor)


def test_a_compiled_model_is_the_model(tmp_path: Path) -> None:
    base, ft = gpt2(1), gpt2(2)
    base.save_pretrained(tmp_path / "base")
    save_all(torch.compile(ft, backend="eager"), tmp_path / "ft.safetensors")
    models = {"base": tmp_path / "base", "ft": tmp_path / "ft.safetensors"}
    report = taskalg.compile("0.5*base + 0.5*ft", models=models).save(tmp_path / "out")
    assert "dropped '_orig_mod.' from" in report.notes[0]
    found = {name for name, *_ in tensors(tmp_path / "out")}
    assert found == {name for name, *_ in tensors(tmp_path / "base")}
