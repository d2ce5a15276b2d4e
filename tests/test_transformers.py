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
