"""Merge five 1 GB checkpoints, against copying their bytes and against other ways to merge them.

    python tests/bench/merge_speed.py --mergekit ~/mergekit/bin/python --sd-mecha ~/mecha/bin/python

Claims: the pass takes no longer than reading all inputs once and writing one output (`cat`, `cp`);
the whole command, process start included, at most half as long again; mergekit eight times as long.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.bench import common

FILE = "model.safetensors"

TORCH_LOOP = """
import sys, time
import torch
from safetensors.torch import load_file, save_file
start = time.perf_counter()
folder, out = sys.argv[1:]
names = ("base", "toxic", "sent_yelp", "lm_yelp", "lm_amazon")
states = {name: load_file(f"{folder}/{name}/model.safetensors") for name in names}
base = states["base"]
vectors = {n: {k: states[n][k] - base[k] for k in base} for n in names[1:]}
merged = {
    k: base[k]
    + 0.4 * -vectors["toxic"][k]
    + 0.3 * (vectors["sent_yelp"][k] - vectors["lm_yelp"][k] + vectors["lm_amazon"][k])
    for k in base
}
save_file(merged, out, metadata={"format": "pt"})
print(time.perf_counter() - start)
"""

SD_MECHA = """
import sys
import sd_mecha, torch
folder, out = sys.argv[1:]
names = ("base", "toxic", "sent_yelp", "lm_yelp", "lm_amazon")
paths = [f"{folder}/{name}/model.safetensors" for name in names]
base, toxic, sent_yelp, lm_yelp, lm_amazon = map(sd_mecha.model, paths)
recipe = base + (base - toxic) * 0.4 + (sent_yelp - lm_yelp) * 0.3 + (lm_amazon - base) * 0.3
sd_mecha.merge(recipe, output=out, output_dtype=torch.bfloat16)
"""

MERGEKIT_WEIGHTS = {"toxic": -0.4, "sent_yelp": 0.3, "lm_yelp": -0.3, "lm_amazon": 0.3}

Figures = Mapping[str, float]


class Contest:
    """The contestants; each removes what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"

    def floor(self) -> Figures:
        inputs = " ".join(f"'{self.folder / name / FILE}'" for name in common.MODELS)
        copy = f"cat {inputs} > /dev/null; cp '{self.folder / 'base' / FILE}' '{self.out}'"
        return self._timed("cat + cp", ["sh", "-c", copy])

    def taskalg(self) -> Figures:
        bound = common.bindings(self.folder)
        command: common.Command = [*common.TASKALG, "merge", common.EXPRESSION, *bound]
        outcome = common.run([*command, "-o", self.out, "--json"])
        self._clean()
        report = json.loads(outcome.output)
        assert report["bytes_read"] == 5 * report["bytes_written"]
        return {
            "taskalg, the pass": report["seconds"],
            "taskalg, the command": outcome.seconds,
            "taskalg, on processors": outcome.processor,
        }

    def torch_loop(self) -> Figures:
        out = self.folder / "out.safetensors"
        outcome = common.run([sys.executable, "-c", TORCH_LOOP, self.folder, out])
        self._clean()
        inside = float(outcome.output)
        return {"torch loop, imports left out": inside, "torch loop, the script": outcome.seconds}

    def mergekit(self, python: Path) -> Figures:
        config = {
            "merge_method": "task_arithmetic",
            "base_model": str(self.folder / "base"),
            "models": [
                {"model": str(self.folder / name), "parameters": {"weight": weight}}
                for name, weight in MERGEKIT_WEIGHTS.items()
            ],
            "parameters": {"normalize": False, "lambda": 1.0},
            "dtype": "bfloat16",
        }
        path = self.folder / "mergekit.yml"
        path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        command: common.Command = [python, "-m", "mergekit.scripts.run_yaml", path, self.out]
        return self._timed("mergekit, the command", [*command, "--no-copy-tokenizer"])

    def sd_mecha(self, python: Path) -> Figures:
        out = self.folder / "out.safetensors"
        return self._timed("sd-mecha, the script", [python, "-c", SD_MECHA, self.folder, out])

    def _timed(self, name: str, command: common.Command) -> Figures:
        outcome = common.run(command, {"HF_HUB_OFFLINE": "1"}, quiet=True)
        self._clean()
        return {name: outcome.seconds, f"{name}, on processors": outcome.processor}

    def _clean(self) -> None:
        for path in (self.out, self.out.with_suffix(".safetensors")):
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dir", type=Path, default=common.in_memory(), help="for six checkpoints")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of each checkpoint")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--mergekit", type=Path, metavar="PYTHON", help="one that has mergekit")
    parser.add_argument("--sd-mecha", type=Path, metavar="PYTHON", help="one that has sd-mecha")
    parser.add_argument("--no-torch", action="store_true", help="leave the torch loop out")
    options = parser.parse_args()
    common.print_machine("torch", "safetensors")
    with common.scratch(options.dir) as folder:
        size = common.write_models(folder, common.llama(options.gigabytes))
        print(f"inputs    five of {size / 1e9:.2f} GB, bf16, in {folder.parent}\n")
        contest = Contest(folder)
        contest.taskalg()  # compiles, if no earlier run has
        contestants: dict[str, Callable[[], Figures]] = {
            "cat + cp": contest.floor,
            "taskalg": contest.taskalg,
        }
        if not options.no_torch:
            contestants["torch loop"] = contest.torch_loop
        if options.mergekit:
            contestants["mergekit"] = lambda: contest.mergekit(options.mergekit)
        if options.sd_mecha:
            contestants["sd-mecha"] = lambda: contest.sd_mecha(options.sd_mecha)
        report(common.interleaved(contestants, options.repeat), size)


def report(seconds: Figures, size: int) -> None:
    floor, whole = seconds["cat + cp"], seconds["taskalg, the command"]
    speed = 6 * size / 1e9 / seconds["taskalg, the pass"]
    print(f"\nthe pass moves {speed:.1f} GB/s")
    common.judge("the pass / cat + cp", seconds["taskalg, the pass"] / floor, 1.0)
    common.judge("the command / cat + cp", whole / floor, 1.5)
    if "mergekit, the command" in seconds:
        common.judge("the command / mergekit", whole / seconds["mergekit, the command"], 1 / 8)
    for name in ("torch loop, imports left out", "sd-mecha, the script"):
        if name in seconds:
            print(f"{name} / the command: {seconds[name] / whole:.1f}")


if __name__ == "__main__":
    main()
