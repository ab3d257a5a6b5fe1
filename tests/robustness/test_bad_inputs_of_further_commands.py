"""A table of inputs that cannot be used, for the commands that need more than one file of cells.

A row says the command, in which names in braces stand for files and folders that are whole, the words that the message
must contain, and, if something in the working folder is needed, a function that makes it.
"""

import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
from refusals import check_refusal
from soak import files_in

import sysvi
from sysvi.data.h5ad import write_anndata

pytestmark = pytest.mark.filterwarnings("ignore")

COLUMNS = "--system system --batch batch"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Cells as counts, log-normalised, prepared, integrated, by system, and with other genes; models, a reference."""
    folder = tmp_path_factory.mktemp("inputs")
    cells = sysvi.datasets.simulate_systems(200, 120, n_types=3, n_private=0, n_samples=2, depth=1000, seed=1)
    cells.obs["one"] = "a"
    cells.obs["own"] = list(cells.obs_names)
    cells.obs["gaps"] = pd.Series(["a", None] * 100, index=cells.obs_names, dtype="object")
    cells.obs["unlabelled"] = "unknown"
    prepared = sysvi.prepare(cells, "system", "batch", min_cells=3)
    fast = {"max_epochs": 1, "n_hidden": 16, "n_latent": 4, "device": "cpu", "progress": False}
    sysvi.integrate(prepared.copy(), "system", members=1, **fast).save(folder / "without_batches")
    integrated = prepared.copy()
    model = sysvi.integrate(integrated, "system", "batch", members=2, **fast)
    model.save(folder / "model")
    sysvi.save_reference(folder / "reference", model, integrated, "cell_type", licence="mit")
    other = cells.copy()
    other.var_names = [f"other_{i}" for i in range(cells.n_vars)]
    is_first = (cells.obs["system"] == "system1").to_numpy()
    log = cells[~is_first].copy()
    log.X = np.log1p(log.X.toarray() / 3.3)
    contents = {"counts": cells, "prepared": prepared, "integrated": integrated, "other": other, "log": log}
    contents |= {"first": cells[is_first].copy(), "second": cells[~is_first].copy()}
    for name, adata in contents.items():
        write_anndata(folder / f"{name}.h5ad", adata)
    sysvi.prepare_files([folder / "first.h5ad", folder / "second.h5ad"], folder / "store.zarr", "system", min_cells=3)
    return {path.stem: path for path in folder.iterdir()}


# -- what is made in the working folder -------------------------------------------------------------------------------


def file(name, content="kept"):
    def make(folder, inputs):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return make


def folder_of(name):
    return lambda folder, inputs: (folder / name).mkdir(parents=True)


def changed(name, change):
    """The file new.h5ad: the cells of an input after a change."""

    def make(folder, inputs):
        adata = anndata.read_h5ad(inputs[name])
        change(adata)
        adata.write_h5ad(folder / "new.h5ad")

    return make


def system(name, rows=slice(None)):
    def change(adata):
        names = adata.obs["system"].astype(object).copy()
        names.iloc[rows] = name
        adata.obs["system"] = names

    return change


def negative(adata):
    adata.X = adata.X.toarray() - 1


def record(**entries):
    return lambda adata: adata.uns.update(sysvi={**adata.uns["sysvi"], **entries})


def old_record(adata):
    del adata.uns["sysvi"]["losses"]


def damaged_store(change):
    """A copy of the prepared store, store.zarr, in which a file was changed."""

    def make(folder, inputs):
        shutil.copytree(inputs["store"], folder / "store.zarr")
        change(folder / "store.zarr")

    return make


def flip(name):
    """Flip a bit of the first chunk of an array."""

    def change(store):
        path = store / name / "c" / "0"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return change


def forge(name, **entries):
    """Change entries of the metadata of an array."""

    def change(store):
        path = store / name / "zarr.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return change


def reference(change):
    """A copy of the reference, in which something was changed."""

    def make(folder, inputs):
        shutil.copytree(inputs["reference"], folder / "r")
        change(folder / "r")

    return make


def configured(**entries):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return change


def appended(name):
    def change(folder):
        with (folder / name).open("ab") as opened:
            opened.write(b"x")

    return change


# -- the table --------------------------------------------------------------------------------------------------------

REPORT = "report {integrated} -o out.html"
COMPARE = "compare-systems {counts} --model {model} --label cell_type -o out"
MAP = "map {counts} --model {model} -o out.h5ad"
TRANSLATE = "translate {counts} --model {model} -o out.h5ad"
PREPARE = f"prepare {{first}} {{second}} {COLUMNS} --min-cells 3 -o out.zarr"
INTEGRATE = f"integrate {{prepared}} {COLUMNS} --members 1 --epochs 1 -o out.h5ad"
STORED = f"{COLUMNS} --members 1 --epochs 1 -o out.h5ad"
DRY_RUN = f"{INTEGRATE} --dry-run"
RENAME = f"{PREPARE} --orthologs system1=t.csv"
TRANSFER = "transfer {reference} {integrated} --label cell_type -o out.h5ad"
NO_REPLICATES = r"there are no replicates: name the column of obs with the donors \(--batch\)"

ROWS = [
    ("report absent.h5ad -o out.html", "There is no file absent.h5ad"),
    ("report {counts} -o out.html", "uns has no 'sysvi', the record of an integration: run sysvi integrate first"),
    ("report {store} -o out.html", "uns has no 'sysvi', the record of an integration: run sysvi integrate first"),
    ("report {store} -o out.html --raw", "store.zarr has no raw"),
    ("report store.zarr -o out.html", "store.zarr", damaged_store(lambda s: shutil.rmtree(s / "obs"))),
    (f"evaluate {{store}} {COLUMNS} --embedding X_sysVI", "obsm has no 'X_sysVI': choose some of its keys"),
    (f"evaluate store.zarr {COLUMNS} --embedding X_pca", "damaged", damaged_store(flip("X/data"))),
    (f"{REPORT} --label type", "'type' is not a column of obs"),
    (f"{REPORT} --label own", r"obs\['own'\] \(--label\) has 200 different values in 200 cells"),
    (f"{REPORT} --label unlabelled", "'unlabelled'.* labels no cell"),
    (f"{REPORT} --key X_no", "no embedding 'X_no': choose one of its keys"),
    (f"{REPORT} --color no", r"no column 'no' \(--color\)"),
    (f"{REPORT} --max-cells 5", "--max-cells"),
    (f"{REPORT} --device tpu", "tpu"),
    (f"{REPORT} --seed -1", "--seed"),
    (f"{REPORT} --raw", "has no raw"),
    (f"{REPORT} -o absent/out.html", "The folder absent does not exist"),
    (REPORT, "out.html exists already; pass --overwrite", file("out.html")),
    (REPORT, "is a directory", folder_of("out.html")),
    ("report new.h5ad -o out.html", "written by an earlier version", changed("integrated", old_record)),
    ("report new.h5ad -o out.html", "cannot be read .*run sysvi integrate", changed("integrated", record(columns="{"))),
    ("report new.h5ad -o out.html", "cannot be read", changed("integrated", record(losses="3"))),
    ("report new.h5ad -o out.html", "cannot be read", changed("integrated", record(losses="[3]"))),
    ("report new.h5ad -o out.html", "cannot be read", changed("integrated", record(losses='[{"epoch": [1]}]'))),
    ("report new.h5ad -o out.html", "cannot be read", changed("integrated", record(versions="[1]"))),
    # compare-systems
    (COMPARE.replace("{counts}", "absent.h5ad"), "There is no file absent.h5ad"),
    (f"{COMPARE} --model absent", "no saved model"),
    (f"{COMPARE} --label type", "'type' is not a column"),
    (f"{COMPARE} --label own", "names single cells"),
    (f"{COMPARE} --label unlabelled", "labels no cell"),
    (f"{COMPARE} --systems cow,system1", "cow, but the model knows the systems system1, system2"),
    (f"{COMPARE} --systems system1", "name two or more different systems"),
    (f"{COMPARE} --systems system1,system1", "name two or more different systems"),
    (f"{COMPARE} --systems ,", "name two or more different systems"),
    (f"{COMPARE} --batch donor", "'donor' is not a column"),
    (f"{COMPARE} --batch gaps", "100 missing values"),
    (f"{COMPARE} --min-cells 0", "--min-cells"),
    (f"{COMPARE} --min-cells 1000", "Nothing can be compared: .*Lower --min-cells"),
    (f"{COMPARE} --layer no", "no layer 'no'"),
    (f"{COMPARE} --raw", "has no raw"),
    (f"{COMPARE} --figures gif", "--figures"),
    (f"{COMPARE} --device tpu", "tpu"),
    (f"{COMPARE} -o a/out", "The folder a/out cannot be created: a is not a folder", file("a")),
    (COMPARE, "differences.csv exists already; pass --overwrite", file("out/differences.csv")),
    (f"{COMPARE} --model {{without_batches}}", NO_REPLICATES),
    (COMPARE.replace("{counts}", "new.h5ad"), "cow, which the model does not know", changed("counts", system("cow"))),
    (COMPARE.replace("{counts}", "{other}"), "genes"),
    # map
    (MAP.replace("{counts}", "absent.h5ad"), "There is no file absent.h5ad"),
    (MAP.replace("{counts}", "{other}"), r"none of the model's .* \(--orthologs\)"),
    (f"{MAP} --model absent", "no saved model"),
    (f"{MAP} --system species", "'species' is not a column"),
    (f"{MAP} --batch donor", "'donor' is not a column"),
    (f"{MAP} --batch gaps", "100 missing values"),
    (f"{MAP} --layer no", "no layer 'no'"),
    (f"{MAP} --raw", "has no raw"),
    (f"{MAP} --raw --layer log", "--raw and --layer"),
    (f"{MAP} --orthologs absent.csv", "There is no orthologue table 'absent.csv'"),
    (f"{MAP} --orthologs t.csv", "do not have the fields of its header", file("t.csv", "a,b\n1,2,3\n")),
    (f"{MAP} --label cell_type", "give --labels-from"),
    (f"{MAP} --labels-from {{integrated}}", "give it with --label"),
    (f"{MAP} --label type --labels-from {{integrated}}", "'type' is not a column"),
    (f"{MAP} --label cell_type --labels-from {{counts}}", "no embedding 'X_sysVI'"),
    (f"{MAP} --label cell_type --labels-from absent.h5ad", "absent.h5ad"),
    (f"{MAP} --epochs 0", "--epochs"),
    (f"{MAP} --device tpu", "tpu"),
    (f"{MAP} --seed -1", "--seed"),
    (f"{MAP} --key a/b", "--key is 'a/b'"),
    (f"{MAP} --key sysvi_support", "--key is 'sysvi_support'"),
    (f"{MAP} --save-model a/m", "The folder a/m cannot be created: a is not a folder", file("a")),
    (f"{MAP} -o absent/out.h5ad", "The folder absent does not exist"),
    (MAP, "out.h5ad exists already; pass --overwrite", file("out.h5ad")),
    (f"{MAP} --model {{without_batches}} --batch batch", "trained without batches: leave --batch out"),
    (
        MAP.replace("{counts}", "new.h5ad"),
        "'rat' is new .*at least 10",
        changed("counts", system("rat", [1, 2])),
    ),
    (MAP.replace("{counts}", "new.h5ad"), "negative value", changed("counts", negative)),
    (f"{MAP} --model m", "checksum|damaged|corrupted", file("m/model.safetensors", "x" * 100)),
    # translate: further rows are in test_bad_inputs.py
    (TRANSLATE.replace("{counts}", "absent.h5ad"), "There is no file absent.h5ad"),
    (TRANSLATE.replace("{counts}", "{other}"), "genes"),
    (TRANSLATE.replace("{counts}", "new.h5ad"), "negative value", changed("counts", negative)),
    (TRANSLATE.replace("{counts}", "new.h5ad"), "cow, which .*sysvi map", changed("counts", system("cow"))),
    (f"{TRANSLATE} --model {{without_batches}} --to-batch d1", "trained without batches: leave --to-batch out"),
    (TRANSLATE, "out.h5ad exists already; pass --overwrite", file("out.h5ad")),
    # prepare, several files
    (PREPARE.replace("{second}", "absent.h5ad"), "There is no file absent.h5ad"),
    (PREPARE.replace("{second}", "{first}"), "first.h5ad is given twice: name each file once"),
    (PREPARE.replace("{second}", "{other}"), r"other.h5ad shares no gene name .*\(--orthologs\)"),
    (PREPARE.replace("{second}", "{log}"), r"disagree in their normalisation: .*first.h5ad looks .* \(--layer\)"),
    (PREPARE.replace("{second}", ""), "only one system .system1. in 'system'"),
    (PREPARE.replace("{second}", "new.h5ad"), "new.h5ad.*negative value", changed("second", negative)),
    (PREPARE.replace("{second}", "t.csv"), "t.csv is a text table", file("t.csv", "a,b\n")),
    (f"{PREPARE} --raw", "--raw is for a single h5ad file"),
    (f"{PREPARE} --system species", "first.h5ad: .*'species' is not a column"),
    (f"{PREPARE} --batch donor", "first.h5ad: .*'donor' is not a column"),
    (f"{PREPARE} --batch gaps", "first.h5ad: .*missing values"),
    (f"{PREPARE} --system _index", "must not be called '_index'"),
    (f"{PREPARE} --layer no", "first.h5ad: .*no layer 'no'"),
    (f"{PREPARE} --system-of-file x", "--system-of-file is 'x'; it must be two names with = between them"),
    (f"{PREPARE} --system-of-file cow.h5ad=cow", "--system-of-file names 'cow.h5ad', which is none of the files"),
    (f"{PREPARE} --system-of-file {{first}}=cow", "its column 'system' has system1, but --system-of-file names 'cow'"),
    (f"{PREPARE} --system s --system-of-file *=nan", "'nan', which stands for missing values: rename it"),
    (f"{PREPARE} --orthologs mouse", "--orthologs is 'mouse'; it must be two names with = between them"),
    (f"{PREPARE} --orthologs a=t.csv --orthologs a=t.csv", "--orthologs is given twice for 'a'"),
    (f"{PREPARE} --orthologs rat=t.csv", "'rat', which is none of the systems"),
    (f"{PREPARE} --orthologs system1=absent.csv", "There is no orthologue table 'absent.csv'"),
    (
        f"{PREPARE} --orthologs system1=t.csv",
        "more than two columns .* keep two of them in the file",
        file("t.csv", "a,b,c\n"),
    ),
    (f"{PREPARE} --genes 0", "--genes is 0"),
    (f"{PREPARE} --min-cells -1", "--min-cells is -1"),
    (f"{PREPARE} --min-cells 1000", "lower --min-cells"),
    (f"{PREPARE} --seed -1", "--seed"),
    (f"{PREPARE} -o out.txt", "must end in .h5ad .a file. or .zarr"),
    (f"{PREPARE} -o absent/out.zarr", "The folder absent does not exist"),
    (f"{PREPARE} -o {{first}} --overwrite", "is one of the files that are read"),
    (f"{PREPARE} --overwrite", "out.zarr exists and is not a zarr store", folder_of("out.zarr")),
    (f"{PREPARE} -o out.h5ad", "out.h5ad exists already; pass --overwrite", file("out.h5ad")),
    # integrate --memory, and zarr stores
    (f"{INTEGRATE} --memory much", "memory is 'much'; it must be an amount of memory"),
    (f"{INTEGRATE} --memory 0GB", "memory is '0GB'"),
    (f"{INTEGRATE} --memory -1GB", "memory is '-1GB'"),
    (f"{INTEGRATE} --memory nanGB", "memory is 'nanGB'"),
    (f"{INTEGRATE} --memory 1KB", "--memory '1KB' is too little"),
    (f"{INTEGRATE} --label cell_type", "--label names cell types for the report: give --report too"),
    (f"{INTEGRATE} --report absent/r.html", "The folder absent does not exist"),
    (f"{INTEGRATE} --report r.html", "r.html exists already", file("r.html")),
    (f"integrate {{store}} {STORED} --copy", "--copy copies h5ad files, but the input is a zarr store"),
    (f"integrate {{store}} {STORED} --raw", "has no raw"),
    (f"integrate {{store}} {STORED} --system species", "'species' is not a column"),
    (f"integrate store.zarr {STORED}", "damaged", damaged_store(flip("X/data"))),
    (f"integrate store.zarr {STORED}", "damaged", damaged_store(flip("X/indices"))),
    (f"integrate store.zarr {STORED}", "cannot be read as a zarr store", damaged_store(flip("X/indptr"))),
    (f"integrate store.zarr {STORED}", "has 0 of 1 chunks", damaged_store(lambda s: (s / "X/data/c/0").unlink())),
    (f"integrate store.zarr {STORED}", "store.zarr", damaged_store(forge("X/indptr", shape=[7]))),
    (f"integrate store.zarr {STORED}", "its file is damaged", damaged_store(forge("X/data", data_type="int16"))),
    (f"integrate store.zarr {STORED}", "store.zarr", damaged_store(lambda s: shutil.rmtree(s / "obs"))),
    (f"integrate store.zarr {STORED}", "store.zarr", damaged_store(lambda s: shutil.rmtree(s / "X/indices"))),
    # integrate --dry-run
    (DRY_RUN.replace("{prepared}", "absent.h5ad"), "There is no file absent.h5ad"),
    (DRY_RUN.replace("{prepared}", "new.h5ad"), "only one system|one system", changed("counts", system("a"))),
    (DRY_RUN.replace("{prepared}", "new.h5ad"), "[Ss]ystem 'rat'", changed("counts", system("rat", [1, 2]))),
    (DRY_RUN.replace("{prepared}", "store.zarr"), "store.zarr", damaged_store(forge("X/data", shape=[7]))),
    (f"{DRY_RUN} --system species", "'species' is not a column"),
    (f"{DRY_RUN} --batch donor", "'donor' is not a column"),
    (f"{DRY_RUN} --batch gaps", "100 missing values"),
    (f"{DRY_RUN} --covariate organ", "'organ' is not a column"),
    (f"{DRY_RUN} --continuous cell_type", "'cell_type'.* is not numeric"),
    (f"{DRY_RUN} --layer no", "no layer 'no'"),
    (f"{DRY_RUN} --raw", "has no raw"),
    (f"{DRY_RUN} --memory much", "memory is 'much'"),
    (f"{DRY_RUN} --memory 1KB", "--memory '1KB' is too little"),
    (f"{DRY_RUN} --preset fast", "--preset"),
    (f"{DRY_RUN} --members 0", "--members"),
    (f"{DRY_RUN} --epochs 0", "--epochs"),
    (f"{DRY_RUN} --device tpu", "tpu"),
    # transfer
    (TRANSFER.replace("{reference}", "absent"), "absent"),
    (TRANSFER.replace("{reference}", "{model}"), "holds no reference: there is no config.json"),
    (TRANSFER.replace("{reference}", "{counts}"), "reference.* has no embedding 'X_sysVI'"),
    (TRANSFER.replace("{integrated}", "absent.h5ad"), "There is no file absent.h5ad"),
    (TRANSFER.replace("{integrated}", "{counts}"), "query.* has no embedding 'X_sysVI'"),
    (f"{TRANSFER} --label type", "'type' is not a column"),
    (f"{TRANSFER} --key X_no", "no embedding"),
    (f"{TRANSFER} --cluster no", "'no' is not a column"),
    (f"{TRANSFER} --system species", "'species' is not a column"),
    (f"{TRANSFER} -o absent/out.h5ad", "The folder absent does not exist"),
    (TRANSFER, "out.h5ad exists already; pass --overwrite", file("out.h5ad")),
    (TRANSFER.replace("{reference}", "r"), "cells.h5ad is damaged", reference(appended("cells.h5ad"))),
    (TRANSFER.replace("{reference}", "r"), "model.safetensors is damaged", reference(appended("model.safetensors"))),
    (TRANSFER.replace("{reference}", "r"), "config.json is damaged", reference(appended("config.json"))),
    (TRANSFER.replace("{reference}", "r"), "no file cells.h5ad", reference(lambda r: (r / "cells.h5ad").unlink())),
    (TRANSFER.replace("{reference}", "r"), "format version 9", reference(configured(format_version=9))),
    (TRANSFER.replace("{reference}", "r"), "config.json is damaged", reference(configured(embedding="X_no"))),
    (TRANSFER.replace("{reference}", "r"), "config.json is damaged", reference(configured(label_keys=[]))),
    # what names single cells instead of groups
    (f"evaluate {{integrated}} {COLUMNS} --label own", "names single cells: choose a column whose values many cells"),
    ("evaluate {integrated} --system own", r"obs\['own'\] \(--system\) has 200 different values"),
    (f"tune {{prepared}} {COLUMNS} --label own --epochs 1 --seeds 1 -o out", "names single cells"),
    (f"compare {{counts}} {COLUMNS} --label own --methods pca --seeds 1 -o out", "names single cells"),
    (f"batch-strength {{prepared}} {COLUMNS} --label own", "names single cells"),
    # demo
    ("demo --cells 3", "--cells"),
    ("demo --seed -1", "--seed"),
    ("demo -o a", "is a file|cannot be created", file("a")),
]


@pytest.mark.parametrize(
    ("command", "words", "make"),
    [pytest.param(*row, *[None] * (3 - len(row)), id=f"{i} {row[0].split()[0]}") for i, row in enumerate(ROWS)],
)
def test_commands(inputs, tmp_path, monkeypatch, command, words, make):
    monkeypatch.chdir(tmp_path)
    if make is not None:
        make(tmp_path, inputs)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    check_refusal(tmp_path, command.format(**inputs), words, files_in(tmp_path))
    assert {path: path.read_bytes() for path in before} == before
