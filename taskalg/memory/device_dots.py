"""Inner products of gradients with operands on a GPU, by torch: what engines/dots.py does on a CPU.

A product and a sum for each operand, in pieces, so that the binary64 temporaries stay small. Each
sum is torch's own, which is deterministic on one sort of GPU and not the same on another.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskalg.dtypes import DType
from taskalg.engines.base import Group

_PIECE = 1 << 24  # elements; 128 MB for each of three temporaries


class _Memory:
    """Bytes at an address, for torch to take as they are."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def device_dots(group: Group, *, threads: int | None = None) -> NDArray[np.float64]:
    """Return the inner products of gradients with inputs, as `engines.dots.dots` does.

    Args:
        group: tensors on a GPU; at the outputs' places are gradients.
        threads: has no meaning here.
    """
    totals = np.zeros((len(group.counts), len(group.inputs)))
    for index, count in enumerate(group.counts.tolist()):
        for start in range(0, count, _PIECE):
            size = min(_PIECE, count - start)
            *inputs, gradient = (
                _numbers(address + start * dtype.itemsize, size, dtype)
                for address, dtype in zip(
                    group.addresses[index].tolist(), (*group.inputs, group.output), strict=True
                )
            )
            totals[index] += torch.stack([(x * gradient).sum() for x in inputs]).cpu().numpy()
    return totals


def _numbers(address: int, count: int, dtype: DType) -> torch.Tensor:
    content = torch.as_tensor(_Memory(address, count * dtype.itemsize), device="cuda")
    return content.view(getattr(torch, dtype.torch)).double()
