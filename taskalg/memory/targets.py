"""The tensors of a model in memory that a result is to be written to, paired with its names.

All that can be refused is refused here, before a byte is written: names, shapes, sorts of dtype,
and memory that cannot be written to or is shared in part. Names agree as they are, or after one
prefix is dropped or added. A weight that the model uses twice is one tensor, and written once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from taskalg.checkpoints.base import TensorSpec
from taskalg.checkpoints.memory import BY_NAME, called, is_in_memory
from taskalg.dtypes import DType
from taskalg.errors import LISTED, MismatchError, UsageError, listed, quoted
from taskalg.planning.buffers import is_derived
from taskalg.planning.plan import Plan, Step
from taskalg.planning.prefixes import Side, find_prefix

Place = tuple[object, ...]  # where a tensor's elements are: equal for two that are one


@dataclass(frozen=True)
class Targets:
    """Where a result goes."""

    model: str  # what messages call it
    tensors: Mapping[str, torch.Tensor]  # by the result's names; without those of `shared`
    shared: Mapping[str, str]  # a name of the result -> the one whose tensor is the same memory

    @property
    def devices(self) -> set[torch.device]:
        """Where they are."""
        return {tensor.device for tensor in self.tensors.values()}

    @property
    def dtypes(self) -> dict[str, DType]:
        """The dtype of each floating tensor, by the result's names."""
        of = {name: BY_NAME[_dtype_name(tensor)] for name, tensor in self.tensors.items()}
        of |= {name: of[other] for name, other in self.shared.items()}
        return {name: dtype for name, dtype in of.items() if dtype.is_floating}


def find_targets(model: Any, plan: Plan) -> Targets:
    """Pair the tensors of a model with those of a plan's result.

    Args:
        model: a module, or a state dict of tensors.
        plan: for its names, shapes and sorts of dtype.

    Raises:
        UsageError: it is neither.
        MismatchError: they do not fit together.
    """
    if not is_in_memory(model):
        found = quoted(type(model).__name__)
        raise UsageError("a result is loaded into a module or a state dict", note=f"found {found}")
    words = called(model)
    there = {name: t for name, t in _tensors(model, words).items() if not _derived(name, t)}
    steps = {step.name: step for step in plan.tensors}
    given = {name: step for name, step in steps.items() if not _is_derived_step(plan, step)}
    names = _names(list(there), list(given))
    owners: dict[Place, str] = {}
    tensors, shared = {}, {}
    for name, target in names.items():
        owner = owners.setdefault(_place(there[target], target), name)
        if owner == name:
            tensors[name] = there[target]
        else:
            shared[name] = owner
    missing = [n for n, tensor in there.items() if _place(tensor, n) not in owners]
    _check_names(words, missing, [name for name in given if name not in names])
    _check_fit(words, plan, [(steps[name], there[target]) for name, target in names.items()])
    _check_apart(words, there)
    return Targets(words, tensors, shared)


def _tensors(model: Any, words: str) -> dict[str, torch.Tensor]:
    """Return what may be written to, by name.

    Raises:
        MismatchError: something cannot.
    """
    is_state = isinstance(model, Mapping)
    found = {}
    for name, value in (model if is_state else model.state_dict()).items():
        reason = None
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            reason = "has no shape yet: the module has to run once"
        elif isinstance(value, torch.Tensor):
            found[name] = value.detach()
            reason = _unwritable(found[name])
        elif is_state:  # a module may give more than tensors
            reason = f"is no tensor but of type {type(value).__name__}"
        if reason is not None:
            raise MismatchError(f"{quoted(str(name))} of {words} {reason}")
    if isinstance(model, torch.nn.Module):
        held = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
        other = next((n for n, t in found.items() if t.data_ptr() not in held), None)
        if other is not None:
            raise MismatchError(
                f"{quoted(other)} of {words} is made anew by its state_dict()",
                note="what is written to it would not reach the module",
                help="load_state_dict(recipe.state_dict()) has the module take it over",
            )
    return found


def _unwritable(tensor: torch.Tensor) -> str | None:
    """Say why a tensor cannot be written in place; None when it can."""
    if type(tensor) is not torch.Tensor:
        return f"is of type {type(tensor).__name__}, which cannot be written in place"
    if tensor.layout != torch.strided or _dtype_name(tensor) not in BY_NAME:
        return f"is a tensor of dtype {tensor.dtype} and layout {tensor.layout}"
    if tensor.device.type == "meta":
        return "is on the device meta, which holds no numbers"
    if any(size > 1 and not step for size, step in zip(tensor.shape, tensor.stride(), strict=True)):
        return "is expanded: several of its elements are one"
    first = tensor.storage_offset() * tensor.itemsize
    _, start, end = span(tensor)
    if tensor.numel() and first + end - start > tensor.untyped_storage().nbytes():
        return "is larger than the memory behind it"
    return None


def _names(there: list[str], given: list[str]) -> dict[str, str]:
    """Return the model's name for each of the result's that it has, perhaps with a prefix more."""
    known = set(there)
    if not known.issuperset(given):
        match = find_prefix(Side(there, there), Side(given, given))
        if match is not None and match.complete:
            return {name: match.names.get(name, name) for name in given}
    return {name: name for name in given if name in known}


def _check_names(words: str, missing: list[str], unknown: list[str]) -> None:
    notes = [f"the result lacks {_listed(missing)}"] if missing else []
    notes += [f"{words} lacks {_listed(unknown)}"] if unknown else []
    if notes:
        raise MismatchError(
            f"the result has other tensors than {words}",
            note="; ".join(notes),
            help="recipe.state_dict() has the result under its own names",
        )


def _check_fit(words: str, plan: Plan, pairs: list[tuple[Step, torch.Tensor]]) -> None:
    wrong = []
    for step, tensor in pairs:
        ours, theirs = plan.combinations[step.combination].output, BY_NAME[_dtype_name(tensor)]
        floating = ours.is_floating and theirs.is_floating
        if step.shape != tuple(tensor.shape):
            wrong.append(f"{quoted(step.name)} is {step.shape}, there {tuple(tensor.shape)}")
        elif not floating and ours != theirs:
            wrong.append(f"{quoted(step.name)} is {ours}, there {theirs}")
    if wrong:
        raise MismatchError(
            f"the result does not fit {words}",
            note="; ".join(wrong[:LISTED]) + _more(wrong),
            help="recipe.state_dict() has the result as it is",
        )


def _check_apart(words: str, there: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that share a part of their memory: what is written last would win."""
    spans = sorted((span(tensor), name) for name, tensor in there.items() if tensor.numel())
    for (one, first), (other, second) in pairwise(spans):
        apart = one[0] != other[0] or one[2] <= other[1]
        if not apart and _place(there[first], first) != _place(there[second], second):
            raise MismatchError(
                f"{quoted(first)} and {quoted(second)} of {words} share a part of their memory",
                help="give one its own: tensor.clone()",
            )


def span(tensor: torch.Tensor) -> tuple[str, int, int]:
    """Return a tensor's device and the addresses between which its elements are."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * step for size, step in sizes)
    start = tensor.data_ptr()
    return str(tensor.device), start, start + (last + 1) * tensor.itemsize


def _place(tensor: torch.Tensor, name: str) -> Place:
    if not tensor.numel():
        return (name,)
    layout = (tuple(tensor.shape), tensor.stride(), tensor.dtype)
    return (str(tensor.device), tensor.data_ptr(), *layout)


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _derived(name: str, tensor: torch.Tensor) -> bool:
    dtype = BY_NAME[_dtype_name(tensor)]
    return is_derived(TensorSpec(name, dtype, tuple(tensor.shape), 0, 0, tensor.nbytes))


def _is_derived_step(plan: Plan, step: Step) -> bool:
    dtype = plan.combinations[step.combination].output
    return is_derived(TensorSpec(step.name, dtype, step.shape, 0, 0, step.nbytes))


def _listed(names: list[str]) -> str:
    return listed([quoted(name) for name in names])


def _more(wrong: list[str]) -> str:
    return f"; and {len(wrong) - LISTED:,} more" if len(wrong) > LISTED else ""
