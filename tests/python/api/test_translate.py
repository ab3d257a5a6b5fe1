"""Translated and denoised expression."""

import json
from types import SimpleNamespace

import anndata
import numpy as np
import oracle
import pandas as pd
import pytest

import sysvi
from sysvi import InputError, SysVI

pytestmark = pytest.mark.filterwarnings(
    "ignore:System .* has fewer cells",
    "ignore:The integration leaves",
    "ignore:Some cells have no counterpart",
    "ignore:Only .* genes remain",
)

SMALL = {"n_hidden": 16, "n_latent": 4, "max_epochs": 3, "batch_size": 50, "device": "cpu", "progress": False}
LAYER = "sysvi_translated"


@pytest.fixture(scope="module")
def counts():
    """Read-only: counts of two systems with three batches each, and further covariates."""
    cells = sysvi.datasets.simulate_systems(
        360, 120, n_types=3, n_private=0, n_samples=3, n_markers=10, n_programme_genes=10, depth=1000, seed=2
    )
    rng = np.random.default_rng(1)
    cells.obs["age"] = rng.normal(50, 10, cells.n_obs)
    cells.obs["sex"] = rng.choice(["f", "m"], cells.n_obs)
    cells.obs["shared"] = rng.choice(["a", "b"], cells.n_obs)  # batches that occur in both systems
    return cells


@pytest.fixture(scope="module")
def prepared(counts):
    """Read-only."""
    return sysvi.prepare(counts, "system", "batch", min_cells=3)


@pytest.fixture(scope="module")
def ensemble(prepared):
    """Read-only."""
    covariates = {"categorical_covariate_keys": ["sex"], "continuous_covariate_keys": ["age"]}
    return sysvi.integrate(prepared.copy(), "system", "batch", members=2, seed=3, **covariates, **SMALL)


@pytest.fixture(scope="module")
def single(prepared):
    """Read-only."""
    return sysvi.integrate(prepared.copy(), "system", "batch", members=1, seed=3, **SMALL)


def translated(model, adata, *arguments, **more):
    return sysvi.translate(model, adata, *arguments, progress=False, **more).layers[LAYER]


def by_formulae(model, adata, system, weights, z=None):
    """The decoded mean of a single model in float64.

    `system` is the code of the system in which cells are decoded, (n,), and `weights` has the weight of each batch,
    (n, batches). `z` takes the place of the cells' embedding.
    """
    p, v = oracle.arrays(model.module.state_dict()), model.vocabulary
    x = adata[:, list(v.genes)].X.toarray().astype(np.float64)
    categorical = np.stack([names_to_codes(adata.obs[key], names) for key, names in v.categorical.items()], 1)
    values = [(adata.obs[key].to_numpy()[:, None] - mean) / std for key, (mean, std) in v.continuous.items()]
    continuous = np.hstack([np.zeros((len(x), 0)), *values])

    def code(system, categorical):
        covariates = SimpleNamespace(system=system, categorical=categorical, continuous=continuous)
        return oracle.covariate_code(p, covariates, len(v.systems), v.n_categories)

    if z is None:
        own = code(names_to_codes(adata.obs[v.system_key], v.systems), categorical)
        z, _ = oracle.encode(p, x, own, training=False)
    total = 0
    for batch in range(weights.shape[1]):
        c = code(system, np.hstack([np.full((len(x), 1), batch), categorical[:, 1:]]))
        total = total + weights[:, [batch]] * oracle.decode(p, z, c, training=False)[0]
    return total


def names_to_codes(values, names):
    return np.array([names.index(value) for value in values])


def shares(adata, key="batch"):
    """Share of each batch in the cells of each system, (systems, batches), both in the order of their names."""
    table = pd.crosstab(adata.obs["system"], adata.obs[key]).sort_index().sort_index(axis=1).to_numpy()
    return table / table.sum(axis=1, keepdims=True)


def codes(adata, key):
    return pd.Categorical(adata.obs[key]).codes.astype(int)


# -- values ------------------------------------------------------------------------------------------------------------


def test_values_are_those_of_an_independent_implementation(single, prepared):
    system, batch, n = codes(prepared, "system"), codes(prepared, "batch"), prepared.n_obs
    own = np.eye(6)[batch]
    cases = {
        (None, None): (system, own),
        (None, "average"): (system, shares(prepared)[system]),
        ("system2", "average"): (np.ones(n, int), shares(prepared)[np.ones(n, int)]),
        ("system2", None): (np.ones(n, int), np.where(system[:, None] == 1, own, shares(prepared)[1])),
    }
    name = sorted(prepared.obs["batch"].unique())[4]
    cases["system2", name] = (np.ones(n, int), np.eye(6)[np.full(n, 4)])
    for target, (decoded_in, weights) in cases.items():
        expected = by_formulae(single, prepared, decoded_in, weights)
        assert (expected < 0).any()
        np.testing.assert_allclose(translated(single, prepared, *target), expected.clip(min=0), rtol=1e-3, atol=1e-4)


def test_an_ensemble_is_the_mean_of_its_members(ensemble, prepared):
    """Each member decodes its own embedding; all further covariates stay those of the cells."""
    own = np.eye(6)[codes(prepared, "batch")]
    means = [by_formulae(member, prepared, codes(prepared, "system"), own) for member in ensemble.members]
    expected = np.mean(means, axis=0).clip(min=0)
    np.testing.assert_allclose(translated(ensemble, prepared), expected, rtol=1e-3, atol=1e-4)
    assert np.abs(means[0] - means[1]).max() > 0.01


def test_in_another_system_members_decode_where_its_cells_have_the_same_place_in_the_ensemble(ensemble, prepared):
    system = codes(prepared, "system")
    weights = np.where(system[:, None] == 0, np.eye(6)[codes(prepared, "batch")], shares(prepared)[0])
    embeddings = [member.get_latent_representation() for member in ensemble.members]
    combined = ensemble.combination.apply(embeddings)
    gap = ensemble.moves.displacement(combined, system, 0)

    def decoded_at(displacements):
        means = [
            by_formulae(member, prepared, np.zeros_like(system), weights, z + part)
            for member, z, part in zip(ensemble.members, embeddings, displacements, strict=True)
        ]
        return np.mean(means, axis=0).clip(min=0)

    expected = decoded_at(ensemble.combination.spread(gap))
    assert np.abs(expected - decoded_at(np.zeros_like(embeddings))).max() > 0.02
    np.testing.assert_allclose(translated(ensemble, prepared, "system1"), expected, rtol=1e-3, atol=1e-4)


def test_batches_that_all_systems_have_are_kept(prepared):
    model = sysvi.integrate(prepared.copy(), "system", "shared", members=1, seed=3, **SMALL)
    system = np.ones(prepared.n_obs, int)
    kept = by_formulae(model, prepared, system, np.eye(2)[codes(prepared, "shared")])
    np.testing.assert_allclose(translated(model, prepared, "system2"), kept.clip(min=0), rtol=1e-3, atol=1e-4)
    mean = by_formulae(model, prepared, system, shares(prepared, "shared")[system])
    found = translated(model, prepared, "system2", "average")
    np.testing.assert_allclose(found, mean.clip(min=0), rtol=1e-3, atol=1e-4)


KINDS = [
    {"prior": "gmm", "mixture": "joint"},
    {"prior": "standard_normal", "covariates_in_mean": False},
    {"out_var_mode": "sample_feature", "embed_categorical_covariates": True},
    {"initialisation": "random", "n_layers": 1},
    {"covariates_in_hidden": False},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_of_model_decodes(prepared, kind):
    keys = {"categorical_covariate_keys": ["sex"], "continuous_covariate_keys": ["age"]}
    model = sysvi.integrate(prepared.copy(), "system", "batch", members=1, **keys, **kind, **SMALL)
    system, one = np.ones(prepared.n_obs, int), sorted(prepared.obs["batch"].unique())[0]
    expected = by_formulae(model, prepared, system, np.eye(6)[np.zeros(prepared.n_obs, int)])
    with pytest.warns(UserWarning, match="has seen no cells"):
        assert model.get_normalized_expression(prepared, transform_batch="system1").shape == prepared.shape
    with pytest.warns(UserWarning, match="has seen no cells"):  # "sex" is a shared covariate, the batch is not
        found = translated(model, prepared, "system2", one)
    np.testing.assert_allclose(found, expected.clip(min=0), rtol=1e-3, atol=1e-4)


def test_without_batches(prepared):
    model = sysvi.integrate(prepared.copy(), "system", members=1, **SMALL)
    system = np.ones(prepared.n_obs, int)
    p = oracle.arrays(model.module.state_dict())
    own = oracle.one_hot(codes(prepared, "system"), 2)
    z, _ = oracle.encode(p, prepared.X.toarray().astype(np.float64), own, training=False)
    expected = oracle.decode(p, z, oracle.one_hot(system, 2), training=False)[0].clip(min=0)
    np.testing.assert_allclose(translated(model, prepared, "system2"), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="trained without batches: leave to_batch out"):
        sysvi.translate(model, prepared, to_batch="average")


# -- cells and genes ---------------------------------------------------------------------------------------------------


def test_the_result_is_a_new_object_of_cells_and_genes(ensemble, prepared, assert_same):
    cells = prepared.copy()
    cells.obsm["X_pca"] = np.ones((cells.n_obs, 2), np.float32)
    before = cells.copy()
    genes = [cells.var_names[i] for i in (7, 3, 50)]
    found = sysvi.translate(ensemble, cells, "system2", genes=genes, key_added="there", progress=False)
    assert_same(cells, before)
    assert list(found.var_names) == genes
    assert list(found.layers) == ["there"]
    assert found.layers["there"].dtype == np.float32
    assert (found.layers["there"] >= 0).all()
    pd.testing.assert_frame_equal(found.obs, cells.obs)
    pd.testing.assert_frame_equal(found.var, cells.var.loc[genes])
    np.testing.assert_array_equal(found.X.toarray(), cells[:, genes].X.toarray())
    np.testing.assert_array_equal(found.obsm["X_pca"], cells.obsm["X_pca"])
    record = found.uns["sysvi_translate"]
    assert (json.loads(record["to_system"]), json.loads(record["to_batch"])) == ("system2", None)
    assert json.loads(record["seed"]) == 3
    found.obsm["X_pca"][:] = 0
    found.obs["system"] = "x"
    assert_same(cells, before)


def test_genes_in_any_order_have_the_same_bits(ensemble, prepared):
    whole = translated(ensemble, prepared, "system1")
    order = np.random.default_rng(0).permutation(prepared.n_vars)
    np.testing.assert_array_equal(
        translated(ensemble, prepared, "system1", genes=list(prepared.var_names[order])), whole[:, order]
    )
    np.testing.assert_array_equal(translated(ensemble, prepared[:, order].copy(), "system1"), whole)


def test_counts_and_further_genes_are_taken(ensemble, counts, prepared):
    raw = counts[:, ::-1].copy()
    assert raw.n_vars > prepared.n_vars
    found = sysvi.translate(ensemble, raw, "system2", progress=False)
    np.testing.assert_array_equal(found.layers[LAYER], translated(ensemble, prepared, "system2"))
    np.testing.assert_allclose(found.X.toarray(), prepared.X.toarray(), rtol=1e-6)
    assert list(found.var_names) == list(prepared.var_names)


def test_missing_genes_are_decoded_as_when_cells_are_mapped(ensemble, prepared):
    few = prepared[:, 8:].copy()
    found = sysvi.translate(ensemble, few, progress=False)
    mapped = sysvi.extend_model(ensemble, few, progress=False, device="cpu")
    np.testing.assert_array_equal(found.X.toarray(), mapped.adata.X.toarray())
    np.testing.assert_array_equal(found.layers[LAYER], translated(mapped, mapped.adata))
    genes = list(prepared.var_names[:3])
    assert list(sysvi.translate(ensemble, few, genes=genes, progress=False).var_names) == genes


def test_mapped_batches_and_systems_are_translated(ensemble, prepared):
    new = prepared[prepared.obs["system"] == "system1"].copy()
    new.obs["batch"] = "new"
    with pytest.raises(InputError, match=r"obs.'batch'. has new, which the model does not know .*sysvi.extend_model"):
        sysvi.translate(ensemble, new, "system2")
    extended = sysvi.extend_model(ensemble, new, max_epochs=2, device="cpu", progress=False)
    assert translated(extended, new, "system2").shape == new.shape
    np.testing.assert_array_equal(translated(extended, prepared), translated(ensemble, prepared))
    cow = new.copy()
    cow.obs["system"] = "cow"
    with pytest.raises(InputError, match=r"obs.'system'. has cow, which the model does not know"):
        sysvi.translate(ensemble, cow)
    with_cow = sysvi.extend_model(ensemble, cow, max_epochs=2, device="cpu", progress=False)
    np.testing.assert_array_equal(
        translated(with_cow, prepared, "cow"), translated(with_cow, prepared, "cow", "new")
    )  # its only batch


def test_models_that_were_saved_translate_alike(ensemble, prepared, tmp_path):
    ensemble.save(tmp_path)
    loaded = sysvi.load(tmp_path, device="cpu")
    np.testing.assert_array_equal(translated(loaded, prepared, "system2"), translated(ensemble, prepared, "system2"))


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 7])
def test_blocks_in_a_file_have_the_same_bits(ensemble, prepared, tmp_path, monkeypatch, batch_size, assert_same):
    monkeypatch.setattr(sysvi.api.translate, "BLOCK_CELLS", 50)
    arguments = {"genes": list(prepared.var_names[:9]), "batch_size": batch_size}
    path = tmp_path / "out.h5ad"
    result = sysvi.translate(ensemble, prepared, "system2", output=path, progress=False, **arguments)
    assert result is None
    monkeypatch.undo()
    expected = sysvi.translate(ensemble, prepared, "system2", progress=False, **arguments)
    np.testing.assert_array_equal(anndata.read_h5ad(path).layers[LAYER], expected.layers[LAYER])
    expected.write_h5ad(tmp_path / "expected.h5ad")
    assert_same(anndata.read_h5ad(path), anndata.read_h5ad(tmp_path / "expected.h5ad"))
    assert {file.name for file in tmp_path.iterdir()} == {"out.h5ad", "expected.h5ad"}


def test_a_file_is_replaced_only_when_asked_for(ensemble, prepared, tmp_path):
    path = tmp_path / "out.h5ad"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="exists already; pass overwrite=True"):
        sysvi.translate(ensemble, prepared, output=path)
    assert path.read_bytes() == b"precious"
    sysvi.translate(ensemble, prepared, genes=[prepared.var_names[0]], output=str(path), overwrite=True, progress=False)
    assert anndata.read_h5ad(path).shape == (prepared.n_obs, 1)


def test_interrupted_writing_leaves_nothing(ensemble, prepared, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sysvi.api.translate, "decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sysvi.translate(ensemble, prepared, output=tmp_path / "out.h5ad", progress=False)
    assert not list(tmp_path.iterdir())


def test_cells_on_disk(ensemble, prepared, tmp_path):
    prepared.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    found = sysvi.translate(ensemble, backed, "system2", progress=False)
    np.testing.assert_array_equal(found.layers[LAYER], translated(ensemble, prepared, "system2"))


def test_the_layer_of_the_model_is_read(prepared):
    cells = prepared.copy()
    cells.layers["log"] = cells.X.copy()
    cells.X = cells.layers["counts"].copy()
    model = sysvi.integrate(cells, "system", "batch", layer="log", members=1, seed=3, **SMALL)
    found = sysvi.translate(model, cells.copy(), progress=False)
    np.testing.assert_array_equal(found.X.toarray(), cells.layers["log"].toarray())
    np.testing.assert_array_equal(found.layers[LAYER], translated(model, cells))


# -- messages ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_translated_is_refused(ensemble, single, prepared):
    refused = [
        ({"to_system": "rat"}, "to_system is 'rat', but the model knows the systems system1, system2"),
        ({"to_system": 3}, "to_system is 3; it must be a string or None"),
        ({"to_batch": "b"}, "to_batch is 'b', but the model knows the batches .*'average' averages"),
        (
            {"genes": ["INS", prepared.var_names[0]]},
            "lacks 1 of the 2 genes that were asked for .INS.: it decodes only",
        ),
        ({"genes": prepared.var_names[0]}, r"genes is the string .*it must be a list of strings"),
        ({"genes": []}, "genes is empty: name some"),
        ({"genes": [prepared.var_names[0]] * 2}, "names gene .* twice"),
        ({"layer": "no"}, "no layer 'no'"),
        ({"key_added": "a/b"}, "key_added is 'a/b'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"output": "no folder/x.h5ad"}, "no folder does not exist"),
    ]
    for arguments, words in refused:
        with pytest.raises(InputError, match=words):
            sysvi.translate(ensemble, prepared.copy(), progress=False, **arguments)
    with pytest.raises(InputError, match=r"model is .*it must be an object of the class SysVI or"):
        sysvi.translate("model", prepared)
    SysVI.setup_anndata(copy := prepared.copy(), "system")
    with pytest.raises(InputError, match="not trained yet"):
        sysvi.translate(SysVI(copy), prepared)
    without = prepared.copy()
    del without.obs["batch"]
    with pytest.raises(InputError, match="'batch' is not a column"):
        sysvi.translate(single, without)


def test_more_than_memory_is_refused_with_the_amount(ensemble, prepared, monkeypatch, tmp_path):
    monkeypatch.setattr("sysvi._core.memory.free_memory", lambda device: 1e4)
    words = r"of 360 cells and \d+ genes takes at least 0.0 GB .* blocks of cells .output., or choose genes .genes."
    with pytest.raises(InputError, match=words):
        sysvi.translate(ensemble, prepared, "system2")
    sysvi.translate(ensemble, prepared, "system2", output=tmp_path / "out.h5ad", progress=False)


def test_combinations_that_the_model_has_not_seen_are_warned_of(ensemble, prepared, recwarn):
    human = prepared[prepared.obs["system"] == "system1"].copy()
    name = human.obs["batch"].iloc[0]
    sysvi.translate(ensemble, human, to_batch=name, progress=False)
    sysvi.translate(ensemble, human, "system2", progress=False)
    assert not [warning for warning in recwarn if "has seen no cells" in str(warning.message)]
    seen = f"no cells of {name} .of 'batch'. in"
    with pytest.warns(UserWarning, match=f"{seen} system 'system2'.* with it: .*extrapolation"):
        sysvi.translate(ensemble, human, "system2", name, progress=False)
    with pytest.warns(UserWarning, match=f"{seen} the systems of some cells"):
        sysvi.translate(ensemble, prepared, to_batch=name, progress=False)
    cells = prepared.copy()
    cells.obs["sex"] = np.where(cells.obs["system"] == "system1", "f", "m")
    model = sysvi.integrate(cells, "system", "batch", categorical_covariate_keys=["sex"], members=1, **SMALL)
    with pytest.warns(UserWarning, match="no cells of f .of 'sex'. in system 'system2'"):
        sysvi.translate(model, cells, "system2", progress=False)


def test_what_is_decoded_is_said(ensemble, prepared):
    events = []
    sysvi.translate(ensemble, prepared, "system2", progress=events.append)
    [event] = [event for event in events if event.stage == "translate"]
    n = int((prepared.obs["system"] == "system2").sum())
    assert event.message.endswith(
        f"of 360 cells in system 'system2', {n} in their own batches and {360 - n} averaged over its batches"
    )


# -- what the values are worth -----------------------------------------------------------------------------------------


def true_expression(cells, system):
    """Expected expression of simulated cells in the systems of the given codes, (n, genes): log1p of 10,000 per cell.

    Means over the samples of the system; without the programmes.
    """
    truth, names = cells.varm, cells.uns["simulation"]
    cell_type = cells.obs["cell_type"].cat.codes.to_numpy()
    n_systems, n_samples = len(names["systems"]), names["n_samples"]
    interaction = truth["interaction"].reshape(cells.n_vars, n_systems, -1)
    log_mean = cells.var["baseline"].to_numpy() + truth["type_effect"].T[cell_type]
    log_mean = log_mean + truth["system_effect"].T[system] + interaction[:, system, cell_type].T
    samples = truth["sample_effect"].reshape(cells.n_vars, n_systems, n_samples)[:, system]  # (genes, n, samples)
    share = np.exp(log_mean[..., None] + samples.transpose(1, 0, 2))
    return np.log1p(share / share.sum(axis=1, keepdims=True) * 1e4).mean(axis=2)


@pytest.mark.slow
def test_values_are_near_the_truth_of_the_simulator():
    """Denoised expression is nearer to the expected one than what was measured; translated, to that of the target."""
    cells = sysvi.datasets.simulate_systems(1500, 200, n_types=4, n_samples=2, depth=800, seed=4)
    prepared = sysvi.prepare(cells, "system", "batch", min_cells=3)
    model = sysvi.integrate(prepared, "system", "batch", members=1, progress=False, device="cpu")
    kept, system = cells.var_names.isin(prepared.var_names), codes(cells, "system")
    own, measured = true_expression(cells, system)[:, kept], prepared.X.toarray()

    def correlation(values, truth):  # over cells, mean over the genes that differ between them
        columns = np.flatnonzero(truth.std(axis=0) > 0.1)
        return np.mean([np.corrcoef(values[:, j], truth[:, j])[0, 1] for j in columns])

    assert correlation(translated(model, prepared, None, "average"), own) > correlation(measured, own) + 0.1

    first = system == 0
    there = true_expression(cells, 1 - system)[first][:, kept]
    shared = cells.obs["cell_type"].isin(cells.uns["simulation"]["shared_types"]).to_numpy()[first]
    found = translated(model, prepared[first].copy(), "system2")
    change = there - own[first]
    of_model = found - translated(model, prepared, None, "average")[first]
    assert np.corrcoef(of_model[shared].mean(axis=0), change[shared].mean(axis=0))[0, 1] > 0.9
    # means of the translated cells of a type, and of the cells of this type that were measured in the target
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    relative = []
    for name in cells.uns["simulation"]["shared_types"]:
        target = measured[(system == 1) & (labels == name)].mean(axis=0)
        error, without = (
            np.abs(x[labels[first] == name].mean(axis=0) - target).mean() for x in (found, measured[first])
        )
        relative.append(error / without)
    assert max(relative) < 0.5
    assert np.mean(relative) < 0.3
