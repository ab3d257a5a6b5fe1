"""Preparation of many files, against `prepare` of the same cells joined in memory."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import sysvi
from sysvi.cli import main
from sysvi.data import prepare_files as module
from sysvi.data.joined import JoinedRows, SelectedGenes
from sysvi.data.row_blocks import read_rows, row_blocks
from sysvi.data.stores import open_cells

pytestmark = pytest.mark.filterwarnings("ignore:Only .* genes remain", "ignore:Writing zarr v2")


@pytest.fixture(scope="module")
def cells():
    """Counts of 600 cells of two systems. Shared: do not modify."""
    return sysvi.datasets.simulate_systems(600, 260, seed=1)


@pytest.fixture(scope="module")
def parts(cells):
    """The cells in five parts: of one system, of both, with other orders of genes, further genes and columns."""
    rng = np.random.default_rng(0)
    system = cells.obs["system"].to_numpy()
    rows = [np.flatnonzero(system == name) for name in np.unique(system)]
    chosen = [rows[0][:100], rows[0][100:150], np.r_[rows[0][150:], rows[1][:120]], rows[1][120:200], rows[1][200:]]
    found = []
    for i, part in enumerate(chosen):
        genes = np.arange(cells.n_vars) if i == 0 else rng.permutation(cells.n_vars)[: cells.n_vars - i]
        adata = cells[part, genes].copy()
        adata.obs["own" if i == 3 else "score"] = np.arange(len(part))
        found.append(adata)
    return found


KINDS = ("h5ad", "zarr 2", "zarr 3", "dense", "csc")


@pytest.fixture(scope="module")
def files(parts, tmp_path_factory):
    """The parts as files of five kinds."""
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for i, (part, kind) in enumerate(zip(parts, KINDS, strict=True)):
        path = folder / f"part{i}.{'zarr' if 'zarr' in kind else 'h5ad'}"
        part = anndata.AnnData(part.X.toarray() if kind == "dense" else part.X, obs=part.obs, var=part.var)
        if kind == "csc":
            part.X = sp.csc_matrix(part.X)
        if "zarr" in kind:
            with anndata.settings.override(zarr_write_format=int(kind[-1])):
                part.write_zarr(path)
        else:
            part.write_h5ad(path)
        paths.append(path)
    return paths


@pytest.fixture
def small_windows(monkeypatch):
    """Shuffle the cells in windows of a fraction of them."""
    monkeypatch.setattr(module, "_shuffled_windows", windows_of(150))


def windows_of(n):
    import torch

    from sysvi._core.seeds import generator
    from sysvi.data.stored import epoch_groups

    def windows(n_cells, n_values, seed):
        groups = epoch_groups(torch.arange(n_cells), -(-n_cells // n), n, generator(seed, "shuffle"))
        return [torch.cat(group).numpy() for group in groups]

    return windows


@pytest.mark.parametrize("output", ["all.h5ad", "all.zarr"])
@pytest.mark.parametrize(("n_top_genes", "batch_key"), [(3000, None), (100, "batch")])
def test_equals_prepare_of_the_joined_cells(files, parts, small_windows, tmp_path, output, n_top_genes, batch_key):
    arguments = {"n_top_genes": n_top_genes, "min_cells": 3}
    path = sysvi.prepare_files(files, tmp_path / output, "system", batch_key, seed=2, **arguments)
    assert [p.name for p in tmp_path.iterdir()] == [output]  # nothing temporary is left
    found = open_cells(path)
    expected = sysvi.prepare(anndata.concat(parts, join="inner"), "system", batch_key, **arguments)
    assert list(found.var_names) == list(expected.var_names)
    assert sorted(found.obs_names) == sorted(expected.obs_names)
    assert list(found.obs_names) != list(expected.obs_names)  # shuffled
    expected = expected[found.obs_names]
    assert (found.X.to_memory() != expected.X).nnz == 0
    pd.testing.assert_frame_equal(
        found.obs.astype(object).sort_index(axis=1), expected.obs.astype(object).sort_index(axis=1), check_dtype=False
    )
    ours, theirs = found.uns["sysvi_totals"], expected.uns["sysvi_totals"]
    assert list(ours["genes"]) == list(theirs["genes"])
    np.testing.assert_array_equal(ours["shares"], theirs["shares"])
    assert ours["target_sum"] == theirs["target_sum"]
    ours, theirs = found.uns["sysvi_prepare"], expected.uns["sysvi_prepare"]
    assert list(ours["files"]) == [path.name for path in files]
    assert ours["seed"] == 2
    for name in set(theirs) - {"variable_genes"}:
        assert ours[name] == theirs[name]
    assert {k: int(v) for k, v in ours["variable_genes"].items()} == theirs["variable_genes"]


def test_the_same_seed_gives_the_same_order(files, small_windows, tmp_path):
    orders = []
    for i, seed in enumerate((0, 0, 1)):
        path = sysvi.prepare_files(files, tmp_path / f"{i}.h5ad", "system", min_cells=3, seed=seed)
        orders.append(list(open_cells(path).obs_names))
    assert orders[0] == orders[1] != orders[2]


def test_cells_of_all_files_are_mixed():
    windows = module._shuffled_windows(200_000, 200_000 * 1000, 0)
    assert len(windows) > 5
    np.testing.assert_array_equal(np.sort(np.concatenate(windows)), np.arange(200_000))
    for rows in windows:
        assert rows.min() < 60_000 < 140_000 < rows.max()
        assert (np.diff(rows) == 1).mean() < 0.01


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 99))
def test_joined_rows_are_those_of_all_parts(sizes, seed):
    rng = np.random.default_rng(seed)
    genes = rng.permutation(6)[:4]
    matrices = [sp.random(n, 6, 0.5, format="csr", dtype=np.float32, rng=rng) for n in sizes]
    joined, dense = JoinedRows([SelectedGenes(m, genes) for m in matrices]), sp.vstack(matrices).toarray()[:, genes]
    n = len(dense)
    start = rng.integers(n)
    stop = rng.integers(start, n) + 1
    np.testing.assert_array_equal(joined[start:stop].toarray(), dense[start:stop])
    for first, last, block in row_blocks(joined, 2):
        np.testing.assert_array_equal(block.toarray(), dense[first:last])
        assert block.has_sorted_indices
    rows = np.flatnonzero(rng.random(n) < 0.5)
    np.testing.assert_array_equal(read_rows(joined, rows).toarray(), dense[rows])


# -- species and systems ----------------------------------------------------------------------------------------------


@pytest.fixture
def two_species(cells, tmp_path):
    """Files without a column of systems, the second with genes of another species; and a table of orthologues."""
    paths = []
    for name, new in (("human", "GENE"), ("mouse", "Gene")):
        part = cells[cells.obs["system"] == {"human": "system1", "mouse": "system2"}[name]].copy()
        part.obs = part.obs[["batch"]]
        part.var_names = [f"{new}{i}" for i in range(part.n_vars)]
        (tmp_path / name).mkdir()
        part.write_h5ad(tmp_path / name / "cells.h5ad")
        paths.append(tmp_path / name / "cells.h5ad")
    numbers = np.arange(10, cells.n_vars)
    pd.DataFrame({"mouse": [f"Gene{i}" for i in numbers], "human": [f"GENE{i}" for i in numbers]}).to_csv(
        tmp_path / "table.tsv", sep="\t", index=False
    )
    return paths


def test_species_are_joined_by_orthologues(two_species, tmp_path):
    output, table = tmp_path / "all.h5ad", tmp_path / "table.tsv"
    path = sysvi.prepare_files(
        two_species,
        output,
        "species",
        min_cells=3,
        system_of_file={"*/human/*": "human", str(two_species[1]): "mouse"},
        orthologs={"mouse": table},
    )
    found = anndata.read_h5ad(path)
    human, mouse = map(anndata.read_h5ad, two_species)
    joined = sysvi.join_systems({"human": human, "mouse": sysvi.map_orthologs(mouse, table)}, "species")
    expected = sysvi.prepare(joined, "species", min_cells=3)
    assert set(found.obs["species"]) == {"human", "mouse"}
    assert list(found.var_names) == list(expected.var_names)
    assert "GENE5" not in found.var_names
    assert (found.X != expected[found.obs_names].X).nnz == 0


def test_the_command_is_the_function(two_species, tmp_path):
    arguments = ["prepare", *two_species, "--system", "species", "--min-cells", 3, "--seed", 4]
    arguments += ["--system-of-file", "*/human/*=human", "--system-of-file", "*/mouse/*=mouse"]
    arguments += ["--orthologs", f"mouse={tmp_path / 'table.tsv'}", "-o", tmp_path / "all.zarr"]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "Wrote" in result.output
    path = sysvi.prepare_files(
        two_species,
        tmp_path / "all.h5ad",
        "species",
        min_cells=3,
        system_of_file={"*/human/*": "human", "*/mouse/*": "mouse"},
        orthologs={"mouse": tmp_path / "table.tsv"},
        seed=4,
    )
    ours, theirs = open_cells(tmp_path / "all.zarr"), open_cells(path)
    assert list(ours.obs_names) == list(theirs.obs_names)
    assert (ours.X.to_memory() != theirs.X.to_memory()).nnz == 0


# -- bad input --------------------------------------------------------------------------------------------------------


def changed(part, **change):
    part = part.copy()
    for name, value in change.items():
        setattr(part, name, value)
    return part


def log_normalised(part, target):
    part = part.copy()
    total = np.asarray(part.X.sum(axis=1))
    part.X = sp.csr_matrix(part.X.multiply(target / total).log1p(), dtype=np.float32)
    return part


BAD = {
    "no system": (
        lambda a, b: (a, changed(b, obs=b.obs.drop(columns="system"))),
        r"b\.h5ad: system_key='system' is not",
    ),
    "no batch": (lambda a, b: (a, changed(b, obs=b.obs.drop(columns="batch"))), r"b\.h5ad: batch_key='batch' is not"),
    "missing batch": (
        lambda a, b: (a, changed(b, obs=b.obs.assign(batch=[None, *b.obs["batch"][1:]]))),
        r"b\.h5ad: .*'batch'.* 1 missing value",
    ),
    "one system": (lambda a, b: (a, changed(b, obs=b.obs.assign(system="system1"))), r"only one system \(system1\)"),
    "no gene": (
        lambda a, b: (a, changed(b, var=pd.DataFrame(index=[f"other{i}" for i in range(b.n_vars)]))),
        r"b\.h5ad shares no gene name with the files before it \(other0, other1, other2",
    ),
    "counts and logs": (
        lambda a, b: (a, log_normalised(b, 1e4)),
        r"disagree in their normalisation: .*a\.h5ad looks like raw counts and .*b\.h5ad log-normalised",
    ),
    "targets": (
        lambda a, b: (log_normalised(a, 1e4), log_normalised(b, 2e4)),
        r"disagree in their normalisation: .*a\.h5ad has 10,000 and .*b\.h5ad 20,000 \(counts per cell\)",
    ),
    "bases": (
        lambda a, b: (log_normalised(a, 1e4), changed(log_normalised(b, 1e4), uns={"log1p": {"base": 2}})),
        r"disagree in their normalisation: .*a\.h5ad has e and .*b\.h5ad 2 \(base of the logarithm\)",
    ),
    "negative": (lambda a, b: (a, changed(b, X=-b.X)), r"b\.h5ad: adata\.X has a negative value"),
    "two genes of one name": (
        lambda a, b: (a, changed(b, var=pd.DataFrame(index=["g", "g", *b.var_names[2:]]))),
        r"b\.h5ad: The gene name 'g' occurs more than once",
    ),
}


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_named_with_its_file(cells, tmp_path, name):
    make, message = BAD[name]
    system = cells.obs["system"]
    for path, part in zip(
        "ab", make(cells[system == "system1"].copy(), cells[system == "system2"].copy()), strict=True
    ):
        part.write_h5ad(tmp_path / f"{path}.h5ad")
    with pytest.raises(sysvi.InputError, match=message):
        sysvi.prepare_files(
            [tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "c.zarr", "system", "batch", min_cells=3
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5ad", "b.h5ad"]


def test_mistakes_of_arguments(files, tmp_path):
    def refused(message, files=files, output="out.zarr", key="system", **arguments):
        with pytest.raises(sysvi.InputError, match=message):
            sysvi.prepare_files(files, tmp_path / output, key, min_cells=3, **arguments)

    refused("files is the string 'a.h5ad'; it must be a list of strings or paths", files="a.h5ad")
    refused("files is .* it must be a list of strings or paths", files=np.arange(2))
    refused("give a list of at least one", files=[])
    refused("is given twice", files=[files[0], files[0]])
    (tmp_path / "link").symlink_to(files[0])
    refused("is given twice", files=[files[0], tmp_path / "link"])
    (tmp_path / "link").unlink()
    refused("must not be called '_index'", key="_index")
    refused("'NaN', which stands for missing values", key="species", system_of_file={"*": "NaN"})
    refused("There is no file", files=[files[0], tmp_path / "absent.h5ad"])
    refused(r"must end in \.h5ad", output="out.csv")
    refused("does not exist", output="absent/out.zarr")
    refused("which is none of the files", system_of_file={"x*": "mouse"})
    with pytest.raises(sysvi.InputError, match="which is none of the files"):
        module.join_files(files, "species", system_of_file={"x*": "mouse"})
    refused("column 'system' has system1, but system_of_file names 'b'", system_of_file={files[0].name: "b"})
    refused("which is none of the systems", orthologs={"zebrafish": "table.tsv"})
    refused("several systems", files=[files[2], files[0]], orthologs={"system1": "table.tsv"})
    refused(r"part0\.h5ad: its column 'system' has system1, but system_of_file names 'b'", system_of_file={"*0*": "b"})
    refused(r"'absent'.*If all its cells are of one system, name it in system_of_file\.", key="absent")
    refused("flavor is 'x'", flavor="x")
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "folder.zarr" / "thesis.tex").touch()
    refused("is not a zarr store, so it is not replaced", output="folder.zarr", overwrite=True)
    assert [p.name for p in tmp_path.rglob("*")] == ["folder.zarr", "thesis.tex"]


def test_an_output_is_replaced_only_when_asked(files, tmp_path):
    for output in (tmp_path / "out.zarr", tmp_path / "out.h5ad"):
        arguments = [files, output, "system"]
        sysvi.prepare_files(*arguments, min_cells=3)
        with pytest.raises(sysvi.InputError, match="exists already"):
            sysvi.prepare_files(*arguments, min_cells=3)
        sysvi.prepare_files(*arguments, min_cells=3, n_top_genes=50, overwrite=True)
        assert open_cells(output).n_vars < 60
        with pytest.raises(sysvi.InputError, match="is one of the files that are read"):
            sysvi.prepare_files([*files, output], output, "system", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.h5ad", "out.zarr"]


@pytest.mark.parametrize("output", ["out.zarr", "out.h5ad"])
def test_nothing_is_left_of_a_failed_run(files, tmp_path, monkeypatch, output):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    sysvi.prepare_files(files, tmp_path / output, "system", min_cells=3)
    before = list(open_cells(tmp_path / output).obs_names)
    monkeypatch.setattr(module, "log_normalise", fail)
    with pytest.raises(sysvi.InputError, match="no space left"):
        sysvi.prepare_files(files, tmp_path / output, "system", min_cells=3, seed=1, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [output]
    assert list(open_cells(tmp_path / output).obs_names) == before


def test_columns_and_names_of_cells(cells, tmp_path):
    system = cells.obs["system"]
    one, two = cells[system == "system1"].copy(), cells[system == "system2"].copy()
    one.obs["age"], two.obs["age"] = 3, "old"
    two.obs_names = (
        one.obs_names[: two.n_obs] if two.n_obs <= one.n_obs else [*one.obs_names, *two.obs_names[one.n_obs :]]
    )
    for name, part in (("one", one), ("two", two)):
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    with pytest.warns(UserWarning, match=r"Column 'age' of obs is left out: it is numeric in .*one\.h5ad and text in"):
        path = sysvi.prepare_files(
            [tmp_path / "one.h5ad", tmp_path / "two.h5ad"], tmp_path / "all.h5ad", "system", min_cells=3
        )
    found = anndata.read_h5ad(path)
    assert "age" not in found.obs
    assert found.obs_names.is_unique
    assert f"one_{one.obs_names[0]}" in found.obs_names
    assert f"two_{two.obs_names[0]}" in found.obs_names


def test_what_a_killed_run_left_is_removed(files, tmp_path):
    left = tmp_path / ".out.zarr.abc.part"
    (left / "X").mkdir(parents=True)
    (left / "X" / "zarr.json").touch()
    sysvi.prepare_files(files, tmp_path / "out.zarr", "system", min_cells=3)
    assert [p.name for p in tmp_path.iterdir()] == ["out.zarr"]


def test_a_store_of_another_run_is_kept(files, tmp_path, monkeypatch):
    """A store that appears while the files are read is not replaced."""
    output, original = tmp_path / "out.zarr", module.log_normalise

    def appear(*arguments):
        output.mkdir(exist_ok=True)
        original(*arguments)

    monkeypatch.setattr(module, "log_normalise", appear)
    with pytest.raises(sysvi.InputError, match=r"was written by another run .* is in .*out-1\.zarr"):
        sysvi.prepare_files(files, output, "system", min_cells=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out-1.zarr", "out.zarr"]
    assert open_cells(tmp_path / "out-1.zarr").n_obs == 600


def test_columns_that_a_file_cannot_hold_as_they_are(cells, tmp_path):
    """The reserved name of SeuratDisk's columns, and categories that are numbers in one file and text in another."""
    paths = [tmp_path / "system1.h5ad", tmp_path / "system2.h5ad"]
    for path, clusters in zip(paths, ([1, 2], ["a", None]), strict=True):
        part = cells[cells.obs["system"] == path.stem].copy()
        part.obs["cluster"] = pd.Categorical([clusters[i % 2] for i in range(part.n_obs)])
        part.obs["names"] = list(part.obs_names)
        part.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            obs = file["obs"]
            order = ["_index" if name == "names" else name for name in obs.attrs["column-order"]]
            obs.move(obs.attrs["_index"], "cell")
            obs.move("names", "_index")
            obs.attrs["_index"], obs.attrs["column-order"] = "cell", np.array(order, dtype=object)
    found = anndata.read_h5ad(sysvi.prepare_files(paths, tmp_path / "all.h5ad", "system", min_cells=3)).obs
    assert found["index"].tolist() == found.index.tolist()
    is_first = found["system"] == "system1"
    assert set(found["cluster"][is_first]) == {"1", "2"}
    assert set(found["cluster"][~is_first].dropna()) == {"a"}
    assert found["cluster"].isna().sum() == (~is_first).sum() // 2


def test_a_mark_of_scanpy_that_lost_its_form_means_the_natural_logarithm(cells, tmp_path):
    paths = []
    for name, mark in (("system1", {"base": "natural"}), ("system2", {"base": np.array([])})):
        part = cells[cells.obs["system"] == name].copy()
        part.X = sp.csr_matrix(np.log1p(part.X.toarray() / part.X.sum(axis=1) * 1e4))
        part.uns["log1p"] = mark
        part.write_h5ad(tmp_path / f"{name}.h5ad")
        paths.append(tmp_path / f"{name}.h5ad")
    assert sysvi.prepare(anndata.read_h5ad(paths[0]), "batch", min_cells=3, normalize=False).n_vars
    assert anndata.read_h5ad(sysvi.prepare_files(paths, tmp_path / "all.h5ad", "system", min_cells=3)).n_obs == 600


@pytest.mark.parametrize("output", ["all.h5ad", "all.zarr"])
def test_other_programs_can_compute_with_the_expression(files, tmp_path, output):
    """Compiled code takes one type of index only."""
    found = open_cells(sysvi.prepare_files(files, tmp_path / output, "system", min_cells=3)).to_memory()
    assert found.X.indptr.dtype == found.X.indices.dtype == np.int32
    sc.pp.pca(found, n_comps=5)
    assert found.obsm["X_pca"].shape == (600, 5)


def test_chunks_of_a_store_have_checksums(files, tmp_path):
    store = sysvi.prepare_files(files, tmp_path / "all.zarr", "system", min_cells=3)
    rng = np.random.default_rng(0)
    for name in ("data", "indices", "indptr"):
        [chunk] = [path for path in (store / "X" / name).rglob("*") if path.is_file() and not path.suffix]
        intact = chunk.read_bytes()
        for _ in range(5):
            damaged = bytearray(intact)
            damaged[rng.integers(len(intact))] ^= 1 << rng.integers(8)
            chunk.write_bytes(damaged)
            with pytest.raises(sysvi.InputError, match=r"damaged|cannot be read as a zarr store"):
                read_rows(open_cells(store).X, np.arange(600))
        chunk.write_bytes(intact)
    assert read_rows(open_cells(store).X, np.arange(600)).nnz
