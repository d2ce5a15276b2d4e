"""Which files hold a part's weights: one single file, or an index and the shards it lists.

Every library has its own name for them: `model.safetensors` is that of transformers and timm,
`diffusion_pytorch_model.safetensors` that of diffusers, and `consolidated.safetensors` that of
Mistral's own code. Their shards and indexes are called accordingly.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taskalg.errors import CheckpointError, listed, quoted

# What loads the last two knows no shards, unless there are some already.
STEMS = ("model", "diffusion_pytorch_model", "open_clip_model", "consolidated")
ALONE = STEMS[2:]
_WEIGHTS = (
    r".*\.(safetensors|bin|pt|pth|ckpt|gguf|ggml|h5|msgpack|npz|npy|pkl|pickle|distcp|ot"
    r"|onnx|onnx_data|pb|tflite|mlmodel|engine|nemo)|.*\.data-\d+-of-\d+"
    r"|.*\.index(\.\w+)?\.json"
)


@dataclass(frozen=True)
class Found:
    """What the weights in a folder are called."""

    stem: str  # "model"
    mark: str  # of the variant that is taken: ".fp16", or ""
    notes: tuple[str, ...]  # what a user should know about the choice


def is_weights(name: str) -> bool:
    """Tell from a file's name whether it holds weights, or lists files that do."""
    return re.fullmatch(_WEIGHTS, name, re.IGNORECASE) is not None


def find_stem(folder: Path, names: Sequence[str]) -> Found | None:
    """Find the weights in a model's folder, or in a sub-folder of it.

    A variant, such as `model.fp16.safetensors`, is taken where there is nothing else.

    Args:
        folder: what messages call it.
        names: what lies in it.

    Returns:
        What was found, or None if nothing has a known name.

    Raises:
        CheckpointError: there are several, and nothing says which one is meant.
    """
    found = {stem: marks for stem in STEMS if (marks := _variants(stem, names))}
    if not found:
        return None
    if found.keys() >= set(STEMS[:2]):
        raise _ambiguous(folder, "weights of transformers and of diffusers", STEMS[:2])
    stem, marks = next(iter(found.items()))
    if "" not in marks and len(marks) > 1:
        raise _ambiguous(folder, "several variants", [f"{stem}.{mark}" for mark in marks])
    mark = "" if "" in marks else marks[0]
    return Found(stem, mark and f".{mark}", _notes(folder, mark, marks))


def _variants(stem: str, names: Sequence[str]) -> list[str]:
    """Return the marks of all that is there of a stem, "" for what has none."""
    mark = r"(?:\.([A-Za-z]\w*))?"
    form = re.compile(rf"{stem}{mark}\.safetensors|{stem}\.safetensors\.index{mark}\.json")
    found = (form.fullmatch(name) for name in names)
    return sorted({match[1] or match[2] or "" for match in found if match})


def _notes(folder: Path, mark: str, marks: Sequence[str]) -> tuple[str, ...]:
    if mark:
        return (f"of {quoted(str(folder))} the {mark} variant is read, it has no other weights",)
    others = [other for other in marks if other]
    return (f"of {quoted(str(folder))} the {listed(others)} variant is not read",) if others else ()


def _ambiguous(folder: Path, what: str, stems: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"{quoted(str(folder))} holds {what}",
        note=f"they are {listed([quoted(f'{stem}.safetensors') for stem in stems])}",
        help="remove those that are not meant, or give the file itself",
    )
