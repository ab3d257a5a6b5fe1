"""Cell type labels: which cells have one, and samples of cells that keep the shares of labels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.checks import check_obs_column, listing
from sysvi._core.errors import InputError

UNLABELLED = ("", "nan", "na", "none", "unlabelled", "unlabeled", "unknown", "unassigned")


def read_labels(
    adata: AnnData, key: str | None, unlabelled: Iterable[str] = UNLABELLED
) -> tuple[np.ndarray | None, np.ndarray]:
    """Label of each cell, and which cells have one, both (n,)."""
    if key is None:
        return None, np.ones(adata.n_obs, bool)
    if key not in adata.obs:
        raise InputError(
            f"label_key={key!r} is not a column of adata.obs: choose one of its columns ({listing(adata.obs.columns)})."
        )
    label = adata.obs[key].astype(str).to_numpy(dtype=object)
    meaningless = {str(name).lower() for name in unlabelled}
    labelled = adata.obs[key].notna().to_numpy() & ~np.isin([name.strip().lower() for name in label], list(meaningless))
    if not labelled.any():
        raise InputError(f"adata.obs[{key!r}] (label_key) labels no cell: choose another column, or give none.")
    return label, labelled


def stratified_sample(adata: AnnData, system_key: str, label_key: str | None, n: int, seed: int) -> np.ndarray:
    """N cells drawn at random, as large a share of each system and label as of all; sorted rows."""
    keys = [check_obs_column(adata, system_key, "system_key")]
    if label_key is not None and label_key in adata.obs:
        label = adata.obs[label_key]
        keys.append(np.where(label.isna(), "", label.astype(str)))
    stratum = pd.Series(0, index=range(adata.n_obs)).groupby(keys).ngroup().to_numpy()  # (n_obs,)
    random = np.random.default_rng(seed).permutation(adata.n_obs)
    order = random[np.argsort(stratum[random], kind="stable")]  # strata one after another, each in random order
    return np.sort(order[np.linspace(0, adata.n_obs, n, endpoint=False).astype(np.int64)])
