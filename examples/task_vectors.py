"""Section 6 of the paper: why can task vectors be added?

Because they hardly have a direction in common, as their cosines show. Two more things decide how
well a sum does: the learning rate of fine-tuning, and when a checkpoint was taken.

    python examples/task_vectors.py

prints

    Why task vectors can be added

    An encoder of pictures of digits was fine-tuned on each of eight questions, in 300
    steps with a learning rate of 0.0002. Two questions are kindred if to know one answer is
    to know a quarter of the other (mutual information over entropy). For the other tables it was
    fine-tuned with other rates, too, and checkpoints were kept on the way. The sum of all
    vectors has the best λ of 0, 0.05, … 1 by 400 digits; the tables are of 397 others, and of
    all questions. The base has 90.3 ± 0.6 %.

    Cosines between task vectors:

    questions   pairs    mean   largest
    kindred         3   0.136     0.174
    others         25   0.079     0.199

    Mean accuracy in percent by learning rate, and the cosine with the vector of 0.0002:

    rate          alone          sum        lost   cosine
    5e-05    95.8 ± 0.1   93.1 ± 0.7   2.7 ± 0.8     0.90
    0.0002   97.5 ± 0.1   92.9 ± 0.3   4.6 ± 0.3     1.00
    0.001    97.9 ± 0.2   92.9 ± 0.1   5.0 ± 0.2     0.79
    0.005    98.1 ± 0.4   91.8 ± 0.3   6.3 ± 0.4     0.16
    0.02     96.1 ± 0.3   90.3 ± 0.6   5.8 ± 0.5     0.05

    The same by steps, and the cosine with the last vector:

    steps        alone          sum        lost   cosine
    10      92.1 ± 0.3   91.6 ± 0.6   0.5 ± 0.5     0.58
    25      93.5 ± 0.3   92.5 ± 0.5   0.9 ± 0.6     0.70
    50      94.9 ± 0.3   93.0 ± 0.5   1.9 ± 0.4     0.81
    100     95.8 ± 0.3   92.9 ± 0.6   2.9 ± 0.6     0.91
    200     97.2 ± 0.1   92.8 ± 0.3   4.4 ± 0.3     0.98
    300     97.5 ± 0.1   92.9 ± 0.3   4.6 ± 0.3     1.00

    paper: vectors of different tasks are nearly orthogonal
    here:  the largest cosine is 0.199, the mean 0.085

    paper: cosines are larger between kindred tasks
    here:  0.136 between kindred ones, 0.079 between others; correlation with what they share 0.74

    paper: a high learning rate hurts a sum earlier than the models in it
    here:  with 0.005 instead of 0.0002, models gain +0.6 points and their sum −1.1

    paper: the direction of a vector is soon found; intermediate ones add up nearly as well
    here:  at step 100 of 300 the cosine is 0.91, the sum has +0.0 points, models alone −1.7
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import taskalg
from paper.columns import together
from paper.digits import (
    FINE_TUNING,
    GENTLE,
    QUESTIONS,
    Digits,
    kindred_pairs,
    shared_information,
)
from paper.experiment import Claim, Experiment, Picture, Results, Section, Table, Trial
from paper.experiment import mean_percent as mean
from paper.figures import curves, matrix, scatter
from paper.script import main
from paper.sums import Sums, best
from paper.zoo import Zoo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT = f"""\
An encoder of pictures of digits was fine-tuned on each of eight questions, in {FINE_TUNING}
steps with a learning rate of {GENTLE:g}. Two questions are kindred if to know one answer is
to know a quarter of the other (mutual information over entropy). For the other tables it was
fine-tuned with other rates, too, and checkpoints were kept on the way. The sum of all
vectors has the best λ of 0, 0.05, … 1 by 400 digits; the tables are of 397 others, and of
all questions."""
COSINES = "Cosines between task vectors"
SHARED = "what two answers share"
BY_RATE = f"Mean accuracy in percent by learning rate, and the cosine with the vector of {GENTLE:g}"
BY_STEPS = "The same by steps, and the cosine with the last vector"
RISING = "Accuracy of models and of their sum"

RATES = (5e-5, GENTLE, 1e-3, HIGH := 5e-3, 2e-2)
STEPS = (10, 25, 50, EARLY := 100, 200, FINE_TUNING)
FINAL = (GENTLE, FINE_TUNING)
Zoos = Mapping[tuple[float, int], Zoo]  # by learning rate and steps
Found = Mapping[float, Sequence[Sequence[float]]]  # alone, sum, cosine: by seed, by rate or steps


def measure(trial: Trial) -> Results:
    """Return cosines between tasks; and what there is to say of every rate and step."""
    digits = Digits(trial.seed)
    tasks = ("parity", "holes", "remainder") if trial.fast else QUESTIONS
    rates, steps = ((GENTLE, HIGH), (EARLY, FINE_TUNING)) if trial.fast else (RATES, STEPS)
    keys = sorted({(rate, FINE_TUNING) for rate in rates} | {(GENTLE, step) for step in steps})
    zoos = empty_zoos(digits, trial.folder, keys)
    runs = [(rate, task) for rate in rates for task in tasks]
    for done, (rate, task) in enumerate(runs, 1):
        fine_tune(digits, zoos, rate, task)
        trial.told(done / len(runs))
    final = zoos[FINAL]
    geometry = taskalg.geometry({task: final.recipe(task) for task in tasks}, cache=False)
    base = Sums(digits, final).accuracy(final.load("base"))
    return {
        "base": fmean(base[task] for task in tasks),
        "cosines": {pair: geometry.cos(*pair) for pair in combinations(tasks, 2)},
        "zoos": {key: (*asked(digits, zoo), turned(zoo, final)) for key, zoo in zoos.items()},
    }


def empty_zoos(digits: Digits, folder: Path, keys: Sequence[tuple[float, int]]) -> Zoos:
    """Return a zoo with the same base for each learning rate and number of steps."""
    base, zoos = digits.pretrained().state_dict(), {}
    for rate, steps in keys:
        place = folder / f"rate-{rate:g}-steps-{steps}"
        place.mkdir()
        zoos[rate, steps] = Zoo(place, base)
    return zoos


def fine_tune(digits: Digits, zoos: Zoos, rate: float, task: str) -> None:
    """Fine-tune the base on a task; keep each checkpoint for which there is a zoo."""
    network = digits.encoder(zoos[rate, FINE_TUNING].load("base"))
    for step in digits.fit(network, [task], FINE_TUNING, rate):
        if (rate, step) in zoos:
            zoos[rate, step].add(task, network.state_dict())


def asked(digits: Digits, zoo: Zoo) -> tuple[float, float]:
    """Return the mean accuracy of the tasks' own models, and that of the sum of all."""
    sums = Sums(digits, zoo)
    merged = sums.accuracy(sums.weights(sums.tasks, best(sums.sweep(sums.tasks))))
    return sums.alone(sums.tasks), fmean(merged[task] for task in sums.tasks)


def turned(zoo: Zoo, final: Zoo) -> float:
    """Return the mean cosine between a zoo's vectors and the final ones."""
    pairs = [{"now": zoo.tasks[task], "final": final.tasks[task]} for task in zoo.tasks]
    vectors = [[taskalg.compile(x, base=final.base, tasks=pair) for x in pair] for pair in pairs]
    return fmean(taskalg.cos(now, end) for now, end in vectors)


def tell(seeds: Sequence[Results]) -> Section:
    """Average over tasks, then over seeds."""
    zoos = seeds[0]["zoos"]
    rates = {r: [found["zoos"][r, s] for found in seeds] for r, s in zoos if s == FINE_TUNING}
    steps = {s: [found["zoos"][r, s] for found in seeds] for r, s in zoos if r == GENTLE}
    cosines = {p: fmean(found["cosines"][p] for found in seeds) for p in seeds[0]["cosines"]}
    shared = [shared_information(*pair) for pair in cosines]
    return Section(
        text=f"{TEXT} The base has {mean([found['base'] for found in seeds])} %.",
        tables=(
            cosines_table(seeds),
            table(BY_RATE, "rate", rates),
            table(BY_STEPS, "steps", steps),
        ),
        pictures=(
            Picture("cosines", COSINES, lambda: matrix(cosines, COSINES, 2)),
            Picture(
                "kinship", SHARED, lambda: scatter({SHARED: shared}, [*cosines.values()], "cosine")
            ),
            Picture("rates", f"{RISING}, by learning rate", lambda: rising(rates, "learning rate")),
            Picture("steps", f"{RISING}, by steps", lambda: rising(steps, "steps")),
        ),
        claims=(
            *claims_of_cosines(seeds, together(shared, [*cosines.values()])),
            *claims_of_sums(rates[GENTLE], rates[HIGH], steps[EARLY]),
        ),
    )


def cosines_table(seeds: Sequence[Results]) -> Table:
    """Compare kindred questions with others."""
    rows = []
    for name, cosines in by_kinship(seeds).items():
        largest = max(max(seed) for seed in cosines)
        means = f"{fmean(map(fmean, cosines)):.3f}"
        rows.append((name, str(len(cosines[0])), means, f"{largest:.3f}"))
    return Table(COSINES, ("questions", "pairs", "mean", "largest"), tuple(rows))


def by_kinship(seeds: Sequence[Results]) -> dict[str, list[list[float]]]:
    """Return the cosines of every seed between kindred questions, and between others."""
    kindred = kindred_pairs()
    return {
        name: [
            [c for pair, c in found["cosines"].items() if (pair in kindred) == is_kindred]
            for found in seeds
        ]
        for name, is_kindred in (("kindred", True), ("others", False))
    }


def table(caption: str, label: str, found: Found) -> Table:
    """Show what models can do alone, and in a sum."""
    rows = []
    for place, seeds in found.items():
        alone, summed, cosines = zip(*seeds, strict=True)
        lost = [one - other for one, other in zip(alone, summed, strict=True)]
        rows.append((f"{place:g}", mean(alone), mean(summed), mean(lost), f"{fmean(cosines):.2f}"))
    return Table(caption, (label, "alone", "sum", "lost", "cosine"), tuple(rows))


def rising(found: Found, label: str) -> "Figure":
    """Draw the same."""
    alone, summed = (
        [100 * fmean(seed[i] for seed in seeds) for seeds in found.values()] for i in (0, 1)
    )
    lines = {"fine-tuned on the task alone": alone, "sum of all": summed}
    return curves(list(found), lines, RISING, (label, "accuracy [%]"), logarithmic=True)


def claims_of_cosines(seeds: Sequence[Results], correlation: str) -> tuple[Claim, ...]:
    """Hold cosines against the paper's."""
    kindred, others = by_kinship(seeds).values()
    everything = [c for seed in (*kindred, *others) for c in seed]
    near, far = (fmean(map(fmean, cosines)) for cosines in (kindred, others))
    return (
        Claim(
            "vectors of different tasks are nearly orthogonal",
            f"the largest cosine is {max(everything):.3f}, the mean {fmean(everything):.3f}",
            max(everything) < 0.2,
        ),
        Claim(
            "cosines are larger between kindred tasks",
            f"{near:.3f} between kindred ones, {far:.3f} between others; "
            f"correlation with what they share {correlation}",
            near > far,
        ),
    )


def claims_of_sums(
    final: Sequence[Sequence[float]],
    high: Sequence[Sequence[float]],
    early: Sequence[Sequence[float]],
) -> tuple[Claim, ...]:
    """Hold learning rates and intermediate checkpoints against the paper's."""
    (alone, summed, _), (fast, fast_sum, _), (soon, soon_sum, cosine) = (
        [fmean(numbers) for numbers in zip(*seeds, strict=True)] for seeds in (final, high, early)
    )
    gained, lost = fast - alone, fast_sum - summed
    return (
        Claim(
            "a high learning rate hurts a sum earlier than the models in it",
            f"with {HIGH:g} instead of {GENTLE:g}, models gain {points(gained)} points and "
            f"their sum {points(lost)}",
            lost < min(gained, 0),
        ),
        Claim(
            "the direction of a vector is soon found; intermediate ones add up nearly as well",
            f"at step {EARLY} of {FINE_TUNING} the cosine is {cosine:.2f}, the sum has "
            f"{points(soon_sum - summed)} points, models alone {points(soon - alone)}",
            soon_sum >= 0.99 * summed,
        ),
    )


def points(share: float) -> str:
    """Write a difference in percent with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


TASK_VECTORS = Experiment("task_vectors", "Why task vectors can be added", 70, measure, tell)

if __name__ == "__main__":
    main(TASK_VECTORS)
