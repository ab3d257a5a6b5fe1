"""Choosing the cells at which the components of a prior start.

Shapes: n cells, K prior components.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from sysvi._core.errors import InputError
from sysvi._core.settings import PRIORS, ModelSettings


def choose_pseudoinput_rows(
    settings: ModelSettings,
    system: np.ndarray,
    system_names: Sequence[str],
    label: np.ndarray | None,
    seed: int,
) -> np.ndarray | None:
    """Draw the rows of the cells at which the prior's components start.

    Parameters
    ----------
    settings
        Prior, number of components and kind of pseudo-inputs.
    system
        System of each cell as a code, (n,).
    system_names
        Names of the systems, by code.
    label
        Cell type label of each cell, (n,), empty for unlabelled cells; needed for ``"balanced_label"`` only.
    seed
        Random seed of the draw.

    Returns
    -------
    numpy.ndarray or None
        Rows, (K,); None if the components do not start at cells.

    Raises
    ------
    InputError
        If settings contradict each other, or a system or labels that they need are missing.

    Examples
    --------
    >>> settings = ModelSettings(pseudoinputs="balanced_system", n_prior_components=4)
    >>> system = np.array([0] * 90 + [1] * 10)
    >>> rows = choose_pseudoinput_rows(settings, system, ["human", "mouse"], None, seed=0)
    >>> np.bincount(system[rows]).tolist()
    [2, 2]
    """
    prior = PRIORS[settings.prior]
    if not prior.starts_at_cells:
        return None
    if settings.pseudoinputs == "noise":
        if not prior.starts_at_random:
            raise InputError(
                f"pseudoinputs='noise' starts a Gaussian mixture (prior='gmm'); prior={settings.prior!r} needs cells."
            )
        return None
    if settings.pseudoinputs == "random":
        groups = [np.arange(len(system))]
    elif settings.pseudoinputs == "system":
        name = settings.pseudoinputs_system
        if name is None or name not in system_names:
            raise InputError(
                f"pseudoinputs_system is {name!r}; it must be one of the systems {', '.join(system_names)}."
            )
        groups = [np.flatnonzero(system == list(system_names).index(name))]
    elif settings.pseudoinputs == "balanced_system":
        groups = _groups(system)
    else:
        if label is None:
            raise InputError("pseudoinputs='balanced_label' needs pseudoinputs_label_key, a column of adata.obs.")
        groups = [rows for rows in _groups(label) if label[rows[0]] != ""]
    return _draw_evenly(groups, settings.n_prior_components, np.random.default_rng([seed, 1]))


def check_pseudoinput_rows(rows: Sequence[int] | np.ndarray, n_components: int, n_cells: int) -> np.ndarray:
    """Rows that the user gave, one for each prior component, as int64 (K,).

    Raises
    ------
    InputError
        If there are more or fewer than K rows, or one is not the row of a cell.
    """
    if not isinstance(rows, Iterable):
        raise InputError(f"pseudoinputs_data_indices is of type {type(rows).__name__}; give a list of rows.")
    rows = np.asarray(rows)
    if rows.ndim != 1 or len(rows) != n_components:
        raise InputError(
            f"pseudoinputs_data_indices has shape {rows.shape}; n_prior_components={n_components} rows are needed."
        )
    if not np.issubdtype(rows.dtype, np.integer) or rows.min() < 0 or rows.max() >= n_cells:
        raise InputError(f"pseudoinputs_data_indices must be whole numbers from 0 to {n_cells - 1}.")
    return rows.astype(np.int64)


def _groups(values: np.ndarray) -> list[np.ndarray]:
    """Rows of each distinct value, in the order of the values."""
    return [np.flatnonzero(values == value) for value in np.unique(values)]


def _draw_evenly(groups: Sequence[np.ndarray], n_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Draw equally many rows from every group, the remainder from random groups; repeats only in too small groups."""
    sizes = np.full(len(groups), n_rows // len(groups))
    sizes[rng.permutation(len(groups))[: n_rows % len(groups)]] += 1
    drawn = [rng.choice(group, size, replace=size > len(group)) for group, size in zip(groups, sizes, strict=True)]
    return np.concatenate(drawn)
