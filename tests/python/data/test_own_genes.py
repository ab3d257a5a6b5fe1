"""Genes that some systems lack: groups of orthologues, the union of genes, and what is refused."""

from collections import defaultdict

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import sysvi
from sysvi._core.errors import InputError
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import read_data
from sysvi.data.h5ad import read_h5ad
from sysvi.data.own_genes import OWN_GENES_KEY, group_genes, own_genes_record, read_own_genes
from sysvi.model.checkpoint import LACKING_VERSION, MODEL_FILE, read_file, write_file

# -- groups of orthologues --------------------------------------------------------------------------------------------


def components(genes, tables):
    """The groups by following links from gene to gene, as a set of sets of (system, gene)."""
    reach = defaultdict(set)  # systems that have a name, or reach it by their table
    for system, names in genes.items():
        for name in (
            names
            if system not in tables
            else tables[system].dropna().loc[lambda t, names=names: t["gene"].isin(names), "name"]
        ):
            reach[name].add(system)
    links = defaultdict(set)
    for system, names in genes.items():
        for name in names:
            if system not in tables:
                links[system, name].add(("", name))
                links["", name].add((system, name))
                continue
            for gene, target in tables[system].dropna().itertuples(index=False):
                if gene == name and len(reach[target]) > 1:
                    links[system, name].add(("", target))
                    links["", target].add((system, name))
    found, seen = set(), set()
    for start in [(system, name) for system, names in genes.items() for name in names]:
        if start in seen:
            continue
        group, todo = {start}, [start]
        while todo:
            new = links[todo.pop()] - group
            group |= new
            todo += new
        seen |= group
        found.add(frozenset(node for node in group if node[0]))
    return found


names = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1)
pairs = st.lists(st.tuples(st.sampled_from("ABCDEFGHX"), st.sampled_from("abcdefghy")), max_size=12)


@given(names, names, st.lists(st.sampled_from("ABCDEFGH"), unique=True, min_size=1), pairs)
@settings(max_examples=200, deadline=None)
def test_groups_are_the_connected_genes(first, second, third, table):
    genes = {"human": pd.Index(first), "ape": pd.Index(second), "mouse": pd.Index(third)}
    tables = {"mouse": pd.DataFrame(table, columns=["gene", "name"], dtype=object)}
    groups = group_genes(genes, tables)
    found = defaultdict(set)
    for system, codes in groups.of_system.items():
        for name, code in zip(genes[system], codes, strict=True):
            found[code].add((system, name))
    assert {frozenset(group) for group in found.values()} == components(genes, tables)
    assert groups.names.is_unique
    assert len(groups.names) == len(found)
    has = [[any(s == name for s, _ in found[i]) for i in sorted(found)] for name in genes]
    np.testing.assert_array_equal(groups.has(), has)


def test_one_to_one_one_to_many_and_many_to_many_orthologues():
    genes = {
        "human": pd.Index(["GCG", "INS", "A1", "A2", "OWN"]),
        "mouse": pd.Index(["Ins1", "a1", "Gcg", "a2", "Ins2"]),
    }
    table = pd.DataFrame(
        [["Gcg", "GCG"], ["Ins1", "INS"], ["Ins2", "INS"], ["a1", "A1"], ["a1", "A2"], ["a2", "A2"], ["x", "OWN"]],
        columns=["mouse", "human"],
    )
    groups = group_genes(genes, {"mouse": table})
    assert groups.names.tolist() == ["GCG", "INS", "A1;A2", "OWN"]
    assert groups.of_system["human"].tolist() == [0, 1, 2, 2, 3]
    assert groups.of_system["mouse"].tolist() == [1, 2, 0, 2, 1]
    assert groups.has().tolist() == [[True] * 4, [True, True, True, False]]


def test_genes_of_the_same_name_that_no_table_links_stay_apart():
    genes = {"human": pd.Index(["GCG", "ins"]), "fish": pd.Index(["gcga", "ins"])}
    groups = group_genes(genes, {"fish": pd.DataFrame({"fish": ["gcga"], "human": ["GCG"]})})
    assert groups.names.tolist() == ["GCG", "ins", "ins (fish)"]


# -- the union of genes -----------------------------------------------------------------------------------------------


def two_species(seed=1, n_cells=300):
    """Counts of two species: of 200 genes the first 150 are orthologues; the first of human has two in mouse."""
    cells = sysvi.datasets.simulate_systems(n_cells, 200, seed=seed)
    parts = {}
    for name, system in (("human", "system1"), ("mouse", "system2")):
        of_system = cells[cells.obs["system"] == system]
        parts[name] = anndata.AnnData(of_system.X.copy(), obs=of_system.obs[["batch", "cell_type"]].copy())
        parts[name].var_names = [gene if name == "human" else f"m{gene}" for gene in cells.var_names]
    human, mouse = parts["human"].var_names, parts["mouse"].var_names
    table = pd.DataFrame({"mouse": [*mouse[:150], mouse[150]], "human": [*human[:150], human[0]]})
    return parts, table


@pytest.fixture(scope="module")
def union():
    parts, table = two_species()
    return sysvi.join_systems(parts, "species", genes="union", orthologs={"mouse": table})


@pytest.fixture(scope="module")
def model(union):
    return train(prepare(union, genes="union"))


def prepare(adata, **kwargs):
    return sysvi.prepare(adata, "species", "batch", min_cells=3, **kwargs)


pytestmark = pytest.mark.filterwarnings("ignore:Only .* genes remain", "ignore:System .* has fewer cells")


def test_union_has_the_counts_of_all_genes(union):
    parts, _ = two_species()
    human, mouse = (part.X.toarray() for part in parts.values())
    assert union.shape == (300, 200 + 49)
    expected = np.zeros(union.shape)
    expected[: len(human), :200] = human
    expected[len(human) :, :150] = mouse[:, :150]
    expected[len(human) :, 0] += mouse[:, 150]
    expected[len(human) :, 200:] = mouse[:, 151:]
    np.testing.assert_array_equal(union.X.toarray(), expected)
    has = read_own_genes(union.uns, union.var_names, ["human", "mouse"])
    assert has[0].sum() == 200
    assert has[1].sum() == 199


@pytest.mark.parametrize("n_top_genes", [100, 3000])
@pytest.mark.parametrize("flavor", ["cell_ranger", "seurat"])
def test_genes_of_all_systems_and_their_values_are_those_without_the_union(union, n_top_genes, flavor):
    shared = prepare(union, n_top_genes=n_top_genes, flavor=flavor)
    both = prepare(union, genes="union", n_top_genes=n_top_genes, flavor=flavor)
    has = read_own_genes(both.uns, both.var_names, ["human", "mouse"])
    assert shared.var_names.tolist() == both.var_names[has.all(axis=0)].tolist()
    assert (both[:, shared.var_names].X != shared.X).nnz == 0
    assert OWN_GENES_KEY not in shared.uns
    assert both.uns["sysvi_prepare"]["genes_kept_of_some_systems"] == (~has.all(axis=0)).sum() > 0
    n_seen = np.stack(
        [(union[union.obs["species"] == name, both.var_names].X > 0).sum(0).A1 for name in ("human", "mouse")]
    )
    assert (n_seen[has] > 3).all()
    assert not n_seen[~has].any()


def test_a_gene_that_no_system_has_changes_nothing(union):
    wider = anndata.AnnData(
        sparse.hstack([union.X, sparse.csr_matrix((union.n_obs, 1), dtype=np.float32)], format="csr"),
        obs=union.obs,
        var=pd.DataFrame(index=[*union.var_names, "none"]),
    )
    has = np.hstack([read_own_genes(union.uns, union.var_names, ["human", "mouse"]), [[False], [False]]])
    wider.uns[OWN_GENES_KEY] = own_genes_record(wider.var_names, ["human", "mouse"], has)
    first, second = prepare(union, genes="union"), prepare(wider, genes="union")
    assert first.var_names.tolist() == second.var_names.tolist()
    assert (first.X != second.X).nnz == 0


def test_log_normalised_cells_keep_their_values(union):
    logs = prepare(union, genes="union")
    again = prepare(logs, genes="union", normalize=False)
    assert again.var_names.tolist() == logs.var_names.tolist()
    assert (again.X != logs.X).nnz == 0
    np.testing.assert_array_equal(again.uns[OWN_GENES_KEY]["has"], logs.uns[OWN_GENES_KEY]["has"])


# -- models -----------------------------------------------------------------------------------------------------------


def train(adata, **kwargs):
    kwargs = {"members": 1, "max_epochs": 2, "progress": False, "n_hidden": 32, **kwargs}
    return sysvi.integrate(adata, "species", "batch", **kwargs)


def test_without_genes_of_some_systems_models_are_the_same_to_the_bit():
    parts, table = two_species()
    parts = {name: part[:, :150].copy() for name, part in parts.items()}
    joined = sysvi.join_systems(parts, "species", genes="union", orthologs={"mouse": table.iloc[:150]})
    shared, both = prepare(joined), prepare(joined, genes="union")
    train(shared)
    train(both)
    np.testing.assert_array_equal(shared.obsm["X_sysVI"], both.obsm["X_sysVI"])


def test_values_of_genes_that_a_system_lacks_change_nothing(union):
    prepared = prepare(union, genes="union")
    changed, human = prepared.copy(), (prepared.obs["species"] == "human").to_numpy()
    has = read_own_genes(prepared.uns, prepared.var_names, ["human", "mouse"])
    x, rng = changed.X.toarray(), np.random.default_rng(0)
    for cells, own in ((human, has[0]), (~human, has[1])):
        x[np.ix_(cells, ~own)] = rng.gamma(1, 2, (cells.sum(), (~own).sum()))
    changed.X = sparse.csr_matrix(x)
    train(prepared)
    train(changed)
    np.testing.assert_array_equal(prepared.obsm["X_sysVI"], changed.obsm["X_sysVI"])


@pytest.mark.parametrize("members", [1, 2])
def test_models_are_saved_loaded_and_embed_cells_with_their_own_genes_alone(union, tmp_path, members):
    prepared = prepare(union, genes="union")
    model = train(prepared, members=members)
    model.save(tmp_path / "model")
    loaded = sysvi.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.get_latent_representation(prepared), prepared.obsm["X_sysVI"])
    mouse = (prepared.obs["species"] == "mouse").to_numpy()
    lacking = np.isin(prepared.var_names, loaded.members[0].vocabulary.lacking["mouse"])
    assert lacking.any()
    own = prepared[mouse, ~lacking].copy()
    np.testing.assert_allclose(loaded.get_latent_representation(own), prepared.obsm["X_sysVI"][mouse], atol=1e-5)


@pytest.mark.parametrize("lacking", [{"human": ["none"]}, {"rat": ["gene1"]}, {"human": []}, {"human": 3}, [], 3])
def test_a_saved_model_with_damaged_genes_of_systems_is_refused(model, tmp_path, lacking):
    model.save(tmp_path)
    tensors, header = read_file(tmp_path / MODEL_FILE)
    write_file(tmp_path / MODEL_FILE, tensors, header | {"lacking": lacking}, True, LACKING_VERSION)
    with pytest.raises(InputError, match="is corrupted"):
        sysvi.load(tmp_path)


def test_genes_that_the_target_lacks_are_nan_in_translated_expression(union):
    prepared = prepare(union, genes="union")
    model = train(prepared, members=2)
    translated = sysvi.translate(model, prepared, to_system="human", progress=False).layers["sysvi_translated"]
    lacking = np.isin(prepared.var_names, model.vocabulary.lacking["human"])
    assert np.isnan(translated[:, lacking]).all()
    assert np.isfinite(translated[:, ~lacking]).all()


def test_cells_of_a_known_system_are_mapped_without_the_genes_that_it_lacks(union):
    prepared = prepare(union, genes="union")
    model = train(prepared)
    mouse = (prepared.obs["species"] == "mouse").to_numpy()
    lacking = np.isin(union.var_names, model.vocabulary.lacking["mouse"])
    query = sysvi.map_query(model, union[mouse, ~lacking].copy(), progress=False)
    assert len(query.uns["sysvi_query"]["missing_genes"]) == 0
    np.testing.assert_allclose(query.obsm["X_sysVI"], prepared.obsm["X_sysVI"][mouse], atol=1e-4)


def test_a_new_batch_of_a_known_system_is_learned(union):
    prepared = prepare(union, genes="union")
    model = train(prepared, members=2)
    query = union[union.obs["species"] == "mouse"][:50].copy()
    query.obs["batch"] = "new"
    extended = sysvi.extend_model(model, query, max_epochs=1, progress=False)
    assert extended.vocabulary.lacking == model.vocabulary.lacking
    z = extended.get_latent_representation()
    assert z.shape == (50, 15)
    assert np.isfinite(z).all()
    np.testing.assert_array_equal(extended.get_latent_representation(prepared), prepared.obsm["X_sysVI"])


def rat_cells(union, model, own):
    """Cells of a third species with the genes that both others have, and with some of those that one of them lacks."""
    lacking = sorted({gene for genes in model.vocabulary.lacking.values() for gene in genes})
    rat = union[union.obs["species"] == "mouse"][:60].copy()
    rat.X = sparse.csr_matrix(np.random.default_rng(3).poisson(1.0, rat.shape).astype(np.float32))
    rat.obs["species"], rat.obs["batch"] = "rat", "rat1"
    return rat[:, ~rat.var_names.isin(lacking[own:])].copy(), set(lacking[own:])


def test_a_new_system_lacks_the_genes_that_it_does_not_have(union, model, tmp_path):
    query, lacking = rat_cells(union, model, own=3)
    extended = sysvi.extend_model(model, query, max_epochs=1, progress=False)
    assert set(extended.vocabulary.lacking["rat"]) == lacking
    assert {name: genes for name, genes in extended.vocabulary.lacking.items() if name != "rat"} == (
        model.vocabulary.lacking
    )
    assert len(extended.adata.uns["sysvi_query"]["missing_genes"]) == 0
    z = extended.get_latent_representation()
    assert z.shape == (60, 15)
    assert np.isfinite(z).all()
    np.testing.assert_array_equal(
        extended.get_latent_representation(model.adata), model.get_latent_representation(model.adata)
    )
    of_rat = sysvi.translate(extended, model.adata, "rat", progress=False).layers["sysvi_translated"]
    nowhere = np.isin(extended.vocabulary.genes, list(lacking))
    assert np.isnan(of_rat[:, nowhere]).all()
    assert np.isfinite(of_rat[:, ~nowhere]).all()
    extended.save(tmp_path / "extended")
    loaded = sysvi.load(tmp_path / "extended", extended.adata)
    assert loaded.vocabulary.lacking == extended.vocabulary.lacking
    np.testing.assert_array_equal(loaded.get_latent_representation(), z)
    np.testing.assert_array_equal(sysvi.map_query(loaded, query, progress=False).obsm["X_sysVI"], z)


def test_genes_of_all_systems_that_a_new_one_misses_are_decoded(union, model):
    query, lacking = rat_cells(union, model, own=0)
    of_all = [gene for gene in model.vocabulary.genes if gene not in lacking]
    query = query[:, query.var_names != of_all[0]].copy()
    extended = sysvi.extend_model(model, query, max_epochs=1, progress=False)
    assert list(extended.adata.uns["sysvi_query"]["missing_genes"]) == of_all[:1]
    assert set(extended.vocabulary.lacking["rat"]) == lacking
    decoded = extended.adata[:, of_all[0]].X.toarray()
    assert decoded.max() > 0


def test_known_and_new_systems_of_one_query_have_their_own_genes(union, model):
    query, _ = rat_cells(union, model, own=3)
    mouse = union[union.obs["species"] == "mouse"][60:120].copy()
    both = anndata.concat([query, mouse], join="outer", fill_value=0)
    human_only = set(model.vocabulary.lacking["mouse"])
    both = both[:, ~both.var_names.isin(human_only)].copy()
    extended = sysvi.extend_model(model, both, max_epochs=1, progress=False)
    assert set(extended.vocabulary.lacking["rat"]) == human_only
    assert np.isfinite(extended.get_latent_representation()).all()


def test_a_union_without_genes_of_some_systems_is_written_and_read(tmp_path):
    parts, _ = two_species()
    parts["mouse"].var_names = parts["human"].var_names
    joined = sysvi.join_systems(parts, "species", genes="union")
    joined.write_h5ad(tmp_path / "joined.h5ad")
    first, second = prepare(joined), prepare(anndata.read_h5ad(tmp_path / "joined.h5ad"), genes="union")
    assert first.var_names.tolist() == second.var_names.tolist()
    assert (first.X != second.X).nnz == 0
    assert OWN_GENES_KEY not in second.uns


def test_expression_on_disk_gives_the_model_of_memory(union, tmp_path):
    prepared = prepare(union, genes="union")
    prepared.write_h5ad(tmp_path / "cells.h5ad")
    train(prepared)
    model = train(tmp_path / "cells.h5ad", memory="1GB")
    np.testing.assert_array_equal(model.adata.obsm["X_sysVI"], prepared.obsm["X_sysVI"])


def test_expression_that_stays_on_disk_must_be_0_in_genes_that_a_system_lacks(union, tmp_path):
    prepared = prepare(union, genes="union")
    prepared.write_h5ad(tmp_path / "cells.h5ad")
    columns = Columns("species", "batch")
    stored = read_data(read_h5ad(tmp_path / "cells.h5ad"), columns, window_cells=100)
    in_memory = read_data(prepared, columns)
    assert stored.cells.is_stored
    assert stored.vocabulary == in_memory.vocabulary
    module = sysvi.SysVI.from_data(prepared, in_memory, seed=0).module
    for ours, theirs in zip(module.embed(stored.cells), module.embed(in_memory.cells), strict=True):
        assert torch.equal(ours, theirs)
    prepared.X = sparse.csr_matrix(prepared.X.toarray() + np.float32(0.5))
    prepared.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(
        InputError, match="on disk has values other than 0 of genes that the systems of their cells lack"
    ):
        read_data(read_h5ad(tmp_path / "other.h5ad"), columns, window_cells=100)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_what_is_refused(union):
    parts, table = two_species()

    def join(parts=parts, **tables):
        return sysvi.join_systems(parts, "species", genes="union", orthologs=tables)

    without = anndata.AnnData(union.X, obs=union.obs, var=union.var)
    with pytest.raises(InputError, match="which genes each system has, which the input does not say"):
        prepare(without, genes="union")
    with pytest.raises(InputError, match="genes is 'all'; it must be 'shared' or 'union'"):
        prepare(union, genes="all")
    with pytest.raises(InputError, match="share no gene, by name or by their tables"):
        join()
    with pytest.raises(InputError, match="no gene of system 'mouse'"):
        join(mouse=pd.DataFrame({"a": ["x"], "b": ["y"]}))
    with pytest.raises(InputError, match="a table for 'rat', which is none of the systems human, mouse"):
        join(rat=table)
    with pytest.raises(InputError, match="a table for every system"):
        join(human=table, mouse=table)
    with pytest.raises(InputError, match="orthologs is for genes='union'"):
        sysvi.join_systems(parts, "species", orthologs={"mouse": table})
    logs = {name: part.copy() for name, part in parts.items()}
    logs["mouse"].X = logs["mouse"].X.log1p()
    with pytest.raises(InputError, match="system 'mouse' does not look like counts, and only counts can be summed"):
        join(logs, mouse=table)
    prepared = prepare(union, genes="union")
    renamed = prepared.copy()
    renamed.obs["species"] = renamed.obs["species"].astype(str).replace("mouse", "rat")
    with pytest.raises(InputError, match="knows the systems human, mouse, but not rat"):
        train(renamed)
    broken = prepared.copy()
    broken.uns[OWN_GENES_KEY]["has"] = np.ones(3, bool)
    with pytest.raises(InputError, match="cannot be read: join and prepare the systems again"):
        train(broken)


# -- differences ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Labels in one system only")
def test_systems_are_compared_in_the_genes_that_both_have(union, model):
    prepared = model.adata
    donor = prepared.obs["batch"].astype(str) + np.where(np.arange(prepared.n_obs) % 2, "a", "b")
    prepared.obs["donor"] = donor.to_numpy()
    table = sysvi.compare_systems(model, prepared, "cell_type", batch_key="donor", min_cells=2, progress=False)
    lacking = {gene for genes in model.vocabulary.lacking.values() for gene in genes}
    assert lacking
    assert set(table["gene"]) == set(prepared.var_names) - lacking
    assert np.isfinite(table["model_effect"]).all()


def test_groups_of_cells_are_not_compared_in_genes_that_some_lack(model):
    with pytest.raises(InputError, match="genes that some systems lack"):
        sysvi.differential_expression(model, model.adata, "cell_type", progress=False)
