"""Mapping new cells onto a trained model."""

import anndata
import numpy as np
import oracle
import pandas as pd
import pytest
import torch
from scipy import sparse

import sysvi
from sysvi import Ensemble, InputError, SysVI

pytestmark = pytest.mark.filterwarnings(
    "ignore:System .* has fewer cells",
    "ignore:The integration leaves",
    "ignore:Some cells have no counterpart",
    "ignore:Only .* genes remain",
)

SMALL = {"n_hidden": 16, "n_latent": 4, "max_epochs": 3, "batch_size": 50, "device": "cpu", "progress": False}
QUIET = {"max_epochs": 4, "device": "cpu", "progress": False}


def simulate(n_cells=480):
    """Counts of two systems with three batches each, and a number for each cell."""
    cells = sysvi.datasets.simulate_systems(
        n_cells, 120, n_types=3, n_private=0, n_samples=3, n_markers=10, n_programme_genes=10, depth=1000, seed=2
    )
    cells.obs["age"] = np.random.default_rng(1).normal(50, 10, cells.n_obs)
    return cells


def prepare(cells):
    return sysvi.prepare(cells, "system", "batch", min_cells=3)


@pytest.fixture(scope="module")
def counts():
    """Read-only."""
    return simulate()


@pytest.fixture(scope="module")
def new_batch(counts):
    """Name of the batch that the reference lacks."""
    return sorted(counts.obs.loc[counts.obs["system"] == "system1", "batch"].unique())[0]


@pytest.fixture(scope="module")
def query(counts, new_batch):
    """Read-only: the counts of the batch that the reference lacks."""
    return counts[counts.obs["batch"] == new_batch].copy()


@pytest.fixture(scope="module")
def reference(counts, new_batch):
    """Read-only: the reference with its embedding."""
    return prepare(counts[counts.obs["batch"] != new_batch].copy())


@pytest.fixture(scope="module")
def ensemble(reference):
    """Read-only."""
    return sysvi.integrate(reference, "system", "batch", members=2, seed=3, **SMALL)


@pytest.fixture(scope="module")
def single(reference):
    """Read-only: a single model with a continuous covariate."""
    copy = reference.copy()
    return sysvi.integrate(copy, "system", "batch", continuous_covariate_keys=["age"], members=1, seed=3, **SMALL)


def state(model):
    """All weights, and how an ensemble combines embeddings, as bytes."""
    parts = {f"{i}.{name}": x for i, m in enumerate(model.members) for name, x in m.module.state_dict().items()}
    if isinstance(model, Ensemble):
        parts |= {f"moves.{name}": getattr(model.moves, name) for name in ("system", "in_members", "position", "move")}
        parts |= {f"combination.{name}": getattr(model.combination, name) for name in ("center", "matrix")}
    return {name: np.asarray(x).tobytes() for name, x in parts.items()}


def mapped(model, cells, *keys, **arguments):
    return sysvi.map_query(model, cells.copy(), *keys, **QUIET | arguments).obsm["X_sysVI"]


def as_new_system(cells):
    """The same cells as if they were of a third system."""
    copy = cells.copy()
    copy.obs["system"], copy.obs["batch"] = "system3", "batch of system3"
    return copy


# -- the reference stays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ensemble", "single"])
@pytest.mark.parametrize("new", ["batch", "system"])
def test_the_reference_stays_the_same_to_the_bit(kind, new, reference, query, request):
    model = request.getfixturevalue(kind)
    before, embedding = state(model), model.get_latent_representation()
    cells = query if new == "batch" else as_new_system(query)
    extended = sysvi.extend_model(model, cells, **QUIET)
    assert type(extended) is type(model)
    assert state(model) == before
    np.testing.assert_array_equal(model.get_latent_representation(), embedding)
    np.testing.assert_array_equal(extended.get_latent_representation(reference), embedding)
    assert extended.adata.n_obs == query.n_obs
    np.testing.assert_array_equal(extended.get_latent_representation(), mapped(model, cells))


def test_known_weights_stay_and_new_ones_are_trained(ensemble, query):
    extended = sysvi.extend_model(ensemble, query, **QUIET)
    n_known = sum(len(names) for names in (ensemble.vocabulary.systems, ensemble.vocabulary.categorical["batch"]))
    for member, before in zip(extended.members, ensemble.members, strict=True):
        old = before.module.state_dict()
        for name, tensor in member.module.state_dict().items():
            if tensor.shape == old[name].shape:
                assert torch.equal(tensor, old[name]), name
                continue
            dim = next(d for d in range(tensor.ndim) if tensor.shape[d] != old[name].shape[d])
            known, new = tensor.split([old[name].shape[dim], 1], dim)
            assert torch.equal(known, old[name]), name
            if name == "prior.c":
                assert not new.any()
                continue
            batches = old[name].narrow(dim, old[name].shape[dim] - n_known + 2, n_known - 2)
            of_system1 = [i for i, batch in enumerate(ensemble.vocabulary.categorical["batch"]) if "system1" in batch]
            start = batches.index_select(dim, torch.tensor(of_system1)).mean(dim, keepdim=True)
            assert 1e-4 < (new - start).abs().max() < 3, name  # trained, from the mean of the system's batches


def test_known_batches_are_encoded_only(ensemble, reference, counts):
    """Cells of known batches have the embedding that the model itself gives them; nothing is trained."""
    events = []
    query = sysvi.map_query(ensemble, reference[::2].copy(), progress=events.append, device="cpu")
    np.testing.assert_array_equal(query.obsm["X_sysVI"], reference.obsm["X_sysVI"][::2])
    assert not {"plan", "epoch"} & {event.stage for event in events}
    [event] = [event for event in events if event.stage == "map"]
    assert "nothing is trained" in event.message
    assert event.values["new"] == {"system": [], "batch": []}


def test_counts_are_prepared_as_the_reference_was(ensemble, reference, counts):
    """Counts of all genes, in another order, give the embedding of the prepared cells."""
    raw = counts[reference.obs_names, np.random.default_rng(0).permutation(counts.n_vars)].copy()
    np.testing.assert_array_equal(mapped(ensemble, raw), reference.obsm["X_sysVI"])
    raw.layers["raw"], raw.X = raw.X, sparse.csr_matrix(raw.shape, dtype=np.float32)
    np.testing.assert_array_equal(mapped(ensemble, raw, layer="raw"), reference.obsm["X_sysVI"])


def test_columns_may_have_other_names(ensemble, reference):
    query = reference.copy()
    query.obs = query.obs.rename(columns={"system": "species", "batch": "donor"})
    np.testing.assert_array_equal(mapped(ensemble, query, "species", "donor"), reference.obsm["X_sysVI"])


# -- invariants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", ["batch", "system"])
def test_the_seed_decides_and_neither_order_nor_number_of_genes_does(ensemble, query, new):
    cells = query if new == "batch" else as_new_system(query)
    first = mapped(ensemble, cells, seed=4)
    np.testing.assert_array_equal(first, mapped(ensemble, cells, seed=4))
    assert (first != mapped(ensemble, cells, seed=5)).any()
    order = np.random.default_rng(0).permutation(cells.n_vars)
    further = anndata.AnnData(
        sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (cells.n_obs, 7)).astype(np.float32)),
        obs=cells.obs,
        var=pd.DataFrame(index=[f"further{i}" for i in range(7)]),
    )
    more = anndata.concat([further, cells[:, order]], axis=1, merge="first")
    np.testing.assert_array_equal(first, mapped(ensemble, more, seed=4))


def test_parts_of_a_query_of_known_batches_give_the_same_rows(ensemble, counts, reference):
    known = counts[reference.obs_names].copy()
    whole = mapped(ensemble, known)
    parts = [mapped(ensemble, known[:130]), mapped(ensemble, known[130:])]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_a_single_cell_of_a_known_batch(ensemble, reference):
    np.testing.assert_allclose(mapped(ensemble, reference[[5]]), reference.obsm["X_sysVI"][[5]], atol=1e-5)


def test_a_member_is_extended_like_an_independent_implementation(single, query):
    """Before training, the embedding of a new batch is that of float64 NumPy at the mean of its system's batches."""
    extended = sysvi.extend_model(single, query, **QUIET)
    state = oracle.arrays(single.module.state_dict())
    prepared = extended.adata
    x = prepared.X.toarray().astype(np.float64)
    vocabulary = single.vocabulary
    batches = vocabulary.categorical["batch"]
    system = vocabulary.systems.index(query.obs["system"].iloc[0])
    row = np.zeros(len(vocabulary.systems) + len(batches))
    row[system] = 1
    row[[2 + i for i, name in enumerate(batches) if name.startswith(vocabulary.systems[system])]] = 1 / 2
    mean, std = vocabulary.continuous["age"]
    age = (query.obs["age"].to_numpy()[:, None] - mean) / std
    c = np.hstack([np.tile(row, (len(x), 1)), age])
    expected, _ = oracle.encode(state, x, c, training=False)
    untrained = SysVI.load_query_data(prepared, single)
    untrained.status = "finished"  # embed with the weights at their start
    np.testing.assert_allclose(untrained.get_latent_representation(), expected, atol=1e-4)
    assert np.abs(extended.get_latent_representation() - expected).max() > 1e-3


def test_extended_models_are_saved_and_extended_again(ensemble, reference, query, tmp_path):
    once = sysvi.extend_model(ensemble, query, **QUIET)
    once.save(tmp_path)
    loaded = sysvi.load(tmp_path, once.adata, device="cpu")
    assert state(loaded) == state(once)
    np.testing.assert_array_equal(loaded.get_latent_representation(), once.get_latent_representation())
    np.testing.assert_array_equal(mapped(loaded, query), once.get_latent_representation())  # all batches are known now
    twice = sysvi.extend_model(loaded, as_new_system(query), **QUIET)
    assert twice.vocabulary.systems == ("system1", "system2", "system3")
    np.testing.assert_array_equal(twice.get_latent_representation(reference), reference.obsm["X_sysVI"])
    np.testing.assert_array_equal(twice.get_latent_representation(once.adata), once.get_latent_representation())


@pytest.mark.parametrize("settings", [{"prior": "gmm", "mixture": "joint"}, {"prior": "standard_normal"}])
@pytest.mark.parametrize("embed", [False, True])
def test_every_kind_of_model_is_extended(reference, query, settings, embed):
    model = sysvi.integrate(
        reference.copy(), "system", "batch", members=1, embed_categorical_covariates=embed, **settings, **SMALL
    )
    embedding = model.get_latent_representation()
    for cells in (query, as_new_system(query)):
        extended = sysvi.extend_model(model, cells, **QUIET)
        np.testing.assert_array_equal(extended.get_latent_representation(reference), embedding)
        assert np.isfinite(extended.get_latent_representation()).all()


def test_without_batches(reference, query):
    model = sysvi.integrate(reference.copy(), "system", members=1, **SMALL)
    known = sysvi.extend_model(model, query, **QUIET)
    np.testing.assert_array_equal(known.get_latent_representation(), model.get_latent_representation(known.adata))
    assert sysvi.extend_model(model, as_new_system(query), **QUIET).vocabulary.systems[2] == "system3"
    with pytest.raises(InputError, match="trained without batches: leave batch_key out"):
        sysvi.map_query(model, query.copy(), batch_key="batch", **QUIET)


def test_a_new_system_is_moved_towards_the_known_ones_which_stay(ensemble, query):
    extended = sysvi.extend_model(ensemble, as_new_system(query), **QUIET)
    n = len(ensemble.moves.system)
    for name in ("system", "move"):
        np.testing.assert_array_equal(getattr(extended.moves, name)[:n], getattr(ensemble.moves, name))
    assert set(extended.moves.system[n:]) == {2}
    assert len(extended.moves.system) == n + query.n_obs


def test_interrupted_mapping_leaves_a_model(ensemble, query):
    def interrupt(event):
        if event.stage == "epoch":
            raise KeyboardInterrupt

    extended = sysvi.extend_model(ensemble, query, progress=interrupt, device="cpu")
    assert extended.status == "interrupted"
    assert np.isfinite(extended.get_latent_representation()).all()


# -- genes -------------------------------------------------------------------------------------------------------------


def without_genes(cells, genes, share):
    """The cells without a share of some genes."""
    lost = np.random.default_rng(0).choice(np.array(genes), round(share * len(genes)), replace=False)
    return cells[:, ~cells.var_names.isin(lost)].copy(), set(lost)


def test_missing_genes_are_reported_warned_of_and_refused(ensemble, counts, reference):
    known = counts[reference.obs_names].copy()
    genes, lines = ensemble.vocabulary.genes, []
    few, lost = without_genes(known, genes, 0.05)
    query = sysvi.map_query(ensemble, few, progress=lambda event: lines.append(event.message), device="cpu")
    assert set(query.uns["sysvi_query"]["missing_genes"]) == lost
    assert f"lacks: {len(lost)} of {len(genes)} (5" in "".join(lines)
    whole = reference.obsm["X_sysVI"]
    assert np.abs(query.obsm["X_sysVI"] - whole).mean() < 0.25 * whole.std()
    some, lost = without_genes(known, genes, 0.2)
    with pytest.warns(UserWarning, match=rf"lacks {len(lost)} of the model's {len(genes)} genes \(20%; gene"):
        mapped(ensemble, some)
    many, lost = without_genes(known, genes, 0.6)
    with pytest.raises(InputError, match=rf"lacks {len(lost)} of the model's .*more than half: use names"):
        mapped(ensemble, many)


def test_missing_genes_are_decoded_from_an_embedding_with_the_mean_of_the_reference(single, counts, reference):
    """Counts of known batches, of which some genes are missing, in float64 NumPy."""
    known = counts[reference.obs_names].copy()
    part, lost = without_genes(known, single.vocabulary.genes, 0.05)
    prepared = sysvi.extend_model(single, part, **QUIET).adata
    genes, vocabulary = np.array(single.vocabulary.genes), single.vocabulary
    missing = np.isin(genes, list(lost))
    present, whole = (cells.X.toarray().astype(np.float64) for cells in (part[:, genes[~missing]], known))
    share = whole[:, known.var_names.isin(part.var_names)].sum() / whole.sum()  # all genes were detected
    x = np.zeros((known.n_obs, len(genes)))
    total = part.X.toarray().sum(1, keepdims=True) / share
    x[:, ~missing] = np.log1p(present / total * 1e4)
    np.testing.assert_allclose(prepared.X.toarray()[:, ~missing], x[:, ~missing], rtol=1e-5)
    system = known.obs["system"].to_numpy()
    for name in vocabulary.systems:
        x[np.ix_(system == name, missing)] = reference.X.toarray()[system == name][:, missing].mean(0)
    codes = [known.obs[key].to_numpy()[:, None] == np.array(names) for key, names in vocabulary.categorical.items()]
    mean, std = vocabulary.continuous["age"]
    age = (known.obs["age"].to_numpy()[:, None] - mean) / std
    c = np.hstack([system[:, None] == np.array(vocabulary.systems), *codes, age]).astype(np.float64)
    state = oracle.arrays(single.module.state_dict())
    z, _ = oracle.encode(state, x, c, training=False)
    expected, _ = oracle.decode(state, z, c, training=False)
    np.testing.assert_allclose(prepared.X.toarray()[:, missing], expected[:, missing].clip(0), atol=1e-3)


def test_genes_of_another_species_need_a_table(ensemble, counts, reference):
    query = counts[reference.obs_names].copy()
    table = pd.DataFrame({"fish": [f"fish{i}" for i in range(query.n_vars)], "human": query.var_names})
    query.var_names = table["fish"]
    with pytest.raises(InputError, match=r"none of the model's \d+ genes: .*fish0.*gene.*table of orthologues"):
        mapped(ensemble, query)
    np.testing.assert_array_equal(mapped(ensemble, query, orthologs=table), reference.obsm["X_sysVI"])


def test_spelling_of_genes(ensemble, counts, reference):
    query = counts[reference.obs_names].copy()
    query.var_names = query.var_names.str.upper()
    with pytest.warns(UserWarning, match="found without regard to upper and lower case, such as GENE_.* as gene_"):
        embedding = mapped(ensemble, query)
    np.testing.assert_array_equal(embedding, reference.obsm["X_sysVI"])


# -- input that cannot be used -----------------------------------------------------------------------------------------


def negative(query):
    query.X = -query.X
    return query


def half_log(query):
    """Counts of one system, and logarithms of the other."""
    query.obs["system"] = np.where(np.arange(query.n_obs) % 2, "system1", "system2")
    x = query.X.toarray().astype(np.float32)
    x[::2] = np.log1p(x[::2])
    query.X = sparse.csr_matrix(x)
    return query


def without_batch(query):
    del query.obs["batch"]
    return query


def one_of_a_new_system(query):
    return as_new_system(query[:1])


UNUSABLE = [
    (negative, {}, r"adata\.X has a negative value"),
    (half_log, {}, "looks like raw counts in system 'system1' and log-normalised in 'system2'"),
    (without_batch, {}, r"batch_key='batch' is not a column"),
    (None, {"system_key": "species"}, r"system_key='species' is not a column"),
    (None, {"layer": "counts"}, "no layer 'counts'"),
    (
        one_of_a_new_system,
        {},
        "'system3' is new to the model, which knows system1, system2, and has 1 cell; .*at least 10",
    ),
    (lambda q: q[:0], {}, "0 cells"),
    (None, {"key_added": "a/b"}, "key_added"),
    (None, {"seed": -1}, "seed is -1"),
    (None, {"max_epochs": 0}, "max_epochs is 0"),
    (None, {"orthologs": "missing.tsv"}, "There is no orthologue table"),
    (lambda q: "query.h5ad", {}, "must be an AnnData"),
]


@pytest.mark.parametrize(("change", "arguments", "words"), UNUSABLE)
def test_unusable_queries_are_refused(ensemble, query, change, arguments, words):
    cells = query.copy() if change is None else change(query.copy())
    before = state(ensemble)
    with pytest.raises(InputError, match=words):
        sysvi.map_query(ensemble, cells, **QUIET | arguments)
    assert state(ensemble) == before


def test_counts_and_logarithms_are_recognised_in_any_layer(ensemble, reference, counts):
    """A layer is read when it is named; what is in the others has no influence."""
    query = counts[reference.obs_names].copy()
    query.layers["raw"] = query.X.copy()
    query.X = query.X * np.float32(-1)  # as scaled values
    with pytest.raises(InputError, match=r"adata\.X has a negative value"):
        mapped(ensemble, query)
    np.testing.assert_array_equal(mapped(ensemble, query, layer="raw"), reference.obsm["X_sysVI"])


def test_models_that_cannot_be_extended(reference, query):
    with pytest.raises(InputError, match="model is 'folder'; it must be"):
        sysvi.map_query("folder", query)
    SysVI.setup_anndata(reference.copy(), "system")
    copy = reference.copy()
    SysVI.setup_anndata(copy, "system")
    with pytest.raises(InputError, match="not trained yet"):
        sysvi.map_query(SysVI(copy), query)


def test_a_batch_of_another_system_with_the_same_name_is_pointed_out(ensemble, query):
    cells = query.copy()
    other = next(name for name in ensemble.vocabulary.categorical["batch"] if name.startswith("system2"))
    cells.obs["batch"] = other
    with pytest.warns(
        UserWarning, match=f"{other} of 'batch' .*name of a batch that the reference has in another system"
    ):
        mapped(ensemble, cells)


def test_few_cells_of_a_new_batch_stay_at_the_mean_of_its_system(ensemble, query):
    """Weights of a batch of fewer than 10 cells are not trained."""
    events = []
    first = sysvi.map_query(ensemble, query[:3].copy(), progress=events.append, device="cpu")
    assert "plan" not in {event.stage for event in events}
    second = sysvi.map_query(ensemble, query[:3].copy(), seed=9, **QUIET)
    np.testing.assert_array_equal(first.obsm["X_sysVI"], second.obsm["X_sysVI"])


def test_counts_for_a_model_that_does_not_know_its_normalisation(reference, query):
    copy = reference.copy()
    del copy.uns["sysvi_totals"]
    model = sysvi.integrate(copy, "system", "batch", members=1, **SMALL)
    with pytest.warns(UserWarning, match="does not record how its cells were normalised"):
        extended = sysvi.extend_model(model, query, **QUIET)
    np.testing.assert_allclose(np.expm1(extended.adata.X.toarray()).sum(1), 1e4, rtol=1e-3)


def test_a_model_of_logarithms_normalises_counts_as_its_own_cells(reference, query, counts, recwarn):
    """Its cells were normalised elsewhere, to 5,000 counts over all genes, which their totals tell."""
    target = 5_000

    def logarithms(cells):
        copy = cells.copy()
        total = np.asarray(cells.X.sum(axis=1))
        copy.X = sparse.csr_matrix(np.log1p(cells.X.toarray() * target / total).astype(np.float32))
        return copy

    own = sysvi.prepare(
        logarithms(counts[reference.obs_names]), "system", "batch", min_cells=3, n_top_genes=60, normalize=False
    )
    model = sysvi.integrate(own, "system", "batch", members=1, **SMALL)
    found = mapped(model, query)
    assert not [w for w in recwarn if "normalised" in str(w.message)]
    np.testing.assert_allclose(found, mapped(model, logarithms(query)), atol=1e-4)


def test_counts_with_fractions_are_taken_when_told(ensemble, query):
    """As by `prepare`: refused by default, in the same words, and counts if the user says so."""
    corrected = query.copy()
    corrected.X = corrected.X.astype(np.float32)
    corrected.X.data[::7] -= 0.25
    with pytest.raises(
        InputError,
        match=r"looks like counts with fractions.*fractional_counts=True of sysvi\.map_query or sysvi\.extend_model",
    ):
        mapped(ensemble, corrected)
    summary = ensemble.members[0].summary()[2]
    extended = sysvi.extend_model(ensemble, corrected, fractional_counts=True, **QUIET)
    total = np.asarray(corrected[:, list(summary.total_genes)].X.sum(axis=1))
    expected = np.log1p(corrected[:, list(ensemble.vocabulary.genes)].X.toarray() * summary.target_sum / total)
    np.testing.assert_allclose(extended.adata.X.toarray(), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="fractional_counts is 'yes'; it must be True or False"):
        mapped(ensemble, query, fractional_counts="yes")


def test_another_normalisation_is_pointed_out(ensemble, reference, recwarn):
    query = reference.copy()
    mapped(ensemble, query)
    assert not [w for w in recwarn if "counts per cell" in str(w.message)]
    query.X = sparse.csr_matrix(np.log1p(np.expm1(query.X.toarray()) * 100))
    with pytest.warns(
        UserWarning, match=r"logarithms of about 1,\d\d\d,\d\d\d counts per cell, .* to 10,000: give counts"
    ):
        mapped(ensemble, query)


# -- the classes' methods of scvi-tools --------------------------------------------------------------------------------


@pytest.fixture
def compatible(reference):
    """A model that is set up as in scvi-tools."""
    copy = reference.copy()
    SysVI.setup_anndata(copy, "system", categorical_covariate_keys=["batch"])
    model = SysVI(copy, n_hidden=16, n_latent=4)
    model.train(max_epochs=2, progress=False, device="cpu")
    return model


def test_query_of_scvi(compatible, counts, query, tmp_path):
    prepared = prepare(counts)[query.obs_names].copy()
    compatible.save(tmp_path)
    for model in (compatible, str(tmp_path)):
        mapped_model = SysVI.load_query_data(prepared, model)
        assert not mapped_model.is_trained
        with pytest.raises(InputError, match="not trained"):
            mapped_model.get_latent_representation()
        mapped_model.train(max_epochs=2, plan_kwargs={"weight_decay": 0.0}, progress=False)
        assert mapped_model.get_latent_representation().shape == (query.n_obs, 4)
        assert len(mapped_model.history["reconstruction_loss_train"]) == 2
        old = compatible.module.state_dict()["encoder.layers.1.weight"]
        assert torch.equal(mapped_model.module.state_dict()["encoder.layers.1.weight"], old)
    known = SysVI.load_query_data(compatible.adata.copy(), compatible)
    with pytest.warns(UserWarning, match="Nothing is trained"):
        known.train()
    np.testing.assert_array_equal(known.get_latent_representation(), compatible.get_latent_representation())


def test_prepare_query_of_scvi(compatible):
    genes = SysVI.prepare_query_anndata(None, compatible, return_reference_var_names=True)
    assert genes.tolist() == list(compatible.vocabulary.genes)
    whole = compatible.adata.copy()
    few = whole[:, np.random.default_rng(0).permutation(whole.n_vars)[:60]].copy()
    few.obsm["X"], few.uns["note"] = np.ones((few.n_obs, 1)), "kept"
    with pytest.warns(UserWarning, match="less than 80% of reference var names"):
        padded = SysVI.prepare_query_anndata(few, compatible, inplace=False)
    assert padded.var_names.equals(genes)
    lost = ~genes.isin(few.var_names)
    assert padded[:, lost].X.nnz == 0
    np.testing.assert_array_equal(padded[:, ~lost].X.toarray(), whole[:, ~lost].X.toarray())
    assert padded.obs.equals(few.obs)
    assert (padded.uns["note"], padded.obsm["X"].shape, set(padded.layers)) == ("kept", (few.n_obs, 1), {"counts"})
    with pytest.warns(UserWarning, match="less than 80%"):
        assert SysVI.prepare_query_anndata(few, compatible) is None
    assert few.var_names.equals(genes)
    few.var_names = [f"x{i}" for i in range(few.n_vars)]
    with pytest.raises(InputError, match="No reference var names found in query data"):
        SysVI.prepare_query_anndata(few, compatible)


def test_arguments_of_scvi(compatible, ensemble):
    copy = compatible.adata.copy()
    with pytest.warns(UserWarning, match="freeze_dropout=.*is ignored"):
        SysVI.load_query_data(copy, compatible, freeze_dropout=True)
    for given in (True, False):
        with pytest.warns(UserWarning, match="The setting of transfer_batch is disabled in SysVI"):
            SysVI.load_query_data(copy, compatible, transfer_batch=given)
        new = copy.copy()
        key, uns = compatible.columns.system, dict(new.uns)
        new.obs[key] = new.obs[key].astype(str).replace(compatible.vocabulary.systems[0], "rat")
        with (
            pytest.warns(UserWarning, match="transfer_batch is disabled"),
            pytest.raises(InputError, match=r"categories missing from the reference\. These systems are new: rat"),
        ):
            SysVI.load_query_data(new, compatible, transfer_batch=given)
        assert dict(new.uns) == uns
    for arguments, words in (
        ({"unfrozen": True}, "unfrozen"),
        ({"registry": {}}, "registry"),
        ({"frozen": 1}, "frozen"),
    ):
        with pytest.raises(InputError, match=words):
            SysVI.load_query_data(copy, compatible, **arguments)
    with pytest.raises(InputError, match=r"ensemble with sysvi\.map_query"):
        SysVI.load_query_data(copy, ensemble)
    with pytest.raises(InputError, match=r"sysvi\.map_query"):
        ensemble.load_query_data(copy, ensemble)


def test_values_too_large_for_a_logarithm_warn_in_the_drop_in_only(reference):
    large = reference.copy()
    large.X = large.X.multiply(7.3).tocsr()
    SysVI.setup_anndata(large, "system")
    with pytest.warns(UserWarning, match="too large for log-normalised expression"):
        SysVI(large)
    with pytest.raises(InputError, match="too large for log-normalised expression"):
        sysvi.integrate(large, "system", **SMALL)


def test_warnings_point_to_the_line_of_the_call(ensemble, query, recwarn):
    cells = query.copy()
    cells.var_names = cells.var_names.str.upper()
    cells.obs["batch"] = next(name for name in ensemble.vocabulary.categorical["batch"] if name.startswith("system2"))
    sysvi.map_query(ensemble, cells[:, :95].copy(), **QUIET)
    sysvi.extend_model(ensemble, cells, **QUIET)
    assert len(recwarn) == 5
    assert {warning.filename for warning in recwarn} == {__file__}
