"""Memory for blocks: one piece for each thread, of the sort its engine likes, used again."""

from taskalg.engines.base import Bytes, Engine
from taskalg.running.blocks import ALIGNMENT


class Arena:
    """One thread's memory, cut anew for each block."""

    def __init__(self, size: int, engine: Engine) -> None:
        memory = engine.memory(size + ALIGNMENT)
        self._memory = memory[-memory.ctypes.data % ALIGNMENT :]
        self._used = 0

    def clear(self) -> None:
        """Take everything back."""
        self._used = 0

    def take(self, nbytes: int) -> Bytes:
        """Return the next `nbytes` bytes, aligned."""
        start = self._used
        self._used = start + nbytes + -nbytes % ALIGNMENT
        return self._memory[start : start + nbytes]
