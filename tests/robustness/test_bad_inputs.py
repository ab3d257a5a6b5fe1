"""A table of inputs that cannot be used: each is refused in one sentence that says what and where, and leaves nothing.

A row says how the input is made, through which door it comes, and which words the message must contain.
"""

import gzip
import os
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import write_elem
from hdf5_edits import replace
from refusals import check_refusal, check_sentence
from scipy import sparse
from soak import files_in

import sysvi

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def base():
    """Counts of 200 cells x 120 genes; also log-normalised, with an embedding, in raw and with numbers by cell."""
    adata = sysvi.datasets.simulate_systems(200, 120, n_types=3, n_private=0, n_samples=2, depth=1000, seed=1)
    rng = np.random.default_rng(0)
    adata.raw = adata.copy()
    adata.layers["log"] = np.log1p(adata.X.toarray() / 10.1)
    adata.obsm["X_new"] = rng.normal(size=(200, 3))
    adata.obs["age"] = rng.normal(50, 5, 200)
    adata.obs["one"] = "a"
    adata.obs["gaps"] = pd.Series(["a", None] * 100, index=adata.obs_names, dtype="object")
    adata.obs["empty"] = ["a", ""] * 100
    adata.obs["rare"] = ["a"] * 195 + ["b"] * 5
    adata.obs["unlabelled"] = "unknown"
    return adata


@pytest.fixture
def cells(base):
    return base.copy()


# -- changes of the cells ---------------------------------------------------------------------------------------------


def same(adata):
    return adata


def without_raw(adata):
    del adata.raw
    return adata


def value(number, row=3, gene=4, layer=None):
    """One value of the expression is another one."""

    def change(adata):
        matrix = (adata.X if layer is None else adata.layers[layer]).astype(np.float32)
        matrix = sparse.lil_matrix(matrix)
        matrix[row, gene] = number
        if layer is None:
            adata.X = sparse.csr_matrix(matrix)
        else:
            adata.layers[layer] = sparse.csr_matrix(matrix)
        return adata

    return change


def scaled(adata):
    x = np.log1p(adata.X.toarray())
    adata.X = (x - x.mean(0)) / (x.std(0) + 1e-6)
    return adata


def zero(adata):
    adata.X = adata.X * 0
    return adata


def zero_system(adata):
    adata.X = sparse.csr_matrix(adata.X.toarray() * (adata.obs["system"] == "system1").to_numpy()[:, None])
    return adata


def counts_in_one_system(adata):
    is_first = (adata.obs["system"] == "system1").to_numpy()[:, None]
    adata.X = sparse.csr_matrix(np.where(is_first, adata.X.toarray(), adata.layers["log"]))
    return adata


def exponentiated(adata):
    adata.X = sparse.csr_matrix(np.expm1(adata.layers["log"] * 4) + 0.3)
    return adata


def renamed(axis, old, new):
    def change(adata):
        names = list(getattr(adata, f"{axis}_names"))
        names[new] = names[old]
        setattr(adata, f"{axis}_names", names)
        return adata

    return change


def subset(rows=slice(None), genes=slice(None)):
    return lambda adata: adata[rows, genes].copy()


def without_x(adata):
    adata.X = None
    return without_raw(adata)


def column(name, values):
    def change(adata):
        adata.obs[name] = values(adata) if callable(values) else values
        return adata

    return change


def twice_the_column(adata):
    adata.obs = pd.concat([adata.obs, adata.obs[["batch"]]], axis=1)
    return adata


def chain(*changes):
    def change(adata):
        for one in changes:
            adata = one(adata)
        return adata

    return change


# -- files ------------------------------------------------------------------------------------------------------------


def text(name, content="gene,a,b\nINS,1,2\n"):
    def make(folder, cells):
        (folder / name).parent.mkdir(exist_ok=True)
        opened = gzip.open if name.endswith(".gz") else open
        with opened(folder / name, "wt") as file:
            file.write(content)
        return name.split("/")[0]

    return make


def binary(name, content):
    def make(folder, cells):
        (folder / name).write_bytes(content)
        return name

    return make


def hdf5(name, *groups):
    def make(folder, cells):
        with h5py.File(folder / name, "w") as file:
            for group in groups:
                file.create_group(group)
        return name

    return make


def pipe(name):
    def make(folder, cells=None):
        os.mkfifo(folder / name)
        return name

    return make


def nothing(folder, cells):
    return "absent.h5ad"


def empty_folder(folder, cells):
    (folder / "store").mkdir()
    return "store"


def edited(edit, change=without_raw):
    """An h5ad file in which something was changed."""

    def make(folder, cells):
        change(cells).write_h5ad(folder / "in.h5ad")
        with h5py.File(folder / "in.h5ad", "r+") as file:
            edit(file)
        return "in.h5ad"

    return make


def cut(share):
    def make(folder, cells):
        cells.write_h5ad(folder / "in.h5ad")
        content = (folder / "in.h5ad").read_bytes()
        (folder / "in.h5ad").write_bytes(content[: int(len(content) * share)])
        return "in.h5ad"

    return make


def compressed(folder, cells):
    cells.write_h5ad(folder / "in.h5ad")
    with gzip.open(folder / "in.h5ad.gz", "wb", 1) as file:
        file.write((folder / "in.h5ad").read_bytes())
    return "in.h5ad.gz"


def null(name):
    def edit(file):
        del file[name]
        write_elem(file, name, None)

    return edit


def delete(name):
    return lambda file: file.__delitem__(name)


def modalities(file):
    file.create_group("mod")


FILES = [
    ("missing", nothing, "There is no file absent.h5ad: check the path"),
    ("a pipe", pipe("in.h5ad"), "in.h5ad is a pipe or a device: give the name of a file"),
    ("a folder", empty_folder, "store is a folder, but no zarr store: give the name of an h5ad file"),
    (
        "a zarr store",
        text("cells.zarr/.zgroup"),
        "cells.zarr cannot be read as a zarr store of anndata .*: write it again",
    ),
    ("a zarr store, format 3", text("cells.zarr/zarr.json"), "cells.zarr cannot be read as a zarr store"),
    ("a folder of 10x", text("matrix/matrix.mtx"), "holds a matrix of 10x Genomics: .*scanpy.read_10x_mtx"),
    ("a compressed folder of 10x", text("matrix/matrix.mtx.gz"), "holds a matrix of 10x Genomics: .*scanpy.read_10x"),
    ("a matrix of 10x", text("matrix.mtx"), "Matrix Market .*scanpy.read_10x_mtx"),
    ("a compressed matrix of 10x", text("matrix.mtx.gz"), "Matrix Market .*scanpy.read_10x_mtx"),
    ("a table with commas", text("cells.csv"), "is a text table: .*scanpy.read_csv"),
    ("a table with tabs", text("cells.tsv"), r"is a text table: .*delimiter='\\t'"),
    ("a compressed table", text("cells.csv.gz"), "is a text table"),
    ("a table called txt", text("cells.txt"), "is a text table"),
    ("text called h5ad", text("cells.h5ad"), "cells.h5ad is not an h5ad file"),
    ("an Excel table", binary("cells.xlsx", b"PK\3\4"), "is an Excel table: save it as CSV"),
    ("an object of R", binary("cells.rds", b"\x1f\x8b\x08"), "holds objects of R: .*RunSysVI"),
    ("a workspace of R", binary("cells.RData", b"RDX3"), "holds objects of R"),
    ("a compressed h5ad", compressed, "compressed with gzip: .*gunzip"),
    ("an empty file", binary("in.h5ad", b""), "in.h5ad is empty"),
    ("bytes", binary("in.h5ad", bytes(range(256)) * 9), "is not an h5ad file"),
    ("the start of HDF5", binary("in.h5ad", b"\x89HDF\r\n\x1a\n"), "in.h5ad cannot be read as an h5ad file"),
    ("a loom file", hdf5("in.loom", "matrix", "row_attrs", "col_attrs"), "is a loom file: .*scanpy.read_loom"),
    ("an h5 file of 10x", hdf5("in.h5", "matrix"), "10x Genomics, convert it with scanpy.read_10x_h5"),
    ("an old h5 file of 10x", hdf5("in.h5", "GRCh38"), "10x Genomics, convert it with scanpy.read_10x_h5"),
    ("an h5mu file", hdf5("in.h5mu", "mod", "obs", "var"), "several modalities: .*mudata.read_h5mu"),
    ("an h5mu file called h5ad", edited(modalities), "several modalities"),
    ("an h5Seurat file", hdf5("in.h5seurat", "assays", "cell.names"), "h5Seurat file: integrate it in R"),
    ("another HDF5 file", hdf5("in.hdf5", "images"), "not an h5ad file .without obs and var"),
    ("cells without genes", edited(delete("var")), "not an h5ad file .without obs and var"),
    ("a half h5ad", cut(0.5), "in.h5ad cannot be read as an h5ad file"),
    ("a nearly whole h5ad", cut(0.97), "in.h5ad cannot be read as an h5ad file"),
    ("obs that is an array", edited(replace("obs", np.zeros(3))), "in.h5ad cannot be read as an h5ad file"),
    ("obs without its index", edited(delete("obs/_index")), "in.h5ad cannot be read as an h5ad file"),
    ("obs without its cells", edited(lambda f: f["obs"].attrs.__delitem__("_index")), "cannot be read as an h5ad file"),
    ("codes without categories", edited(delete("obs/system/categories")), "cannot be read as an h5ad file"),
    ("obs of other length", edited(replace("obs/age", np.zeros(7))), "cannot be read as an h5ad file"),
    ("X is absent", edited(delete("X")), r"X is empty: choose a layer \(log\)"),
    ("X is null", edited(null("X")), r"X is empty: choose a layer \(log\)"),
    ("X is a number", edited(replace("X", 3.0)), "in.h5ad"),
    ("X of other shape", edited(replace("X", np.ones((7, 3))), chain(without_raw, zero)), "in.h5ad"),
    ("X of text", edited(replace("X", np.full((200, 120), b"x", "S1"))), "in.h5ad|X "),
    ("X without its data", edited(delete("X/data")), "in.h5ad"),
    ("X without its rows", edited(delete("X/indptr")), "in.h5ad"),
]

COMMANDS = {
    "integrate": "integrate {input} --system system --batch batch --min-cells 3 --epochs 1 --members 1 -o out.h5ad",
    "prepare": "prepare {input} --system system --batch batch --min-cells 3 -o out.h5ad",
    "evaluate": "evaluate {input} --system system --batch batch --label cell_type --embedding X_new -o out",
    "tune": "tune {input} --system system --batch batch --label cell_type --epochs 1 --seeds 1 -o out",
    "compare": "compare {input} --system system --batch batch --label cell_type --methods pca --seeds 1 -o out",
    "batch-strength": "batch-strength {input} --system system --batch batch --label cell_type -o out.csv",
}
EVERY = tuple(COMMANDS)
TRAINING = ("integrate", "tune")

# What is changed in the cells, the options, the commands it is tried with, and the words of the message.
CELLS = [
    ("no such system", same, "--system species", EVERY, "'species' is not a column of obs: .*system, batch"),
    ("no such batch", same, "--batch donor", EVERY, "'donor' is not a column of obs"),
    ("no such label", same, "--label type", EVERY[2:], "'type'"),
    ("one system", same, "--system one", EVERY, "one"),
    ("systems with gaps", same, "--system gaps", EVERY, r"obs\['gaps'\] .*100 missing values|'gaps'"),
    ("empty systems", same, "--system empty", EVERY, "100 missing values"),
    ("a small system", same, "--system rare", TRAINING, "[Ss]ystem 'b'"),
    ("batches with gaps", same, "--batch gaps", EVERY, r"obs\['gaps'\] .*100 missing values"),
    ("the system twice", column("system", lambda a: a.obs_names), "", TRAINING, "[Ss]ystem 'cell_0'"),
    ("no label of any cell", same, "--label unlabelled", EVERY[2:], "'unlabelled'.* labels no cell"),
    ("a covariate that is absent", same, "--covariate organ", TRAINING, "'organ' is not a column"),
    ("a covariate with gaps", same, "--covariate gaps", TRAINING, "'gaps'.*100 missing"),
    ("a continuous covariate of text", same, "--continuous cell_type", TRAINING, "'cell_type'.* is not numeric"),
    ("a continuous covariate with NaN", column("age", np.nan), "--continuous age", TRAINING, "'age'.*missing|finite"),
    ("an infinite covariate", column("age", np.inf), "--continuous age", TRAINING, "'age'.*finite"),
    ("a column named twice", same, "--covariate batch", TRAINING, "batch"),
    ("no such layer", same, "--layer counts", EVERY, r"no layer 'counts': choose one of its layers \(log\)"),
    ("raw as a layer", same, "--layer raw", EVERY, "for the expression in raw pass --raw"),
    ("raw that is absent", without_raw, "--raw", EVERY, "has no raw"),
    ("raw and a layer", same, "--raw --layer log", EVERY, "--raw and --layer"),
    ("X that is absent", without_x, "", ("integrate", "prepare", "tune", "compare"), "X is empty: choose a layer"),
    (
        "a negative value",
        value(-1),
        "",
        ("integrate", "prepare", "tune"),
        r"negative value \(-1 in gene 'gene_4', cell 'cell_3'\)",
    ),
    (
        "scaled, with raw",
        scaled,
        "",
        ("integrate", "prepare", "tune"),
        "negative value .*raw may hold them, pass --raw",
    ),
    ("NaN", value(np.nan), "", ("integrate", "prepare", "tune"), "not finite .nan in gene 'gene_4', cell 'cell_3'"),
    ("infinite", value(np.inf), "", ("integrate", "prepare"), "not finite .inf in gene"),
    ("NaN in a layer", value(np.nan, layer="log"), "--layer log", TRAINING, r"layers\['log'\] .* not finite"),
    ("all zero", zero, "", ("integrate", "prepare", "tune"), "No gene of X is seen in more than"),
    ("a system that is all zero", zero_system, "", ("integrate", "prepare"), "cells of system 'system2'"),
    (
        "counts in one system only",
        counts_in_one_system,
        "",
        ("integrate", "prepare"),
        "(counts in system 'system1'|not like counts, in system 'system2': give counts .--layer.)",
    ),
    ("values too large for logarithms", exponentiated, "", ("integrate", "prepare"), "X .*system"),
    ("a gene name twice", renamed("var", 0, 1), "", EVERY[:2], "gene name 'gene_0' occurs more than once"),
    ("a cell name twice", renamed("obs", 0, 1), "", EVERY[:2], "cell name 'cell_0' occurs more than once"),
    ("no cells", subset(rows=slice(0)), "", EVERY[:2], "0 cells and 120 genes"),
    ("no genes", chain(without_raw, subset(genes=slice(0))), "", EVERY[:2], "200 cells and 0 genes"),
]

# Options alone: usage errors of click have exit status 2.
OPTIONS = [
    ("integrate", "--epochs 0", "--epochs.*0 is not in the range"),
    ("integrate", "--epochs many", "--epochs.*'many' is not a valid integer"),
    ("integrate", "--batch-size 0", "--batch-size"),
    ("integrate", "--n-latent 0", "--n-latent"),
    ("integrate", "--n-hidden -5", "--n-hidden"),
    ("integrate", "--n-layers 0", "--n-layers"),
    ("integrate", "--dropout-rate 1", "--dropout-rate"),
    ("integrate", "--lr 0", "--lr"),
    ("integrate", "--lr nan", "lr"),
    ("integrate", "--kl-weight -1", "--kl-weight"),
    ("integrate", "--cycle-weight -0.5", "--cycle-weight"),
    ("integrate", "--cycle-weight inf", "cycle-weight"),
    ("integrate", "--prior flat", "--prior.*vamp"),
    ("integrate", "--preset fast", "--preset.*paper"),
    ("integrate", "--members 0", "--members"),
    ("integrate", "--seed -1", "--seed"),
    ("integrate", "--genes 0", "--genes is 0"),
    ("integrate", "--genes -3", "--genes is -3"),
    ("integrate", "--min-cells -1", "--min-cells is -1"),
    ("integrate", "--min-cells 1000", "lower --min-cells"),
    ("integrate", "--device tpu", "tpu"),
    ("integrate", "--device cuda:99", "cuda"),
    ("integrate", "--key a/b", "--key is 'a/b'"),
    ("integrate", "--key sysvi_support", "--key is 'sysvi_support'"),
    ("integrate", "--pseudoinputs system", "--pseudoinputs-system"),
    ("integrate", "--pseudoinputs system --pseudoinputs-system cow", "cow"),
    ("integrate", "--pseudoinputs balanced_label", "--pseudoinputs-label"),
    ("integrate", "--pseudoinputs balanced_label --pseudoinputs-label no", "'no' is not a column"),
    ("integrate", "--early-stopping --train-size 1", "--early-stopping watches held-out cells: set --train-size"),
    ("integrate", "--train-size 0", "--train-size"),
    ("integrate", "--no-such-option", "No such option"),
    ("prepare", "--genes 0", "--genes is 0"),
    ("prepare", "--min-cells 1000", "lower --min-cells"),
    ("evaluate", "--embedding X_absent", "no 'X_absent': choose some of its keys"),
    ("evaluate", "--metric beauty", "beauty"),
    ("evaluate", "--min-cells 3", "--min-cells"),
    ("evaluate", "--max-cells 5", "--max-cells"),
    ("evaluate", "--figures gif", "--figures"),
    ("evaluate", "--device tpu", "tpu"),
    ("tune", "--cycle-weight -1", "--cycle-weight"),
    ("tune", "--cycle-weight 2 --cycle-weight 2", "cycle.weights.*none twice"),
    ("tune", "--prior flat", "--prior"),
    ("tune", "--seeds 0", "--seeds"),
    ("tune", "--key a/b", "--key is 'a/b'"),
    ("tune", "--min-cells 1", "--min-cells"),
    ("tune", "--n-latent 0", "--n-latent"),
    ("compare", "--methods scvy", "no method scvy"),
    ("compare", "--methods ,", "methods is empty"),
    ("compare", "--grid huge", "--grid"),
    ("compare", "--jobs 0", "--jobs"),
    ("compare", "--timeout 0", "--timeout"),
    ("compare", "--constraint absent.txt", "absent.txt"),
    ("compare", "--adapters absent", "absent"),
    ("batch-strength", "--min-cells 0", "--min-cells"),
    ("batch-strength", "--seed -4", "--seed"),
]


@pytest.mark.parametrize(("make", "words"), [pytest.param(*row[1:], id=row[0]) for row in FILES])
def test_files(cells, tmp_path, monkeypatch, make, words):
    monkeypatch.chdir(tmp_path)
    name = make(tmp_path, cells)
    check_refusal(tmp_path, COMMANDS["integrate"].format(input=name), words, files_in(tmp_path))


def rows_of_cells():
    for name, change, options, commands, words in CELLS:
        for command in commands:
            yield pytest.param(change, f"{COMMANDS[command]} {options}", words, id=f"{command}: {name}")


@pytest.mark.parametrize(("change", "command", "words"), list(rows_of_cells()))
def test_cells(cells, tmp_path, monkeypatch, change, command, words):
    monkeypatch.chdir(tmp_path)
    change(cells).write_h5ad("in.h5ad")
    check_refusal(tmp_path, command.format(input="in.h5ad"), words, {"in.h5ad"})


@pytest.fixture(scope="module")
def good_file(base, tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "in.h5ad"
    base.copy().write_h5ad(path)
    return path


# Options of translate, with a model in the folder "m".
TRANSLATE = [
    ("--to-system cow", "--to-system is 'cow', but the model knows the systems system1, system2"),
    ("--to-batch d9", "--to-batch is 'd9', but the model knows the batches"),
    ("--genes INS,GCG", "The model lacks 2 of the 2 genes that were asked for .INS, GCG."),
    ("--genes ,", "genes is empty"),
    ("--genes names.txt", "There is no file names.txt .--genes.: check the path"),
    ("--genes gene_1,gene_1", "names gene 'gene_1' twice"),
    ("--model absent", "no saved model"),
    ("--layer no", "no layer 'no'"),
    ("--raw --layer log", "--raw and --layer"),
    ("--key a/b", "--key is 'a/b'"),
    ("--device tpu", "tpu"),
    ("-o absent/out.h5ad", "The folder absent does not exist"),
]


@pytest.mark.parametrize(("options", "words"), TRANSLATE)
def test_options_of_translate(model, good_file, tmp_path_factory, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path_factory.mktemp("m")
    model[0].save(folder)
    command = f"translate {good_file} --model {folder} -o out.h5ad {options}"
    check_refusal(tmp_path, command, words, set())


@pytest.mark.parametrize(("command", "options", "words"), [pytest.param(*o, id=" ".join(o[:2])) for o in OPTIONS])
def test_options(good_file, tmp_path, monkeypatch, command, options, words):
    monkeypatch.chdir(tmp_path)
    check_refusal(tmp_path, f"{COMMANDS[command].format(input=good_file)} {options}", words, set())


# -- outputs ----------------------------------------------------------------------------------------------------------


def file(name, content="kept"):
    def make(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return make


def folder_of(name):
    return lambda folder: (folder / name).mkdir(parents=True)


def in_bytes(name):
    def make(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\xe2\x28 no UTF-8")

    return make


OUTPUTS = [
    *((command, "--overwrite", pipe("out.h5ad"), "out.h5ad is a pipe or a device") for command in EVERY[:2]),
    ("batch-strength", "--overwrite", pipe("out.csv"), "out.csv is a pipe or a device"),
    ("compare", "--constraint c.txt", in_bytes("c.txt"), "The constraint file c.txt cannot be read .*codec"),
    ("compare", "--adapters a", in_bytes("a/x.py"), "The header of the adapter a/x.py is invalid: .*codec"),
    ("compare", "--adapters a", file("a/x.py", "# /// script\n# [\n# ///\n"), "adapter a/x.py is invalid"),
    ("integrate", "", file("out.h5ad"), "out.h5ad exists already; pass --overwrite"),
    ("integrate", "", folder_of("out.h5ad"), "out.h5ad is a folder: give the name of a file|'out.h5ad' is a directory"),
    ("integrate", "-o absent/out.h5ad", file("a"), "The folder absent does not exist"),
    ("integrate", "-o a/out.h5ad", file("a"), "The folder a does not exist"),
    ("integrate", "--save-model m", file("m/model.safetensors"), "model.safetensors exists already; pass --overwrite"),
    ("integrate", "--save-model a/m", file("a"), "The folder a/m cannot be created: a is not a folder"),
    ("integrate", "--save-model a", file("a"), "'a' is a file|The folder a cannot be created"),
    ("prepare", "", file("out.h5ad"), "out.h5ad exists already; pass --overwrite"),
    ("prepare", "-o absent/out.h5ad", file("a"), "The folder absent does not exist"),
    ("prepare", "-o a/out.h5ad", file("a"), "The folder a does not exist"),
    ("evaluate", "", file("out/evaluation.csv"), "evaluation.csv exists already; pass --overwrite"),
    ("evaluate", "-o a/out", file("a"), "The folder a/out cannot be created: a is not a folder"),
    ("tune", "-o a/out", file("a"), "The folder a/out cannot be created: a is not a folder"),
    ("tune", "", file("out/runs.json", "{"), "runs.json is damaged: remove it, or choose another folder"),
    ("tune", "", file("out/runs.json", "[]"), "runs.json is damaged: remove it, or choose another folder"),
    ("tune", "", file("out/runs.json", '{"data": "other"}'), "runs.json is damaged: remove it"),
    ("compare", "-o a/out", file("a"), "The folder a/out cannot be created: a is not a folder"),
    ("batch-strength", "", file("out.csv"), "out.csv exists already; pass --overwrite"),
    ("batch-strength", "", file("out.png"), "out.png exists already; pass --overwrite"),
    ("batch-strength", "-o absent/out", file("a"), "The folder absent does not exist"),
]


@pytest.mark.parametrize(
    ("command", "options", "make", "words"), [pytest.param(*o, id=f"{o[0]} {i}") for i, o in enumerate(OUTPUTS)]
)
def test_outputs(good_file, tmp_path, monkeypatch, command, options, make, words):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    check_refusal(tmp_path, f"{COMMANDS[command].format(input=good_file)} {options}", words, files_in(tmp_path))
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write and read everything")
@pytest.mark.parametrize("command", COMMANDS)
def test_folders_and_files_without_permission(good_file, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o555)
    check_refusal(tmp_path, COMMANDS[command].format(input=good_file), r"Cannot write into the folder|cannot be", set())
    tmp_path.chmod(0o755)
    (tmp_path / "in.h5ad").touch(0o000)
    check_refusal(tmp_path, COMMANDS[command].format(input="in.h5ad"), "in.h5ad cannot be opened", {"in.h5ad"})


# -- Python -----------------------------------------------------------------------------------------------------------

TABLE = pd.DataFrame({"mouse": ["gene0", "gene1"], "human": ["INS", "GCG"]})
SETUP = {"system_key": "system", "batch_key": "batch"}


def trained(adata):
    prepared = sysvi.prepare(adata, "system", "batch", min_cells=3)
    return sysvi.integrate(prepared, "system", "batch", members=1, max_epochs=1, progress=False), prepared


@pytest.fixture(scope="module")
def model(base):
    return trained(base.copy())


def table_file(name, content):
    """An orthologue table outside of the working folder."""
    path = Path(tempfile.mkdtemp()) / name
    path.write_bytes(content)
    return path


def evaluated(values):
    """Evaluate an embedding with these values."""

    def call(adata):
        adata.obsm["X_bad"] = values(adata.n_obs)
        sysvi.evaluate(adata, "X_bad", **SETUP, progress=False)

    return call


PYTHON = [
    ("a path", lambda a: sysvi.prepare("in.h5ad", "system"), "adata must be an AnnData .* of type str"),
    ("None", lambda a: sysvi.prepare(None, "system"), "adata must be an AnnData .* of type NoneType"),
    ("a matrix", lambda a: sysvi.integrate(a.X, "system"), "adata must be an AnnData"),
    ("a number as system", lambda a: sysvi.prepare(a, 3), "system_key=3 must be a string"),
    ("a list as system", lambda a: sysvi.prepare(a, ["system"]), r"system_key=\['system'\] must be a string"),
    ("no such system", lambda a: sysvi.prepare(a, "species"), "system_key='species' is not a column of adata.obs"),
    ("a column twice", lambda a: sysvi.prepare(twice_the_column(a), "system", "batch"), "2 columns 'batch'"),
    ("one system", lambda a: sysvi.prepare(a, "one"), "only one system"),
    ("flavor", lambda a: sysvi.prepare(a, "system", flavor="seurat_v3"), "flavor is 'seurat_v3'"),
    ("n_top_genes", lambda a: sysvi.prepare(a, "system", n_top_genes=0), "n_top_genes is 0"),
    ("min_cells", lambda a: sysvi.prepare(a, "system", min_cells=-2), "min_cells is -2"),
    ("half a gene", lambda a: sysvi.prepare(a, "system", n_top_genes=2.5), "n_top_genes is 2.5"),
    ("target_sum", lambda a: sysvi.prepare(a, "system", target_sum=0), "target_sum is 0"),
    ("logarithms as counts", lambda a: sysvi.prepare(a, "system", layer="log"), "not like counts|looks log-normalised"),
    (
        "counts as logarithms",
        lambda a: sysvi.prepare(a, "system", normalize=False, min_cells=3),
        "looks like raw counts",
    ),
    ("counts", lambda a: sysvi.integrate(a, "system"), "looks like raw counts; run adata = sysvi.prepare"),
    ("raw as a layer", lambda a: sysvi.prepare(a, "system", layer="raw"), "adata = adata.raw.to_adata"),
    ("scaled", lambda a: sysvi.prepare(scaled(a), "system"), "raw may hold them, take adata = adata.raw.to_adata"),
    ("scaled, integrate", lambda a: sysvi.integrate(scaled(a), "system"), "negative value .*adata.raw.to_adata"),
    ("no setting", lambda a: sysvi.integrate(a, "system", layer="log", epochs=3), "no setting epochs; settings are"),
    ("preset", lambda a: sysvi.integrate(a, "system", layer="log", preset="x"), "preset is 'x'; it must be one of"),
    ("members", lambda a: sysvi.integrate(a, "system", layer="log", members=0), "members is 0"),
    ("key", lambda a: sysvi.integrate(a, "system", layer="log", key_added=""), "key_added is ''"),
    (
        "covariates",
        lambda a: sysvi.integrate(a, "system", categorical_covariate_keys="batch"),
        "give a list of columns",
    ),
    ("seeds", lambda a: sysvi.train_many(a, "system", layer="log", seeds=[1, 1]), "seeds is .* none twice"),
    ("a seed", lambda a: sysvi.train_many(a, "system", layer="log", seed=1), "has no setting seed: give a list"),
    ("no weights", lambda a: sysvi.train_many(a, "system", layer="log", cycle_weights=[]), "cycle_weights is"),
    ("tune, ramp", lambda a: sysvi.tune(a, "system", cycle_weights=[sysvi.Ramp(1, 0, 0)]), "must be numbers"),
    (
        "tune, label",
        lambda a: sysvi.tune(a, "system", label_key="type", layer="log"),
        "label_key='type' is not a column",
    ),
    ("no embedding", lambda a: sysvi.evaluate(a, "X_old", **SETUP), "no 'X_old': choose some of its keys"),
    ("no embeddings", lambda a: sysvi.evaluate(a, [], **SETUP), "embeddings is empty"),
    ("metric", lambda a: sysvi.evaluate(a, "X_new", metrics=["beauty"], **SETUP), "beauty"),
    ("evaluate, one system", lambda a: sysvi.evaluate(a, "X_new", system_key="one"), "holds one system only"),
    ("PCA of scaled", lambda a: sysvi.evaluate(scaled(a), "X_pca", **SETUP), "no 'X_pca', and .* negative value"),
    ("embedding of NaN", evaluated(lambda n: np.full((n, 2), np.nan)), "X_bad.* finite"),
    ("embedding of text", evaluated(lambda n: np.full((n, 2), "a")), "X_bad.* numbers|numeric"),
    ("embedding of infinity", evaluated(lambda n: np.full((n, 2), np.inf)), "X_bad.* finite"),
    ("embedding of huge values", evaluated(lambda n: np.full((n, 2), 1e30)), "X_bad.* up to 1e.30, too large"),
    ("empty embedding", evaluated(lambda n: np.ones((n, 0))), "X_bad"),
    ("embedding of objects", evaluated(lambda n: np.full((n, 2), None, object)), "X_bad"),
    ("embedding in a cube", evaluated(lambda n: np.ones((n, 2, 2))), "X_bad"),
    ("duplicates", lambda a: sysvi.map_orthologs(a, TABLE, duplicates="mean"), "duplicates is 'mean'"),
    ("no table", lambda a: sysvi.map_orthologs(a, "absent.csv"), "There is no orthologue table 'absent.csv'"),
    ("source", lambda a: sysvi.map_orthologs(a, TABLE, source="rat"), "source='rat' is not a column"),
    ("target", lambda a: sysvi.map_orthologs(a, TABLE, target="rat"), "target='rat' is not a column"),
    ("one column", lambda a: sysvi.map_orthologs(a, TABLE[["mouse"]]), "must have two different columns"),
    ("three columns", lambda a: sysvi.map_orthologs(a, TABLE.assign(rat="x")), "more than two columns"),
    (
        "a spreadsheet",
        lambda a: sysvi.map_orthologs(a, table_file("t.xlsx", b"PK")),
        "is a spreadsheet: save it as CSV",
    ),
    ("latin letters", lambda a: sysvi.map_orthologs(a, table_file("t.tsv", b"a\tb\nc\xe9\tx\n")), "not text in UTF-8"),
    ("UTF-16", lambda a: sysvi.map_orthologs(a, table_file("t.csv", "a,b".encode("utf-16"))), "not text in UTF-8"),
    ("bytes", lambda a: sysvi.map_orthologs(a, table_file("t.tsv", bytes(range(256)))), "t.tsv"),
    ("an empty table", lambda a: sysvi.map_orthologs(a, table_file("t.tsv", b"")), "t.tsv is empty"),
    ("not compressed", lambda a: sysvi.map_orthologs(a, table_file("t.tsv.gz", b"a\tb")), "t.tsv.gz cannot be read"),
    ("ragged", lambda a: sysvi.map_orthologs(a, table_file("t.csv", b"a,b\n1,2,3\n")), "do not have the fields"),
    ("semicolons", lambda a: sysvi.map_orthologs(a, table_file("t.csv", b"a;b\nc;d\n")), "has a;b: .*with commas"),
    (
        "half a file",
        lambda a: sysvi.map_orthologs(a, table_file("t.csv.gz", gzip.compress(b"a,b")[:-9])),
        "cannot be read",
    ),
    ("no zip file", lambda a: sysvi.map_orthologs(a, table_file("t.zip", b"PK")), "t.zip cannot be read"),
    ("no xz file", lambda a: sysvi.map_orthologs(a, table_file("t.csv.xz", b"\xfd7zXZ")), "t.csv.xz cannot be read"),
    (
        "a name twice",
        lambda a: sysvi.map_orthologs(a, table_file("t.csv", b"a,a\nc,d")),
        "two columns of the same name",
    ),
    ("no names", lambda a: sysvi.map_orthologs(a, table_file("t.csv", b"gene_0,A\ngene_1,B")), "'gene_0' is a gene of"),
    (
        "several targets",
        lambda a: sysvi.map_orthologs(a, table_file("t.csv", b"a,b\ngene_0,A\ngene_0,B")),
        "of its 1 genes in the table, 1 have several orthologues",
    ),
    ("no gene", lambda a: sysvi.map_orthologs(a, TABLE[["human"]].assign(rat="x")), "No gene of adata can be renamed"),
    ("one to join", lambda a: sysvi.join_systems({"human": a}), "At least two systems are needed"),
    ("nothing shared", lambda a: sysvi.join_systems({"h": a, "m": upper(a)}), "share no gene name|gene names"),
    ("a system called nan", lambda a: sysvi.join_systems({"nan": a, "b": a}), "stands for missing values"),
    ("a system without a name", lambda a: sysvi.join_systems({"": a, "b": a}), "stands for missing values"),
    ("a system without cells", lambda a: sysvi.join_systems({"a": a, "b": a[:0].copy()}), "has 0 cells"),
    (
        "a system without X",
        lambda a: sysvi.join_systems({"a": a.copy(), "b": without_x(a)}, "s"),
        "system 'b' is empty",
    ),
    ("no column", lambda a: sysvi.join_systems({"a": a, "b": a}, system_key=""), "system_key is ''"),
    (
        "the reserved column",
        lambda a: sysvi.join_systems({"a": a, "b": a}, system_key="_index"),
        "system_key is '_index'",
    ),
    ("no model", lambda a: sysvi.load("absent"), "There is no saved model"),
    ("not set up", lambda a: sysvi.SysVI(a), "not set up: call SysVI.setup_anndata"),
    ("untrained", lambda a: untrained(a).get_latent_representation(), "not trained yet: call train"),
    ("setup, system", lambda a: sysvi.SysVI.setup_anndata(a, "species"), "'species' is not a column"),
]

# Whole numbers that no memory, and no integer of torch or NumPy, can hold; and True, which Python takes for 1.
TRAINED_SIZES = (
    "n_hidden",
    "n_latent",
    "n_prior_components",
    "n_layers",
    "batch_size",
    "max_epochs",
    "patience",
    "members",
)
SIMULATED_SIZES = ("n_cells", "n_genes", "n_systems", "n_types", "n_private", "n_samples", "n_programmes", "n_markers")


def large(*values):
    """A row of `PYTHON` for each value and each size of what is trained or simulated."""
    for value, words in values:
        for name in TRAINED_SIZES:
            size = {name: value}
            yield f"{name}={value}", lambda a, size=size: sysvi.integrate(a, "system", layer="log", **size), words
        for name in SIMULATED_SIZES:
            size = {name: value}
            yield f"{name}={value}", lambda a, size=size: sysvi.datasets.simulate_systems(**size), words


PYTHON += large(
    (2**64, "is 18446744073709551616; it must be a whole number of 1000000000 or less"),
    (2**63, "is 9223372036854775808; it must be a whole number of 1000000000 or less"),
    (True, "is True; it must be a whole number of . or more"),
)
PYTHON += [
    (
        f"{name}=1000000000",
        lambda a, name=name: sysvi.integrate(a, "system", layer="log", **{name: 10**9}),
        "GB are free",
    )
    for name in ("n_hidden", "n_latent", "n_prior_components", "n_layers")
]
PYTHON += [
    (f"{name}=1000000000", lambda a, name=name: sysvi.datasets.simulate_systems(**{name: 10**9}), "GB are free")
    for name in ("n_cells", "n_genes", "n_types", "n_samples", "n_programmes", "system_programmes")
]


def upper(adata):
    adata = adata.copy()
    adata.var_names = adata.var_names.str.upper()
    return adata


def untrained(adata):
    sysvi.SysVI.setup_anndata(adata, "system", layer="log")
    return sysvi.SysVI(adata)


@pytest.mark.parametrize(("call", "words"), [pytest.param(*row[1:], id=row[0]) for row in PYTHON])
def test_python(cells, tmp_path, monkeypatch, call, words):
    """On a machine with 16 GB of memory: there are machines on which 1,000,000,000 of something are not too many."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sysvi._core.memory.free_memory", lambda device: 16e9)
    with pytest.raises(sysvi.InputError, match=words) as raised:
        call(cells)
    check_sentence(raised.value)
    assert files_in(tmp_path) == set()


MODEL = [
    ("counts", lambda m, p, a: m.get_latent_representation(a), "normalise the new cells .*scanpy.pp.normalize_total"),
    ("genes", lambda m, p, a: m.get_latent_representation(p[:, :50].copy()), "genes are not in adata.var_names"),
    ("mask", lambda m, p, a: m.get_latent_representation(indices=np.ones(3, bool)), "mask of shape"),
    ("rows", lambda m, p, a: m.get_latent_representation(indices=[200]), "indices reach from 200"),
    ("row", lambda m, p, a: m.get_latent_representation(indices=3), "give a list of rows"),
    ("halves", lambda m, p, a: m.get_latent_representation(indices=[0.5]), "whole numbers or a mask"),
    ("chunk", lambda m, p, a: m.get_latent_representation(batch_size=0), "batch_size is 0"),
    (
        "system",
        lambda m, p, a: m.get_latent_representation(column("system", "cow")(p)),
        "does not know .cow.; it knows",
    ),
    ("batch", lambda m, p, a: m.get_latent_representation(column("batch", "d9")(p)), "does not know .d9.; it knows"),
    ("no column", lambda m, p, a: m.get_latent_representation(without(p, "batch")), "'batch'"),
    ("path", lambda m, p, a: m.get_latent_representation("in.h5ad"), "adata must be an AnnData"),
    ("query", lambda m, p, a: m.load_query_data(p, "model"), "no saved model at model"),
    ("decoded counts", lambda m, p, a: m.get_normalized_expression(library_size=1e4), "library_size is 10000.0, but"),
    ("decoded likelihood", lambda m, p, a: m.get_likelihood_parameters(), "decodes expected expression only"),
    ("decoded in a cow", lambda m, p, a: sysvi.translate(m, p, "cow"), "to_system is 'cow', but the model knows"),
    ("decoded in a batch", lambda m, p, a: sysvi.translate(m, p, to_batch="d9"), "to_batch is 'd9', but .*'average'"),
    ("decoded cows", lambda m, p, a: sysvi.translate(m, column("system", "cow")(p)), "cow, which .*sysvi.extend_model"),
    ("decoded genes", lambda m, p, a: sysvi.translate(m, p, genes=["INS"]), "lacks 1 of the 1 genes .*INS"),
    ("no decoded genes", lambda m, p, a: sysvi.translate(m, p, genes=[]), "genes is empty"),
    ("decoded path", lambda m, p, a: sysvi.translate(m, "in.h5ad"), "adata must be an AnnData"),
    ("decoded, key", lambda m, p, a: sysvi.translate(m, p, key_added="."), "key_added is '.'"),
    ("decoded, folder", lambda m, p, a: sysvi.translate(m, p, output="a/b.h5ad"), "The folder a does not exist"),
    ("decoded, scaled", lambda m, p, a: sysvi.translate(m, scaled(a)), "negative value"),
    ("decoded, no model", lambda m, p, a: sysvi.translate(p, p), "model is of type AnnData; it must be an object of"),
    ("genes that differ", lambda m, p, a: m.differential_expression(groupby="x"), "groupby='x' is not a column"),
    ("a group", lambda m, p, a: sysvi.differential_expression(m, p, "batch", "d9"), "has no group 'd9': choose of"),
    (
        "differ in cows",
        lambda m, p, a: sysvi.differential_expression(m, column("system", "cow")(p), "batch"),
        "cow, which",
    ),
    ("rows", lambda m, p, a: sysvi.differential_expression(m, p, idx1=[10**6]), "idx1 reach from 1000000 to"),
    (
        "a condition",
        lambda m, p, a: sysvi.differential_expression(m, p, idx1="x >"),
        "which is no condition on columns",
    ),
    ("both groups", lambda m, p, a: sysvi.differential_expression(m, p, idx1=[1], idx2=[1]), "1 cells in common"),
    ("rate", lambda m, p, a: sysvi.differential_expression(m, p, "batch", fdr_target=5), "fdr_target is 5"),
    ("elbo", lambda m, p, a: m.get_elbo(), "loss terms of each epoch are in model.history"),
    ("optimiser", lambda m, p, a: m.train(plan_kwargs={"optimizer": "SGD"}, progress=False), "sysVI trains with Adam"),
    ("setting", lambda m, p, a: m.train(max_epoch=1, progress=False), "Training has no setting max_epoch"),
    ("epochs", lambda m, p, a: m.train(max_epochs=0, progress=False), "max_epochs is 0"),
    ("device", lambda m, p, a: m.to_device("tpu"), "tpu"),
    ("a large chunk", lambda m, p, a: m.get_latent_representation(batch_size=2**64), "batch_size is 1"),
    (
        "a chunk that is True",
        lambda m, p, a: m.get_latent_representation(batch_size=True),
        "batch_size is True",
    ),
]


def without(adata, name):
    del adata.obs[name]
    return adata


@pytest.mark.parametrize(("call", "words"), [pytest.param(*row[1:], id=row[0]) for row in MODEL])
def test_trained_models(cells, model, tmp_path, monkeypatch, call, words):
    monkeypatch.chdir(tmp_path)
    trained_model, prepared = model
    with pytest.raises(sysvi.InputError, match=words) as raised:
        call(trained_model, prepared.copy(), cells)
    check_sentence(raised.value)
    assert files_in(tmp_path) == set()
