"""Strength of batch effects before integration: distances between systems compared with distances within systems."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.arguments import check_types
from sysvi._core.checks import (
    check_finite_nonnegative,
    check_log_normalised,
    check_obs_column,
    check_unique_names,
    get_expression,
    listing,
)
from sysvi._core.errors import InputError
from sysvi._core.settings import random_seed, whole_number
from sysvi.data.row_blocks import select_genes
from sysvi.metrics._labels import read_labels_with_warning
from sysvi.metrics._pca import principal_components

MIN_DISTANCES = 3  # within a system for a test, as in the paper: the distances between three samples
LARGE_RATIO = 1.5  # ratio of median distances, between systems to within systems, from which an effect is large
ALPHA = 0.05  # significance level


@dataclass(frozen=True, eq=False)
class BatchStrength:
    """Result of :func:`batch_strength`; printing it shows the advice and the table.

    Parameters
    ----------
    table
        One row per cell type and system, indexed by ``label`` and ``system``: number of samples of the system
        (``n_samples``); number and median of the distances between its samples (``n_within``, ``median_within``) and
        to samples of other systems (``n_between``, ``median_between``); ``ratio`` of the medians, between to within;
        rank-biserial correlation (``rank_biserial``); statistic and p-values of the test (``u``, ``p``,
        ``p_adjusted``). The last four are NaN where there are too few distances for a test.
    distances
        One row per pair of samples of a type: ``label``, ``kind`` (within or between), ``system_1``, ``batch_1``,
        ``system_2``, ``batch_2``, ``distance``.
    substantial
        Whether the systems differ substantially; None if this cannot be judged.
    advice
        Recommendation with its reason, in one sentence.
    """

    table: pd.DataFrame
    distances: pd.DataFrame
    substantial: bool | None
    advice: str

    def __str__(self) -> str:
        return f"{self.advice}\n\n{self.table.to_string(float_format=lambda x: f'{x:.3g}')}"


def batch_strength(
    adata: AnnData,
    system_key: str,
    batch_key: str,
    label_key: str,
    *,
    layer: str | None = None,
    min_cells: int = 50,
    n_pcs: int = 15,
    seed: int = 0,
) -> BatchStrength:
    """Assess whether the differences between systems are substantial, so that sysVI is needed to integrate them.

    As in the paper, genes are scaled over all cells, `n_pcs` principal components are computed and averaged over the
    cells of each type in each sample. For each type and system, the Euclidean distances between samples of the system
    are compared with those to samples of other systems by a one-sided Mann-Whitney U test (are distances within the
    system smaller?). p-values are corrected over all types and systems by the method of Benjamini and Hochberg.

    Two effect sizes complement the p-values. ``rank_biserial`` is the probability that a distance between systems is
    larger than one within a system, minus the probability of the opposite: 1 if all are larger, 0 if neither kind is.
    ``ratio``, between the median distances, shows how large the effect is. The test treats distances as independent
    although those of one sample are not; therefore p-values are too small.

    The differences count as substantial if, in at least half of the types that can be tested, each system that can
    be tested has an adjusted p-value below 0.05 and a ratio of at least 1.5. (The paper uses the p-value alone, which
    with many samples detects any difference, however small.)

    Parameters
    ----------
    adata
        Log-normalised expression, preferably of variable genes (:func:`sysvi.prepare`), in memory or backed. It is not
        changed and not made dense; one copy of the stored values is made. Genes are scaled as by scanpy (divisor n - 1,
        no clipping).
    system_key
        Column of ``adata.obs`` with the systems.
    batch_key
        Column of ``adata.obs`` with the samples, such as donors or animals. Do not use libraries of the same donor:
        they are so similar that another donor would look like another system.
    label_key
        Column of ``adata.obs`` with the cell types. Unlabelled cells are left out, with a warning.
    layer
        Layer with the expression; ``adata.X`` by default.
    min_cells
        Minimum number of cells of a type in a sample; smaller groups are left out.
    n_pcs
        Number of principal components.
    seed
        Random seed of the PCA.

    Returns
    -------
    BatchStrength
        ``substantial`` is None if no type has a system with at least three samples and enough samples of other systems
        for a p-value below 0.05, or if the ratios are large but the p-values are not small.

    Raises
    ------
    InputError
        If a column or layer is missing, there is only one system, or the expression looks like counts, is negative or
        not finite.

    References
    ----------
    Hrovatin, Moinfar et al., Integrating single-cell RNA-seq datasets with substantial batch effects, BMC Genomics
    (2025).

    Examples
    --------
    >>> import scanpy as sc, sysvi
    >>> adata = sysvi.datasets.simulate_systems(1200, 200, n_types=2, n_private=0, n_samples=3, seed=1)
    >>> sc.pp.normalize_total(adata)
    >>> sc.pp.log1p(adata)
    >>> batch_strength(adata, "system", "batch", "cell_type").substantial
    True
    """
    whole_number("min_cells", min_cells, 1)
    whole_number("n_pcs", n_pcs, 1)
    check_types(batch_strength, adata=adata, label_key=label_key)
    seed = random_seed(seed)
    check_unique_names(adata)
    system = check_obs_column(adata, system_key, "system_key")
    batch = check_obs_column(adata, batch_key, "batch_key")
    label, labelled = read_labels_with_warning(adata, label_key)
    obs = pd.DataFrame({"label": label, "system": system, "batch": batch})[labelled].reset_index(drop=True)
    systems = sorted(obs["system"].unique())
    if len(systems) < 2:
        raise InputError(f"adata.obs[{system_key!r}] has one system only ({listing(systems)}): there must be two.")
    expression = _scaled_expression(adata, layer, labelled)
    points = pd.DataFrame(principal_components(expression, n_pcs, seed=seed))
    groups = points.groupby([obs["label"], obs["system"], obs["batch"]], sort=True)
    sizes = groups.size()
    profiles = groups.mean()[sizes >= min_cells]  # (groups, n_pcs)
    distances = _sample_distances(profiles)
    table = _test_distances(profiles, distances)
    substantial, advice = _judge(table, sizes, min_cells)
    return BatchStrength(table, distances, substantial, advice)


def _scaled_expression(adata: AnnData, layer: str | None, cells: np.ndarray) -> sparse.csr_matrix:
    """Divide each gene by its standard deviation over the selected cells (bool mask), CSR float32.

    Genes that do not vary are not scaled. Genes are not centred, which would make the matrix dense; the PCA centres.
    """
    from sklearn.utils.sparsefuncs import inplace_csr_column_scale, mean_variance_axis

    name, matrix = get_expression(adata, layer)
    x = select_genes(matrix, np.arange(adata.n_vars))  # a copy
    check_finite_nonnegative(x, adata.obs_names, adata.var_names, name)
    check_log_normalised(x, name)
    if not cells.all():
        x = x[cells]
    n = x.shape[0]
    variance = mean_variance_axis(x, axis=0)[1].astype(np.float64) * n / max(n - 1, 1)  # (genes,)
    inplace_csr_column_scale(x, 1 / np.sqrt(np.where(variance > 0, variance, 1)))
    return x


def _sample_distances(profiles: pd.DataFrame) -> pd.DataFrame:
    """Compute distances between the samples of each type from mean profiles indexed by label, system and batch."""
    rows = []
    for label, samples in profiles.groupby(level="label", sort=True):
        means = samples.to_numpy(dtype=np.float64)
        names = [(str(system), str(batch)) for _, system, batch in samples.index]
        for i, j in combinations(range(len(names)), 2):
            kind = "within" if names[i][0] == names[j][0] else "between"
            rows.append((label, kind, *names[i], *names[j], float(np.linalg.norm(means[i] - means[j]))))
    columns = ["label", "kind", "system_1", "batch_1", "system_2", "batch_2", "distance"]
    return pd.DataFrame(rows, columns=columns)


def _test_distances(profiles: pd.DataFrame, distances: pd.DataFrame) -> pd.DataFrame:
    """Test for each type and system whether distances within the system are smaller: table of `BatchStrength`."""
    from scipy.stats import false_discovery_control, mannwhitneyu

    rows = []
    for (label, system), samples in profiles.groupby(level=["label", "system"], sort=True):
        of_system = (distances["system_1"] == system) | (distances["system_2"] == system)
        part = distances[(distances["label"] == label) & of_system]
        within, between = (part.loc[part["kind"] == kind, "distance"].to_numpy() for kind in ("within", "between"))
        row: dict[str, object] = {"label": label, "system": system, "n_samples": len(samples)}
        row |= {"n_within": len(within), "n_between": len(between)}
        median_within, median_between = (np.median(d) if len(d) else np.nan for d in (within, between))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.divide(median_between, median_within)
        row |= {"median_within": median_within, "median_between": median_between, "ratio": ratio}
        row |= dict.fromkeys(("rank_biserial", "u", "p"), np.nan)
        # p-value if all distances within the system are smaller than all distances between systems.
        smallest_p = 1 / comb(len(within) + len(between), len(within))
        if min(len(within), len(between)) >= MIN_DISTANCES and smallest_p < ALPHA:
            u, p = mannwhitneyu(within, between, alternative="less")
            row |= {"rank_biserial": 1 - 2 * u / (len(within) * len(between)), "u": u, "p": p}
        rows.append(row)
    columns = ["label", "system", "n_samples", "n_within", "n_between", "median_within", "median_between", "ratio"]
    table = pd.DataFrame(rows, columns=[*columns, "rank_biserial", "u", "p"]).set_index(["label", "system"])
    tested = table["p"].notna()
    table["p_adjusted"] = np.nan
    if tested.any():
        table.loc[tested, "p_adjusted"] = false_discovery_control(table.loc[tested, "p"].to_numpy(dtype=np.float64))
    return table


def _judge(table: pd.DataFrame, sizes: pd.Series, min_cells: int) -> tuple[bool | None, str]:
    """Judge whether the systems differ substantially, and give advice."""
    tested = table[table["p"].notna()]
    if tested.empty:
        return (
            None,
            f"The strength of the batch effects cannot be judged: {_reason_without_tests(table, sizes, min_cells)}.",
        )
    strong = (tested["p_adjusted"] < ALPHA) & (tested["ratio"] >= LARGE_RATIO)
    strong_types = strong.groupby(level="label").all()
    substantial = bool(strong_types.mean() >= 0.5)
    ratio = tested["ratio"].median()
    finding = (
        f"{strong_types.sum()} of {len(strong_types)} cell types differ clearly more between systems than between "
        f"samples of one system (median distance {ratio:.1f} times as large)"
    )
    if substantial:
        return True, f"The batch effects between systems are substantial: {finding}; integrate with sysVI."
    if ratio >= LARGE_RATIO:
        advice = "too few samples to be sure; if cell types lie apart by system in a PCA, integrate with sysVI."
        return None, f"The batch effects between systems may be substantial: {finding}, {advice}"
    return False, f"The batch effects between systems are not substantial: {finding}; a simpler method may do."


def _reason_without_tests(table: pd.DataFrame, sizes: pd.Series, min_cells: int) -> str:
    """Say why no type and system could be tested."""
    if table.empty:
        return (
            f"no cell type has {min_cells} cells in one sample (the largest group has {sizes.max()}); lower min_cells"
        )
    if not (table["n_between"] > 0).any():
        return f"no cell type has {min_cells} cells in samples of two systems"
    most_samples = table["n_samples"].max()
    if most_samples == 1:
        return "each system has one sample of a type, so that differences within a system are unknown"
    return (
        f"no cell type has a system of three samples with {min_cells} cells or more and as many distances to other "
        f"systems (the most is {most_samples} samples)"
    )
