"""How fast a recipe's weights are differentiated, against the same sum written in torch.

    python tests/bench/functional.py
    python tests/bench/functional.py --gigabytes 1 --repeat 9

Claims: weights and the gradients of two scalars, of two bf16 task vectors, take at most half the
time that torch's autograd takes. The inner products alone, in binary64, take no longer than torch's
in bf16.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
import taskalg as ta
from taskalg.dtypes import BF16
from taskalg.engines.base import Group
from taskalg.engines.dots import dots
from tests.bench import common
from tests.bench.live import State, made

NAMES = ("base", "toxic", "sent_yelp")
BARS = {"both passes": 0.5, "inner products": 1.0}  # taskalg's time over torch's

Merge = Callable[[torch.Tensor, torch.Tensor], State]


def in_torch(states: Mapping[str, State]) -> Merge:
    """Return the sum as a user of torch writes it."""
    base, toxic, yelp = (states[name] for name in NAMES)

    def merge(s: torch.Tensor, u: torch.Tensor) -> State:
        return {n: b + s * (toxic[n] - b) + u * (yelp[n] - b) for n, b in base.items()}

    return merge


def in_taskalg(states: Mapping[str, State]) -> Merge:
    tasks = {name: states[name] for name in NAMES[1:]}
    text = "base + s*toxic + u*sent_yelp"
    f = ta.compile(text, base=states["base"], tasks=tasks, set={"s": 0, "u": 0}).functional()
    return lambda s, u: f(s=s, u=u)


def both_passes(merge: Merge, gradients: State) -> None:
    s, u = (torch.tensor(value, requires_grad=True) for value in (-0.4, 0.3))
    weights = merge(s, u)
    torch.autograd.backward([weights[name] for name in gradients], list(gradients.values()))


def products_in_torch(states: Mapping[str, State], gradients: State) -> None:
    for name, gradient in gradients.items():
        for state in states.values():
            (gradient * state[name]).sum()


def group_of(states: Mapping[str, State], gradients: State) -> Group:
    columns = [*(states[name] for name in NAMES), gradients]
    addresses = [[column[name].data_ptr() for column in columns] for name in gradients]
    counts = [gradient.numel() for gradient in gradients.values()]
    rows = np.zeros(len(counts), np.int64)
    return Group((BF16,) * len(NAMES), BF16, rows, np.array(addresses), np.array(counts))


def seconds(label: str, call: Callable[[], object]) -> Mapping[str, float]:
    start = perf_counter()
    call()
    return {label: perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=0.25, help="of one model, up to 4")
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    common.print_machine("torch")
    shapes = common.llama(options.gigabytes).shapes()
    states = {name: made(shapes, name) for name in NAMES}
    gradients = made(shapes, "gradient")
    count = sum(tensor.numel() for tensor in gradients.values())
    print(f"weights   {count / 1e9:.3f} B parameters, {len(shapes)} tensors, bf16\n")
    calls: dict[str, Callable[[], object]] = {
        "both passes, torch, seconds": partial(both_passes, in_torch(states), gradients),
        "both passes, seconds": partial(both_passes, in_taskalg(states), gradients),
        "inner products, torch, seconds": partial(products_in_torch, states, gradients),
        "inner products, seconds": partial(dots, group_of(states, gradients)),
    }
    for call in calls.values():
        call()  # touches memory, and compiles
    contestants = {label: partial(seconds, label, call) for label, call in calls.items()}
    figures = common.interleaved(contestants, options.repeat)
    print()
    for what, bar in BARS.items():
        share = figures[f"{what}, seconds"] / figures[f"{what}, torch, seconds"]
        common.judge(f"{what}, over torch's", share, bar, "x")


if __name__ == "__main__":
    main()
