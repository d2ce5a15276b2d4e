"""SHA-256 of an output's files, read back from where they were written.

Reading back is not free, but blocks come in no order that a running digest could follow, and what
is read back is what a reader will get.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from taskalg import files
from taskalg.errors import CheckpointError, OutputError
from taskalg.machine import available_threads

_MOST_THREADS = 8
_BLOCK = 4 << 20  # bytes; each thread has one


def sha256_of(paths: Mapping[str, Path]) -> dict[str, str]:
    """Return the digest of each file, in hexadecimal, by the name it is given under.

    Raises:
        OutputError: one cannot be read.
    """
    stop = Event()
    with ThreadPoolExecutor(min(_MOST_THREADS, available_threads())) as pool:
        try:
            found = [pool.submit(_sha256, path, stop) for path in paths.values()]
            return dict(zip(paths, (each.result() for each in found), strict=True))
        except CheckpointError as error:
            raise OutputError(f"the output cannot be read back: {error.message}") from error
        finally:
            stop.set()  # Ctrl-C does not wait for a large file


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
