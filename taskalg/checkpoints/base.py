"""What an opened checkpoint is: every tensor's place, found by reading headers only.

Nothing here holds a file open or a tensor in memory. A tensor's bytes are the range `offset` to
`offset + nbytes` of one shard, row-major and little-endian, whatever the format around them; the
offset need not be aligned. A state dict has arrays in place of shards. A tensor of an adapter is
kept as its two factors, and its elements are computed where they are needed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskalg import files
from taskalg.checkpoints.arrays import Array
from taskalg.dtypes import DType
from taskalg.errors import CheckpointError, quoted
from taskalg.files import Fingerprint


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a checkpoint: what it is and where its bytes lie."""

    name: str  # untrusted text: quoted in messages, never a path
    dtype: DType
    shape: tuple[int, ...]
    shard: int  # index into the checkpoint's shards, or into its arrays
    offset: int  # of its first byte, from the start of the file, or of the product [bytes]
    nbytes: int  # of its elements; those of a product are binary64 numbers
    factors: "LowRank | None" = None  # what its elements are computed from

    @property
    def bytes_stored(self) -> int:
        """Bytes that are read to get all of it."""
        return self.nbytes if self.factors is None else self.factors.nbytes

    @property
    def shards(self) -> set[int]:
        """Indices of the shards that are read to get it."""
        if self.factors is None:
            return {self.shard}
        stored = (self.factors.a, self.factors.b, self.factors.onto)
        return {spec.shard for spec in stored if spec is not None}


@dataclass(frozen=True, slots=True)
class LowRank:
    """A product kept as its factors: `scale * (b @ a)`, or the transpose of that.

    An element is defined to the bit, whoever computes it: the sum over k, ascending, of
    `b[i, k] * a[k, j]`, by binary64 fused multiply-adds that start from the first product, times
    `scale`, rounded to binary64. What it is added to, if anything, is added last, with one more
    rounding to binary64.
    """

    a: TensorSpec | None  # `(rank, columns)`; further dimensions count as columns; None for a 1
    b: TensorSpec  # `(rows, rank)`; further dimensions are 1
    scale: float
    transposed: bool  # the tensor is `(columns, rows)`
    onto: TensorSpec | None = None  # stored, of the tensor's shape, and the product is added to it

    @property
    def rank(self) -> int:
        """Columns of the one factor and rows of the other."""
        return self.b.shape[1] if len(self.b.shape) > 1 else 1

    @property
    def nbytes(self) -> int:
        """Bytes of all of them as they are stored."""
        return sum(spec.nbytes for spec in (self.a, self.b, self.onto) if spec is not None)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a model on the Hub that is not on this machine yet, pinned to a commit."""

    repository: str  # "org/name"
    commit: str
    path: str  # inside the repository
    size: int  # [bytes]
    etag: str | None  # names its content; the SHA-256 of a large file; None when nobody said

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"hf://{self.repository}@{self.commit[:7]}/{self.path}"


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint, and the state it was in when its header was read."""

    path: Path  # where it is, or where it will be once it is downloaded
    fingerprint: Fingerprint
    remote: RemoteFile | None = None  # where it is until then; None when it is here
    header_hash: str = ""  # SHA-256 of its header
    sha256: str | None = None  # of all of it, when the Hub or its cache says so


@dataclass(frozen=True)
class Part:
    """Tensors that lie together in one sub-folder of a model, as a pipeline's networks do."""

    folder: str  # its path inside the model's folder; "" for the model's folder itself
    stem: str  # what its files are called: "model", or "diffusion_pytorch_model"
    may_shard: bool = True  # whether what loads it knows shards

    @property
    def prefix(self) -> str:
        """What the names of its tensors begin with: the folder and a slash, or nothing."""
        return f"{self.folder}/" if self.folder else ""

    @property
    def single(self) -> str:
        """The file that holds all of it, as a path inside the model's folder."""
        return f"{self.prefix}{self.stem}.safetensors"

    @property
    def index(self) -> str:
        """The file that lists its shards, as a path inside the model's folder."""
        return f"{self.single}.index.json"

    def shard(self, number: int, count: int) -> str:
        """Return the file of one shard, counted from 1, as a path inside the model's folder."""
        return f"{self.prefix}{self.stem}-{number:05d}-of-{count:05d}.safetensors"


WHOLE_MODEL = Part("", "model")


def parts_of(names: Iterable[str], parts: Sequence[Part]) -> list[Part]:
    """Return the part that each name belongs to: the one in whose folder it lies, else the root's.

    >>> parts_of(["unet/x.weight", "y/z"], [Part("", "model"), Part("unet", "model")])[0].folder
    'unet'
    """
    by_prefix = {part.prefix: part for part in parts}
    heads = ("".join(name.partition("/")[:2]) for name in names)
    return [by_prefix[head if head in by_prefix else ""] for head in heads]


@dataclass(frozen=True)
class Opening:
    """What a user allows and asks for when a checkpoint is opened."""

    allow_pickle: bool = False
    in_memory: bool = False  # whether what cannot be read in place may be loaded


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors: one file, a folder of shards, or arrays in memory."""

    path: str  # as the user gave it
    folder: Path | None  # where side files are; None for a bare file, which has none
    shards: tuple[Shard, ...]
    tensors: Mapping[str, TensorSpec]  # by name, in file order: by shard, then by offset
    is_task_vector: bool  # the files say so; whether its numbers are small is not looked at
    is_sparse: bool = False  # tensors it lacks are zero, as in an adapter
    whole: frozenset[str] = frozenset()  # tensors of a task vector from which the base is not
    # subtracted yet: those an adapter trains beside its factors
    parts: tuple[Part, ...] = (WHOLE_MODEL,)  # in the order of their tensors
    arrays: tuple[Array, ...] = ()  # in memory, in place of shards
    origin: str | None = None  # where it came from, when that is known: "org/name@commit"
    stripped: str | None = None  # the prefix that the user had dropped from its tensors' names
    notes: tuple[str, ...] = ()  # what a user should know about it, a sentence each

    @property
    def identity(self) -> frozenset[tuple[object, ...]]:
        """Equal for two that are the same: devices and inodes of shards, or places in memory.

        In memory names count, for another state dict may have the same tensors under others.
        """
        if self.arrays:
            tensors = self.tensors.values()
            place = [array.address for array in self.arrays]
            return frozenset((t.name, t.dtype.code, t.shape, place[t.shard]) for t in tensors)
        marks = (shard.fingerprint for shard in self.shards)
        return frozenset((mark.device, mark.inode) for mark in marks)

    @property
    def devices(self) -> frozenset[str]:
        """Where its tensors are, as torch says: "cpu" for those in host memory; none on disk."""
        return frozenset(array.device for array in self.arrays)

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data, headers left out."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def open_shard(shard: Shard) -> int:
    """Open a shard for reading with `files.read_into`; `files.close` gives it back.

    Raises:
        CheckpointError: it cannot be read, or is not the file whose header was read.
    """
    fd = files.open_input(shard.path)
    try:
        _compare(shard, files.fingerprint(fd))
    except CheckpointError:
        files.close(fd)
        raise
    return fd


def check_unchanged(checkpoint: Checkpoint) -> None:
    """Compare each shard with its state when the checkpoint was opened. Reads no data.

    Raises:
        CheckpointError: a shard changed since, or is gone.
    """
    for shard in checkpoint.shards:
        if shard.remote is None:
            _compare(shard, files.fingerprint(shard.path))


def _compare(shard: Shard, now: Fingerprint) -> None:
    if now != shard.fingerprint:
        raise CheckpointError(
            f"{quoted(str(shard.path))} changed while it was read",
            note=_difference(shard.fingerprint, now),
            help="run the command again once nothing writes to it",
        )


def _difference(before: Fingerprint, now: Fingerprint) -> str:
    if before.size != now.size:
        return f"it had {before.size:,} bytes and now has {now.size:,}"
    if (before.device, before.inode) != (now.device, now.inode):
        return "another file has its name now"
    return "its modification time is another now"
