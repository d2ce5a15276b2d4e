"""Products kept on disk: what was measured of files that did not change is not measured again.

A file for each pass, named by everything that decides its numbers: the files' fingerprints and
headers, which of their tensors meet with which coefficients, and this version. It begins with its
own SHA-256, is read without pickle, and appears by rename, so processes may race; whatever is wrong
with it means measuring again, never an error. Checkpoints in memory can change unseen, so nothing
of them is kept.

The folder is what `TASKALG_CACHE` says, nowhere when that is `off`, else in the user's cache.
"""

import hashlib
import io
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taskalg.measuring.adding import Products
from taskalg.planning.digest import plan_digest
from taskalg.planning.donor import opened
from taskalg.planning.plan import Plan

_FORMAT = 1  # of the files; and of the numbers, which gram.py defines
_LARGEST = 500_000_000  # bytes of all files together; the ones not used for longest go
_DIGEST = hashlib.sha256().digest_size  # [bytes]
_SUFFIX = ".gram"


@dataclass(frozen=True)
class Store:
    """A folder of measured products."""

    folder: Path | None  # None keeps nothing

    @classmethod
    def of_user(cls) -> "Store":
        """Return the user's own."""
        chosen = os.environ.get("TASKALG_CACHE")
        if chosen == "off":
            return cls(None)
        import platformdirs  # takes as long as all the rest of this file

        try:
            parent = Path(chosen) if chosen else platformdirs.user_cache_path("taskalg")
        except RuntimeError:  # no home folder can be determined
            return cls(None)
        return cls(parent / "products")

    def load(self, plan: Plan, count: int) -> Products | None:
        """Return what was measured of a plan's files as they are now; None when it is not known.

        Args:
            plan: of the sum of what is measured.
            count: how many sums that are; of one that is zero nothing is in the plan.
        """
        path = self._path(plan, count)
        if path is None:
            return None
        try:
            content = path.read_bytes()
            if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
                return None
            found = _decoded(content[_DIGEST:])
            os.utime(path)
        except (OSError, ValueError, KeyError):  # missing, or not ours
            return None
        return found

    def save(self, plan: Plan, products: Products) -> None:
        """Keep what was measured; failing to is not an error."""
        path = self._path(plan, products.grams.shape[1])
        if path is None:
            return
        content = _encoded(products)
        temporary = path.with_suffix(f".{os.getpid()}.{id(products)}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
            temporary.replace(path)
            self._tidy()
        except OSError:  # a full disk, or no folder: stay unkept
            with suppress(OSError):
                temporary.unlink()

    def _path(self, plan: Plan, count: int) -> Path | None:
        checkpoints = [opened(operand) for operand in plan.operands]
        if self.folder is None or any(checkpoint.arrays for checkpoint in checkpoints):
            return None
        files = [
            (shard.fingerprint, shard.header_hash, shard.remote)
            for checkpoint in checkpoints
            for shard in checkpoint.shards
        ]
        key = repr((_FORMAT, count, plan_digest(plan, fail_on_overflow=False), files))
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}{_SUFFIX}"

    def _tidy(self) -> None:
        """Remove the files not used for longest, where all together have become too large."""
        assert self.folder is not None
        found = [(path.stat(), path) for path in self.folder.glob(f"*{_SUFFIX}")]
        left = sum(look.st_size for look, _ in found)
        for look, path in sorted(found, key=lambda item: item[0].st_mtime):
            if left <= _LARGEST:
                return
            path.unlink(missing_ok=True)
            left -= look.st_size


def _encoded(products: Products) -> bytes:
    buffer = io.BytesIO()
    names = np.frombuffer(json.dumps(products.tensors).encode(), np.uint8)
    assert products.agreeing is not None and products.both is not None
    np.savez(
        buffer,
        tensors=names,
        grams=products.grams,
        elements=products.elements,
        agreeing=products.agreeing,
        both=products.both,
        cost=np.array([products.bytes_read, products.seconds]),
    )
    return buffer.getvalue()


def _decoded(content: bytes) -> Products:
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        bytes_read, seconds = found["cost"].tolist()
        return Products(
            tensors=tuple(json.loads(found["tensors"].tobytes())),
            grams=found["grams"],
            elements=found["elements"],
            agreeing=found["agreeing"],
            both=found["both"],
            bytes_read=int(bytes_read),
            seconds=seconds,
        )
