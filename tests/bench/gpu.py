"""How fast weights on a GPU follow a scalar, against copying as many bytes there.

    python tests/bench/gpu.py
    python tests/bench/gpu.py --quick
    python tests/bench/gpu.py --offline     # without a GPU: what machine code says

Claims, for five bf16 operands of 1.2 B parameters: one pass moves at least 90 % of the bytes per
second of a copy on the device, takes at most half the time of torch's `_foreach` functions and a
fifth of that of the loop that forms task vectors; a new scalar costs at most 50 microseconds until
the kernel is launched, and compiles nothing; the bits are the CPU engine's.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
import taskalg as ta
from taskalg.dtypes import BF16, F32, DType
from taskalg.engines.base import Group, Tally
from taskalg.engines.gpu.device import is_interpreted, unavailable
from taskalg.engines.registry import get_engine
from taskalg.memory.live import Live
from tests.bench import common, static

EXPRESSION = "base - strength*toxic + 0.3*(sent_yelp - lm_yelp + lm_amazon)"
LONG = "0.1234567891234567"  # decimals that binary64's products with float32 do not hold
SAMPLED = 20_000_000  # elements that are compared with the CPU engine's
CALLS = 200  # for host work

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Clock:
    """Measures what a device takes, from its own events where it has any."""

    device: torch.device

    def seconds(self, call: Callable[[], object]) -> float:
        """Run something to its end."""
        if self.device.type != "cuda":
            start = perf_counter()
            call()
            return perf_counter() - start
        event: Any = torch.cuda.Event
        first, last = event(enable_timing=True), event(enable_timing=True)
        self.settle()
        first.record()
        call()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000

    def settle(self) -> None:
        """Wait until nothing is under way."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def milliseconds(self, label: str, call: Callable[[], object]) -> Mapping[str, float]:
        return {label: self.seconds(call) * 1000}


def made(
    shapes: common.Shapes, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> dict[str, State]:
    """Return weights like those that common.py writes, made where they are used."""
    random = torch.Generator(device).manual_seed(0)

    def drawn(shape: tuple[int, ...], sigma: float) -> torch.Tensor:
        return torch.randn(shape, generator=random, device=device) * sigma

    base = {name: drawn(shape, 0.02) for name, shape in shapes.items()}
    states = {"base": {name: tensor.to(dtype) for name, tensor in base.items()}}
    for model in common.MODELS[1:]:
        states[model] = {n: (t + drawn(shapes[n], 0.002)).to(dtype) for n, t in base.items()}
    return states


def coefficients(strength: Fraction) -> list[Fraction]:
    """Return the expression's, in the order of `common.MODELS`."""
    part = Fraction(3, 10)
    return [1 + strength - part, -strength, part, -part, part]


def group_of(states: Mapping[str, State], target: State, dtype: DType) -> Group:
    columns = [*(states[name] for name in common.MODELS), target]
    addresses = [[column[name].data_ptr() for column in columns] for name in target]
    counts = np.array([tensor.numel() for tensor in target.values()])
    inputs = (dtype,) * len(common.MODELS)
    return Group(inputs, dtype, np.zeros(len(counts), np.int64), np.array(addresses), counts)


class Live5:
    """The recipe, and the bare engine, each with one new scalar after the other."""

    def __init__(self, states: Mapping[str, State], device: torch.device) -> None:
        self.live = recipe_of(states).live(device=str(device), engine="gpu")
        self.target = {name: torch.empty_like(tensor) for name, tensor in states["base"].items()}
        self.resident = get_engine("gpu").resident(group_of(states, self.target, BF16))
        self.count = 0

    def strength(self) -> Fraction:
        self.count += 1
        return Fraction(self.count, 1000)

    def set(self) -> None:
        self.live.set(strength=self.strength())

    def evaluate(self) -> Tally:
        return self.resident([coefficients(self.strength())])


def recipe_of(states: Mapping[str, State]) -> ta.Recipe:
    tasks = {name: state for name, state in states.items() if name != "base"}
    return ta.compile(EXPRESSION, base=states["base"], tasks=tasks, set={"strength": 0.4})


def with_foreach(states: Mapping[str, State], strength: float) -> list[torch.Tensor]:
    """Return the sum as torch's fused functions make it, one launch for each operand."""
    first, *others = common.MODELS
    numbers = [float(number) for number in coefficients(Fraction(strength))]
    total = list(torch._foreach_mul(list(states[first].values()), numbers[0]))
    for name, number in zip(others, numbers[1:], strict=True):
        torch._foreach_add_(total, list(states[name].values()), alpha=number)
    return total


def with_task_vectors(states: Mapping[str, State], strength: float) -> State:
    """Return the sum as most scripts write it."""
    vectors = {
        model: {name: tensor - states["base"][name] for name, tensor in states[model].items()}
        for model in common.MODELS[1:]
    }
    toxic, sent, yelp, amazon = vectors.values()
    return {
        name: tensor - strength * toxic[name] + 0.3 * (sent[name] - yelp[name] + amazon[name])
        for name, tensor in states["base"].items()
    }


def compiled_kernels() -> int:
    """Return how many kernels this process has; interpreted ones are none."""
    from taskalg.engines.gpu.kernels import exchange, weighted_sums

    caches = (getattr(kernel, "device_caches", {}) for kernel in (weighted_sums, exchange))
    return sum(len(entry[0]) for cache in caches for entry in cache.values())


def host_work(five: Live5, clock: Clock, calls: int = CALLS) -> list[float]:
    """Return the seconds that calls of `set` take until their kernel is launched."""
    from taskalg.engines.gpu import resident

    taken = []
    with mock.patch.object(resident._Part, "finish", lambda part, rows: Tally()):
        for _ in range(calls):
            start = perf_counter()
            five.set()
            taken.append(perf_counter() - start)
            clock.settle()
    return taken


def wrong_elements(states: Mapping[str, State], live: Live[ta.Recipe], most: int = SAMPLED) -> int:
    """Return how many elements of some tensors differ from the CPU engine's."""
    names, count = [], 0
    for name, tensor in sorted(states["base"].items(), key=lambda item: item[1].numel()):
        if count + tensor.numel() <= most:
            names.append(name)
            count += tensor.numel()
    sample = {model: {n: state[n].cpu() for n in names} for model, state in states.items()}
    wanted = recipe_of(sample).bind(**live.values).state_dict(device="cpu", engine="cpu")
    found = live.state_dict()
    return sum(
        int((found[n].cpu().view(torch.int16) != wanted[n].view(torch.int16)).sum()) for n in names
    )


class LongDecimals:
    """A sum of float32 tensors whose products binary64 does not hold exactly."""

    def __init__(self, shapes: common.Shapes, device: torch.device) -> None:
        self._states = made(shapes, device, torch.float32)  # kept, as is the target
        self._target = {n: torch.empty_like(t) for n, t in self._states["base"].items()}
        self._resident = get_engine("gpu").resident(group_of(self._states, self._target, F32))
        self.count = sum(tensor.numel() for tensor in self._target.values())
        self.nbytes = 4 * self.count * (len(common.MODELS) + 1)

    def evaluate(self) -> Tally:
        return self._resident([coefficients(Fraction(LONG))])


def contestants(
    states: Mapping[str, State], five: Live5, clock: Clock
) -> dict[str, Callable[[], object]]:
    """Return what is run in turn, by its label."""
    count = sum(tensor.numel() for tensor in states["base"].values())
    source = torch.ones(2 * count, dtype=torch.uint8, device=clock.device)
    copy = torch.zeros_like(source)
    return {
        "copy of one model": lambda: copy.copy_(source),
        "live.set": five.set,
        "engine alone": five.evaluate,
        "_foreach_mul and _foreach_add": partial(with_foreach, states, 0.4),
        "loop that forms task vectors": partial(with_task_vectors, states, 0.4),
    }


def measure(options: argparse.Namespace) -> None:
    clock = Clock(torch.device("cuda", torch.cuda.current_device()))
    print_gpu(clock.device)
    gigabytes = 0.2 if options.quick else options.gigabytes
    shapes = common.llama(gigabytes).shapes()
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    print(f"weights   {count / 1e9:.3f} B parameters, {len(shapes)} tensors, bf16\n")
    states = made(shapes, clock.device)
    five = Live5(states, clock.device)
    calls = contestants(states, five, clock)
    for call in calls.values():
        call()  # compiles
    before = compiled_kernels()
    runs = {
        label: partial(clock.milliseconds, f"{label}, ms", call) for label, call in calls.items()
    }
    figures = common.interleaved(runs, 3 if options.quick else options.repeat)
    copied, passed, alone, foreach, loop = (figures[f"{label}, ms"] for label in calls)
    print(f"\ncopy      {4 * count / copied / 1e6:,.0f} GB/s read and written")
    common.judge("copying's bytes per second over live.set's", passed / copied / 3, 1 / 0.9, "x")
    common.judge("the same over the engine's alone", alone / copied / 3, 1 / 0.9, "x")
    common.judge("live.set over _foreach", passed / foreach, 1 / 2, "x")
    common.judge("live.set over the loop", passed / loop, 1 / 5, "x")
    taken = host_work(five, clock)
    common.judge("host work of a new scalar, microseconds", median(taken) * 1e6, 50)
    common.judge("kernels compiled after the first round", compiled_kernels() - before, 0)
    five.set()
    common.judge("elements unlike the CPU engine's", wrong_elements(states, five.live), 0)
    del states, five, calls, runs
    show_long_decimals(common.llama(gigabytes / 4).shapes(), clock)


def show_long_decimals(shapes: common.Shapes, clock: Clock) -> None:
    """Print the rate of the double-double tier."""
    sums = LongDecimals(shapes, clock.device)
    share = sums.evaluate().tier2 / sums.count
    rate = sums.nbytes / median(clock.seconds(sums.evaluate) for _ in range(5)) / 1e9
    print(f"\nfloat32 times {LONG}: {rate:,.0f} GB/s, {share:.0%} in the double-double tier")


def print_gpu(device: torch.device) -> None:
    found = torch.cuda.get_device_properties(device)
    cache = getattr(found, "L2_cache_size", 0) / 1e6
    memory = f"{found.total_memory / 1e9:.0f} GB, L2 {cache:.0f} MB"
    print(f"gpu       {found.name}, {found.multi_processor_count} SMs, {memory}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=2.4, help="of one model")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="a small model, three rounds")
    parser.add_argument("--offline", action="store_true", help="compile only, without a GPU")
    options = parser.parse_args()
    if options.offline:
        common.print_machine("torch", "triton")
        static.show_all()
        return
    if is_interpreted():
        sys.exit("interpreted kernels are not worth measuring: unset TRITON_INTERPRET")
    if (reason := unavailable()) is not None:
        sys.exit(f"{reason.message}; --offline shows what machine code says without a GPU")
    common.print_machine("torch", "triton")
    measure(options)


if __name__ == "__main__":
    main()
