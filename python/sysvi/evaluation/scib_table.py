"""The table of an evaluation in the form of scib-metrics, for benchmarks that collect it from many methods."""

from __future__ import annotations

import pandas as pd

from sysvi._core.arguments import check_types
from sysvi.evaluation.evaluate import Evaluation
from sysvi.evaluation.registry import BATCH, BIOLOGY
from sysvi.evaluation.scores import BIOLOGY_SHARE
from sysvi.evaluation.tables import embedding_columns

SCIB_GROUPS = {BIOLOGY: "Bio conservation", BATCH: "Batch correction"}
# Columns of scib-metrics' results, in its order, for metrics that are defined as there; docs/metrics.md has the others.
SCIB_NAMES = {
    "Isolated labels": "Isolated labels",
    "NMI Leiden": "Leiden NMI",
    "ARI Leiden": "Leiden ARI",
    "NMI": "KMeans NMI",
    "ARI": "KMeans ARI",
    "Label silhouette": "Silhouette label",
    "cLISI": "cLISI",
    "BRAS": "BRAS",
    "iLISI": "iLISI",
    "kBET": "KBET",
    "Graph connectivity": "Graph connectivity",
    "PCR comparison": "PCR comparison",
}


def scib_table(evaluation: Evaluation) -> pd.DataFrame:
    """Give the metrics of an evaluation the names and the layout of scib-metrics (``Benchmarker.get_results``).

    Only metrics that are defined as in scib-metrics are in the table. Systems are its batches.

    Parameters
    ----------
    evaluation
        Result of `sysvi.evaluate_in_detail`.

    Returns
    -------
    pandas.DataFrame
        One row per embedding, then the row ``Metric Type``, which has the group of each column; the index is called
        ``Embedding``. One column per metric that was measured, then the aggregated scores: the means of
        ``Batch correction`` and ``Bio conservation`` over the columns of this table and, if it has both,
        ``Total``, which is 0.6 bio conservation + 0.4 batch correction. Higher is better. Without columns if no metric
        was measured that scib-metrics has, too.

    Raises
    ------
    InputError
        If `evaluation` is something else, such as its table.

    Notes
    -----
    The aggregated scores are not those of `sysvi.evaluate`, which counts further metrics. Compare them only between
    tables with the same columns: scib-metrics has ``KBET`` by default, sysVI with ``metrics="all"``.

    Examples
    --------
    >>> import sysvi
    >>> cells = sysvi.datasets.simulate_systems(300, 200, seed=1)
    >>> keys, metrics = {"system_key": "system", "label_key": "cell_type"}, ["iLISI", "CiLISI", "cLISI"]
    >>> found = sysvi.evaluate_in_detail(cells, "X_pca", **keys, metrics=metrics, progress=False)
    >>> table = sysvi.scib_table(found)
    >>> list(table.columns)
    ['cLISI', 'iLISI', 'Batch correction', 'Bio conservation', 'Total']
    >>> list(table.index)
    ['X_pca', 'Metric Type']
    """
    check_types(scib_table, evaluation=evaluation)
    values = evaluation.table[embedding_columns(evaluation.table)].T.astype(float)  # (embeddings, metrics)
    measured = [name for name in SCIB_NAMES if name in values and values[name].notna().any()]
    kinds = {SCIB_NAMES[name]: SCIB_GROUPS[evaluation.table["group"][name]] for name in measured}  # by column
    table = values[measured].rename(columns=SCIB_NAMES)
    for group in sorted(set(kinds.values())):
        table[group] = table[[column for column, kind in kinds.items() if kind == group]].mean(axis=1)
    if set(SCIB_GROUPS.values()) <= set(table):
        biology, batch = (table[SCIB_GROUPS[group]] for group in (BIOLOGY, BATCH))
        table["Total"] = BIOLOGY_SHARE * biology + (1 - BIOLOGY_SHARE) * batch
    kind_row = pd.DataFrame(
        {column: [kinds.get(str(column), "Aggregate score")] for column in table}, index=["Metric Type"], dtype=object
    )
    return pd.concat([table.astype(object), kind_row]).rename_axis(index="Embedding", columns=None)
