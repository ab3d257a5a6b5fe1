"""Inputs that are unusual but can be used: they once ended in an error, or gave a misleading message."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import write_elem
from click.testing import CliRunner
from scipy import sparse
from soak import files_in

import sysvi
from sysvi.cli import in_words_of_options, main, reporting
from sysvi.data.h5ad import read_h5ad, write_anndata

pytestmark = pytest.mark.filterwarnings("ignore:Only .* genes remain", "ignore:System .* has fewer cells")

FAST = "--system system --batch batch --members 1 --epochs 1 --min-cells 3 --quiet -o out.h5ad"


@pytest.fixture
def cells(counts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return anndata.read_h5ad(counts)


def run(command, status=0):
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == status, result.output
    return result


def embedding(name="out.h5ad"):
    return anndata.read_h5ad(name).obsm["X_sysVI"]


@pytest.mark.parametrize("mark", [np.array([]), "natural", np.array(["base"]), {"base": None}], ids=str)
def test_a_mark_of_scanpy_that_lost_its_form(cells, mark):
    cells.X = sparse.csr_matrix(np.log1p(cells.X.toarray() / 10.1))
    prepared = sysvi.prepare(cells, "system", normalize=False, min_cells=3, n_top_genes=50)
    cells.uns["log1p"] = mark
    again = sysvi.prepare(cells, "system", normalize=False, min_cells=3, n_top_genes=50)
    assert list(again.var_names) == list(prepared.var_names)


@pytest.mark.parametrize("command", ["integrate", "prepare"])
def test_counts_in_raw(cells, command):
    cells.write_h5ad("counts.h5ad")
    scaled = cells.copy()
    scaled.raw = cells
    scaled = scaled[:, :60].copy()  # raw has more genes
    scaled.X = np.random.default_rng(0).normal(size=scaled.shape)
    scaled.write_h5ad("scaled.h5ad")
    options = FAST if command == "integrate" else "--system system --batch batch --min-cells 3 -o out.h5ad"
    run(f"{command} counts.h5ad {options}")
    expected = anndata.read_h5ad("out.h5ad")
    run(f"{command} scaled.h5ad --raw {options} --overwrite")
    found = anndata.read_h5ad("out.h5ad")
    if command == "integrate":
        np.testing.assert_array_equal(found.obsm["X_sysVI"], expected.obsm["X_sysVI"])
        assert found.n_vars == 60  # a copy of the input
    else:
        assert list(found.var_names) == list(expected.var_names)
        np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())


@pytest.mark.parametrize("x", ["absent", "null"])
def test_expression_in_a_layer_without_x(cells, x):
    cells.write_h5ad("with.h5ad")
    run(f"integrate with.h5ad {FAST}")
    expected = embedding()
    cells.layers["counts"], cells.X = cells.X, None
    cells.write_h5ad("without.h5ad")
    with h5py.File("without.h5ad", "r+") as file:
        if "X" in file:
            del file["X"]
        if x == "null":
            write_elem(file, "X", None)
    run(f"integrate without.h5ad --layer counts {FAST} --overwrite")
    np.testing.assert_array_equal(embedding(), expected)


@pytest.mark.parametrize("kind", ["category", "string"])
def test_names_of_cells_and_genes_as_categories_or_nullable_strings(cells, kind):
    cells.write_h5ad("in.h5ad")
    run(f"integrate in.h5ad {FAST}")
    expected = embedding()
    with anndata.settings.override(allow_write_nullable_strings=True), h5py.File("in.h5ad", "r+") as file:
        for axis in ("obs", "var"):
            names = file[axis].attrs["_index"]
            values = pd.array(list(file[axis][names].asstr()[:]), dtype=kind)
            del file[axis][names]
            write_elem(file[axis], names, values)
    run(f"integrate in.h5ad {FAST} --overwrite")
    np.testing.assert_array_equal(embedding(), expected)
    run("prepare in.h5ad --system system --batch batch --min-cells 3 -o prepared.h5ad")


def test_raw_that_is_null(cells):
    cells.write_h5ad("in.h5ad")
    run(f"integrate in.h5ad {FAST}")
    expected = embedding()
    with h5py.File("in.h5ad", "r+") as file:
        write_elem(file, "raw", None)
    run(f"integrate in.h5ad {FAST} --overwrite")
    np.testing.assert_array_equal(embedding(), expected)


def test_prepared_expression_in_a_layer_without_x(cells):
    """It lies on disk, but AnnData does not call such an object backed."""
    prepared = sysvi.prepare(cells, "system", "batch", min_cells=3)
    prepared.layers["log"], prepared.X = prepared.X, None
    prepared.write_h5ad("in.h5ad")
    run(f"integrate in.h5ad --layer log {FAST}")
    expected = sysvi.integrate(prepared, "system", "batch", layer="log", members=1, max_epochs=1, progress=False)
    np.testing.assert_array_equal(embedding(), expected.get_latent_representation())


def test_no_two_samples_of_a_type_give_a_table_without_a_figure(cells, tmp_path):
    cells.obs["own"] = cells.obs["batch"]
    cells.write_h5ad("in.h5ad")
    result = run("batch-strength in.h5ad --system system --batch batch --label own -o out.csv")
    assert "Wrote out.csv, and no figure: there are no two samples of one cell type" in result.output
    assert files_in(tmp_path) == {"in.h5ad", "out.csv"}


def test_a_layer_whose_name_has_a_slash(cells):
    """As anndata before 0.11 wrote it."""
    cells.layers["counts"] = cells.X.copy()
    cells.write_h5ad("in.h5ad")
    with h5py.File("in.h5ad", "r+") as file:
        file["layers"].create_group("raw")
        file.move("layers/counts", "layers/raw/counts")
    run(f"integrate in.h5ad --layer raw/counts {FAST}")
    assert read_h5ad("out.h5ad").obsm["X_sysVI"].shape == (200, 15)


def test_columns_of_the_reserved_name(cells, tmp_path):
    cells.write_h5ad("in.h5ad")
    with h5py.File("in.h5ad", "r+") as file:  # as SeuratDisk writes it
        group = file["var"]
        names = list(group[group.attrs["_index"]].asstr()[:])
        for key in list(group):
            del group[key]
        for key in ("features", "_index"):
            write_elem(group, key, np.array(names, dtype=object))
        group.attrs["_index"], group.attrs["column-order"] = "features", np.array(["_index"], dtype=object)
    run("prepare in.h5ad --system system --min-cells 3 -o out.h5ad")
    prepared = anndata.read_h5ad("out.h5ad")
    assert list(prepared.var["index"]) == list(prepared.var_names)


def test_an_h5ad_file_is_written_as_by_anndata(cells, tmp_path):
    """Also of an object on disk, which stays with its file."""
    cells.raw = cells.copy()
    cells.obs["text"] = [f"text {i % 3}" for i in range(200)]
    cells.obsm["frame"] = pd.DataFrame({"a": np.arange(200)}, index=cells.obs_names)
    cells.obsp["graph"] = sparse.eye(200, format="csr")
    cells.layers["dense"] = cells.X.toarray()
    cells.uns["nested"] = {"deep": {"n": 3}}
    cells.write_h5ad("theirs.h5ad")
    backed = anndata.read_h5ad("theirs.h5ad", backed="r")
    for adata in (cells, backed):
        write_anndata(tmp_path / "ours.h5ad", adata)
        with h5py.File("ours.h5ad") as ours, h5py.File("theirs.h5ad") as theirs:
            assert describe(ours) == describe(theirs)
    assert backed.filename.name == "theirs.h5ad"
    assert list(read_h5ad(tmp_path / "ours.h5ad").raw.var_names) == list(cells.var_names)


def describe(file):
    """Attributes and values of everything in an HDF5 file, by its path."""
    content = {"/": sorted(file.attrs.items())}

    def add(name, item):
        attributes = {key: np.asarray(value).tolist() for key, value in item.attrs.items() if key != "column-order"}
        content[name] = (attributes, item[()].tolist() if isinstance(item, h5py.Dataset) else None)

    file.visititems(add)
    return content


def test_an_unusual_object_cannot_be_written(cells, tmp_path):
    cells.uns["object"] = object()
    with pytest.raises(sysvi.InputError, match=r"something that an h5ad file cannot: .*object.*Remove or convert it"):
        write_anndata(tmp_path / "out.h5ad", cells)


def test_a_sparse_embedding_is_evaluated_as_a_dense_one(cells):
    cells.obsm["dense"] = cells.X[:, :4].toarray()
    cells.obsm["sparse"] = cells.X[:, :4]
    table = sysvi.evaluate(cells, ["dense", "sparse"], system_key="system", metrics=["iLISI"], progress=False)
    assert table.loc["iLISI", "dense"] == table.loc["iLISI", "sparse"]


def test_a_batch_of_two_systems_is_said_to_be_one(cells):
    cells.obs["donor"] = np.where(np.arange(200) % 3 == 0, "donor1", "donor2")
    cells.write_h5ad("in.h5ad")
    result = run(f"integrate in.h5ad {FAST.replace('batch batch', 'batch donor').replace('--quiet ', '')}")
    assert "Warning: Batches donor1, donor2 of obs['donor'] occur in several systems" in result.stderr
    result = run(f"integrate in.h5ad {FAST.replace('--quiet ', '')} --overwrite")
    assert "in several systems" not in result.stderr


def test_few_orthologues_are_warned_about(cells):
    table = pd.DataFrame({"mouse": cells.var_names, "human": [f"H{i}" for i in range(120)]})
    with pytest.warns(UserWarning, match="Only 12 of 120 genes have an orthologue: check that adata.var_names"):
        sysvi.map_orthologs(cells, table[:12])


def test_options_that_choose_genes_are_said_to_be_ignored_on_prepared_cells(cells):
    sysvi.prepare(cells, "system", "batch", min_cells=3).write_h5ad("prepared.h5ad")
    result = run(f"integrate prepared.h5ad {FAST.replace('--quiet ', '')} --genes 20")
    assert "Warning: The input is prepared already: --genes has no effect." in result.stderr
    result = run("integrate prepared.h5ad --system system --members 1 --epochs 1 -o other.h5ad")
    assert "no effect" not in result.stderr


def test_memory_that_does_not_suffice_is_an_error_in_one_sentence(cells, tmp_path, monkeypatch):
    cells.write_h5ad("in.h5ad")
    for error in (
        MemoryError("Unable to allocate 37.3 GiB for an array with shape (100000, 50000)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4e10 bytes."),
    ):

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(sysvi, "prepare", fail)
        result = run("prepare in.h5ad --system system -o out.h5ad", status=1)
        assert result.stderr.startswith("Error: There is not enough memory (")
        assert "allocate" in result.stderr
        assert files_in(tmp_path) == {"in.h5ad"}


def test_another_runtime_error_is_not_hidden():
    with pytest.raises(RuntimeError, match="a bug"), reporting(False, True, []):
        raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("raise n_top_genes (now 3) or min_cells", "raise --genes (now 3) or --min-cells"),
        ("adata.obs['a'] (label_key) is missing", "obs['a'] (--label) is missing"),
        ("set train_size below 1 or weight_systems=True", "set --train-size below 1 or --weight-systems"),
        ("max_epochs is 0; kl_weight=2", "--epochs is 0; --kl-weight 2"),
        ("the prior of a layer has a seed", "the prior of a layer has a seed"),
        ("adata.obs_names of adata.X", "obs_names of X"),
    ],
)
def test_messages_name_options(message, expected):
    assert in_words_of_options(message) == expected
