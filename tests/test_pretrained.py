"""Models evaluated without a file: they are what transformers loads from the file."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import taskalg as ta

torch = pytest.importorskip("torch", reason="models are made with torch")
transformers = pytest.importorskip("transformers", reason="models are made with transformers")

from tests.hub_server import Hub  # noqa: E402
from tests.test_hub import hub, server  # noqa: E402, F401
from tests.test_transformers import bert, gpt2, save_all, t5  # noqa: E402

EXPRESSION = "base + 0.4*ft"


def llama(seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        dtype="bfloat16",
    )
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16)


def classifier(seed: int) -> Any:
    torch.manual_seed(seed)
    config = bert(seed).config
    config.num_labels = 3
    return transformers.BertForSequenceClassification(config)


FAMILIES = {
    "gpt2": (gpt2, "AutoModelForCausalLM"),
    "llama": (llama, "AutoModelForCausalLM"),
    "bert": (bert, "AutoModelForMaskedLM"),
    "classifier": (classifier, "AutoModelForSequenceClassification"),
    "t5": (t5, "AutoModelForSeq2SeqLM"),
}


def saved(folder: Path, make: Any) -> dict[str, Path]:
    for seed, name in enumerate(("base", "ft")):
        make(seed).save_pretrained(folder / name)
    return {name: folder / name for name in ("base", "ft")}


def arguments(family: str) -> dict[str, Any]:
    ids = torch.arange(8)[None]
    return {"input_ids": ids} | ({"decoder_input_ids": ids} if family == "t5" else {})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_it_is_the_model_that_is_loaded_from_the_saved_folder(
    tmp_path: Path, family: str, dtype: str | None
) -> None:
    make, auto = FAMILIES[family]
    paths = saved(tmp_path, make)
    bound: dict[str, Any] = {"base": paths["base"], "tasks": {"ft": paths["ft"]}}
    ta.compile(EXPRESSION, **bound).save(tmp_path / "out", dtype=dtype)
    wanted = getattr(transformers, auto).from_pretrained(tmp_path / "out")
    found = ta.from_pretrained(EXPRESSION, dtype=dtype, **bound)
    assert type(found) is type(wanted)
    assert not found.training
    assert found.dtype == wanted.dtype
    compare(found, wanted)
    for parameter in wanted.parameters():  # where a file's lie, BLAS may choose other kernels
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        ours, theirs = (model(**arguments(family)).logits for model in (found, wanted))
    assert torch.equal(ours, theirs)


def compare(found: Any, wanted: Any) -> None:
    ours, theirs = found.state_dict(), wanted.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[n].dtype == t.dtype and torch.equal(ours[n], t) for n, t in theirs.items())
    buffers = dict(found.named_buffers())
    assert buffers.keys() == dict(wanted.named_buffers()).keys()
    assert all(torch.equal(buffers[name], buffer) for name, buffer in wanted.named_buffers())
    assert tied(ours) == tied(theirs)
    left_out = ("transformers_version", "_name_or_path")
    configs = [model.config.to_dict() for model in (found, wanted)]
    assert without(configs[0], left_out) == without(configs[1], left_out)
    if wanted.can_generate():
        settings = [model.generation_config.to_dict() for model in (found, wanted)]
        assert without(settings[0], left_out) == without(settings[1], left_out)


def tied(state: dict[str, Any]) -> list[list[str]]:
    places = [tensor.data_ptr() for tensor in state.values()]
    return [[name for name, t in state.items() if t.data_ptr() == place] for place in places]


def without(config: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


@pytest.mark.parametrize("has_file", [True, False])
def test_how_it_generates_is_the_donor_s(tmp_path: Path, has_file: bool) -> None:
    paths = saved(tmp_path, gpt2)
    path = paths["base"] / "generation_config.json"
    if has_file:
        settings = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(settings | {"max_new_tokens": 7}), "utf-8")
    else:
        path.unlink()
    ta.compile(EXPRESSION, base=paths["base"], tasks={"ft": paths["ft"]}).save(tmp_path / "out")
    wanted = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    found = ta.from_pretrained(EXPRESSION, base=paths["base"], tasks={"ft": paths["ft"]})
    compare(found, wanted)
    assert (found.generation_config.max_new_tokens == 7) is has_file


def test_a_head_that_is_stored_beside_its_embedding_stays_tied(tmp_path: Path) -> None:
    paths = saved(tmp_path, gpt2)
    for seed, name in enumerate(paths):
        (paths[name] / "model.safetensors").unlink()
        save_all(gpt2(seed), paths[name] / "model.safetensors")
    model = ta.from_pretrained("base + 0.4*ft", base=paths["base"], tasks={"ft": paths["ft"]})
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("name", ["AutoModelForCausalLM", "GPT2LMHeadModel", "AutoModel"])
def test_the_class_may_be_chosen(tmp_path: Path, name: str) -> None:
    paths = saved(tmp_path, gpt2)
    chosen = getattr(transformers, name)
    model = ta.from_pretrained("(base + ft)/2", models=paths, model_class=chosen)
    ta.compile("(base + ft)/2", models=paths).save(tmp_path / "out")
    compare(model, chosen.from_pretrained(tmp_path / "out"))


def test_a_recipe_and_models_in_memory_are_sources(tmp_path: Path) -> None:
    paths = saved(tmp_path, gpt2)
    recipe = ta.compile("base + λ*ft", base=paths["base"], tasks={"ft": gpt2(1)}, set={"λ": 0.4})
    wanted = ta.from_pretrained(
        "base + λ*ft", base=paths["base"], tasks={"ft": paths["ft"]}, set={"λ": 0.4}
    )
    compare(ta.from_pretrained(recipe), wanted)
    with pytest.raises(ta.UsageError, match="bound already"):
        ta.from_pretrained(recipe, base=paths["base"])
    with pytest.raises(ta.UsageError, match="'<GPT2LMHeadModel>' has no config"):
        ta.from_pretrained("base", base=gpt2(1))


def test_a_recipe_file_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "recipe.ta").write_text('base = checkpoint("base")\n2*base - base', "utf-8")
    paths = saved(tmp_path, gpt2)
    wanted = transformers.AutoModelForCausalLM.from_pretrained(paths["base"])
    compare(ta.from_pretrained(tmp_path / "recipe.ta"), wanted)


def test_models_on_the_hub_are_sources(tmp_path: Path, hub: Hub) -> None:  # noqa: F811
    paths = saved(tmp_path, gpt2)
    for name, path in paths.items():
        hub.put(f"org/{name}", {file.name: file.read_bytes() for file in path.iterdir()})
    found = ta.from_pretrained(EXPRESSION, base="org/base", tasks={"ft": "org/ft"})
    compare(found, ta.from_pretrained(EXPRESSION, base=paths["base"], tasks={"ft": paths["ft"]}))


def test_tensors_are_taken_over_and_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, int] = {}

    def state_dict(self: ta.Recipe, **options: Any) -> dict[str, Any]:
        state = real(self, **options)
        given.update({name: tensor.data_ptr() for name, tensor in state.items()})
        return state

    real = ta.Recipe.state_dict
    monkeypatch.setattr(ta.Recipe, "state_dict", state_dict)
    paths = saved(tmp_path, llama)
    model = ta.from_pretrained("base", base=paths["base"])
    assert given == {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}


def test_what_is_no_model_or_lacks_weights_is_told(tmp_path: Path) -> None:
    paths = saved(tmp_path, gpt2)
    with pytest.raises(ta.KindError, match="a task vector is not a model"):
        ta.from_pretrained("ft - base", models=paths)
    with pytest.raises(ta.MismatchError, match=r"lacks tensors of GPT2For.*\n.*score.weight"):
        wanted = transformers.AutoModelForSequenceClassification
        ta.from_pretrained("base", models=paths, model_class=wanted)
    with pytest.raises(ta.UsageError, match="AutoModelForMaskedLM has no model for a GPT2Config"):
        ta.from_pretrained("base", models=paths, model_class=transformers.AutoModelForMaskedLM)
    with pytest.raises(ta.UsageError, match="BertModel has no model for a GPT2Config"):
        ta.from_pretrained("base", models=paths, model_class=transformers.BertModel)
    with pytest.raises(ta.UsageError, match="is a class of transformers, found 'AutoModel'"):
        ta.from_pretrained("base", models=paths, model_class="AutoModel")
    with pytest.raises(ta.UsageError, match="torch makes no models of f8_e4m3"):
        ta.from_pretrained("base", models=paths, dtype="f8_e4m3")
    with pytest.raises(ta.UsageError, match="'meta' holds no numbers"):
        ta.from_pretrained("base", models=paths, device="meta")
    path = paths["base"] / "config.json"
    config = json.loads(path.read_text("utf-8"))
    for strange in ([7], ["logging"], None):  # no class, so that of all such configs
        path.write_text(json.dumps(config | {"architectures": strange}), "utf-8")
        found = ta.from_pretrained("base", models=paths)
        assert type(found) is transformers.GPT2Model
    path.write_text(json.dumps(config | {"n_embd": 16}), "utf-8")
    with pytest.raises(ta.MismatchError, match="cannot make a GPT2LMHeadModel"):
        ta.from_pretrained("base", models=paths)
    path.write_text(json.dumps(config | {"model_type": "unheard-of"}), "utf-8")
    with pytest.raises(ta.CheckpointError, match="transformers cannot read"):
        ta.from_pretrained("base", models=paths)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ta.UsageError) as caught:
        ta.from_pretrained("base", base="nowhere")
    assert str(caught.value) == (
        "from_pretrained needs transformers, which is not installed\n"
        "  help: run: python -m pip install 'transformers>=5.0'"
    )
