"""An integration with names that a page must not take for HTML."""

import warnings

import numpy as np
import pandas as pd
import pytest

BAD = "<script>alert('type')</script>"
BAD_COLUMN = '"><script>alert("column") &'


@pytest.fixture(scope="session")
def input_cells():
    """Counts of 300 cells of two systems; type1 and a column have bad names, some cells have no label."""
    from sysvi.data.simulate import simulate_systems

    cells = simulate_systems(300, 150, n_types=4, n_private=1, seed=1)
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).replace("type1", BAD)
    cells.obs.iloc[:3, list(cells.obs).index("cell_type")] = "unknown"
    rng = np.random.default_rng(0)
    cells.obs[BAD_COLUMN] = pd.Categorical(rng.choice([BAD, "b & c"], cells.n_obs))
    cells.obs["sex"] = rng.choice(["f", "m"], cells.n_obs)
    cells.obs["age"] = np.where(rng.random(cells.n_obs) < 0.1, np.nan, rng.normal(50, 10, cells.n_obs))
    return cells


@pytest.fixture(scope="session")
def integrated(input_cells):
    """The cells integrated by an ensemble of two models. Shared: do not modify."""
    import sysvi

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few genes, short training
        adata = sysvi.prepare(input_cells, "system", "batch", min_cells=3)
        sysvi.integrate(
            adata,
            "system",
            "batch",
            categorical_covariate_keys=["sex"],
            members=2,
            max_epochs=3,
            seed=4,
            device="cpu",
            progress=False,
        )
    return adata


@pytest.fixture(scope="session")
def content(integrated):
    """What a report of the cells shows."""
    from sysvi.reporting.content import collect

    return collect(integrated, "cell_type", device="cpu")


@pytest.fixture(scope="session")
def page(content):
    """The page of the report, HTML."""
    from sysvi.reporting.page import load_libraries, render

    return render(content, load_libraries())
