"""A tensor in memory, on the processor's side or a device's: its bytes, asked for by range.

What lies in host memory is read in place, what lies on a device is copied range by range, so that
neither is ever held twice. Whoever works on the device takes it where it is. Rejected: copying all
of it when the checkpoint is opened, which is a model's size for the one tensor that is needed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HOST = "cpu"  # what torch calls the memory that processors read


@dataclass(frozen=True, eq=False)
class Array:
    """One tensor's bytes, row-major, where they are; its owner must not change them meanwhile."""

    device: str  # as torch calls it: "cpu", "cuda:0"
    address: int  # of its first byte, on that device
    content: Any  # flat: a NumPy array of bytes on the host, else a torch tensor of bytes

    @classmethod
    def on_host(cls, content: NDArray[np.uint8]) -> "Array":
        """Return the array of bytes that NumPy can read."""
        return cls(HOST, content.ctypes.data, content)

    @property
    def nbytes(self) -> int:
        """How many bytes it has."""
        return int(self.content.nbytes)

    def view(self, start: int, nbytes: int, device: str = HOST) -> Any:
        """Return a range of bytes without copying it; None when it is not on that device."""
        return self.content[start : start + nbytes] if self.device == device else None

    def read(self, start: int, into: NDArray[np.uint8]) -> None:
        """Copy a range of bytes to the host."""
        found = self.view(start, into.size)
        if found is not None:
            into[:] = found
        elif into.size:
            import torch

            torch.from_numpy(into).copy_(self.content[start : start + into.size])

    def tensor(self) -> Any:
        """Return the bytes as a flat torch tensor on its device, without copying them.

        What NumPy may only read is copied, for a tensor could be written to.
        """
        if self.device != HOST:
            return self.content
        import torch

        return torch.from_numpy(
            self.content if self.content.flags.writeable else self.content.copy()
        )
