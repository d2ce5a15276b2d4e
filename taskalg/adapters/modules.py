"""Which tensors an adapter can hold, and how PEFT calls their factors.

PEFT knows modules, a checkpoint knows names. Factors that come from an adapter have its module
paths; for other tensors the path is the name without `.weight`, an embedding is told by its name,
and a weight that lies `(in, out)` by the kind of model.
"""

import re
from dataclasses import dataclass

from taskalg.checkpoints.adapter_keys import EMBEDDING_A, FACTORS
from taskalg.checkpoints.base import TensorSpec
from taskalg.checkpoints.orientation import lies_turned
from taskalg.planning.plan import Step

_PREFIX = "base_model.model."  # of every key in an adapter's file
# How 553 models of transformers 5.23 call their embeddings of tokens and positions; five call a
# linear layer so.
_EMBEDDING = re.compile(
    r"(?!patch_|class_)(\w+_)?"
    r"(embeddings?|emb|embed|embed_in|embed_positions|wte|wpe|shared|relative_attention_bias)"
    r"|embed_(\w+_)?tokens(_per_layer)?"
)


@dataclass(frozen=True)
class Module:
    """A module that an adapter changes."""

    path: str  # as PEFT sees it
    tensor: str  # name of its weight in the checkpoint
    shape: tuple[int, ...]  # of that
    is_embedding: bool
    is_turned: bool  # the weight is the transpose of `b @ a`

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of `b @ a`; a kernel's dimensions count as columns."""
        first, rest = self.shape[0], 1
        for length in self.shape[1:]:
            rest *= length
        return (rest, first) if self.is_turned else (first, rest)

    def keys(self) -> tuple[str, str]:
        """Return the keys of both factors, `a` first."""
        a = EMBEDDING_A if self.is_embedding else next(iter(FACTORS))
        end = "" if self.is_embedding else ".weight"
        return (f"{_PREFIX}{self.path}.{a}{end}", f"{_PREFIX}{self.path}.{FACTORS[a]}{end}")

    def shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes in which PEFT stores factors of a rank, `a` first."""
        rows, columns = self.size
        kernel = self.shape[2:]
        if kernel:
            return (rank, *self.shape[1:]), (rows, rank, *(1 for _ in kernel))
        return (rank, columns), (rows, rank)


def module_of(step: Step, model_type: str | None) -> Module | None:
    """Return the module of an output tensor; None when no adapter can hold the tensor.

    Args:
        step: the tensor.
        model_type: what the config of the model calls its kind, when that is known.
    """
    for source in step.sources:
        found = _from_factors(step, source)
        if found is not None:
            return found
    path, _, last = step.name.rpartition(".")
    if last != "weight" or len(step.shape) < 2:
        return None
    name = path.rpartition(".")[2]
    is_embedding = _EMBEDDING.fullmatch(name) is not None and len(step.shape) == 2
    is_turned = is_embedding or lies_turned(step.name, model_type)
    return Module(path, step.name, step.shape, is_embedding, is_turned)


def _from_factors(step: Step, source: TensorSpec) -> Module | None:
    """Return the module that the adapter of a source has it for."""
    if source.factors is None or source.factors.a is None:
        return None
    parts = source.factors.a.name.removeprefix(_PREFIX).split(".")
    at = next(index for index, part in enumerate(parts) if part in FACTORS)
    path = ".".join(part for part in parts[:at] if part != "base_layer")
    return Module(path, step.name, step.shape, parts[at] == EMBEDDING_A, source.factors.transposed)
