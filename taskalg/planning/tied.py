"""Weights that a model uses twice and a file stores once or twice, as its saver liked.

A language model's head is often its embedding. What one checkpoint stores under both names another
stores under one; here the missing name finds its partner, and a name too many is dropped. Whoever
stores both must hold the same bytes in both: that is data, so it is compared when a run starts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from taskalg import files
from taskalg.checkpoints.base import Checkpoint, TensorSpec
from taskalg.checkpoints.index import read_json
from taskalg.planning.buffers import ends_in

_HEADS = (
    "lm_head.weight",
    "lm_head.decoder.weight",  # RoBERTa
    "predictions.decoder.weight",  # BERT, ALBERT
    "generator_lm_head.weight",  # ELECTRA
    "vocab_projector.weight",  # DistilBERT
    "pred_layer.proj.weight",  # XLM
    "output_projection.weight",  # BioGPT, TrOCR
    "proj_out.weight",  # Whisper
    "embed_out.weight",  # GPT-NeoX
)
_EMBEDDINGS = (
    "shared.weight",  # T5, BART; their stacks' embed_tokens are this one
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tokens_embed.weight",
    "tok_embeddings.weight",
    "embed_in.weight",
    "embeddings.weight",
)
_BIASES = ("predictions.bias", "predictions.decoder.bias", "lm_head.bias", "lm_head.decoder.bias")
_ALL = _EMBEDDINGS + _HEADS + _BIASES  # in the order in which a partner is chosen
_SORTS = (
    dict.fromkeys(_EMBEDDINGS, "embedding")
    | dict.fromkeys(_HEADS, "head")
    | dict.fromkeys(_BIASES[:2], "BERT's bias")
    | dict.fromkeys(_BIASES[2:], "RoBERTa's bias")
)
# What may stand for a tensor of each sort, the first that is there.
_PARTNERS: dict[str, tuple[str, ...]] = {sort: (sort,) for sort in _SORTS.values()}
_PARTNERS |= {"embedding": ("embedding", "head"), "head": ("embedding",)}
_INNER = ("text_config", "decoder", "llm_config", "language_config")  # of a composite model


@dataclass(frozen=True)
class Copies:
    """Two tensors of one checkpoint that have to hold the same bytes."""

    one: TensorSpec
    other: TensorSpec


@dataclass(frozen=True)
class Ties:
    """How one checkpoint's tied weights become those the donor stores."""

    lent: Mapping[str, str] = field(default_factory=dict)  # name it lacks -> its that stands for it
    dropped: Mapping[str, str] = field(default_factory=dict)  # name too many -> the donor's for it
    in_donor: tuple[Copies, ...] = ()  # of the donor
    in_other: tuple[Copies, ...] = ()  # of the checkpoint itself

    def __bool__(self) -> bool:
        return bool(self.lent or self.dropped)


NO_TIES = Ties()


def may_be_tied(name: str) -> bool:
    """Tell whether a tensor of this name is stored by some savers and left out by others."""
    return ends_in(name, _ALL) is not None


def find_ties(donor: Checkpoint, other: Checkpoint, takes_part: Callable[[str], bool]) -> Ties:
    """Pair names that one of two checkpoints lacks with the tensor that stands for them.

    Args:
        donor: its names are the output's.
        other: a checkpoint whose names are aligned with them.
        takes_part: whether the other's coefficient on a name is not zero.

    Raises:
        CheckpointError: a `config.json` is needed and is none.
    """
    lent, in_donor = _pairs(donor, other, takes_part)
    dropped, in_other = _pairs(other, donor, takes_part)
    return Ties(lent, dropped, in_donor, in_other)


def _pairs(
    having: Checkpoint, lacking: Checkpoint, takes_part: Callable[[str], bool]
) -> tuple[dict[str, str], tuple[Copies, ...]]:
    """Pair what one checkpoint has and the other lacks with what the other has for it."""
    pairs, copies = {}, []
    missing = [spec for name, spec in having.tensors.items() if name not in lacking.tensors]
    wanted = [spec for spec in missing if spec.dtype.is_floating and may_be_tied(spec.name)]
    stand_ins = _stand_ins(lacking) if wanted else {}
    ties_head = cache(lambda: _ties_head(lacking, having))
    for spec in wanted:
        partner = _partner(spec, stand_ins, ties_head) if takes_part(spec.name) else None
        if partner is None:
            continue
        copy = having.tensors.get(partner)
        if copy is None:
            pairs[spec.name] = partner
        elif (spec.dtype, spec.shape) == (copy.dtype, copy.shape):
            pairs[spec.name] = partner
            copies.append(Copies(spec, copy))
    return pairs, tuple(copies)


_StandIns = dict[tuple[str, tuple[int, ...]], str]  # sort and shape -> name


def _stand_ins(checkpoint: Checkpoint) -> _StandIns:
    found: dict[tuple[str, tuple[int, ...]], tuple[int, str]] = {}
    for name, spec in checkpoint.tensors.items():
        ending = ends_in(name, _ALL)
        if ending is not None and spec.dtype.is_floating:
            key, rank = (_SORTS[ending], spec.shape), _ALL.index(ending)
            if key not in found or rank < found[key][0]:
                found[key] = (rank, name)
    return {key: name for key, (_, name) in found.items()}


def _partner(spec: TensorSpec, stand_ins: _StandIns, ties_head: Callable[[], bool]) -> str | None:
    """Return the tensor that stands for one in the checkpoint that lacks it."""
    sort = _SORTS[ends_in(spec.name, _ALL) or ""]
    for other in _PARTNERS[sort]:
        partner = stand_ins.get((other, spec.shape))
        if partner is not None:
            by_config = "head" in (sort, other)
            return partner if not by_config or ties_head() else None
    return None


def _ties_head(lacking: Checkpoint, having: Checkpoint) -> bool:
    """Tell whether a checkpoint without a head takes its embedding for one.

    Its config says so; one without a config goes by that of the checkpoint that has a head. Where
    the key is absent the answer is yes: transformers 4 wrote it only when it was false.
    """
    for checkpoint in (lacking, having):
        config = _config(checkpoint)
        if config is not None:
            inner = (config.get(key) for key in _INNER)
            parts = [part for part in inner if isinstance(part, dict)]
            said = (part.get("tie_word_embeddings") for part in (*parts, config))
            return next((value for value in said if isinstance(value, bool)), True)
    return True


def _config(checkpoint: Checkpoint) -> dict[str, Any] | None:
    path = None if checkpoint.folder is None else checkpoint.folder / "config.json"
    return read_json(path) if path is not None and files.is_file(path) else None
