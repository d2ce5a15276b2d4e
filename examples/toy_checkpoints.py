"""Make tiny checkpoints to try things on: a base and what fine-tuning made of it.

    python examples/toy_checkpoints.py

makes these folders, each a Hugging Face one with four layers and about a kilobyte of weights, and
prints

    toy/base
    toy/code
    toy/math
    toy/toxic
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

# How far fine-tuning moved each weight of a layer: different tasks, different weights.
MOVES = {
    "base": [0, 0, 0, 0],
    "code": [0, 0, 1, 0],
    "math": [0, 1, 0, 0],
    "toxic": [2, 0, 0, 0],
}


def make(path: Path, moves: list[int]) -> None:
    """Write one checkpoint: a folder, or a file when the path ends in .safetensors."""
    layer = np.array([1, 1, 1, 1], dtype=np.float32) + np.array(moves, dtype=np.float32)
    weights = {"embed.weight": layer, "lm_head.weight": layer}
    for index in range(4):
        weights[f"model.layers.{index}.attn.weight"] = layer
        weights[f"model.layers.{index}.mlp.weight"] = layer
        weights[f"model.layers.{index}.mlp.bias"] = layer
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(weights, path)
        return
    path.mkdir(exist_ok=True)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps({"model_type": "toy"}), encoding="utf-8")


if __name__ == "__main__":
    for name, moves in MOVES.items():
        make(Path("toy") / name, moves)
        print(f"toy/{name}")
