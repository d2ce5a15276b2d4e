"""Where an output goes, and every reason not to put it there, before anything is created."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskalg import files
from taskalg.checkpoints.base import Checkpoint, Part
from taskalg.checkpoints.pipeline import LISTS
from taskalg.checkpoints.stems import is_weights
from taskalg.errors import OutputError, UsageError, listed, printable, quoted
from taskalg.output.layout import ShardLayout
from taskalg.output.lock import LOCK_NAME
from taskalg.output.sidefiles import CONFIG_NAME, SideFile
from taskalg.system import AnyPath
from taskalg.units import bytes_text

HIDDEN = ".taskalg-"  # what temporaries' names begin with


@dataclass(frozen=True)
class Destination:
    """The folder that gets an output's files, and where they lie until they are complete."""

    out: Path  # as the user gave it
    root: Path  # the folder of the final names: `out`, or the folder that `out` is a file in
    hidden: Path  # the folder for temporaries, inside `root`, so that renaming is atomic
    is_file: bool  # whether `out` is one file


def destination(out: AnyPath) -> Destination:
    """Tell a file from a folder by its name: `.safetensors` means one file."""
    path = Path(out)
    if is_file_output(path):
        return Destination(path, path.parent, path.parent / f"{HIDDEN}{path.name}", True)
    return Destination(path, path, path / f"{HIDDEN}partial", False)


def is_file_output(out: AnyPath) -> bool:
    """Tell whether an output of this name is one file, not a folder."""
    return Path(out).suffix.lower() == ".safetensors"


def check_destination(
    place: Destination,
    layouts: Sequence[ShardLayout],
    side_files: Sequence[SideFile],
    *,
    leftovers: frozenset[str],
    overwrite: bool,
) -> None:
    """Refuse an output that cannot or should not be put there. Changes nothing.

    Args:
        place: the destination.
        layouts: the files to be written.
        side_files: what comes with them.
        leftovers: names in the folder that an interrupted run left; they do not count.
        overwrite: whether an earlier output may be replaced.

    Raises:
        OutputError: the folder cannot be written, or something is in the way.
        UsageError: several shards, and one file to put them in.
    """
    if place.is_file and len({layout.part for layout in layouts}) > 1:
        folders = dict.fromkeys(layout.part.folder or "the model" for layout in layouts)
        raise UsageError(
            f"{quoted(str(place.out))} is one file, and the model has several parts",
            note=f"they are {listed([printable(folder) for folder in folders])}",
            help="give a folder, each part gets its own in it",
        )
    if place.is_file and len(layouts) != 1:
        raise UsageError(
            f"{quoted(str(place.out))} is one file, and {len(layouts)} shards do not fit into it",
            help="give a folder, or a larger --shard-size",
        )
    if place.is_file:
        if files.exists(place.out) and not overwrite:
            raise _in_the_way(place, "exists already")
    elif files.exists(place.root):
        names = [name for name in files.list_folder(place.root) if name not in leftovers]
        if names and not overwrite:
            shown = listed([quoted(name) for name in names])
            raise _in_the_way(place, "is not empty", f"it holds {shown}")
        _check_mixture(place, names, layouts, side_files)


def previous_weights(
    place: Destination, layouts: Sequence[ShardLayout]
) -> tuple[list[Path], list[Path]]:
    """Return what an earlier output left: what a loader looks for first, and other shards."""
    if place.is_file:
        return [], []
    parts = dict.fromkeys(layout.part for layout in layouts)
    entries = [name for part in parts for name in (part.single, part.index)]
    found = [name for part in parts for name in _weights_in(place, part.folder)]
    ours = [name for name in found if any(_belongs(name, part) for part in parts)]
    lists = [name for name in LISTS if files.exists(place.root / name)]
    first = sorted([name for name in ours if name in entries] + lists, key=_depth)
    shards = [name for name in ours if name not in entries]
    return [place.root / name for name in first], [place.root / name for name in shards]


def _depth(name: str) -> int:
    """Return when an entry goes: the model's own, then the list of its parts, then theirs."""
    return 1 if name in LISTS else 2 * name.count("/")


def _weights_in(place: Destination, folder: str) -> list[str]:
    """Return the files of weights in a sub-folder, as paths inside the output."""
    path = place.root / folder
    names = files.list_folder(path) if files.is_folder(path) else []
    return [f"{folder}/{name}".lstrip("/") for name in names if is_weights(name)]


def _belongs(name: str, part: Part) -> bool:
    """Tell whether a file could be one of a part's, by its path inside the output."""
    stem = re.escape(part.prefix + part.stem)
    shard = rf"{stem}-\d{{5}}-of-\d{{5}}\.safetensors"
    return name in (part.single, part.index) or re.fullmatch(shard, name) is not None


def missing_folders(folder: Path) -> list[Path]:
    """Return the folders that have to be made so that this one is there, the outermost first."""
    ways = (folder, *folder.parents)
    return [path for path in reversed(ways) if not files.exists(path)]


def check_space(place: Destination, needed: int) -> None:
    """Refuse when fewer than `needed` bytes are free. What an interrupted run left counts as free.

    Raises:
        OutputError: too few.
    """
    free = files.free_space(_nearest(place.root))
    if files.is_folder(place.hidden):
        names = files.list_folder(place.hidden)
        left = (place.hidden / name for name in names if name != LOCK_NAME)
        free += sum(files.bytes_on_disk(path) for path in left if files.is_file(path))
    if free < needed:
        raise OutputError(
            f"not enough space for {quoted(str(place.out))}",
            note=f"it needs {bytes_text(needed)}, {bytes_text(free)} are free",
            help="free some space, or choose an output on another disk",
        )


def check_overlap(place: Destination, inputs: Sequence[Checkpoint]) -> None:
    """Refuse an output that is, contains or lies inside an input, whatever the paths look like.

    Folders and files are compared by device and inode, along the path as given and along the one
    that is left when all links are resolved.

    Raises:
        OutputError: they overlap.
    """
    above = {files.identity(folder) for folder in _folders_above(place.root)}
    here = files.identity(place.root) if files.exists(place.root) else None
    target = files.identity(place.out) if files.exists(place.out) else None
    for checkpoint in inputs:
        words = None
        if target is not None and target in checkpoint.identity:
            words = "is"
        elif checkpoint.folder is not None and files.identity(checkpoint.folder) in above:
            words = "is or lies inside"
        elif not place.is_file and here is not None and _contains(place.root, here, checkpoint):
            words = "contains"
        if words is not None:
            raise OutputError(
                f"the output {quoted(str(place.out))} {words} an input",
                note=f"the input is {quoted(checkpoint.path)}",
                help="choose another output; inputs are never written to",
            )


def _contains(root: Path, here: tuple[int, int], checkpoint: Checkpoint) -> bool:
    starts = {shard.path.parent for shard in checkpoint.shards}
    starts |= {Path(os.path.realpath(shard.path)).parent for shard in checkpoint.shards}
    folders = {folder for start in starts for folder in _folders_above(start)}
    if here in {files.identity(folder) for folder in folders}:
        return True
    inside = (root / name for name in files.list_folder(root))
    return any(files.identity(path) in checkpoint.identity for path in inside if files.exists(path))


def _folders_above(folder: Path) -> Iterator[Path]:
    """Yield the folders that exist on the way to a folder, itself included."""
    for path in (Path(os.path.abspath(folder)), Path(os.path.realpath(folder))):
        yield from (found for found in (path, *path.parents) if files.is_folder(found))


def check_kind(place: Destination) -> None:
    """Refuse a file where a folder is to be written, the reverse, and links that are in the way.

    Raises:
        OutputError: that is the case, or the folder cannot be written to.
    """
    name = quoted(str(place.out))
    if files.is_link(place.out) and not files.exists(place.out):
        raise OutputError(f"the output {name} is a link that leads nowhere")
    if files.exists(place.out) and files.is_folder(place.out) == place.is_file:
        what, wanted = ("folder", "file") if place.is_file else ("file", "folder")
        suffix = "ends in" if place.is_file else "does not end in"
        raise OutputError(
            f"the output {name} is a {what}, and a {wanted} is to be written",
            note=f"its name {suffix} .safetensors, which decides that",
            help="choose another output",
        )
    if files.is_link(place.hidden):
        raise OutputError(
            f"{quoted(str(place.hidden))} is a link, where taskalg keeps its temporary files",
            help="remove the link",
        )
    folder = _nearest(place.root)
    if not files.is_folder(folder):
        raise OutputError(f"{quoted(str(folder))} is a file, not a folder for the output {name}")
    if not files.is_writable(folder):
        raise OutputError(f"the folder {quoted(str(folder))} cannot be written to")


def _nearest(folder: Path) -> Path:
    """Return a folder, or the first one above it that is there."""
    return next((path for path in (folder, *folder.parents) if files.exists(path)), folder)


def _check_mixture(
    place: Destination,
    names: Sequence[str],
    layouts: Sequence[ShardLayout],
    side_files: Sequence[SideFile],
) -> None:
    """Refuse to leave files in place with which a loader would mix the new weights up."""
    parts = dict.fromkeys(layout.part for layout in layouts)
    folders = dict.fromkeys(["", *(part.folder for part in parts)])
    found = [name for folder in folders for name in _weights_in(place, folder)]
    foreign = [name for name in found if not any(_belongs(name, part) for part in parts)]
    replaced = {side_file.name for side_file in side_files}
    configs = [f"{folder}/{CONFIG_NAME}" for folder in folders if folder in names]
    found = [name for name in configs if files.exists(place.root / name)]
    found += [name for name in (CONFIG_NAME, *LISTS) if name in names]
    foreign += [name for name in found if name not in replaced]
    if foreign:
        shown = listed([quoted(name) for name in foreign])
        raise OutputError(
            f"the output {quoted(str(place.out))} holds {shown} of another model",
            note="a loader could mix it up with what is to be written",
            help="choose another output, or remove what is not needed",
        )


def _in_the_way(place: Destination, words: str, note: str | None = None) -> OutputError:
    return OutputError(
        f"the output {quoted(str(place.out))} {words}",
        note=note,
        help="choose another output, or add --overwrite to replace the model in it",
    )
