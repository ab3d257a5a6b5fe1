"""PrepareSystems gives the values of map_orthologs, join_systems and prepare in Python."""

import warnings

import numpy as np
import pandas as pd
import pytest

import sysvi


@pytest.fixture(scope="module")
def species(log_cells):
    """Counts of two species with different gene names, and the table of orthologues."""
    counts = log_cells.copy()
    counts.X = counts.layers["counts"]
    human = counts[counts.obs["system"] == "system1"].copy()
    mouse = counts[counts.obs["system"] == "system2", 10:].copy()
    table = pd.DataFrame({"human": counts.var_names, "mouse": [f"Mm-{i}" for i in range(counts.n_vars)]})
    mouse.var_names = table["mouse"].iloc[10:]
    for adata in (human, mouse):
        del adata.obs["system"]  # joining the species adds it
    return human, mouse[:, ::-1].copy(), table


@pytest.mark.parametrize("kind", ["Assay5", "SCE", "SCE in an HDF5 file"])
def test_prepared_values(r, build, species, kind):
    human, mouse, table = species
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few genes
        renamed = sysvi.map_orthologs(mouse, table, source="mouse", target="human")
        joined = sysvi.join_systems({"human": human, "mouse": renamed}, system_key="system")
        expected = sysvi.prepare(joined, "system", min_cells=5)
    result = r(
        """
        prepared <- suppressWarnings(
          PrepareSystems(list(human = human, mouse = mouse), orthologs = orthologs, min_cells = 5)
        )
        values <- function(name) {
          unname(as.matrix(if (is(prepared, "Seurat")) LayerData(prepared, name[1]) else assay(prepared, name[2])))
        }
        list(
          data = values(c("data", "logcounts")), counts = values(c("counts", "counts")),
          genes = rownames(prepared), cells = colnames(prepared), system = as.character(prepared$system)
        )
        """,
        human=build(kind, human),
        mouse=build(kind, mouse),
        orthologs=table,
    )
    assert list(result["genes"]) == list(expected.var_names)
    assert list(result["cells"]) == list(expected.obs_names)
    assert list(result["system"]) == list(expected.obs["system"])
    np.testing.assert_array_equal(np.asarray(result["data"]).T, expected.X.toarray())
    np.testing.assert_array_equal(np.asarray(result["counts"]).T, expected.layers["counts"].toarray())
