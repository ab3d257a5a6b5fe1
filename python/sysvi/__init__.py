"""sysVI: integrate single-cell data sets that differ a lot.

>>> import sysvi
>>> counts = sysvi.datasets.simulate_systems(300, 200, seed=1)
>>> adata = sysvi.prepare(counts, system_key="system", batch_key="batch", min_cells=3)
>>> model = sysvi.integrate(adata, system_key="system", batch_key="batch", max_epochs=2, progress=False)
>>> adata.obsm["X_sysVI"].shape
(300, 15)
"""

from sysvi import datasets, metrics
from sysvi.batch_strength import BatchStrength, batch_strength, plot_batch_strength
from sysvi.compare import Comparison, compare
from sysvi.compare_runs import compare_runs
from sysvi.condition_mixing import condition_mixing
from sysvi.errors import InputError
from sysvi.evaluate import Evaluation, evaluate, evaluate_in_detail
from sysvi.evaluation_files import write_evaluation
from sysvi.evaluation_plots import plot_evaluation, plot_labels
from sysvi.events import Event
from sysvi.integrate import integrate
from sysvi.orthologs import join_systems, map_orthologs
from sysvi.prepare import prepare
from sysvi.prior_components import PriorComponents, prior_components
from sysvi.settings import ModelSettings, Ramp, TrainSettings
from sysvi.sysvi_model import SysVI
from sysvi.train import NonFiniteLossError
from sysvi.train_many import Run, train_many
from sysvi.tune import Tuning, tune
from sysvi.tuning_files import plot_tuning, write_tuning

__version__ = "0.1.0"

__all__ = [
    "BatchStrength",
    "Comparison",
    "Evaluation",
    "Event",
    "InputError",
    "ModelSettings",
    "NonFiniteLossError",
    "PriorComponents",
    "Ramp",
    "Run",
    "SysVI",
    "TrainSettings",
    "Tuning",
    "batch_strength",
    "compare",
    "compare_runs",
    "condition_mixing",
    "datasets",
    "evaluate",
    "evaluate_in_detail",
    "integrate",
    "join_systems",
    "map_orthologs",
    "metrics",
    "plot_batch_strength",
    "plot_evaluation",
    "plot_labels",
    "plot_tuning",
    "prepare",
    "prior_components",
    "train_many",
    "tune",
    "write_evaluation",
    "write_tuning",
]
