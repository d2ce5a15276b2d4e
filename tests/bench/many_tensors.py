"""Merge checkpoints of 300, 3,000 and 18,000 small tensors, in the same order and in others.

    python tests/bench/many_tensors.py

Claims: the whole command takes at most 4 s for 18,000 tensors in five inputs, also when each input
orders and shards its tensors differently, and its time on processors is linear in their number.
"""

import argparse
import json
import random
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.bench import common

COUNTS = (300, 3_000, 18_000)
LAYOUTS = ("same order", "other orders")
BAR = 4.0  # seconds
# A tensor among 18,000 over one among 3,000: 1 when linear, 6.4 when quadratic. Process start is
# most of the smaller times, and varies; half way between is a verdict that noise does not turn.
STEEPER = 3
EXPERTS = 100  # times three tensors make a layer
SHAPE = (48, 32)


def shapes(count: int) -> dict[str, tuple[int, ...]]:
    """Return a mixture of experts' tensors."""
    return {
        f"model.layers.{n // 3 // EXPERTS}.mlp.experts.{n // 3 % EXPERTS}.{part}_proj.weight": SHAPE
        for n in range(0, count, 3)
        for part in ("down", "gate", "up")
    }


def write(folder: Path, count: int, layout: str) -> None:
    tensors = shapes(count)
    for number, name in enumerate(common.MODELS):
        keys = list(tensors)
        if layout != LAYOUTS[0]:
            random.Random(name).shuffle(keys)
        shards = 1 if layout == LAYOUTS[0] else 1 + number
        common.write_folder(folder / name, {key: tensors[key] for key in keys}, name, shards)


def merge(folder: Path, label: str) -> Mapping[str, float]:
    out = folder / "out"
    command = [*common.TASKALG, "merge", common.EXPRESSION, *common.bindings(folder)]
    outcome = common.run([*command, "-o", out, "--json"])
    shutil.rmtree(out)
    return {
        label: outcome.seconds,
        f"{label}, on processors": outcome.processor,
        f"{label}, the pass": json.loads(outcome.output)["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dir", type=Path, default=common.in_memory(), help="for the checkpoints")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    common.print_machine()
    with common.scratch(options.dir) as folder:
        contestants: dict[str, Callable[[], Mapping[str, float]]] = {}
        for layout in LAYOUTS:
            for count in COUNTS:
                label = f"{count:>6,} tensors, {layout}"
                write(folder / label, count, layout)
                contestants[label] = partial(merge, folder / label, label)
        next(iter(contestants.values()))()  # compiles, if no earlier run has
        seconds = common.interleaved(contestants, options.repeat)
    print()
    for layout in LAYOUTS:
        labels = [f"{count:>6,} tensors, {layout}" for count in COUNTS]
        few, some, many = (seconds[f"{label}, on processors"] for label in labels)
        early = (some - few) / (COUNTS[1] - COUNTS[0])
        late = (many - some) / (COUNTS[2] - COUNTS[1])
        print(f"{layout}: {1e6 * early:.0f} us for each of 3,000, {1e6 * late:.0f} us of 18,000")
        common.judge(f"18,000 tensors, {layout}", seconds[labels[-1]], BAR, " s")
        common.judge(f"growth, {layout}", late / early, STEEPER)


if __name__ == "__main__":
    main()
