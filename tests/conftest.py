"""Strictest mode, and the same examples on every run unless someone asks for others."""

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=SLOW, print_blob=True
)
# TASKALG_EXAMPLES=100 pytest --hypothesis-profile=explore: other examples each time, and more
settings.register_profile(
    "explore", settings.get_profile("repeatable"), derandomize=False, max_examples=1000
)
settings.load_profile("repeatable")
