"""Human and mouse pancreas of Baron et al., end to end."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from click.testing import CliRunner
from sklearn.neighbors import NearestNeighbors

import sysvi
from sysvi.cli import main
from sysvi.metrics import shared_neighbors


def integrate(data_dir, output):
    command = ["integrate", str(data_dir / "baron_pancreas.h5ad"), "--system", "system", "--batch", "batch"]
    result = CliRunner().invoke(
        main, [*command, "--members", "1", "--epochs", "3", "--device", "cpu", "-o", str(output)]
    )
    assert result.exit_code == 0, result.output
    return anndata.read_h5ad(output)


@pytest.fixture(scope="module")
def output(data_dir, tmp_path_factory):
    return integrate(data_dir, tmp_path_factory.mktemp("baron") / "baron_sysvi.h5ad")


def test_one_command_embeds_every_cell(output, data_dir):
    latent = output.obsm["X_sysVI"]
    assert latent.shape == (5493, 15)
    assert latent.dtype == np.float32
    assert np.isfinite(latent).all()
    assert latent.std(0).min() > 0
    source = anndata.read_h5ad(data_dir / "baron_pancreas.h5ad")
    assert list(output.obs_names) == list(source.obs_names)
    assert (output.X != source.X).nnz == 0
    assert output.uns["provenance"] == source.uns["provenance"]


def test_same_seed_same_bits(output, data_dir, tmp_path):
    again = integrate(data_dir, tmp_path / "again.h5ad")
    np.testing.assert_array_equal(again.obsm["X_sysVI"], output.obsm["X_sysVI"])


def same_type(latent, label):
    """Share of a cell's 15 nearest neighbours that are of its type, averaged over types."""
    near = NearestNeighbors(n_neighbors=15).fit(latent).kneighbors(return_distance=False)
    return pd.Series((label[near] == label[:, None]).mean(1)).groupby(label).mean().mean()


@pytest.fixture(scope="module")
def integrated(data_dir):
    adata = sysvi.prepare(anndata.read_h5ad(data_dir / "baron_pancreas.h5ad"), "system", "batch")
    sc.pp.pca(adata, n_comps=30)
    sysvi.integrate(adata, "system", "batch", members=2, max_epochs=25, device="cpu", progress=False)
    return adata


def test_species_mix_far_more_than_in_pca_and_cell_types_stay_apart(integrated):
    adata = integrated
    latent, label = adata.obsm["X_sysVI"], adata.obs["cell_type"].to_numpy().astype(str)
    before, after = (shared_neighbors(x, adata.obs["system"], label).mean() for x in (adata.obsm["X_pca"], latent))
    assert after > before + 0.15
    assert same_type(latent, label) > 0.4


def test_evaluation_tells_the_story(integrated):
    keys = {"system_key": "system", "batch_key": "batch", "label_key": "cell_type"}
    table = sysvi.evaluate(integrated, ["X_pca", "X_sysVI"], **keys, device="cpu", progress=False)
    before, after = table["X_pca"], table["X_sysVI"]
    assert before["iLISI"] < 0.02  # apart
    assert after["CiLISI"] > before["CiLISI"] + 0.1  # mixed within types
    assert after["cLISI"] > 0.95  # types kept
    assert after["Moran"] > 0.8  # and structure within them
    assert after["Total"] > before["Total"]
