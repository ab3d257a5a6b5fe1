"""The Open Problems component without Viash: its script on a small data set in the task's layout, and its config."""

import ast
import re
import subprocess
import sys
import warnings
from pathlib import Path

import anndata
import numpy as np
import pytest
import yaml
from scipy import sparse

import sysvi

COMPONENT = Path(__file__).resolve().parents[2] / "benchmarks" / "openproblems" / "sysvi"
PLACEHOLDER = re.compile(r"## VIASH START\n(.*)## VIASH END\n", re.DOTALL)


@pytest.fixture(scope="module")
def script():
    return (COMPONENT / "script.py").read_text()


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load((COMPONENT / "config.vsh.yaml").read_text())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """File with what the task's specification of a data set requires, and no more: 160 cells, 120 genes."""
    import scanpy as sc

    cells = sysvi.datasets.simulate_systems(160, 120, n_types=3, n_private=0, n_samples=1, seed=1)
    counts = sparse.csr_matrix(cells.X)
    normalized = anndata.AnnData(counts.astype(np.float64))
    sc.pp.normalize_total(normalized, target_sum=1e4)
    sc.pp.log1p(normalized)
    rng = np.random.default_rng(0)
    obs = cells.obs[["cell_type"]].assign(batch=cells.obs["system"])
    score = rng.permutation(cells.n_vars).astype(float)
    var = cells.var[[]].assign(hvg=score >= 60, hvg_score=score, feature_name=cells.var_names)
    near = sparse.eye(cells.n_obs, format="csr")
    path = tmp_path_factory.mktemp("task") / "dataset.h5ad"
    anndata.AnnData(
        obs=obs,
        var=var.assign(feature_id=cells.var_names),
        layers={"counts": counts.astype(np.int64), "normalized": normalized.X},
        obsm={"X_pca": rng.normal(size=(cells.n_obs, 5))},
        obsp={"knn_distances": near, "knn_connectivities": near},
        uns={
            "dataset_id": "simulated",
            "normalization_id": "log_cp10k",
            "dataset_organism": "homo_sapiens",
            "knn": {"method": "umap"},
        },
    ).write_h5ad(path)
    return path


def run(script, folder, par):
    """Run the script as Viash does, which puts the values of the call in place of the block between its marks."""
    assert len(PLACEHOLDER.findall(script)) == 1
    values = f"par = {par!r}\nmeta = {{'name': 'sysvi', 'resources_dir': '.'}}\n"
    called = folder / "called.py"
    called.write_text(PLACEHOLDER.sub(lambda _: values, script))
    return subprocess.run([sys.executable, called], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_script_writes_the_embedding_of_the_batches(script, dataset, tmp_path):
    par = {"input": str(dataset), "output": "integrated.h5ad", "n_hvg": 50, "max_epochs": 2}
    result = run(script, tmp_path, par)
    assert result.returncode == 0, result.stderr
    written = anndata.read_h5ad(tmp_path / "integrated.h5ad")
    given = anndata.read_h5ad(dataset)
    assert dict(written.uns) == {"dataset_id": "simulated", "normalization_id": "log_cp10k", "method_id": "sysvi"}
    assert list(written.obs_names) == list(given.obs_names)
    assert written.X is None

    genes = np.argsort(-given.var["hvg_score"].to_numpy())[:50]
    cells = anndata.AnnData(given.layers["normalized"], given.obs, given.var)[:, genes].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sysvi.integrate(cells, "batch", max_epochs=2, progress=False)
    assert set(written.var_names) == set(cells.var_names)
    assert written.obsm["X_emb"].shape == (160, 15)
    np.testing.assert_array_equal(written.obsm["X_emb"], cells.obsm["X_sysVI"])


@pytest.mark.slow
def test_script_fails_with_a_sentence_on_one_batch(script, dataset, tmp_path):
    alone = anndata.read_h5ad(dataset)
    alone.obs["batch"] = "only"
    alone.write_h5ad(tmp_path / "alone.h5ad")
    result = run(script, tmp_path, {"input": "alone.h5ad", "output": "out.h5ad", "n_hvg": 50, "max_epochs": 2})
    assert result.returncode != 0
    assert "adata.obs['batch'] has one system only (only)" in result.stderr
    assert not (tmp_path / "out.h5ad").exists()


def test_arguments_of_config_and_script_are_the_same(script, config):
    """Viash passes the task's input and output, and what the config declares; without a default, None."""
    [block] = PLACEHOLDER.findall(script)
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(block).body}
    assert values["meta"] == {"name": config["name"]}
    declared = {argument["name"].removeprefix("--"): argument.get("default") for argument in config["arguments"]}
    assert {name: value for name, value in values["par"].items() if name not in ("input", "output")} == declared
    assert set(re.findall(r"par\[[\"'](\w+)[\"']\]", script)) == {"input", "output", *declared}
    for resource in config["resources"]:
        assert (COMPONENT / resource["path"]).is_file()


def test_config_passes_the_checks_of_open_problems(config):
    """The conditions of their component test of configs, but for the reachability of links."""
    assert config["__merge__"] == "/src/api/comp_method.yaml"
    for field, longest in {"name": 50, "label": 50, "summary": 400, "description": 5000}.items():
        assert 0 < len(config[field]) <= longest, field
    assert re.fullmatch(r"10.\d{4,9}/[-._;()/:A-Za-z0-9]+", config["references"]["doi"])
    assert {"documentation", "repository"} <= set(config["links"])
    assert config["info"]["method_types"] == ["embedding"]
    assert config["info"]["preferred_normalization"] == "log_cp10k"
    runners = {runner["type"]: runner for runner in config["runners"]}
    labels = set(runners["nextflow"]["directives"]["label"])
    for kind in ("time", "mem", "cpu"):
        assert len({label for label in labels if re.fullmatch(rf"(low|mid|high){kind}", label)}) == 1
    assert {"executable", "nextflow"} <= set(runners)
    assert [engine["type"] for engine in config["engines"]] == ["docker"]


def test_reference_is_that_of_the_package(config):
    project = (COMPONENT.parents[2] / "pyproject.toml").read_text()
    assert f"https://doi.org/{config['references']['doi']}" in project
    assert config["links"]["repository"] in project
    assert f"https://github.com/{config['engines'][0]['setup'][0]['github']}" == config["links"]["repository"]
