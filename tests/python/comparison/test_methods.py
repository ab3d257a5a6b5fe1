"""`sysvi compare` with the package's own adapters on small simulated data."""

import numpy as np
import pandas as pd
import pytest

import sysvi
from sysvi._core.settings import DEFAULT_PRESET
from sysvi.comparison.environments import satisfied_here
from sysvi.comparison.methods import read_methods
from sysvi.comparison.runs import MethodRun

pytestmark = pytest.mark.filterwarnings("ignore:Only .* genes remain")

METHODS = ["sysvi", "cvae", "pca", "harmony"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    counts = sysvi.datasets.simulate_systems(200, 150, n_types=3, n_private=0, n_samples=2, seed=1)
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")  # no network: Harmony is installed here or listed as not available
        patch.setenv("UV_OFFLINE", "1")
        patch.setenv("UV_NO_CACHE", "1")
        return sysvi.compare(
            counts,
            folder / "out",
            system_key="system",
            batch_key="batch",
            label_key="cell_type",
            methods=METHODS,
            grid="default",
            seeds=1,
            epochs=2,
            min_cells=20,
            environments=folder / "environments",
            progress=False,
        )


@pytest.mark.slow
def test_each_method_has_a_result_or_a_reason(found):
    methods = found.methods.set_index("method")
    assert list(methods.index) == METHODS
    for name in ("sysvi", "cvae", "pca"):
        assert methods.loc[name, "reason"] == ""
        assert methods.loc[name, "finished"] == 1
    if satisfied_here(read_methods()["harmony"].dependencies):
        assert methods.loc["harmony", "finished"] == 1
    else:
        assert "No matching distribution found for harmonypy" in methods.loc["harmony", "reason"]
        assert "harmony" not in set(found.table["method"])


@pytest.mark.slow
def test_the_embedding_is_what_the_engine_gives(found):
    """The adapter passes on all settings and the seed: the same call in this process gives the same embedding."""
    import anndata

    [path] = (found.folder / "cells").glob("*/cells.h5ad")
    cells = anndata.read_h5ad(path)
    run = found.runs.set_index("method")["run"]
    settings = {"preset": "paper", "prior": "standard_normal", "cycle_weight": 0, "max_epochs": 2}
    sysvi.integrate(cells, "system", "batch", seed=0, progress=False, **settings)
    np.testing.assert_allclose(_embedding(found, run["cvae"]), cells.obsm["X_sysVI"], rtol=1e-3, atol=1e-4)
    assert _embedding(found, run["sysvi"]).shape == (200, 15)
    assert not np.allclose(_embedding(found, run["sysvi"]), cells.obsm["X_sysVI"], atol=0.01)
    ensemble = sysvi.integrate(cells, "system", "batch", seed=0, max_epochs=2, progress=False)
    assert len(ensemble.members) == DEFAULT_PRESET.members
    np.testing.assert_allclose(_embedding(found, run["sysvi"]), cells.obsm["X_sysVI"], rtol=1e-3, atol=1e-4)
    x = cells.X.toarray() - cells.X.toarray().mean(0)
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    pcs = _embedding(found, run["pca"])
    np.testing.assert_allclose(np.abs(pcs[:, :5]), np.abs(left * values)[:, :5], rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_epochs_are_given_for_methods_that_are_trained(found):
    epochs = found.runs.set_index("method")["epochs"]
    assert epochs["sysvi"] == epochs["cvae"] == 2
    assert pd.isna(epochs["pca"])


@pytest.mark.parametrize("name", ["sysvi", "cvae", "vamp", "cyc", "adv"])
def test_settings_of_our_methods_are_settings_of_the_engine(name):
    from sysvi.api.arguments import split_settings

    method = read_methods()[name]
    for parameter, value in method.grid_points("full"):
        settings = dict(MethodRun(method, parameter, value, 0, None, "", "").settings)
        assert settings.pop("preset", None) == (None if name == "sysvi" else "paper")
        of_model, of_training = split_settings("test", settings)
        sysvi.ModelSettings(**of_model)
        sysvi.TrainSettings(**of_training)


def _embedding(found, run):
    return np.load(found.folder / "runs" / run / "embedding.npy")
