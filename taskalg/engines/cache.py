"""Compiled kernels, kept on disk between runs.

numba's own cache looks beside the source, trusts file times, and lets a damaged file's exception
through. This one is a plain file for each kernel and signature, named by everything that machine
code depends on, and checked by its SHA-256 before it is believed; whatever goes wrong with it means
compiling again, never an error. Files appear by rename, so processes may race.

The folder is `$NUMBA_CACHE_DIR/taskalg` when the user set that, else the user's cache folder, else
a private temporary one for this process.
"""

import atexit
import hashlib
import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import llvmlite
import numba
import platformdirs
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.runtime.nrt import rtsys

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)

_DIGEST = hashlib.sha256().digest_size  # [bytes]


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Compile a kernel on first call, without the interpreter lock, and keep it on disk."""
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = KernelCache(function.__name__)
    kernel: Callable[P, T] = dispatcher
    return kernel


def specialized(kernel: Callable[P, T], arguments: tuple[Any, ...]) -> Callable[P, T]:
    """Return the kernel for arguments of just the types that these have.

    At every call a dispatcher works out the types anew, 10 [microseconds] for tuples with names.
    """
    dispatcher: Any = kernel
    entry: Callable[P, T] = dispatcher.compile(tuple(map(numba.typeof, arguments)))
    return entry


def inlined(function: Callable[P, T]) -> Callable[P, T]:
    """Compile a helper into the kernels that call it."""
    helper: Callable[P, T] = numba.njit(error_model="numpy")(function)
    return helper


class KernelCache(_Cache):
    """One kernel's compiled forms, in the shape numba's dispatcher asks for."""

    def __init__(self, kernel: str) -> None:
        self._kernel = kernel

    @property
    def cache_path(self) -> str:
        """Where the files are; empty when there is nowhere."""
        return str(folder() or "")

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled form for a signature, or None to compile it."""
        # numba's cache calls target_context.refresh() here, 0.2 s of imports that only compiling
        # needs; machine code needs the memory allocator's symbols and no more
        rtsys.initialize(target_context)
        try:
            content = self._file(sig, target_context.codegen()).read_bytes()
            if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
                raise ValueError("damaged")
            rebuild: Any = CompileResult._rebuild
            return rebuild(target_context, *pickle.loads(content[_DIGEST:]))
        except Exception:  # missing, damaged or from elsewhere: compiling again is always right
            _tell()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled form; failing to is not an error."""
        try:
            content = pickle.dumps(data._reduce(), protocol=pickle.HIGHEST_PROTOCOL)
            path = self._file(sig, data.codegen)
            temporary = path.with_suffix(f".{os.getpid()}.{id(data)}")
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
            temporary.replace(path)
        except Exception:  # a full disk, or a type that cannot be pickled: stay uncached
            return

    def _file(self, sig: Any, codegen: Any) -> Path:
        where = folder()
        if where is None:
            raise FileNotFoundError
        key = repr((sig, codegen.magic_tuple()))
        name = f"{self._kernel}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
        return where / name

    def enable(self) -> None:
        """Do nothing: it is always on."""

    def disable(self) -> None:
        """Do nothing: numba asks only when a user turns caching off for one function."""

    def flush(self) -> None:
        """Do nothing: numba asks before it recompiles everything."""


@cache
def _tell() -> None:
    """Say once why the first run waits for some seconds."""
    _log.debug("compiling kernels, once")


@cache
def folder() -> Path | None:
    """Return this version's cache folder, made and writable, or None when there is none."""
    user = os.environ.get("NUMBA_CACHE_DIR")
    try:
        parent = (
            Path(user, "taskalg") if user else _private(platformdirs.user_cache_path("taskalg"))
        )
        return _writable(parent / f"kernels-{_version()}")
    except (OSError, RuntimeError):  # RuntimeError: no home folder can be determined
        return _temporary()


def _version() -> str:
    """Name what machine code depends on, the signature and the processor aside."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    sources = sorted(Path(__file__).parent.glob("*.py"))
    if not sources:
        raise FileNotFoundError("the package has no source files to tell its version by")
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _private(parent: Path) -> Path:
    """Refuse a folder that somebody else owns: what lies there is run as machine code."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid") and parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{parent} belongs to another user")
    return parent


def _writable(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        return path


def _temporary() -> Path | None:
    try:
        path = tempfile.mkdtemp(prefix="taskalg-")  # 0700, and its name cannot be guessed
    except OSError:
        return None
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)
