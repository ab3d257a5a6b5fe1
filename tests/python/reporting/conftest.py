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
    from sysvi.reporting.document import load_libraries
    from sysvi.reporting.page import render

    return render(content, load_libraries())


@pytest.fixture(scope="session")
def tuned_cells():
    """Counts of 300 cells of two systems."""
    from sysvi.data.simulate import simulate_systems

    return simulate_systems(300, 150, n_types=4, n_private=1, seed=1)


@pytest.fixture(scope="session")
def tuning(tuned_cells):
    """A tuning of two settings; of a third one, both runs have failed, one with a bad reason. Shared: do not modify."""
    import dataclasses

    import sysvi

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = sysvi.prepare(tuned_cells, "system", "batch", min_cells=3)
        found = sysvi.tune(
            adata,
            "system",
            "batch",
            "cell_type",
            cycle_weights=[0, 5],
            seeds=2,
            max_epochs=2,
            min_cells=20,
            device="cpu",
            progress=False,
        )
    failed = {"cycle_weight": 7.0, "kl_weight": 1.0, "prior": "vamp", "seed": 1, "status": "failed"}
    failed |= {"reason": f"The loss became {BAD}", "chosen": False, "representative": False}
    runs = pd.concat([found.runs, pd.DataFrame([failed])], ignore_index=True)
    return dataclasses.replace(found, runs=runs)


@pytest.fixture(scope="session")
def tuning_page(tuning):
    """The page of the report of the tuning, HTML."""
    from sysvi.reporting.document import load_libraries
    from sysvi.reporting.runs_page import render_runs
    from sysvi.reporting.tuning_content import collect_tuning
    from sysvi.tuning.files import tuning_tables

    return render_runs(collect_tuning(tuning_tables(tuning)), load_libraries())


ADAPTER = """# /// script
# dependencies = []
#
# [tool.sysvi]
# package = "numpy"
# imports = ["numpy"]
#
# [tool.sysvi.methods.bad]
# title = "bad <b>"
# ///
raise SystemExit("it broke")
"""


@pytest.fixture(scope="session")
def comparison(tuned_cells, tmp_path_factory):
    """A comparison of PCA with a method that fails. Shared: do not modify."""
    import sysvi

    folder = tmp_path_factory.mktemp("comparison")
    (folder / "adapters").mkdir()
    (folder / "adapters" / "bad.py").write_text(ADAPTER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sysvi.compare(
            tuned_cells,
            folder / "out",
            system_key="system",
            batch_key="batch",
            label_key="cell_type",
            methods=["pca", "bad"],
            seeds=1,
            min_cells=20,
            adapters=folder / "adapters",
            progress=False,
        )


@pytest.fixture(scope="session")
def comparison_page(comparison):
    """The page of the report of the comparison, HTML."""
    from sysvi.reporting.comparison_content import collect_comparison
    from sysvi.reporting.document import load_libraries
    from sysvi.reporting.runs_page import render_runs

    return render_runs(collect_comparison(comparison), load_libraries())
