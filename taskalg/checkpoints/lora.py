"""A PEFT LoRA adapter's folder to a task vector that stays factored: `scale * B @ A` by weight.

Adding adapters has to add their products, never their factors: `(B1 + B2) @ (A1 + A2)` has cross
terms that nobody trained. So a product is one tensor here, computed where it is needed, and nothing
beyond this file sees a factor as a tensor. What PEFT stores whole beside the factors (a trained
head, biases, embeddings) replaces the base's tensor. Names come from the file's keys; rejected:
`target_modules` of the config, which cannot be resolved without the model's code.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from taskalg import files
from taskalg.checkpoints.adapter_config import (
    CONFIG_NAME,
    AdapterConfig,
    check_work,
    read_config,
)
from taskalg.checkpoints.adapter_keys import (
    BIAS,
    EMBEDDING_A,
    FACTORS,
    Keys,
    refused,
    sort_keys,
    unexpected,
)
from taskalg.checkpoints.base import Checkpoint, LowRank, Opening, TensorSpec
from taskalg.checkpoints.quantized import refuse_quantized
from taskalg.checkpoints.safetensors import ShardHeader, read_header
from taskalg.dtypes import F64
from taskalg.errors import CheckpointError, quoted

WEIGHTS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"
# Modules that PEFT stores whole without being asked, when a vocabulary grew.
_EMBEDDINGS = {"embed_tokens", "lm_head", "wte", "word_embeddings", "shared", "embed_in"}
_EMBEDDINGS |= {"embed_out", "tok_embeddings", "tokens_embed", "embeddings"}


def is_adapter(path: str) -> bool:
    """Tell whether a path is an adapter's folder, or a file of weights in one."""
    named = files.is_folder(path) or Path(path).name in (WEIGHTS_NAME, PICKLE_NAME)
    return named and files.exists(_folder(path) / CONFIG_NAME)


def open_adapter(path: str, opening: Opening) -> Checkpoint:
    """Open a LoRA adapter as a task vector.

    Args:
        path: its folder, or the file of weights in it.
        opening: what the user allows; older adapters are pickles.

    Raises:
        CheckpointError: it is damaged, or more than products and what is stored beside them.
    """
    folder = _folder(path)
    config = read_config(folder, path)
    header = _read_weights(folder, path, opening)
    refuse_quantized({spec.name: spec for spec in header.tensors}, path)
    keys = sort_keys(header.tensors, path)
    check_work(config, list(keys.modules))
    _check_expected(keys, config)
    tensors = {spec.name: spec for spec in _products(keys, config)}
    tensors |= {name: spec for name, spec in keys.whole.items() if name not in tensors}
    if not tensors:
        raise refused(path, "holds no tensors")
    return Checkpoint(
        path,
        folder,
        (header.shard,),
        tensors,
        is_task_vector=True,
        is_sparse=True,
        whole=frozenset(keys.whole),
        notes=(*config.notes, *header.notes),
    )


def _folder(path: str) -> Path:
    return Path(path) if files.is_folder(path) else Path(path).parent


def _read_weights(folder: Path, path: str, opening: Opening) -> ShardHeader:
    names = files.list_folder(folder)
    if "model.safetensors" in names or "model.safetensors.index.json" in names:
        raise CheckpointError(
            f"{quoted(path)} holds a model and an adapter",
            note=f"some loaders take the model alone, some put the adapter of {CONFIG_NAME} on it",
            help="give one of them a folder of its own",
        )
    given = [] if files.is_folder(path) else [Path(path).name]
    found = next((name for name in (*given, WEIGHTS_NAME, PICKLE_NAME) if name in names), None)
    if found is None:
        raise CheckpointError(f"{quoted(path)} has no {WEIGHTS_NAME}")
    if found == WEIGHTS_NAME:
        return read_header(folder / found)
    if not opening.allow_pickle:
        raise CheckpointError(
            f"the weights of {quoted(path)} are a PyTorch pickle, {PICKLE_NAME}",
            note="that is a program that can do anything when it is loaded",
            help="add --allow-pickle: then torch reads the tensors in it, and refuses all else",
        )
    from taskalg.checkpoints.pickled import read_pickle  # nothing else here needs it

    return read_pickle(folder / found)


def _check_expected(keys: Keys, config: AdapterConfig) -> None:
    names = [name for name in keys.whole if not _is_expected(name, keys, config)]
    if names:
        raise unexpected(keys.path, names)


def _is_expected(name: str, keys: Keys, config: AdapterConfig) -> bool:
    """Tell whether PEFT stores such a tensor whole, as the config is."""
    *modules, last = name.split(".")
    if last == "bias" and config.bias != "none":
        return True
    if name in keys.wrapped and ".".join(modules) in keys.modules:
        return True
    if modules and modules[-1] in _EMBEDDINGS:
        return True
    paths = (".".join(modules[: end + 1]) for end in range(len(modules)))
    return any(path.endswith(config.whole) for path in paths)


def _products(keys: Keys, config: AdapterConfig) -> Iterator[TensorSpec]:
    for module, held in keys.modules.items():
        for right, left in FACTORS.items():
            if right in held or left in held:
                yield _product(keys, config, module, right)
        if BIAS in held:
            yield _bias(keys, config, module)


def _product(keys: Keys, config: AdapterConfig, module: str, right: str) -> TensorSpec:
    held, left = keys.modules[module], FACTORS[right]
    a, b = held.get(right), held.get(left)
    if a is None or b is None:
        there, missing = (right, left) if b is None else (left, right)
        raise refused(keys.path, f"has {there} without {missing} for {quoted(module)}")
    _check_factors(keys.path, module, a, b)
    rank = config.rank_of(module)
    if b.shape[1] != rank:
        raise refused(
            keys.path,
            f"has factors of rank {b.shape[1]} for {quoted(module)}",
            note=f"its config says {rank}, in r or in rank_pattern",
        )
    linear = len(a.shape) == 2 and right != EMBEDDING_A
    transposed = config.fan_in_fan_out if linear else right == EMBEDDING_A
    shape = (b.shape[0], *a.shape[1:])
    last = "in_proj_weight" if module in keys.nested else "weight"
    return _computed(
        keys,
        f"{module}.{last}".removeprefix("."),
        shape[::-1] if transposed else shape,
        LowRank(a, b, config.scale_of(module, rank), transposed),
    )


def _bias(keys: Keys, config: AdapterConfig, module: str) -> TensorSpec:
    """Return what `lora_bias` adds: the product of the bias and a 1."""
    bias, left = keys.modules[module][BIAS], keys.modules[module].get(FACTORS["lora_A"])
    if left is None or len(bias.shape) != 1 or not bias.dtype.is_floating:
        raise unexpected(keys.path, [bias.name])
    factors = LowRank(None, bias, config.scale_of(module, left.shape[1]), transposed=False)
    return _computed(keys, f"{module}.bias".removeprefix("."), bias.shape, factors)


def _check_factors(path: str, module: str, a: TensorSpec, b: TensorSpec) -> None:
    note = f"A is {a.shape} in {a.dtype}, B is {b.shape} in {b.dtype}"
    if min(len(a.shape), len(b.shape)) < 2 or 0 in a.shape + b.shape:
        raise refused(
            path,
            f"holds only a part of the factors for {quoted(module)}",
            note=note,
            help="save it again with the shards of DeepSpeed or FSDP gathered",
        )
    rank, inner = a.shape[0], b.shape[1]
    if len(a.shape) > 2 and inner < rank and rank % inner == 0:
        raise refused(
            path, f"adapts {quoted(module)}, a convolution in groups, which is no product", note
        )
    fit = inner == rank and len(a.shape) == len(b.shape) and set(b.shape[2:]) <= {1}
    if not fit or not (a.dtype.is_floating and b.dtype.is_floating):
        raise refused(path, f"has factors for {quoted(module)} that do not multiply", note)


def _computed(keys: Keys, name: str, shape: tuple[int, ...], factors: LowRank) -> TensorSpec:
    """Return the tensor of a product; what is stored for it in place of the base's comes first."""
    onto = keys.whole.get(name)
    if onto is not None and not (
        name in keys.wrapped and onto.shape == shape and onto.dtype.is_floating
    ):
        raise refused(
            keys.path,
            f"holds {quoted(name)} both whole and as factors",
            note=f"they are {onto.shape} in {onto.dtype} and {shape}",
        )
    nbytes = math.prod(shape) * F64.itemsize
    factors = replace(factors, onto=onto)
    return TensorSpec(name, F64, shape, factors.b.shard, 0, nbytes, factors)
