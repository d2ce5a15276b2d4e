"""Places in the Hugging Face cache: a path there becomes the model it is a copy of.

The cache's layout is documented and shared by every tool, so a local path into it says as much as
an address: `models--org--name/snapshots/<commit>/file` is a link to `blobs/<SHA-256>`. The path
is taken as text, for the link itself leads out of the snapshot. Nothing here needs the library.
"""

import os
import re
from pathlib import Path

from taskalg.system import AnyPath

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def model_folder(cache: Path, repository: str) -> Path:
    """Return where the cache keeps a model.

    >>> model_folder(Path("hub"), "org/name").name
    'models--org--name'
    """
    return cache / "--".join(("models", *repository.split("/")))


def hub_identity(path: AnyPath) -> str | None:
    """Return `org/name@commit` for a path inside the cache's copy of a model, else None.

    >>> hub_identity("/hub/models--org--name/snapshots/" + "ab" * 20 + "/unet")[:12]
    'org/name@aba'
    """
    parts = Path(os.path.abspath(path)).parts
    for model, snapshots, commit in zip(parts, parts[1:], parts[2:], strict=False):
        named = model.startswith("models--") and snapshots == "snapshots"
        if named and COMMIT.fullmatch(commit):
            return f"{model.removeprefix('models--').replace('--', '/')}@{commit}"
    return None


def cached_sha256(path: AnyPath) -> str | None:
    """Return the SHA-256 of a file when the cache says it: a large file's blob is named by it."""
    blob = Path(os.path.realpath(path))
    in_cache = blob.parent.name == "blobs" and blob.parent.parent.name.startswith("models--")
    return blob.name if in_cache and _SHA256.fullmatch(blob.name) else None


def sha256_of(etag: str | None) -> str | None:
    """Return an ETag that is a SHA-256; that of a small file is Git's name of it."""
    return etag if etag is not None and _SHA256.fullmatch(etag) else None
