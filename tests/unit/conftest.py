"""Hypothesis tries the same examples in every run, and takes no time for a fault: what a slow machine needs is no finding."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "steady", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")
