"""Simulated counts of cells in several systems with known true effects, for demonstrations, tests and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray
from scipy import sparse

from sysvi._core.errors import InputError
from sysvi._core.memory import check_memory
from sysvi._core.settings import Limits, number, random_seed, whole_number

_BLOCK = 1024  # cells drawn together from one random stream; changing it changes the counts of every seed
_MIN_CELLS = 3  # cells of every sample, and of every type of a system
_MAX_EFFECT = 5.0  # natural log: e^5 is 150-fold

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class _Truth:
    """True effects on the log of the mean: g genes, s systems, t types, b samples (of all systems), p programmes."""

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

    A *system* is what separates whole data sets: species, organoid or tissue, cells or nuclei. Each system has its own
    samples, all shared cell types, and a few private ones. Effects are on the scale of the natural log of the mean.

    Parameters
    ----------
    n_cells
        Number of cells, divided evenly among the systems, and evenly among the samples of a system.
    n_genes
        Number of genes, the same in all systems.
    n_systems
        Number of systems, at least 2.
    n_types
        Number of cell types in total, including the private ones.
    n_private
        Number of cell types of each system that no other system has; at least one type must be left to share.
    n_samples
        Number of samples (batches) of each system; a sample belongs to one system.
    n_programmes
        Number of gene programmes that are active in every cell of every system, with an activity that is uniform in
        [0, 1]: variation within cell types that an integration should keep.
    system_programmes
        Number of further programmes, each in one shared type of one system only (activity 0 in all other cells),
        assigned to the shared types and to the systems in turn: the hard case for an integration.
    n_markers
        Number of marker genes of each type; two types may share some.
    n_programme_genes
        Number of genes of each programme.
    baseline_sd
        Standard deviation over genes of the log of the mean.
    marker_effect
        Mean log fold change of a marker gene; single genes are uniform from 0.5 to 1.5 times this.
    system_effect
        Standard deviation of the log fold change of a gene in a system. All genes change.
    interaction
        Standard deviation of the additional log fold change of a gene in one type of one system.
    interaction_fraction
        Fraction of the genes, drawn for each type of each system, that have such an additional change.
    sample_effect
        Standard deviation of the log fold change of a gene in a sample. All genes change.
    programme_effect
        Mean log fold change of a programme's gene from activity 0 to 1; single genes vary as for ``marker_effect``.
    imbalance
        Fraction by which each type of a system is rarer than the one before, in an order that differs between systems;
        in [0, 1). With 0 all types of a system are equally frequent.
    depth
        Median expected library size, in counts per cell.
    depth_sd
        Standard deviation of the log of the library size.
    dispersion
        Overdispersion of the counts: a mean of mu has variance ``mu + dispersion * mu**2``. From 1e-6, which is
        practically Poisson, to 10.
    seed
        Random seed. The same settings and seed give the same data, bit for bit (on one machine). The effects on genes
        do not depend on ``n_cells``.

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
        - ``uns["simulation"]``: all settings; the names that belong to those columns (``systems``, ``types``,
          ``samples``, ``programmes``); ``shared_types``; ``private_types`` (of each system); and
          ``system_programme_home`` (the system and type of each system programme).

    Raises
    ------
    InputError
        If a setting is out of range, no type is left to share, or a sample or a type of a system would have fewer than
        three cells.

    Notes
    -----
    The count of gene g in cell i, of type t, system s and sample b, is

    .. math::

        \eta_{gi} &= \beta_g + T_{gt} + S_{gs} + I_{gst} + B_{gb} + {\textstyle \sum_p} P_{gp} a_{ip} \\
        \mu_{gi} &= \ell_i \, e^{\eta_{gi}} / {\textstyle \sum_h} e^{\eta_{hi}} \\
        x_{gi} &\sim \mathrm{Poisson}(\lambda_{gi}), \quad
        \lambda_{gi} \sim \mathrm{Gamma}(\text{shape } 1/\phi, \text{ mean } \mu_{gi})

    with library size :math:`\ell_i`, activities :math:`a_{ip}` and dispersion :math:`\phi`: a negative binomial.
    Counts are drawn in blocks of cells, so that only the sparse result takes memory.

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
    settings = _check(locals())
    # One random stream for each kind of draw, so that a setting changes only the draws that it concerns.
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

    group = sample * n_types + cell_type  # (n,) row of each cell in the profiles
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


def _check(settings: dict[str, Any]) -> dict[str, Any]:
    """Check the arguments of `simulate_systems` and return them as plain numbers."""
    least = {"n_cells": 1, "n_genes": 2, "n_systems": 2, "n_types": 1, "n_samples": 1}
    least |= dict.fromkeys(["n_private", "n_programmes", "system_programmes", "n_markers"], 0)
    least["n_programme_genes"] = 0
    effects = ["marker_effect", "system_effect", "interaction", "sample_effect", "programme_effect"]
    limits = dict.fromkeys([*effects, "baseline_sd", "depth_sd"], Limits(0.0, _MAX_EFFECT))
    limits |= {"interaction_fraction": Limits(0.0, 1.0), "imbalance": Limits(0.0, 1.0, max_open=True)}
    limits |= {"depth": Limits(1.0, 1e7), "dispersion": Limits(1e-6, 10.0)}
    checked: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "seed":
            checked[name] = random_seed(value)
        elif name in least:
            checked[name] = whole_number(name, value, least[name])
        else:
            checked[name] = number(name, value, limits[name])
    for name in ("n_markers", "n_programme_genes"):
        if checked[name] > checked["n_genes"]:
            raise InputError(f"{name} is {checked[name]}, more than the {checked['n_genes']} genes: lower it.")
    n_types, n_private, n_systems = checked["n_types"], checked["n_private"], checked["n_systems"]
    if n_private * n_systems >= n_types:
        raise InputError(
            f"n_private={n_private} in each of {n_systems} systems leaves none of the {n_types} types to share: "
            "raise n_types or lower n_private."
        )
    n_programmes = checked["n_programmes"] + checked["system_programmes"]
    n_profiles = n_systems * checked["n_samples"] * n_types
    check_memory(
        8 * checked["n_genes"] * (n_profiles + n_programmes) + 4 * checked["n_cells"] * (10 + n_programmes),
        f"Simulating {checked['n_cells']:,} cells and {checked['n_genes']:,} genes",
        "lower the numbers of cells, genes, systems, types, samples or programmes",
    )
    return checked


def _draw_truth(
    seed: SeedSequence,
    sizes: tuple[int, int, int, int, int],
    *,
    sets: tuple[int, int],
    effects: tuple[float, float, float, float, float, float],
    interaction_fraction: float,
) -> _Truth:
    """Draw the effects on genes, each kind from its own random stream.

    Parameters
    ----------
    seed
        Seed of all streams.
    sizes
        Numbers of genes, systems, types, samples of each system, and programmes.
    sets
        Numbers of markers of each type and of genes of each programme.
    effects
        The settings baseline_sd, marker_effect, system_effect, interaction, sample_effect and programme_effect.
    interaction_fraction
        Fraction of the genes with an interaction.
    """
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
    """Draw sets of `size` genes with effects of 0.5 to 1.5 times `effect`; 0 for all other genes: (g, n_sets)."""
    effects = np.zeros((n_genes, n_sets))
    for column in effects.T:
        column[rng.choice(n_genes, size, replace=False)] = effect * rng.uniform(0.5, 1.5, size)
    return effects


def _profiles(truth: _Truth) -> NDArray[np.float32]:
    """Compute the expected proportion of each gene in each type of each sample without programmes: (b * t, g)."""
    n_genes, n_systems, _ = truth.interaction.shape
    n_samples = truth.sample_effect.shape[1] // n_systems
    system_and_type = truth.system_effect[:, :, None] + truth.interaction  # (g, s, t)
    log_mean = (
        (truth.baseline[:, None] + truth.type_effect)[:, None, :]
        + np.repeat(system_and_type, n_samples, axis=1)
        + truth.sample_effect[:, :, None]
    ).reshape(n_genes, -1)  # (g, b * t)
    mean = np.exp(log_mean - log_mean.max(axis=0))
    return np.ascontiguousarray((mean / mean.sum(axis=0)).T, dtype=np.float32)


def _type_proportions(n_systems: int, n_shared: int, n_private: int, imbalance: float, rng: Generator) -> Floats:
    """Compute the proportion of each type in each system, geometric in an order that differs between systems.

    Returns
    -------
    numpy.ndarray
        (s, t); 0 for the private types of other systems.
    """
    n_present = n_shared + n_private
    geometric = (1 - imbalance) ** np.arange(n_present)
    order = rng.permutation(n_present)
    proportions = np.zeros((n_systems, n_shared + n_systems * n_private))
    for s, row in enumerate(proportions):
        private = n_shared + s * n_private + np.arange(n_private)
        present = np.concatenate([np.arange(n_shared), private])
        row[present[np.roll(order, s * max(1, n_present // n_systems))]] = geometric / geometric.sum()
    return proportions


def _draw_design(n_cells: int, proportions: Floats, n_samples: int, rng: Generator) -> tuple[Ints, Ints, Ints]:
    """Assign cells to systems, samples and types in random order; return the three codes, (n,) each."""
    n_systems, n_types = proportions.shape
    parts = []
    for s, expected in enumerate(proportions):
        size = len(range(s, n_cells, n_systems))
        n_per_type = _apportion(size, expected)
        if min(size // n_samples, n_per_type[expected > 0].min()) < _MIN_CELLS:
            raise InputError(
                f"n_cells={n_cells} is too few for {n_systems} systems of {n_samples} samples and "
                f"{np.count_nonzero(expected)} types: each must get at least {_MIN_CELLS} cells, so raise n_cells."
            )
        sample = s * n_samples + rng.permutation(size) % n_samples
        parts.append((np.full(size, s), sample, np.repeat(np.arange(n_types), n_per_type)))
    order = rng.permutation(n_cells)
    system, sample, cell_type = (np.concatenate(part)[order] for part in zip(*parts, strict=True))
    return system, sample, cell_type


def _apportion(total: int, proportions: Floats) -> Ints:
    """Divide `total` into whole numbers close to the proportions, by the largest-remainder method: (t,)."""
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
    """Draw the counts of all cells in blocks.

    Parameters
    ----------
    profiles
        Expected proportions of the genes in each group of cells at programme activity 0, (groups, g).
    group
        Group of each cell, (n,).
    programme
        Effects of the programmes on the log mean, (g, p).
    activity
        Activity of the programmes in each cell, (n, p).
    library
        Expected library size of each cell, (n,).
    dispersion
        Overdispersion of the counts.
    seed
        Seed of the blocks' random streams.

    Returns
    -------
    scipy.sparse.csr_matrix
        Counts, (n, g), float32.
    """
    n_cells, n_genes = len(group), profiles.shape[1]
    changed = np.flatnonzero(programme.any(axis=1))  # genes of at least one programme
    loading = programme[changed].T.astype(np.float32)  # (p, changed)
    starts = range(0, n_cells, _BLOCK)
    data, indices = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int32)
    indptr = np.zeros(n_cells + 1, dtype=np.int64)
    for start, block_seed in zip(starts, seed.spawn(len(starts)), strict=True):
        cells = slice(start, start + _BLOCK)
        mean = profiles[group[cells]]  # (block, g)
        mean[:, changed] *= np.exp(activity[cells] @ loading)
        mean *= (library[cells] / mean.sum(axis=1, dtype=np.float64)).astype(np.float32)[:, None]
        position, count = _gamma_poisson(mean.ravel(), dispersion, default_rng(block_seed))
        row, gene = np.divmod(position, n_genes)
        done = start + len(mean)
        indptr[start + 1 : done + 1] = indptr[start] + np.cumsum(np.bincount(row, minlength=len(mean)))
        begin, end = indptr[start], indptr[done]
        if end > len(data):  # grow to the expected size of the result, and 1% more
            _resize(data, indices, int(1.01 * end * n_cells / done))
        data[begin:end], indices[begin:end] = count, gene
    _resize(data, indices, indptr[-1])
    counts = sparse.csr_matrix((data, indices, indptr), shape=(n_cells, n_genes))
    counts.has_canonical_format = True
    return counts


def _gamma_poisson(
    mean: NDArray[np.float32], dispersion: float, rng: Generator
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Draw gamma-Poisson (negative binomial) counts, and return only the nonzero ones.

    Exact, and fast because most counts are 0. The count is the number of events in a unit of time, if events happen
    at a gamma-distributed rate with the given mean. The first event happens at time ``(exp(dispersion * e) - 1) /
    (dispersion * mean)`` with e standard exponential, which can be before time 1 only if e < mean. Given that it
    happens at time t, the rate is gamma-distributed with shape ``1 / dispersion + 1`` and inverse scale ``1 /
    (dispersion * mean) + t``, and the number of further events until time 1 is Poisson-distributed.

    Parameters
    ----------
    mean
        Expected counts, (m,).
    dispersion
        Overdispersion of the counts.
    rng
        Random generator.

    Returns
    -------
    position : numpy.ndarray
        Positions of the nonzero counts in `mean`, ascending.
    count : numpy.ndarray
        The nonzero counts.
    """
    wait = rng.standard_exponential(mean.shape, dtype=np.float32)
    position = np.flatnonzero(wait < mean)
    scale = dispersion * mean[position].astype(np.float64)  # of the gamma distribution of the rate
    first = np.expm1(dispersion * wait[position].astype(np.float64)) / scale  # time of the first event
    happens = first < 1
    position, scale, first = position[happens], scale[happens], first[happens]
    rate = rng.standard_gamma(1 / dispersion + 1, position.size) * scale / (1 + scale * first)
    return position, (1 + rng.poisson(rate * (1 - first))).astype(np.float32)


def _resize(data: NDArray[Any], indices: NDArray[Any], length: int) -> None:
    """Resize both arrays in place, without a second copy in memory."""
    data.resize(length, refcheck=False)
    indices.resize(length, refcheck=False)
