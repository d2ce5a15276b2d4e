"""PyTorch pickles as checkpoints: what is in them is listed without running, or reading, any of it.

A pickle is a program, and loading one does whatever its author wanted. So it takes the user's word
to look into one, and then it is `torch.load(weights_only=True)` that does, which makes tensors and
refuses everything else. torch gets a copy of the archive in which the storages are empty: whatever
the size of the model, nothing is read but names, dtypes, shapes, and each tensor's place. The copy
also tells which storage a tensor is in, by where that lies in it. From then on a contiguous tensor
is a range of the file, as in safetensors, and torch has no part in reading it.

Rejected: an unpickler of our own, which would be one more to trust; and torch's way of loading a
file without its data, which calculates places (archive.py) and is there only since torch 2.11.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from taskalg import files
from taskalg.checkpoints.archive import (
    ZIP_MAGIC,
    NotInPlaceError,
    Record,
    damage,
    read_archive,
)
from taskalg.checkpoints.arrays import Array
from taskalg.checkpoints.base import Checkpoint, Opening, Shard, TensorSpec
from taskalg.checkpoints.folder import Weights, open_folder
from taskalg.checkpoints.header import LARGEST_TENSOR, MOST_DIMENSIONS
from taskalg.checkpoints.hub.paths import cached_sha256
from taskalg.checkpoints.memory import open_memory
from taskalg.checkpoints.pipeline import LISTS
from taskalg.checkpoints.quantized import refuse_quantized
from taskalg.checkpoints.safetensors import ShardHeader
from taskalg.checkpoints.state_dict import named_tensors
from taskalg.checkpoints.unsupported import refuse_content, refuse_factors
from taskalg.checkpoints.weights_only import load, load_without_data
from taskalg.dtypes import BY_CODE, DType
from taskalg.errors import CheckpointError, quoted

if TYPE_CHECKING:
    import torch

LEGACY = b"\x80"  # how a bare pickle starts
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_DTYPES = {dtype.torch: dtype for dtype in BY_CODE.values()}


def is_pickle(path: str) -> bool:
    """Tell a pickle by its suffix, and a model folder whose weights are pickles and nothing else.

    A model of several parts is not looked into: its parts would be left out.
    """
    if not files.is_folder(path):
        return path.lower().endswith(SUFFIXES)
    names = files.list_folder(path)
    others = [name for name in names if name in LISTS or ".safetensors" in name]
    return PICKLES.are_in(names) and not others


def open_pickle(path: str, opening: Opening) -> Checkpoint:
    """Open a pickle, or a model folder whose weights are pickles, as a checkpoint.

    Raises:
        CheckpointError: that is not allowed; or it cannot be read, is damaged, hostile or
            inconsistent, or holds something else than weights.
    """
    if not opening.allow_pickle:
        verb = "holds" if files.is_folder(path) else "is"
        raise CheckpointError(
            f"{quoted(path)} {verb} a PyTorch pickle, which is a program: to load it is to run it",
            help="add --allow-pickle: then torch reads the tensors in it, and refuses all else",
        )
    try:
        return _open(path, read_pickle)
    except NotInPlaceError as error:
        if opening.in_memory:
            return _Loader().open(path)
        target = f"{Path(path).stem}{'-safetensors' if files.is_folder(path) else '.safetensors'}"
        error.note = "its tensors are no ranges of the file, so they cannot be read piece by piece"
        error.help = f"run: taskalg convert {quoted(path)} -o {quoted(target)} --allow-pickle"
        raise


def _open(path: str, read: Callable[[Path, int], ShardHeader]) -> Checkpoint:
    if files.is_folder(path):
        found = open_folder(path, replace(PICKLES, read=read))
        return replace(found, parts=tuple(replace(part, stem="model") for part in found.parts))
    header = read(Path(path), 0)
    tensors = {spec.name: spec for spec in header.tensors}
    refuse_quantized(tensors, path)
    refuse_factors(tensors, path)
    return Checkpoint(path, None, (header.shard,), tensors, False, notes=header.notes)


class _Loader:
    """Opens pickles of any format by loading all that is in them."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}  # by tensor

    def open(self, path: str) -> Checkpoint:
        """Open a file or a folder."""
        found = _open(path, self._read)
        numbered = enumerate(found.tensors.items())
        tensors = {name: replace(spec, shard=number) for number, (name, spec) in numbered}
        arrays = tuple(self._arrays[name] for name in tensors)
        return replace(found, tensors=tensors, arrays=arrays)

    def _read(self, path: Path, shard: int) -> ShardHeader:
        mark = files.fingerprint(path)
        tensors, notes = named_tensors(load(path), str(path))
        for name, tensor in tensors.items():
            dtype_of(f"tensor {quoted(name)} of {quoted(str(path))}", tensor)
        held = open_memory(tensors)
        self._arrays |= {name: held.arrays[spec.shard] for name, spec in held.tensors.items()}
        specs = tuple(replace(spec, shard=shard) for spec in held.tensors.values())
        return ShardHeader(Shard(path, mark, sha256=cached_sha256(path)), specs, False, notes)


def read_pickle(path: Path, shard: int = 0) -> ShardHeader:
    """Find the tensors of one pickle that the user allowed to read.

    Args:
        path: the file.
        shard: the index its specs get.

    Raises:
        NotInPlaceError: they are no plain ranges of the file.
        CheckpointError: it is no PyTorch pickle, or damaged or hostile.
    """
    name = str(path)
    fd = files.open_input(path)
    try:
        mark = files.fingerprint(fd)
        start = bytearray(min(mark.size, 64))
        files.read_into(fd, [start], 0)
        if not start.startswith(ZIP_MAGIC):
            if not start.startswith(LEGACY):
                refuse_content(bytes(start), name)
            raise NotInPlaceError(f"{quoted(name)} is not in the format of torch 1.6 and later")
        archive = read_archive(fd, name)
    finally:
        files.close(fd)
    found, keys = load_without_data(archive, name)
    tensors, notes = named_tensors(found, name)
    places: dict[int | None, Record] = {place: archive.storages[key] for place, key in keys.items()}
    finder = _Finder(places, name, shard)
    with damage(name):
        specs = [finder.spec(called, tensor) for called, tensor in tensors.items()]
    specs.sort(key=lambda spec: (spec.offset, spec.nbytes))
    digest = hashlib.sha256(archive.pickle).hexdigest()
    found_in = Shard(path, mark, header_hash=digest, sha256=cached_sha256(path))
    return ShardHeader(found_in, tuple(specs), False, notes)


@dataclass(frozen=True)
class _Finder:
    """Finds the bytes of tensors that were loaded without them."""

    places: Mapping[int | None, Record]  # of storages, by their places in torch's copy
    path: str  # what messages call the file
    shard: int

    def spec(self, name: str, tensor: "torch.Tensor") -> TensorSpec:
        """Say where a tensor's bytes are, or refuse it."""
        called = f"tensor {quoted(name)} of {quoted(self.path)}"
        dtype = dtype_of(called, tensor)
        if not tensor.is_contiguous() or tensor.is_neg():
            raise NotInPlaceError(f"{called} does not lie in one piece")
        start, shape = int(tensor.storage_offset()) * dtype.itemsize, tuple(tensor.shape)
        nbytes = math.prod(shape) * dtype.itemsize
        place = self.places.get(getattr(tensor.untyped_storage(), "_checkpoint_offset", None))
        if place is None:
            raise CheckpointError(f"{called} has no data", note="it refers to none in the file")
        largest = math.prod(filter(None, shape)) * dtype.itemsize
        if len(shape) > MOST_DIMENSIONS or largest > LARGEST_TENSOR:
            raise CheckpointError(f"the shape of {called} overflows")
        if start + nbytes > place.size:
            held = f"{place.size:,} bytes are there, and it ends after {start + nbytes:,}"
            raise CheckpointError(f"{called} is cut short, or hostile", note=held)
        return TensorSpec(name, dtype, shape, self.shard, place.offset + start, nbytes)


def dtype_of(called: str, tensor: "torch.Tensor") -> DType:
    """Return a tensor's dtype.

    Raises:
        CheckpointError: a checkpoint cannot hold such a tensor.
    """
    import torch

    if tensor.layout is not torch.strided:
        raise CheckpointError(f"{called} is sparse", note=f"its layout is {tensor.layout}")
    dtype = _DTYPES.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None:
        words = "it is none of those that a sum of weights has a place for"
        raise CheckpointError(f"{called} has dtype {tensor.dtype}", note=words)
    return dtype


PICKLES = Weights("pytorch_model", ".bin", read_pickle)
