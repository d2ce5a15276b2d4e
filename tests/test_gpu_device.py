"""Why a GPU cannot be used: one sentence for each reason, and one thing to type.

What torch says is word for word from its c10/cuda/CUDAFunctions.cpp and torch/cuda/__init__.py.
"""

import importlib.util
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from taskalg.engines import registry
from taskalg.engines.gpu import device as gpu
from taskalg.errors import UsageError
from tests.conftest import HAS_GPU

CPU = "--engine cpu gives the same bytes"
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU"
    " driver by downloading and installing a new version from the URL:"
    " http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to"
    " install a PyTorch version that has been compiled with your version of the CUDA driver."
)
NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed"
    " a driver from http://www.nvidia.com/Download/index.aspx"
)
UNKNOWN = (
    "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env"
    " variable CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero."
)
FORKED = (
    "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use"
    " the 'spawn' start method"
)


class World:
    """A machine with a GPU, torch's CUDA build, and the Triton that goes with it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.inits = 0
        patch.delenv("TRITON_INTERPRET", raising=False)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.setattr(sys, "platform", "linux")
        patch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))
        patch.setattr(torch.version, "cuda", "13.0")
        patch.setattr(torch.version, "hip", None)
        patch.setattr(torch.cuda, "current_device", lambda: 1)
        self.cuda_says(None)
        self.packages('triton==3.7.1; platform_system == "Linux"', "3.7.1")

    def cuda_says(self, words: str | None) -> None:
        def init() -> None:
            self.inits += 1
            if words is not None:
                raise RuntimeError(words)

        self.patch.setattr(torch.cuda, "init", init)

    def packages(self, requirement: str, triton: str) -> None:
        found = {"torch": "2.13.0", "triton": triton}
        self.patch.setattr(metadata, "requires", lambda name: ["numpy", requirement])
        self.patch.setattr(metadata, "version", lambda name: found[name])

    def refuses(self, first: str, *, help: str = CPU, note: str | None = None) -> None:
        """Check what is said: as a reason, by the device, and by whoever names the engine."""
        for asked in (gpu.device, lambda: registry.check_engine("gpu")):
            with pytest.raises(UsageError) as caught:
                asked()
            assert caught.value.exit_code == 2
            assert (caught.value.message, caught.value.help) == (first, help)
            assert caught.value.note == note
        assert registry.check_engine("cpu") == "cpu"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_nothing_is_said_of_a_gpu_that_can_be_used(world: World) -> None:
    assert gpu.unavailable() is None
    assert gpu.device() == "cuda:1"
    assert registry.check_engine("gpu") == "gpu"
    assert world.inits == 3


def test_without_triton_it_is_to_be_installed(world: World) -> None:
    world.patch.setattr(importlib.util, "find_spec", lambda name: None)
    world.refuses("the gpu engine needs Triton", help='pip install "taskalg[gpu]"')
    world.patch.setattr(sys, "platform", "win32")
    world.refuses("the gpu engine needs Triton, which is for Linux")
    assert world.inits == 0


def test_apples_gpus_are_refused_whether_triton_is_there_or_not(world: World) -> None:
    world.patch.setattr(sys, "platform", "darwin")
    world.refuses("Apple's GPUs have no binary64, which exact sums need")
    world.patch.setattr(importlib.util, "find_spec", lambda name: None)
    world.refuses("Apple's GPUs have no binary64, which exact sums need")


def test_torch_has_to_be_built_for_nvidias_gpus(world: World) -> None:
    world.patch.setattr(torch.version, "cuda", None)
    world.refuses(
        f"torch {torch.__version__} is built without CUDA",
        note="a GPU needs torch's CUDA build",
        help="pip install --force-reinstall torch",
    )
    world.patch.setattr(torch.version, "hip", "6.4")
    world.refuses("the gpu engine is for NVIDIA's GPUs; this torch is for AMD's")
    assert world.inits == 0


@pytest.mark.parametrize(
    "words, first, note",
    [
        (TOO_OLD, "the NVIDIA driver is too old for torch's CUDA 13.0", "it is for CUDA 12.4"),
        (NO_DRIVER, "no NVIDIA driver was found", None),
        ("No CUDA GPUs are available", "no NVIDIA GPU was found", None),
        (
            "CUDA driver initialization failed, you might not have a CUDA gpu.\nCPU stack trace:",
            "the NVIDIA GPU cannot be used",
            "CUDA driver initialization failed, you might not have a CUDA gpu",
        ),
        (UNKNOWN, "the NVIDIA GPU cannot be used", UNKNOWN.partition(" Setting")[0][:-1]),
        (FORKED, "the NVIDIA GPU cannot be used", "Cannot re-initialize CUDA in forked subprocess"),
    ],
)
def test_what_torch_says_of_cuda_becomes_one_sentence(
    world: World, words: str, first: str, note: str | None
) -> None:
    world.cuda_says(words)
    world.refuses(first, note=note)


def test_a_variable_that_hides_gpus_is_shown(world: World) -> None:
    world.cuda_says("No CUDA GPUs are available")
    world.patch.setenv("CUDA_VISIBLE_DEVICES", "-1\x1b[0m")
    world.refuses("no NVIDIA GPU was found", note=r"CUDA_VISIBLE_DEVICES is '-1\x1b[0m'")


@pytest.mark.parametrize("requirement", ['triton==3.6.0; extra == "x"', "triton (==3.6.0)"])
def test_another_triton_than_torchs_is_refused(world: World, requirement: str) -> None:
    world.packages(requirement, "3.7.1")
    world.refuses(
        "torch 2.13.0 goes with Triton 3.6.0, found 3.7.1", help="pip install triton==3.6.0"
    )
    world.packages(requirement, "3.6.0+git1234")
    assert gpu.unavailable() is None


@pytest.mark.parametrize("requirement", ["sympy", "triton>=3.6", "pytorch-triton==3.6.0"])
def test_a_torch_that_names_no_triton_takes_any(world: World, requirement: str) -> None:
    world.packages(requirement, "3.7.1")
    assert gpu.unavailable() is None


def test_elsewhere_triton_is_another_package(world: World) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    world.patch.setattr(metadata, "version", missing)
    world.patch.setattr(sys, "platform", "win32")
    assert gpu.unavailable() is None


def test_interpreted_kernels_ask_for_no_gpu(world: World) -> None:
    world.patch.setattr(torch.version, "cuda", None)
    world.cuda_says(NO_DRIVER)
    for value, is_set in {"1": True, "true": True, "0": False, "": False}.items():
        world.patch.setenv("TRITON_INTERPRET", value)
        assert gpu.is_interpreted() is is_set
        assert (gpu.unavailable() is None) is is_set
    world.patch.setenv("TRITON_INTERPRET", "1")
    assert gpu.device() == "cpu"


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    error = gpu.unavailable()
    assert error is not None and error.help is not None


@pytest.mark.gpu
def test_a_gpu_that_is_there_is_found() -> None:
    assert gpu.device().startswith("cuda:")
