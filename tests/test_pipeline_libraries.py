"""The libraries that pipelines are made for load merged ones; those not installed are skipped."""

import json
from pathlib import Path
from typing import Any

import pytest

import taskalg

torch = pytest.importorskip("torch", reason="checkpoints are made with torch")
transformers = pytest.importorskip("transformers", reason="checkpoints are made with transformers")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]


def moved(model: Any, by: float) -> Any:
    """Add to every weight; sums of such numbers are exact."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            grid = torch.randint(-8, 8, tensor.shape, generator=generator)
            tensor.copy_((grid + by).to(tensor.dtype))
    return model


def merged(tmp_path: Path, **options: Any) -> Path:
    recipe = taskalg.compile(
        "base + 0.4*(ft - base)", base=tmp_path / "base", models={"ft": tmp_path / "ft"}
    )
    recipe.save(tmp_path / "out", **options)
    return tmp_path / "out"


def same(found: Any, expected: Any) -> None:
    left, right = dict(found.named_parameters()), dict(expected.named_parameters())
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name].to(tensor.dtype), rtol=0, atol=0, msg=name)


def bert(by: float) -> Any:
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    return moved(transformers.BertModel(config), by)


def dense(by: float) -> Any:
    return moved(torch.nn.Linear(8, 4), by)


def embedder(folder: Path, by: float) -> None:
    """Write a sentence-transformers model as the library does, without it."""
    bert(by).save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True}
    linear = {
        "in_features": 8,
        "out_features": 4,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    configs = {"modules.json": modules, "1_Pooling/config.json": pooling}
    for name, content in (configs | {"2_Dense/config.json": linear}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    state = {f"linear.{name}": t.detach() for name, t in dense(by).named_parameters()}
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(state, folder / "2_Dense" / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("shard_size", ["1KB", "5GB"])
def test_transformers_loads_the_root_of_sentence_transformers(
    tmp_path: Path, shard_size: str
) -> None:
    embedder(tmp_path / "base", 0)
    embedder(tmp_path / "ft", 5)
    model, info = transformers.AutoModel.from_pretrained(
        merged(tmp_path, shard_size=shard_size), output_loading_info=True
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[key], key
    same(model, bert(2))


@pytest.mark.parametrize("shard_size", ["1KB", "5GB"])
def test_sentence_transformers_loads_a_merged_model(tmp_path: Path, shard_size: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    embedder(tmp_path / "base", 0)
    embedder(tmp_path / "ft", 5)
    model = library.SentenceTransformer(str(merged(tmp_path, shard_size=shard_size)), device="cpu")
    same(model[0].auto_model, bert(2))
    same(model[2].linear, dense(2))
    assert model.encode(["a b"]).shape == (1, 4)


def diffusion(folder: Path, by: float) -> None:
    library = pytest.importorskip("diffusers")
    parts = networks(library, by)
    pipeline = library.StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer(),
        scheduler=library.PNDMScheduler(steps_offset=1, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, max_shard_size="50KB")


def tokenizer() -> Any:
    vocab = {word: i for i, word in enumerate(("<|startoftext|>", "<|endoftext|>", "a</w>"))}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[])


def networks(library: Any, by: float) -> dict[str, Any]:
    unet = library.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = library.AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8
    )
    config = transformers.CLIPTextConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
    )
    text_encoder = transformers.CLIPTextModel(config)
    found = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
    return {name: moved(model, by) for name, model in found.items()}


@pytest.mark.filterwarnings("ignore:::diffusers")
@pytest.mark.parametrize("shard_size", ["20KB", "5GB"])
def test_diffusers_loads_a_merged_pipeline(tmp_path: Path, shard_size: str) -> None:
    library = pytest.importorskip("diffusers")
    diffusion(tmp_path / "base", 0)
    diffusion(tmp_path / "ft", 5)
    assert (tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors.index.json").exists()
    out = merged(tmp_path, shard_size=shard_size)
    found = library.StableDiffusionPipeline.from_pretrained(out)
    expected = networks(library, 2)
    for name, model in expected.items():
        same(getattr(found, name), model)
    one, info = library.UNet2DConditionModel.from_pretrained(
        out, subfolder="unet", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    same(one, expected["unet"])
