"""A model on the Hub opened as a folder is: by the same readers, from the same bytes.

Its small files are downloaded into the library's cache, where other tools find them and side files
are taken from. Its weights are not: for as long as it is opened, a folder of stand-ins has links to
the small files and, for each file of weights, its real header before nothing, as long as the file
will be. So every format that is read from a folder is read from the Hub, to the same rules. The
stand-ins are gone before the checkpoint is used; until they are downloaded (fetch.py), its shards
lie nowhere. Rejected: a second way to read files in every reader, and in those yet to be written.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from taskalg import files
from taskalg.checkpoints.base import Checkpoint, Opening, RemoteFile, Shard
from taskalg.checkpoints.hub.address import Address
from taskalg.checkpoints.hub.errors import failure, offline
from taskalg.checkpoints.hub.fetch import announce, at_once, check_size, download
from taskalg.checkpoints.hub.listing import cached_list, fetched_list
from taskalg.checkpoints.hub.paths import model_folder, sha256_of
from taskalg.checkpoints.hub.ranged import RangedFile
from taskalg.checkpoints.hub.scope import SUFFIX, Scope
from taskalg.checkpoints.safetensors import LARGEST_HEADER
from taskalg.errors import CheckpointError, listed, quoted
from taskalg.files import Fingerprint

NOT_ON_DISK = -2  # in place of a device's number

OpenPath = Callable[[str, Opening], Checkpoint]


@dataclass(frozen=True)
class _Snapshot:
    """A model as of one commit, as far as an address covers it."""

    root: Path  # its folder in the cache
    commit: str
    here: Collection[str]  # files in the cache, as paths inside the model
    absent: Mapping[str, RemoteFile]  # the others


def open_on_hub(address: Address, text: str, opening: Opening, open_path: OpenPath) -> Checkpoint:
    """Open a model on the Hub: download its small files, and read the headers of the others.

    Args:
        address: a model, a folder of it, or a file.
        text: the address as the user gave it.
        opening: what the user allows. Pickles have no header, so those allowed are downloaded.
        open_path: opens what lies on this machine.

    Raises:
        CheckpointError: it is not there, not for this user, out of reach, or refused by a reader.
    """
    from huggingface_hub import is_offline_mode

    snapshot = _look_up(address, opening, is_offline_mode())
    with _temporary_folder() as folder:
        view = folder / address.repository.rpartition("/")[2]
        view.mkdir()
        _stand_in(snapshot, view)
        try:
            found = open_path(str(view / address.path), opening)
        except CheckpointError as error:
            raise _retold(error, view, replace(address, path="")) from None
    origin = f"{address.repository}@{snapshot.commit}"
    notes = (f"{origin} is read from the cache, offline",) if is_offline_mode() else ()
    called = replace(address, path="").called
    return replace(
        found,
        path=text,
        folder=found.folder and snapshot.root / found.folder.relative_to(view),
        shards=tuple(_placed(shard, view, snapshot) for shard in found.shards),
        origin=origin,
        notes=(*(note.replace(str(view), called) for note in found.notes), *notes),
    )


def _look_up(address: Address, opening: Opening, is_offline: bool) -> _Snapshot:
    """Find out what an address covers, and download the small files."""
    from huggingface_hub import constants

    cache = model_folder(Path(constants.HF_HUB_CACHE).expanduser().resolve(), address.repository)
    make_list = cached_list if is_offline else fetched_list
    listing = make_list(address, address.revision, cache)
    root = cache / "snapshots" / listing.commit
    scope = Scope.of(listing.files, address.path)
    if not scope.files:
        note = f"the model has {listed(sorted(scope.tops)) or 'no files'}"
        if is_offline:
            raise offline(address, note)
        raise CheckpointError(f"there is no {quoted(address.called)}", note=note)
    missing = [
        file
        for file in scope.small(opening)
        if not files.exists(root / file.path)
        and not (is_offline and file.path.lower().endswith("readme.md"))  # no model lacks it
    ]
    if missing and is_offline:
        names = listed([quoted(file.path) for file in missing])
        raise offline(address, f"the model has {names}, and the cache has not")
    announce(missing)
    at_once(lambda file: download(file, root / file.path), missing)
    covered = scope.files | scope.named_by_indexes(root)
    absent = {path: file for path, file in covered.items() if not files.exists(root / path)}
    for path in covered.keys() - absent.keys():
        check_size(root / path, covered[path])
    _make_folders({(root / path).parent for path in absent}, address)
    return _Snapshot(root, listing.commit, covered.keys() - absent.keys(), absent)


def _make_folders(folders: Collection[Path], address: Address) -> None:
    """Make the folders of files that are absent, for whoever looks into them meanwhile."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failure(error, address) from error


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        with TemporaryDirectory(prefix="taskalg-", ignore_cleanup_errors=True) as folder:
            yield Path(os.path.realpath(folder))
    except OSError as error:
        raise CheckpointError(
            f"cannot write in the folder for temporary files: {error.strerror}",
            help="set TMPDIR to another folder",
        ) from error


def _stand_in(snapshot: _Snapshot, view: Path) -> None:
    """Fill a folder with what can be told from the model only by reading its weights."""
    for path in snapshot.here:
        place = view / path
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            place.symlink_to(snapshot.root / path)
        except OSError:  # Windows may not allow it
            shutil.copyfile(snapshot.root / path, place)
    at_once(lambda file: _stand_in_for(file, view), snapshot.absent.values())


def _stand_in_for(file: RemoteFile, view: Path) -> None:
    place = view / file.path
    header = _header(file) if file.path.endswith(SUFFIX) else b""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as stand_in:
        stand_in.write(header)
        stand_in.truncate(file.size)  # takes no space where files may have holes


def _header(file: RemoteFile) -> bytes:
    """Return a file's bytes up to the end of its header, or a few if that cannot be one."""
    ranged = RangedFile(file)
    start = ranged.read(0, min(file.size, 64))
    length = int.from_bytes(start[:8], "little")
    if length > min(file.size - 8, LARGEST_HEADER):
        return start
    return ranged.read(0, 8 + length)


def _placed(shard: Shard, view: Path, snapshot: _Snapshot) -> Shard:
    """Return a shard of the stand-ins as one of the model."""
    path = shard.path.relative_to(view)
    place, remote = snapshot.root / path, snapshot.absent.get(path.as_posix())
    if remote is None:
        return replace(shard, path=place, fingerprint=files.fingerprint(place))
    content = f"{remote.repository}\n{remote.etag or remote.called}"
    mark = int.from_bytes(hashlib.sha256(content.encode()).digest()[:7], "big")
    fingerprint = Fingerprint(remote.size, 0, NOT_ON_DISK, mark)
    digest = sha256_of(remote.etag)
    return replace(shard, path=place, fingerprint=fingerprint, remote=remote, sha256=digest)


def _retold(error: CheckpointError, view: Path, model: Address) -> CheckpointError:
    """Say where on the Hub something is, for where among the stand-ins it is."""
    told = [
        text and text.replace(str(view), model.called)
        for text in (error.message, error.note, error.help)
    ]
    if error.help is not None and error.help.startswith("delete "):  # nor does age say anything
        told[1:] = [None, f"give the file that is meant: {model.called}/…"]
    return CheckpointError(told[0] or "", note=told[1], help=told[2])
