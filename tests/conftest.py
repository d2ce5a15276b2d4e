"""Strictest mode, no network, and the same examples on every run unless someone wants others."""

import os

from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"  # before the library is imported; test_hub.py has its own Hub

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=SLOW, print_blob=True
)
# TASKALG_EXAMPLES=100 pytest --hypothesis-profile=explore: other examples each time, and more
settings.register_profile(
    "explore", settings.get_profile("repeatable"), derandomize=False, max_examples=1000
)
settings.load_profile("repeatable")
