"""Section 4 of the paper: learning by addition.

The sum of task vectors should make one model good at all of the tasks:

    base + λ*(one + two + three)

An encoder of pictures of digits is fine-tuned on each of eight questions, and the vectors of all
255 subsets are added. Each sum has one λ, the best of 0, 0.05, … 1 by 400 digits of which the
tables know nothing. An accuracy is normalized: divided by that of the model that was fine-tuned on
the task alone.

    python examples/addition.py

prints

    Learning by addition

    All subsets of the task vectors are added, each sum with one λ for all of its vectors, the
    best of 0, 0.05, … 1 by 400 digits; the tables are of 397 others. Accuracies are normalized:
    divided by that of the model that was fine-tuned on the task alone. Beside them is what the
    base has, from which fine-tuning started.

    The λ that is best for all sums together is 0.45, 0.5, 0.5 (by seed).
    The model that was fine-tuned on all tasks at once has 99.1 ± 0.2 %.

    Normalized accuracy in percent, mean over all sums of as many vectors:

    vectors   sums   on its tasks   with one λ   on all tasks         base
    1            8     99.8 ± 0.1   98.0 ± 0.1     92.2 ± 0.6   92.6 ± 0.6
    2           28     98.7 ± 0.0   97.7 ± 0.1     92.3 ± 0.4   92.6 ± 0.6
    3           56     97.6 ± 0.0   97.3 ± 0.1     93.0 ± 0.2   92.6 ± 0.6
    4           70     96.8 ± 0.0   96.8 ± 0.1     93.8 ± 0.2   92.6 ± 0.6
    5           56     96.2 ± 0.1   96.2 ± 0.1     94.4 ± 0.2   92.6 ± 0.6
    6           28     95.8 ± 0.2   95.3 ± 0.2     94.7 ± 0.2   92.6 ± 0.6
    7            8     95.5 ± 0.3   94.4 ± 0.4     95.0 ± 0.3   92.6 ± 0.6
    8            1     95.3 ± 0.3   93.4 ± 0.9     95.3 ± 0.3   92.6 ± 0.6

    Normalized accuracy of sums of two, in percent:

                parity   large   holes   remainder   middle   square   letters
    large         99.0
    holes         98.4    99.0
    remainder     98.5    99.2    98.8
    middle        98.7    99.3    99.1        98.8
    square        99.1    99.0    98.9        99.1     98.8
    letters       98.4    98.9    98.6        98.3     99.5     98.9
    mirror        98.1    98.9    97.2        96.8     99.4     98.7      98.7

    paper: sums of two vectors keep 98.9 % of the specialists' accuracy
    here:  98.7 %

    paper: the sum of all eight keeps 91.2 %
    here:  the sum of all 8 keeps 95.3 %; the base has 92.6 %

    paper: the more vectors are added, the better the model is over all tasks
    here:  92.2 92.3 93.0 93.8 94.4 94.7 95.0 95.3; the base has 92.6
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from statistics import fmean
from typing import TYPE_CHECKING

import taskalg
from paper.digits import QUESTIONS, Digits
from paper.experiment import Claim, Experiment, Picture, Results, Section, Table, Trial, percent
from paper.experiment import mean_percent as mean
from paper.figures import curves, matrix
from paper.script import main
from paper.sums import Sums, best
from paper.zoo import Zoo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT = """\
All subsets of the task vectors are added, each sum with one λ for all of its vectors, the
best of 0, 0.05, … 1 by 400 digits; the tables are of 397 others. Accuracies are normalized:
divided by that of the model that was fine-tuned on the task alone. Beside them is what the
base has, from which fine-tuning started."""
PAIRS = "Normalized accuracy of sums of two, in percent"


def measure(trial: Trial) -> Results:
    """Return what every sum has at its own λ, and at one λ for all sums."""
    sums = trained(trial)
    tasks, base = sums.tasks, sums.zoo.load("base")
    subsets = [s for size in range(1, len(tasks) + 1) for s in combinations(tasks, size)]
    sweeps = []
    for done, subset in enumerate(subsets, 1):
        sweeps.append(sums.sweep(subset))
        trial.told(0.2 + 0.8 * done / len(subsets))
    common = common_strength(sweeps)
    found = []
    for subset, sweep in zip(subsets, sweeps, strict=True):
        merged = sums.weights(subset, best(sweep))
        found.append(
            {
                "tasks": subset,
                "on its tasks": sums.normalized(merged, subset),
                "on all tasks": sums.normalized(merged, tasks),
                "with one λ": sums.normalized(sums.weights(subset, common), subset),
                "base": sums.normalized(base, subset),
            }
        )
    jointly = sums.normalized(sums.zoo.load("jointly"), tasks)
    return {"sums": found, "λ": common, "jointly": jointly}


def trained(trial: Trial) -> Sums:
    """Fine-tune the base on each task, and on all at once for as many steps."""
    digits = Digits(trial.seed)
    tasks = QUESTIONS[:3] if trial.fast else QUESTIONS
    zoo = Zoo(trial.folder, digits.pretrained().state_dict())
    for done, task in enumerate(tasks, 1):
        zoo.add(task, digits.fine_tuned(zoo.load("base"), [task]).state_dict())
        trial.told(0.2 * done / len(tasks))
    sums = Sums(digits, zoo)  # of what is in the zoo now
    zoo.add("jointly", digits.fine_tuned(zoo.load("base"), tasks).state_dict())
    return sums


def common_strength(sweeps: Sequence[taskalg.Sweep]) -> float:
    """Return the λ that is best on average over all sums, on digits to choose by."""
    columns = zip(*(sweep.points for sweep in sweeps), strict=True)
    scores = {
        points[0].values["λ"]: fmean(point.scores["normalized"] for point in points)
        for points in columns
    }
    return float(max(scores, key=lambda strength: scores[strength]))


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
        text=f"{TEXT}\n\nThe λ that is best for all sums together is {strengths} (by seed).\n"
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
            Picture("pairs", PAIRS, lambda: matrix(pairs(seeds), PAIRS, 1)),
            Picture("sizes", "More vectors, more tasks", lambda: growth(shares)),
        ),
        claims=claims(shares, sizes[-1]),
    )


def of_size(found: Results, size: int, column: str) -> float:
    return fmean(one[column] for one in found["sums"] if len(one["tasks"]) == size)


def pairs(seeds: Sequence[Results]) -> dict[tuple[str, str], float]:
    """Return the normalized accuracy of every sum of two in percent, mean over seeds."""
    found: dict[tuple[str, str], list[float]] = {}
    for one in (one for results in seeds for one in results["sums"] if len(one["tasks"]) == 2):
        found.setdefault(tuple(one["tasks"]), []).append(one["on its tasks"])
    return {pair: 100 * fmean(shares) for pair, shares in found.items()}


def pairs_table(seeds: Sequence[Results]) -> Table:
    """Lay pairs out as a triangle."""
    found = pairs(seeds)
    tasks = [one["tasks"][0] for one in seeds[0]["sums"] if len(one["tasks"]) == 1]
    rows = tuple(
        (task, *(f"{found[other, task]:.1f}" for other in tasks[:index]))
        + ("",) * (len(tasks) - 1 - index)
        for index, task in enumerate(tasks)
        if index
    )
    return Table(PAIRS, ("", *tasks[:-1]), rows)


def growth(shares: Mapping[int, Mapping[str, Sequence[float]]]) -> "Figure":
    """Draw what more vectors do: to the tasks that were added, and to all."""
    lines = {
        column: [100 * fmean(one[column]) for one in shares.values()]
        for column in ("on its tasks", "on all tasks")
    }
    return curves(list(shares), lines, "base + λ*(…)", ("task vectors", "normalized accuracy [%]"))


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
            f"{' '.join(map(percent, grown))}; the base has {percent(base)}",
            all(few < many for few, many in pairwise(grown)) and grown[-1] > base,
        ),
    )


ADDITION = Experiment("addition", "Learning by addition", 60, measure, tell)

if __name__ == "__main__":
    main(ADDITION)
