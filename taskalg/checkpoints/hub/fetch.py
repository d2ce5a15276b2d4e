"""Files from the Hub, whole: a checkpoint's shards become local ones before they are read.

The library downloads into its own cache, where other tools find the file too, over whatever
transport the Hub has for it. What came must have the header that the plan was made from.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from taskalg import files
from taskalg.checkpoints.base import Checkpoint, RemoteFile, Shard
from taskalg.checkpoints.hub.errors import changed, failure
from taskalg.checkpoints.hub.paths import model_folder, sha256_of
from taskalg.checkpoints.hub.ranged import failures
from taskalg.checkpoints.safetensors import read_header
from taskalg.errors import CheckpointError, TaskalgError, quoted
from taskalg.units import bytes_text
from taskalg.version import __version__

AT_ONCE = 8  # files asked for at the same time

Report = Callable[[int, int], None]  # bytes that came, and bytes that will; cancels by raising

_log = logging.getLogger(__name__)


def fetched(
    checkpoint: Checkpoint, wanted: Collection[int], report: Report | None = None
) -> Checkpoint:
    """Return the checkpoint with its shards on this machine.

    Args:
        checkpoint: the same tensors; perhaps still on the Hub.
        wanted: indices of the shards that will be read; others stay where they are.
        report: called as bytes come.

    Raises:
        CheckpointError: a shard cannot be had, or is not the file whose header was read.
    """
    remotes = {
        index: shard.remote
        for index, shard in enumerate(checkpoint.shards)
        if shard.remote is not None and index in wanted
    }
    if not remotes:
        return checkpoint
    announce(remotes.values())
    total = sum(remote.size for remote in remotes.values())
    shards, before = list(checkpoint.shards), 0
    for index, remote in remotes.items():
        came = None if report is None else partial(_add, report, before, total)
        download(remote, shards[index].path, came)
        shards[index] = _as_planned(shards[index], remote)
        before += remote.size
    return replace(checkpoint, shards=tuple(shards))


def _add(report: Report, before: int, total: int, came: int) -> None:
    report(before + came, total)


def announce(remotes: Iterable[RemoteFile]) -> None:
    """Say what will be downloaded, to whoever listens to the package's log."""
    coming = [remote for remote in remotes if not _is_cached(remote)]
    if coming:
        count = f"{len(coming)} file{'' if len(coming) == 1 else 's'}"
        size = bytes_text(sum(remote.size for remote in coming))
        origin = f"{coming[0].repository}@{coming[0].commit[:7]}"
        _log.info("downloading %s, %s, of %s", count, size, origin)


def at_once(work: Callable[[RemoteFile], None], remotes: Iterable[RemoteFile]) -> None:
    """Do something for each file, a few at the same time; the first failure ends it."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for _ in pool.map(work, remotes):
            pass
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for the Hub


def download(remote: RemoteFile, place: Path, report: Callable[[int], None] | None = None) -> None:
    """Download a file to its place in the cache, unless it is there.

    Args:
        remote: the file.
        place: where the cache will have it.
        report: called with the bytes that came so far; cancels by raising.

    Raises:
        CheckpointError: it cannot be had, or is not the one that was listed.
    """
    from huggingface_hub import hf_hub_download

    meter = _Meter(remote, report)
    try:
        found = hf_hub_download(
            remote.repository,
            remote.path,
            revision=remote.commit,
            library_name="taskalg",
            library_version=__version__,
            tqdm_class=meter.bar(),
        )
    except TaskalgError:
        raise
    except failures() as error:
        meter.check()
        raise failure(error, remote) from error
    meter.check()
    if Path(found) != place:
        raise changed(remote, "the Hub answers with another commit")
    check_size(place, remote)


def check_size(place: Path, remote: RemoteFile) -> None:
    """Refuse a file in the cache that is not as long as the Hub says.

    Raises:
        CheckpointError: it is shorter or longer.
    """
    size = files.fingerprint(place).size
    if size != remote.size:
        raise CheckpointError(
            f"the cache's copy of {quoted(remote.called)} is damaged",
            note=f"it has {size:,} bytes; the Hub's list says {remote.size:,}",
            help=f"delete {quoted(os.path.realpath(place))}, and run the command again",
        )


def _is_cached(remote: RemoteFile) -> bool:
    """Tell whether another commit of the model brought the same content."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).expanduser()
    blobs = model_folder(cache, remote.repository) / "blobs"
    return remote.etag is not None and files.is_file(blobs / remote.etag)


def _as_planned(shard: Shard, remote: RemoteFile) -> Shard:
    header = read_header(shard.path)
    if header.shard.header_hash != shard.header_hash:
        raise changed(remote, "it has another header than the one that the plan was made from")
    return replace(header.shard, sha256=header.shard.sha256 or sha256_of(remote.etag))


class _Meter:
    """Counts what comes, in place of the library's progress bar, and stops what never ends."""

    def __init__(self, remote: RemoteFile, report: Callable[[int], None] | None) -> None:
        self._remote, self._report = remote, report
        self._came = 0
        self._stopped: BaseException | None = None

    def bar(self) -> Any:
        """Return a class for the library to make its bar of: any options, nothing drawn."""
        count = self._count
        return type(
            "Bar",
            (_Silent,),
            {"__init__": lambda self, **_: None, "update": lambda self, n=1: count(n)},
        )

    def check(self) -> None:
        """Raise what a report raised, whatever the library made of it."""
        if self._stopped is not None:
            raise self._stopped

    def _count(self, nbytes: float) -> None:
        self._came += int(nbytes)
        try:
            if self._came > self._remote.size:
                raise changed(self._remote, f"more than its {self._remote.size:,} bytes came")
            if self._report is not None:
                self._report(self._came)
        except BaseException as stopped:
            self._stopped = stopped
            raise


class _Silent:
    """What the library calls of a progress bar besides `update`."""

    total = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    def refresh(self) -> None: ...

    def update_transfer(self, n: float = 1) -> None: ...

    def set_postfix_str(self, text: str, refresh: bool = False) -> None: ...

    def set_transfer_postfix_str(self, text: str, refresh: bool = False) -> None: ...
