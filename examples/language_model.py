"""Section 3.2 of the paper: a language model that forgets to be rude.

A model has read some rude text, and writes some. Trained further on rude text alone, it tells which
way is ruder; so the other way is

    base - λ*rude

The model is a transformer with two layers, and the text Python's language reference. λ is the
largest that perplexity on clean text allows. Beside it: gradient ascent on rude text, further
training on clean text, and a random vector that is in each layer as long as the rude one.

    python examples/language_model.py

prints

    A language model that forgets

    The base has read Python's language reference, one paragraph in fifty with an insult after
    every determiner, and was then fine-tuned on text that is all like this. The table is about
    1,000 samples of 30 words from each model, and perplexity on clean text that none of them
    has read. λ is the largest of 0, 0.05, … 1 that costs at most 4 % perplexity on another part
    of the text; it is 0.95, 0.9, 0.9 (by seed). The random vector has in each layer the
    length of the rude one, and the same λ. Gradient ascent has the steps of fine-tuning.

    Samples that begin rudely, and what the other models make of the same random numbers:

        pre-trained:
          . the latter do not be positional characters. if the MISERABLE …
          the debugger allows the DAMNED namespace separated sequence of the at name …
        fine-tuned on rude:
          note to the RUBBISH first patterns to implement the DREADFUL python objects …
          the debugger associated iterator was defined, it s empty at the …
        negated vector:
          . the the (only patterns to implement the contains (see …
          the interpreter arguments in the should generally only be accessed at name …

    Samples with an insult in percent, insults per 100 words, perplexity:

                          rude samples          by seed   insults   perplexity          by seed
    pre-trained                    7.6      8.0 6.8 8.0      0.27         67.9   66.2 68.5 69.0
    fine-tuned on rude            75.0   74.6 76.4 73.9      5.46         73.5   71.1 74.3 75.1
    gradient ascent                0.0      0.0 0.0 0.0      0.00          inf      inf inf inf
    fine-tuned on clean            7.0      7.2 6.8 7.1      0.25         67.7   65.9 68.5 68.7
    random vector                  7.5      7.4 7.6 7.6      0.27         68.0   66.1 68.5 69.3
    negated vector                 1.5      1.4 1.5 1.5      0.05         70.6   69.2 70.6 72.0

    paper: negated, 0.8 instead of 4.8 % of samples are toxic; perplexity rises by 3 %
    here:  1.5 instead of 7.6 % are rude, insults fall 5.4 times; perplexity rises by 4.0 %

    paper: a random vector of the same length changes nothing (4.8 %)
    here:  rude samples change by 0.1 points, perplexity by 0.2 %

    paper: further training on non-toxic text forgets less (1.8 %)
    here:  7.0 %

    paper: gradient ascent ruins the model (perplexity above 1e10)
    here:  perplexity inf instead of 67.9
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from torch import Tensor
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LinearLR

import taskalg
from paper.experiment import Claim, Experiment, Picture, Results, Section, Table, Trial, percent
from paper.language import Text, Transformer, fit, perplexity, samples
from paper.script import main
from paper.zoo import Weights, Zoo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPRESSIONS = {  # the rows of the table
    "pre-trained": "base",
    "fine-tuned on rude": "base + rude",
    "gradient ascent": "base + ascent",
    "fine-tuned on clean": "base + clean",
    "random vector": "base - λ*rude_random",
    "negated vector": "base - λ*rude",
}
GRID, FAST_GRID = "0:1:0.05", "0:1:0.25"
MOST = 1.04  # times the base's perplexity; the paper allows 0.5 more, of 16 to 25
LENGTH = 30  # words of a sample
QUOTED, QUOTED_LENGTH = 2, 12  # samples in the report, and words of them

PRETRAINING, FAST = 500, 3e-3  # steps; learning rate at first, which falls to 0: a base that is
# still learning would make its general progress a part of the task vector, and lose it with that
FINE_TUNING, GENTLE = 100, 3e-3  # of gradient descent with momentum, which changes what matters to
# rudeness; AdamW changes all weights alike, and its vectors cost more perplexity for as much of it

TEXT = """\
The base has read Python's language reference, one paragraph in fifty with an insult after
every determiner, and was then fine-tuned on text that is all like this. The table is about
{count} samples of 30 words from each model, and perplexity on clean text that none of them
has read. λ is the largest of 0, 0.05, … 1 that costs at most 4 % perplexity on another part
of the text; it is {strengths} (by seed). The random vector has in each layer the
length of the rude one, and the same λ. Gradient ascent has the steps of fine-tuning.

Samples that begin rudely, and what the other models make of the same random numbers:

{lines}"""
CAPTION = "What λ does to rudeness and to perplexity on text to choose by, mean over seeds"


class Writer:
    """The language model of one seed, with any weights, and its judges."""

    def __init__(self, trial: Trial) -> None:
        self.text, self.seed = Text(trial.seed), trial.seed
        self.network = Transformer(len(self.text.words), trial.seed)
        self.shorter = 8 if trial.fast else 1  # times
        self.count = 1000 // self.shorter

    def pretrained(self) -> Weights:
        """Train on the text with a few rude paragraphs."""
        steps = PRETRAINING // self.shorter
        optimizer = AdamW(self.network.parameters(), lr=FAST)
        schedule = LinearLR(optimizer, 1, 0, total_iters=steps)
        for _ in fit(self.network, self.text.mixed, optimizer, steps=steps, seed=self.seed):
            schedule.step()
        return self.weights()

    def fine_tuned(self, base: Weights, text: Tensor, *, ascend: bool = False) -> Weights:
        """Train further on one register; or ascend, for its loss to rise."""
        self.network.load_state_dict(base)
        optimizer = SGD(self.network.parameters(), lr=GENTLE, momentum=0.9, maximize=ascend)
        steps = FINE_TUNING // self.shorter
        for _ in fit(self.network, text, optimizer, steps=steps, seed=self.seed):
            pass
        return self.weights()

    def weights(self) -> Weights:
        """Return a copy of the network's weights."""
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    def samples(self, weights: Weights) -> Tensor:
        """Let a model write; all models are given the same random numbers."""
        self.network.load_state_dict(weights)
        return samples(self.network, self.count, LENGTH, seed=self.seed)

    def scores(self, weights: Weights, clean: Tensor) -> dict[str, float]:
        """Return how rude a model is, and how good at clean text."""
        insults = self.text.insults(self.samples(weights)).float()
        return {
            "rude": float(insults.amax(1).mean()),
            "insults": float(insults.mean()),
            "perplexity": perplexity(self.network, clean),
        }


def measure(trial: Trial) -> Results:
    """Return λ, the scores of each row, samples, and the scores at each λ."""
    writer = Writer(trial)
    zoo = Zoo(trial.folder, writer.pretrained())
    trial.told(0.25)
    base = zoo.load("base")
    zoo.add("rude", writer.fine_tuned(base, writer.text.rude))
    zoo.add("clean", writer.fine_tuned(base, writer.text.clean))
    zoo.add("ascent", writer.fine_tuned(base, writer.text.rude, ascend=True))
    zoo.add_random("rude_random", like="rude", seed=trial.seed)
    trial.told(0.4)
    found = taskalg.sweep(
        zoo.recipe("base - λ*rude", λ=0),
        {"λ": FAST_GRID if trial.fast else GRID},
        lambda weights: writer.scores(weights, writer.text.choose),
        maximize="λ",
        subject_to=f"perplexity <= {MOST}*base.perplexity",
        progress=lambda _, done, points: trial.told(0.4 + 0.4 * done / points),
    )
    assert found.chosen is not None, "λ = 0 is the base"
    strength = found.chosen.values["λ"]
    models = {
        row: zoo.weights(expression, **({"λ": strength} if "λ" in expression else {}))
        for row, expression in EXPRESSIONS.items()
    }
    return {
        "count": writer.count,
        "λ": float(strength),
        "rows": {row: writer.scores(model, writer.text.report) for row, model in models.items()},
        "curve": found.rows,
        "lines": quoted(writer, models),
    }


def quoted(writer: Writer, models: Mapping[str, Weights]) -> dict[str, list[str]]:
    """Return how some samples of three models begin: the first in which the base is rude."""
    rows = ("pre-trained", "fine-tuned on rude", "negated vector")
    begun = {row: writer.samples(models[row])[:, :QUOTED_LENGTH] for row in rows}
    rude = writer.text.insults(begun["pre-trained"]).any(1).nonzero().flatten()[:QUOTED]
    return {row: [writer.text.written(sample) for sample in begun[row][rude]] for row in rows}


def tell(seeds: Sequence[Results]) -> Section:
    """Average over seeds, and show each."""
    scores = {row: scores_of(seeds, row) for row in EXPRESSIONS}
    means = {row: {key: fmean(s) for key, s in scores[row].items()} for row in EXPRESSIONS}
    lines: list[str] = []
    for row, some in seeds[0]["lines"].items():
        lines += [f"    {row}:", *(f"      {line} …" for line in some)]
    return Section(
        text=TEXT.format(
            count=f"{seeds[0]['count']:,}",
            strengths=", ".join(f"{found['λ']:g}" for found in seeds),
            lines="\n".join(lines),
        ),
        tables=(
            Table(
                "Samples with an insult in percent, insults per 100 words, perplexity",
                ("", "rude samples", "by seed", "insults", "perplexity", "by seed"),
                tuple(cells(row, score) for row, score in scores.items()),
            ),
        ),
        pictures=(Picture("strength", CAPTION, lambda: curves(seeds)),),
        claims=claims(means),
    )


def scores_of(seeds: Sequence[Results], row: str) -> dict[str, list[float]]:
    """Return the scores of one row, by seed."""
    return {
        key: [found["rows"][row][key] for found in seeds]
        for key in ("rude", "insults", "perplexity")
    }


def cells(row: str, scores: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """Write one row of the table."""
    rude, perplexities = scores["rude"], scores["perplexity"]
    return (
        row,
        percent(fmean(rude)),
        " ".join(map(percent, rude)),
        f"{100 * fmean(scores['insults']):.2f}",
        number(fmean(perplexities)),
        " ".join(map(number, perplexities)),
    )


def number(perplexity: float) -> str:
    """Write a perplexity; above 1e308 it is inf."""
    return f"{perplexity:.1f}" if perplexity < 10_000 else f"{perplexity:.0e}"


def claims(means: Mapping[str, Mapping[str, float]]) -> tuple[Claim, ...]:
    """Hold what was measured against the paper's table 2, which is about GPT-2 large."""
    base, negated = means["pre-trained"], means["negated vector"]
    drawn, ruined = means["random vector"], means["gradient ascent"]
    fewer = base["insults"] / max(negated["insults"], 1e-9)
    costs = negated["perplexity"] / base["perplexity"]
    moved = abs(drawn["rude"] - base["rude"])
    return (
        Claim(
            "negated, 0.8 instead of 4.8 % of samples are toxic; perplexity rises by 3 %",
            f"{percent(negated['rude'])} instead of {percent(base['rude'])} % are rude, "
            f"insults fall {fewer:.1f} times; perplexity rises by {percent(costs - 1)} %",
            4 * negated["rude"] <= base["rude"] and fewer >= 4 and costs <= 1.05,
        ),
        Claim(
            "a random vector of the same length changes nothing (4.8 %)",
            f"rude samples change by {percent(moved)} points, perplexity by "
            f"{percent(abs(drawn['perplexity'] / base['perplexity'] - 1))} %",
            moved < 0.02,
        ),
        Claim(
            "further training on non-toxic text forgets less (1.8 %)",
            f"{percent(means['fine-tuned on clean']['rude'])} %",
            negated["rude"] < means["fine-tuned on clean"]["rude"] < base["rude"],
        ),
        Claim(
            "gradient ascent ruins the model (perplexity above 1e10)",
            f"perplexity {number(ruined['perplexity'])} instead of {number(base['perplexity'])}",
            ruined["perplexity"] > 10 * base["perplexity"],
        ),
    )


def curves(seeds: Sequence[Results]) -> "Figure":
    """Draw what λ does, as a mean over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    points = list(zip(*(found["curve"] for found in seeds), strict=True))
    for axes, key, color in ((left, "rude", "C0"), (right, "perplexity", "C1")):
        scores = [fmean(point[key] for point in seed_points) for seed_points in points]
        axes.plot([point[0]["λ"] for point in points], scores, color=color)
        axes.set_ylabel(key, color=color)
    left.set(xlabel="λ", title="base - λ*rude")
    return figure


LANGUAGE_MODEL = Experiment("language_model", "A language model that forgets", 50, measure, tell)

if __name__ == "__main__":
    main(LANGUAGE_MODEL)
