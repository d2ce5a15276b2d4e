"""What a recipe gives in memory: its tensors one by one, all of them, or those of a model.

Results are the bytes that `Recipe.save` writes. Torch is imported by what is called, not by this
file, so that whoever only reads headers or merges files need not wait for it.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from taskalg.engines.registry import check_engine
from taskalg.errors import UsageError
from taskalg.planned import Planned
from taskalg.running.stream import Settings

if TYPE_CHECKING:
    import torch


class InMemory(Planned):
    """An expression that can be evaluated in memory."""

    __hash__ = None  # == is deep, and may read headers

    def tensors(
        self,
        *,
        device: "str | torch.device" = "cpu",
        dtype: str | None = None,
        donor: str | None = None,
        engine: str = "auto",
        threads: int | None = None,
        on_overflow: str = "error",
        allow_partial: bool = False,
        only_shared: bool = False,
        rows: str = "all",
    ) -> "Iterator[tuple[str, torch.Tensor]]":
        """Evaluate, and yield each tensor's name and the tensor: what `load_weights` takes.

        Tensors come in the output's order, each with memory of its own. Nothing is kept of those
        that were yielded, and all files are closed when the iterator is, also before its end.

        Args:
            device: where they shall be, as torch calls it.
            dtype: of floating tensors, such as "bf16"; by default the donor's.
            donor: the checkpoint whose names and dtypes the result takes.
            engine: as for `save`.
            threads: by default the smaller of 8 and what this process may use.
            on_overflow: "error" or "warn", when a result is too large for its dtype.
            allow_partial: whether coefficients may add up to something else than 1 or 0.
            only_shared: combine only the tensors that every term has.
            rows: "common" to combine the rows that all have, where vocabularies differ in size.

        Raises:
            TaskalgError: as `save` does; an overflow is told when it is met, after other tensors.

        Memory: 128 MB of buffers, and 256 MB of tensors at a time, or the largest one.
        """
        from taskalg.memory.tensors import tensors, usable_device

        settings = _settings(threads, on_overflow)
        plan = self.plan(
            dtype=dtype,
            donor=donor,
            allow_partial=allow_partial,
            only_shared=only_shared,
            rows=rows,
        )
        return tensors(plan, check_engine(engine), usable_device(device), settings)

    def state_dict(
        self,
        *,
        device: "str | torch.device" = "cpu",
        dtype: str | None = None,
        donor: str | None = None,
        engine: str = "auto",
        threads: int | None = None,
        on_overflow: str = "error",
        allow_partial: bool = False,
        only_shared: bool = False,
        rows: str = "all",
    ) -> "dict[str, torch.Tensor]":
        """Evaluate, and return all tensors by name; the arguments are those of `tensors`.

        Raises:
            TaskalgError: as `save` does.

        Memory: the result, and 128 MB of buffers.
        """
        found = self.tensors(
            device=device,
            dtype=dtype,
            donor=donor,
            engine=engine,
            threads=threads,
            on_overflow=on_overflow,
            allow_partial=allow_partial,
            only_shared=only_shared,
            rows=rows,
        )
        return dict(found)

    def load_into(
        self,
        model: Any,
        *,
        donor: str | None = None,
        engine: str = "auto",
        threads: int | None = None,
        on_overflow: str = "error",
        allow_partial: bool = False,
        only_shared: bool = False,
        rows: str = "all",
    ) -> None:
        """Evaluate, and write the result to a model's tensors, in place.

        Each tensor is rounded once, to the dtype it has in the model. Tensors that the model uses
        twice are written once and stay tied; buffers that follow from its config are left alone.
        The model may be an operand of the recipe. Names have to be the model's, or to be so after
        one prefix is dropped or added.

        What does not fit is refused before anything is written. Whatever goes wrong later, such as
        a file that cannot be read or a result that overflows, leaves the model partly written.

        Args:
            model: a module, or a state dict of tensors; on any device, trainable or not.
            donor: the checkpoint whose names the result takes.
            engine: as for `save`.
            threads: by default the smaller of 8 and what this process may use.
            on_overflow: "error" or "warn", when a result is too large for its dtype.
            allow_partial: whether coefficients may add up to something else than 1 or 0.
            only_shared: combine only the tensors that every term has.
            rows: "common" to combine the rows that all have, where vocabularies differ in size.

        Raises:
            MismatchError: the result has other names, shapes or sorts of dtype than the model.
            TaskalgError: as `save` does.

        Memory: 128 MB of buffers for a model on the host; no second model.
        """
        from taskalg.memory.loading import load
        from taskalg.memory.targets import find_targets

        settings = _settings(threads, on_overflow)
        plan = self.plan(
            donor=donor, allow_partial=allow_partial, only_shared=only_shared, rows=rows
        )
        targets = find_targets(model, plan)
        rounded_once = replace(plan.choices, outputs=targets.dtypes)
        load(self.planned(rounded_once), targets, check_engine(engine), settings)


def _settings(threads: int | None, on_overflow: str) -> Settings:
    if on_overflow not in ("error", "warn"):
        raise UsageError("on_overflow is 'error' or 'warn'", note=f"found {on_overflow!r}")
    return Settings(threads=threads, fail_on_overflow=on_overflow == "error")
