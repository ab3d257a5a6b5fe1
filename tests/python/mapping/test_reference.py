import builtins
import errno
import json
import re
import shutil
import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pytest

import sysvi
from sysvi import InputError
from sysvi.mapping.label_classifier import LabelClassifier

FILES = ["README.md", "cells.h5ad", "config.json", "model.safetensors"]
pytestmark = pytest.mark.filterwarnings("ignore:Only .* genes")


@pytest.fixture(scope="module")
def trained():
    counts = sysvi.datasets.simulate_systems(300, 200, seed=1)
    adata = sysvi.prepare(counts, "system", "batch", min_cells=3)
    adata.obs["name of the donor"] = "secret"
    model = sysvi.integrate(adata, "system", "batch", members=2, max_epochs=2, progress=False)
    return model, adata


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    model, adata = trained
    folder = tmp_path_factory.mktemp("references") / "islets"
    sysvi.save_reference(folder, model, adata, "cell_type", licence="cc0-1.0", description="Simulated *cells*.")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved reference that may be damaged."""
    return shutil.copytree(saved, tmp_path / "copy")


def test_round_trip(trained, saved):
    _, adata = trained
    reference = sysvi.load_reference(saved)
    assert sorted(path.name for path in saved.iterdir()) == FILES
    assert (reference.embedding, reference.label_keys) == ("X_sysVI", ("cell_type",))
    assert (reference.system_key, reference.batch_key) == ("system", "batch")
    cells = reference.adata
    assert cells.shape == (300, 0)
    assert cells.X is None
    assert cells.obs.columns.tolist() == ["cell_type", "system", "batch"]  # and nothing else of the donors
    assert (cells.obs.astype(str) == adata.obs[cells.obs.columns].astype(str)).all(axis=None)
    np.testing.assert_array_equal(cells.obsm["X_sysVI"], adata.obsm["X_sysVI"])
    np.testing.assert_array_equal(reference.model.get_latent_representation(adata), adata.obsm["X_sysVI"])
    assert repr(reference).startswith("Reference of 300 cells with cell_type; embedding 'X_sysVI' of Ensemble of 2")


def test_labels_are_transferred_as_from_its_cells(trained, saved):
    _, adata = trained
    query = adata[::3].copy()
    query.obs_names = [f"query{i}" for i in range(query.n_obs)]
    keys = {"system_key": "system", "batch_key": "batch"}
    expected = sysvi.transfer_labels(adata, query, "cell_type", **keys)
    found = sysvi.transfer_labels(sysvi.load_reference(saved), query, "cell_type")
    np.testing.assert_array_equal(found.probability, expected.probability)
    assert (found.cells == expected.cells).all(axis=None)


def test_model_card(trained, saved):
    _, adata = trained
    card = (saved / "README.md").read_text()
    header, text = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()
    values = dict(line.split(": ", 1) for line in header.splitlines())
    assert json.loads(values["license"]) == "cc0-1.0"
    assert values["library_name"] == '"sysvi"'
    assert "single-cell" in json.loads(values["tags"])
    for part in ("Simulated *cells*.", "300 cells of 2 systems", "6 batches", f"{adata.n_vars} genes", "torch 2"):
        assert part in text, part
    batch = adata.obs["system"].astype(str) + adata.obs["batch"].astype(str)
    held_out = LabelClassifier.fit(adata.obsm["X_sysVI"], adata.obs["cell_type"], batch).held_out
    names = np.unique(adata.obs["cell_type"].astype(str))
    n = (adata.obs["cell_type"] == names[0]).sum()
    assert f"| {names[0]} | {n} | {held_out.correct[held_out.code == 0].mean():.2f} |" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:System .* has fewer cells")
def test_new_cells_are_mapped_and_labelled_as_the_card_says(tmp_path):
    counts = sysvi.datasets.simulate_systems(900, 200, seed=1)
    is_query = (counts.obs["batch"] == "system2_sample2").to_numpy()
    adata = sysvi.prepare(counts[~is_query].copy(), "system", "batch", min_cells=3)
    model = sysvi.integrate(adata, "system", "batch", members=1, max_epochs=60, progress=False)
    sysvi.save_reference(tmp_path, model, adata, "cell_type", licence="mit")
    own = counts.obs["cell_type"][is_query].astype(str).to_numpy()
    names = {"load": str(tmp_path), "query": counts[is_query].copy()}
    code = re.search(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)[1]
    exec(code.replace('"owner/name"', "load"), names)
    labels = names["query"].obs["cell_type_transferred"].astype(str).to_numpy()
    known = labels != "unknown"
    assert known.mean() > 0.4  # a model of so few cells places new cells further out
    assert (labels == own)[known].mean() > 0.9


def test_several_labels_and_a_single_model_without_batches(trained, tmp_path):
    adata = trained[1].copy()
    adata.obs["state | of $x$"] = np.where(np.arange(300) % 2, "unknown", "=a|b")
    model = sysvi.integrate(adata, "system", members=1, max_epochs=1, progress=False)
    sysvi.save_reference(tmp_path, model, adata, ["cell_type", "state | of $x$"], licence="mit")
    reference = sysvi.load_reference(str(tmp_path))
    assert reference.batch_key is None
    assert reference.label_keys == ("cell_type", "state | of $x$")
    assert "| =a&#124;b | 150 | 1.00 |" in (tmp_path / "README.md").read_text()


def test_an_existing_reference_is_replaced_only_on_request(trained, folder):
    model, adata = trained
    with pytest.raises(InputError, match=r"has a file model.safetensors already; pass overwrite=True"):
        sysvi.save_reference(folder, model, adata, "cell_type", licence="mit")
    part = adata[adata.obs["batch"] != adata.obs["batch"].iloc[0]]
    sysvi.save_reference(folder, model, part, "cell_type", licence="mit", overwrite=True)
    cells = sysvi.load_reference(folder).adata
    assert cells.n_obs == part.n_obs
    assert adata.obs["batch"].iloc[0] not in cells.obs["batch"].cat.categories


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_keys": "type"}, r"label_keys='type' is not a column of adata.obs"),
        ({"label_keys": "name of the cell"}, "it names single cells"),
        ({"label_keys": []}, "label_keys is empty: name the columns"),
        ({"label_keys": "unlabelled"}, r"adata.obs\['unlabelled'\] \(label_keys\) labels no cell"),
        ({"embedding": "X_pca"}, "adata.obsm has no embedding 'X_pca'"),
        ({"embedding": "Z"}, r"adata.obsm\['Z'\] has 3 dimensions, but the model has 15"),
        ({"licence": None}, "licence is None; it must be a string"),
        ({"model": "model"}, "model is 'model'; it must be an object of the class"),
    ],
)
def test_what_is_no_reference_is_not_saved(trained, tmp_path, arguments, message):
    model, adata = trained
    adata = adata.copy()
    adata.obs["unlabelled"], adata.obs["name of the cell"] = "unknown", adata.obs_names
    adata.obsm["Z"] = np.ones((300, 3))
    given = {"model": model, "adata": adata, "label_keys": "cell_type", "licence": "mit", **arguments}
    with pytest.raises(InputError, match=message):
        sysvi.save_reference(tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("part", ["write_anndata", "_checksum"])
def test_what_was_not_saved_to_the_end_is_no_reference(trained, tmp_path, monkeypatch, part):
    def no_space(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"sysvi.mapping.reference.{part}", no_space)
    with pytest.raises((InputError, OSError), match=r"[Nn]o space left"):
        sysvi.save_reference(tmp_path, *trained, "cell_type", licence="mit")
    monkeypatch.undo()
    with pytest.raises(InputError, match="holds no reference"):
        sysvi.load_reference(tmp_path)
    sysvi.save_reference(tmp_path, *trained, "cell_type", licence="mit", overwrite=True)
    assert sysvi.load_reference(tmp_path).adata.n_obs == 300


@pytest.mark.parametrize("name", ["cells.h5ad", "model.safetensors"])
def test_damaged_and_missing_files_are_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} is damaged: its checksum is not that of config.json"):
        sysvi.load_reference(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"has no file {name}: the reference is incomplete"):
        sysvi.load_reference(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: "{", "config.json is damaged: copy it again"),
        (lambda config: "[]", "config.json was not written by sysvi.save_reference"),
        (lambda config: json.dumps(config | {"format": "other"}), "was not written by sysvi.save_reference"),
        (lambda config: json.dumps(config | {"format_version": 2}), "has format version 2, but this version of sysvi"),
        (lambda config: json.dumps(config | {"label_keys": []}), "entries are missing or of another type"),
        (lambda config: json.dumps(config | {"embedding": 1}), "entries are missing or of another type"),
        (lambda config: json.dumps(config | {"batch_key": 1}), "entries are missing or of another type"),
        (lambda config: json.dumps(config | {"sha256": {"../x": "0"}}), "entries are missing or of another type"),
        (lambda config: json.dumps(config | {"system_key": "species"}), "'species' .*is not in its cells"),
        (lambda config: json.dumps(config | {"batch_key": "donor"}), "'donor' .*is not in its cells"),
        (lambda config: json.dumps(config | {"embedding": "X_pca"}), "'X_pca' is not in its cells"),
    ],
)
def test_a_changed_config_is_refused(folder, change, message):
    path = folder / "config.json"
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(InputError, match=message):
        sysvi.load_reference(folder)


def test_what_is_no_folder_of_a_reference_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no reference: there is no config.json"):
        sysvi.load_reference(tmp_path)
    with pytest.raises(InputError, match=r"holds no reference: there is no config.json"):
        sysvi.load_reference(tmp_path / "missing")
    with pytest.raises(InputError, match="dir_or_repo is None; it must be"):
        sysvi.load_reference(None)


@pytest.fixture
def hub(monkeypatch, saved):
    """A stand-in for huggingface_hub that records its calls."""
    calls = []

    def snapshot_download(repo, allow_patterns):
        calls.append(("download", repo, sorted(allow_patterns)))
        if repo == "lab/missing":
            raise OSError("404 Client Error.\nRepository not found.")
        return str(saved)

    def create_repo(repo, private, exist_ok):
        calls.append(("create", repo, private, exist_ok))

    def upload_folder(repo_id, folder_path, allow_patterns):
        calls.append(("upload", repo_id, folder_path, sorted(allow_patterns)))

    functions = {f.__name__: f for f in (snapshot_download, create_repo, upload_folder)}
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(**functions))
    return calls


def test_the_hub(hub, saved, folder, tmp_path):
    assert sysvi.load_reference("lab/islets").adata.n_obs == 300
    sysvi.upload_reference(saved, "lab/islets")
    assert hub == [
        ("download", "lab/islets", FILES),
        ("create", "lab/islets", True, True),
        ("upload", "lab/islets", saved, FILES),
    ]
    with pytest.raises(InputError, match=r"no folder lab/missing, and no reference .* hub: 404 Client Error\.$"):
        sysvi.load_reference("lab/missing")
    with pytest.raises(InputError, match="repo is 'islets'; it must be the name of a repository"):
        sysvi.upload_reference(saved, "islets")
    with pytest.raises(InputError, match="holds no reference"):
        sysvi.upload_reference(tmp_path, "lab/islets")
    (folder / "cells.h5ad").write_bytes(b"")
    with pytest.raises(InputError, match=r"cells.h5ad is damaged"):
        sysvi.upload_reference(folder, "lab/islets")
    assert len(hub) == 4


def test_without_the_library_of_the_hub_a_sentence_says_what_to_install(monkeypatch, saved):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: sysvi.load_reference("lab/islets"), lambda: sysvi.upload_reference(saved, "lab/islets")):
        with pytest.raises(InputError, match=r'install it with pip install "sysvi\[hub\]"'):
            call()


def test_a_folder_takes_precedence_over_the_hub(hub, folder, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    sysvi.load_reference(f"{folder.parent.name}/{folder.name}")
    assert not hub


def test_loading_executes_no_code(saved, monkeypatch):
    import pickle

    def refuse(*args, **kwargs):
        raise AssertionError("code of a file would be executed")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (builtins, "eval")):
        monkeypatch.setattr(module, name, refuse)
    assert sysvi.load_reference(saved).adata.n_obs == 300


def test_cells_can_be_read_without_sysvi(saved):
    assert anndata.read_h5ad(saved / "cells.h5ad").obsm["X_sysVI"].shape == (300, 15)
