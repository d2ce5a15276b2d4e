"""What a recipe gives in memory: its tensors one by one, all of them, or those of a model.

Results are the bytes that `Recipe.save` writes. Torch is imported by what is called, not by this
file, so that whoever only reads headers or merges files need not wait for it.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from taskalg.binding import freed
from taskalg.engines.registry import check_engine
from taskalg.errors import UsageError
from taskalg.measuring.numbers import measured, scalar
from taskalg.planned import Planned
from taskalg.running.stream import Settings

if TYPE_CHECKING:
    import torch

    from taskalg.memory.functional import Functional
    from taskalg.memory.live import Live


class InMemory(Planned):
    """An expression that can be evaluated in memory."""

    __hash__ = None  # == is deep, and may read headers

    def __float__(self) -> float:
        """Return the number of a scalar, rounded once; what is measured in it is measured now.

        Raises:
            KindError: it is a checkpoint value.
            TaskalgError: it depends on the tensor, is too large, or cannot be measured.
        """
        return scalar(self, Settings())

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
        from taskalg.memory.resident import is_resident, resident_tensors
        from taskalg.memory.tensors import tensors, usable_device

        check_engine(engine)
        settings, place = _settings(threads, on_overflow), usable_device(device)
        plan = self.plan(
            dtype=dtype,
            donor=donor,
            allow_partial=allow_partial,
            only_shared=only_shared,
            rows=rows,
        )
        plan, _ = measured(plan, settings)
        evaluated = resident_tensors if is_resident(plan, engine, place) else tensors
        return evaluated(plan, engine, place, settings)

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
        from taskalg.memory.resident import is_resident, resident_load
        from taskalg.memory.targets import find_targets

        check_engine(engine)
        settings = _settings(threads, on_overflow)
        plan = self.plan(
            donor=donor, allow_partial=allow_partial, only_shared=only_shared, rows=rows
        )
        targets = find_targets(model, plan)
        plan = self.planned(replace(plan.choices, outputs=targets.dtypes))  # rounded once
        plan, _ = measured(plan, settings)
        places = targets.devices
        there = len(places) == 1 and is_resident(plan, engine, *places)
        (resident_load if there else load)(plan, targets, engine, settings)

    def live(
        self,
        model: Any = None,
        *,
        device: "str | torch.device | None" = None,
        dtype: str | None = None,
        donor: str | None = None,
        engine: str = "auto",
        operands: str = "auto",
        threads: int | None = None,
        on_overflow: str = "error",
        allow_partial: bool = False,
        only_shared: bool = False,
        rows: str = "all",
    ) -> "Live[Self]":
        """Hold the operands and evaluate, so that other scalars cost one pass over memory.

        `live = recipe.live(model)` writes the weights into the model, then `live.set(strength=0.3)`
        does so with another scalar, and `live.reset()` takes it back to the base. Operands that
        are in memory on the device are used where they are, and must not change; if the model is
        one of them, it is copied first. Tensors that no scalar changes are written once. What the
        model has instead of its tensors after `model.to(...)` or `model.half()` is not followed.

        Args:
            model: a module, or a state dict of tensors, as for `load_into`; by default the weights
                get memory of their own, and `live.state_dict()` has them.
            device: where weights and operands are; by default the model's, else the CPU.
            dtype: of floating tensors; by default the model's, or the donor's.
            donor: the checkpoint whose names the result takes, and to which `reset` goes back; by
                default the base, also where the first scalars leave nothing of it.
            engine: as for `save`; "auto" is "gpu" on a GPU.
            operands: "cpu" for operands that stay in pinned host memory while the weights are on a
                GPU, which makes each `set` as slow as the bus; "auto" for those that do not fit.
            threads: by default the smaller of 8 and what this process may use.
            on_overflow: "error" or "warn", when a result is too large for its dtype.
            allow_partial: whether coefficients may add up to something else than 1 or 0.
            only_shared: combine only the tensors that every term has.
            rows: "common" to combine the rows that all have, where vocabularies differ in size.

        Raises:
            TaskalgError: as `load_into` does.

        Memory: all operands that are not on the device yet, and the weights if there is no model.
        """
        from taskalg.memory.live import live

        if model is not None and dtype is not None:
            raise UsageError("the model decides the dtypes", help="leave out dtype")
        settings = _settings(threads, on_overflow)
        free = freed(self)
        there = {operand.name for operand, part in free.resolved.terms if part}
        plan = free.plan(
            dtype=dtype,
            donor=donor or ("base" if "base" in there else None),
            allow_partial=allow_partial,
            only_shared=only_shared,
            rows=rows,
        )
        return live(
            self,
            plan,
            settings,
            model=model,
            device=device,
            engine=engine,
            operands=operands,
        )

    def functional(
        self,
        *,
        device: "str | torch.device | None" = None,
        per_tensor: str | Collection[str] = (),
        dtype: str | None = None,
        donor: str | None = None,
        engine: str = "auto",
        threads: int | None = None,
    ) -> "Functional[Self]":
        """Make the weights a function of the scalars, which torch can differentiate.

        `f = recipe.functional()`, then `torch.func.functional_call(model, f(), inputs)` computes
        with weights that have gradients by `f.parameters()`, and `f.recipe()` is what was learned.
        Operands that are in memory on the device are used where they are, and must not change.

        Args:
            device: where operands and weights are; by default where the donor's tensors are in
                memory, else the CPU.
            per_tensor: scalars that get a value for each tensor, as in layer-wise AdaMerging.
            dtype: of floating tensors, such as "bf16"; by default the donor's.
            donor: the checkpoint whose names and dtypes the result takes.
            engine: as for `live`.
            threads: by default the smaller of 8 and what this process may use.

        Raises:
            UsageError: the recipe has no such scalars.
            TaskalgError: the checkpoints do not fit; what is to be learned cannot be written down.

        Memory: all operands that are not on the device yet; each call, the weights.
        """
        from taskalg.memory.functional import functional

        return functional(
            self,
            freed(self).plan(dtype=dtype, donor=donor),
            device=device,
            per_tensor=per_tensor,
            engine=engine,
            threads=Settings(threads).threads,
        )


def _settings(threads: int | None, on_overflow: str) -> Settings:
    if on_overflow not in ("error", "warn"):
        raise UsageError("on_overflow is 'error' or 'warn'", note=f"found {on_overflow!r}")
    return Settings(threads=threads, fail_on_overflow=on_overflow == "error")
