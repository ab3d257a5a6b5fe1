"""Measures of an integration: pure functions of arrays, one file a metric."""

from sysvi.metrics.shared_neighbors import shared_neighbors

__all__ = ["shared_neighbors"]
