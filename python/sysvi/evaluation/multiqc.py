"""The table of an evaluation as custom content of a MultiQC report."""

from __future__ import annotations

import html

import pandas as pd

from sysvi.evaluation.evaluate import Evaluation
from sysvi.evaluation.registry import METRICS, WITHIN
from sysvi.evaluation.tables import AGGREGATE, embedding_columns

MULTIQC_ID = "sysvi_evaluation"


def multiqc_document(evaluation: Evaluation) -> dict[str, object]:
    """Make the section of a MultiQC report: a table with one row per embedding and one column per metric.

    MultiQC finds it in any file whose name ends in ``_mqc.json``, and joins the rows of several files; with
    ``multiqc --dirs``, which puts the folder before the name of an embedding, they are told apart.

    Parameters
    ----------
    evaluation
        Result of `sysvi.evaluate_in_detail`.

    Returns
    -------
    dict
        ``id``, ``section_name``, ``description``, ``plot_type``, ``pconfig``, ``headers`` (of the columns) and ``data``
        (values by embedding and metric; those that could not be measured are left out). Metrics that do not count in
        the aggregated scores are hidden until they are chosen in the report.

    Examples
    --------
    >>> import sysvi
    >>> cells = sysvi.datasets.simulate_systems(300, 200, seed=1)
    >>> found = sysvi.evaluate_in_detail(cells, "X_pca", system_key="system", metrics=["iLISI"], progress=False)
    >>> document = multiqc_document(found)
    >>> list(document["data"]["X_pca"]), document["headers"]["iLISI"]["description"]
    (['iLISI', 'Batch correction'], 'Are systems mixed around each cell?')
    """
    table = evaluation.table
    meanings = {metric.name: metric.meaning for metric in METRICS}
    bounds: dict[str, float] = {"min": 0, "max": 1}
    without_bounds = {"Within-type", *(metric.name for metric in METRICS if metric.group == WITHIN)}  # ratios
    headers = {
        str(name): {
            "namespace": row["group"].capitalize(),
            "title": str(name),
            "description": meanings.get(str(name), row["convention"]),
            "format": "{:,.3f}",
            "hidden": not row["in_score"] and row["group"] != AGGREGATE,
            **({} if name in without_bounds else bounds),
        }
        for name, row in table.iterrows()
    }
    return {
        "id": MULTIQC_ID,
        "section_name": "Integration (sysVI)",
        "description": "Embeddings of integrated cells, measured by <code>sysvi evaluate</code>. Higher is better.",
        "plot_type": "table",
        "pconfig": {
            "id": f"{MULTIQC_ID}_table",
            "title": "sysVI: metrics of embeddings",
            "col1_header": "Embedding",
        },
        "headers": headers,
        "data": {
            html.escape(embedding): {
                str(name): float(value) for name, value in table[embedding].items() if pd.notna(value)
            }
            for embedding in embedding_columns(table)
        },
    }
