"""Tensors that a model computes from its config and some files store all the same.

Masks, positions and frequencies: which of them are saved, and as what, changed from one release of
transformers to the next, so two checkpoints of one model often differ in them. They are told by
their names, and `bias` by its shape as well, for other models train one of that name.
"""

from taskalg.checkpoints.base import TensorSpec

_ENDINGS = (
    "position_ids",
    "token_type_ids",
    "masked_bias",  # GPT-2, GPT-Neo, GPT-NeoX: what masked places get
    "inv_freq",  # rotary embeddings
    "original_inv_freq",
    "cos_cached",
    "sin_cached",
    "relative_position_index",  # Swin, BEiT
    "attn_mask",
)
_MASKS = ("attn.bias", "attention.bias")  # GPT-2's causal mask, and those named after it


def is_derived(spec: TensorSpec) -> bool:
    """Tell whether a tensor is such a buffer."""
    if ends_in(spec.name, _ENDINGS):
        return True
    return len(spec.shape) == 4 and spec.shape[:2] == (1, 1) and bool(ends_in(spec.name, _MASKS))


def ends_in(name: str, endings: tuple[str, ...]) -> str | None:
    """Return the ending that is the name's last components, None when none is.

    >>> ends_in("h.0.attn.bias", ("attn.bias",)), ends_in("h.0.c_attn.bias", ("attn.bias",))
    ('attn.bias', None)
    """
    if not name.endswith(endings):
        return None
    marked = (end for end in endings if name == end or name.endswith((f".{end}", f"/{end}")))
    return next(marked, None)
