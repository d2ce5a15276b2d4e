"""SHA-256 of files: of all their bytes, or of the header that says which tensors are where.

An output's are read back from where they were written. That is not free, but blocks come in no
order that a running digest could follow, and what is read back is what a reader will get. Not a
faster hash: the Hub names large files by this one, so a manifest can be held against the Hub
without downloading anything.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from taskalg import files
from taskalg.checkpoints.safetensors import LARGEST_HEADER
from taskalg.machine import available_threads

_MOST_THREADS = 8
_BLOCK = 4 << 20  # bytes; each thread has one
_UNKNOWN = 1 << 20  # bytes from the start of a file that does not say how long its header is


def sha256_of(paths: Mapping[str, Path]) -> dict[str, str]:
    """Return the digest of each file, in hexadecimal, by the name it is given under.

    Raises:
        CheckpointError: one cannot be read.
    """
    stop = Event()
    with ThreadPoolExecutor(min(_MOST_THREADS, available_threads())) as pool:
        try:
            found = [pool.submit(_sha256, path, stop) for path in paths.values()]
            return dict(zip(paths, (each.result() for each in found), strict=True))
        finally:
            stop.set()  # Ctrl-C does not wait for a large file


def header_sha256(path: Path) -> str:
    """Return the digest of a safetensors file's header, without the eight bytes of its length.

    Of a file that does not begin like one, the digest of its first megabyte.

    Raises:
        CheckpointError: it cannot be read.
    """
    fd = files.open_input(path)
    try:
        size = files.fingerprint(fd).size
        start = bytearray(min(size, 8))
        files.read_into(fd, [start], 0)
        length = int.from_bytes(start, "little")
        is_known = len(start) == 8 and length <= min(size - 8, LARGEST_HEADER)
        first, length = (8, length) if is_known else (0, min(size, _UNKNOWN))
        content = bytearray(length)
        files.read_into(fd, [content], first)
    finally:
        files.close(fd)
    return hashlib.sha256(content).hexdigest()


def _sha256(path: Path, stop: Event) -> str:
    digest = hashlib.sha256()
    fd = files.open_input(path)
    try:
        size = files.fingerprint(fd).size
        block = memoryview(bytearray(min(_BLOCK, size)))
        for start in range(0, size, _BLOCK):
            if stop.is_set():
                break
            part = block[: size - start]
            files.read_into(fd, [part], start)
            digest.update(part)
    finally:
        files.close(fd)
    return digest.hexdigest()
