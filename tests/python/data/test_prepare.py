import importlib
import json
import tracemalloc
import warnings
from functools import partial

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sysvi._core.errors import InputError
from sysvi.data.columns import Columns
from sysvi.data.ensure_prepared import ensure_prepared
from sysvi.data.from_anndata import cells_from_anndata, read_vocabulary
from sysvi.data.h5ad import read_h5ad
from sysvi.data.prepare import prepare
from sysvi.data.row_blocks import BLOCK_VALUES, row_blocks, select_genes

pytestmark = pytest.mark.filterwarnings("ignore:Only .* genes remain")

module = importlib.import_module("sysvi.data.prepare")  # `sysvi.prepare` is the function
N_CELLS, N_GENES = 160, 400
SMALL = {"n_top_genes": 150, "min_cells": 5}
KINDS = ["csr", "csc", "dense", "integer", "unsorted", "layer", "view", "backed_csr", "backed_csc", "backed_dense"]


def example(seed=0):
    """Dense counts of two systems with two batches each; some genes are rare or absent in one system."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.5, 2.0, size=N_GENES) * np.where(rng.random((N_CELLS, N_GENES)) < 0.3, 3.0, 0.5)
    counts = rng.poisson(mean).astype("float32")
    counts[: N_CELLS // 2, :10] = 0
    counts[:, 10:14] = 0
    obs = pd.DataFrame(
        {
            "system": ["human"] * (N_CELLS // 2) + ["mouse"] * (N_CELLS // 2),
            "batch": pd.Categorical(np.array(["h1", "h2", "m1", "m2"])[np.arange(N_CELLS) // (N_CELLS // 4)]),
        },
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    order = rng.permutation(N_CELLS)  # systems interleaved
    return anndata.AnnData(
        counts[order],
        obs=obs.iloc[order],
        var=pd.DataFrame({"length": np.arange(N_GENES)}, index=[f"gene{i}" for i in range(N_GENES)]),
        obsm={"X_old": np.arange(N_CELLS * 2.0).reshape(-1, 2)},
        uns={"note": "kept", "log1p": {"base": None}},
    )


def of_kind(kind, tmp_path):
    adata = example()
    dense = adata.X
    layer = None
    if kind == "integer":
        adata.X = dense.astype("int64")
    elif kind == "layer":
        layer, adata.layers["raw"], adata.X = "raw", sparse.csr_matrix(dense), dense * 0.5
    elif kind == "view":
        adata = anndata.concat([adata, adata[:7]], index_unique="-", merge="same", uns_merge="same")[:N_CELLS]
        adata.obs_names = example().obs_names
    elif kind == "unsorted":  # legal CSR: unsorted indices, explicit zeros, one entry in two parts
        x = sparse.csr_matrix(dense)
        row, column = map(int, np.argwhere(dense >= 2)[0])
        data, indices, indptr = list(x.data), list(x.indices), x.indptr.copy()
        place = next(i for i in range(indptr[row], indptr[row + 1]) if indices[i] == column)
        data[place] -= 1
        zero = int(np.flatnonzero(dense[row] == 0)[0])
        data[indptr[row] : indptr[row]], indices[indptr[row] : indptr[row]] = [1.0, 0.0], [column, zero]
        indptr[row + 1 :] += 2
        adata.X = sparse.csr_matrix((np.array(data, "float32"), np.array(indices), indptr), shape=dense.shape)
    elif kind != "dense" and not kind.endswith("dense"):
        adata.X = sparse.csc_matrix(dense) if kind.endswith("csc") else sparse.csr_matrix(dense)
    if kind.startswith("backed"):
        adata.write_h5ad(tmp_path / "in.h5ad")
        adata = anndata.read_h5ad(tmp_path / "in.h5ad", backed="r")
        assert adata.isbacked
    return adata, layer


def by_hand(adata, batch_key=None, *, n_top_genes=150, min_cells=5, target_sum=1e4, flavor="cell_ranger"):
    """Naive preparation with dense NumPy; only the ranking of variable genes is scanpy's."""
    x = np.asarray(adata.X, dtype="float64")
    system = adata.obs["system"].to_numpy()
    names = sorted(set(system))
    seen = [g for g in range(x.shape[1]) if all((x[system == s, g] > 0).sum() > min_cells for s in names)]
    counts = x[:, seen]
    log = np.log(1 + counts / counts.sum(axis=1, keepdims=True) * target_sum)
    variable = []
    for s in names:
        part = anndata.AnnData(log[system == s].astype("float32"), obs=adata.obs[system == s].astype(str))
        part.var_names = adata.var_names[seen]
        sc.pp.highly_variable_genes(part, flavor=flavor, n_top_genes=n_top_genes, batch_key=batch_key)
        variable.append(set(part.var_names[part.var["highly_variable"]]))
    kept = [i for i, g in enumerate(seen) if all(adata.var_names[g] in v for v in variable)]
    return adata.var_names[[seen[i] for i in kept]], counts[:, kept], log[:, kept], len(seen), list(map(len, variable))


def same(left, right):
    """Two AnnData hold the same values in the same kinds of container."""
    pd.testing.assert_frame_equal(left.obs, right.obs)
    pd.testing.assert_frame_equal(left.var, right.var)
    assert list(left.layers) == list(right.layers)
    assert list(left.obsm) == list(right.obsm)
    assert list(left.uns) == list(right.uns)
    for a, b in [(left.X, right.X), *((left.layers[k], right.layers[k]) for k in left.layers)]:
        assert type(a) is type(b)
        assert a.dtype == b.dtype
        if sparse.issparse(a):
            for part in ("data", "indices", "indptr"):
                np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
        else:
            np.testing.assert_array_equal(a, b)
    for key in left.obsm:
        np.testing.assert_array_equal(left.obsm[key], right.obsm[key])


@pytest.mark.parametrize("flavor", ["cell_ranger", "seurat"])
@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_against_hand_computation(batch_key, flavor):
    adata = example()
    genes, counts, log, n_seen, n_variable = by_hand(adata, batch_key, flavor=flavor)
    result = prepare(adata, "system", batch_key, flavor=flavor, **SMALL)
    assert result.var_names.tolist() == genes.tolist()
    assert 20 < len(genes) < 150
    np.testing.assert_array_equal(result.layers["counts"].toarray(), counts)
    np.testing.assert_allclose(result.X.toarray(), log, rtol=1e-5)
    summary = result.uns["sysvi_prepare"]
    assert summary["genes_in"] == N_GENES
    assert summary["genes_detected"] == n_seen
    assert summary["variable_genes"] == dict(zip(["human", "mouse"], n_variable, strict=True))
    assert summary["genes_kept"] == result.n_vars


def test_totals_are_those_of_the_detected_genes():
    adata = example()
    totals = prepare(adata, "system", "batch", target_sum=5e3, **SMALL).uns["sysvi_totals"]
    by_gene = pd.Series(np.asarray(adata.X, np.float64).sum(axis=0), index=adata.var_names)[totals["genes"]]
    assert len(by_gene) == by_hand(adata)[3]
    np.testing.assert_allclose(totals["shares"], by_gene / by_gene.sum(), rtol=1e-12)
    assert totals["target_sum"] == 5e3
    log = prepare(adata, "system", "batch", **SMALL)
    assert "sysvi_totals" not in prepare(anndata.AnnData(log.X, obs=log.obs), "system", normalize=False, **SMALL).uns


def test_totals_of_logarithms_are_found_where_cells_have_one_total():
    counts = example().X.astype(np.float64)
    counts[3] = 0  # a cell without expression says nothing
    normalised = 2_000 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    adata = example()
    adata.X = np.log1p(normalised).astype(np.float32)
    prepared = prepare(adata, "system", "batch", normalize=False, **SMALL)
    totals = prepared.uns["sysvi_totals"]
    assert totals["target_sum"] == pytest.approx(2_000, rel=1e-6)
    assert list(totals["genes"]) == list(adata.var_names)  # also those that are not kept
    assert prepared.n_vars < adata.n_vars
    np.testing.assert_allclose(totals["shares"], normalised.sum(axis=0) / normalised.sum(), rtol=1e-5)

    again = prepare(prepared, "system", "batch", normalize=False, **SMALL).uns["sysvi_totals"]  # some of the genes
    assert again["target_sum"] == totals["target_sum"]
    other_cell, other_base = adata.copy(), adata.copy()
    other_cell.X[5] = np.log1p(1.1 * normalised[5])
    other_base.X /= np.log(2)
    other_base.uns["log1p"] = {"base": 2}
    for unknown in (other_cell, other_base):
        assert "sysvi_totals" not in prepare(unknown, "system", "batch", normalize=False, **SMALL).uns


def test_result_form():
    adata = example()
    result = prepare(adata, "system", "batch", **SMALL)
    for matrix in (result.X, result.layers["counts"]):
        assert isinstance(matrix, sparse.csr_matrix)
        assert matrix.dtype == np.float32
    assert result.uns["note"] == "kept"
    pd.testing.assert_frame_equal(result.obs, adata.obs)
    pd.testing.assert_frame_equal(result.var, adata.var.loc[result.var_names])
    np.testing.assert_array_equal(result.obsm["X_old"], adata.obsm["X_old"])
    assert np.diff(result.var["length"]).min() > 0  # the input's order


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_input_agree_and_stay_unchanged(kind, tmp_path):
    adata, layer = of_kind(kind, tmp_path)
    before = adata.to_memory() if adata.isbacked else adata.copy()
    result = prepare(adata, "system", "batch", layer=layer, **SMALL)
    same(adata.to_memory() if adata.isbacked else adata, before)
    expected = prepare(example(), "system", "batch", **SMALL)
    result.uns["sysvi_prepare"].pop("layer", None)
    assert result.uns["sysvi_prepare"] == expected.uns["sysvi_prepare"]
    np.testing.assert_array_equal(result.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(result.layers["counts"].toarray(), expected.layers["counts"].toarray())
    assert result.var_names.equals(expected.var_names)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 12), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_row_blocks_are_the_matrix(n_cells, n_genes, n_rows, seed):
    dense = np.random.default_rng(seed).poisson(0.7, size=(n_cells, n_genes))
    for matrix in (dense, sparse.csr_matrix(dense), sparse.csc_matrix(dense), sparse.csr_array(dense)):
        blocks = list(row_blocks(matrix, n_rows))
        assert [b for b, _, _ in blocks] == list(range(0, n_cells, n_rows))
        for start, stop, block in blocks:
            assert block.dtype == np.float32
            np.testing.assert_array_equal(block.toarray(), dense[start:stop])
            block.data[:] = -1  # a block is a copy
        np.testing.assert_array_equal(matrix if matrix is dense else matrix.toarray(), dense)
        if n_cells:
            np.testing.assert_array_equal(select_genes(matrix, np.arange(n_genes)[::2]).toarray(), dense[:, ::2])


def test_backed_input_is_never_held_whole(tmp_path):
    n_cells, n_genes = 8000, 2000
    counts = np.zeros((n_cells, n_genes), "float32")
    counts[:, :50] = np.random.default_rng(0).poisson(1.0, size=(n_cells, 50))
    obs = pd.DataFrame({"system": np.array(["a", "b"])[np.arange(n_cells) % 2]}, index=np.arange(n_cells).astype(str))
    anndata.AnnData(counts, obs=obs).write_h5ad(tmp_path / "in.h5ad")
    adata = anndata.read_h5ad(tmp_path / "in.h5ad", backed="r")
    tracemalloc.start()
    try:
        result = prepare(adata, "system")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.n_vars == 50
    assert peak < counts.nbytes / 2


@pytest.mark.slow
def test_peak_memory_is_the_result_and_a_block(tmp_path):
    n_cells, n_genes = 12_000, 800
    x = sparse.random(n_cells, n_genes, 0.3, format="csr", dtype=np.float32, random_state=0)
    x.data = np.ceil(5 * x.data * np.random.default_rng(0).random(len(x.data), np.float32))
    obs = pd.DataFrame({"system": pd.Categorical(["a", "b"] * (n_cells // 2))}, index=np.arange(n_cells).astype(str))
    anndata.AnnData(x, obs=obs).write_h5ad(tmp_path / "in.h5ad")
    del x
    adata = read_h5ad(tmp_path / "in.h5ad")
    tracemalloc.start()
    try:
        result = prepare(adata, "system", n_top_genes=700, keep_counts=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.X.nnz > 4 * BLOCK_VALUES
    assert peak < 1.1 * 8 * result.X.nnz + 48 * BLOCK_VALUES + 200 * n_cells


def test_layers_and_expression_stay_on_disk(tmp_path):
    adata = example()
    adata.layers["counts"], adata.layers["dense"], adata.raw = sparse.csc_matrix(adata.X), adata.X.copy(), adata
    adata.X = sparse.csr_matrix(np.log1p(adata.X))
    adata.write_h5ad(tmp_path / "in.h5ad")
    opened = read_h5ad(tmp_path / "in.h5ad")
    assert opened.isbacked
    assert not any(isinstance(x, np.ndarray) or sparse.issparse(x) for x in (opened.X, *opened.layers.values()))
    in_memory = anndata.read_h5ad(tmp_path / "in.h5ad")
    for layer in ("counts", "dense"):
        same(prepare(opened, "system", layer=layer, **SMALL), prepare(in_memory, "system", layer=layer, **SMALL))


def test_the_engine_shares_the_prepared_expression():
    prepared = prepare(example(), "system", **SMALL)
    columns = Columns("system")
    cells = cells_from_anndata(prepared, columns, read_vocabulary(prepared, columns))
    assert np.shares_memory(cells.x.data, prepared.X.data)
    assert np.shares_memory(cells.x.indices, prepared.X.indices)


@pytest.mark.parametrize("counts", [True, False])
def test_none_normalises_what_looks_like_counts(counts):
    adata = example()
    if not counts:
        adata.X = np.log1p(adata.X)
    lines = []
    result = prepare(adata, "system", normalize=None, report=lines.append, **SMALL)
    same(result, prepare(adata, "system", normalize=counts, **SMALL))
    assert result.uns["sysvi_prepare"]["normalize"] is counts
    assert lines[0] == f"The input looks like {'counts' if counts else 'log-normalised expression'}"


def test_counts_need_not_be_kept():
    expected = prepare(example(), "system", **SMALL)
    result = prepare(example(), "system", keep_counts=False, **SMALL)
    assert not result.layers
    del expected.layers["counts"]
    same(result, expected)


@pytest.mark.parametrize("counts", [True, False])
def test_ready_goes_through_the_input_three_times(counts, monkeypatch):
    adata = example()
    if not counts:
        adata.X = np.log1p(adata.X)
    passes = []
    for name in ("row_ranges", "row_blocks"):  # one of them for each pass
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, function=function: (passes.append(None), function(*a))[1])
    cells, layer = ensure_prepared(adata, "system", **SMALL)
    assert len(passes) == 3
    assert layer is None
    assert not cells.layers


def test_ready_has_only_the_expression_it_names():
    adata = example()
    adata.layers["log"] = sparse.csr_matrix(np.log1p(adata.X))
    cells, layer = ensure_prepared(adata, "system", layer="log", all_genes=True)
    assert (layer, cells.X, list(cells.layers)) == ("log", None, ["log"])
    prepared = prepare(adata, "system", **SMALL)
    cells, layer = ensure_prepared(prepared, "system")
    assert (layer, list(cells.layers)) == (None, [])
    np.testing.assert_array_equal(cells.X.data, prepared.X.data)
    cells.obsm["X_new"] = np.zeros((N_CELLS, 2))
    assert "X_new" not in prepared.obsm


def test_log_normalised_input_gives_the_same_genes():
    adata = example()
    expected = prepare(adata, "system", "batch", **SMALL)
    seen = [
        g for g in range(N_GENES) if all((adata.X[adata.obs.system == s, g] > 0).sum() > 5 for s in ("human", "mouse"))
    ]
    log = adata[:, seen].copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    log.X = np.log1p(log.X)
    result = prepare(log, "system", "batch", normalize=False, **SMALL)
    assert result.var_names.equals(expected.var_names)
    np.testing.assert_allclose(result.X.toarray(), expected.X.toarray(), rtol=1e-6)
    assert not result.layers
    assert "log1p" in result.uns


def test_all_genes_are_variable_when_there_are_few():
    result = prepare(example(), "system", min_cells=5, n_top_genes=N_GENES)
    assert result.n_vars == result.uns["sysvi_prepare"]["genes_detected"]


def test_min_cells_is_exceeded_not_reached():
    counts = np.zeros((10, 3), "float32")
    counts[:, 0] = 1
    counts[[0, 1, 2, 5, 6, 7], 1] = 1  # 3 cells of each system
    counts[[0, 1, 5, 6, 7], 2] = 1  # 2 cells of the first
    obs = pd.DataFrame({"system": ["a"] * 5 + ["b"] * 5}, index=[f"c{i}" for i in range(10)])
    adata = anndata.AnnData(counts, obs=obs)
    assert prepare(adata, "system", min_cells=2).var_names.tolist() == ["0", "1"]
    assert prepare(adata, "system", min_cells=3).var_names.tolist() == ["0"]


def test_summary_is_plain_and_can_be_written(tmp_path):
    adata = example()
    adata.obs["system"] = adata.obs["system"].replace({"human": "cell/nucleus"})
    result = prepare(adata, "system", **SMALL)
    summary = result.uns["sysvi_prepare"]
    assert json.loads(json.dumps(summary)) == summary
    assert "batch_key" not in summary  # None has no place in HDF5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result.write_h5ad(tmp_path / "out.h5ad")
    read = anndata.read_h5ad(tmp_path / "out.h5ad").uns["sysvi_prepare"]
    assert {k: v for k, v in read.items() if k != "variable_genes"} == {
        k: v for k, v in summary.items() if k != "variable_genes"
    }
    assert dict(read["variable_genes"]) == {"cell|nucleus": 150, "mouse": 150}


def test_report_tells_the_genes_of_each_step():
    lines = []
    result = prepare(example(), "system", report=lines.append, **SMALL)
    summary = result.uns["sysvi_prepare"]
    assert len(lines) == 5
    assert lines[0].endswith(f"{summary['genes_detected']} of {N_GENES}")
    assert [
        f"'{name}': {n} of" in line
        for line, (name, n) in zip(lines[2:4], summary["variable_genes"].items(), strict=True)
    ]
    assert f"{summary['genes_kept']} of" in lines[4]
    assert not any("\n" in line for line in lines)


def test_few_genes_warn():
    with pytest.warns(UserWarning, match="genes remain, which is few"):
        prepare(example(), "system", **SMALL)


def test_batch_names_may_occur_in_several_systems():
    adata = example()
    adata.obs["batch"] = adata.obs["batch"].map({"h1": "1", "h2": "2", "m1": "1", "m2": "2"})
    expected = prepare(example(), "system", "batch", **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Only .* genes remain")
        result = prepare(adata, "system", "batch", **SMALL)
    assert result.var_names.equals(expected.var_names)


def test_batches_may_be_numbers():
    adata = example()
    adata.obs["batch"] = adata.obs["batch"].cat.codes.astype(int)
    assert prepare(adata, "system", "batch", **SMALL).var_names.equals(
        prepare(example(), "system", "batch", **SMALL).var_names
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 9])
def test_tiny_batches_are_left_out(size):
    adata = example()
    tiny = adata.obs_names[adata.obs["batch"] == "h1"][:size]
    adata.obs["batch"] = adata.obs["batch"].astype(str)
    adata.obs.loc[tiny, "batch"] = "tiny"
    with pytest.warns(UserWarning, match=r"System 'human' has batches of fewer than 10 cells, left out.*: tiny\.$"):
        result = prepare(adata, "system", "batch", **SMALL)
    assert np.isfinite(result.X.data).all()
    assert result.n_obs == N_CELLS
    # oracle: rank the variable genes without these cells, on the same genes
    seen = [
        g for g in range(N_GENES) if all((adata.X[adata.obs.system == s, g] > 0).sum() > 5 for s in ("human", "mouse"))
    ]
    part = adata[:, seen].copy()
    part = part[~part.obs_names.isin(tiny)].copy()
    genes, *_ = by_hand(part, "batch", min_cells=-1)
    assert result.var_names.tolist() == genes.tolist()


def test_only_tiny_batches_means_no_batches():
    adata = example()
    adata.obs["batch"] = [f"b{i}" for i in range(N_CELLS)]
    with pytest.warns(UserWarning, match="which therefore ignores batches"):
        result = prepare(adata, "system", "batch", **SMALL)
    assert result.var_names.equals(prepare(example(), "system", **SMALL).var_names)


def test_batch_of_exactly_ten_cells_takes_part():
    adata = example()
    adata.obs["batch"] = adata.obs["batch"].astype(str)
    adata.obs.loc[adata.obs_names[adata.obs["batch"] == "h1"][:10], "batch"] = "ten"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "System .* has batches")
        result = prepare(adata, "system", "batch", **SMALL)
    assert result.var_names.tolist() == by_hand(adata, "batch")[0].tolist()


@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_few_genes_fall_back_to_seurat(batch_key):
    """cell_ranger's bins of mean expression hold one gene each, which scanpy answers with an IndexError."""
    adata = example()[:, 20:26].copy()
    adata.X += 1
    with pytest.warns(UserWarning, match="has too few distinct genes"):
        result = prepare(adata, "system", batch_key, n_top_genes=5, min_cells=0)
    expected = prepare(adata, "system", batch_key, n_top_genes=5, min_cells=0, flavor="seurat")
    assert result.var_names.equals(expected.var_names)


def test_equal_means_fall_back_to_seurat():
    """Equal means make equal edges of cell_ranger's bins, which pandas refuses with a ValueError."""
    adata = example()
    sign = np.repeat([1.0, -1.0, 0.0, 0.0], 20)  # (80,)
    spread = np.random.default_rng(0).integers(0, 512, N_GENES) / 1024  # (n_genes,)
    values = 0.75 * np.abs(sign)[:, None] + np.outer(sign, spread)  # (80, n_genes), all means exactly 0.375
    for name in ("human", "mouse"):
        adata.X[(adata.obs["system"] == name).to_numpy()] = values
    with pytest.warns(UserWarning, match="has too few distinct genes"):
        result = prepare(adata, "system", n_top_genes=100, min_cells=5, normalize=False)
    expected = prepare(adata, "system", n_top_genes=100, min_cells=5, normalize=False, flavor="seurat")
    assert result.var_names.equals(expected.var_names)
    assert 100 <= result.n_vars < N_GENES


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(["cell_ranger", "seurat"]), st.booleans())
def test_no_number_of_genes_crashes(n_genes, n_top_genes, flavor, by_batch):
    adata = example()[:, 20 : 20 + n_genes].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = prepare(
                adata, "system", "batch" if by_batch else None, n_top_genes=n_top_genes, min_cells=0, flavor=flavor
            )
        except InputError:
            return
    assert 0 < result.n_vars <= n_genes
    assert np.isfinite(result.X.data).all()


def test_genes_that_do_not_vary_at_all():
    adata = example()
    adata.X = np.ones_like(adata.X)
    with pytest.raises(InputError, match="do not vary enough"), pytest.warns(UserWarning, match="too few distinct"):
        prepare(adata, "system", **SMALL)


def test_empty_cell_stays_zero():
    adata = example()
    adata.X[3] = 0
    with pytest.warns(UserWarning, match="zero counts"):
        result = prepare(adata, "system", **SMALL)
    assert result.X[3].nnz == 0
    assert np.isfinite(result.X.data).all()


# -- bad input -------------------------------------------------------------------------------------------------------


def spoil(change):
    adata = example()
    change(adata)
    return adata


def set_value(value):
    def change(adata):
        adata.X[5, 7] = value

    return change


def set_obs(column, values):
    def change(adata):
        adata.obs[column] = values

    return change


def empty_system(adata):
    adata.X[(adata.obs["system"] == "mouse").to_numpy()] = 0


def disjoint_systems(adata):
    human = (adata.obs["system"] == "human").to_numpy()
    adata.X[np.ix_(human, np.arange(N_GENES) < 200)] = 0
    adata.X[np.ix_(~human, np.arange(N_GENES) >= 200)] = 0


def log_mouse(adata):
    mouse = (adata.obs["system"] == "mouse").to_numpy()
    adata.X[mouse] = np.log1p(adata.X[mouse])


def no_x(adata):
    adata.layers["counts"] = adata.X
    adata.X = None


def with_fractions(adata, system=None):
    """Subtract ambient RNA from half of the counts: of all cells, or of one system."""
    rng, x = np.random.default_rng(0), adata.X
    rows = np.ones(len(x), bool) if system is None else (adata.obs["system"] == system).to_numpy()
    part = x[rows]
    x[rows] = np.where((part > 0) & (rng.random(part.shape) < 0.5), part - rng.uniform(0.1, 0.3, part.shape), part)


def all_fractions(adata):
    adata.X *= 0.9  # the largest are too large for logarithms


def log2_of_counts(adata):
    adata.X = np.log2(adata.X + 1)


TARGETS = {0: "0", np.inf: "inf", np.nan: "nan", "10": "'10'", None: "None"}


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, {"system_key": "species"}, r"system_key='species' is not a column.*\(system, batch\)"),
        (None, {"batch_key": "donor"}, r"batch_key='donor' is not a column.*\(system, batch\)"),
        (None, {"layer": "raw"}, r"no layer 'raw'.*\(none\)"),
        (None, {"batch_key": ["batch"]}, r"batch_key=\['batch'\] must be a string"),
        (lambda a: a._inplace_subset_obs([]), {}, r"adata has 0 cells"),
        (lambda a: a._inplace_subset_var([]), {}, r"and 0 genes"),
        (no_x, {}, r"adata.X is empty: choose a layer \(counts\)"),
        (no_x, {"layer": "raw"}, r"no layer 'raw'.*\(counts\)"),
        (set_obs("system", ["a", None] * 80), {}, r"obs\['system'\] \(system_key\) has 80 missing values"),
        (set_obs("batch", [np.nan] + ["a"] * 159), {"batch_key": "batch"}, r"\['batch'\] .* has 1 missing value:"),
        (set_obs("system", "human"), {}, r"has only one system \(human\)"),
        (set_value(-1), {}, r"adata.X has a negative value \(-1 in gene 'gene7', cell 'cell\d+'\)"),
        (set_value(np.nan), {}, r"not finite \(nan in gene 'gene7'"),
        (set_value(np.inf), {}, r"not finite \(inf in gene 'gene7'"),
        (lambda a: setattr(a, "X", np.log1p(a.X)), {}, r"looks log-normalised.*normalize=False"),
        (log_mouse, {}, r"looks log-normalised.*system 'mouse'"),
        (log2_of_counts, {}, r"looks log-normalised.*normalize=False"),
        (None, {"normalize": False}, r"looks like raw counts.*normalize=True"),
        (
            log_mouse,
            {"normalize": False},
            r"looks like raw counts in system 'human' and log-normalised in 'mouse': give",
        ),
        (
            log_mouse,
            {"normalize": None},
            r"looks like raw counts in system 'human' and log-normalised in 'mouse': give",
        ),
        *(
            (
                with_fractions,
                {"normalize": n},
                r"X of system 'human' looks like counts with fractions.*fractional_counts=",
            )
            for n in (True, False, None)
        ),
        *(
            (partial(with_fractions, system="mouse"), {"normalize": n}, r"X of system 'mouse' looks like .* fractions")
            for n in (True, False, None)
        ),
        *(
            (all_fractions, {"normalize": n}, r"values up to \d+\.\d, too large .*fractional_counts=True.*apply log1p")
            for n in (True, False, None)
        ),
        (None, {"normalize": False, "fractional_counts": True}, r"contradicts normalize=False"),
        (None, {"fractional_counts": "yes"}, r"fractional_counts is 'yes'; it must be True or False"),
        (lambda a: setattr(a, "var_names", ["gene1", *a.var_names[1:]]), {}, r"'gene1'.*var_names_make_unique\(\)"),
        (lambda a: setattr(a, "obs_names", [a.obs_names[1], *a.obs_names[1:]]), {}, r"obs_names_make_unique\(\)"),
        (empty_system, {}, r"more than 5 cells of system 'mouse'"),
        (disjoint_systems, {}, r"of every system, although each system has such genes"),
        (None, {"min_cells": 10**6}, r"more than 1000000 cells of system 'human'"),
        *((None, {"n_top_genes": v}, rf"n_top_genes is {v!r}; it must .* 1 or more") for v in (0, 2.5, "50", None)),
        *((None, {"min_cells": v}, rf"min_cells is {v!r}; it must .* 0 or more") for v in (-1, 2.5, None)),
        *((None, {"target_sum": v}, rf"target_sum is {w}; .* positive") for v, w in TARGETS.items()),
        (None, {"flavor": "seurat_v3"}, r"flavor is 'seurat_v3'; it must"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_bad_input_is_refused_in_one_sentence(change, arguments, message):
    adata = spoil(change or (lambda a: None))
    with pytest.raises(InputError, match=message) as error:
        prepare(adata, **{"system_key": "system", **SMALL, **arguments})
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")


@pytest.mark.parametrize("normalize", [True, None])
@pytest.mark.parametrize("change", [with_fractions, partial(with_fractions, system="mouse"), all_fractions])
def test_counts_with_fractions_are_counts_when_told_so(change, normalize):
    adata = example()
    change(adata)
    prepared = prepare(adata, "system", **SMALL, normalize=normalize, fractional_counts=True)
    names, counts, log, *_ = by_hand(adata)
    assert list(prepared.var_names) == list(names)
    np.testing.assert_allclose(prepared.X.toarray(), log, rtol=1e-4)
    np.testing.assert_allclose(prepared.layers["counts"].toarray(), counts)
    assert prepared.uns["sysvi_prepare"]["fractional_counts"]


def test_log_normalised_values_are_not_taken_for_counts_with_fractions():
    adata = example()
    log2_of_counts(adata)
    assert not prepare(adata, "system", **SMALL, normalize=None).uns["sysvi_prepare"]["normalize"]


def test_whole_floats_are_whole_numbers(assert_same):
    numbers = {"n_top_genes": 150, "min_cells": 5}
    results = [prepare(example(), "system", **{k: kind(v) for k, v in numbers.items()}) for kind in (int, float)]
    assert_same(*results)


def test_no_gene_variable_in_every_system():
    adata = example()
    human = (adata.obs["system"] == "human").to_numpy()
    rng = np.random.default_rng(0)
    adata.X = rng.poisson(5.0, adata.shape).astype("float32")
    adata.X[np.ix_(human, np.arange(N_GENES) < 40)] *= rng.integers(0, 9, (human.sum(), 40))
    adata.X[np.ix_(~human, np.arange(N_GENES) >= 360)] *= rng.integers(0, 9, ((~human).sum(), 40))
    with pytest.raises(InputError, match="No gene is variable in every system"):
        prepare(adata, "system", n_top_genes=5, min_cells=5)


# -- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_key", "n_genes"), [(None, 1621), ("batch", 1630)])
def test_baron_pancreas(data_dir, batch_key, n_genes):
    path = data_dir / "baron_pancreas.h5ad"
    adata = anndata.read_h5ad(path)
    result = prepare(adata, "system", batch_key)
    assert result.uns["sysvi_prepare"]["genes_detected"] == 9406
    assert abs(result.n_vars - n_genes) < 20  # scanpy's versions may differ a little

    x = adata.X.toarray()
    log = np.log1p(x * (1e4 / x.sum(axis=1, keepdims=True, dtype="float64")).astype("float32"))
    variable = np.ones(adata.n_vars, dtype=bool)
    for name in ("human", "mouse"):
        cells = (adata.obs["system"] == name).to_numpy()
        part = anndata.AnnData(log[cells], obs=adata.obs[cells].astype(str), var=adata.var)
        sc.pp.highly_variable_genes(part, flavor="cell_ranger", n_top_genes=3000, batch_key=batch_key)
        variable &= part.var["highly_variable"].to_numpy()
    # ties and rounding at the 3000th gene aside, the same genes
    assert len(set(result.var_names) ^ set(adata.var_names[variable])) <= 2
    columns = adata.var_names.get_indexer(result.var_names)
    np.testing.assert_array_equal(result.layers["counts"].toarray(), x[:, columns])
    np.testing.assert_allclose(result.X.toarray(), log[:, columns], rtol=1e-5)

    backed = prepare(anndata.read_h5ad(path, backed="r"), "system", batch_key)
    assert (backed.X != result.X).nnz == 0
    assert backed.var_names.equals(result.var_names)


@pytest.mark.parametrize("n_top_genes", [50, 1000])
def test_without_a_copy_values_are_the_same_and_only_then_memory_is_shared(make_adata, n_top_genes):
    adata = make_adata()
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    adata.X.sort_indices()
    options = {"normalize": False, "min_cells": 0, "n_top_genes": n_top_genes}
    copied, lean = (prepare(adata, "system", **options, copy=copy) for copy in (True, False))
    assert (copied.X != lean.X).nnz == 0
    assert list(copied.var_names) == list(lean.var_names)
    assert not np.shares_memory(copied.X.data, adata.X.data)
    assert np.shares_memory(lean.X.data, adata.X.data) == (n_top_genes == 1000)  # all genes of all cells
