"""Before integrating: how systems differ, beside how the samples of one system do."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.checks import (
    check_finite_nonnegative,
    check_log_normalised,
    check_obs_column,
    check_unique_names,
    get_expression,
    listing,
)
from sysvi._core.errors import InputError
from sysvi._core.files import write_atomically
from sysvi._core.settings import whole_number
from sysvi.data.row_blocks import select_genes
from sysvi.metrics._pca import principal_components

FEWEST_PAIRS = 3  # of samples of one system, that is three samples, as in the paper
LARGE_RATIO = 1.5  # of median distances, between systems to within one
ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class BatchStrength:
    """Result of :func:`batch_strength`; printed, it is the advice and the table.

    Parameters
    ----------
    table
        A row for each cell type and system, indexed by ``label`` and ``system``: ``n_samples`` of the system; number
        and median of the distances between its samples (``n_within``, ``median_within``) and to samples of other
        systems (``n_between``, ``median_between``); their ``ratio``; the ``rank_biserial`` correlation; the test's
        ``u``, ``p`` and ``p_adjusted``. NaN where there are fewer than 3 distances of a kind.
    distances
        A row for each pair of samples of a type: ``label``, ``kind`` (within or between), ``system_1``, ``batch_1``,
        ``system_2``, ``batch_2``, ``distance``.
    substantial
        Whether the systems differ substantially; None if it cannot be judged.
    advice
        What to do, and why, in a sentence.
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
    """Say whether the differences between systems are substantial, and so whether sysVI is needed.

    As in the paper: scale the genes of all cells together, take `n_pcs` principal components, average them over the
    cells of each type in each sample, and compare, for each type and system, the Euclidean distances between samples
    of the system with those to samples of other systems: one-sided Mann-Whitney U test (are distances within smaller?),
    corrected over all types and systems by Benjamini-Hochberg.

    Two effect sizes stand beside the p-value. ``rank_biserial`` is the probability that a distance between systems
    exceeds one within, less the opposite: 1 if each does, 0 if neither is larger. It says how sure the order is;
    ``ratio``, that of the median distances, says how large the effect is. p-values take distances as independent,
    though those of one sample are not, so they are smaller than they should be.

    The differences count as substantial if, in at least half of the types that can be tested, each system that can
    be tested has an adjusted p below 0.05 and a ratio of at least 1.5. (The paper goes by the p-value alone, which
    with many samples finds any difference, however small.)

    Parameters
    ----------
    adata
        Log-normalised expression, best that of the variable genes (:func:`sysvi.prepare`); in memory or backed, never
        changed nor made dense. Scaling is scanpy's (divisor n - 1, no clipping); one copy of the stored values is made.
    system_key, batch_key, label_key
        Columns of ``adata.obs`` with systems, samples and cell types. Samples are donors or animals: libraries of one
        donor are so alike that the next donor looks like another system.
    layer
        Layer with the expression; ``adata.X`` by default.
    min_cells
        Fewest cells of a type in a sample; smaller groups do not count.
    n_pcs
        Principal components.
    seed
        Of the PCA.

    Returns
    -------
    BatchStrength
        ``substantial`` is None if no type has a system of three samples (two of them do not show how samples differ)
        with enough samples of another system beside it that a test could come out below 0.05, or if differences are
        large by their ratio but not by their p-values.

    Raises
    ------
    InputError
        If a column or layer is missing, there is one system only, or the expression is counts, negative or not finite.

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
    check_unique_names(adata)
    keys = {"system": system_key, "batch": batch_key, "label": label_key}
    obs = pd.DataFrame({name: check_obs_column(adata, key, f"{name}_key") for name, key in keys.items()})
    systems = sorted(obs["system"].unique())
    if len(systems) < 2:
        raise InputError(f"adata.obs[{system_key!r}] has one system only ({listing(systems)}): there must be two.")
    points = pd.DataFrame(principal_components(_scaled(adata, layer), n_pcs, seed=seed))
    groups = points.groupby([obs[name] for name in ("label", "system", "batch")], sort=True)
    sizes = groups.size()
    profiles = groups.mean()[sizes >= min_cells]  # (groups, n_pcs)
    distances = _distances(profiles)
    table = _tests(profiles, distances)
    substantial, advice = _judge(table, sizes, min_cells)
    return BatchStrength(table, distances, substantial, advice)


def _scaled(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """Expression with each gene divided by its standard deviation, CSR float32; genes that never vary stay as is.

    Not centred, which would make it dense: the PCA centres.
    """
    where, matrix = get_expression(adata, layer)
    x = select_genes(matrix, np.arange(adata.n_vars))  # a copy
    check_finite_nonnegative(x, adata.obs_names, adata.var_names, where)
    check_log_normalised(x, where)
    total = np.zeros(adata.n_vars)
    for start, stop in _spans(x.nnz):
        total += np.bincount(x.indices[start:stop], x.data[start:stop], adata.n_vars)
    n = x.shape[0]
    mean = total / n
    square = np.zeros(adata.n_vars)  # Σ (x - mean)²
    for start, stop in _spans(x.nnz):
        gene = x.indices[start:stop]
        square += np.bincount(gene, (x.data[start:stop] - mean[gene]) ** 2, adata.n_vars)
    square += (n - np.bincount(x.indices, minlength=adata.n_vars)) * mean**2
    std = np.sqrt(square / max(n - 1, 1))
    std[std == 0] = 1
    for start, stop in _spans(x.nnz):
        x.data[start:stop] /= std[x.indices[start:stop]].astype(np.float32)
    return x


def _spans(n: int, size: int = 2**22) -> list[tuple[int, int]]:
    """Start and stop of consecutive spans of n things."""
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def _distances(profiles: pd.DataFrame) -> pd.DataFrame:
    """Distances between the samples of each type, from profiles indexed by label, system and batch."""
    rows = []
    for label, of_label in profiles.groupby(level="label", sort=True):
        means = of_label.to_numpy(dtype=np.float64)
        names = [(str(system), str(batch)) for _, system, batch in of_label.index]
        for i, j in combinations(range(len(names)), 2):
            kind = "within" if names[i][0] == names[j][0] else "between"
            rows.append((label, kind, *names[i], *names[j], float(np.linalg.norm(means[i] - means[j]))))
    columns = ["label", "kind", "system_1", "batch_1", "system_2", "batch_2", "distance"]
    return pd.DataFrame(rows, columns=columns)


def _tests(profiles: pd.DataFrame, distances: pd.DataFrame) -> pd.DataFrame:
    """The table of :class:`BatchStrength`."""
    from scipy.stats import false_discovery_control, mannwhitneyu  # slow to import

    rows = []
    for (label, system), samples in profiles.groupby(level=["label", "system"], sort=True):
        touches = (distances["system_1"] == system) | (distances["system_2"] == system)
        mine = distances[(distances["label"] == label) & touches]
        within, between = (mine.loc[mine["kind"] == kind, "distance"].to_numpy() for kind in ("within", "between"))
        row: dict[str, object] = {"label": label, "system": system, "n_samples": len(samples)}
        row |= {"n_within": len(within), "n_between": len(between)}
        near, far = (np.median(part) if len(part) else np.nan for part in (within, between))
        with np.errstate(divide="ignore", invalid="ignore"):
            row |= {"median_within": near, "median_between": far, "ratio": np.divide(far, near)}
        row |= dict.fromkeys(("rank_biserial", "u", "p"), np.nan)
        least_p = 1 / comb(len(within) + len(between), len(within))  # where each distance within is the smaller
        if min(len(within), len(between)) >= FEWEST_PAIRS and least_p < ALPHA:
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
    """Whether the systems differ substantially, and the advice."""
    tested = table[table["p"].notna()]
    if tested.empty:
        return None, f"The strength of the batch effects cannot be judged: {_why_not(table, sizes, min_cells)}."
    strong = (tested["p_adjusted"] < ALPHA) & (tested["ratio"] >= LARGE_RATIO)
    of_type = strong.groupby(level="label").all()
    substantial = bool(of_type.mean() >= 0.5)
    ratio = tested["ratio"].median()
    finding = (
        f"{of_type.sum()} of {len(of_type)} cell types differ clearly more between systems than between samples of "
        f"one system (median distance {ratio:.1f} times as large)"
    )
    if substantial:
        return True, f"The batch effects between systems are substantial: {finding}; integrate with sysVI."
    if ratio >= LARGE_RATIO:
        advice = "too few samples to be sure; if cell types lie apart by system in a PCA, integrate with sysVI."
        return None, f"The batch effects between systems may be substantial: {finding}, {advice}"
    return False, f"The batch effects between systems are not substantial: {finding}; a simpler method may do."


def _why_not(table: pd.DataFrame, sizes: pd.Series, min_cells: int) -> str:
    if table.empty:
        return (
            f"no cell type has {min_cells} cells in one sample (the largest group has {sizes.max()}); lower min_cells"
        )
    if not (table["n_between"] > 0).any():
        return f"no cell type has {min_cells} cells in samples of two systems"
    most = table["n_samples"].max()
    if most == 1:
        return "each system has one sample of a type, so that nothing shows how samples differ within a system"
    return (
        f"no cell type has a system of three samples with {min_cells} cells or more and as many distances to other "
        f"systems (the most is {most} samples)"
    )


def plot_batch_strength(strength: BatchStrength, path: str | Path) -> None:
    """Draw the distances between samples, within and between systems, for each cell type, as a PNG or PDF.

    Parameters
    ----------
    strength
        From :func:`batch_strength`.
    path
        Where the picture goes; its ending says which kind.

    Raises
    ------
    InputError
        If there are no distances, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    distances = strength.distances
    if distances.empty:
        raise InputError("There are no two samples of one cell type, so there are no distances to draw.")
    medians = distances.groupby(["label", "kind"])["distance"].median().unstack("kind")
    medians = medians.reindex(columns=["within", "between"])
    labels = medians.sort_values("between", na_position="first").index  # the strongest on top
    jitter = np.random.default_rng(0)
    figure = Figure(figsize=(6.4, 1.6 + 0.42 * len(labels)), layout="constrained")
    axes = figure.subplots()
    for kind, color, shift in (("within", "#4c78a8", -0.17), ("between", "#e45756", 0.17)):
        part = distances[distances["kind"] == kind]
        height = labels.get_indexer(pd.Index(part["label"])) + shift
        axes.scatter(
            part["distance"],
            height + jitter.uniform(-0.1, 0.1, len(part)),
            s=12,
            color=color,
            alpha=0.6,
            linewidths=0,
            label=f"{kind} {'one system' if kind == 'within' else 'systems'}",
        )
        axes.plot(medians.loc[labels, kind], np.arange(len(labels)) + shift, "|", color=color, ms=13, mew=2.5)
    axes.set(yticks=range(len(labels)), yticklabels=labels, xlim=(0, None), ylim=(-0.6, len(labels) - 0.4))
    axes.set(xlabel="distance between mean profiles of samples (bar: median)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, markerscale=2, frameon=False)
    path = Path(path)
    kind = path.suffix.lstrip(".") or "png"
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format=kind))
