"""A recipe as a Python value: bind its names, explain it, save it, or evaluate it in memory."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from taskalg import files
from taskalg.adapters.export import export
from taskalg.adapters.maker import Form
from taskalg.adapters.report import AdapterReport
from taskalg.algebra.coefficient import Coefficient
from taskalg.binding import bound, freed
from taskalg.dtypes import floating_dtype
from taskalg.engines.registry import check_engine
from taskalg.errors import KindError, UsageError
from taskalg.explain import Explanation
from taskalg.measuring.numbers import measured
from taskalg.memory.recipes import InMemory
from taskalg.recipe_html import recipe_html
from taskalg.running.execute import engine_for, execute
from taskalg.running.provenance import Record
from taskalg.running.report import Report
from taskalg.running.stream import Progress, Settings
from taskalg.units import parse_size

AnyPath = str | os.PathLike[str]


class Recipe(InMemory):
    """An expression as a value, with what can be done with it.

    Made by `compile`, `checkpoint` and `task`. Recipes and numbers combine with `+ - * /`, unary
    `-` and `[...]`, as in the language; `==` tells whether two are the same sum.
    """

    __hash__ = None  # == is deep, and may read headers

    def bind(self, **values: Any) -> "Recipe":
        """Return a recipe in which names stand for something else; this one stays as it is.

        For example `recipe.bind(toxic=model, strength=0.35)`. A checkpoint keeps its sort: a task
        is taken against the same base. A float is the shortest decimal that it prints as.

        Args:
            values: by name: a path, a state dict or a module for a checkpoint, also for one that
                was declared without a file; a number for a scalar.

        Raises:
            UsageError: the recipe has no such name, or the name takes something else.
        """
        return bound(self, values)

    def freed(self, names: Iterable[str] | None = None) -> "Recipe":
        """Return the same recipe with scalars that are known only later.

        They stay in its coefficients, by name, so that one plan holds for all their values.

        Args:
            names: of scalars; by default all of `scalars`.

        Raises:
            UsageError: there is no such scalar.
        """
        return freed(self, names)

    def explain(
        self,
        out: AnyPath | None = None,
        *,
        dtype: str | None = None,
        donor: str | None = None,
        shard_size: int | str = "5GB",
        threads: int | None = None,
        allow_partial: bool = False,
        only_shared: bool = False,
        rows: str = "all",
    ) -> Explanation:
        """Say what `save` with the same arguments would do. Reads headers only."""
        plan = self.plan(
            dtype=dtype,
            donor=donor,
            allow_partial=allow_partial,
            only_shared=only_shared,
            rows=rows,
        )
        size = parse_size(shard_size) if isinstance(shard_size, str) else shard_size
        return Explanation(plan, files.at_home(out or "model"), size, threads)

    def __format__(self, spec: str) -> str:
        """Write a scalar as a number if it is said how: `f"{taskalg.norm(x):.3f}"` measures."""
        is_number = spec and isinstance(self.value, Coefficient)
        return format(float(self), spec) if is_number else super().__format__(spec)

    def _repr_html_(self) -> str:
        return recipe_html(self)

    def save(
        self,
        out: AnyPath,
        *,
        dtype: str | None = None,
        donor: str | None = None,
        shard_size: int | str = "5GB",
        engine: str = "auto",
        threads: int | None = None,
        on_overflow: str = "error",
        strict: bool = False,
        overwrite: bool = False,
        allow_partial: bool = False,
        only_shared: bool = False,
        rows: str = "all",
        hash: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Report:
        """Evaluate and publish: all of it, or nothing.

        The keywords are the command line's options.

        Args:
            out: a folder, or one file when it ends in `.safetensors`.
            dtype: of floating tensors, such as "bf16"; by default the donor's.
            donor: the checkpoint whose names, dtypes and side files the result takes.
            shard_size: tensor data in one file [bytes], or a text such as "5GB".
            engine: "auto", "cpu", "gpu" or "reference"; all write the same bytes.
            threads: by default the smaller of 8 and what this process may use.
            on_overflow: "error" or "warn", when a result is too large for its dtype.
            strict: whether integer tensors that differ are an error.
            overwrite: whether an earlier output may be replaced.
            allow_partial: whether coefficients may add up to something else than 1 or 0.
            only_shared: combine only the tensors that every term has.
            rows: "common" to combine the rows that all have, where vocabularies differ in size.
            hash: whether the manifest has the SHA-256 of every file read and written.
            progress: called with a `Progress` about ten times a second; cancels by raising.

        Raises:
            TaskalgError: with the reason; nothing is published then.

        Memory: about 300 MB, whatever the model.
        """
        if on_overflow not in ("error", "warn"):
            raise UsageError("on_overflow is 'error' or 'warn'", note=f"found {on_overflow!r}")
        plan = self.plan(
            dtype=dtype,
            donor=donor,
            allow_partial=allow_partial,
            only_shared=only_shared,
            rows=rows,
        )
        settings = Settings(
            threads=threads,
            fail_on_overflow=on_overflow == "error",
            strict=strict,
            overwrite=overwrite,
            shard_size=parse_size(shard_size) if isinstance(shard_size, str) else shard_size,
            progress=progress,
        )
        record = Record(self.written, hashed=hash)
        chosen, place = engine_for(plan, engine), files.at_home(out)
        plan, spent = measured(plan, settings, place)
        return execute(plan, chosen, place, settings, record=record, spent=spent)

    def save_adapter(
        self,
        out: AnyPath,
        *,
        rank: int | None = None,
        dtype: str = "f32",
        donor: str | None = None,
        threads: int | None = None,
        overwrite: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> AdapterReport:
        """Publish a task vector as a LoRA adapter that PEFT loads.

        Where every term is an adapter and no rank is given, their factors are joined, exactly but
        for the rounding to `dtype`, and their ranks add up. Otherwise every tensor becomes factors
        of the rank, by singular values; the report says what they leave over.

        Args:
            out: a folder.
            rank: of every module.
            dtype: of the factors.
            donor: the checkpoint whose tensors are looked at.
            threads: by default the smaller of 8 and what this process may use.
            overwrite: whether an earlier adapter may be replaced.
            progress: called with a `Progress` after each tensor; cancels by raising.

        Raises:
            TaskalgError: with the reason; nothing is published then.

        Memory: the adapter, and about 20 bytes for each element of the largest tensor.
        """
        if rank is not None and rank < 1:
            raise UsageError("a rank is at least 1", note=f"found {rank}")
        plan = self.plan(dtype="f32", donor=donor)
        settings = Settings(threads=threads, overwrite=overwrite, progress=progress)
        form = Form(rank, floating_dtype(dtype))
        try:
            place, record = files.at_home(out), Record(self.written)
            return export(plan, check_engine("auto"), place, form, settings, record)
        except KindError as error:
            raise self._at(error) from None
