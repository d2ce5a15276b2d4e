"""The GPU engine: the CPU engine's bytes, from one launch."""

import numpy as np
import torch
from numpy.typing import NDArray

from taskalg.engines.base import (
    Bytes,
    Evaluate,
    Factors,
    Group,
    Multiply,
    Resident,
    WeightedSumSpec,
)
from taskalg.engines.cpu import CpuEngine
from taskalg.engines.gpu.device import device, on
from taskalg.engines.gpu.dots import dots
from taskalg.engines.gpu.resident import ResidentSums
from taskalg.engines.gpu.streamed import Lanes, StreamedSum, pinned


class GpuEngine:
    """Evaluates weighted sums with Triton kernels on the current GPU.

    Raises:
        UsageError: there is none, or it cannot be used.
    """

    name = "gpu"

    def __init__(self) -> None:
        self._device = torch.device(device())
        self.device = str(self._device)
        self._cpu = CpuEngine()  # settles what the kernels leave, and multiplies factors
        self._lanes = Lanes(self._device)

    def prepare(self, spec: WeightedSumSpec) -> Evaluate:
        """Return a function that has a block in host memory evaluated on the GPU."""
        return StreamedSum(spec, self._lanes, self._cpu.prepare(spec)).evaluate

    def factored(self, factors: Factors) -> Multiply:
        """Return a function that computes a range of elements of a product, on the CPU."""
        return self._cpu.factored(factors)

    def resident(self, group: Group, *, threads: int | None = None) -> Resident:
        """Return a function that evaluates tensors where they are, in one launch."""
        return ResidentSums(group, self._device, self._cpu).evaluate

    def dots(self, group: Group, *, threads: int | None = None) -> NDArray[np.float64]:
        """Return inner products of gradients with operands; the same every time."""
        with on(self._device):
            return dots(group, self._device)

    def memory(self, nbytes: int) -> Bytes:
        """Return pinned memory, which copies to and from the GPU need not wait for."""
        if self._device.type == "cpu":
            return self._cpu.memory(nbytes)
        return pinned(nbytes)
