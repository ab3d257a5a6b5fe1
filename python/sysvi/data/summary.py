"""What a linear model says about the expression: effects of the covariates and principal components of the rest.

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

N_COMPONENTS = 30
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
