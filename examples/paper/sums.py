"""Sums of task vectors, each with one λ for all of its vectors."""

from collections.abc import Sequence
from statistics import fmean

import taskalg
from paper.digits import Digits
from paper.zoo import Weights, Zoo

GRID = "0:1:0.05"


class Sums:
    """What comes of adding the task vectors of a zoo.

    Args:
        digits: to ask about.
        zoo: its checkpoints have the names of the questions on which they were fine-tuned.
    """

    def __init__(self, digits: Digits, zoo: Zoo) -> None:
        self.digits, self.zoo = digits, zoo
        self.tasks = tuple(zoo.tasks)
        self._network = digits.encoder()
        self._alone = {
            part: {task: self.accuracy(zoo.load(task), part)[task] for task in self.tasks}
            for part in ("choose", "report")
        }

    def accuracy(self, weights: Weights, part: str = "report") -> dict[str, float]:
        """Return the accuracy of a model on each question."""
        self._network.load_state_dict(weights)
        return self.digits.accuracy(self._network, getattr(self.digits, part))

    def alone(self, tasks: Sequence[str]) -> float:
        """Return the mean accuracy of some tasks' own models."""
        return fmean(self._alone["report"][task] for task in tasks)

    def normalized(self, weights: Weights, tasks: Sequence[str], part: str = "report") -> float:
        """Return the mean over some tasks of accuracy over that of the task's own model."""
        found = self.accuracy(weights, part)
        return fmean(found[task] / self._alone[part][task] for task in tasks)

    def weights(self, tasks: Sequence[str], strength: float) -> Weights:
        """Add some vectors, all times λ."""
        return self.zoo.weights(added(tasks), λ=strength)

    def sweep(self, tasks: Sequence[str]) -> taskalg.Sweep:
        """Add some vectors, and try every λ on digits to choose by."""
        return taskalg.sweep(
            self.zoo.recipe(added(tasks), λ=0),
            {"λ": GRID},
            lambda weights: {"normalized": self.normalized(weights, tasks, "choose")},
            maximize="normalized",
        )


def added(tasks: Sequence[str]) -> str:
    """Return the expression of a sum."""
    return f"base + λ*({' + '.join(tasks)})"


def best(sweep: taskalg.Sweep) -> float:
    """Return the λ that a sweep chose."""
    assert sweep.chosen is not None, "accuracies are finite"
    return float(sweep.chosen.values["λ"])
