"""Bad input to the class and to `integrate`: each fault has its sentence, which names the thing."""

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sysvi
from sysvi import InputError, SysVI

FAST = {"members": 1, "max_epochs": 1, "progress": False, "device": "cpu", "n_hidden": 16, "n_latent": 4}
FEW_CELLS = "ignore:System .* has fewer cells"


@pytest.fixture
def adata(make_adata):
    return make_adata()


def integrate(adata, **arguments):
    return sysvi.integrate(adata, **{"system_key": "system", "batch_key": "batch", **FAST, **arguments})


def set_value(value):
    def change(adata):
        x = adata.X.toarray()
        x[5, 7] = value
        adata.X = x

    return change


def set_obs(column, values):
    def change(adata):
        adata.obs[column] = values(adata.obs) if callable(values) else values

    return change


def set_first(column, value):
    def change(adata):
        adata.obs[column] = adata.obs[column].astype(object)
        adata.obs.loc[adata.obs_names[0], column] = value

    return change


def counts_in_x(adata):
    adata.X = adata.layers["counts"]


def counts_of(system, most=np.inf):
    def change(adata):
        of_system = (adata.obs["system"] == system).to_numpy()[:, None]
        counts = np.minimum(adata.layers["counts"].toarray(), most)
        adata.X = sparse.csr_matrix(np.where(of_system, counts, adata.X.toarray()))

    return change


def fractions(adata):
    """Counts, from half of which ambient RNA is subtracted."""
    x = np.minimum(adata.layers["counts"].toarray(), 15)
    adata.X = np.where(np.random.default_rng(0).random(x.shape) < 0.5, np.maximum(x - 0.2, 0), x)


def complex_values(adata):
    adata.X = adata.X.toarray() + 1j


def text_values(adata):
    adata.X = adata.X.toarray().astype(str)


def no_cells(adata):
    adata._inplace_subset_obs([])


def no_genes(adata):
    adata._inplace_subset_var([])


def zeros(adata):
    adata.X = sparse.csr_matrix(adata.shape, dtype="float32")


def column_twice(adata):
    adata.obs = pd.concat([adata.obs, adata.obs[["batch"]]], axis=1)


def no_x(adata):
    adata.X = None


def genes_of_two_species(adata):
    """Genes 4 and higher are named differently in both systems, as after an outer join."""
    x, human = adata.X.toarray(), (adata.obs["system"] == "system1").to_numpy()
    x[human, 4:50] = 0
    x[~human, 50:] = 0
    adata.X = x


def not_log(adata):
    adata.X = adata.X.expm1()


def tiny_system(n):
    def change(adata):
        keep = (adata.obs["system"] == "system1").to_numpy()
        keep[np.flatnonzero(~keep)[:n]] = True
        adata._inplace_subset_obs(keep)

    return change


def repeat_name(axis):
    def change(adata):
        names = getattr(adata, f"{axis}_names").to_list()
        setattr(adata, f"{axis}_names", [names[1], *names[1:]])

    return change


CATEGORICAL, CONTINUOUS = "categorical_covariate_keys", "continuous_covariate_keys"
KEYS = (5, "", "a/b", ".", "..", "a\0b", "\ud800")
FAULTS = [
    (counts_in_x, {}, r"adata\.X looks like raw counts.*sysvi\.prepare"),
    (None, {"layer": "counts"}, r"adata\.layers\['counts'\] looks like raw counts"),
    *((counts_of(s, 15), {}, rf"adata\.X looks like raw counts in system '{s}'") for s in ("system1", "system2")),
    (not_log, {}, r"adata\.X has values up to \d+.*too large for log-normalised.*log1p"),
    (fractions, {}, r"adata\.X looks like counts with fractions.*round them.*fractional_counts=True of sysvi\.prepare"),
    (complex_values, {}, r"adata\.X holds values of type complex64, not real numbers"),
    (text_values, {}, r"adata\.X holds values of type <U\d+, not real numbers"),
    (set_obs("phase", 1j), {CONTINUOUS: ["phase"]}, r"obs\['phase'\] is not numeric"),
    (set_value(-0.5), {}, r"adata\.X has a negative value \(-0\.5 in gene 'gene_7', cell 'cell_5'\)"),
    (set_value(np.nan), {}, r"adata\.X has a value that is not finite \(nan in gene 'gene_7', cell 'cell_5'\)"),
    (set_value(np.inf), {}, r"not finite \(inf in gene 'gene_7', cell 'cell_5'\)"),
    (no_x, {}, r"adata\.X is empty.*layer"),
    (None, {"layer": "raw"}, r"no layer 'raw'.*counts"),
    (None, {"system_key": "species"}, r"'species' is not a column.*system, batch"),
    (None, {"batch_key": "donor"}, r"'donor' is not a column.*system, batch"),
    (None, {"system_key": ["system"]}, r"system=\['system'\] must be a string, the name of one column"),
    (None, {"batch_key": ["batch"]}, r"covariate=\['batch'\] must be a string"),
    (set_obs(0, "a"), {CATEGORICAL: [0]}, r"covariate=0 must be a string.*rename"),
    (set_obs(0, 1.0), {CONTINUOUS: [0]}, r"covariate=0 must be a string.*rename"),
    (column_twice, {}, r"adata\.obs has 2 columns 'batch' \(covariate\): rename or remove"),
    (no_cells, {}, r"adata has 0 cells and 100 genes"),
    (no_genes, {}, r"adata has 300 cells and 0 genes"),
    (zeros, {}, r"adata\.X is zero in all cells.*layer"),
    (
        genes_of_two_species,
        {},
        r"Only 4 of the 50 genes seen in system 'system2' have the same gene names.*orthologues",
    ),
    *((None, {"key_added": key}, r"key_added is .* a string, not empty, .* without a slash") for key in KEYS),
    (None, {"system_key": "sysvi_support"}, r"Column 'sysvi_support' of adata\.obs cannot be the system.* rename it"),
    (None, {"batch_key": "sysvi_support"}, r"Column 'sysvi_support' of adata\.obs cannot be the system.* rename it"),
    (
        set_obs("system", lambda obs: obs["system"].map({"system1": "a/b", "system2": "a|b"})),
        {"members": 2},
        r"Systems 'a/b' and 'a\|b' would have the same column in obsm\['sysvi_support'\].* rename one",
    ),
    (None, {CATEGORICAL: ["organ"]}, r"'organ' is not a column"),
    (None, {CONTINUOUS: ["size"]}, r"'size' is not a column"),
    (set_obs("system", "human"), {}, r"obs\['system'\] has one system only \(human\)"),
    (tiny_system(9), {}, r"System 'system2' of adata\.obs\['system'\] has 9 cells; at least 10"),
    (tiny_system(1), {}, r"System 'system2' .* has 1 cell"),
    (set_first("system", None), {}, r"obs\['system'\] \(system\) has 1 missing value:"),
    (set_first("batch", np.nan), {}, r"obs\['batch'\] \(covariate\) has 1 missing value:"),
    (set_first("batch", ""), {}, r"obs\['batch'\] \(covariate\) has 1 missing value:"),
    (set_first("system", "nan"), {}, r"obs\['system'\] \(system\) has 1 missing value \('nan' as text\):"),
    (set_first("batch", "NA"), {}, r"obs\['batch'\] \(covariate\) has 1 missing value \('NA' as text\):"),
    (set_first("age", np.nan), {CONTINUOUS: ["age"]}, r"obs\['age'\] .* has 1 missing value:"),
    (set_first("age", np.inf), {CONTINUOUS: ["age"]}, r"obs\['age'\] has infinite values"),
    (None, {CONTINUOUS: ["sex"]}, r"obs\['sex'\] is not numeric"),
    (None, {CATEGORICAL: "sex"}, r"categorical_covariate_keys is the string 'sex'"),
    (None, {CONTINUOUS: "age"}, r"continuous_covariate_keys is the string 'age'"),
    (None, {CATEGORICAL: ["batch"]}, r"batch, batch"),
    (None, {CATEGORICAL: ["system"]}, r"batch, system"),
    (None, {CATEGORICAL: ["sex", "sex"]}, r"sex, sex"),
    (None, {CONTINUOUS: ["age", "age"]}, r"age, age"),
    (None, {CATEGORICAL: ["age"], CONTINUOUS: ["age"]}, r"age"),
    (repeat_name("var"), {}, r"gene name 'gene_1' occurs more than once"),
    (repeat_name("obs"), {}, r"cell name 'cell_1' occurs more than once"),
    (None, {"device": "abacus"}, r"device 'abacus' is not known"),
    (None, {"device": "meta"}, r"device 'meta' is not supported"),
    (None, {"device": "cuda:99"}, r"device 'cuda:99'.*no such CUDA device"),
    (None, {"n_epochs": 3}, r"no setting n_epochs"),
    (None, {"max_epochs": 0}, r"max_epochs is 0"),
    (None, {"lr": 0}, r"lr is 0"),
    (None, {"kl_weight": float("nan")}, r"kl_weight is nan"),
    (None, {"seed": -1}, r"seed"),
    (None, {"weight_systems": "no"}, r"weight_systems .*is 'no'; it must be True or False"),
]


@pytest.mark.parametrize(("change", "arguments", "message"), FAULTS, ids=[message for *_, message in FAULTS])
@pytest.mark.filterwarnings(FEW_CELLS, "ignore:.*names are not unique")
def test_fault_is_named_in_one_sentence(adata, change, arguments, message):
    if change:
        change(adata)
    with pytest.raises(InputError, match=message) as caught:
        integrate(adata, **arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert "np." not in text
    assert "X_sysVI" not in adata.obsm


def silence(adata):
    x = adata.X.toarray()
    x[(adata.obs["system"] == "system2").to_numpy(), 3:5] = 0
    adata.X = x


SINGLES = r"Most of the {} categories of covariate '{}' have one cell only.*continuous_covariate_keys"
DOUBTS = [
    (None, {}, r"System system1, system2 has fewer cells \(150, 150\) than 256"),
    (tiny_system(10), {"batch_key": None}, r"System system1, system2 has fewer cells \(150, 10\)"),
    (silence, {}, r"2 genes are zero in all cells of system 'system2' \(gene_3, gene_4\)"),
    (set_obs("run", "one"), {CATEGORICAL: ["run"]}, r"Covariate 'run' is the same in all cells \(one\)"),
    (set_obs("dose", 3.5), {CONTINUOUS: ["dose"]}, r"Covariate 'dose' is the same in all cells \(3\.5\)"),
    (None, {CATEGORICAL: ["age"]}, SINGLES.format(300, "age")),
    (set_obs("name", [f"cell{min(i, 51)}" for i in range(300)]), {"batch_key": "name"}, SINGLES.format(52, "name")),
    (
        set_obs("twin", lambda o: o["system"].str.upper()),
        {CATEGORICAL: ["twin"]},
        r"'twin' has the same groups as the system",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "arguments", "message"), DOUBTS, ids=[message for *_, message in DOUBTS])
def test_doubt_is_a_warning_and_training_goes_on(adata, change, arguments, message):
    if change:
        change(adata)
    with pytest.warns(UserWarning, match=message) as caught:
        integrate(adata, **arguments)
    assert len({str(w.message) for w in caught}) == len(caught)  # each is said once
    assert not any("np." in str(w.message) for w in caught)
    assert np.isfinite(adata.obsm["X_sysVI"]).all()


@pytest.mark.slow
def test_good_input_gives_no_warning(adata):
    adata.obs["sample"] = np.arange(300) % 150  # many, of more than one cell each
    big = anndata.concat([adata, adata], index_unique="-", merge="same")
    big.obs["donor"] = [f"donor{min(i, 49)}" for i in range(600)]  # 50, most of one cell
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        integrate(big, categorical_covariate_keys=["sex", "donor", "sample"], continuous_covariate_keys=["age"])


def test_batches_nested_in_systems_are_fine(adata):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        integrate(adata)
    assert not any("batch" in str(w.message) and "fewer" not in str(w.message) for w in caught)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [299, 149, 13, 2])
@pytest.mark.filterwarnings(FEW_CELLS)
def test_one_cell_more_than_full_minibatches_trains(adata, batch_size):
    n = 300 if batch_size != 2 else 51
    n -= (n - 1) % batch_size
    rows = np.argsort(np.arange(300) % 150, kind="stable")[:n]  # systems in turn
    some = adata[rows].copy()
    assert some.n_obs % batch_size == 1
    integrate(some, batch_size=batch_size)
    assert np.isfinite(some.obsm["X_sysVI"]).all()


@pytest.mark.filterwarnings(FEW_CELLS)
def test_cells_without_any_expression_are_embedded(adata):
    x = adata.X.toarray()
    x[:3] = 0
    adata.X = x
    integrate(adata)
    assert np.isfinite(adata.obsm["X_sysVI"]).all()


@pytest.mark.parametrize("dtype", [bool, "category", "Int64", "string", float])
@pytest.mark.filterwarnings(FEW_CELLS)
def test_columns_of_any_type_hold_covariates(adata, dtype):
    adata.obs["flag"] = pd.Series(np.arange(300) % 2, index=adata.obs_names).astype(dtype)
    model = integrate(adata, categorical_covariate_keys=["flag"])
    assert len(model.vocabulary.categorical["flag"]) == 2


@pytest.mark.parametrize("what", ["cells.h5ad", None, np.ones((3, 2))], ids=["file", "nothing", "matrix"])
def test_what_is_no_anndata_is_refused(what, make_adata, make_sysvi):
    model = make_sysvi(make_adata())
    calls = [lambda: SysVI(what), lambda: model.get_latent_representation(what)]
    if isinstance(what, str):
        with pytest.raises(InputError, match=r"There is no file cells\.h5ad"):
            integrate(what)  # which reads files
    else:
        calls.insert(0, lambda: integrate(what))
    if what is None:
        calls.pop()  # the model's own cells
    for call in (*calls, lambda: sysvi.prepare(what, "system")):
        with pytest.raises(
            InputError, match=rf"AnnData object, but it is of type {type(what).__name__}: .*anndata\.read_h5ad"
        ):
            call()


def test_view_of_an_object_on_disk_is_refused_unless_only_read(adata, make_sysvi, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    view = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")[::2]
    for call in (integrate, lambda view: SysVI.setup_anndata(view, "system")):
        with pytest.raises(InputError, match=r"view of an object on disk.*adata\.to_memory\(\)"):
            call(view)
    assert make_sysvi(adata).get_latent_representation(view).shape == (150, 4)
    integrate(view.to_memory())


def test_setup_finds_faults_before_a_model_is_made(adata):
    with pytest.raises(InputError, match="'species' is not a column"):
        SysVI.setup_anndata(adata, "species")
    assert "sysvi_setup" not in adata.uns
