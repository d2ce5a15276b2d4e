"""Section 4 of the paper: learning by addition.

The sum of task vectors should make one model good at all of the tasks:

    base + λ*(one + two + three)

An encoder of pictures of digits is fine-tuned on each of eight questions, and the vectors of all
247 subsets of two or more are added. Each sum has one λ, the best of 0, 0.05, … 1 by 400 digits of
which the tables know nothing. An accuracy is normalized: divided by that of the model that was
fine-tuned on the task alone.

    python examples/addition.py

prints
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING

import taskalg
from paper.digits import FINE_TUNING, GENTLE, QUESTIONS, Digits
from paper.experiment import Claim, Experiment, Picture, Results, Section, Table, Trial, percent
from paper.experiment import mean_percent as mean
from paper.script import main
from paper.zoo import Weights, Zoo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID = "0:1:0.05"
TEXT = """\
All subsets of the task vectors are added, each sum with one λ for all of its vectors, the best of
0, 0.05, … 1 by 400 digits; the tables are of 397 others. Accuracies are normalized: divided by
that of the model that was fine-tuned on the task alone. Beside them is what the base has, from
which fine-tuning started, and a model that was fine-tuned on all tasks at once."""


class Merging:
    """The sums of one seed."""

    def __init__(self, trial: Trial) -> None:
        self.digits = Digits(trial.seed)
        self.tasks = QUESTIONS[:3] if trial.fast else QUESTIONS
        self.network = self.digits.encoder()
        self.zoo = Zoo(trial.folder, self.digits.pretrained().state_dict())
        for task in self.tasks:
            self.zoo.add(task, self.digits.fine_tuned(self.zoo.load("base"), task).state_dict())
        self.alone = {
            split: {task: self.accuracy(self.zoo.load(task), split)[task] for task in self.tasks}
            for split in ("choose", "report")
        }

    def accuracy(self, weights: Weights, split: str) -> dict[str, float]:
        """Return the accuracy of a model on each task."""
        self.network.load_state_dict(weights)
        return self.digits.accuracy(self.network, getattr(self.digits, split))

    def normalized(self, weights: Weights, split: str, tasks: Sequence[str]) -> float:
        """Return the mean over some tasks of accuracy over that of the task's own model."""
        found = self.accuracy(weights, split)
        return fmean(found[task] / self.alone[split][task] for task in tasks)

    def sweep(self, tasks: Sequence[str]) -> taskalg.Sweep:
        """Add some vectors, and try every λ on digits to choose by."""
        return taskalg.sweep(
            self.zoo.recipe(added(tasks), λ=0),
            {"λ": GRID},
            lambda weights: {"normalized": self.normalized(weights, "choose", tasks)},
            maximize="normalized",
        )


def added(tasks: Sequence[str]) -> str:
    """Return the expression of a sum."""
    return f"base + λ*({' + '.join(tasks)})"


def measure(trial: Trial) -> Results:
    """Return what every sum has at its own λ, and at one λ for all sums."""
    merging = Merging(trial)
    tasks, zoo = merging.tasks, merging.zoo
    sums = [s for size in range(1, len(tasks) + 1) for s in combinations(tasks, size)]
    sweeps = []
    for index, one in enumerate(sums):
        sweeps.append(merging.sweep(one))
        trial.told(0.3 + 0.7 * index / len(sums))
    common = common_strength(sweeps)
    found = []
    for one, sweep in zip(sums, sweeps, strict=True):
        assert sweep.chosen is not None, "accuracies are finite"
        best = zoo.weights(added(one), **sweep.chosen.values)
        same = zoo.weights(added(one), λ=common)
        found.append(
            {
                "tasks": one,
                "λ": sweep.chosen.values["λ"],
                "on its tasks": merging.normalized(best, "report", one),
                "on all tasks": merging.normalized(best, "report", tasks),
                "with one λ": merging.normalized(same, "report", one),
                "base": merging.normalized(zoo.load("base"), "report", one),
            }
        )
    zoo.add("jointly", trained_jointly(merging))
    jointly = merging.normalized(zoo.load("jointly"), "report", tasks)
    return {"sums": found, "λ": common, "jointly": jointly}


def common_strength(sweeps: Sequence[taskalg.Sweep]) -> float:
    """Return the λ that is best on average over all sums, on digits to choose by."""
    columns = zip(*(sweep.points for sweep in sweeps), strict=True)
    scores = {
        points[0].values["λ"]: fmean(point.scores["normalized"] for point in points)
        for points in columns
    }
    return float(max(scores, key=lambda strength: scores[strength]))


def trained_jointly(merging: Merging) -> Weights:
    """Fine-tune the base on all tasks at once, for as many steps as on one."""
    network = merging.digits.encoder(merging.zoo.load("base"))
    for _ in merging.digits.fit(network, merging.tasks, FINE_TUNING, GENTLE):
        pass
    return network.state_dict()


def tell(seeds: Sequence[Results]) -> Section:
    """Average over sums of as many vectors, then over seeds."""
    sizes = sorted({len(one["tasks"]) for one in seeds[0]["sums"]})
    columns = ("on its tasks", "with one λ", "on all tasks", "base")
    shares = {
        size: {column: [of_size(found, size, column) for found in seeds] for column in columns}
        for size in sizes
    }
    rows = tuple(
        (
            str(size),
            str(sum(len(one["tasks"]) == size for one in seeds[0]["sums"])),
            *(mean(shares[size][column]) for column in columns),
        )
        for size in sizes
    )
    strengths = ", ".join(f"{found['λ']:g}" for found in seeds)
    jointly = mean([found["jointly"] for found in seeds])
    return Section(
        text=f"{TEXT}\n\nThe λ that is best for all sums together is {strengths} (by seed). "
        f"The model that was fine-tuned on all tasks at once has {jointly} %.",
        tables=(
            Table(
                "Normalized accuracy in percent, mean over all sums of as many vectors",
                ("vectors", "sums", *columns),
                rows,
            ),
            pairs_table(seeds),
        ),
        pictures=(
            Picture("pairs", "Normalized accuracy of sums of two", lambda: pairs_figure(seeds)),
            Picture("sizes", "More vectors, more tasks", lambda: sizes_figure(shares)),
        ),
        claims=claims(shares, sizes[-1]),
    )


def of_size(found: Results, size: int, column: str) -> float:
    return fmean(one[column] for one in found["sums"] if len(one["tasks"]) == size)


def pairs(seeds: Sequence[Results]) -> dict[tuple[str, str], float]:
    """Return the normalized accuracy of every sum of two, mean over seeds."""
    found: dict[tuple[str, str], list[float]] = {}
    for one in (one for results in seeds for one in results["sums"] if len(one["tasks"]) == 2):
        found.setdefault(tuple(one["tasks"]), []).append(one["on its tasks"])
    return {pair: fmean(shares) for pair, shares in found.items()}


def pairs_table(seeds: Sequence[Results]) -> Table:
    """Lay pairs out as a triangle."""
    found = pairs(seeds)
    tasks = [one["tasks"][0] for one in seeds[0]["sums"] if len(one["tasks"]) == 1]
    rows = tuple(
        (task, *(percent(found[other, task]) for other in tasks[:index]))
        + ("",) * (len(tasks) - 1 - index)
        for index, task in enumerate(tasks)
        if index
    )
    return Table("Normalized accuracy of sums of two, in percent", ("", *tasks[:-1]), rows)


def pairs_figure(seeds: Sequence[Results]) -> "Figure":
    """Draw the pairs as a matrix."""
    from matplotlib.figure import Figure

    found = pairs(seeds)
    tasks = list(dict.fromkeys(task for pair in found for task in pair))
    shares = [[100 * found.get((a, b), found.get((b, a), 1)) for a in tasks] for b in tasks]
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="viridis")
    axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right")
    axes.set_yticks(range(len(tasks)), tasks)
    figure.colorbar(shown, label="normalized accuracy [%]")
    return figure


def sizes_figure(shares: Mapping[int, Mapping[str, Sequence[float]]]) -> "Figure":
    """Draw what more vectors do: to the tasks that were added, and to all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for column in ("on its tasks", "on all tasks"):
        axes.plot(
            list(shares), [100 * fmean(one[column]) for one in shares.values()], "o-", label=column
        )
    axes.set(xlabel="task vectors", ylabel="normalized accuracy [%]", title="base + λ*(…)")
    axes.legend()
    return figure


def claims(
    shares: Mapping[int, Mapping[str, Sequence[float]]], all_tasks: int
) -> tuple[Claim, ...]:
    """Hold what was measured against section 4 of the paper."""
    two, most = fmean(shares[2]["on its tasks"]), fmean(shares[all_tasks]["on its tasks"])
    base = fmean(shares[all_tasks]["base"])
    grown = [fmean(one["on all tasks"]) for one in shares.values()]
    return (
        Claim(
            "sums of two vectors keep 98.9 % of the specialists' accuracy",
            f"{percent(two)} %",
            two >= 0.97,
        ),
        Claim(
            "the sum of all eight keeps 91.2 %",
            f"the sum of all {all_tasks} keeps {percent(most)} %; the base has {percent(base)} %",
            most >= 0.9 and most > base,
        ),
        Claim(
            "the more vectors are added, the better the model is over all tasks",
            " ".join(map(percent, grown)),
            grown == sorted(grown),
        ),
    )


ADDITION = Experiment("addition", "Learning by addition", 60, measure, tell)

if __name__ == "__main__":
    main(ADDITION)
