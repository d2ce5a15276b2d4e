"""What the benchmarks share: fresh processes, medians, and checkpoints worth measuring with.

Absolute times on a shared machine say little, so every script runs its rivals in turn, again and
again, and compares medians taken in the same minutes. Checkpoints are written here byte by byte,
not with the package that is measured, and hold what real ones do: normal numbers, sigma 0.02, and
fine-tuned ones that differ from their base by sigma 0.002. Zeros and denormals distort timings.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

MODELS = ("base", "toxic", "sent_yelp", "lm_yelp", "lm_amazon")
Command = list[str | Path]
EXPRESSION = "base + 0.4*(-toxic) + 0.3*(sent_yelp - lm_yelp + lm_amazon)"
TASKALG = (sys.executable, "-m", "taskalg")
ROOT = Path(__file__).parents[2]
POOL = 1 << 22  # random numbers that are drawn; tensors start at different places among them
CHUNK = 1 << 21  # elements made at a time

Shapes = Mapping[str, tuple[int, ...]]


# ---- Running and measuring


@dataclass(frozen=True)
class Outcome:
    """What one fresh process took."""

    seconds: float  # from before its start to its end, as a user waits
    processor: float  # time on processors, which neighbors disturb less [seconds]
    peak_memory: int  # largest resident size, by the kernel's count [bytes]
    output: str  # what it printed


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    quiet: bool = False,
) -> Outcome:
    """Run a command to its end; stop everything if it fails."""
    known = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    errors = subprocess.DEVNULL if quiet else None
    start = perf_counter()
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=errors, env=known
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"exit code {process.returncode} from: {' '.join(map(str, command))}\n{output}")
    scale = 1 if sys.platform == "darwin" else 1024
    busy = usage.ru_utime + usage.ru_stime
    return Outcome(seconds, busy, usage.ru_maxrss * scale, output)


def interleaved(
    contestants: Mapping[str, Callable[[], Mapping[str, float]]], repeat: int
) -> dict[str, float]:
    """Run everyone in turn, `repeat` times, and return the median of every figure they give."""
    figures: dict[str, list[float]] = {}
    for round_number in range(repeat):
        for name, contestant in contestants.items():
            _show(f"{round_number + 1}/{repeat} {name}")
            for key, value in contestant().items():
                figures.setdefault(key, []).append(value)
    _show("")
    for key, values in figures.items():
        print(f"{key:<44}{statistics.median(values):>9.3f}   {spread(values)}")
    return {key: statistics.median(values) for key, values in figures.items()}


def spread(values: Sequence[float]) -> str:
    """Show the range that the runs lie in."""
    return f"({min(values):.3f} to {max(values):.3f}, {len(values)} runs)"


def _show(words: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{words:<60}\r", end="", file=sys.stderr, flush=True)


def judge(what: str, value: float, bar: float, unit: str = "") -> bool:
    """Print a figure beside the bar it must stay under, and tell whether it does."""
    good = value <= bar
    print(f"{what:<44}{value:>9.3f}{unit}   bar {bar:g}{unit}: {'met' if good else 'MISSED'}")
    return good


def print_machine(*packages: str) -> None:
    """Print what the figures were taken with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"machine   {_processor()}, {cores} cores, load {load}; {platform.platform()}")
    found = [f"{name} {metadata.version(name)}" for name in ("numpy", "numba", *packages)]
    print(f"versions  Python {platform.python_version()}, {', '.join(found)}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor()


@contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    """Lend a folder for checkpoints, and remove it whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="taskalg-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_memory() -> Path | None:
    """Return the in-memory file system, where there is one."""
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else None


def bindings(folder: Path, names: Sequence[str] = MODELS, suffix: str = "") -> list[str]:
    """Return the options that bind `base` and task vectors to what lies in a folder."""
    tasks = [f"--task={name}={folder / (name + suffix)}" for name in names if name != "base"]
    return [f"--base={folder / ('base' + suffix)}", *tasks]


# ---- Checkpoints


@dataclass(frozen=True)
class Llama:
    """The sizes that decide a Llama's tensors."""

    hidden: int
    inner: int
    layers: int
    vocabulary: int = 32_000

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return its tensors, in the order transformers saves them."""
        square, up = (self.hidden, self.hidden), (self.inner, self.hidden)
        table, norm = (self.vocabulary, self.hidden), (self.hidden,)
        shapes: dict[str, tuple[int, ...]] = {"lm_head.weight": table}
        shapes["model.embed_tokens.weight"] = table
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            shapes[f"{prefix}.input_layernorm.weight"] = norm
            shapes[f"{prefix}.mlp.down_proj.weight"] = (self.hidden, self.inner)
            shapes |= {f"{prefix}.mlp.{part}_proj.weight": up for part in ("gate", "up")}
            shapes[f"{prefix}.post_attention_layernorm.weight"] = norm
            shapes |= {f"{prefix}.self_attn.{part}_proj.weight": square for part in "koqv"}
        return shapes | {"model.norm.weight": norm}

    def config(self) -> str:
        """Return the config.json that transformers and mergekit look for."""
        sizes = {
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 64,
            "num_key_value_heads": self.hidden // 64,
            "vocab_size": self.vocabulary,
        }
        kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16"}
        return json.dumps({**kind, **sizes, "tie_word_embeddings": False}, indent=2)


def llama(gigabytes: float) -> Llama:
    """Return a Llama whose bf16 weights take about that many gigabytes."""
    hidden, inner, vocabulary = 1280, 3456, 32_000
    if gigabytes < 0.6:
        hidden, inner = 768, 2048
    if gigabytes < 0.2:
        vocabulary = 2_000
    if gigabytes > 2:
        hidden, inner = 2048, 5632
    layer = 4 * hidden**2 + 3 * hidden * inner + 2 * hidden
    rest = gigabytes * 1e9 / 2 - 2 * vocabulary * hidden
    return Llama(hidden, inner, max(1, round(rest / layer)), vocabulary)


def write_models(folder: Path, model: Llama, names: Sequence[str] = MODELS, shards: int = 1) -> int:
    """Write a base and models fine-tuned from it as folders; return the bytes of one."""
    shapes = model.shapes()
    for name in names:
        write_folder(folder / name, shapes, name, shards)
        (folder / name / "config.json").write_text(model.config(), encoding="utf-8")
    return sum(2 * int(np.prod(shape)) for shape in shapes.values())


def write_folder(folder: Path, shapes: Shapes, name: str | None, shards: int = 1) -> None:
    """Write a model folder of bf16 tensors; a `name` of None leaves holes in place of numbers."""
    folder.mkdir(parents=True)
    if shards == 1:
        write_file(folder / "model.safetensors", shapes, name)
        return
    keys = list(shapes)
    each = -(-len(keys) // shards)
    homes: dict[str, str] = {}
    for shard in range(shards):
        home = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = keys[shard * each : (shard + 1) * each]
        write_file(folder / home, {key: shapes[key] for key in part}, name)
        homes |= dict.fromkeys(part, home)
    index = {"metadata": {"total_size": 0}, "weight_map": homes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_file(path: Path, shapes: Shapes, name: str | None) -> None:
    """Write one safetensors file of bf16 tensors, in the order they are given."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        entries[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if name is None:
            file.truncate(8 + len(text) + end)
            return
        for key, shape in shapes.items():
            for part in _numbers(key, int(np.prod(shape)), name):
                file.write(part.tobytes())


def _numbers(key: str, count: int, name: str) -> Iterator[NDArray[np.uint16]]:
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        values = _drawn(f"{key} {start}", size) * np.float32(0.02)
        if name != "base":
            values += _drawn(f"{name} {key} {start}", size) * np.float32(0.002)
        patterns = values.view(np.uint32)
        yield ((patterns + 0x7FFF + (patterns >> 16 & 1)) >> 16).astype(np.uint16)


_pool: list[NDArray[np.float32]] = []


def _drawn(key: str, count: int) -> NDArray[np.float32]:
    if not _pool:
        numbers = np.random.default_rng(0).standard_normal(POOL + CHUNK, np.float32)
        _pool.append(numbers)
    start = zlib.crc32(key.encode()) % POOL
    return _pool[0][start : start + count]
