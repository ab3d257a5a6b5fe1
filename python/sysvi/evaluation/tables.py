"""The tables of an evaluation, made from the scores of each embedding and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from sysvi.evaluation.registry import BATCH, BIOLOGY, WITHIN, Metric
from sysvi.evaluation.scores import BIOLOGY_SHARE
from sysvi.metrics._score import Score

AGGREGATE = "aggregate"  # group of the rows with aggregated scores

Scores = Mapping[tuple[str, str], Score]  # by embedding and name of the metric


def metric_table(
    scores: Scores, metrics: Sequence[Metric], embeddings: Sequence[str], details: Mapping[str, str]
) -> pd.DataFrame:
    """Make the table of `evaluate`: one row per metric, then the aggregated scores.

    Parameters
    ----------
    scores
        Score of each embedding and metric.
    metrics
        Metrics in the order of the rows.
    embeddings
        Embeddings in the order of the columns.
    details
        Text to append to the convention of a metric, by its name.
    """
    rows = []
    for metric in metrics:
        convention = "; ".join(filter(None, [metric.convention, details.get(metric.name)]))
        values = {name: scores[name, metric.name].value for name in embeddings}
        row = {"metric": metric.name, "group": metric.group, **values}
        rows.append(row | {"in_score": metric.in_score, "convention": convention})
    table = pd.DataFrame(rows).set_index("metric")
    counted = table[table["in_score"]]
    means = {
        group: counted.loc[counted["group"] == group, list(embeddings)].mean() for group in (BATCH, BIOLOGY, WITHIN)
    }
    total = BIOLOGY_SHARE * means[BIOLOGY] + (1 - BIOLOGY_SHARE) * means[BATCH]
    aggregates = {
        "Batch correction": (means[BATCH], "mean of its metrics that count"),
        "Biological preservation": (means[BIOLOGY], "mean of its metrics that count"),
        "Within-type": (means[WITHIN], "mean of its metrics that count; not part of the total"),
        "Total": (total, f"{BIOLOGY_SHARE:g} biological preservation + {1 - BIOLOGY_SHARE:g} batch correction"),
    }
    for name, (score, convention) in aggregates.items():
        if score.notna().any():
            table.loc[name] = {"group": AGGREGATE, **score, "in_score": False, "convention": convention}
    return table


def label_table(scores: Scores, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Make the tidy table of values by label or system: columns embedding, metric, by, name and value."""
    by = {metric.name: metric.by for metric in metrics}
    rows = [
        {"embedding": embedding, "metric": metric, "by": by[metric], "name": str(name), "value": float(value)}
        for (embedding, metric), score in scores.items()
        if score.per_label is not None
        for name, value in score.per_label.items()
    ]
    return pd.DataFrame(rows, columns=["embedding", "metric", "by", "name", "value"])


def cell_table(scores: Scores, obs_names: pd.Index) -> pd.DataFrame:
    """Make the table of values by cell, (n, embeddings and metrics)."""
    return pd.DataFrame(
        {key: score.per_cell for key, score in scores.items() if score.per_cell is not None}, index=obs_names
    )


def embedding_columns(table: pd.DataFrame) -> list[str]:
    """List the columns of an evaluation's table that are embeddings."""
    return [str(column) for column in table.columns if column not in ("group", "in_score", "convention")]
