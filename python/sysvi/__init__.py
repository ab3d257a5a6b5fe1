"""sysVI: integrate single-cell data sets that differ a lot.

>>> import sysvi
>>> counts = sysvi.datasets.simulate_systems(300, 200, seed=1)
>>> adata = sysvi.prepare(counts, system_key="system", batch_key="batch", min_cells=3)
>>> model = sysvi.integrate(adata, system_key="system", batch_key="batch", max_epochs=2, progress=False)
>>> adata.obsm["X_sysVI"].shape
(300, 15)
"""

from sysvi import datasets
from sysvi.errors import InputError
from sysvi.events import Event
from sysvi.integrate import integrate
from sysvi.orthologs import join_systems, map_orthologs
from sysvi.prepare import prepare
from sysvi.settings import ModelSettings, Ramp, TrainSettings
from sysvi.sysvi_model import SysVI
from sysvi.train import NonFiniteLossError

__version__ = "0.1.0"

__all__ = [
    "Event",
    "InputError",
    "ModelSettings",
    "NonFiniteLossError",
    "Ramp",
    "SysVI",
    "TrainSettings",
    "datasets",
    "integrate",
    "join_systems",
    "map_orthologs",
    "prepare",
]
