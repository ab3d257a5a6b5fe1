"""Comparing methods of integration on the same cells; `sysvi.compare.methods` says what an adapter is."""

from sysvi.compare.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
