"""Values of every wrong type for the arguments of public functions: never another exception than an InputError."""

import inspect
import itertools

import numpy as np
import pandas as pd
import pytest

import sysvi
from sysvi import InputError

pytestmark = pytest.mark.filterwarnings("ignore")

JUNK = [
    *(None, -1, 0, 1.5, "x", "", [], ["x"], {}, {"a": 1}, True, object(), np.arange(3), float("nan"), float("inf")),
    *(b"x", (1, 2), 1j, print),
]


def check_values_of_any_type(function, arguments, names):
    """Each of the named arguments is given values of every type, which are used, or refused in one sentence."""
    function(**arguments)
    refused = []
    for name, value in itertools.product(names, JUNK):
        try:
            function(**{**arguments, name: value})
        except InputError as error:
            refused.append(str(error))
        except Exception as error:
            raise AssertionError(f"{function.__name__}({name}={value!r})") from error
    assert len(refused) > len(arguments)
    assert not any("\n" in message for message in refused)


KEYS = {"system_key": "system", "batch_key": "batch"}
LABELLED = {**KEYS, "label_key": "cell_type"}


@pytest.fixture(scope="module")
def counts():
    return sysvi.datasets.simulate_systems(120, 60, n_samples=2, seed=1)


@pytest.fixture(scope="module")
def prepared(counts):
    prepared = sysvi.prepare(counts, "system", "batch", min_cells=2)
    prepared.obsm["Z"] = np.random.default_rng(0).normal(size=(120, 5))
    return prepared


@pytest.fixture(scope="module")
def model(prepared, tmp_path_factory):
    fast = {"members": 1, "max_epochs": 1, "n_hidden": 8, "n_latent": 3, "device": "cpu", "progress": False}
    model = sysvi.integrate(prepared.copy(), **KEYS, **fast)
    model.save(tmp_path_factory.mktemp("model") / "model")
    return model


@pytest.fixture(scope="module")
def functions(counts, prepared, model, tmp_path_factory):
    """Public functions, each with arguments that it accepts."""
    folder = tmp_path_factory.mktemp("out")
    table = pd.DataFrame({"mouse": prepared.var_names, "human": [f"H{name}" for name in prepared.var_names]})
    runs = pd.DataFrame({"method": [*"aaabbb"], "NMI": np.random.default_rng(0).random(6)})
    evaluation = sysvi.evaluate_in_detail(prepared, ["Z"], **LABELLED, min_cells=5, progress=False)
    strength = sysvi.batch_strength(prepared, **LABELLED, min_cells=2)
    batches = list(prepared.obs["batch"].unique())
    integrated, query = prepared.copy(), prepared[:40].copy()
    sysvi.integrate(integrated, **KEYS, members=2, max_epochs=1, n_hidden=8, n_latent=3, device="cpu", progress=False)
    files = [folder / "system1.h5ad", folder / "system2.h5ad"]
    for path in files:
        counts[counts.obs["system"] == path.stem].write_h5ad(path)
    adatas = {"a": counts[:60].copy(), "b": counts[60:].copy()}
    for adata in adatas.values():
        del adata.obs["system"]
    model.save(folder / "model")
    cells = {"reference": prepared[:80].copy(), "query": prepared[80:].copy()}
    transfer = sysvi.transfer_labels(**cells, **LABELLED, embedding="Z")
    prepared.obsm["z"] = prepared.obsm["Z"][:, :3]  # as many dimensions as the model has
    sysvi.save_reference(folder / "reference", model, prepared, "cell_type", licence="mit", embedding="z")
    return {
        "prepare": (sysvi.prepare, {"adata": counts, **KEYS, "layer": None, "n_top_genes": 50, "min_cells": 2,
                                    "target_sum": 1e4, "normalize": True, "fractional_counts": False, "copy": True,
                                    "flavor": "seurat", "keep_counts": True, "report": None}),
        "map_orthologs": (sysvi.map_orthologs, {"adata": counts, "table": table, "source": "mouse", "target": "human",
                                                "duplicates": "drop", "report": None}),
        "join_systems": (sysvi.join_systems, {"adatas": adatas, "system_key": "system"}),
        "setup_anndata": (sysvi.SysVI.setup_anndata, {"adata": prepared.copy(), "batch_key": "system", "layer": None,
                                                      "categorical_covariate_keys": None, "weight_batches": False,
                                                      "continuous_covariate_keys": None}),
        "evaluate": (sysvi.evaluate, {"adata": prepared, "embeddings": ["Z"], **LABELLED, "layer": None,
                                      "metrics": ["iLISI"], "standardised": False, "unlabelled": ["unknown"],
                                      "min_cells": 5, "max_cells": None, "device": "cpu", "seed": 0,
                                      "progress": False}),
        "batch_strength": (sysvi.batch_strength, {"adata": prepared, **LABELLED, "layer": None, "min_cells": 2,
                                                  "n_pcs": 5, "seed": 0}),
        "condition_mixing": (sysvi.condition_mixing, {"adata": prepared, "embedding_key": "Z", "group_key": "batch",
                                                      "similar": batches[:2], "dissimilar": batches[2:],
                                                      "n_neighbors": 10, "seed": 0}),
        "prior_components": (sysvi.prior_components, {"model": model, "adata": prepared, "label_key": "cell_type"}),
        "compare_runs": (sysvi.compare_runs, {"table": runs, "method": "method", "metrics": None, "family": "metric",
                                              "alpha": 0.05}),
        "load": (sysvi.load, {"dir_path": folder / "model", "adata": prepared, "device": "cpu", "prefix": None}),
        "save": (model.save, {"dir_path": folder / "saved", "overwrite": True, "save_anndata": False, "prefix": None}),
        "embed": (model.get_latent_representation, {"adata": prepared, "indices": None, "give_mean": True,
                                                    "return_dist": False, "batch_size": None, "seed": None}),
        "decode": (model.get_normalized_expression, {"adata": prepared, "indices": None, "transform_batch": None,
                                                     "gene_list": None, "library_size": 1, "n_samples": 1,
                                                     "n_samples_overall": None, "weights": None, "batch_size": None,
                                                     "return_mean": True, "return_numpy": None, "silent": True,
                                                     "dataloader": None, "data_loader_kwargs": None, "seed": None}),
        "translate": (sysvi.translate, {"model": model, "adata": prepared, "to_system": "system1", "to_batch": None,
                                        "genes": None, "layer": None, "key_added": "translated", "output": None,
                                        "overwrite": True, "batch_size": None, "progress": False}),
        "compare_systems": (sysvi.compare_systems, {"model": model, "adata": prepared, "label_key": "cell_type",
                                                    "systems": ["system1", "system2"], "batch_key": "batch",
                                                    "layer": None, "min_cells": 2, "batch_size": None,
                                                    "progress": False}),
        "differential_expression": (sysvi.differential_expression, {
            "model": model, "adata": prepared, "groupby": "cell_type", "group1": ["type1"], "group2": "type2",
            "idx1": None, "idx2": None, "mode": "change", "delta": 0.25, "batch_size": None, "all_stats": True,
            "batch_correction": False, "batchid1": None, "batchid2": None, "fdr_target": 0.05,
            "filter_outlier_cells": False, "n_samples_overall": 10, "test_mode": "two", "pseudocounts": 1.0,
            "cred_interval_lvls": [0.9], "layer": None, "seed": 1, "progress": False}),
        "map_query": (sysvi.map_query, {"model": model, "query": query, "system_key": "system", "batch_key": "batch",
                                        "layer": None, "orthologs": None, "fractional_counts": False, "max_epochs": 1,
                                        "key_added": "X_sysVI", "device": "cpu", "seed": 0, "progress": False}),
        "report": (sysvi.report, {"results": integrated, "path": folder / "report.html", "label_key": "cell_type",
                                  "embedding": "X_sysVI", "colors": [], "max_cells": 20, "overwrite": True,
                                  "device": "cpu", "seed": 0, "progress": False}),
        "prepare_files": (sysvi.prepare_files, {"files": files, "output": folder / "all.h5ad", **KEYS, "layer": None,
                                                "system_of_file": None, "orthologs": None, "n_top_genes": 50,
                                                "min_cells": 2, "target_sum": 1e4, "fractional_counts": False,
                                                "flavor": "seurat", "seed": 0, "overwrite": True, "report": None}),
        "write_evaluation": (sysvi.write_evaluation, {"evaluation": evaluation, "folder": folder / "evaluation",
                                                      "figures": "png", "overwrite": True}),
        "scib_table": (sysvi.scib_table, {"evaluation": evaluation}),
        "transfer_labels": (sysvi.transfer_labels, {**cells, **LABELLED, "embedding": "Z", "cluster_key": "cell_type",
                                                    "n_neighbors": 5, "min_confidence": 0.5, "max_known_unknown": 0.1,
                                                    "unlabelled": ["unknown"]}),
        "save_reference": (sysvi.save_reference, {"dir_path": folder / "reference", "model": model, "adata": prepared,
                                                  "label_keys": ["cell_type"], "licence": "mit", "description": "",
                                                  "embedding": "z", "overwrite": True}),
        "load_reference": (sysvi.load_reference, {"dir_or_repo": folder / "reference"}),
        "plot_reliability": (sysvi.plot_reliability, {"transfer": transfer, "path": folder / "reliability.png"}),
        "plot_confusion": (sysvi.plot_confusion, {"transfer": transfer, "path": folder / "confusion.png"}),
        "plot_labels": (sysvi.plot_labels, {"per_label": evaluation.per_label, "path": folder / "labels.png"}),
        "plot_batch_strength": (sysvi.plot_batch_strength, {"strength": strength, "path": folder / "strength.png"}),
    }  # fmt: skip


NAMES = [
    *("prepare", "map_orthologs", "join_systems", "setup_anndata", "evaluate", "batch_strength", "condition_mixing"),
    *("prior_components", "compare_runs", "load", "save", "embed", "decode", "translate", "compare_systems"),
    "differential_expression",
    *("write_evaluation", "transfer_labels", "save_reference", "load_reference", "plot_reliability", "plot_confusion"),
    *("plot_labels", "plot_batch_strength", "scib_table", "map_query", "report", "prepare_files"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_values_of_any_type_are_used_or_refused_in_a_sentence(functions, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, arguments = functions[name]
    check_values_of_any_type(function, arguments, arguments)


METRICS = [name for name in sysvi.metrics.__all__ if inspect.isfunction(getattr(sysvi.metrics, name))]


@pytest.fixture(scope="module")
def metric_arguments(prepared):
    """A value for each argument that a function of `sysvi.metrics` requires, by its name."""
    metrics, embedding = sysvi.metrics, prepared.obsm["Z"]
    label, system, batch = (prepared.obs[key].to_numpy() for key in ("cell_type", "system", "batch"))
    codes = np.arange(120) % 3
    return {
        **{"adata": prepared, "embedding_key": "Z", "label_key": "cell_type", "batch_key": "batch"},
        **{"label": label, "system": system, "batch": batch, "groups": codes, "clusters": codes, "n_clusters": 3},
        **{"embedding": embedding, "before": embedding, "after": embedding, "values": embedding, "graph": np.eye(120)},
        "clusterings": {1.0: codes},
        "expression": prepared.X,
        "gene_sets": {"first": list(prepared.var_names[:10])},
        "neighbors": metrics.nearest_neighbors(embedding, 20),
        "silhouette": metrics.label_silhouette(embedding, label),
        "reference": metrics.moran_reference(prepared.X, label, batch, min_cells=3),
        "k": 5,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_values_of_any_type_are_measured_or_refused_in_a_sentence(metric_arguments, name):
    metric = getattr(sysvi.metrics, name)
    parameters = inspect.signature(metric).parameters
    arguments = {key: metric_arguments[key] for key, value in parameters.items() if value.default is value.empty}
    if "min_cells" in parameters:
        arguments["min_cells"] = 3
    check_values_of_any_type(metric, arguments, parameters)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**63, 2**100])
def test_large_seeds_are_seeds(prepared, seed, tmp_path):
    arguments = {**LABELLED, "min_cells": 5, "progress": False, "seed": seed}
    first, second = (sysvi.evaluate(prepared, ["Z", "X_pca"], metrics="all", **arguments) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    sysvi.batch_strength(prepared, **LABELLED, min_cells=2, seed=seed)
    fast = {"max_epochs": 1, "n_hidden": 8, "n_latent": 3, "device": "cpu", "progress": False}
    sysvi.integrate(prepared.copy(), **KEYS, **fast, members=2, seed=seed).save(tmp_path)
    model = sysvi.load(tmp_path)
    assert model.seed == seed
    query = prepared.copy()
    query.obs["batch"] = "new"
    first, second = (
        sysvi.map_query(model, query, max_epochs=1, device="cpu", progress=False, seed=seed) for _ in range(2)
    )
    np.testing.assert_array_equal(first.obsm["X_sysVI"], second.obsm["X_sysVI"])
