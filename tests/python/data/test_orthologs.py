import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sysvi._core.errors import InputError
from sysvi.data.orthologs import join_systems, map_orthologs

TABLE = pd.DataFrame(
    [
        ("Gcg", "GCG"),
        ("Ins1", "INS"),
        ("Ins2", "INS"),
        ("Amb", "AMB1"),
        ("Amb", "AMB2"),
        ("Sst", "SST"),
        ("Sst", "SST"),  # the same pair twice is no ambiguity
        ("Elsewhere", "ELSE"),
        ("NoTarget", None),
        ("Empty", ""),
        ("Na", "NA"),
        (None, "NOSOURCE"),
    ],
    columns=["mouse", "human"],
)
GENES = ["Sst", "Ins2", "Lost", "Gcg", "Amb", "Ins1", "NoTarget", "Empty", "Na"]


def mouse(kind="csr"):
    counts = np.random.default_rng(0).poisson(1.0, size=(12, len(GENES))).astype("float32")
    make = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.array}[kind]
    return anndata.AnnData(
        make(counts),
        obs=pd.DataFrame({"batch": ["a"] * 12}, index=[f"cell{i}" for i in range(12)]),
        var=pd.DataFrame({"length": np.arange(len(GENES))}, index=GENES),
        obsm={"X_old": np.arange(24.0).reshape(12, 2)},
        layers={"twice": make(2 * counts)},
        uns={"note": "kept"},
    )


def dense(matrix):
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def by_hand(x, genes, pairs, duplicates):
    """Mapped names, former names and columns with plain loops."""
    targets = {}
    for gene in genes:
        found = {t for s, t in pairs if s == gene}
        if len(found) == 1:
            targets[gene] = found.pop()
    names, former, columns = [], [], []
    for name in targets.values():
        group = [g for g in targets if targets[g] == name]
        if (len(group) > 1 and duplicates == "drop") or name in names:
            continue
        names.append(name)
        former.append(";".join(group))
        columns.append(sum(x[:, genes.index(g)] for g in group))
    return names, former, np.stack(columns, axis=1) if columns else None


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
@pytest.mark.parametrize(
    ("duplicates", "names", "former"),
    [("drop", ["SST", "GCG"], ["Sst", "Gcg"]), ("sum", ["SST", "INS", "GCG"], ["Sst", "Ins2;Ins1", "Gcg"])],
)
def test_drop_and_sum(kind, duplicates, names, former):
    adata = mouse(kind)
    mapped = map_orthologs(adata, TABLE, duplicates=duplicates)
    assert mapped.var_names.tolist() == names
    assert mapped.var["ortholog_source"].tolist() == former
    assert mapped.var["length"].tolist() == [GENES.index(f.split(";")[0]) for f in former]
    expected = np.stack([dense(adata[:, f.split(";")].X).sum(axis=1) for f in former], axis=1)
    np.testing.assert_array_equal(dense(mapped.X), expected)
    np.testing.assert_array_equal(dense(mapped.layers["twice"]), 2 * expected)
    assert type(mapped.X) is type(adata.X)
    assert mapped.X.dtype == np.float32
    assert mapped.uns["sysvi_orthologs"] == {"kept": len(names), "lost": 4, "ambiguous": 1, "duplicated": 2}
    assert mapped.uns["note"] == "kept"
    pd.testing.assert_frame_equal(mapped.obs, adata.obs)
    np.testing.assert_array_equal(mapped.obsm["X_old"], adata.obsm["X_old"])


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("UVWXYZ")), min_size=1, max_size=9),
    st.permutations("abcdefg").map(lambda genes: genes[:5]),
    st.sampled_from(["drop", "sum"]),
    st.booleans(),
)
def test_against_loops(pairs, genes, duplicates, make_sparse):
    x = np.random.default_rng(1).poisson(1.0, size=(4, len(genes)))
    adata = anndata.AnnData(sparse.csr_matrix(x) if make_sparse else x, var=pd.DataFrame(index=genes))
    table = pd.DataFrame(pairs, columns=["source", "target"])
    names, former, columns = by_hand(x, genes, pairs, duplicates)
    if not names:
        with pytest.raises(InputError, match="No gene of adata can be renamed"):
            map_orthologs(adata, table, source="source", duplicates=duplicates)
        return
    mapped = map_orthologs(adata, table, source="source", duplicates=duplicates)
    assert mapped.var_names.tolist() == names
    assert mapped.var["ortholog_source"].tolist() == former
    np.testing.assert_array_equal(dense(mapped.X), columns)
    counts = mapped.uns["sysvi_orthologs"]
    summed = sum(len(f.split(";")) - 1 for f in former) if duplicates == "sum" else counts["duplicated"]
    assert counts["kept"] + counts["lost"] + counts["ambiguous"] + summed == len(genes)


def test_input_stays_unchanged():
    adata, table = mouse(), TABLE.copy()
    before = adata.copy()
    mapped = map_orthologs(adata, table, duplicates="sum")
    mapped.X.data[:] = -1
    mapped.layers["twice"].data[:] = -1
    mapped.obs["batch"] = "changed"
    mapped.uns["note"] = "changed"
    np.testing.assert_array_equal(dense(adata.X), dense(before.X))
    np.testing.assert_array_equal(dense(adata.layers["twice"]), dense(before.layers["twice"]))
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert adata.uns == before.uns
    pd.testing.assert_frame_equal(table, TABLE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
@pytest.mark.parametrize("duplicates", ["drop", "sum"])
def test_backed_and_view(kind, duplicates, tmp_path):
    adata = mouse(kind)
    expected = map_orthologs(adata, TABLE, duplicates=duplicates)
    view = map_orthologs(
        anndata.concat([adata, adata], index_unique="-", merge="same")[:12], TABLE, duplicates=duplicates
    )
    np.testing.assert_array_equal(dense(view.X), dense(expected.X))
    adata.write_h5ad(tmp_path / "in.h5ad")
    backed = map_orthologs(anndata.read_h5ad(tmp_path / "in.h5ad", backed="r"), TABLE, duplicates=duplicates)
    np.testing.assert_array_equal(dense(backed.X), dense(expected.X))
    assert isinstance(backed.X, sparse.csr_matrix)
    backed.write_h5ad(tmp_path / "out.h5ad")
    assert anndata.read_h5ad(tmp_path / "out.h5ad").var["ortholog_source"].tolist() == list(
        expected.var["ortholog_source"]
    )


def test_without_x():
    adata = mouse()
    adata.X = None
    mapped = map_orthologs(adata, TABLE)
    assert mapped.X is None
    assert mapped.layers["twice"].shape == (12, 2)


def test_small_integers_do_not_overflow():
    adata = anndata.AnnData(np.array([[200, 100]], dtype="uint8"), var=pd.DataFrame(index=["Ins1", "Ins2"]))
    assert map_orthologs(adata, TABLE, duplicates="sum").X.tolist() == [[300]]


@pytest.mark.parametrize(("name", "sep"), [("t.tsv", "\t"), ("t.csv", ","), ("t.tsv.gz", "\t"), ("t.csv.gz", ",")])
def test_table_from_a_file(name, sep, tmp_path):
    path = tmp_path / name
    table = pd.concat([TABLE, pd.DataFrame({"mouse": ["nan"], "human": ["TRPV"]})])  # "nan" is a gene of the fly
    table.to_csv(path, sep=sep, index=False)
    adata = mouse()
    adata.var_names = [*GENES[:-1], "nan"]
    for file in (path, str(path)):
        assert map_orthologs(adata, file).var_names.tolist() == ["SST", "GCG", "TRPV"]


@pytest.mark.parametrize(("name", "sep"), [("table.csv", ","), ("table.tsv", "\t")])
def test_a_table_with_an_extra_field_per_row_is_refused(name, sep, tmp_path):
    """As R's write.table writes one with row names."""
    rows = [["mouse", "human"], ["1", "Sst", "SST"], ["2", "Gcg", "GCG"]]
    (tmp_path / name).write_text("".join(sep.join(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=rf"rows of the orthologue table .*{name} .*line 2, saw 3.*without row names"):
        map_orthologs(mouse(), tmp_path / name)


def test_an_empty_table_is_refused(tmp_path):
    (tmp_path / "table.csv").write_text("")
    with pytest.raises(InputError, match=r"orthologue table .*table\.csv is empty"):
        map_orthologs(mouse(), tmp_path / "table.csv")


def test_columns_are_found():
    table = TABLE.assign(identifier=1)
    for arguments in (
        {"target": "human"},
        {"source": "mouse", "target": "human"},
    ):
        assert map_orthologs(mouse(), table, **arguments).var_names.tolist() == ["SST", "GCG"]
    reverse = map_orthologs(mouse(), TABLE[["human", "mouse"]])
    assert reverse.var_names.tolist() == ["SST", "GCG"]


def test_names_are_stripped_and_may_be_categories():
    table = (TABLE.dropna() + " ").astype("category")
    assert map_orthologs(mouse(), table).var_names.tolist() == ["SST", "GCG"]


def test_report():
    lines = []
    map_orthologs(mouse(), TABLE, report=lines.append)
    assert lines == [
        "Orthologues: 2 of 9 genes kept; 4 not in the table, 1 with several targets dropped, "
        "2 with a shared target dropped"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": TABLE.assign(id=1)}, r"more than two columns \(mouse, human, id\): .*argument target"),
        ({"source": "rat"}, r"source='rat' is not a column .* mouse, human"),
        ({"target": "rat"}, r"target='rat' is not a column .* mouse, human"),
        ({"source": "mouse", "target": "mouse"}, "two different columns"),
        ({"table": TABLE[["mouse"]]}, r"two different columns, source and target, but it has mouse"),
        ({"table": TABLE.iloc[:0]}, r"No gene .* \(adata has Sst, Ins2, Lost, \.\.\.; the table has none\)"),
        ({"source": "human", "target": "mouse"}, r"No gene .* \(adata has Sst.*; the table has GCG"),
        ({"table": "no/such/table.tsv"}, r"no orthologue table 'no/such/table.tsv'"),
        ({"duplicates": "mean"}, r"duplicates is 'mean'; it must be 'drop' or 'sum'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        map_orthologs(**{"adata": mouse(), "table": TABLE} | arguments)


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
@pytest.mark.parametrize("where", ["X", "layer"])
def test_only_counts_are_summed(where, kind):
    adata = mouse(kind)
    if where == "X":
        adata.X = np.log1p(adata.X)
    else:
        adata.layers["twice"] = np.log1p(adata.layers["twice"])
    message = r"^adata.X does not" if where == "X" else r"^adata.layers\['twice'\] does not"
    with pytest.raises(InputError, match=message + ".*duplicates='drop'"):
        map_orthologs(adata, TABLE, duplicates="sum")
    map_orthologs(adata, TABLE)  # nothing is summed
    map_orthologs(adata, TABLE[TABLE["mouse"] != "Ins1"], duplicates="sum")  # nothing to sum


def test_counts_with_fractions_are_summed():
    adata = mouse()
    whole = dense(map_orthologs(adata, TABLE, duplicates="sum").X)
    adata.X = dense(adata.X) + np.float32(0.25) * (adata.var_names == "Ins1")
    summed = map_orthologs(adata, TABLE, duplicates="sum")
    np.testing.assert_allclose(dense(summed.X), whole + 0.25 * (summed.var_names == "INS"))


@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_repeated_gene_name():
    adata = mouse()
    adata.var_names = ["Gcg", *GENES[1:]]
    with pytest.raises(InputError, match="'Gcg' occurs more than once"):
        map_orthologs(adata, TABLE)


# -- join_systems ----------------------------------------------------------------------------------------------------


def species(genes, cells, **obs):
    x = np.random.default_rng(len(genes)).poisson(1.0, size=(len(cells), len(genes))).astype("float32")
    return anndata.AnnData(
        sparse.csr_matrix(x), obs=pd.DataFrame(obs, index=cells), var=pd.DataFrame({"same": 1}, index=list(genes))
    )


def test_join():
    human, mice = species("ABCD", ["h1", "h2"], donor="x", sex="f"), species("DXBA", ["m1"], donor="y")
    before = human.copy()
    joined = join_systems({"human": human, "mouse": mice}, "species")
    assert joined.var_names.tolist() == ["A", "B", "D"]
    assert joined.obs_names.tolist() == ["h1", "h2", "m1"]
    assert joined.obs["species"].tolist() == ["human", "human", "mouse"]
    assert joined.obs["donor"].tolist() == ["x", "x", "y"]
    assert "same" in joined.var
    assert sparse.issparse(joined.X)
    genes = ["A", "B", "D"]
    np.testing.assert_array_equal(dense(joined.X), np.vstack([dense(human[:, genes].X), dense(mice[:, genes].X)]))
    pd.testing.assert_frame_equal(human.obs, before.obs)


def test_join_three_with_equal_cell_names():
    parts = {name: species("AB", ["c1", "c2"]) for name in ("x", "y", "z")}
    parts["z"].obs_names = ["c3", "c4"]
    joined = join_systems(parts)
    assert joined.obs_names.tolist() == ["x_c1", "x_c2", "y_c1", "y_c2", "z_c3", "z_c4"]
    assert joined.obs["system"].cat.categories.tolist() == ["x", "y", "z"]
    assert parts["x"].obs_names.tolist() == ["c1", "c2"]


def test_join_backed(tmp_path):
    parts = {"x": species("ABC", ["c1"]), "y": species("BC", ["c2", "c3"])}
    expected = join_systems(parts)
    for name, part in parts.items():
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    joined = join_systems({name: anndata.read_h5ad(tmp_path / f"{name}.h5ad", backed="r") for name in parts})
    np.testing.assert_array_equal(dense(joined.X), dense(expected.X))


@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_join_refuses():
    human = species("AB", ["h1", "h2"])
    with pytest.raises(InputError, match="At least two systems are needed to join, but adatas has 1"):
        join_systems({"human": human})
    with pytest.raises(InputError, match=r"The systems human, mouse share no gene name"):
        join_systems({"human": human, "mouse": species("ab", ["m1"])})
    with pytest.raises(InputError, match="'c' occurs more than once"):
        join_systems({"human": human, "mouse": species("AB", ["c", "c"])})


def test_join_refuses_species_whose_genes_have_a_few_equal_names():
    human, mouse = species([f"GENE{i}" for i in range(50)], ["h1"]), species([f"Gene{i}" for i in range(50)], ["m1"])
    mouse.var_names = ["GENE0", *mouse.var_names[1:]]
    with pytest.raises(InputError, match=r"Only 1 of the 50 genes of system 'human' .*map_orthologs"):
        join_systems({"human": human, "mouse": mouse})


def test_join_replaces_no_column():
    adatas = {name: species("AB", [f"{name}1", f"{name}2"]) for name in ("human", "mouse")}
    for name in adatas:
        adatas[name].obs["system"] = name  # says the same
    assert join_systems(adatas).obs["system"].nunique() == 2
    adatas["mouse"].obs["system"] = "organoid"
    with pytest.raises(InputError, match=r"cells of system 'mouse' have a column 'system' already.*system_key"):
        join_systems(adatas)
    assert join_systems(adatas, "species").obs["species"].tolist() == ["human", "human", "mouse", "mouse"]


# -- real data -------------------------------------------------------------------------------------------------------


def test_baron_pancreas_is_rebuilt_from_its_species(data_dir):
    mice = anndata.read_h5ad(data_dir / "baron_pancreas_mouse.h5ad")
    human = anndata.read_h5ad(data_dir / "baron_pancreas_human.h5ad")
    merged = anndata.read_h5ad(data_dir / "baron_pancreas.h5ad")
    table = data_dir / "human_mouse_one2one.tsv.gz"
    mapped = map_orthologs(mice, table, source="mouse_symbol", target="human_symbol")
    assert mapped.uns["sysvi_orthologs"] == {"kept": 12277, "lost": 2600, "ambiguous": 0, "duplicated": 0}
    assert "INS" not in mapped.var_names
    found = map_orthologs(mice, table, target="human_symbol")  # the source is found by itself
    assert found.var_names.equals(mapped.var_names)

    joined = join_systems({"human": human, "mouse": mapped})
    is_human = (joined.obs["system"] == "human").to_numpy()
    seen = (joined.X[is_human].getnnz(axis=0) > 20) & (joined.X[~is_human].getnnz(axis=0) > 20)
    assert seen.sum() == 9406
    assert set(joined.var_names[seen]) == set(merged.var_names)
    rebuilt = joined[merged.obs_names, merged.var_names]
    assert (rebuilt.X != merged.X).nnz == 0
    assert rebuilt.var["ortholog_source"].astype(str).tolist() == merged.var["mouse_symbol"].astype(str).tolist()
    assert rebuilt.obs["system"].astype(str).tolist() == merged.obs["system"].astype(str).tolist()
