"""Runs, crashes, damage and second runs in any order: loaders find an exact model or none."""

import os
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from taskalg import files
from taskalg.dtypes import F32
from taskalg.errors import OutputError, TaskalgError
from taskalg.output.journal import JOURNAL_NAME
from taskalg.output.layout import OutputTensor, ShardLayout, lay_out
from taskalg.output.publish import Publication, stage
from taskalg.output.sidefiles import SideFile
from tests.faults import Faults, Killed, inject, unsynced
from tests.merging import fine, loaded, tree
from tests.oracle import Tensor

TENSORS = [OutputTensor(name, F32, (6,), 24) for name in "abcde"]
MODELS = ("one", "two", "three")
models = st.sampled_from(MODELS)
calls = st.one_of(  # any, or one of those where it matters most
    st.tuples(st.integers(1, 250), st.just("")),
    st.tuples(st.integers(1, 8), st.sampled_from(["replace", "unlink", "fsync"])),
    st.tuples(st.integers(4, 14), st.just("pwrite")),
    st.tuples(st.integers(4, 14), st.just("pwrite")),
)


def content(model: str) -> dict[str, Tensor]:
    """Return a model's tensors; those of no two models have a byte in common."""
    first = 60 * MODELS.index(model)
    return {
        t.name: Tensor("F32", (6,), bytes(range(first + i, first + i + 24)))
        for i, t in enumerate(TENSORS)
    }


def fill(model: str, layouts: tuple[ShardLayout, ...], staged: Publication) -> None:
    """Write what is not there yet."""
    tensors = content(model)
    for shard, layout in enumerate(layouts):
        for tensor, offset in zip(layout.tensors, layout.offsets, strict=True):
            if offset + tensor.nbytes > staged.done[shard]:
                with staged.files.using(shard) as fd:
                    files.write_at(fd, tensors[tensor.name].data, offset)
                staged.wrote(shard, offset, tensor.nbytes)


class Publishing(RuleBasedStateMachine):
    """One output, to which several models are written, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.out = self.folder / "out"
        self.whole: str | None = None  # the model that must be there
        self.perhaps: set[str | None] = set()  # those that may be there instead
        self.first: Publication | None = None  # a run that is at work
        self.patch = pytest.MonkeyPatch()
        unsynced(self.patch)
        fine(self.patch)

    @initialize(is_file=st.booleans())
    def choose(self, is_file: bool) -> None:
        if is_file:
            self.out = self.folder / "out.safetensors"

    def layouts(self, model: str) -> tuple[ShardLayout, ...]:
        """Return a model's files: in a folder, the second has shards."""
        has_shards = model == "two" and not self.out.suffix
        return lay_out(TENSORS, shard_size=50 if has_shards else 10**9)

    def stage(self, model: str, overwrite: bool) -> Publication:
        """Return the publication of a model."""
        sides = [SideFile("config.json", model.encode())]
        return stage(
            self.out, self.layouts(model), overwrite=overwrite, side_files=sides, key=model
        )

    def write(self, model: str, overwrite: bool, faults: Faults) -> bool:
        """Write a model with faults underneath, and tell whether it went through."""
        with pytest.MonkeyPatch.context() as patch:
            inject(patch, faults)
            try:
                with self.stage(model, overwrite) as staged:
                    fill(model, self.layouts(model), staged)
                    staged.publish()
            except (Killed, TaskalgError):
                return False
            finally:
                faults.end()
        return True

    def finished(self, model: str) -> None:
        """Expect a model and nothing else."""
        self.whole, self.perhaps = model, set()

    def broken_off(self, model: str) -> None:
        """Expect what was there, nothing, or the new model."""
        self.perhaps |= {self.whole, None, model}

    @precondition(lambda self: self.first is None)
    @rule(model=models)
    def run(self, model: str) -> None:
        """Write a model over whatever is there."""
        assert self.write(model, True, Faults())
        self.finished(model)
        names = [p.name for p in self.folder.rglob("*") if ".taskalg" in p.name]
        assert names == []

    @precondition(lambda self: self.first is None)
    @rule(model=models, call=calls, overwrite=st.booleans())
    def crash(self, model: str, call: tuple[int, str], overwrite: bool) -> None:
        """Be killed at some call, or run through, or be refused."""
        at, starting = call
        faults = Faults(at, sticky=True, error=Killed(), starting=starting)
        if self.write(model, overwrite, faults):
            self.finished(model)
        elif faults.failed:
            self.broken_off(model)

    @precondition(lambda self: self.first is None)
    @rule(model=models, call=calls, sticky=st.booleans())
    def fail(self, model: str, call: tuple[int, str], sticky: bool) -> None:
        """Meet an error at some call, once or from then on."""
        at, starting = call
        if self.write(model, True, Faults(at, sticky=sticky, starting=starting)):
            self.finished(model)
        else:
            self.broken_off(model)

    @precondition(lambda self: self.first is None)
    @rule(model=models)
    def refuse(self, model: str) -> None:
        """Do not replace what nobody asked to replace."""
        before = {k: v for k, v in tree(self.folder).items() if ".taskalg" not in k}
        if self.write(model, False, Faults()):
            self.finished(model)
        else:
            now = {k: v for k, v in tree(self.folder).items() if ".taskalg" not in k}
            assert now == before != {}

    @precondition(lambda self: self.first is None)
    @rule(seed=st.integers(0, 10**6), how=st.sampled_from(["flip", "cut", "empty"]))
    def damage_journal(self, seed: int, how: str) -> None:
        """Damage what a killed run recorded."""
        for path in self.folder.rglob(JOURNAL_NAME):
            random, data = Random(seed), bytearray(path.read_bytes())
            if how == "flip" and data:
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
            else:
                del data[0 if how == "empty" else random.randrange(len(data) + 1) :]
            path.write_bytes(data)

    @precondition(lambda self: self.first is None)
    @rule(seed=st.integers(0, 10**6))
    def cut_shard(self, seed: int) -> None:
        """Truncate a temporary file of a killed run."""
        found = sorted(self.folder.rglob("shard-*"))
        if found:
            path = Random(seed).choice(found)
            os.truncate(path, Random(seed).randrange(path.stat().st_size + 1))

    @precondition(lambda self: self.first is None)
    @rule(model=models)
    def begin(self, model: str) -> None:
        """Be at work."""
        self.first = self.stage(model, True)
        self.first.__enter__()

    @precondition(lambda self: self.first is not None)
    @rule(model=models, overwrite=st.booleans())
    def second(self, model: str, overwrite: bool) -> None:
        """Be refused while another run is at work, and leave its files alone."""
        before = tree(self.folder)
        with pytest.raises(OutputError):
            self.stage(model, overwrite).__enter__()
        assert tree(self.folder) == before

    @precondition(lambda self: self.first is not None)
    @rule()
    def leave(self) -> None:
        """End without publishing."""
        assert self.first is not None
        self.first.__exit__(None, None, None)
        self.first = None

    @invariant()
    def loaders_find_an_exact_model_or_none(self) -> None:
        one, other = loaded(self.out)
        assert one == other
        model = next((name for name in MODELS if content(name) == one), None)
        assert (model is None) == (one is None)
        assert model in (self.perhaps or {self.whole})
        config = self.out / "config.json"
        if model is not None and not self.out.suffix:
            assert config.read_bytes() == model.encode()

    def teardown(self) -> None:
        if self.first is not None:
            self.first.__exit__(None, None, None)
        self.patch.undo()
        shutil.rmtree(self.folder)


TestPublishing: Any = Publishing.TestCase
TestPublishing.settings = settings(max_examples=80, stateful_step_count=15, deadline=None)
