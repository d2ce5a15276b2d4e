"""The keys of an adapter's file, sorted: factors by module, and the rest by the base's names.

PEFT wraps modules, so a key is the base's name with the wrappers' attributes in it:
`base_model.model.` before everything, `base_layer` where a module was wrapped, the adapter's own
name in older files. All of that is dropped here, and a key that means nothing known is refused.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace

from taskalg.checkpoints.adapter_config import MERGE
from taskalg.checkpoints.base import TensorSpec
from taskalg.errors import CheckpointError, listed, quoted

EMBEDDING_A = "lora_embedding_A"
FACTORS = {"lora_A": "lora_B", EMBEDDING_A: "lora_embedding_B"}  # right factor: left factor
BIAS = "lora_B.bias"

_PREFIX = "base_model.model."
_PARTS = {*FACTORS, *FACTORS.values()}
_WRAPPED, _ORIGINAL, _SAVED = "base_layer", "original_module", "modules_to_save"


@dataclass(frozen=True)
class Keys:
    """What an adapter's file holds."""

    path: str  # of the adapter, as the user gave it
    modules: dict[str, dict[str, TensorSpec]] = field(default_factory=dict)  # factors by their part
    whole: dict[str, TensorSpec] = field(default_factory=dict)  # by the base's name, which it has
    wrapped: set[str] = field(default_factory=set)  # of those: what products are added to
    nested: set[str] = field(default_factory=set)  # modules with adapted modules inside


def sort_keys(specs: Iterable[TensorSpec], path: str) -> Keys:
    """Sort the tensors of an adapter's file by what their keys mean.

    Raises:
        CheckpointError: a key means nothing known, two mean the same, or it holds two adapters.
    """
    keys, adapters = Keys(path), dict[str, None]()
    others = []
    for spec in specs:
        parts = spec.name.removeprefix(_PREFIX).split(".")
        at = next((i for i, part in enumerate(parts) if part in _PARTS), None)
        if at is None:
            others.append((parts, spec))
            continue
        part, adapter = _factor(parts[at:], spec, path)
        adapters |= {adapter: None} if adapter else {}
        _add_factor(keys, parts[:at], part, spec)
    if len(adapters) > 1:
        names = _names(list(adapters))
        raise refused(path, f"holds several, {names}", help="save each in a folder of its own")
    for parts, spec in sorted(others, key=lambda other: _SAVED in other[0]):
        _add_whole(keys, parts, spec, adapters or {"default"})
    return keys


def _factor(parts: list[str], spec: TensorSpec, path: str) -> tuple[str, str | None]:
    """Return which factor a key means, and the adapter's name if it is in the key."""
    part, *rest = parts
    ends: dict[tuple[str, ...], str] = {("weight",): part}
    if part == "lora_B":
        ends["bias",] = BIAS
    if part.startswith("lora_embedding"):
        ends = {(): part}
    for adapter, end in ((None, rest), (rest[0] if rest else None, rest[1:])):
        if tuple(end) in ends:
            return ends[tuple(end)], adapter
    raise unexpected(path, [spec.name])


def _add_factor(keys: Keys, module: list[str], part: str, spec: TensorSpec) -> None:
    if _WRAPPED in module:
        keys.nested.add(".".join(module[: module.index(_WRAPPED)]))
    name = ".".join(word for word in module if word != _WRAPPED)
    if keys.modules.setdefault(name, {}).setdefault(part, spec) is not spec:
        raise refused(keys.path, f"holds {part} of {quoted(name)} twice")


def _add_whole(keys: Keys, parts: list[str], spec: TensorSpec, adapters: Container[str]) -> None:
    if _ORIGINAL in parts:
        return  # what the base had in place of a module that is stored whole
    saved = _SAVED in parts[:-1]
    if saved:
        at = parts.index(_SAVED)
        rest = parts[at + 1 :]
        parts = parts[:at] + (rest[1:] if len(rest) > 1 and rest[0] in adapters else rest)
    name = ".".join(word for word in parts if word != _WRAPPED)
    if name in keys.whole:
        if saved:
            return  # `bias="all"` stores the biases of such modules again
        raise refused(keys.path, f"holds {quoted(name)} twice")
    keys.whole[name] = replace(spec, name=name)
    if _WRAPPED in parts:
        keys.wrapped.add(name)


def unexpected(path: str, names: list[str]) -> CheckpointError:
    """Return the refusal of tensors that have no meaning in a LoRA adapter."""
    count = "a tensor" if len(names) == 1 else f"{len(names):,} tensors"
    return CheckpointError(
        f"the adapter {quoted(path)} holds {count} that no LoRA adapter with its config has",
        note=f"found {_names(names)}",
        help=MERGE,
    )


def refused(
    path: str, words: str, note: str | None = None, help: str | None = None
) -> CheckpointError:
    """Return the refusal of an adapter, the rest of the sentence given."""
    return CheckpointError(f"the adapter {quoted(path)} {words}", note=note, help=help)


def _names(names: list[str]) -> str:
    return listed([quoted(name) for name in names])
