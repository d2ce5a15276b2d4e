"""A Hugging Face model folder: one file of weights, or shards and the index that lists them.

What loaders do with an inconsistent folder differs: some follow the index, some the single file,
and a tensor that a shard lacks is silently initialized afresh. Whatever would be read differently
by two of them is refused here.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taskalg import files
from taskalg.checkpoints.base import Checkpoint, Part, TensorSpec, parts_of
from taskalg.checkpoints.index import read_index, read_json
from taskalg.checkpoints.pipeline import COMPONENTS, LISTS, listed_folders
from taskalg.checkpoints.quantized import refuse_quantized, refuse_quantized_config
from taskalg.checkpoints.safetensors import ShardHeader, read_header
from taskalg.checkpoints.stems import ALONE, find_stem, is_weights
from taskalg.checkpoints.unsupported import refuse_folder
from taskalg.errors import CheckpointError, listed, quoted


@dataclass(frozen=True)
class Weights:
    """What the files of weights in a folder are called, and what reads the header of one."""

    stem: str  # "model"
    suffix: str  # ".safetensors"
    read: Callable[[Path, int], ShardHeader]  # of a shard's path and number
    mark: str = ""  # of a variant: ".fp16"

    @property
    def single(self) -> str:
        """The file's name when there is one for all tensors."""
        return f"{self.stem}{self.mark}{self.suffix}"

    @property
    def index(self) -> str:
        """The name of the index when there are several."""
        return f"{self.stem}{self.suffix}.index{self.mark}.json"

    def are_in(self, names: Collection[str]) -> bool:
        """Tell whether a folder that holds these names is a model of this kind."""
        return self.single in names or self.index in names


SAFETENSORS = Weights("model", ".safetensors", read_header)
# A config with one of these is of transformers or diffusers, which follow an index.
_OF_A_MODEL = {"model_type", "architectures", "_class_name"}


@dataclass(frozen=True)
class _Opened:
    """One part, read."""

    part: Part
    headers: Sequence[ShardHeader]
    tensors: Mapping[str, TensorSpec]  # by their names in the files
    notes: tuple[str, ...]


def open_folder(path: str, weights: Weights | None = None) -> Checkpoint:
    """Open a model folder as a checkpoint.

    Args:
        path: the folder.
        weights: which of its files are meant; None finds them, in the sub-folders it lists too.

    Raises:
        CheckpointError: it is no model folder, is inconsistent, damaged or quantized.
    """
    root = Path(path)
    names = files.list_folder(root)
    has_list = not set(LISTS).isdisjoint(names)
    folders = listed_folders(root, names) if weights is None else ("",)
    there = [folder for folder in folders if files.is_folder(root / folder)]
    opened = []
    for folder in there:
        found = _open_part(path, folder, weights)
        if found is not None:
            opened.append(found)
        elif has_list:
            _refuse_other_weights(root / folder)
    if not opened or ("" in folders and all(part.part.folder for part in opened)):
        refuse_folder(path, names)
        raise _no_model(path, names)
    headers = [header for part in opened for header in part.headers]
    is_task_vector = _is_task_vector(headers, path)
    absent = [folder for folder in folders if folder not in there]
    if absent and COMPONENTS in names and not is_task_vector:
        raise _absent(path, absent)
    return Checkpoint(
        path,
        root,
        tuple(header.shard for header in headers),
        _together(opened, path),
        is_task_vector,
        parts=tuple(part.part for part in opened),
        notes=tuple(dict.fromkeys(note for part in opened for note in part.notes)),
    )


def _open_part(path: str, folder: str, weights: Weights | None) -> _Opened | None:
    """Open what lies in one folder; None if there are no weights in it."""
    where = str(Path(path) / folder) if folder else path
    here = Path(where)
    names = files.list_folder(here)
    notes: tuple[str, ...] = ()
    if weights is None and (found := find_stem(here, names)) is not None:
        weights = Weights(found.stem, ".safetensors", read_header, found.mark)
        notes = found.notes
    if weights is None or not weights.are_in(names):
        return None
    config = read_json(here / "config.json") if "config.json" in names else None
    refuse_quantized_config(config or {}, where)
    headers, tensors = _read(here, weights, names)
    refuse_quantized(tensors, where)
    knows = weights.stem not in ALONE and (config is None or bool(_OF_A_MODEL & config.keys()))
    part = Part(folder, weights.stem, may_shard=knows or weights.index in names)
    notes += tuple(note for header in headers for note in header.notes)
    return _Opened(part, headers, tensors, notes)


def _read(
    folder: Path, weights: Weights, names: Collection[str]
) -> tuple[list[ShardHeader], dict[str, TensorSpec]]:
    homes = read_homes(folder, weights, names)
    shards = [weights.single] if homes is None else sorted({*homes.values()})
    headers = [weights.read(folder / home, shard) for shard, home in enumerate(shards)]
    tensors = _gather(headers)
    if homes is not None:
        _check_index(folder / weights.index, homes, headers, tensors)
    return headers, tensors


def _together(opened: Sequence[_Opened], path: str) -> Mapping[str, TensorSpec]:
    """Name every tensor with its part's prefix, and number the shards of all parts."""
    parts = [found.part for found in opened]
    if [part.folder for part in parts] == [""]:
        return opened[0].tensors
    tensors: dict[str, TensorSpec] = {}
    shards = 0
    for found in opened:
        names = [found.part.prefix + name for name in found.tensors]
        for name, part in zip(names, parts_of(names, parts), strict=True):
            if part is not found.part:
                raise CheckpointError(
                    f"tensor {quoted(name)} of {quoted(path)} is called as if it were elsewhere",
                    note=f"it is not in the sub-folder {quoted(part.folder)}",
                )
        for name, spec in zip(names, found.tensors.values(), strict=True):
            tensors[name] = replace(spec, name=name, shard=shards + spec.shard)
        shards += len(found.headers)
    return tensors


def read_homes(folder: Path, weights: Weights, names: Collection[str]) -> dict[str, str] | None:
    """Return the file of each tensor, as the index has it; None when there is one file for all.

    Raises:
        CheckpointError: the index is wrong, a shard is missing, or there is another model too.
    """
    if weights.index not in names:
        return None
    homes = read_index(folder / weights.index, weights.suffix)
    shards = set(homes.values())
    if weights.single in names and shards != {weights.single}:
        raise _two_models(folder, weights)
    for home in sorted(shards):
        if not files.exists(folder / home):
            _refuse_missing(folder, home, weights)
    return homes


def _refuse_missing(folder: Path, home: str, weights: Weights) -> None:
    if files.is_link(folder / home):
        files.fingerprint(folder / home)  # a loop or a link to nothing has its own reason
    raise CheckpointError(
        f"shard {quoted(home)} of {quoted(str(folder))} is missing",
        note=f"{weights.index} lists it",
        help="download the model again, or the missing file",
    )


def _gather(headers: Sequence[ShardHeader]) -> dict[str, TensorSpec]:
    tensors: dict[str, TensorSpec] = {}
    for header in headers:
        for spec in header.tensors:
            if spec.name in tensors:
                first = headers[tensors[spec.name].shard].shard.path
                raise CheckpointError(
                    f"tensor {quoted(spec.name)} is in two shards",
                    note=f"in {quoted(str(first))} and in {quoted(str(header.shard.path))}",
                    help="save the model again; nobody can tell which one is meant",
                )
            tensors[spec.name] = spec
    return tensors


def _check_index(
    index: Path,
    homes: Mapping[str, str],
    headers: Sequence[ShardHeader],
    tensors: Mapping[str, TensorSpec],
) -> None:
    """Refuse an index that does not say exactly what the shards hold."""
    real = {name: headers[spec.shard].shard.path for name, spec in tensors.items()}
    absent = [name for name in homes if name not in real]
    if absent:
        raise _disagreement(index, f"lists {_some(absent)}, which no shard holds")
    extra = [name for name in real if name not in homes]
    if extra:
        where = quoted(real[extra[0]].name)
        raise _disagreement(index, f"does not list {_some(extra)}, which {where} holds")
    paths = {home: index.parent / home for home in dict.fromkeys(homes.values())}
    moved = [name for name, home in homes.items() if real[name] != paths[home]]
    if moved:
        where = quoted(real[moved[0]].name)
        raise _disagreement(index, f"has the wrong file for {_some(moved)}; it is in {where}")


def _some(names: Sequence[str]) -> str:
    word = "tensor" if len(names) == 1 else f"{len(names):,} tensors:"
    return f"{word} {listed([quoted(name) for name in names])}"


def _disagreement(index: Path, words: str) -> CheckpointError:
    return CheckpointError(
        f"the index of {quoted(str(index.parent))} {words}",
        note="a shard is from another version of the model, or the index is",
        help="download the model again, all its files",
    )


def _two_models(folder: Path, weights: Weights) -> CheckpointError:
    single, index = folder / weights.single, folder / weights.index
    ages = [files.fingerprint(path).mtime_ns for path in (single, index)]
    stale = single if ages[0] < ages[1] else index
    shards = "" if stale is single else " and the shards it lists"
    return CheckpointError(
        f"{quoted(str(folder))} holds two models: {weights.single}, and shards with an index",
        note=f"some loaders read one, some the other; {stale.name} is older, so probably stale",
        help=f"delete {quoted(str(stale))}{shards}",
    )


def _is_task_vector(headers: Sequence[ShardHeader], path: str) -> bool:
    found = {header.is_task_vector for header in headers}
    if len(found) > 1:
        raise CheckpointError(
            f"{quoted(path)} mixes the shards of a model with those of a task vector",
            help="save it again into an empty folder",
        )
    return found == {True}


def _absent(path: str, folders: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"{quoted(path)} lacks {listed([quoted(folder) for folder in folders])}",
        note=f"{COMPONENTS} lists that",
        help="download the model again, or give the folder of one component",
    )


def _refuse_other_weights(folder: Path) -> None:
    found = [quoted(name) for name in files.list_folder(folder) if is_weights(name)]
    if found:
        raise CheckpointError(
            f"{quoted(str(folder))} holds weights that are not read: {listed(found)}",
            note="without them the result would lack a part of the model",
            help="save the model again as safetensors, with the library that wrote it",
        )


def _no_model(path: str, names: Sequence[str]) -> CheckpointError:
    wanted = SAFETENSORS
    weights = [name for name in names if name.endswith(".safetensors")]
    if len(weights) == 1:
        help = f"give the file itself: {quoted(str(Path(path) / weights[0]))}"
    elif weights:
        help = f"give one of its files: {listed([quoted(name) for name in weights], 'or')}"
    else:
        help = f"give a folder with {wanted.single} or {wanted.index} in it, or a .safetensors file"
    note = "it is empty" if not names else f"it has no {wanted.single} and no {wanted.index}"
    return CheckpointError(f"{quoted(path)} is not a model folder", note=note, help=help)
