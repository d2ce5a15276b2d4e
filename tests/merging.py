"""A merge so small that it can be run a thousand times, and loaders to look at what came of it."""

import json
from pathlib import Path
from typing import Any

import pytest

import taskalg
from taskalg.engines.registry import get_engine
from taskalg.planning.plan import Plan
from taskalg.running.execute import execute
from taskalg.running.report import Report
from taskalg.running.stream import Settings
from tests import oracle
from tests.oracle import Tensor

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
WAYS: dict[str, dict[str, Any]] = {
    "single": {},
    "sharded": {"shard_size": 64},
    "x.safetensors": {},
}
Loaded = dict[str, Tensor] | None


def fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks and resumable steps so small that a small merge has many."""
    monkeypatch.setattr("taskalg.running.blocks.TARGET", 48)
    monkeypatch.setattr("taskalg.output.watermarks.RESUME_STEP", 20)


def inputs(folder: Path) -> Path:
    """Write a base and a fine-tuned model: sums, a copied tensor, an integer one."""
    for key, first in (("base", 1), ("ft", 50)):
        floats = {
            f"layers.{i}.w": Tensor("F32", (3, 2), bytes(range(first + i, first + i + 24)))
            for i in range(4)
        }
        ids = Tensor("I64", (2,), bytes(range(16)))
        (folder / key).mkdir(parents=True)
        oracle.write_file(folder / key / SINGLE, {**floats, "ids": ids}, {"format": "pt"})
        (folder / key / "config.json").write_text('{"model_type": "tiny"}', "utf-8")
    return folder


def plan(folder: Path, text: str = "base + 0.5*(ft - base)[0:3]") -> Plan:
    """Plan a sum of both; layer 3 is copied."""
    models = {key: folder / key for key in ("base", "ft")}
    return taskalg.compile(text, models=models).plan()


def merge(planned: Plan, out: Path, *, overwrite: bool = False, shard_size: int = 10**9) -> Report:
    """Run a plan with one thread, so that calls come in one order."""
    options = Settings(threads=1, overwrite=overwrite, shard_size=shard_size)
    return execute(planned, get_engine("cpu"), out, options)


def skipped(report: Report) -> bool:
    """Tell whether a run went on where another had stopped."""
    return any("from an interrupted run" in note for note in report.notes)


def tree(path: Path) -> dict[str, bytes]:
    """Return every file below a folder, or the file itself, with its bytes; {} if there is none."""
    if path.is_file():
        return {"": path.read_bytes()}
    found = (p for p in sorted(path.rglob("*")) if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


def visible(path: Path) -> dict[str, bytes]:
    """Return what `tree` does, temporaries left out."""
    return {k: v for k, v in tree(path).items() if not k.startswith(".taskalg-")}


def loaded(out: Path) -> tuple[Loaded, Loaded]:
    """Return what loaders find: one that prefers the single file, and one that prefers an index.

    Raises:
        Exception: a loader finds a model, and it is not whole.
    """
    if out.suffix == ".safetensors":
        found = oracle.read_file(out) if out.exists() else None
        return found, found
    ways = {INDEX: _by_index, SINGLE: oracle.read_file}
    there = [name for name in (SINGLE, INDEX) if (out / name).exists()]
    if not there:
        return None, None
    return ways[there[0]](out / there[0]), ways[there[-1]](out / there[-1])


def _by_index(path: Path) -> dict[str, Tensor]:
    homes = json.loads(path.read_bytes())["weight_map"]
    shards = {home: oracle.read_file(path.parent / home) for home in set(homes.values())}
    assert set(homes) == {name for shard in shards.values() for name in shard}
    return {name: shards[home][name] for name, home in homes.items()}
