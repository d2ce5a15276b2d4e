"""What a model on the Hub holds: a revision becomes a commit and a list of files, in one request.

The commit goes to the cache's `refs`, where every tool looks for it when it is offline.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from taskalg import files
from taskalg.checkpoints.base import RemoteFile
from taskalg.checkpoints.hub.errors import Subject, offline
from taskalg.checkpoints.hub.paths import COMMIT
from taskalg.checkpoints.hub.ranged import get
from taskalg.errors import CheckpointError, OutputError, quoted

LARGEST_LIST = 25_000_000  # bytes; a file takes about 200 of them
DEFAULT = "main"  # what the cache calls the default branch

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Listing:
    """A model as of one commit."""

    commit: str
    files: tuple[RemoteFile, ...]


def fetched_list(about: Subject, revision: str | None, cache: Path) -> Listing:
    """Ask the Hub.

    Args:
        about: the model.
        revision: a branch, a tag or a commit; None for the default branch.
        cache: the model's folder in the cache.

    Raises:
        CheckpointError: it has no such model or revision, is out of reach, or makes no sense.
    """
    from huggingface_hub import constants

    part = "" if revision is None else f"/revision/{quote(revision, safe='')}"
    url = f"{constants.ENDPOINT}/api/models/{about.repository}{part}?blobs=true"
    answer = get(url, about, limit=LARGEST_LIST)
    try:
        found = json.loads(answer.body)
        commit = found["sha"]
        if not COMMIT.fullmatch(commit):
            raise ValueError("its commit is none")
        entries = tuple(_file(about.repository, commit, entry) for entry in found["siblings"])
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"the Hub's list of {quoted(about.called)} makes no sense",
            note=f"{type(error).__name__}: {error}"[:200],
            help="check HF_ENDPOINT, if it is set",
        ) from None
    if revision is None or not COMMIT.fullmatch(revision):
        _record(cache / "refs" / (revision or DEFAULT), commit)
    return Listing(commit, entries)


def cached_list(about: Subject, revision: str | None, cache: Path) -> Listing:
    """Ask the cache, which may know of fewer files than the model has.

    Raises:
        CheckpointError: it does not have the model, or not this revision of it.
    """
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    commit = revision or DEFAULT
    if not COMMIT.fullmatch(commit):
        ref = cache / "refs" / commit
        commit = str(files.read_small(ref, 100), "ascii", "replace") if files.is_file(ref) else ""
    root = cache / "snapshots" / commit
    if not COMMIT.fullmatch(commit) or not files.is_folder(root):
        raise offline(about)
    try:
        tree = get_cached_repo_tree(about.repository, revision=commit)
    except CachedRepoTreeNotFoundError:
        known = [(path, files.fingerprint(root / path).size) for path in _walk(root, "")]
    else:
        known = [(entry.path, entry.size) for entry in tree]
    entries = [{"rfilename": path, "size": size} for path, size in known]
    return Listing(commit, tuple(_file(about.repository, commit, entry) for entry in entries))


def _walk(root: Path, folder: str) -> Iterator[str]:
    for name in files.list_folder(root / folder):
        path = f"{folder}/{name}" if folder else name
        if files.is_folder(root / path):
            yield from _walk(root, path)
        elif files.exists(root / path):
            yield path


def _file(repository: str, commit: str, entry: dict[str, Any]) -> RemoteFile:
    path, size = entry["rfilename"], entry["size"]
    etag = (entry.get("lfs") or {}).get("sha256") or entry.get("blobId")
    if any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path or "\0" in path:
        raise ValueError(f"{quoted(path)} is no path inside a model")
    if type(size) is not int or size < 0:
        raise ValueError(f"{quoted(path)} has no size")
    is_digest = isinstance(etag, str) and _DIGEST.fullmatch(etag) is not None
    return RemoteFile(repository, commit, path, size, etag if is_digest else None)


def _record(ref: Path, commit: str) -> None:
    """Note in the cache which commit a revision is; a cache that cannot be written does without."""
    with suppress(OSError, CheckpointError, OutputError):
        if files.is_file(ref) and files.read_small(ref, 100) == commit.encode():
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        temporary = ref.with_name(f"{ref.name}.{uuid4().hex[:8]}.tmp")
        files.write_small(temporary, commit.encode())
        files.rename(temporary, ref)
