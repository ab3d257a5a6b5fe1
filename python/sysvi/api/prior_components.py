"""The components of a trained prior: which one each cell belongs to, and whether systems share them.

Shapes: n cells, K components, L latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from sysvi._core.arguments import check_types
from sysvi._core.checks import check_obs_column
from sysvi._core.errors import InputError
from sysvi.api.ensemble import Ensemble
from sysvi.api.sysvi import SysVI
from sysvi.data.labels import read_labels
from sysvi.kernels.densities import normal_log_density
from sysvi.model.priors import MixturePrior

MAX_DENSITIES = 2**22  # number of log densities computed at a time: 32 MB of float64


@dataclass(frozen=True, eq=False)
class PriorComponents:
    """Result of :func:`prior_components`; components are counted from 0.

    Parameters
    ----------
    component
        Best-supported component of each cell, indexed by cell.
    probability
        Probability of that component among all components, indexed by cell: 1 if no other component comes near, 1/K if
        all are equal.
    table
        A row for each component: its ``weight`` in the mixture; number (``n_cells``) and ``share`` of the cells that it
        supports best; ``system_mixing``, the entropy of the systems of these cells, each relative to its size in the
        data (0: one system only, 1: systems as in the data). With labels also ``label``, the most common one, and
        ``purity``, its share among the labelled cells. NaN for a component without (labelled) cells.
    systems
        Number of cells of each component (rows) and system (columns).
    labels
        Number of labelled cells of each component (rows) and label (columns); None without labels.
    """

    component: pd.Series
    probability: pd.Series
    table: pd.DataFrame
    systems: pd.DataFrame
    labels: pd.DataFrame | None


def prior_components(model: SysVI, adata: AnnData, label_key: str | None = None) -> PriorComponents:
    """Find the component of the prior that supports each cell best, and whether systems share components.

    The components of a VampPrior or Gaussian mixture may each cover a cell type across systems, or a system, which
    hinders mixing. The support of component k for a cell at z, its posterior mean, is the logarithm of its term in the
    density of the prior:

    - ``mixture="joint"``: log w_k + Σ_d log N(z_d; m_kd, v_kd);
    - ``mixture="dimension"``, with a mixture in each dimension: the sum over dimensions,
      Σ_d (log w_k + log N(z_d; m_kd, v_kd)), as in the paper's code. The weight counts once per dimension.

    Parameters
    ----------
    model
        Trained model with the prior ``"vamp"`` or ``"gmm"``; of an ensemble, one of its ``members``.
    adata
        Cells with the model's genes, systems and categories: the training data or others.
    label_key
        Column of ``adata.obs`` with cell type labels. Cells whose label is missing, "unknown", "unassigned" and the
        like count as unlabelled and are left out of the table of labels.

    Returns
    -------
    PriorComponents

    Raises
    ------
    InputError
        If the model is an ensemble, untrained, or its prior a standard normal, `adata` does not fit the model, or
        `label_key` is missing or labels no cell.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(
    ...     adata, "system", "batch", members=1, max_epochs=2, progress=False, n_prior_components=3
    ... )
    >>> result = prior_components(model, adata, "cell_type")
    >>> int(result.table["n_cells"].sum()), result.table.index.to_list()
    (300, [0, 1, 2])
    """
    check_types(prior_components, adata=adata)
    if isinstance(model, Ensemble):
        raise InputError("Each member of an ensemble has a prior of its own: pass one of model.members.")
    check_types(prior_components, model=model)
    prior = model.module.prior
    if not isinstance(prior, MixturePrior):
        raise InputError("A standard normal prior has no components: train with prior='vamp' or 'gmm' to look at them.")
    key = model.vocabulary.system_key
    system = check_obs_column(adata, key, "system")
    label, labelled = read_labels(adata, label_key)
    z = torch.from_numpy(np.asarray(model.get_latent_representation(adata))).double()  # (n, L)
    with torch.no_grad():
        mean, var = (part.cpu().double() for part in prior.components(model.module.encoder))  # (K, L)
        log_w = prior.logits.cpu().double().log_softmax(0)  # (K,)
    best, probability = _best_component(z, mean, var, log_w * (z.shape[1] if prior.form == "dimension" else 1))

    index = pd.RangeIndex(len(log_w), name="component")
    component = pd.Series(best, adata.obs_names, name="component")
    systems = _cross_table(best, system, key, index)
    n_cells = systems.sum(axis=1)
    columns = {
        "weight": log_w.exp().numpy(),
        "n_cells": n_cells,
        "share": n_cells / len(best),
        "system_mixing": _mixing(systems.to_numpy()),
    }
    labels = None
    if label is not None:
        labels = _cross_table(best[labelled], label[labelled], str(label_key), index)
        n_labelled = labels.sum(axis=1)
        columns["label"] = labels.idxmax(axis=1).where(n_labelled > 0)
        columns["purity"] = (labels.max(axis=1) / n_labelled).where(n_labelled > 0)
    table = pd.DataFrame(columns, index=index)
    return PriorComponents(
        component, pd.Series(probability, adata.obs_names, name="probability"), table, systems, labels
    )


def _best_component(z: Tensor, mean: Tensor, var: Tensor, log_w: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Best-supported component of each cell and its probability: (n, L), (K, L), (K, L), (K,) -> (n,), (n,)."""
    n = len(z)
    best, probability = np.empty(n, np.int64), np.empty(n)
    rows = max(1, MAX_DENSITIES // mean.numel())
    for start in range(0, n, rows):
        support = normal_log_density(z[start : start + rows, None], mean, var).sum(2) + log_w  # (rows, K)
        highest, component = support.softmax(1).max(1)
        best[start : start + rows], probability[start : start + rows] = component.numpy(), highest.numpy()
    return best, probability


def _cross_table(component: np.ndarray, category: np.ndarray, name: str, index: pd.RangeIndex) -> pd.DataFrame:
    """Number of cells of each component and category, with a row for every component in `index`."""
    table = pd.crosstab(component, pd.Series(category.astype(str), name=name).to_numpy())
    return table.reindex(index, fill_value=0).rename_axis(columns=name)


def _mixing(counts: np.ndarray) -> np.ndarray:
    """Entropy of the systems in each component, relative to their sizes and scaled to [0, 1]: (K, S) -> (K,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = counts / counts.sum(0)  # share of a system's cells that is in a component
        p = relative / relative.sum(1, keepdims=True)
        entropy = -np.where(p > 0, p * np.log(p), 0 * p).sum(1)
        return entropy / np.log(counts.shape[1]) if counts.shape[1] > 1 else np.full(len(counts), np.nan)
