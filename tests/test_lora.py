"""PEFT adapters: read as PEFT means them, and refused where that is not a sum of products.

The meaning is checked against PEFT itself: tiny models are adapted, everything that trains gets
random numbers, and what PEFT merges in float64 is held against the factors that were read.
"""

import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from peft.utils.other import get_pattern_key
from torch import nn

from taskalg import CheckpointError
from taskalg.checkpoints.adapter_config import KNOWN, read_config
from taskalg.checkpoints.base import Checkpoint, Opening, TensorSpec
from taskalg.checkpoints.orientation import turned
from taskalg.checkpoints.registry import open_checkpoint
from taskalg.dtypes import F64
from tests.strategies import examples

Doubles = NDArray[np.float64]
SMALL: dict[str, Any] = {"vocab_size": 11, "num_hidden_layers": 2, "num_attention_heads": 2}


def gpt2(**options: Any) -> Any:
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=7, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    config.update(options)
    return transformers.GPT2LMHeadModel(config)


def llama(**options: Any) -> Any:
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=12, num_key_value_heads=1, **SMALL, **options
    )
    return transformers.LlamaForCausalLM(config)


def bert(**options: Any) -> Any:
    config = transformers.BertConfig(
        hidden_size=8, intermediate_size=12, max_position_embeddings=9, **SMALL, **options
    )
    return transformers.BertForSequenceClassification(config)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(4, 6, 3)
        self.plane = nn.Conv2d(4, 6, (3, 2))
        self.point = nn.Conv2d(4, 6, 1)
        self.space = nn.Conv3d(4, 6, 2)
        self.head = nn.Linear(6, 2)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 2)


def trained(model: Any, folder: Path, seed: int = 0, **options: Any) -> Any:
    """Adapt a model and train it, in a manner of speaking; save the base and the adapter."""
    torch.manual_seed(seed)
    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice about the options under test
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(folder / "base")
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        adapted = peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, **options}))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data.normal_()
        adapted.save_pretrained(str(folder / "style"))
    return state, adapted


def merged(adapted: Any) -> dict[str, Doubles]:
    """Return the weights that PEFT merges in float64."""
    state = adapted.double().merge_and_unload().state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


def stored(checkpoint: Checkpoint, spec: TensorSpec) -> Doubles:
    """Read a stored tensor's elements, by nothing of what is tested."""
    content = checkpoint.shards[spec.shard].path.read_bytes()
    data = bytearray(content[spec.offset : spec.offset + spec.nbytes])
    tensor = torch.frombuffer(data, dtype=getattr(torch, spec.dtype.torch))
    return tensor.double().numpy().reshape(spec.shape)


def elements(checkpoint: Checkpoint, spec: TensorSpec) -> Doubles:
    """Return a tensor's elements, nearly: those of a product by a matrix product."""
    if spec.factors is None:
        return stored(checkpoint, spec)
    factors = spec.factors
    b = stored(checkpoint, factors.b)
    a = np.ones((1, 1)) if factors.a is None else stored(checkpoint, factors.a)
    product = factors.scale * (b.reshape(len(b), -1) @ a.reshape(len(a), -1))
    product = (product.T if factors.transposed else product).reshape(spec.shape)
    return product if factors.onto is None else product + stored(checkpoint, factors.onto)


# ---- What PEFT means

R = {"r": 2, "lora_alpha": 3}
ALL = {"target_modules": "all-linear"}
SPECIAL: dict[str, Any] = {
    "rank_pattern": {"down_proj": 1, r".*\.layers\.1\.self_attn\.(q|k)_proj": 3, "up_proj": 4},
    "alpha_pattern": {"model.layers.0.mlp.up_proj": 5, "^model.layers.[0-9].mlp.gate_proj": 7},
}
MEANT: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "linear": (llama, {**R, "target_modules": ["q_proj", "v_proj"]}),
    "one module by a pattern": (llama, {"target_modules": r".*\.1\.mlp\.(up|down)_proj"}),
    "rank-stabilized": (llama, {"r": 3, "lora_alpha": 5, "use_rslora": True, **ALL}),
    "ranks and alphas": (llama, {**R, **ALL, **SPECIAL}),
    "ranks and alphas, rank-stabilized": (llama, {**R, **ALL, **SPECIAL, "use_rslora": True}),
    "some layers": (llama, {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "some modules not": (llama, {**ALL, "exclude_modules": ["v_proj", "down_proj"]}),
    "Conv1D": (gpt2, {"target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}),
    "Conv1D, not said": (gpt2, {"target_modules": ["c_attn", "c_fc", "c_proj"]}),
    "Conv1D, then linear": (
        lambda: gpt2(tie_word_embeddings=False),
        {"target_modules": ["c_attn", "c_proj", "lm_head"]},
    ),
    "linear, said to be Conv1D": (llama, {**ALL, "fan_in_fan_out": True}),
    "embeddings": (bert, {"target_modules": ["word_embeddings", "query"]}),
    "embeddings with copies": (llama, {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "all biases": (bert, {"target_modules": ["query", "dense"], "bias": "all"}),
    "all biases and a head": (bert, {**ALL, "bias": "all", "task_type": "SEQ_CLS"}),
    "biases of its own": (bert, {"target_modules": ["query"], "bias": "lora_only"}),
    "bias as a factor": (bert, {**R, "target_modules": ["query"], "lora_bias": True}),
    "bias as a factor, too": (
        bert,
        {**R, "target_modules": ["query"], "lora_bias": True, "bias": "lora_only"},
    ),
    "modules stored whole": (
        bert,
        {"target_modules": ["query"], "modules_to_save": ["pooler", "word_embeddings"]},
    ),
    "convolutions": (
        Convolutions,
        {**R, "target_modules": ["line", "plane", "point", "space"], "modules_to_save": ["head"]},
    ),
    "convolutions with biases": (
        Convolutions,
        {**R, "target_modules": ["line", "plane", "head"], "lora_bias": True},
    ),
    "MiCA": (llama, {**ALL, "init_lora_weights": "mica"}),
    "orthogonal": (llama, {**ALL, "init_lora_weights": "orthogonal"}),
    "gaussian": (llama, {**ALL, "init_lora_weights": "gaussian"}),
}


@pytest.mark.parametrize(("make", "options"), MEANT.values(), ids=MEANT)
def test_products_and_whole_tensors_are_what_peft_merges(
    tmp_path: Path, make: Callable[[], Any], options: dict[str, Any]
) -> None:
    state, adapted = trained(make(), tmp_path, **options)
    expected = merged(adapted)
    adapter = open_checkpoint(tmp_path / "style")
    if (tmp_path / "base").exists():
        adapter = turned(adapter, open_checkpoint(tmp_path / "base"))
    assert adapter.is_task_vector and adapter.is_sparse and adapter.notes == ()
    assert adapter.tensors.keys() <= expected.keys()
    changed = 0
    for name, now in expected.items():
        found = state[name].double().numpy()
        spec = adapter.tensors.get(name)
        changed += not np.array_equal(found, now)
        assert (spec is not None) or np.array_equal(found, now), name
        if spec is not None:
            assert spec.name == name and spec.shape == now.shape
            found = elements(adapter, spec) + (0 if name in adapter.whole else found)
        np.testing.assert_allclose(found, now, rtol=1e-12, atol=1e-12, err_msg=name)
    assert changed > 0


def test_attention_in_one_module_has_its_product_on_two_parameters(tmp_path: Path) -> None:
    # peft 0.21 adds out_proj's product twice when it merges; its layers say what they mean.
    _, adapted = trained(Attention(), tmp_path, target_modules=["attention"])
    adapter = open_checkpoint(tmp_path / "style")
    layer = adapted.double().base_model.model.attention
    deltas = {"in_proj_weight": layer, "out_proj.weight": layer.base_layer.out_proj}
    assert list(adapter.tensors) == [f"attention.{name}" for name in reversed(deltas)]
    for name, part in deltas.items():
        delta = part.get_delta_weight("default").detach().numpy()
        found = elements(adapter, adapter.tensors[f"attention.{name}"])
        np.testing.assert_allclose(found, delta, rtol=1e-12, atol=1e-12)


def test_a_product_says_what_base_py_promises(tmp_path: Path) -> None:
    trained(gpt2(), tmp_path, target_modules=["c_attn"], lora_alpha=3)
    adapter = open_checkpoint(tmp_path / "style")
    spec = adapter.tensors["transformer.h.1.attn.c_attn.weight"]
    assert list(adapter.tensors) == [f"transformer.h.{n}.attn.c_attn.weight" for n in (0, 1)]
    assert (spec.dtype, spec.shape, spec.shard, spec.offset) == (F64, (8, 24), 0, 0)
    assert (spec.nbytes, spec.bytes_stored) == (8 * 8 * 24, 4 * 2 * (8 + 24))
    assert spec.factors is not None and spec.factors.a is not None
    assert (spec.factors.a.shape, spec.factors.b.shape) == ((2, 8), (24, 2))
    assert (spec.factors.scale, spec.factors.transposed) == (1.5, True)


WORDS = ["a", "b", "1", "a_b", "a-1"]
TOKENS = [".", r"\.", r"\d", r"\w", "[ab]", "[^1]", "|", "(a|b)", "(?:a)?", "^", "$"]
TOKENS += ["*", "+", "?", "{1,2}", ".*"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapter")


@given(
    st.lists(
        st.lists(st.sampled_from(WORDS + TOKENS), min_size=1, max_size=4).map("".join), max_size=3
    ),
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(".".join), min_size=6),
)
@example(["a|b"], ["a", "b", "ab"])
@example([r"\d"], ["1", "d", "a.1"])
@example(["b.a", "a"], ["b.a", "bxa", "a"])
@examples(400)
def test_patterns_choose_as_peft_does(folder: Path, patterns: list[str], names: list[str]) -> None:
    table = {pattern: rank for rank, pattern in enumerate(patterns, 1)}
    config = {"peft_type": "LORA", "r": 99, "rank_pattern": table, "alpha_pattern": table}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    try:
        found = read_config(folder, "style")
    except CheckpointError:
        return
    for name in names:
        rank = table.get(get_pattern_key(list(table), name), 99)
        alpha = table.get(get_pattern_key(list(table), name), 8)
        assert (found.rank_of(name), found.scale_of(name, rank)) == (rank, alpha / rank)


# ---- What is in a file


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


A, B = "base_model.model.layers.0.q.lora_A.weight", "base_model.model.layers.0.q.lora_B.weight"
GOOD = {A: zeros(2, 3), B: zeros(4, 2)}
Written = Mapping[str, torch.Tensor]


def write(folder: Path, tensors: Written | None = None, /, **config: Any) -> Path:
    """Write an adapter by hand: GOOD's tensors, and the least config, unless told otherwise."""
    folder.mkdir(exist_ok=True)
    found = dict(GOOD if tensors is None else tensors)
    safetensors.torch.save_file(found, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, **config}))
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return str(caught.value)


def test_what_a_config_does_not_say_is_what_peft_assumes(tmp_path: Path) -> None:
    path = write(tmp_path / "style", {A: zeros(8, 3), B: zeros(4, 8)})
    (path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    spec = open_checkpoint(path).tensors["layers.0.q.weight"]
    assert spec.shape == (4, 3)
    assert spec.factors is not None and spec.factors.scale == 1 and not spec.factors.transposed


@pytest.mark.parametrize(
    "dtypes", [("float32", "float32"), ("bfloat16", "float16"), ("float64", "float8_e4m3fn")]
)
def test_factors_may_have_any_dtype(tmp_path: Path, dtypes: tuple[str, str]) -> None:
    a, b = (getattr(torch, dtype) for dtype in dtypes)
    path = write(tmp_path / "style", {A: zeros(2, 3).to(a), B: zeros(4, 2).to(b)})
    spec = open_checkpoint(path).tensors["layers.0.q.weight"]
    assert spec.dtype == F64 and spec.nbytes == 8 * 12
    assert spec.bytes_stored == 6 * a.itemsize + 8 * b.itemsize


SAME_KEYS = {
    "as PEFT writes them": lambda key: key,
    "with the adapter's name": lambda key: key.replace(".weight", ".default.weight"),
    "with a name of its own": lambda key: key.replace(".weight", ".my-style.weight"),
    "without the prefix": lambda key: key.removeprefix("base_model.model."),
    "of a wrapped module": lambda key: key.replace(".q.", ".base_layer.q."),
}


@pytest.mark.parametrize("change", SAME_KEYS.values(), ids=SAME_KEYS)
def test_keys_may_have_their_wrappers_in_them(tmp_path: Path, change: Callable[[str], str]) -> None:
    path = write(tmp_path / "style", {change(key): tensor for key, tensor in GOOD.items()})
    assert list(open_checkpoint(path).tensors) == ["layers.0.q.weight"]


def test_older_files_name_the_adapter_of_a_module_stored_whole(tmp_path: Path) -> None:
    head = {
        "base_model.model.score.modules_to_save.default.weight": zeros(2, 3),
        "base_model.model.score.original_module.weight": zeros(2, 3),
    }
    adapter = open_checkpoint(write(tmp_path / "style", {**GOOD, **head}, task_type="SEQ_CLS"))
    assert adapter.whole == {"score.weight"}
    assert list(adapter.tensors) == ["layers.0.q.weight", "score.weight"]


def test_an_adapter_is_known_by_its_file_too(tmp_path: Path) -> None:
    path = write(tmp_path / "style")
    assert open_checkpoint(path / "adapter_model.safetensors").is_sparse
    (path / "adapter_config.json").rename(tmp_path / "config.json")
    said = refusal(path / "adapter_model.safetensors")
    assert "holds the factors of an adapter, in PEFT's layout" in said
    assert "give its folder, with adapter_config.json in it" in said


def test_notes_tell_of_a_quantized_base_and_of_unknown_options(tmp_path: Path) -> None:
    name = "unsloth/llama-3-8b-bnb-4bit"
    path = write(tmp_path / "style", base_model_name_or_path=name, new_option=1, unset=None)
    assert open_checkpoint(path).notes == (
        "it was trained on 'unsloth/llama-3-8b-bnb-4bit', which is quantized",
        "its config sets 'new_option', unknown here and not looked at",
    )
    path = write(tmp_path / "style", base_model_name_or_path="meta-llama/Llama-3.1-8B-Instruct")
    assert open_checkpoint(path).notes == ()


def test_every_option_of_peft_is_known() -> None:
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert fields <= KNOWN


C, D = A.replace("q", "c"), B.replace("q", "c")
BAD_FILES: dict[str, tuple[Written, dict[str, Any], str]] = {
    "nothing": ({}, {}, "holds no tensors"),
    "A without B": ({A: zeros(2, 3)}, {}, "has lora_A without lora_B for 'layers.0.q'"),
    "B without A": ({B: zeros(4, 2)}, {}, "has lora_B without lora_A for 'layers.0.q'"),
    "ranks that differ": ({A: zeros(2, 3), B: zeros(4, 3)}, {}, "that do not multiply"),
    "another rank": (GOOD, {"r": 3}, "of rank 2 for 'layers.0.q'\n  note: its config says 3"),
    "another rank by pattern": (GOOD, {"rank_pattern": {"q": 4}}, "its config says 4"),
    "rank 0": ({A: zeros(0, 3), B: zeros(4, 0)}, {}, "only a part of the factors"),
    "no columns": ({A: zeros(2, 0), B: zeros(4, 2)}, {}, "only a part of the factors"),
    "flat": ({A: zeros(6), B: zeros(4, 2)}, {}, "the shards of DeepSpeed or FSDP gathered"),
    "integers": ({**GOOD, A: zeros(2, 3, dtype=torch.int32)}, {}, "that do not multiply"),
    "groups": ({A: zeros(2, 3, 3), B: zeros(4, 1, 1)}, {}, "a convolution in groups"),
    "two kernels": ({A: zeros(2, 3, 3), B: zeros(4, 2, 3)}, {}, "that do not multiply"),
    "one kernel": ({A: zeros(2, 3, 3), B: zeros(4, 2)}, {}, "that do not multiply"),
    "twice": (
        {**GOOD, A.removeprefix("base_model.model."): zeros(2, 3)},
        {},
        "holds lora_A of 'layers.0.q' twice",
    ),
    "two adapters": (
        {A.replace("_A.", "_A.one."): zeros(2, 3), B.replace("_B.", "_B.two."): zeros(4, 2)},
        {},
        "holds several, 'one' and 'two'",
    ),
    "unexpected": ({**GOOD, "base_model.model.norm.weight": zeros(3)}, {}, "found 'norm.weight'"),
    "unexpected bias": ({**GOOD, "base_model.model.norm.bias": zeros(3)}, {}, "'norm.bias'"),
    "a part of no kind": ({**GOOD, A.replace("weight", "scale"): zeros(3)}, {}, "lora_A.scale'"),
    "magnitudes": (
        {**GOOD, A.replace("lora_A.weight", "lora_magnitude_vector"): zeros(4)},
        {},
        "'layers.0.q.lora_magnitude_vector'",
    ),
    "a flat bias": (
        {**GOOD, B.replace("weight", "bias"): zeros(4, 1)},
        {"lora_bias": True},
        "lora_B.bias'",
    ),
    "whole and as factors": (
        {**GOOD, "base_model.model.layers.0.q.weight": zeros(4, 3)},
        {"modules_to_save": ["q"]},
        "holds 'layers.0.q.weight' both whole and as factors",
    ),
    "a copy of another shape": (
        {**GOOD, "base_model.model.layers.0.q.base_layer.weight": zeros(5, 3)},
        {},
        "note: they are (5, 3) in f32 and (4, 3)",
    ),
    "quantized": (
        {**GOOD, "base_model.model.layers.0.q.base_layer.weight.absmax": zeros(5)},
        {},
        "holds quantized tensors",
    ),
    "type": (GOOD, {"peft_type": "IA3"}, "no LoRA adapter\n  note: its peft_type is 'IA3'"),
    "no type": (GOOD, {"peft_type": None}, "its peft_type is not stated"),
    "prompts": (GOOD, {"peft_type": "PROMPT_TUNING"}, "change the input, not weights"),
    "DoRA": (
        GOOD,
        {"use_dora": True},
        "which is no task vector\n  note: DoRA",
    ),
    "aLoRA": (GOOD, {"alora_invocation_tokens": [1]}, "acts only after certain tokens"),
    "repeated layers": (GOOD, {"layer_replication": [[0, 2], [1, 3]]}, "repeats layers"),
    "parameters by name": (
        GOOD,
        {"target_parameters": ["gate_up_proj"]},
        "by name",
    ),
    "tokens": (GOOD, {"trainable_token_indices": [1]}, "replaces single rows"),
    "tied": (GOOD, {"ensure_weight_tying": True}, "ensure_weight_tying, which"),
    "PiSSA": (GOOD, {"init_lora_weights": "pissa_niter_4"}, "changes the base before training"),
    "OLoRA": (GOOD, {"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
    "CorDA": (GOOD, {"init_lora_weights": "corda"}, "corda changes the base"),
    "LoftQ": (GOOD, {"init_lora_weights": "loftq"}, "loftq changes the base"),
    "LoRA-GA": (GOOD, {"init_lora_weights": "lora_ga"}, "lora_ga changes the base"),
    "another start": (GOOD, {"init_lora_weights": "new"}, "no way to start that is known"),
    "rank of text": (GOOD, {"r": "2"}, "r is not a rank\n  note: found '2'"),
    "rank of truth": (GOOD, {"r": True}, "r is not a rank"),
    "rank with a point": (GOOD, {"r": 2.0}, "r is not a rank"),
    "no rank": (GOOD, {"r": 0}, "r is not a rank"),
    "a huge rank": (GOOD, {"r": 10**4000}, "r is not a rank"),
    "alpha of text": (GOOD, {"lora_alpha": "16"}, "lora_alpha is not a number"),
    "a huge alpha": (GOOD, {"lora_alpha": 10**400}, "lora_alpha is not a number"),
    "truth of text": (GOOD, {"use_rslora": "no"}, "use_rslora is not true or false"),
    "ranks in a list": (GOOD, {"rank_pattern": ["q"]}, "rank_pattern is not an object"),
    "alphas of text": (GOOD, {"alpha_pattern": {"q": "4"}}, "alpha_pattern is not a number"),
    "modules of numbers": (GOOD, {"modules_to_save": [1]}, "modules_to_save is not a list of nam"),
    "an empty module": (GOOD, {"modules_to_save": [""]}, "modules_to_save is not a list of nam"),
    "another bias": (GOOD, {"bias": "some"}, "bias is not 'none'"),
    "a base of numbers": (GOOD, {"base_model_name_or_path": 1}, "is not a string"),
    "a broken pattern": (GOOD, {"rank_pattern": {"(q": 2}}, "is no regular expression"),
    "a pattern that looks ahead": (GOOD, {"rank_pattern": {"(?=q)q": 2}}, "too intricate"),
    "a pattern that explodes": (GOOD, {"alpha_pattern": {"(a+)+b": 2}}, "too intricate"),
    "a long pattern": (GOOD, {"alpha_pattern": {"q" * 401: 2}}, "too intricate"),
    "a slow pattern": (GOOD, {"alpha_pattern": {"a*" * 20 + "b": 2}}, "could take hours"),
    "slow alternatives": (GOOD, {"alpha_pattern": {"(a|a)" * 40 + "b": 2}}, "could take hours"),
    "slow options": (GOOD, {"alpha_pattern": {"a?" * 40 + "b": 2}}, "could take hours"),
    "slow groups": (GOOD, {"alpha_pattern": {"(a)?" * 40 + "b": 2}}, "could take hours"),
    "a long name to match": (
        {A.replace("q", "q" * 500): zeros(2, 3), B.replace("q", "q" * 500): zeros(4, 2)},
        {"alpha_pattern": {"q": 2}},
        "could take hours",
    ),
}


@pytest.mark.parametrize(("tensors", "config", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_what_is_no_sum_of_products_is_refused(
    tmp_path: Path, tensors: Written, config: dict[str, Any], words: str
) -> None:
    said = refusal(write(tmp_path / "style", tensors, **config))
    assert words in said and "'" in said
    assert len(said) < 700


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
OPTION = st.sampled_from([*sorted(KNOWN), "new"])
KEY_WORDS = ["base_model", "model", "q", "lora_A", "lora_B", "lora_embedding_A", "default", "bias"]
KEY_WORDS += ["weight", "base_layer", "modules_to_save", "original_module", "classifier", ""]
KEY = st.lists(st.sampled_from(KEY_WORDS), min_size=1, max_size=6).map(".".join)


def opens_or_is_refused(path: Path) -> None:
    try:
        found = open_checkpoint(path)
    except CheckpointError:
        return
    assert found.tensors and found.whole <= found.tensors.keys()
    for name, spec in found.tensors.items():
        assert spec.name == name
        assert spec.nbytes == math.prod(spec.shape) * spec.dtype.itemsize


@given(st.dictionaries(OPTION, JSON, max_size=4))
@examples(300)
def test_any_config_opens_or_is_refused(folder: Path, config: dict[str, Any]) -> None:
    opens_or_is_refused(write(folder, **config))


@given(st.dictionaries(KEY, st.lists(st.integers(0, 3), max_size=4), max_size=5), st.booleans())
@examples(300)
def test_any_keys_open_or_are_refused(
    folder: Path, shapes: dict[str, list[int]], heads: bool
) -> None:
    options = {"task_type": "SEQ_CLS", "bias": "all"} if heads else {}
    opens_or_is_refused(write(folder, {n: zeros(*shape) for n, shape in shapes.items()}, **options))


def test_options_that_are_not_set_do_no_harm(tmp_path: Path) -> None:
    harmless: dict[str, Any] = {
        "use_dora": False,
        "layer_replication": None,
        "target_parameters": [],
    }
    assert open_checkpoint(write(tmp_path / "style", **harmless)).is_sparse


def test_an_adapter_beside_a_model_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "style")
    (path / "model.safetensors").write_bytes(b"")
    assert "holds a model and an adapter" in refusal(path)


def test_an_older_adapter_is_a_pickle_and_takes_the_user_s_word(tmp_path: Path) -> None:
    path = write(tmp_path / "style")
    plain = open_checkpoint(path)
    (path / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors" in refusal(path)
    torch.save(GOOD, path / "adapter_model.bin")
    for named in (path, path / "adapter_model.bin"):
        assert "are a PyTorch pickle, adapter_model.bin" in refusal(named)
        assert "add --allow-pickle" in refusal(named)
        found = open_checkpoint(named, Opening(allow_pickle=True))
        assert found.is_sparse and found.tensors.keys() == plain.tensors.keys()
        assert found.shards[0].path == path / "adapter_model.bin"


FACTORS = {
    "kohya's": ["lora_unet_down_blocks_0.lora_down.weight", "lora_unet_down_blocks_0.alpha"],
    "LyCORIS's": ["lora_te_text_model.hada_w1_a", "lora_te_text_model.alpha"],
    "an older diffusers'": ["unet.down.to_k.lora.down.weight"],
    "PEFT's": ["unet.down.to_k.lora_A.weight"],
}


@pytest.mark.parametrize(("whose", "names"), FACTORS.items(), ids=FACTORS)
def test_a_file_of_factors_is_no_checkpoint(tmp_path: Path, whose: str, names: list[str]) -> None:
    path = tmp_path / "style.safetensors"
    safetensors.torch.save_file({name: zeros(2, 2) for name in names}, path)
    said = refusal(path)
    assert f"the factors of an adapter, in {whose} layout\n  note: one is '{names[0]}'" in said


def test_a_model_with_adapters_inside_is_a_checkpoint(tmp_path: Path) -> None:
    names = ["qkv.base_layer.weight", "qkv.lora_A.speech.weight", "qkv.lora_B.speech.weight"]
    safetensors.torch.save_file({n: zeros(2, 2) for n in names}, tmp_path / "phi.safetensors")
    assert not open_checkpoint(tmp_path / "phi.safetensors").is_sparse
