"""The metrics of an evaluation: one line each in `METRICS`.

To add a metric:

1. Write one module in ``sysvi/metrics``, say ``_hubness.py``, with a function that returns a `Score`; higher must be
   better. Its parameters are named after the inputs that it needs, which are the attributes of `EmbeddingView`
   (``embedding``, ``neighbors``, ``system``, ``batch``, ``label``, ``silhouette``, ``pca``, ``device``, ``seed``, ...).
   Other parameters must have defaults. The decorator `convention` states how the number is defined::

       @convention("share of ...; mean over types")
       def hubness(neighbors: Neighbors, label: ArrayLike) -> Score:

2. Import the function here and add a line to `METRICS`::

       Metric("Hubness", BIOLOGY, hubness, meaning="Are few cells the neighbours of very many?"),

`evaluate`, the command line, R, the files, the figures and reports then have the metric. It is measured on the
labelled cells if it uses labels, otherwise on all cells, and left out where an input is unknown. Pass
``in_score=False`` if it must not count in the aggregated scores. A line in ``sysvi/metrics/__init__.pyi`` makes the
function public.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np

from sysvi._core.checks import listing
from sysvi._core.errors import InputError
from sysvi.evaluation.embedding_view import CLUSTER_CONVENTIONS, INPUTS_FROM_LABELS, EmbeddingView
from sysvi.metrics._bras import bras
from sysvi.metrics._graph_connectivity import graph_connectivity
from sysvi.metrics._isolated_labels import isolated_labels
from sysvi.metrics._jaccard import jaccard
from sysvi.metrics._kbet import kbet_per_label
from sysvi.metrics._knn_purity import knn_purity
from sysvi.metrics._lisi import cilisi, clisi, ilisi, ilisi_within
from sysvi.metrics._moran import moran_ratio
from sysvi.metrics._nmi_ari import ari, nmi
from sysvi.metrics._pcr import pcr_comparison
from sysvi.metrics._score import Score
from sysvi.metrics._silhouette import batch_silhouette, label_silhouette

BATCH, BIOLOGY, WITHIN = "batch correction", "biological preservation", "within-type"
INPUTS = frozenset(
    {column.name for column in fields(EmbeddingView)}
    | {name for name, member in vars(EmbeddingView).items() if isinstance(member, cached_property)}
)


@dataclass(frozen=True)
class Metric:
    """A metric of an evaluation: one row of its table.

    Parameters
    ----------
    name
        Name of the row.
    group
        `BATCH`, `BIOLOGY` or `WITHIN`.
    function
        Function that returns a `Score`. Each parameter that is named like an attribute of `EmbeddingView` gets it.
    renamed
        Attribute of `EmbeddingView` by parameter, for parameters that are named otherwise.
    shared_as
        Attribute of `EmbeddingView` that holds the result of the function, if other metrics need it too.
    in_score
        Whether the metric counts in the aggregated scores.
    slow
        Whether the metric is measured only on request (``metrics="all"`` or by name).
    by
        What the values ``Score.per_label`` belong to: ``"label"`` or ``"system"``.
    meaning
        What a high value answers with yes, as a question or sentence for users.
    """

    name: str
    group: str
    function: Callable[..., Score]
    renamed: Mapping[str, str] = field(default_factory=dict)
    shared_as: str | None = None
    in_score: bool = True
    slow: bool = False
    by: str = "label"
    meaning: str = ""

    def __post_init__(self) -> None:
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.default is parameter.empty and self.renamed.get(name, name) not in INPUTS:
                raise ValueError(
                    f"Parameter {name!r} of metric {self.name!r} has no default and is no attribute of EmbeddingView."
                )

    @property
    def inputs(self) -> dict[str, str]:
        """Attribute of `EmbeddingView` for each parameter that gets one."""
        named = {name: self.renamed.get(name, name) for name in inspect.signature(self.function).parameters}
        return {parameter: name for parameter, name in named.items() if name in INPUTS}

    @property
    def required(self) -> frozenset[str]:
        """Attributes of `EmbeddingView` without which the metric cannot be measured."""
        parameters = inspect.signature(self.function).parameters
        required = {name for p, name in self.inputs.items() if parameters[p].default is inspect.Parameter.empty}
        return frozenset(required | ({"label"} if required & INPUTS_FROM_LABELS else set()))

    @property
    def needs_labels(self) -> bool:
        """Whether the metric is measured on the labelled cells only."""
        return "label" in self.required

    @property
    def convention(self) -> str:
        """How the number is defined, in one line."""
        clusters = [CLUSTER_CONVENTIONS[name] for name in self.inputs.values() if name in CLUSTER_CONVENTIONS]
        return "; ".join([getattr(self.function, "convention", ""), *clusters])

    def measure(self, view: EmbeddingView) -> Score:
        """Measure an embedding; NaN if a required input is unknown."""
        if any(getattr(view, name) is None for name in self.required & {column.name for column in fields(view)}):
            return Score(np.nan)
        if self.shared_as is not None:
            return getattr(view, self.shared_as)
        return self.function(**{parameter: getattr(view, name) for parameter, name in self.inputs.items()})


METRICS = (
    Metric("iLISI", BATCH, ilisi, meaning="Are systems mixed around each cell?"),
    Metric("CiLISI", BATCH, cilisi, meaning="Are systems mixed around each cell, among cells of its own type?"),
    Metric("BRAS", BATCH, bras, meaning="Are systems mixed within each cell type, judged by distances?"),
    Metric(
        "Graph connectivity", BATCH, graph_connectivity, meaning="Do the cells of each type form one connected group?"
    ),
    Metric(
        "kBET",
        BATCH,
        kbet_per_label,
        slow=True,
        meaning="Do neighbourhoods have the same proportions of systems as their cell type?",
    ),
    Metric(
        "PCR comparison",
        BATCH,
        pcr_comparison,
        {"before": "pca", "after": "embedding", "groups": "system"},
        meaning="How much of the variance that systems explained was removed?",
    ),
    Metric(
        "iLISI of batches",
        BATCH,
        ilisi_within,
        in_score=False,
        by="system",
        meaning="Are batches mixed around each cell within its system?",
    ),
    Metric(
        "Batch silhouette",
        BATCH,
        batch_silhouette,
        in_score=False,
        meaning="As in the paper, for comparison: are systems mixed within each cell type?",
    ),
    Metric("cLISI", BIOLOGY, clisi, meaning="Do the neighbours of a cell have its cell type?"),
    Metric(
        "NMI",
        BIOLOGY,
        nmi,
        {"clusters": "kmeans_clusters"},
        meaning="Do clusters match cell types (mutual information)?",
    ),
    Metric(
        "ARI", BIOLOGY, ari, {"clusters": "kmeans_clusters"}, meaning="Do clusters match cell types (pairs of cells)?"
    ),
    Metric(
        "Jaccard",
        BIOLOGY,
        jaccard,
        {"clusters": "leiden_clusters"},
        meaning="Does each cell type have clusters of its own?",
    ),
    Metric(
        "Label silhouette",
        BIOLOGY,
        label_silhouette,
        shared_as="silhouette",
        meaning="Are cell types apart from each other?",
    ),
    Metric("Isolated labels", BIOLOGY, isolated_labels, meaning="Are cell types of few systems apart from the others?"),
    Metric("kNN purity", BIOLOGY, knn_purity, in_score=False, meaning="Do the nearest cells have the same cell type?"),
    Metric(
        "NMI fixed",
        BIOLOGY,
        nmi,
        {"clusters": "leiden_clusters"},
        in_score=False,
        meaning="As NMI, with the clusters of the paper.",
    ),
    Metric(
        "ARI fixed",
        BIOLOGY,
        ari,
        {"clusters": "leiden_clusters"},
        in_score=False,
        meaning="As ARI, with the clusters of the paper.",
    ),
    Metric(
        "NMI Leiden",
        BIOLOGY,
        nmi,
        {"clusters": "best_leiden_clusters"},
        in_score=False,
        slow=True,
        meaning="As NMI, with the best of ten clusterings.",
    ),
    Metric(
        "ARI Leiden",
        BIOLOGY,
        ari,
        {"clusters": "best_leiden_clusters"},
        in_score=False,
        slow=True,
        meaning="As ARI, with the best of ten clusterings.",
    ),
    Metric(
        "Moran",
        WITHIN,
        moran_ratio,
        {"reference": "moran_reference"},
        meaning="Do genes that vary within a cell type still vary smoothly among its cells?",
    ),
)


def choose_metrics(metrics: str | Sequence[str], batch_key: str | None, label_key: str | None) -> list[Metric]:
    """Select the requested metrics that can be measured with the given columns, in the order of `METRICS`.

    Parameters
    ----------
    metrics
        ``"default"`` (all but the slow ones), ``"all"``, or names of metrics.
    batch_key, label_key
        Columns with batches and cell types; metrics that need a column that is None are left out.

    Raises
    ------
    InputError
        If a name is unknown, or no requested metric can be measured.

    Examples
    --------
    >>> [metric.name for metric in choose_metrics("default", None, None)]
    ['iLISI', 'PCR comparison']
    """
    if isinstance(metrics, str) and metrics in ("default", "all"):
        requested = [metric for metric in METRICS if metrics == "all" or not metric.slow]
    else:
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        known = [metric.name for metric in METRICS]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError(
                f"There is no metric {listing(unknown)}; choose 'default', 'all', or some of: "
                f"{listing(known, len(known))}."
            )
        requested = [metric for metric in METRICS if metric.name in names]
    if not requested:
        raise InputError("metrics is empty: give 'default', 'all' or names of metrics.")
    absent = [name for name, key in (("label", label_key), ("batch", batch_key)) if key is None]
    chosen = [metric for metric in requested if metric.required.isdisjoint(absent)]
    if not chosen:
        lacking = [f"{name}_key" for name in absent if any(name in metric.required for metric in requested)]
        names_requested = listing(metric.name for metric in requested)
        raise InputError(f"{names_requested} cannot be measured without {' and '.join(lacking)}.")
    return chosen
