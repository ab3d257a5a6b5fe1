"""sysVI: integrate single-cell data sets with substantial batch effects.

>>> import sysvi
>>> counts = sysvi.datasets.simulate_systems(300, 200, seed=1)
>>> adata = sysvi.prepare(counts, system_key="system", batch_key="batch", min_cells=3)
>>> model = sysvi.integrate(adata, system_key="system", batch_key="batch", max_epochs=2, progress=False)
>>> adata.obsm["X_sysVI"].shape
(300, 15)
"""

import lazy_loader

from sysvi._version import __version__ as __version__

# Names are imported when they are first used, from the modules listed in __init__.pyi: torch alone takes a second.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
