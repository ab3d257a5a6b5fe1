"""SATURN's adapter. Its code and proteins are on no registry: a script stands in, with the options of SATURN's own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import sysvi
from sysvi.comparison.cells import prepared_cells, write_cells
from sysvi.comparison.methods import ADAPTERS

TRAIN_SATURN = """
import argparse, os
import anndata, numpy as np, pandas as pd

parser = argparse.ArgumentParser()
for name in ("in_data", "in_label_col", "ref_label_col", "non_species_batch_col", "work_dir", "centroids_init_path"):
    parser.add_argument(f"--{name}", required=True)
for name in ("num_macrogenes", "hv_genes", "model_dim", "hidden_dim", "pretrain_epochs", "epochs", "seed"):
    parser.add_argument(f"--{name}", type=int, required=True)
parser.add_argument("--pe_sim_penalty", type=float, required=True)
parser.add_argument("--pretrain", type=bool, nargs="?", const=True, required=True)
args = parser.parse_args()
parts = []
for _, row in pd.read_csv(args.in_data).iterrows():
    part = anndata.read_h5ad(row["path"])
    assert os.path.basename(row["embedding_path"]) == row["species"] + "_embedding.torch"
    assert os.path.exists(row["embedding_path"])
    assert set(part.obs["system"]) == {row["species"]} and part.obs[args.in_label_col].nunique() > 1
    assert (part.X.data == np.round(part.X.data)).all() and part.obs[args.non_species_batch_col].notna().all()
    parts.append(part)
assert (args.pretrain_epochs, args.epochs) == (2, 8)
names = [name for part in parts for name in part.obs_names]
last = anndata.AnnData(np.arange(len(names))[:, None] * np.ones(args.model_dim), obs=pd.DataFrame(index=names))
os.makedirs(args.work_dir + "saturn_results")
last.write_h5ad(args.work_dir + f"saturn_results/test_data_org_saturn_seed_{args.seed}.h5ad")
"""


@pytest.mark.slow
def test_saturn_is_called_as_its_script_expects(make_adata, tmp_path, monkeypatch):
    """What SATURN computes is not tested here."""
    cells = prepared_cells(make_adata(), "system", "batch", "cell_type", None, lambda event: None)
    (tmp_path / "train-saturn.py").write_text(TRAIN_SATURN)
    for system in cells.obs["system"].cat.categories:
        (tmp_path / f"{system}_embedding.torch").touch()
    monkeypatch.setenv("SATURN_CODE", str(tmp_path))
    monkeypatch.setenv("SATURN_EMBEDDINGS", str(tmp_path))
    write_cells(cells, tmp_path, for_r=False)
    settings = {
        "pe_sim_penalty": 0.1,
        "n_latent": 3,
        "n_hidden": 8,
        "macrogenes": 20,
        "variable_genes": 50,
        "epochs": 50,
    }
    order = json.dumps({"settings": settings, "seed": 4, "epochs": 10})
    command = [sys.executable, "-P", ADAPTERS / "saturn.py", tmp_path / "cells.h5ad", tmp_path / "z.npy", order]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    system = cells.obs["system"].astype(str).to_numpy()
    expected = np.empty(cells.n_obs)
    expected[np.argsort(system, kind="stable")] = np.arange(cells.n_obs)
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), expected[:, None] * np.ones(3))


@pytest.mark.slow
@pytest.mark.skipif("SATURN_CODE" not in os.environ, reason="SATURN_CODE is not set to a clone of SATURN")
def test_saturn_itself_runs_on_made_up_proteins(make_adata, tmp_path, monkeypatch):
    """Its own code, in an environment of its own. The vectors of the proteins are random, so that the result is too."""
    import torch

    adata, rng = make_adata(), np.random.default_rng(0)
    vectors = {gene: torch.tensor(rng.normal(size=16), dtype=torch.float32) for gene in adata.var_names}
    for system in adata.obs["system"].unique():
        torch.save(vectors, tmp_path / f"{system}_embedding.torch")
    monkeypatch.setenv("SATURN_EMBEDDINGS", str(tmp_path))
    keys = {"system_key": "system", "batch_key": "batch", "label_key": "cell_type"}
    found = sysvi.compare(
        adata, tmp_path / "out", **keys, methods="saturn", grid="default", seeds=1, epochs=5, min_cells=20
    )
    assert list(found.methods["reason"]) == [""]
    assert list(found.runs["status"]) == ["finished"], list(found.runs["reason"])
