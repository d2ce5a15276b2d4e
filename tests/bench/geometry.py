"""Measure eight 1 GB vectors, against reading their nine files once with `cat`.

    python tests/bench/geometry.py

Claims: the pass takes at most twice as long as `cat` (aim 1.2), in memory that does not grow with
the model; cosines are those of binary64 sums to 1e-12; and 100 expressions' norms from what was
measured take under 50 ms.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))
import taskalg as ta
from tests.bench import common

FILE = "model.safetensors"
VECTORS = tuple(f"v{index}" for index in range(8))
NAMES = ("base", *VECTORS)
SMALL = 0.25  # gigabytes of each checkpoint, where memory is looked at a second time

Figures = Mapping[str, float]


class Contest:
    """The contestants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peak = 0  # of the last measurement [bytes]
        self.cosines: list[list[float]] = []

    def cat(self) -> Figures:
        files = [self.folder / name / FILE for name in NAMES]
        outcome = common.run(["sh", "-c", 'cat "$@" > /dev/null', "cat", *files])
        return {"cat": outcome.seconds, "cat, on processors": outcome.processor}

    def taskalg(self) -> Figures:
        command = [*common.TASKALG, "geometry", *common.bindings(self.folder, NAMES)]
        outcome = common.run([*command, "--no-cache", "--json"])
        found = json.loads(outcome.output)
        self.peak, self.cosines = outcome.peak_memory, found["cosines"]
        return {
            "taskalg, the pass": found["seconds"],
            "taskalg, the command": outcome.seconds,
            "taskalg, on processors": outcome.processor,
        }


def stored(path: Path) -> NDArray[np.uint16]:
    """Return the patterns of a file of bf16 tensors, without the package that is measured."""
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    return np.memmap(path, np.uint16, "r", start)


def worst_cosine(folder: Path, cosines: list[list[float]]) -> float:
    """Return the largest error of a cosine, against sums by NumPy in binary64, some at a time."""
    files = [stored(folder / name / FILE) for name in NAMES]
    parts: list[NDArray[np.float64]] = []
    for place in range(0, files[0].size, common.CHUNK):
        patterns = [file[place : place + common.CHUNK].astype(np.uint32) << 16 for file in files]
        base, *others = (one.view(np.float32).astype(np.float64) for one in patterns)
        vectors = np.stack([other - base for other in others])
        parts.append(vectors @ vectors.T)
    count = len(VECTORS)
    gram = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            gram[i, j] = math.fsum(part[i, j] for part in parts)
    norms = np.sqrt(np.diagonal(gram))
    return float(np.abs(gram / np.outer(norms, norms) - np.array(cosines)).max())


def hundred_norms(folder: Path) -> Figures:
    """Return what 100 norms take, written as text, once the vectors are measured."""
    base = ta.checkpoint(folder / "base", name="base")
    known = ta.geometry({name: ta.task(folder / name, base, name=name) for name in VECTORS})
    known.norm("v0")
    texts = [f"{VECTORS[i % 8]} - {i}/100*{VECTORS[(i + 3) % 8]}" for i in range(100)]
    start = time.perf_counter()
    for text in texts:
        known.norm(text)
    return {"100 norms [ms]": 1000 * (time.perf_counter() - start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dir", type=Path, default=common.in_memory(), help="for nine checkpoints")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of each checkpoint")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    common.print_machine("safetensors")
    with common.scratch(options.dir) as folder:
        small, large = Contest(folder / "small"), Contest(folder / "large")
        common.write_models(small.folder, common.llama(SMALL), NAMES)
        size = common.write_models(large.folder, common.llama(options.gigabytes), NAMES)
        print(f"inputs    nine of {size / 1e9:.2f} GB, bf16, in {folder.parent}\n")
        small.taskalg()  # compiles, if no earlier run has
        small.taskalg()
        seconds = common.interleaved({"cat": large.cat, "taskalg": large.taskalg}, options.repeat)
        norms = common.interleaved({"norms": lambda: hundred_norms(small.folder)}, options.repeat)
        print(f"\nthe pass reads {9 * size / 1e9 / seconds['taskalg, the pass']:.1f} GB/s")
        common.judge("the pass / cat", seconds["taskalg, the pass"] / seconds["cat"], 2.0)
        common.judge("100 norms", norms["100 norms [ms]"], 50, " ms")
        common.judge("peak memory", large.peak / 1e6, small.peak / 1e6 * 1.1, " MB")
        error = worst_cosine(large.folder, large.cosines)
        print(
            f"cosines, largest error {error:.1e}, bar 1e-12: {'met' if error < 1e-12 else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
