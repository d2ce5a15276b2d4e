"""Inner products of gradients with operands on the GPU: what engines/dots.py does on the CPU.

The same every time, but not the CPU's to the bit: numbers are added in another order.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from taskalg.engines.base import Group
from taskalg.engines.gpu.launch import Kernels
from taskalg.engines.gpu.tables import is_aligned, tabulate


def dots(group: Group, device: torch.device) -> NDArray[np.float64]:
    """Return the inner products of gradients with inputs, for all tensors of a group.

    Args:
        group: the tensors; at the outputs' places are gradients, of the dtype of the outputs.
        device: reaches all addresses.

    Returns:
        `(n, terms)`; what is NaN or infinite in a tensor makes its products NaN.
    """
    kernels = Kernels(group.inputs, group.output)
    totals = np.zeros((len(group.counts), len(group.inputs)))
    aligned = is_aligned(group)
    for chosen, is_wide in ((aligned, True), (~aligned, False)):
        if chosen.any():
            tables = tabulate(group, chosen)
            firsts = np.searchsorted(tables.chunks >> 32, np.arange(len(tables.tensors) + 1))
            chunks, tensors, where = (
                torch.from_numpy(table).to(device)
                for table in (tables.chunks, tables.tensors, firsts)
            )
            shape = len(tables.chunks), len(group.inputs)
            partial = torch.empty(shape, dtype=torch.float64, device=device)
            found = torch.empty((len(tables.tensors), shape[1]), dtype=torch.float64, device=device)
            kernels.multiply(len(chunks), chunks, tensors, partial, aligned=is_wide)
            kernels.add_up(len(tensors), partial, where, found)
            totals[chosen] = found.cpu().numpy()
    return totals
