"""An adapter's products turned the way round that the model they meet has its weights.

GPT-2 and its kin hold linear weights as `(in, out)`, all others as `(out, in)`. PEFT records that
in one `fan_in_fan_out` for the whole adapter, and leaves there what the last adapted module needed:
with `c_attn` and `lm_head` adapted it is wrong for one of them. So shapes decide. A square weight
fits both ways, and there decide, in this order: the kind of model, other modules of the same name,
and the config if nothing contradicts it. Rejected: believing the config, which merges a square
weight transposed and says nothing.
"""

from collections.abc import Mapping
from dataclasses import replace

from taskalg import files
from taskalg.checkpoints.adapter_config import MERGE
from taskalg.checkpoints.adapter_keys import EMBEDDING_A
from taskalg.checkpoints.base import Checkpoint, TensorSpec
from taskalg.checkpoints.index import read_json
from taskalg.errors import MismatchError, quoted

# The models of transformers 5 that have `(in, out)` weights, and the modules that hold them.
_TURNED_MODELS = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder"}
_TURNED_MODULES = {"c_attn", "c_fc", "c_proj", "q_attn"}


def turned(adapter: Checkpoint, model: Checkpoint) -> Checkpoint:
    """Return an adapter whose linear products lie as the tensors of a model do.

    Args:
        adapter: with the model's names.
        model: what it is added to.

    Returns:
        The adapter itself when all lie so already. Shapes that fit neither way are left alone.

    Raises:
        MismatchError: a square product can lie either way, and nothing tells which.
        CheckpointError: the model's config.json is needed and is none.
    """
    linear = {
        name: spec
        for name, spec in adapter.tensors.items()
        if name in model.tensors and _is_linear(spec)
    }
    lies_right: dict[str, bool] = {}
    for name, spec in linear.items():
        ways = [spec.shape, spec.shape[::-1]]
        if ways[0] != ways[1] and model.tensors[name].shape in ways:
            lies_right[name] = model.tensors[name].shape == spec.shape
    square = {name: spec for name, spec in linear.items() if spec.shape == spec.shape[::-1]}
    if square:
        kind = _model_type(model)
        found = {name: _lies_right(name, spec, kind, lies_right) for name, spec in square.items()}
        lies_right = lies_right | found
    if all(lies_right.values()):
        return adapter
    tensors = {
        name: spec if lies_right.get(name, True) else _turned(spec)
        for name, spec in adapter.tensors.items()
    }
    return replace(adapter, tensors=tensors)


def lies_turned(name: str, model_type: str | None) -> bool:
    """Tell whether a kind of model holds a linear weight as `(in, out)`."""
    return model_type in _TURNED_MODELS and _module(name) in _TURNED_MODULES


def _is_linear(spec: TensorSpec) -> bool:
    """Tell whether a product is of a module whose weights can lie either way."""
    a = None if spec.factors is None else spec.factors.a
    return a is not None and len(a.shape) == 2 and EMBEDDING_A not in a.name.split(".")


def _model_type(model: Checkpoint) -> str | None:
    if model.folder is None or not files.exists(model.folder / "config.json"):
        return None
    kind = read_json(model.folder / "config.json").get("model_type")
    return kind if isinstance(kind, str) else None


def _lies_right(name: str, spec: TensorSpec, kind: str | None, others: Mapping[str, bool]) -> bool:
    """Tell whether a square product lies as its tensor does; `others` says it of the rest."""
    assert spec.factors is not None
    if kind in _TURNED_MODELS:
        return spec.factors.transposed == lies_turned(name, kind)
    alike = {right for other, right in others.items() if _module(other) == _module(name)}
    if len(alike) == 1:
        return alike.pop()
    wrong = next((other for other, right in others.items() if not right), None)
    if wrong is None:
        return True
    raise MismatchError(
        f"nothing tells which way round the adapter's product for {quoted(name)} lies",
        note=f"it is square, and what the adapter says of all is wrong for {quoted(wrong)}",
        help=MERGE,
    )


def _module(name: str) -> str:
    return name.rpartition(".")[0].rpartition(".")[2]


def _turned(spec: TensorSpec) -> TensorSpec:
    assert spec.factors is not None
    factors = replace(spec.factors, transposed=not spec.factors.transposed)
    return replace(spec, shape=spec.shape[::-1], factors=factors)
