"""The same digits, seen differently: what reviews on Yelp and on Amazon are in the paper.

Each domain changes every picture a little, and has a partner that changes it the other way. The
plain pictures lie between the two: a base that saw only those is as far from one as from the other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import cos, radians, sin
from pathlib import Path

from torch import Tensor, tensor
from torch.nn.functional import affine_grid, grid_sample, max_pool2d
from torch.special import entr

from paper.digits import CONTROL, GENTLE, PRETRAINING, RATE, Digits
from paper.zoo import Weights, Zoo

STEPS = 100  # of fine-tuning

SIDE = 8  # pixels


def placed(pictures: Tensor, *, right: float = 0, turned: float = 0) -> Tensor:
    """Move by pixels and turn clockwise by degrees, with what is between four pixels interpolated.

    Args:
        pictures: one in each row.
        right: pixels.
        turned: degrees.
    """
    angle, width = radians(turned), 2 / SIDE  # a picture reaches from -1 to 1
    there = tensor([[cos(angle), sin(angle), -right * width], [-sin(angle), cos(angle), 0]])
    shape = [len(pictures), 1, SIDE, SIDE]
    grid = affine_grid(there.repeat(len(pictures), 1, 1), shape, align_corners=False)
    return grid_sample(pictures.view(shape), grid, align_corners=False).view(len(pictures), -1)


def shaded(pictures: Tensor, rows: slice) -> Tensor:
    """Leave a fifth of the light on some rows."""
    seen = pictures.view(-1, SIDE, SIDE).clone()
    seen[:, rows] *= 0.2
    return seen.view(len(pictures), -1)


def thick(pictures: Tensor) -> Tensor:
    """Make each pixel as bright as the brightest of four neighbors: a thicker pen."""
    seen = max_pool2d(pictures.view(-1, 1, SIDE, SIDE), kernel_size=2, stride=1, padding=1)
    return seen[..., 1:, 1:].reshape(len(pictures), -1)


def thin(pictures: Tensor) -> Tensor:
    """Make each pixel as dark as the darkest of four neighbors: a thinner pen."""
    return -thick(-pictures)


DOMAINS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "left": partial(placed, right=-0.5),
    "right": partial(placed, right=0.5),
    "clockwise": partial(placed, turned=20),
    "anticlockwise": partial(placed, turned=-20),
    "top": partial(shaded, rows=slice(SIDE // 2, None)),  # lit
    "bottom": partial(shaded, rows=slice(SIDE // 2)),
    "thin": thin,
    "thick": thick,
}
PARTNERS = (("left", "right"), ("clockwise", "anticlockwise"), ("top", "bottom"), ("thin", "thick"))


@dataclass(frozen=True)
class Setup:
    """A question, and two domains."""

    question: str
    auxiliary: str  # the domain in which a model was told answers
    target: str  # the domain in which it is asked

    def __str__(self) -> str:
        return f"{self.question}, {self.auxiliary} to {self.target}"

    @property
    def names(self) -> dict[str, str]:
        """The checkpoints behind the letters."""
        return {
            "a": f"sure_{self.auxiliary}",
            "b": f"sure_{self.target}",
            "c": f"{self.question}_{self.auxiliary}",
            "d": f"{self.question}_{self.target}",
        }


class Domains:
    """Digits as they are seen in every domain, and the models of one seed that were trained there.

    Args:
        seed: of the digits and of the first weights.
        folder: exists, is empty, and gets the checkpoints.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.digits = Digits(seed)
        self.network = self.digits.encoder()
        for _ in self.digits.fit(self.network, [CONTROL], PRETRAINING, RATE):
            pass
        self.zoo = Zoo(folder, self.network.state_dict())
        self.images = {name: change(self.digits.images) for name, change in DOMAINS.items()}

    def tell_answers(self, question: str, domain: str) -> None:
        """Add a model that was told the answers to a question, in a domain."""
        network = self.digits.encoder(self.zoo.load("base"))
        images = self.images[domain]
        for _ in self.digits.fit(network, [question], STEPS, GENTLE, images=images):
            pass
        self.zoo.add(f"{question}_{domain}", network.state_dict())

    def make_sure(self, domain: str) -> None:
        """Add a model that was told nothing: each picture is to have one name, each name its share.

        The loss falls as guesses become sure, and as all names together become equally frequent.
        """
        network = self.digits.encoder(self.zoo.load("base"))
        images, head = self.images[domain], self.digits.heads[CONTROL]

        def loss(batch: Tensor) -> Tensor:
            guesses = (network(images[batch]) @ head).softmax(1)
            doubt: Tensor = entr(guesses).sum(1).mean()
            variety: Tensor = entr(guesses.mean(0)).sum()
            return doubt - variety

        for _ in self.digits.train_by(loss, network, STEPS, GENTLE):
            pass
        self.zoo.add(f"sure_{domain}", network.state_dict())

    def accuracy(self, weights: Weights, domain: str, split: slice) -> dict[str, float]:
        """Return the share of right answers to each question that a model gives in a domain."""
        self.network.load_state_dict(weights)
        return self.digits.accuracy(self.network, split, images=self.images[domain])

    def share_named(self, domain: str) -> tuple[float, ...]:
        """Return the share of digits that a model can name, before and after it is made sure."""
        models = (self.zoo.load("base"), self.zoo.load(f"sure_{domain}"))
        split = self.digits.report
        return tuple(self.accuracy(model, domain, split)[CONTROL] for model in models)
