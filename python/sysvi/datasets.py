"""Simulated data sets with known true effects, for demonstrations, tests and benchmarks."""

from sysvi.data.simulate import simulate_systems

__all__ = ["simulate_systems"]
