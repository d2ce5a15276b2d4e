"""Learn coefficients by gradient, where others try a grid (needs the extra demo).

A small network knows two questions about handwritten digits a little, and was fine-tuned on each of
them alone. How much of each task vector should be added for the best answers to both? The recipe's
scalars are parameters: the loss of the merged network has a gradient by them, and Adam follows it,
as AdaMerging does (Yang et al. 2023, arXiv 2310.02575). A grid of 121 points is tried beside it.

Nothing is judged by digits it was chosen by. 1,000 train the networks. 400 others choose the
coefficients: the learned ones follow their loss, and the grid's best point is best for it. The
table is of the 397 left. To be fair to the grid, its last line is the point that is best on those
themselves, which no honest choice could know. Here the means are 0.2503, 0.1506, 0.1538 and 0.1536:
what was learned beats that one, too. What it prints last is a recipe:

    taskalg merge -f learned/learned.ta -o merged.safetensors

    python examples/learn_coefficients.py

prints

    loss on digits that chose nothing             holes  remainder       mean
    base alone                                   0.1…     0.3…     0.2…
    learned: 0.6…, 1.1…                      0.1…     0.1…     0.1…
    best of 121 grid points: 0.6, 1.0            0.1…     0.1…     0.1…
    best grid point in hindsight: 0.5, 1.0       0.1…     0.1…     0.1…

    # learned/learned.ta
    base = checkpoint("learned/base.safetensors")
    holes = task("learned/holes.safetensors", base)
    remainder = task("learned/remainder.safetensors", base)
    a = 0.6…
    b = 1.1…
    base + a*holes + b*remainder
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy

import taskalg
from taskalg.memory.functional import Functional

TASKS = ("holes", "remainder")  # does it have a hole? what is left when divided by 3?
TRAIN, CHOOSE, REPORT = slice(0, 1000), slice(1000, 1400), slice(1400, None)
FOLDER = Path("learned")
Weights = dict[str, torch.Tensor]


class Digits:
    """The digits that come with scikit-learn, and a question's frozen head for each task."""

    def __init__(self) -> None:
        pixels, digits = load_digits(return_X_y=True)
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(digits), generator=generator)
        answers = torch.tensor(digits)[order]
        self.images = torch.tensor(pixels / 16, dtype=torch.float32)[order]
        self.answers = [torch.isin(answers, torch.tensor([0, 6, 8, 9])).long(), answers % 3]
        self.heads = [torch.randn(64, size, generator=generator) / 8 for size in (2, 3)]

    def losses(self, seen: torch.Tensor, split: slice | torch.Tensor) -> torch.Tensor:
        """Return each task's loss, given what an encoder makes of a split's images."""
        pairs = zip(self.heads, self.answers, strict=True)
        return torch.stack([cross_entropy(seen @ head, right[split]) for head, right in pairs])


def encoder() -> Sequential:
    torch.manual_seed(2)
    return Sequential(Linear(64, 512), ReLU(), Linear(512, 512), ReLU(), Linear(512, 64))


def train(digits: Digits, network: Sequential, tasks: list[int], steps: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        batch = torch.randint(0, TRAIN.stop, (128,), generator=generator)
        loss = digits.losses(network(digits.images[batch]), batch)[tasks].sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def checkpoints(digits: Digits) -> dict[str, Path]:
    """Train and save a base and what fine-tuning makes of it."""
    FOLDER.mkdir(exist_ok=True)
    paths = {name: FOLDER / f"{name}.safetensors" for name in ("base", *TASKS)}
    base = encoder()
    train(digits, base, [0, 1], 25)
    save_file(base.state_dict(), paths["base"])
    for index, name in enumerate(TASKS):
        tuned = encoder()
        tuned.load_state_dict(base.state_dict())
        train(digits, tuned, [index], 30)
        save_file(tuned.state_dict(), paths[name])
    return paths


def learn(merged: Functional[taskalg.Recipe], loss: Callable[[Weights], torch.Tensor]) -> None:
    """Follow the gradient of a loss of the merged weights to its lowest point."""
    optimizer = torch.optim.Adam(merged.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss(merged()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def main() -> dict[str, list[float]]:
    """Learn, try the grid, and return the losses of each task on digits that chose nothing."""
    torch.set_num_threads(1)  # more are no faster on matrices this small
    digits, network = Digits(), encoder()
    paths = checkpoints(digits)
    recipe = taskalg.compile(
        "base + a*holes + b*remainder",
        base=paths["base"],
        tasks={name: paths[name] for name in TASKS},
        set={"a": 0.5, "b": 0.5},
    )
    merged = recipe.functional()

    def losses(weights: Weights, split: slice) -> torch.Tensor:
        seen = torch.func.functional_call(network, weights, (digits.images[split],))
        return digits.losses(seen, split)

    learn(merged, lambda weights: losses(weights, CHOOSE).mean())
    with torch.no_grad():
        grid = {}
        for point in ((a / 10, b / 10) for a in range(11) for b in range(11)):
            weights = merged(a=point[0], b=point[1])
            grid[point] = [losses(weights, split).mean().item() for split in (CHOOSE, REPORT)]
        chosen, hindsight = (min(grid, key=lambda point: grid[point][i]) for i in (0, 1))
        learned = ", ".join(f"{parameter.item():.3f}" for parameter in merged.parameters())
        candidates = {
            "base alone": merged(a=0, b=0),
            f"learned: {learned}": merged(),
            f"best of 121 grid points: {chosen[0]}, {chosen[1]}": merged(a=chosen[0], b=chosen[1]),
            f"best grid point in hindsight: {hindsight[0]}, {hindsight[1]}": merged(
                a=hindsight[0], b=hindsight[1]
            ),
        }
        found = {name: losses(w, REPORT).tolist() for name, w in candidates.items()}
    show(found)
    (FOLDER / "learned.ta").write_text(merged.text(), encoding="utf-8")
    print(f"\n# {FOLDER}/learned.ta\n{merged.text()}", end="")
    return found


def show(found: Mapping[str, list[float]]) -> None:
    """Print a table of losses."""
    print(f"{'loss on digits that chose nothing':<40}", *(f"{n:>10}" for n in (*TASKS, "mean")))
    for name, (one, other) in found.items():
        print(f"{name:<40}", *(f"{value:>10.4f}" for value in (one, other, (one + other) / 2)))


if __name__ == "__main__":
    main()
