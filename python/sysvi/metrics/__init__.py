"""Measures of an integration: pure functions of arrays, one file a metric.

Graph metrics take a `Neighbors` (`nearest_neighbors`), computed once. Most return a `Score`: the value, with the values
by label and by cell that it was made from.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
