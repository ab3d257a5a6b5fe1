"""Looking inside the prior: which component each cell belongs to, and who shares it.

Shapes: n cells, K components, L latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from sysvi._core.checks import check_obs_column
from sysvi._core.errors import InputError
from sysvi.api.sysvi import SysVI
from sysvi.kernels.densities import normal_log_density
from sysvi.model.priors import MixturePrior

CHUNK = 2**22  # densities at a time: 32 MB


@dataclass(frozen=True, eq=False)
class PriorComponents:
    """Result of :func:`prior_components`; components are counted from 0.

    Parameters
    ----------
    component
        Best-supported component of each cell.
    probability
        Its probability among all components, for each cell: 1 where no other comes near, 1/K where all are equal.
    table
        A row for each component: its ``weight`` in the mixture; how many cells (``n_cells``) and which ``share`` of all
        have it as their best; ``system_mixing``, the entropy of the systems among these, each counted relative to its
        size in the data: 0 if they are of one system, 1 if systems are as in the data; and with labels ``label``, the
        most common one, and ``purity``, its share. NaN for a component that is no cell's best.
    systems
        Cells of each component (rows) and system (columns).
    labels
        Cells of each component and label, or None.
    """

    component: pd.Series
    probability: pd.Series
    table: pd.DataFrame
    systems: pd.DataFrame
    labels: pd.DataFrame | None


def prior_components(model: SysVI, adata: AnnData, label_key: str | None = None) -> PriorComponents:
    """Say which component of the prior supports each cell best, and whether components are shared by systems.

    A VampPrior or Gaussian mixture may place its components by type, across systems, or by system, which hinders
    mixing. The support of component k for a cell at z, its posterior mean, is the log of what it adds to the prior's
    density:

    - ``mixture="joint"``: log w_k + Σ_d log N(z_d; m_kd, v_kd);
    - ``mixture="dimension"``, where each dimension has a mixture of its own: that of k in all of them,
      Σ_d (log w_k + log N(z_d; m_kd, v_kd)), as in the paper's code. A weight counts once a dimension here.

    Parameters
    ----------
    model
        Trained, with the prior ``"vamp"`` or ``"gmm"``.
    adata
        Cells that fit the model, the training data or others.
    label_key
        Column of ``adata.obs`` with cell types.

    Returns
    -------
    PriorComponents

    Raises
    ------
    InputError
        If the model is untrained or its prior a standard normal, `adata` does not fit the model, or `label_key` is
        missing or incomplete.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", max_epochs=2, progress=False, n_prior_components=3)
    >>> result = prior_components(model, adata, "cell_type")
    >>> int(result.table["n_cells"].sum()), result.table.index.to_list()
    (300, [0, 1, 2])
    """
    prior = model.module.prior
    if not isinstance(prior, MixturePrior):
        raise InputError("A standard normal prior has no components: train with prior='vamp' or 'gmm' to look at them.")
    key = model.vocabulary.system_key
    system = check_obs_column(adata, key, "system")
    label = None if label_key is None else check_obs_column(adata, label_key, "label_key")
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
        labels = _cross_table(best, label, str(label_key), index)
        columns["label"] = labels.idxmax(axis=1).where(n_cells > 0)
        columns["purity"] = (labels.max(axis=1) / n_cells).where(n_cells > 0)
    table = pd.DataFrame(columns, index=index)
    return PriorComponents(
        component, pd.Series(probability, adata.obs_names, name="probability"), table, systems, labels
    )


def _best_component(z: Tensor, mean: Tensor, var: Tensor, log_w: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Best-supported component of each cell and its probability: (n, L), (K, L), (K, L), (K,) -> (n,), (n,)."""
    n = len(z)
    best, probability = np.empty(n, np.int64), np.empty(n)
    rows = max(1, CHUNK // mean.numel())
    for start in range(0, n, rows):
        support = normal_log_density(z[start : start + rows, None], mean, var).sum(2) + log_w  # (rows, K)
        highest, which = support.softmax(1).max(1)
        best[start : start + rows], probability[start : start + rows] = which.numpy(), highest.numpy()
    return best, probability


def _cross_table(component: np.ndarray, category: np.ndarray, name: str, index: pd.RangeIndex) -> pd.DataFrame:
    """Cells of each component, also those without any, and category."""
    table = pd.crosstab(component, pd.Series(category.astype(str), name=name).to_numpy())
    return table.reindex(index, fill_value=0).rename_axis(columns=name)


def _mixing(counts: np.ndarray) -> np.ndarray:
    """Entropy of the systems of each component relative to their sizes, 0 to 1: (K, S) -> (K,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = counts / counts.sum(0)  # of each system, the share of its cells in a component
        p = relative / relative.sum(1, keepdims=True)
        entropy = -np.where(p > 0, p * np.log(p), 0 * p).sum(1)
        return entropy / np.log(counts.shape[1]) if counts.shape[1] > 1 else np.full(len(counts), np.nan)
