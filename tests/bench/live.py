"""How fast weights in memory follow a scalar, against copying as many bytes in memory.

    python tests/bench/live.py
    python tests/bench/live.py --gigabytes 2 --repeat 20

Claims: `live.set` with two and with five bf16 operands moves at least 60 % of the bytes per second
that threads copying large blocks move in the same run; besides the evaluation, a call costs some 50
microseconds.
"""

import argparse
import sys
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
import taskalg as ta
from taskalg.engines.base import Tally
from taskalg.machine import available_threads
from taskalg.memory.live import Live
from tests.bench import common

BAR = 1 / 0.6  # copying's bytes per second over those of `set`
EXPRESSIONS = {
    "two operands": "base + strength*toxic",
    "five operands": "base - strength*toxic + 0.3*(sent_yelp - lm_yelp + lm_amazon)",
}
POOL = torch.randn(common.POOL, generator=torch.Generator().manual_seed(0))
LARGEST = POOL.repeat(16)  # as many elements as any tensor has, and a pool more
CALLS = 100  # of the tiny model, in one measurement

State = dict[str, torch.Tensor]
Contestants = dict[str, Callable[[], Mapping[str, float]]]


def made(shapes: common.Shapes, name: str) -> State:
    """Return bf16 weights like those that common.py writes."""
    return {key: numbers(key, shape, name) for key, shape in shapes.items()}


def numbers(key: str, shape: tuple[int, ...], name: str) -> torch.Tensor:
    count = int(np.prod(shape))
    values = drawn(key, count) * 0.02
    if name != "base":
        values += drawn(f"{name} {key}", count) * 0.002
    return values.bfloat16().reshape(shape)


def drawn(key: str, count: int) -> torch.Tensor:
    start = zlib.crc32(key.encode()) % len(POOL)
    return LARGEST[start : start + count]


def live_of(text: str, states: Mapping[str, State]) -> Live[ta.Recipe]:
    tasks = {name: state for name, state in states.items() if name != "base" and name in text}
    return ta.compile(text, base=states["base"], tasks=tasks, set={"strength": 0.4}).live()


class Copies:
    """Large blocks that threads copy."""

    def __init__(self, nbytes: int) -> None:
        self.source, self.target = np.ones(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
        count = available_threads()
        self.pool = ThreadPoolExecutor(count)
        each = -(-nbytes // count)
        self.parts = [slice(start, start + each) for start in range(0, nbytes, each)]

    def run(self) -> None:
        copies = (self.pool.submit(self._copy, part) for part in self.parts)
        for copy in list(copies):
            copy.result()

    def _copy(self, part: slice) -> None:
        np.copyto(self.target[part], self.source[part])


def rate(label: str, nbytes: int, call: Callable[[], object]) -> Mapping[str, float]:
    start = perf_counter()
    call()
    return {f"{label}, GB/s read and written": nbytes / (perf_counter() - start) / 1e9}


class Strengths:
    """Calls `set` with one new value after another."""

    def __init__(self, live: Live[ta.Recipe]) -> None:
        self.live, self.count = live, 0
        read, written, _ = live._held.moved
        self.nbytes = read + written

    def set(self) -> None:
        self.count += 1
        self.live.set(strength=self.count / 1000)


def microseconds(label: str, call: Callable[[], None]) -> Mapping[str, float]:
    start = perf_counter()
    for _ in range(CALLS):
        call()
    return {f"{label}, microseconds": (perf_counter() - start) / CALLS * 1e6}


def overhead() -> Contestants:
    """Measure calls of a tiny model: all of one, and what is left without the engine."""
    states = {name: made({"w": (64,)}, name) for name in common.MODELS}
    whole, alone = (Strengths(live_of(EXPRESSIONS["five operands"], states)) for _ in range(2))
    for part in alone.live._held.parts:
        object.__setattr__(part, "evaluate", lambda rows: Tally())
    labels = {"set, 64 elements": whole, "set, without the engine": alone}
    return {label: partial(microseconds, label, one.set) for label, one in labels.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=0.5, help="of one model, up to 4")
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    common.print_machine("torch")
    shapes = common.llama(options.gigabytes).shapes()
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    print(f"weights   {count / 1e9:.3f} B parameters, {len(shapes)} tensors, bf16\n")
    states = {name: made(shapes, name) for name in common.MODELS}
    copies = Copies(2 * count)
    contestants: Contestants = {"copy": partial(rate, "copy", 2 * copies.source.size, copies.run)}
    for label, text in EXPRESSIONS.items():
        one = Strengths(live_of(text, states))
        contestants[label] = partial(rate, label, one.nbytes, one.set)
    contestants |= overhead()
    for contestant in contestants.values():
        contestant()  # touches memory, and compiles
    figures = common.interleaved(contestants, options.repeat)
    print()
    copied = figures["copy, GB/s read and written"]
    for label in EXPRESSIONS:
        share = copied / figures[f"{label}, GB/s read and written"]
        common.judge(f"copy over set, {label}", share, BAR, "x")


if __name__ == "__main__":
    main()
