"""The demo's data and network: four questions about handwritten digits, and who answers them.

The digits come with scikit-learn. The encoder is shared, the heads are frozen, and only the encoder
is merged, as in Ilharco et al. 2022, arXiv 2212.04089.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taskalg import files
from taskalg.errors import CheckpointError, quoted

if TYPE_CHECKING:
    import torch

TARGET, HELPER = "holes", "parity"  # fine-tuned: what is forgotten, and what is added besides
QUESTIONS = {
    TARGET: "does it have a hole?",
    HELPER: "is it odd?",
    "large": "is it 5 or more?",
    "remainder": "what is left when divided by 3?",
}
TRAIN, CHOOSE = slice(0, 1200), slice(1200, 1500)  # the rest is what the table reports
REPORT = slice(1500, None)

_BATCH = 128
_LARGEST = 10_000_000  # bytes of a checkpoint, which has 1.3 MB


@dataclass(frozen=True)
class Accuracy:
    """How many of some digits are answered correctly, from 0 to 1."""

    target: float
    control: float  # mean of the other questions
    helper: float  # the question of the second task vector, which is one of the control's


class Digits:
    """The digits in a fixed order, the answers, and the frozen heads."""

    def __init__(self) -> None:
        """Load them; neither the order nor the heads change from run to run."""
        import torch
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(digits), generator=generator)
        self.images = torch.tensor(pixels / 16, dtype=torch.float32)[order]
        self.answers = _answers(torch.tensor(digits, dtype=torch.int64)[order])
        self.heads = {
            name: torch.randn(64, int(labels.max()) + 1, generator=generator) / 8
            for name, labels in self.answers.items()
        }

    def accuracy(self, path: Path, digits: slice) -> Accuracy:
        """Load a checkpoint and ask it everything.

        Raises:
            CheckpointError: it cannot be read, or is of another network.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load

        network, content = encoder(), files.read_small(path, _LARGEST)
        try:
            network.load_state_dict(load(content))
        except (RuntimeError, SafetensorError):
            raise CheckpointError(f"{quoted(str(path))} is not of the demo's network") from None
        with torch.no_grad():
            seen = network(self.images[digits])
        right = {
            question: float(((seen @ head).argmax(1) == labels[digits]).float().mean())
            for (question, labels), head in zip(
                self.answers.items(), self.heads.values(), strict=True
            )
        }
        control = [share for question, share in right.items() if question != TARGET]
        return Accuracy(right[TARGET], sum(control) / len(control), right[HELPER])

    def fit(
        self, network: "torch.nn.Module", names: Sequence[str], steps: int, rate: float
    ) -> None:
        """Train on some of the questions, with AdamW at a learning rate."""
        import torch

        optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
        generator = torch.Generator().manual_seed(steps)
        images = self.images[TRAIN]
        for _ in range(steps):
            batch = torch.randint(0, len(images), (_BATCH,), generator=generator)
            seen = network(images[batch])
            losses = [
                torch.nn.functional.cross_entropy(seen @ self.heads[n], self.answers[n][batch])
                for n in names
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def encoder() -> "torch.nn.Module":
    """Return the encoder with the same random numbers each time."""
    import torch
    from torch.nn import Linear, ReLU, Sequential

    torch.manual_seed(2)
    return Sequential(Linear(64, 512), ReLU(), Linear(512, 512), ReLU(), Linear(512, 64))


def _answers(digits: "torch.Tensor") -> Mapping[str, "torch.Tensor"]:
    import torch

    with_holes = torch.tensor([0, 6, 8, 9])
    return {
        TARGET: torch.isin(digits, with_holes).long(),
        HELPER: digits % 2,
        "large": (digits >= 5).long(),
        "remainder": digits % 3,
    }
