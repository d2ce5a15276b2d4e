"""The GPU engine: the CPU engine's bytes, from one launch."""

import torch

from taskalg.engines.base import Evaluate, Factors, Group, Multiply, Resident, WeightedSumSpec
from taskalg.engines.cpu import CpuEngine
from taskalg.engines.gpu.device import device
from taskalg.engines.gpu.resident import ResidentSums
from taskalg.engines.gpu.streamed import Lanes, StreamedSum


class GpuEngine:
    """Evaluates weighted sums with Triton kernels on the current GPU.

    Raises:
        UsageError: there is none, or it cannot be used.
    """

    name = "gpu"

    def __init__(self) -> None:
        self._device = torch.device(device())
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
