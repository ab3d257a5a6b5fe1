"""Simulated counts of cells in several systems, with the truth known: for demos, tests and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray
from scipy import sparse

from sysvi._core.errors import InputError

_BLOCK = 1024  # cells drawn at a time, each block from its own random stream: part of what a seed means
_FEWEST = 3  # cells that every sample, and every type of a system, must get
_LARGEST_EFFECT = 5.0  # natural log: e^5 is 150-fold

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class _Truth:
    """Effects on the log mean: g genes, s systems, t types, b samples (all systems'), p programmes."""

    baseline: Floats  # (g,)
    type_effect: Floats  # (g, t)
    system_effect: Floats  # (g, s)
    interaction: Floats  # (g, s, t)
    sample_effect: Floats  # (g, b)
    programme: Floats  # (g, p)


def simulate_systems(
    n_cells: int = 3000,
    n_genes: int = 2000,
    *,
    n_systems: int = 2,
    n_types: int = 8,
    n_private: int = 1,
    n_samples: int = 3,
    n_programmes: int = 2,
    system_programmes: int = 0,
    n_markers: int = 50,
    n_programme_genes: int = 50,
    baseline_sd: float = 1.5,
    marker_effect: float = 1.5,
    system_effect: float = 1.0,
    interaction: float = 0.3,
    interaction_fraction: float = 0.2,
    sample_effect: float = 0.2,
    programme_effect: float = 2.0,
    imbalance: float = 0.2,
    depth: float = 800.0,
    depth_sd: float = 0.3,
    dispersion: float = 0.2,
    seed: int = 0,
) -> AnnData:
    r"""Simulate single-cell counts of two or more systems that share cell types.

    A *system* is whatever sets whole data sets apart: a species, organoid or tissue, cells or nuclei. Each
    system has its own samples, all the shared cell types, and a few private ones. Effects are on the scale of
    the natural log of the mean.

    Parameters
    ----------
    n_cells
        Cells, shared evenly among the systems, and evenly among the samples of a system.
    n_genes
        Genes, the same in all systems.
    n_systems
        Systems, at least 2.
    n_types
        Cell types in all, the private ones included.
    n_private
        Cell types that are in one system only, for each system; at least one type must be left to share.
    n_samples
        Samples (batches) of each system; a sample belongs to one system.
    n_programmes
        Gene programmes that run in every cell of every system at an activity of its own, uniform in [0, 1]:
        variation within cell types that an integration should keep.
    system_programmes
        Further programmes, each in one shared type of one system only (activity 0 in all other cells), dealt to
        the shared types and to the systems in turn: the hard case for an integration.
    n_markers
        Marker genes of each type; two types may share some.
    n_programme_genes
        Genes of each programme.
    baseline_sd
        Standard deviation over genes of the log of the mean.
    marker_effect
        Mean log fold change of a marker; single markers are uniform from half to one and a half times this.
    system_effect
        Standard deviation of the log fold change of a gene in a system. All genes change.
    interaction
        Standard deviation of the further log fold change of a gene in one type of one system.
    interaction_fraction
        Fraction of the genes, drawn anew for each type of each system, that have such a change.
    sample_effect
        Standard deviation of the log fold change of a gene in a sample. All genes change.
    programme_effect
        Mean log fold change of a programme's gene from activity 0 to 1; single genes as for ``marker_effect``.
    imbalance
        0 makes the types of a system equally frequent; otherwise each is this fraction rarer than the one
        before, in an order that differs between systems. In [0, 1).
    depth
        Median expected library size, in counts per cell.
    depth_sd
        Standard deviation of the log of the library size.
    dispersion
        Overdispersion of the counts: a mean of mu has variance ``mu + dispersion * mu**2``. From 1e-6, which is
        all but Poisson, to 10.
    seed
        Same settings and seed, same data, bit for bit (on one machine). The effects on genes do not depend
        on ``n_cells``.

    Returns
    -------
    AnnData
        n cells by g genes, with

        - ``X``: counts, CSR, float32.
        - ``obs``: ``system``, ``batch`` (the sample, as ``system1_sample2``), ``cell_type`` (categories),
          ``library_size`` (expected counts of the cell), and the activities ``programme_1``, ...,
          ``system_programme_1``, ... (float32).
        - ``var["baseline"]`` and ``varm``: the true effects, ``type_effect`` (g by types), ``system_effect``
          (g by systems), ``interaction`` (g by systems x types, the types of the first system first),
          ``sample_effect`` (g by samples) and ``programme`` (g by programmes).
        - ``uns["simulation"]``: all settings; the names along those columns (``systems``, ``types``,
          ``samples``, ``programmes``); ``shared_types``; ``private_types`` (of each system); and
          ``system_programme_home`` (the system and type of each system programme).

    Raises
    ------
    InputError
        A setting is out of range, no type is left to share, or a sample or a type of a system would get fewer
        than three cells.

    Notes
    -----
    The count of gene g in cell i, of type t, system s and sample b, is

    .. math::

        \eta_{gi} &= \beta_g + T_{gt} + S_{gs} + I_{gst} + B_{gb} + \textstyle\sum_p P_{gp} a_{ip} \\
        \mu_{gi} &= \ell_i \, e^{\eta_{gi}} / \textstyle\sum_h e^{\eta_{hi}} \\
        x_{gi} &\sim \mathrm{Poisson}(\lambda_{gi}), \quad
        \lambda_{gi} \sim \mathrm{Gamma}(\text{shape } 1/\phi, \text{ mean } \mu_{gi})

    with library size :math:`\ell_i`, activities :math:`a_{ip}` and dispersion :math:`\phi`: a negative binomial.
    Counts are drawn a block of cells at a time, so that memory is that of the sparse result.

    Examples
    --------
    >>> from sysvi.data.simulate import simulate_systems
    >>> adata = simulate_systems(n_cells=300, n_genes=200, seed=1)
    >>> adata.shape
    (300, 200)
    >>> list(adata.obs["system"].cat.categories)
    ['system1', 'system2']
    >>> adata.uns["simulation"]["private_types"]
    {'system1': ['type7'], 'system2': ['type8']}
    """
    settings = {name: int(value) if isinstance(value, Integral) else float(value) for name, value in locals().items()}
    _check(settings)
    # A stream for each kind of draw, so that one setting changes no other draw.
    truth_seed, cell_seed, count_seed = SeedSequence(seed).spawn(3)

    programmes = [f"programme_{k + 1}" for k in range(n_programmes)]
    programmes += [f"system_programme_{k + 1}" for k in range(system_programmes)]
    truth = _draw_truth(
        truth_seed,
        (n_genes, n_systems, n_types, n_samples, len(programmes)),
        sets=(n_markers, n_programme_genes),
        effects=(baseline_sd, marker_effect, system_effect, interaction, sample_effect, programme_effect),
        interaction_fraction=interaction_fraction,
    )

    design_rng, depth_rng, activity_rng = map(default_rng, cell_seed.spawn(3))
    n_shared = n_types - n_private * n_systems
    proportions = _type_proportions(n_systems, n_shared, n_private, imbalance, design_rng)
    system, sample, cell_type = _draw_design(n_cells, proportions, n_samples, design_rng)
    library = depth * np.exp(depth_sd * depth_rng.standard_normal(n_cells))  # (n,)
    activity = activity_rng.random((len(programmes), n_cells), dtype=np.float32).T  # (n, p)
    homes = [(k % n_systems, k % n_shared) for k in range(system_programmes)]
    for k, (home_system, home_type) in enumerate(homes, start=n_programmes):
        activity[(system != home_system) | (cell_type != home_type), k] = 0

    group = sample * n_types + cell_type  # (n,) row of the profiles
    counts = _draw_counts(_profiles(truth), group, truth.programme, activity, library, dispersion, count_seed)

    systems = [f"system{s + 1}" for s in range(n_systems)]
    samples = [f"{name}_sample{b + 1}" for name in systems for b in range(n_samples)]
    types = [f"type{t + 1}" for t in range(n_types)]
    obs = pd.DataFrame(
        {
            "system": pd.Categorical.from_codes(system, categories=pd.Index(systems)),
            "batch": pd.Categorical.from_codes(sample, categories=pd.Index(samples)),
            "cell_type": pd.Categorical.from_codes(cell_type, categories=pd.Index(types)),
            "library_size": library.astype(np.float32),
            **{name: activity[:, k] for k, name in enumerate(programmes)},
        },
        index=[f"cell_{i}" for i in range(n_cells)],
    )
    return AnnData(
        X=counts,
        obs=obs,
        var=pd.DataFrame({"baseline": truth.baseline}, index=[f"gene_{g}" for g in range(n_genes)]),
        varm={
            "type_effect": truth.type_effect,
            "system_effect": truth.system_effect,
            "interaction": truth.interaction.reshape(n_genes, -1),
            "sample_effect": truth.sample_effect,
            "programme": truth.programme,
        },
        uns={
            "simulation": {
                **settings,
                "systems": systems,
                "samples": samples,
                "types": types,
                "programmes": programmes,
                "shared_types": types[:n_shared],
                "private_types": {
                    name: types[n_shared + s * n_private :][:n_private] for s, name in enumerate(systems)
                },
                "system_programme_home": {
                    name: {"system": systems[s], "cell_type": types[t]}
                    for name, (s, t) in zip(programmes[n_programmes:], homes, strict=True)
                },
            }
        },
    )


def _check(settings: dict[str, Any]) -> None:
    """Refuse settings that cannot be simulated."""
    fewest = {"n_cells": 1, "n_genes": 2, "n_systems": 2, "n_types": 1, "n_samples": 1}
    fewest |= dict.fromkeys(["n_private", "n_programmes", "system_programmes", "n_markers"], 0)
    fewest |= dict.fromkeys(["n_programme_genes", "seed"], 0)
    for name, least in fewest.items():
        if not isinstance(settings[name], Integral) or settings[name] < least:
            raise InputError(f"{name} must be a whole number of at least {least}, not {settings[name]!r}.")
    for name in ("n_markers", "n_programme_genes"):
        if settings[name] > settings["n_genes"]:
            raise InputError(f"{name} is {settings[name]}, more than the {settings['n_genes']} genes: lower it.")
    effects = ["marker_effect", "system_effect", "interaction", "sample_effect", "programme_effect"]
    for name in [*effects, "baseline_sd", "depth_sd"]:
        if not 0 <= settings[name] <= _LARGEST_EFFECT:
            raise InputError(f"{name} must be from 0 to {_LARGEST_EFFECT:g} (natural log), not {settings[name]!r}.")
    if not 0 <= settings["interaction_fraction"] <= 1:
        raise InputError(f"interaction_fraction must be from 0 to 1, not {settings['interaction_fraction']!r}.")
    if not 0 <= settings["imbalance"] < 1:
        raise InputError(f"imbalance must be at least 0 and below 1, not {settings['imbalance']!r}.")
    for name, low, high in [("depth", 1.0, 1e7), ("dispersion", 1e-6, 10.0)]:
        if not low <= settings[name] <= high:
            raise InputError(f"{name} must be from {low:g} to {high:g}, not {settings[name]!r}.")
    n_types, n_private, n_systems = settings["n_types"], settings["n_private"], settings["n_systems"]
    if n_private * n_systems >= n_types:
        raise InputError(
            f"n_private={n_private} in each of {n_systems} systems leaves none of the {n_types} types to share: "
            "raise n_types or lower n_private."
        )


def _draw_truth(
    seed: SeedSequence,
    sizes: tuple[int, int, int, int, int],
    *,
    sets: tuple[int, int],
    effects: tuple[float, float, float, float, float, float],
    interaction_fraction: float,
) -> _Truth:
    """Draw the effects on genes, each kind from its own stream."""
    g, s, t, n_samples, p = sizes
    n_markers, n_programme_genes = sets
    baseline_sd, marker_effect, system_effect, interaction, sample_effect, programme_effect = effects
    baseline, types, systems, interactions, samples, programmes = map(default_rng, seed.spawn(6))
    changes = interactions.random((g, s, t)) < interaction_fraction
    return _Truth(
        baseline=baseline_sd * baseline.standard_normal(g),
        type_effect=_sparse_effects(g, t, n_markers, marker_effect, types),
        system_effect=system_effect * systems.standard_normal((g, s)),
        interaction=interaction * changes * interactions.standard_normal((g, s, t)),
        sample_effect=sample_effect * samples.standard_normal((g, s * n_samples)),
        programme=_sparse_effects(g, p, n_programme_genes, programme_effect, programmes),
    )


def _sparse_effects(n_genes: int, n_sets: int, size: int, effect: float, rng: Generator) -> Floats:
    """Draw a set of `size` genes for each column, up by 0.5 to 1.5 times `effect`: (g, sets)."""
    effects = np.zeros((n_genes, n_sets))
    for column in effects.T:
        column[rng.choice(n_genes, size, replace=False)] = effect * rng.uniform(0.5, 1.5, size)
    return effects


def _profiles(truth: _Truth) -> NDArray[np.float32]:
    """Proportion of each gene in each type of each sample at programme activity 0: (b * t, g)."""
    n_genes, n_systems, _ = truth.interaction.shape
    n_samples = truth.sample_effect.shape[1] // n_systems
    of_system = truth.system_effect[:, :, None] + truth.interaction  # (g, s, t)
    log_mean = (
        (truth.baseline[:, None] + truth.type_effect)[:, None, :]
        + np.repeat(of_system, n_samples, axis=1)
        + truth.sample_effect[:, :, None]
    ).reshape(n_genes, -1)  # (g, b * t)
    mean = np.exp(log_mean - log_mean.max(axis=0))
    return np.ascontiguousarray((mean / mean.sum(axis=0)).T, dtype=np.float32)


def _type_proportions(n_systems: int, n_shared: int, n_private: int, imbalance: float, rng: Generator) -> Floats:
    """Geometric proportions of the types in each system, in different orders: (s, t), 0 for others' private types."""
    n_here = n_shared + n_private
    geometric = (1 - imbalance) ** np.arange(n_here)
    order = rng.permutation(n_here)
    proportions = np.zeros((n_systems, n_shared + n_systems * n_private))
    for s, row in enumerate(proportions):
        private = n_shared + s * n_private + np.arange(n_private)
        here = np.concatenate([np.arange(n_shared), private])
        row[here[np.roll(order, s * max(1, n_here // n_systems))]] = geometric / geometric.sum()
    return proportions


def _draw_design(n_cells: int, proportions: Floats, n_samples: int, rng: Generator) -> tuple[Ints, Ints, Ints]:
    """Deal the cells to systems, samples and types, in random order: codes, each (n,)."""
    n_systems, n_types = proportions.shape
    parts = []
    for s, expected in enumerate(proportions):
        size = len(range(s, n_cells, n_systems))
        of_type = _apportion(size, expected)
        if min(size // n_samples, of_type[expected > 0].min()) < _FEWEST:
            raise InputError(
                f"n_cells={n_cells} is too few for {n_systems} systems of {n_samples} samples and "
                f"{np.count_nonzero(expected)} types: each must get at least {_FEWEST} cells, so raise n_cells."
            )
        sample = s * n_samples + rng.permutation(size) % n_samples
        parts.append((np.full(size, s), sample, np.repeat(np.arange(n_types), of_type)))
    order = rng.permutation(n_cells)
    system, sample, cell_type = (np.concatenate(part)[order] for part in zip(*parts, strict=True))
    return system, sample, cell_type


def _apportion(total: int, proportions: Floats) -> Ints:
    """Split `total` into whole parts nearest to the proportions (largest remainders): (t,)."""
    exact = total * proportions
    parts = np.floor(exact).astype(np.int64)
    largest = np.argsort(parts - exact, kind="stable")[: total - parts.sum()]
    parts[largest] += 1
    return parts


def _draw_counts(
    profiles: NDArray[np.float32],
    group: Ints,
    programme: Floats,
    activity: NDArray[np.float32],
    library: Floats,
    dispersion: float,
    seed: SeedSequence,
) -> sparse.csr_matrix:
    """Draw the counts of all cells, a block at a time: CSR (n, g)."""
    n_cells, n_genes = len(group), profiles.shape[1]
    changed = np.flatnonzero(programme.any(axis=1))  # genes of any programme
    loading = programme[changed].T.astype(np.float32)  # (p, changed)
    starts = range(0, n_cells, _BLOCK)
    data, indices = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int32)
    indptr = np.zeros(n_cells + 1, dtype=np.int64)
    for start, block_seed in zip(starts, seed.spawn(len(starts)), strict=True):
        cells = slice(start, start + _BLOCK)
        mean = profiles[group[cells]]  # (block, g)
        mean[:, changed] *= np.exp(activity[cells] @ loading)
        mean *= (library[cells] / mean.sum(axis=1, dtype=np.float64)).astype(np.float32)[:, None]
        at, count = _gamma_poisson(mean.ravel(), dispersion, default_rng(block_seed))
        row, gene = np.divmod(at, n_genes)
        done = start + len(mean)
        indptr[start + 1 : done + 1] = indptr[start] + np.cumsum(np.bincount(row, minlength=len(mean)))
        begin, end = indptr[start], indptr[done]
        if end > len(data):  # grow in place to what all cells will need at this rate, and a little more
            _resize(data, indices, int(1.01 * end * n_cells / done))
        data[begin:end], indices[begin:end] = count, gene
    _resize(data, indices, indptr[-1])
    counts = sparse.csr_matrix((data, indices, indptr), shape=(n_cells, n_genes))
    counts.has_canonical_format = True
    return counts


def _gamma_poisson(
    mean: NDArray[np.float32], dispersion: float, rng: Generator
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Draw gamma-Poisson counts: places of those above 0, in order, and the counts there.

    Exact, and fast as most counts are 0. Let events happen at a gamma-distributed rate, of the given mean, for
    unit time; the count is how many happen. The first happens at ``(exp(dispersion * e) - 1) / (dispersion *
    mean)`` with e standard exponential, which is before time 1 only if e < mean. Having seen it at time t, the
    rate is again gamma, with shape ``1 / dispersion + 1`` and inverse scale ``1 / (dispersion * mean) + t``,
    and the other events are Poisson in the time left.
    """
    wait = rng.standard_exponential(mean.shape, dtype=np.float32)
    at = np.flatnonzero(wait < mean)
    scale = dispersion * mean[at].astype(np.float64)  # of the rate
    first = np.expm1(dispersion * wait[at].astype(np.float64)) / scale  # time of the first event
    happens = first < 1
    at, scale, first = at[happens], scale[happens], first[happens]
    rate = rng.standard_gamma(1 / dispersion + 1, at.size) * scale / (1 + scale * first)
    return at, (1 + rng.poisson(rate * (1 - first))).astype(np.float32)


def _resize(data: NDArray[Any], indices: NDArray[Any], length: int) -> None:
    """Lengthen or shorten both arrays in place, which takes no second copy of them."""
    data.resize(length, refcheck=False)
    indices.resize(length, refcheck=False)
