"""Simulated counts of cells in several systems, with the truth known: for demos, tests and benchmarks."""

from sysvi.data.simulate import simulate_systems

__all__ = ["simulate_systems"]
