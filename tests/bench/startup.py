"""What a user waits for before anything is merged.

    python tests/bench/startup.py
    python tests/bench/startup.py --imports 15

Claims: `taskalg explain` on five sharded folders answers in half a second; in half a second
`taskalg repl` on them asks for an input, and it answers an expression in their names in 20 ms; a
kernel that was compiled once is ready in a fraction of the time that compiling took.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.bench import common
from tests.terminals import Terminal

BAR = 0.5  # seconds
ANSWER = 0.02  # likewise
SHARDS = 4
LARGE = common.Llama(4096, 11008, 44)  # 399 tensors
TINY = common.Llama(64, 128, 1, vocabulary=64)

KERNEL = """
import sys, time
start = time.perf_counter()
import numpy as np
from fractions import Fraction
from taskalg.dtypes import BF16
from taskalg.engines.base import WeightedSumSpec
from taskalg.engines.registry import get_engine
spec = WeightedSumSpec((Fraction(7, 5), Fraction(-2, 5)), (BF16, BF16), BF16)
blocks = [np.full(1024, 60, np.uint8) for _ in range(3)]
get_engine("cpu").prepare(spec)(blocks[:2], blocks[2])
"""

ANSWERS = """
import sys
from time import perf_counter
from taskalg.compiler import bind
from taskalg.workbench.session import Session
base, *tasks = sys.argv[2:]
session = Session(bind(base, dict(task.split("=", 1) for task in tasks), None, None))
session.start()
for number in range(20):
    start = perf_counter()
    answer = session.answer(sys.argv[1].replace("0.4", f"0.{number + 1}"))
    print(perf_counter() - start)
    assert answer.error is None, answer.text
"""

Contestants = dict[str, Callable[[], Mapping[str, float]]]


def timed(label: str, command: common.Command, **environment: str) -> Mapping[str, float]:
    outcome = common.run(command, environment)
    return {label: outcome.seconds, f"{label}, on processors": outcome.processor}


def cold(label: str, command: common.Command) -> Mapping[str, float]:
    """Run with a kernel cache that is empty."""
    with tempfile.TemporaryDirectory() as folder:
        return timed(label, command, NUMBA_CACHE_DIR=folder)


def prepare(folder: Path) -> common.Command:
    """Write sharded folders with real headers and holes for numbers; return an explain command."""
    for name in common.MODELS:
        common.write_folder(folder / name, LARGE.shapes(), None, SHARDS)
        (folder / name / "config.json").write_text(LARGE.config(), encoding="utf-8")
    return [*common.TASKALG, "explain", common.EXPRESSION, *common.bindings(folder)]


def asked(label: str, folder: Path) -> Mapping[str, float]:
    """Return the time from the start of a session to its first prompt."""
    command = ["-m", "taskalg", "repl", *map(str, common.bindings(folder))]
    places = {"PYTHONPATH": str(common.ROOT), "XDG_STATE_HOME": str(folder)}
    start = perf_counter()
    with Terminal(command, folder, **places) as terminal:
        terminal.sees("", then=">>>")
        return {label: perf_counter() - start}


def answered(label: str, folder: Path) -> Mapping[str, float]:
    """Return the time of an answer, the median of those that a session gives after its first."""
    given = [option.partition("=")[2] for option in common.bindings(folder)]
    found = common.run([sys.executable, "-c", ANSWERS, common.EXPRESSION, *given])
    return {label: sorted(map(float, found.output.split()[1:]))[9]}


def show_imports(command: common.Command, count: int) -> None:
    """Print the modules that take longest to import, by themselves."""
    python, *rest = map(str, command)
    found = subprocess.run(
        [python, "-X", "importtime", *rest],
        check=True,
        capture_output=True,
        text=True,
        cwd=common.ROOT,
    )
    rows = []
    for line in found.stderr.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[0].strip().isdigit():
            rows.append((int(parts[0]), int(parts[1]), parts[2]))
    print(f"\n{len(rows)} modules; slowest by themselves, with all they import, and their depth")
    for own, whole, name in sorted(rows, reverse=True)[:count]:
        print(f"{own / 1000:>8.1f} ms {whole / 1000:>8.1f} ms  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else None)
    parser.add_argument("--dir", type=Path, help="for checkpoints without contents")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--imports", type=int, metavar="N", help="show the N slowest imports")
    options = parser.parse_args()
    common.print_machine()
    python: common.Command = [sys.executable, "-c"]
    with common.scratch(options.dir) as folder:
        explain = prepare(folder)
        tiny = folder / "tiny"
        common.write_models(tiny, TINY)
        merge: common.Command = [*common.TASKALG, "merge", common.EXPRESSION]
        merge += [*common.bindings(tiny), "-o", tiny / "out", "--overwrite", "--quiet"]
        commands: dict[str, common.Command] = {
            "python -c pass": [*python, "pass"],
            "import numpy": [*python, "import numpy"],
            "import numba": [*python, "import numba"],
            "import taskalg": [*python, "import taskalg"],
            "taskalg --help": [*common.TASKALG, "--help"],
            "taskalg explain, five folders": explain,
            "taskalg merge, nearly nothing": merge,
            "first kernel, from the cache": [*python, KERNEL],
        }
        contestants: Contestants = {
            label: partial(timed, label, command) for label, command in commands.items()
        }
        contestants["repl"] = partial(asked, "taskalg repl, to the prompt", folder)
        contestants["answer"] = partial(answered, "an answer of five names", folder)
        label = "first kernel, compiled"
        contestants[label] = partial(cold, label, [*python, KERNEL])
        for label in ("taskalg merge, nearly nothing", "first kernel, from the cache"):
            common.run(commands[label])  # fills the cache
        seconds = common.interleaved(contestants, options.repeat)
        print()
        common.judge("explain", seconds["taskalg explain, five folders"], BAR, " s")
        common.judge("repl", seconds["taskalg repl, to the prompt"], BAR, " s")
        common.judge("answer", seconds["an answer of five names"], ANSWER, " s")
        ratio = seconds["first kernel, from the cache"] / seconds["first kernel, compiled"]
        print(f"{'cached / compiled':<44}{ratio:>9.3f}")
        if options.imports:
            show_imports(explain, options.imports)


if __name__ == "__main__":
    main()
