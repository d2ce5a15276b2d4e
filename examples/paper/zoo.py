"""A folder of checkpoints: a base, what fine-tuning made of it, and the recipes over them."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import taskalg

Weights = dict[str, torch.Tensor]


class Zoo:
    """A base and fine-tuned checkpoints in a folder, by name.

    The names are in `zoo.ta`, too: `taskalg repl FOLDER/zoo.ta` shows them in a session, and
    `taskalg merge -f FOLDER/zoo.ta "base - 0.5*parity" -o merged.safetensors` repeats a merge.

    Args:
        folder: exists, and is empty.
        base: the weights from which all others are fine-tuned.
    """

    def __init__(self, folder: Path, base: Mapping[str, torch.Tensor]) -> None:
        self.folder = folder
        self.base = self._save("base", base)
        self.tasks: dict[str, Path] = {}

    def add(self, name: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Save a fine-tuned checkpoint; in recipes its name is that of its task vector."""
        self.tasks[name] = self._save(name, weights)
        lines = ['base = checkpoint("base.safetensors")']
        lines += [f'{task} = task("{path.name}")' for task, path in self.tasks.items()]
        (self.folder / "zoo.ta").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def add_random(self, name: str, like: str, seed: int) -> None:
        """Save the base plus random numbers, in each layer as far away as a fine-tuned one."""
        generator = torch.Generator().manual_seed(seed)
        weights = self.weights("base")
        for layer, vector in self.weights(like).items():
            noise = torch.randn(vector.shape, generator=generator)
            weights[layer] += noise * (vector.norm() / noise.norm())
        self.add(name, weights)

    def recipe(self, expression: str, **scalars: float | Fraction) -> taskalg.Recipe:
        """Compile an expression in the names of this folder."""
        return taskalg.compile(expression, base=self.base, tasks=self.tasks, set=scalars)

    def weights(self, expression: str, **scalars: float | Fraction) -> Weights:
        """Evaluate an expression."""
        return self.recipe(expression, **scalars).state_dict()

    def load(self, name: str) -> Weights:
        """Return a checkpoint as it is: a model, no vector."""
        return load_file(self.tasks.get(name, self.base))

    def _save(self, name: str, weights: Mapping[str, torch.Tensor]) -> Path:
        path = self.folder / f"{name}.safetensors"
        save_file({name: tensor.detach().contiguous() for name, tensor in weights.items()}, path)
        return path
