"""Tells packed, quantized tensors from weights: their stored numbers are not in a vector space.

A sum of 4-bit codes, or of 8-bit weights that have a scale beside them, is a number, and nonsense.
Quantizers give themselves away by the tensors they put beside a weight, and in the config.
"""

from collections.abc import Mapping
from typing import Any

from taskalg.checkpoints.base import TensorSpec
from taskalg.errors import CheckpointError, printable, quoted

# The last part of a companion's name, and the method that writes it.
_ALWAYS = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "weight_packed": "compressed-tensors",
    "SCB": "bitsandbytes 8-bit",
    "absmax": "bitsandbytes 4-bit",
    "nested_absmax": "bitsandbytes 4-bit",
    "quant_map": "bitsandbytes 4-bit",
    "nested_quant_map": "bitsandbytes 4-bit",
    "bitsandbytes__nf4": "bitsandbytes 4-bit",
    "bitsandbytes__fp4": "bitsandbytes 4-bit",
}
# These could be a layer's own parameter; they are companions of a weight of 8 bits, or of none.
_BESIDE_PACKED = {
    "weight_scale": "FP8 or INT8",
    "weight_scale_inv": "FP8",
    "weight_scale_2": "NVFP4",
    "scales": "GPTQ, AWQ or MLX",
}
_HELP = "dequantize it first, or use the original weights"


def refuse_quantized(tensors: Mapping[str, TensorSpec], path: str) -> None:
    """Refuse a checkpoint that has a quantizer's companion tensors.

    Raises:
        CheckpointError: there is such a tensor.
    """
    for name in tensors:
        stem, _, last = name.rpartition(".")
        method = _ALWAYS.get(last)
        if method is None and last in _BESIDE_PACKED and _is_packed(tensors.get(f"{stem}.weight")):
            method = _BESIDE_PACKED[last]
        if method is None and last.endswith("_scales") and name[:-6] + "blocks" in tensors:
            method = "MXFP4"
        if method is not None:
            raise CheckpointError(
                f"{quoted(path)} holds quantized tensors, which cannot be summed",
                note=f"tensor {quoted(name)} is a companion that {method} quantization stores",
                help=_HELP,
            )


def refuse_quantized_config(config: Mapping[str, Any], path: str) -> None:
    """Refuse a model whose config, or a part of it, says that it is quantized.

    Raises:
        CheckpointError: there is a `quantization_config`.
    """
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for part in parts:
        found = part.get("quantization_config") or part.get("compression_config")
        if found:
            method = found.get("quant_method") if isinstance(found, dict) else None
            words = f"with {printable(str(method))[:40]} " if method else ""
            raise CheckpointError(
                f"{quoted(path)} is quantized {words}and cannot be summed",
                note="its config.json has a 'quantization_config'",
                help=_HELP,
            )


def _is_packed(weight: TensorSpec | None) -> bool:
    return weight is None or weight.dtype.itemsize == 1 or not weight.dtype.is_floating
