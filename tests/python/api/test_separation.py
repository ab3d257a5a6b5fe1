"""Systems that an embedding leaves apart."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

import sysvi
from sysvi.api import separation as apart
from sysvi.api.separation import cross_system_neighbors, report_weak_effect, warn_about_separated_systems


def cells(sizes, shifts, seed=0):
    """A cloud of cells for each system, moved by its shift: embedding and system."""
    rng = np.random.default_rng(seed)
    clouds = [rng.normal(size=(n, 3)) + shift for n, shift in zip(sizes, shifts, strict=True)]
    system = np.repeat([f"system{i}" for i in range(len(sizes))], sizes)
    order = rng.permutation(len(system))
    return np.concatenate(clouds)[order].astype(np.float32), system[order]


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(20, 60), min_size=2, max_size=4),
    gap=st.floats(0, 5),
    seed=st.integers(0, 1000),
)
def test_neighbours_are_those_of_all_distances(sizes, gap, seed):
    embedding, system = cells(sizes, gap * np.arange(len(sizes)), seed)
    distance = cdist(embedding.astype(np.float64), embedding.astype(np.float64))
    np.fill_diagonal(distance, np.inf)
    near = distance.argsort(axis=1)[:, :15]
    found = cross_system_neighbors(embedding, system)
    assert list(found.index) == sorted(set(system))
    for name, value in found.items():
        rows = np.flatnonzero(system == name)
        share = np.mean([system[j] != name for i in rows for j in near[i]])
        assert value == pytest.approx(share / np.mean(system != name), abs=1e-9)


def test_full_mixing_is_one_whatever_the_sizes():
    embedding, system = cells([1500, 100], [0, 0])
    assert cross_system_neighbors(embedding, system).to_numpy() == pytest.approx(1, abs=0.15)


def test_a_sample_of_many_cells_says_the_same(monkeypatch):
    embedding, system = cells([2000, 1000], [0, 1.5])
    full = cross_system_neighbors(embedding, system)
    monkeypatch.setattr(apart, "MAX_SAMPLED_CELLS", 1000)
    some = cross_system_neighbors(embedding, system)
    assert some.to_numpy() == pytest.approx(full.to_numpy(), abs=0.12)
    assert not some.equals(full)
    assert some.equals(cross_system_neighbors(embedding, system))


def test_a_system_of_few_cells_is_left_out_and_one_alone_says_nothing():
    embedding, system = cells([100, 100, 5], [0, 0, 20])
    assert list(cross_system_neighbors(embedding, system).index) == ["system0", "system1"]
    embedding, system = cells([100, 5], [0, 20])
    assert cross_system_neighbors(embedding, system).empty


def test_the_warning_names_the_systems_apart_and_no_others():
    embedding, system = cells([100, 100, 100], [0, 0, 20])
    with pytest.warns(
        UserWarning, match=r"leaves system2 apart: their cells have 0% of .*\(10 of the usual 40 epochs so far\)"
    ):
        warn_about_separated_systems(embedding, system, 10, 40, stacklevel=1)
    with pytest.warns(UserWarning, match="leaves system2 apart") as seen:
        warn_about_separated_systems(embedding, system, 40, 40, stacklevel=1)
    assert "longer" not in str(seen[0].message)
    assert seen[0].filename == __file__


def test_systems_that_mix_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_about_separated_systems(*cells([100, 100], [0, 1]), 1, 40, stacklevel=1)


def test_integrate_warns_after_it_has_written_its_work(make_adata):
    """One system is moved so far that two epochs cannot bring it near; the warning, made an error, loses nothing."""
    adata = make_adata()
    x = adata.X.toarray()
    x[(adata.obs["system"] == "system1").to_numpy(), :50] += 5
    adata.X = x
    settings = {"n_hidden": 16, "initialisation": "random", "covariates_in_mean": False}  # do not start mixed
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The integration leaves")
        with pytest.raises(UserWarning, match=r"leaves system1 and system2 apart.*\(2 of the usual 24 epochs so far\)"):
            sysvi.integrate(adata, "system", members=1, max_epochs=2, device="cpu", progress=False, **settings)
    assert adata.obsm["X_sysVI"].shape == (300, 15)
    assert "sysvi" in adata.uns


def expression_of(offset):
    """Expression of 300 cells of three types in two systems, which differ by `offset` in half of the genes."""
    rng = np.random.default_rng(0)
    types, system = rng.integers(0, 3, 300), np.repeat(["system0", "system1"], 150)
    x = rng.gamma(2.0, 0.5, (300, 40)) + 3 * rng.random((3, 40))[types]
    x[150:, :20] += offset
    return sparse.csr_matrix(x), system


def test_a_weak_effect_is_reported_and_a_strong_one_is_not():
    events = []
    report_weak_effect(*expression_of(0.2), events.append)
    assert [event.stage for event in events] == ["effect"]
    assert re.search(r"differ little: .*\(system0 \d+%, system1 \d+% of full mixing\)", events[0].message)
    x, system = expression_of(0.2)
    expected = cross_system_neighbors(PCA(30, svd_solver="full").fit_transform(x.toarray()), system)
    assert events[0].values["mixing_before"] == pytest.approx(expected.to_dict(), abs=0.02)
    report_weak_effect(*expression_of(5.0), events.append)
    assert len(events) == 1


def test_too_few_genes_say_nothing_about_the_effect():
    report_weak_effect(sparse.csr_matrix(np.ones((50, 3))), np.repeat(["a", "b"], 25), pytest.fail)


def test_integrate_reports_a_weak_effect(make_adata):
    events = []
    adata = make_adata()
    adata.obs["system"] = np.resize(["one", "other"], adata.n_obs)
    sysvi.integrate(adata, "system", members=1, max_epochs=1, n_hidden=16, device="cpu", progress=events.append)
    stages = [event.stage for event in events]
    assert stages.index("effect") < stages.index("epoch")
