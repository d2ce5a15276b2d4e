"""Strictest mode, no network, and the same examples on every run unless someone wants others."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"  # before the library is imported; test_hub.py has its own Hub
os.environ["TASKALG_CACHE"] = "off"  # what a test measures is kept where it says, or nowhere
if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each: torch's threads would wait for others'
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# where the driver is, on Linux and on Windows' Linux; torch would take a second to say so
HAS_GPU = any(Path(place).exists() for place in ("/dev/nvidiactl", "/dev/dxg"))
if not HAS_GPU:  # kernels are interpreted then; Triton looks when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=SLOW, print_blob=True
)
# TASKALG_EXAMPLES=100 pytest --hypothesis-profile=explore: other examples each time, and more
settings.register_profile(
    "explore", settings.get_profile("repeatable"), derandomize=False, max_examples=1000
)
settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not HAS_GPU:
        pytest.skip("needs a GPU")
