"""Kill a merge at 50 moments while it writes, run it again each time, and compare the bytes.

    python tests/bench/kill.py

Claims: `kill -9` leaves nothing that a loader finds, and the same command completes with the same
bytes. It prints how much of the output was not written again.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.bench import common

LEFT = 0.8  # of the kills, those that have to hit a run that writes
ENTRIES = ("model.safetensors", "model.safetensors.index.json")  # what a loader looks for


@dataclass(frozen=True)
class Kill:
    """What one kill left, and what came of it."""

    seconds: float  # since the run had begun to write
    left: bool  # a partial output
    is_model: bool  # a loader finds something
    recorded: int  # bytes that the next run need not write
    same: bool  # the next run's bytes are those of a run that nobody killed


def kill_often(command: Sequence[str | Path], out: Path, count: int) -> list[Kill]:
    """Kill a command at moments spread over the time it writes, and run it again each time."""
    hidden = out / ".taskalg-partial"
    common.run(command, quiet=True)  # the kernel is compiled
    digest = _digest(out)
    durations = []
    for _ in range(3):
        shutil.rmtree(out)
        durations.append(_writing(command, hidden, None))
    shutil.rmtree(out)
    kills = []
    for number in range(count):
        moment = min(durations) * (number + 0.5) / count
        seconds = _writing(command, hidden, moment)
        left, is_model = hidden.exists(), any((out / name).exists() for name in ENTRIES)
        recorded = _recorded(hidden)
        common.run([*command, *(["--overwrite"] if is_model else [])], quiet=True)
        same = _digest(out) == digest and not hidden.exists()
        kills.append(Kill(seconds, left, is_model, recorded, same))
        shutil.rmtree(out)
    return kills


def _writing(command: Sequence[str | Path], hidden: Path, until: float | None) -> float:
    """Run a command to its end, or kill it `until` seconds after it began; return how long."""
    with subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=common.ROOT,
    ) as process:
        while not (hidden / "shard-0").exists() and process.poll() is None:
            sleep(0.0005)
        start = perf_counter()
        if until is None:
            while hidden.exists() and process.poll() is None:
                sleep(0.0005)
            return perf_counter() - start
        sleep(until)
        process.kill()
        return perf_counter() - start


def _recorded(hidden: Path) -> int:
    """Read a journal the simple way: lines of a checksum, a shard and its bytes."""
    journal = hidden / "journal"
    lines = journal.read_text("ascii").splitlines() if journal.exists() else []
    return sum({shard: int(end) for _, shard, end in map(str.split, lines[1:])}.values())


def _digest(out: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        found.update(path.relative_to(out).as_posix().encode())
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def merge_command(folder: Path, out: Path, shard_size: str) -> list[str | Path]:
    """Return a merge of two models in a folder."""
    bound = common.bindings(folder, ("base", "toxic"))
    options: list[str | Path] = ["-o", out, "--shard-size", shard_size, "--quiet"]
    return [*common.TASKALG, "merge", "base + 0.4*toxic", *bound, *options]


def main() -> None:
    """Kill, run again, compare, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=common.in_memory())
    parser.add_argument("--gigabytes", type=float, default=1.1)
    parser.add_argument("--kills", type=int, default=50)
    chosen = parser.parse_args()
    common.print_machine()
    with common.scratch(chosen.dir) as folder:
        size = common.write_models(folder, common.llama(chosen.gigabytes), ("base", "toxic"))
        out = folder / "out"
        kills = kill_often(merge_command(folder, out, "250MB"), out, chosen.kills)
    left = [kill for kill in kills if kill.left]
    resumed = [kill for kill in left if kill.recorded]
    print(f"output                                      {size / 1e9:>9.3f} GB")
    print(f"kills                                       {len(kills):>9}")
    print(f"  that left a partial output                {len(left):>9}")
    print(f"  after which a loader finds a whole model  {sum(k.is_model for k in kills):>9}")
    print(f"reruns with the same bytes                  {sum(k.same for k in kills):>9}")
    print(f"reruns that went on                         {len(resumed):>9}")
    skipped = sum(kill.recorded for kill in left)
    print(f"bytes not written again                     {skipped / 1e9:>9.3f} GB")
    common.judge("kills that missed the writing", len(kills) - len(left), (1 - LEFT) * len(kills))
    common.judge("reruns with other bytes", sum(not k.same for k in kills), 0)


if __name__ == "__main__":
    main()
