"""Pictures of digits, eight questions about them, and an encoder to fine-tune.

As in the paper's experiments with CLIP, one encoder serves all tasks, each task has a frozen head,
and only the encoder is trained and merged. Here the pictures are the 1,797 handwritten digits of
8 x 8 pixels that come with scikit-learn, a task is a question about a digit, its head is a random
matrix, and naming the digit is what ImageNet is there: the control, which should stay as it is.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from math import log

import torch
from sklearn.datasets import load_digits
from torch.nn import Linear, Module, ReLU, Sequential
from torch.nn.functional import cross_entropy

CONTROL = "digit"
ANSWERS = {  # of the digits 0 to 9
    "parity": "0101010101",  # is it odd?
    "large": "0000011111",  # is it 5 or more?
    "holes": "1000001011",  # does it have a hole?
    "remainder": "0120120120",  # what is left when it is divided by 3?
    "middle": "0001111000",  # is it 3, 4, 5 or 6?
    "square": "1100100001",  # is it the square of a whole number?
    "letters": "1002110221",  # how many letters has its English name, but for 3?
    "mirror": "1101000010",  # is it its own mirror image?
    CONTROL: "0123456789",
}
QUESTIONS = tuple(name for name in ANSWERS if name != CONTROL)

# How much of the answer to one question another gives away, at least, for the two to be kindred.
KINDRED = 0.25
WIDTH, FEATURES, BATCH = 512, 64, 128
PRETRAINING, RATE = 40, 1e-3  # steps, learning rate: a base that knows everything a little
FINE_TUNING, GENTLE = 300, 2e-4  # the same for a task: from about 90 to 98 percent right


class Digits:
    """The pictures in a random order, the answers to the questions, and their frozen heads.

    `train` trains, `choose` is for choosing coefficients, and only `report` gets into a table.
    """

    train, choose, report = slice(0, 1000), slice(1000, 1400), slice(1400, None)

    def __init__(self, seed: int) -> None:
        pixels, digits = load_digits(return_X_y=True)
        self.seed, generator = seed, torch.Generator().manual_seed(seed)
        order = torch.randperm(len(digits), generator=generator)
        self.images = torch.tensor(pixels / 16, dtype=torch.float32)[order]
        self.answers = {
            name: torch.tensor([int(answer) for answer in answers])[digits[order]]
            for name, answers in ANSWERS.items()
        }
        self.heads = {
            name: torch.randn(FEATURES, len(set(answers)), generator=generator) / FEATURES**0.5
            for name, answers in ANSWERS.items()
        }

    def encoder(self, weights: Mapping[str, torch.Tensor] | None = None) -> Module:
        """Return a network from pictures to features, with some weights or its first ones."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            layers = [Linear(64, WIDTH), ReLU(), Linear(WIDTH, WIDTH), ReLU()]
            network = Sequential(*layers, Linear(WIDTH, FEATURES))
        if weights is not None:
            network.load_state_dict(weights)
        return network

    def pretrained(self) -> Module:
        """Return an encoder that knows the answers to all questions, but not perfectly."""
        network = self.encoder()
        for _ in self.fit(network, list(ANSWERS), PRETRAINING, RATE):
            pass
        return network

    def fine_tuned(
        self, base: Mapping[str, torch.Tensor], questions: Sequence[str], *, ascend: bool = False
    ) -> Module:
        """Return an encoder that was trained further on some questions alone."""
        network = self.encoder(base)
        for _ in self.fit(network, questions, FINE_TUNING, GENTLE, ascend=ascend):
            pass
        return network

    def fit(
        self,
        network: Module,
        questions: Sequence[str],
        steps: int,
        rate: float,
        *,
        images: torch.Tensor | None = None,
        ascend: bool = False,
    ) -> Iterator[int]:
        """Train on some of the questions with AdamW; yield after each step.

        Args:
            network: is changed.
            questions: whose losses are added.
            steps: of `BATCH` pictures each.
            rate: of learning.
            images: in place of `self.images`, in the same order.
            ascend: whether the loss is to rise: gradient ascent.
        """
        seen = self.images if images is None else images

        def loss(batch: torch.Tensor) -> torch.Tensor:
            features = network(seen[batch])
            losses = [
                cross_entropy(features @ self.heads[name], self.answers[name][batch])
                for name in questions
            ]
            return torch.stack(losses).sum()

        return self.train_by(loss, network, steps, rate, ascend=ascend)

    def train_by(
        self,
        loss: Callable[[torch.Tensor], torch.Tensor],
        network: Module,
        steps: int,
        rate: float,
        *,
        ascend: bool = False,
    ) -> Iterator[int]:
        """Train likewise by any loss, which is given the indices of a batch of pictures."""
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate, maximize=ascend)
        generator = torch.Generator().manual_seed(self.seed)
        for step in range(1, steps + 1):
            batch = torch.randint(self.train.stop, (BATCH,), generator=generator)
            optimizer.zero_grad()
            loss(batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield step

    def accuracy(
        self, network: Module, split: slice, *, images: torch.Tensor | None = None
    ) -> dict[str, float]:
        """Return the share of right answers to each question, on one part of the pictures."""
        seen = self.images if images is None else images
        with torch.no_grad():
            features = network(seen[split])
            return {
                name: float(
                    ((features @ head).argmax(1) == self.answers[name][split]).float().mean()
                )
                for name, head in self.heads.items()
            }


def kindred_pairs() -> set[tuple[str, str]]:
    """Return the pairs of questions of which one's answer says much about the other's."""
    return {pair for pair in combinations(QUESTIONS, 2) if shared_information(*pair) >= KINDRED}


def shared_information(one: str, other: str) -> float:
    """Return the mutual information of two answers, over the smaller of their entropies: 0 to 1."""
    first, second = ANSWERS[one], ANSWERS[other]
    both = _entropy(list(zip(first, second, strict=True)))
    return (_entropy(first) + _entropy(second) - both) / min(_entropy(first), _entropy(second))


def _entropy(answers: Sequence[object]) -> float:
    """Of the answer to a question about a random digit, in nats."""
    shares = [count / len(answers) for count in Counter(answers).values()]
    return -sum(share * log(share) for share in shares)
