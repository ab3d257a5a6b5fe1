"""Simulated systems: structure, determinism, and agreement with the stated truth."""

import json
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import svds
from scipy.stats import nbinom

from sysvi._core.errors import InputError
from sysvi.data.simulate import simulate_systems

SMALL: dict[str, Any] = {"n_cells": 400, "n_genes": 150}


def same_data(a: ad.AnnData, b: ad.AnnData) -> bool:
    return (
        all(np.array_equal(getattr(a.X, part), getattr(b.X, part)) for part in ("data", "indices", "indptr"))
        and a.obs.equals(b.obs)
        and a.var.equals(b.var)
        and all(np.array_equal(a.varm[key], b.varm[key]) for key in a.varm)
    )


def plain(value: Any) -> Any:
    """Arrays and NumPy scalars, as h5ad gives them back, as lists and Python scalars."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def log_normalised(adata: ad.AnnData) -> np.ndarray:
    counts = adata.X.toarray()
    return np.log1p(1e3 * counts / counts.sum(axis=1, keepdims=True))


def expected_mean(adata: ad.AnnData) -> np.ndarray:
    """Mean of each count from the documented formula, one effect at a time: (n, g)."""
    truth, types = adata.varm, adata.uns["simulation"]["n_types"]
    s, t, b = (adata.obs[key].cat.codes.to_numpy() for key in ("system", "cell_type", "batch"))
    log_mean = adata.var["baseline"].to_numpy() + truth["type_effect"].T[t] + truth["system_effect"].T[s]
    log_mean = log_mean + truth["interaction"].T[s * types + t] + truth["sample_effect"].T[b]
    log_mean = log_mean + adata.obs[adata.uns["simulation"]["programmes"]].to_numpy() @ truth["programme"].T
    mean = np.exp(log_mean)
    return adata.obs["library_size"].to_numpy()[:, None] * mean / mean.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    return simulate_systems(2400, 500, seed=3)


# --- structure


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n_cells=st.integers(400, 1500),
    n_genes=st.integers(20, 80),
    n_systems=st.integers(2, 4),
    n_shared=st.integers(1, 4),
    n_private=st.integers(0, 2),
    n_samples=st.integers(1, 3),
    n_programmes=st.integers(0, 3),
    system_programmes=st.integers(0, 3),
    imbalance=st.floats(0, 0.4),
    dispersion=st.floats(1e-6, 10),
    seed=st.integers(0, 2**64),
)
def test_structure_holds_for_any_settings(n_shared: int, **kwargs: Any) -> None:
    n_systems, n_private = kwargs["n_systems"], kwargs["n_private"]
    n_types = n_shared + n_systems * n_private
    adata = simulate_systems(**kwargs, n_types=n_types, n_markers=5, n_programme_genes=5)
    obs, simulation = adata.obs, adata.uns["simulation"]

    assert adata.shape == (kwargs["n_cells"], kwargs["n_genes"])
    assert sparse.isspmatrix_csr(adata.X)
    assert adata.X.dtype == np.float32
    fresh = sparse.csr_matrix((adata.X.data, adata.X.indices, adata.X.indptr), shape=adata.shape)
    assert fresh.has_canonical_format  # sorted, none twice: found by looking, not by the flag
    assert len(adata.X.data) == adata.X.indptr[-1]
    assert (adata.X.data >= 1).all()
    assert np.array_equal(adata.X.data, np.round(adata.X.data))

    assert obs["system"].value_counts().max() - obs["system"].value_counts().min() <= 1
    assert (obs["batch"].astype(str).str.split("_").str[0] == obs["system"].astype(str)).all()
    assert obs["batch"].nunique() == n_systems * kwargs["n_samples"]
    cells = pd.crosstab(obs["system"], obs["cell_type"], dropna=False)
    assert (cells[simulation["shared_types"]] >= 3).all(axis=None)
    for system, private in simulation["private_types"].items():
        assert len(private) == n_private
        assert (cells.loc[system, private] >= 3).all()
        assert (cells.loc[cells.index != system, private] == 0).all(axis=None)

    names = simulation["programmes"]
    assert len(names) == kwargs["n_programmes"] + kwargs["system_programmes"]
    assert all(obs[name].dtype == np.float32 and obs[name].between(0, 1).all() for name in names)
    for name, home in simulation["system_programme_home"].items():
        at_home = (obs["system"] == home["system"]) & (obs["cell_type"] == home["cell_type"])
        assert (obs.loc[~at_home, name] == 0).all()
        assert obs.loc[at_home, name].max() > 0
        assert home["cell_type"] in simulation["shared_types"]
    widths = {key: adata.varm[key].shape[1] for key in adata.varm}
    assert widths == {
        "type_effect": n_types,
        "system_effect": n_systems,
        "interaction": n_systems * n_types,
        "sample_effect": n_systems * kwargs["n_samples"],
        "programme": len(names),
    }
    json.dumps(simulation)


def test_names_and_categories(adata: ad.AnnData) -> None:
    assert list(adata.obs_names[:2]) == ["cell_0", "cell_1"]
    assert list(adata.var_names[:2]) == ["gene_0", "gene_1"]
    assert list(adata.obs["batch"].cat.categories[2:4]) == ["system1_sample3", "system2_sample1"]
    assert list(adata.obs["cell_type"].cat.categories) == adata.uns["simulation"]["types"]


def test_types_are_unbalanced_in_and_between_systems(adata: ad.AnnData) -> None:
    shared = adata.uns["simulation"]["shared_types"]
    cells = pd.crosstab(adata.obs["system"], adata.obs["cell_type"])
    assert (cells.replace(0, np.nan).max(axis=1) > 3 * cells.replace(0, np.nan).min(axis=1)).all()
    assert cells.loc["system1", shared].idxmax() != cells.loc["system2", shared].idxmax()
    even = simulate_systems(**SMALL, imbalance=0, n_types=4, n_private=0)
    assert pd.crosstab(even.obs["system"], even.obs["cell_type"]).eq(50).all(axis=None)


def test_h5ad_round_trip(adata: ad.AnnData, tmp_path: Any) -> None:
    for k, written in enumerate([adata, simulate_systems(**SMALL, n_private=0, n_programmes=0, system_programmes=1)]):
        written.write_h5ad(tmp_path / f"{k}.h5ad")
        read = ad.read_h5ad(tmp_path / f"{k}.h5ad")
        assert same_data(written, read)
        assert plain(read.uns["simulation"]) == written.uns["simulation"]


# --- determinism


def test_same_seed_same_bits_and_global_state_untouched() -> None:
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (simulate_systems(1500, 100, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert same_data(first, again)
    assert (first.X != other.X).nnz > 0
    assert not np.array_equal(first.varm["system_effect"], other.varm["system_effect"])


def test_truth_is_the_same_for_more_cells_or_other_effects() -> None:
    base = simulate_systems(**SMALL)
    more = simulate_systems(2500, SMALL["n_genes"])
    assert all(np.array_equal(base.varm[key], more.varm[key]) for key in base.varm)
    weak = simulate_systems(**SMALL, system_effect=0.5, n_programmes=0)
    assert np.allclose(2 * weak.varm["system_effect"], base.varm["system_effect"])
    assert weak.obs[["system", "batch", "cell_type", "library_size"]].equals(
        base.obs[["system", "batch", "cell_type", "library_size"]]
    )


# --- distribution


@pytest.mark.parametrize("dispersion", [1e-6, 0.3, 3.0])
def test_counts_are_gamma_poisson_with_the_documented_mean(dispersion: float) -> None:
    adata = simulate_systems(
        24_000, 60, n_types=2, n_private=0, n_samples=2, n_programmes=0, n_markers=20,
        depth=100, depth_sd=0, dispersion=dispersion, interaction_fraction=0.5, seed=11,
    )  # fmt: skip
    counts, mean = adata.X.toarray().astype(np.float64), expected_mean(adata)
    for _, cells in adata.obs.groupby(["batch", "cell_type"], observed=True).indices.items():
        x, mu, n = counts[cells], mean[cells[0]], len(cells)
        assert np.allclose(mean[cells], mu, rtol=1e-5)
        variance = mu + dispersion * mu**2
        assert (np.abs(x.mean(axis=0) - mu) < 5 * np.sqrt(variance / n)).all()
        # Standard error of the variance from the fourth central moment of the negative binomial.
        size, p = 1 / dispersion, 1 / (1 + dispersion * mu)
        fourth = (3 + nbinom.stats(size, p, moments="k")) * variance**2
        error = np.sqrt((fourth - variance**2) / n)
        common = mu > 0.05  # rarer genes have too few counts for a normal variance
        assert (np.abs(x.var(axis=0) - variance) < 6 * error)[common].all()
        zero = nbinom.pmf(0, size, p)
        assert (np.abs((x == 0).mean(axis=0) - zero) < 5 * np.sqrt(zero * (1 - zero) / n) + 1e-3).all()


def test_whole_distribution_of_one_count() -> None:
    adata = simulate_systems(
        60_000, 5, n_types=1, n_private=0, n_samples=1, n_programmes=0, n_markers=0, n_programme_genes=0,
        system_effect=0, interaction=0, sample_effect=0, baseline_sd=0, depth=15, depth_sd=0, dispersion=0.5,
    )  # fmt: skip
    x = adata.X.toarray().astype(int)
    counts = np.bincount(x.ravel(), minlength=31)[:31]  # mean 3 in every gene
    expected = nbinom.pmf(np.arange(31), 2, 1 / 2.5) * adata.n_obs * adata.n_vars
    assert np.sum((counts - expected) ** 2 / expected) < 31 + 5 * np.sqrt(2 * 31)  # chi-square
    assert np.abs(np.corrcoef(x[:1024].ravel(), x[1024:2048].ravel())[0, 1]) < 0.1  # blocks have their own streams


def test_programmes_enter_the_mean(adata: ad.AnnData) -> None:
    counts, mean = adata.X.toarray(), expected_mean(adata)
    variance = mean + adata.uns["simulation"]["dispersion"] * mean**2
    z = (counts - mean) / np.sqrt(variance)
    for name in adata.uns["simulation"]["programmes"]:
        high = adata.obs[name].to_numpy() > 0.5
        for half in (high, ~high):
            total = (counts - mean)[half].sum(axis=0) / np.sqrt(variance[half].sum(axis=0))  # about N(0, 1)
            assert np.abs(total).max() < 6
    assert abs(np.square(z).mean() - 1) < 0.03


def test_library_sizes(adata: ad.AnnData) -> None:
    expected = adata.obs["library_size"].to_numpy()
    observed = np.asarray(adata.X.sum(axis=1)).ravel()
    assert np.corrcoef(expected, observed)[0, 1] > 0.8
    assert abs(np.log(observed.sum() / expected.sum())) < 0.02
    assert abs(np.log(np.median(expected) / 800)) < 0.03
    assert abs(np.log(expected).std() - 0.3) < 0.02


# --- biology


@pytest.mark.parametrize(("system_effect", "apart"), [(0.0, False), (1.0, True)])
def test_system_effect_separates_systems(system_effect: float, apart: bool) -> None:
    adata = simulate_systems(
        1500, 500, system_effect=system_effect, interaction=0, sample_effect=0, n_programmes=0, n_private=0,
        n_types=4, imbalance=0, seed=2,
    )  # fmt: skip
    profiles = pd.DataFrame(log_normalised(adata)).groupby(
        [adata.obs["system"].to_numpy(), adata.obs["cell_type"].to_numpy()], observed=True
    ).mean().to_numpy().reshape(2, 4, -1)  # (systems, types, g)  # fmt: skip
    between_systems = np.linalg.norm(profiles[0] - profiles[1], axis=1).max()
    between_types = min(np.linalg.norm(p[i] - p[j]) for p in profiles for i in range(4) for j in range(i))
    if apart:
        assert between_systems > 1.5 * between_types
    else:
        assert between_systems < 0.5 * between_types


def test_first_component_is_the_system_at_the_default(adata: ad.AnnData) -> None:
    x = log_normalised(adata)
    first = svds(x - x.mean(axis=0), k=1, random_state=0)[0][:, 0]
    assert abs(np.corrcoef(first, adata.obs["system"].cat.codes)[0, 1]) > 0.95


def test_programmes_raise_their_genes(adata: ad.AnnData) -> None:
    x = log_normalised(adata)
    for k, name in enumerate(adata.uns["simulation"]["programmes"]):
        genes = adata.varm["programme"][:, k] > 0
        assert genes.sum() == 50
        for _, cells in adata.obs.groupby(["system", "cell_type"], observed=True).indices.items():
            assert np.corrcoef(x[cells][:, genes].mean(axis=1), adata.obs[name].iloc[cells])[0, 1] > 0.5


def test_interaction_changes_the_stated_fraction() -> None:
    changed = simulate_systems(**SMALL, interaction_fraction=0.2).varm["interaction"] != 0
    assert abs(changed.mean() - 0.2) < 0.03
    assert not simulate_systems(**SMALL, interaction=0).varm["interaction"].any()


# --- errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_systems": 1}, "n_systems is 1; it must be a whole number of 2 or more"),
        ({"n_cells": 300.5}, "n_cells is 300.5; it must be a whole number"),
        ({"n_private": -1}, "n_private"),
        ({"n_private": 4}, "leaves none of the 8 types to share"),
        ({"n_cells": 40}, "n_cells=40 is too few"),
        ({"n_samples": 100}, "too few"),
        ({"imbalance": 0.9}, "too few"),
        ({"imbalance": 1.0}, "imbalance"),
        ({"system_effect": -1.0}, "system_effect is -1.0; it must be at least 0 and at most 5"),
        ({"programme_effect": 50.0}, "programme_effect"),
        ({"sample_effect": float("nan")}, "sample_effect"),
        ({"interaction_fraction": 1.5}, "interaction_fraction"),
        ({"n_markers": 151}, "more than the 150 genes"),
        ({"n_programme_genes": 151}, "more than the 150 genes"),
        ({"dispersion": 0.0}, "dispersion is 0.0; it must be at least 1e-06 and at most 10"),
        ({"depth": 0.0}, "depth"),
        ({"seed": -1}, "seed"),
        ({"depth": "deep"}, "depth is 'deep'; it must be at least 1 and at most 1e"),
        ({"imbalance": None}, "imbalance is None; it must be at least 0 and below 1"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate_systems(**{**SMALL, **wrong})
