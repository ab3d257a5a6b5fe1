"""What a linear model says about the expression: effects of the covariates and principal components of the rest.

Systems whose types differ in frequency are aligned in the space of the components (`sysvi.data.composition`).
Training starts from it (`sysvi.model.cvae.Model.start_at_data`).

Shapes: n cells, G genes, D columns of the design, k components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, svds

from sysvi._core.parallel import one_blas_thread
from sysvi._core.samples import sample_rows
from sysvi.data.composition import composition_shifts

N_COMPONENTS = 30
N_COMPONENTS_OF_SHIFT = 15  # the first, in which systems are aligned
MAX_CELLS = 20_000  # of more cells, a random sample is enough
RIDGE = 1e-2  # keeps the effects defined: the columns of a system and of its batches are linearly dependent
MIN_VARIANCE = 1e-3

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Summary:
    """Linear model of the expression: x = mean + design · effects + principal components + rest.

    Parameters
    ----------
    mean
        Mean of each gene, (G,).
    effects
        Effect of each column of the design on each gene, (D, G).
    variance
        Variance of each gene without the effects of the covariates, (G,).
    axes, sd
        Principal axes of the expression without the effects of the covariates, (G, k), and standard deviations of the
        cells along them, (k,). There may be none.
    """

    mean: Floats
    effects: Floats
    variance: Floats
    axes: Floats
    sd: Floats

    def components(self, x: sp.csr_matrix, design: np.ndarray, k: int) -> Floats:
        """First k principal components, (n, k), of cells with expression x, (n, G), and this design, (n, D)."""
        axes = self.axes[:, :k]
        return np.asarray(x @ axes - self.mean @ axes - design @ (self.effects @ axes), np.float64)


def sample_for_summary(n_cells: int) -> np.ndarray:
    """Rows of the cells that are enough for `summarise`: all, or a random sample of fixed seed."""
    return sample_rows(np.arange(n_cells), MAX_CELLS)


@one_blas_thread
def summarise(x: sp.csr_matrix, design: np.ndarray) -> Summary:
    """Fit the linear model by ridge regression, then principal component analysis of the residuals.

    Neither the effects nor the residuals are formed as a matrix of cells x genes.

    Parameters
    ----------
    x
        Log-normalised expression, (n, G).
    design
        Covariates of the cells, categories as one-hot codes, (n, D).

    Returns
    -------
    Summary
    """
    if x.shape[0] > MAX_CELLS:
        rows = sample_for_summary(x.shape[0])
        x, design = x[rows], design[rows]
    x, design = x.astype(np.float64), np.asarray(design, np.float64)
    n, n_genes = x.shape
    mean = np.asarray(x.mean(axis=0)).ravel()  # (G,)
    gram = design.T @ design  # (D, D)
    cross = np.asarray(x.T @ design).T - np.outer(design.sum(0), mean)  # design'(x - mean), (D, G)
    effects = np.linalg.solve(gram + RIDGE * np.eye(len(gram)), cross)
    # The sum of squares of x - mean - design · effects, expanded.
    squares = np.asarray(x.multiply(x).sum(axis=0)).ravel() - n * mean**2
    squares += ((gram @ effects - 2 * cross) * effects).sum(axis=0)
    variance = np.maximum(squares / n, MIN_VARIANCE)

    k = min(N_COMPONENTS, min(n, n_genes) - 1)
    if k < 1:
        return Summary(mean, effects, variance, np.empty((n_genes, 0)), np.empty(0))

    def residuals_times(v: np.ndarray) -> np.ndarray:
        v = v.ravel()
        return x @ v - mean @ v - design @ (effects @ v)

    def transposed_times(u: np.ndarray) -> np.ndarray:
        u = u.ravel()
        return x.T @ u - mean * u.sum() - effects.T @ (design.T @ u)

    residuals = LinearOperator((n, n_genes), residuals_times, transposed_times, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(min(n, n_genes))
    _, singular, axes = svds(residuals, k, v0=start)
    order = np.argsort(-singular)
    sd = singular[order] / np.sqrt(n)  # (k,)
    kept = sd > max(1e-6 * sd.max(), 1e-8)
    return Summary(mean, effects, variance, axes[order][kept].T, sd[kept])


def align_systems(summary: Summary, x: sp.csr_matrix, design: np.ndarray, n_systems: int) -> Summary:
    """Take from the systems' effects what comes from their composition, if it is clear (`sysvi.data.composition`).

    Parameters
    ----------
    summary
        The linear model of these cells.
    x, design
        As in `summarise`; the first `n_systems` columns of the design are the systems, one-hot.

    Returns
    -------
    Summary
        The same model of other parts: what is no longer an effect of the systems is in the principal components.
    """
    k = min(N_COMPONENTS_OF_SHIFT, len(summary.sd))
    system = design[:, :n_systems].argmax(axis=1)
    shifts = composition_shifts(summary.components(x, design, k), system, n_systems)  # (S, k)
    if not shifts.any():
        return summary
    share = np.bincount(system, minlength=n_systems) / len(system)
    shifts = np.pad(shifts - share @ shifts, ((0, 0), (0, len(summary.sd) - k)))  # the mean of all cells stays
    # Within a system the components have mean 0, so that the shifts add to their covariance, in the span of the axes.
    covariance = np.diag(summary.sd**2) + shifts.T @ (share[:, None] * shifts)
    squared_sd, rotation = np.linalg.eigh(covariance)
    of_genes = shifts @ summary.axes.T  # (S, G)
    effects = summary.effects.copy()
    effects[:n_systems] -= of_genes
    return Summary(
        summary.mean,
        effects,
        summary.variance + share @ of_genes**2,
        summary.axes @ rotation[:, ::-1],
        np.sqrt(squared_sd[::-1]),
    )
