"""Merging four LoRA adapters, over merging one dense task vector into the same base.

    python tests/bench/adapters.py

Claims: adapters of rank 16 on the q and v projections take at most 2 times as long, on all linear
layers at most 4 times, in little more memory (within 20 %).
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.bench import common

RANK = 16
COUNT = 4
TARGETS = {"q and v": ("q_proj", "v_proj"), "all linear": ("_proj",)}
BARS = {"q and v": 2.0, "all linear": 4.0}


def write_adapter(folder: Path, model: common.Llama, targets: tuple[str, ...], seed: int) -> None:
    """Write a PEFT adapter for the modules whose names end in one of `targets`."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in model.shapes().items():
        module = name.removesuffix(".weight")
        if module.endswith(targets) and len(shape) == 2:
            rows, columns = shape
            key = f"base_model.model.{module}"
            a = rng.normal(0, 0.02, (RANK, columns)).astype(np.float32)
            b = rng.normal(0, 0.02, (rows, RANK)).astype(np.float32)
            tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "target_modules": list(targets)}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def merge(folder: Path, label: str, expression: str, tasks: dict[str, str]) -> dict[str, float]:
    """Merge once, and return what it took."""
    bound = [f"--task={name}={folder / path}" for name, path in tasks.items()]
    command: common.Command = [*common.TASKALG, "merge", expression, f"--base={folder / 'base'}"]
    outcome = common.run([*command, *bound, "-o", folder / "out", "--json"])
    shutil.rmtree(folder / "out")
    return {
        f"{label} [s]": outcome.seconds,
        f"{label} [s of processor]": outcome.processor,
        f"{label} [MB]": outcome.peak_memory / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=float, default=1.0, help="of the base [GB]")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=common.in_memory())
    options = parser.parse_args()
    common.print_machine()
    model = common.llama(options.size)
    with common.scratch(options.dir) as folder:
        common.write_models(folder, model, ("base", "ft"))
        tasks: dict[str, dict[str, str]] = {}
        for label, targets in TARGETS.items():
            tasks[label] = {f"a{i}": f"{label.replace(' ', '-')}-{i}" for i in range(COUNT)}
            for seed, path in enumerate(tasks[label].values()):
                write_adapter(folder / path, model, targets, seed)
        expression = "base + 0.4*a0 - 0.3*a1 + 0.2*a2 + 0.7*a3"
        contestants = {"dense": lambda: merge(folder, "dense", "base + 0.4*ft", {"ft": "ft"})}
        for label, bound in tasks.items():
            contestants[label] = lambda label=label, bound=bound: merge(  # type: ignore[misc]
                folder, label, expression, bound
            )
        found = common.interleaved(contestants, options.repeat)
    good = True
    for label, bar in BARS.items():
        ratio = found[f"{label} [s]"] / found["dense [s]"]
        good &= common.judge(f"{label}, over dense", ratio, bar)
        good &= common.judge(
            f"{label}, memory over dense", found[f"{label} [MB]"] / found["dense [MB]"], 1.2
        )
    sys.exit(not good)


if __name__ == "__main__":
    main()
