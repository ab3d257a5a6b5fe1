"""Differential expression as a method of models, with the arguments of scvi-tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd
from anndata import AnnData

if TYPE_CHECKING:
    from sysvi.api.sysvi import SysVI


class DifferentialMethodsOfScvi:
    """Differential expression of models and ensembles, as in scvi-tools."""

    def differential_expression(
        self,
        adata: AnnData | None = None,
        groupby: str | None = None,
        group1: Sequence[str] | str | None = None,
        group2: str | None = None,
        idx1: Sequence[int] | np.ndarray | str | None = None,
        idx2: Sequence[int] | np.ndarray | str | None = None,
        mode: Literal["vanilla", "change"] = "vanilla",
        delta: float = 0.25,
        batch_size: int | None = None,
        all_stats: bool = True,
        batch_correction: bool = False,
        batchid1: Sequence[str] | None = None,
        batchid2: Sequence[str] | None = None,
        fdr_target: float = 0.05,
        silent: bool = False,
        weights: str | None = "uniform",
        filter_outlier_cells: bool = False,
        importance_weighting_kwargs: Mapping[str, Any] | None = None,
        dataloader: None = None,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Compare the expression that the model decodes for two groups of cells.

        :func:`sysvi.differential_expression` with the defaults of scvi-tools: it says what is computed, and why cells
        are not replicates.

        Parameters
        ----------
        adata
            The cells; the model's own by default.
        groupby, group1, group2, idx1, idx2, delta, batch_size, all_stats, batch_correction, batchid1, batchid2
            As in :func:`sysvi.differential_expression`; scvi-tools' batches are **systems**.
        fdr_target, filter_outlier_cells, seed
            As there.
        mode
            ``"vanilla"`` or ``"change"``; the function's default is the other one.
        silent
            Report nothing.
        weights
            Must be None or ``"uniform"``: all samples count the same.
        importance_weighting_kwargs, dataloader
            Accepted for compatibility; must be None.
        **kwargs
            `n_samples_overall`, `test_mode`, `pseudocounts` and `cred_interval_lvls` of the function.

        Returns
        -------
        pandas.DataFrame
            As of the function.

        Raises
        ------
        InputError
            As the function, or if an argument is not supported.

        Examples
        --------
        >>> import sysvi
        >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
        >>> sysvi.SysVI.setup_anndata(adata, batch_key="system")
        >>> model = sysvi.SysVI(adata)
        >>> model.train(max_epochs=2, progress=False)
        >>> table = model.differential_expression(groupby="cell_type", group1="type1", mode="change", silent=True)
        >>> table["comparison"].unique().tolist()
        ['type1 vs Rest']
        """
        from sysvi.api.differential_expression import as_scvi_tools  # which imports the classes of models

        groups: dict[str, Any] = {"groupby": groupby, "group1": group1, "group2": group2, "idx1": idx1, "idx2": idx2}
        settings: dict[str, Any] = {"mode": mode, "delta": delta, "batch_size": batch_size, "all_stats": all_stats}
        settings |= {"batch_correction": batch_correction, "batchid1": batchid1, "batchid2": batchid2}
        settings |= {"fdr_target": fdr_target, "filter_outlier_cells": filter_outlier_cells, "seed": seed}
        return as_scvi_tools(
            cast("SysVI", self),
            adata,
            groups,
            settings,
            kwargs,
            silent=silent,
            weights=weights,
            importance_weighting_kwargs=importance_weighting_kwargs,
            dataloader=dataloader,
        )
