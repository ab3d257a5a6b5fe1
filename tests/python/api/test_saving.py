"""Saving and loading models."""

import io
import json
import pathlib
import pickle
import pickletools

import anndata
import numpy as np
import pandas as pd
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi import InputError, Ramp, SysVI
from sysvi._core.checks import is_missing
from sysvi._core.files import write_atomically
from sysvi.model.checkpoint import ENSEMBLE_VERSION, FORMAT, FORMAT_VERSION, LACKING_VERSION, read_file, write_file

pytestmark = pytest.mark.filterwarnings("ignore:System ")

FILE = "model.safetensors"
FAST = {"max_epochs": 2, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def adata(make_adata):
    """Read-only: the data of `model`."""
    return make_adata()


@pytest.fixture(scope="module")
def model(adata, make_sysvi):
    """Read-only: a trained model."""
    plan = {"kl_weight": 0.5, "z_distance_cycle_weight": Ramp(3.0, 0.2, 0.4)}
    return make_sysvi(adata, seed=7, train={"check_val_every_n_epoch": 1, "plan_kwargs": plan})


@pytest.fixture(scope="module")
def embedding(model):
    return model.get_latent_representation()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """Read-only: folder of `model`, saved."""
    folder = tmp_path_factory.mktemp("saved") / "deep" / "model"
    model.save(folder)
    return folder


def assert_equal_models(a, b):
    assert a.vocabulary == b.vocabulary
    assert a.columns == b.columns
    assert a.model_settings == b.model_settings
    assert a.train_settings == b.train_settings
    assert (a.seed, a.status, repr(a)) == (b.seed, b.status, repr(b))
    assert a.history.keys() == b.history.keys()
    for key in a.history:
        pd.testing.assert_frame_equal(a.history[key], b.history[key], check_exact=True)
    assert a.module.state_dict().keys() == b.module.state_dict().keys()
    for name, tensor in a.module.state_dict().items():
        assert torch.equal(tensor, b.module.state_dict()[name])


# -- round trip ------------------------------------------------------------------------------------------------------


def test_round_trip_keeps_everything(model, saved, adata, embedding):
    loaded = SysVI.load(saved, adata)
    assert_equal_models(model, loaded)
    np.testing.assert_array_equal(loaded.get_latent_representation(), embedding)
    assert loaded.adata is adata


@pytest.mark.parametrize(
    "arguments",
    [
        {"prior": "standard_normal"},
        {"prior": "gmm", "mixture": "joint"},
        {"prior": "gmm", "pseudoinputs": "noise", "trainable_priors": False},
        {"embed_categorical_covariates": True, "out_var_mode": "sample_feature"},
        {"n_layers": 3, "n_prior_components": 11},
    ],
    ids=str,
)
def test_round_trip_of_every_kind_of_model(make_adata, make_sysvi, arguments, tmp_path):
    model = make_sysvi(make_adata(), train={"max_epochs": 1}, **arguments)
    model.save(tmp_path)
    loaded = SysVI.load(tmp_path, model.adata)
    assert_equal_models(model, loaded)
    for name, parameter in model.module.named_parameters():
        assert parameter.requires_grad == dict(loaded.module.named_parameters())[name].requires_grad
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())


def test_loaded_model_trains_on_as_the_saved_one(make_adata, make_sysvi, tmp_path):
    model = make_sysvi(make_adata())
    model.save(tmp_path)
    loaded = SysVI.load(tmp_path, make_adata())
    for each in (model, loaded):
        each.train(**FAST)
    assert len(loaded.history["loss_train"]) == 4
    assert_equal_models(model, loaded)
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())


def test_saving_twice_gives_the_same_file(saved, tmp_path):
    SysVI.load(saved).save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == (saved / FILE).read_bytes()


def test_untrained_and_interrupted_are_remembered(make_adata, make_sysvi, tmp_path):
    untrained = make_sysvi(make_adata(), train=None)
    untrained.save(tmp_path / "untrained")
    loaded = SysVI.load(tmp_path / "untrained", untrained.adata)
    assert not loaded.is_trained
    with pytest.raises(InputError, match="not trained"):
        loaded.get_latent_representation()

    def stop(event):
        if event.stage == "epoch":
            raise KeyboardInterrupt

    interrupted = make_sysvi(make_adata(), train={"progress": stop})
    interrupted.save(tmp_path / "interrupted")
    assert SysVI.load(tmp_path / "interrupted").status == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "train"),
    [
        ({"seed": np.int64(3)}, {}),
        ({"dropout_rate": np.float32(0.125)}, {}),
        ({"n_latent": np.int64(3)}, {}),
        ({"trainable_priors": np.False_}, {"weight_decay": np.float32(1e-5)}),
        ({}, {"seed": np.int64(3)}),
        ({}, {"batch_size": np.int64(64)}),
        ({}, {"plan_kwargs": {"lr": np.float32(1e-3), "z_distance_cycle_weight": np.float32(2)}}),
    ],
    ids=str,
)
def test_numbers_of_numpy_are_saved_as_numbers(make_adata, make_sysvi, arguments, train, tmp_path):
    model = make_sysvi(make_adata(), train=train, **arguments)
    assert all(model.record().values())
    model.save(tmp_path)
    assert_equal_models(model, SysVI.load(tmp_path))


def test_without_data_other_cells_are_embedded(saved, adata, embedding):
    loaded = SysVI.load(saved)
    assert loaded.adata is None
    with pytest.raises(InputError, match="loaded without data"):
        loaded.get_latent_representation()
    with pytest.raises(InputError, match="loaded without data"):
        loaded.train(**FAST)
    rows = np.arange(0, 300, 7)
    some = adata[rows, np.arange(100)[::-1]].copy()
    np.testing.assert_allclose(loaded.get_latent_representation(some), embedding[rows], atol=1e-5)


def test_data_in_another_order_load(saved, adata, embedding):
    rows, genes = np.random.default_rng(0).permutation(300), np.random.default_rng(1).permutation(100)
    loaded = SysVI.load(saved, adata[rows, genes].copy())
    np.testing.assert_allclose(loaded.get_latent_representation(), embedding[rows], atol=1e-5)


def test_data_of_one_known_system_load(saved, adata, embedding):
    rows = np.flatnonzero(adata.obs["system"] == "system2")
    loaded = SysVI.load(saved, adata[rows].copy())
    np.testing.assert_allclose(loaded.get_latent_representation(), embedding[rows], atol=1e-5)


def test_file_itself_may_be_named(model, saved):
    assert_equal_models(model, SysVI.load(str(saved / FILE)))


def test_prefix_keeps_models_apart(model, saved, tmp_path):
    model.save(tmp_path, prefix="first_")
    SysVI.load(saved).save(tmp_path, prefix="second_")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"first_{FILE}", f"second_{FILE}"]
    assert_equal_models(model, SysVI.load(tmp_path, prefix="first_"))
    with pytest.raises(InputError, match="no saved model"):
        SysVI.load(tmp_path)


def test_data_are_saved_when_asked_for(model, saved, tmp_path, embedding):
    model.save(tmp_path, save_anndata=True, prefix="a_")
    cells = anndata.read_h5ad(tmp_path / "a_adata.h5ad")
    np.testing.assert_array_equal(SysVI.load(tmp_path, cells, prefix="a_").get_latent_representation(), embedding)
    with pytest.raises(InputError, match="without data"):
        SysVI.load(saved).save(tmp_path / "b", save_anndata=True)


def test_saving_data_leaves_a_backed_object_where_it_is(make_adata, make_sysvi, assert_same, tmp_path):
    file = tmp_path / "cells.h5ad"
    make_adata().write_h5ad(file)
    backed = anndata.read_h5ad(file, backed="r")
    model = make_sysvi(backed, train=None)
    for name in ("a", "b"):
        model.save(tmp_path / name, save_anndata=True)
        assert backed.filename == file
        saved = anndata.read_h5ad(tmp_path / name / "adata.h5ad")
        for part in ("X", "layers", "obs", "var"):
            assert_same(getattr(saved, part), getattr(backed.to_memory(), part))


# -- the file --------------------------------------------------------------------------------------------------------


def test_file_is_readable_without_sysvi(model, saved):
    tensors = safetensors.torch.load_file(saved / FILE)
    assert tensors.keys() == model.module.state_dict().keys()
    with safetensors.safe_open(saved / FILE, framework="np") as file:
        header = json.loads(file.metadata()["sysvi"])
        assert header["genes"] == list(model.vocabulary.genes)
    assert (header["format"], header["format_version"]) == (FORMAT, FORMAT_VERSION)
    assert header["systems"] == ["system1", "system2"]
    assert list(header["categorical"]) == ["batch", "sex"]
    assert list(header["continuous"]) == ["age"]
    assert header["model_settings"]["n_latent"] == 4
    assert header["train_settings"]["cycle_weight"] == [3.0, 0.2, 0.4]
    assert (header["seed"], header["status"]) == (7, "finished")
    assert set(header["versions"]) >= {"sysvi", "torch", "numpy", "anndata", "python"}


def test_file_is_json_and_numbers_with_no_room_for_a_pickle(saved):
    data = (saved / FILE).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert set(header.pop("__metadata__")) == {"sysvi"}
    spans = sorted(tensor["data_offsets"] for tensor in header.values())
    starts, stops = zip(*spans, strict=True)
    assert starts == (0, *stops[:-1])
    assert stops[-1] == len(data) - 8 - size
    with pytest.raises(ValueError):  # noqa: PT011 (bytes that are no pickle fail in many ways)
        pickletools.dis(data, out=io.StringIO())


def test_loading_never_unpickles(saved, adata, embedding, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a pickle was opened")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    np.testing.assert_array_equal(SysVI.load(saved, adata).get_latent_representation(), embedding)


def test_file_may_be_read_by_others_as_the_umask_says(saved, tmp_path):
    (tmp_path / "plain").touch()
    assert (saved / FILE).stat().st_mode == (tmp_path / "plain").stat().st_mode


# -- writing ---------------------------------------------------------------------------------------------------------


def test_overwriting_must_be_asked_for(model, tmp_path, adata):
    (tmp_path / FILE).write_bytes(b"precious")
    with pytest.raises(InputError, match=r"exists already.*overwrite=True"):
        model.save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"precious"
    model.save(tmp_path, overwrite=True)
    assert_equal_models(model, SysVI.load(tmp_path))


def test_saved_data_are_not_overwritten_unasked(model, tmp_path):
    (tmp_path / "adata.h5ad").write_bytes(b"precious")
    with pytest.raises(InputError, match="exists already"):
        model.save(tmp_path, save_anndata=True)
    assert (tmp_path / "adata.h5ad").read_bytes() == b"precious"


def test_failure_while_writing_leaves_the_old_model(model, saved, tmp_path, monkeypatch):
    SysVI.load(saved).save(tmp_path)
    before = (tmp_path / FILE).read_bytes()

    def full_disk(path, content):
        with path.open("wb") as file:
            file.write(content[:5000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full_disk)
    with pytest.raises(InputError, match="there is no space left"):
        model.save(tmp_path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).read_bytes() == before
    with pytest.raises(InputError, match="there is no space left"):
        model.save(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_interrupt_while_writing_leaves_nothing(tmp_path):
    def interrupted(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_named(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"The folder .*file/below cannot be created"):
        model.save(tmp_path / "file" / "below")
    with pytest.raises(InputError, match=r"The folder .*file cannot be created \("):
        model.save(tmp_path / "file")
    with pytest.raises(InputError, match=r"Cannot write into the folder .*absent"):
        write_atomically(tmp_path / "absent" / "file", lambda path: None)


# -- reading ---------------------------------------------------------------------------------------------------------


def forge(path, saved, tensors=None, **changes):
    """Write a saved model with other tensors or entries of the header (None: without), and a checksum that fits."""
    good, header = read_file(saved / FILE)
    header = {name: value for name, value in (header | changes).items() if value is not None}
    write_file(path, good if tensors is None else tensors, {"format_version": None} | header, overwrite=False)


def write_unusable_file(path, saved, kind):
    """Write a file that is no saved model, in one of many ways."""
    good, tensors = (saved / FILE).read_bytes(), safetensors.torch.load_file(saved / FILE)
    size = int.from_bytes(good[:8], "little")
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("gene,count\nINS,3\n")
    elif kind == "random":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "cut in the header":
        path.write_bytes(good[: size // 2])
    elif kind == "cut in the numbers":
        path.write_bytes(good[:-1])
    elif kind == "header damaged":
        path.write_bytes(good[:20] + b"\xff\x00" + good[22:])
    elif kind == "torch":
        torch.save(tensors, path)
    elif kind == "foreign":
        safetensors.torch.save_file(tensors, path)
    elif kind == "foreign with metadata":
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    elif kind == "foreign JSON":
        safetensors.torch.save_file(tensors, path, metadata={"sysvi": "[]"})
    elif kind == "no JSON":
        safetensors.torch.save_file(tensors, path, metadata={"sysvi": "{"})
    elif kind.startswith("version "):
        version = json.loads(kind.removeprefix("version ").replace("None", "null"))
        forge(path, saved, format_version=version)
    elif kind == "no genes":
        forge(path, saved, genes=None)
    elif kind == "fewer genes":
        forge(path, saved, genes=["a", "b"])
    elif kind == "unknown setting":
        forge(path, saved, model_settings={"n_latents": 3})
    elif kind == "categories without a name":
        forge(path, saved, categorical=[])
    elif kind == "history without names":
        forge(path, saved, history="x")
    elif kind == "no tensors":
        forge(path, saved, {})
    elif kind == "no checksum":
        with safetensors.safe_open(saved / FILE, framework="pt") as file:
            header = json.loads(file.metadata()["sysvi"])
        del header["sha256"]
        safetensors.torch.save_file(tensors, path, metadata={"sysvi": json.dumps(header)})
    elif kind == "gigantic":
        settings = read_file(saved / FILE)[1]["model_settings"]
        forge(path, saved, model_settings=settings | {"n_hidden": 10**8})
    elif kind == "deep":
        settings = read_file(saved / FILE)[1]["model_settings"]
        forge(path, saved, model_settings=settings | {"n_layers": 10**9})
    elif kind == "half precision":
        forge(path, saved, {name: tensor.half() for name, tensor in tensors.items()})
    elif kind == "whole numbers":
        forge(path, saved, {name: tensor.view(torch.int32) for name, tensor in tensors.items()})
    elif kind == "genes twice":
        forge(path, saved, genes=["gene_1", *read_file(saved / FILE)[1]["genes"][1:]])
    elif kind == "no scale":
        forge(path, saved, continuous={"age": [50.0, 0.0]})
    elif kind == "other columns":
        forge(path, saved, system_key="species")
    elif kind == "other status":
        forge(path, saved, status="perfect")


DAMAGED = "cannot be read as a saved model: it is damaged or another kind of file"
FOREIGN = "is a safetensors file, but was not written by sysVI"
CORRUPTED = "is corrupted"
VERSIONS = [1, 2, LACKING_VERSION + 2, None]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "There is no saved model at"),
        ("empty", DAMAGED),
        ("text", DAMAGED),
        ("random", DAMAGED),
        ("cut in the header", DAMAGED),
        ("cut in the numbers", DAMAGED),
        ("header damaged", DAMAGED),
        ("torch", DAMAGED),
        ("no JSON", DAMAGED),
        ("foreign", FOREIGN),
        ("foreign with metadata", FOREIGN),
        ("foreign JSON", FOREIGN),
        *(
            (
                f"version {version}",
                rf"format version {version}, but .* reads {FORMAT_VERSION} .*{ENSEMBLE_VERSION} .*only",
            )
            for version in VERSIONS
        ),
        (f"version {ENSEMBLE_VERSION}", CORRUPTED),
        (f"version {LACKING_VERSION}", CORRUPTED),
        ("no genes", CORRUPTED),
        ("fewer genes", CORRUPTED),
        ("unknown setting", CORRUPTED),
        ("categories without a name", CORRUPTED),
        ("history without names", CORRUPTED),
        ("no tensors", CORRUPTED),
        ("no checksum", CORRUPTED),
        ("gigantic", CORRUPTED),
        ("deep", CORRUPTED),
        ("half precision", CORRUPTED),
        ("whole numbers", CORRUPTED),
        ("genes twice", CORRUPTED),
        ("no scale", CORRUPTED),
        ("other columns", CORRUPTED),
        ("other status", CORRUPTED),
    ],
)
def test_unusable_file_is_refused_with_its_own_sentence(saved, kind, message, tmp_path):
    write_unusable_file(tmp_path / FILE, saved, kind)
    with pytest.raises(InputError, match=message) as caught:
        SysVI.load(tmp_path)
    assert FILE in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["gigantic", "deep"])
def test_no_memory_is_allocated_by_a_forged_header(saved, kind, tmp_path, monkeypatch):
    write_unusable_file(tmp_path / FILE, saved, kind)
    monkeypatch.setattr(SysVI, "_create_module", None)  # is not called
    with pytest.raises(InputError, match=CORRUPTED):
        SysVI.load(tmp_path)


def test_a_card_may_be_a_number(saved):
    with pytest.raises(InputError, match="'cuda:99' is not available"):
        SysVI.load(saved, device=99)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_truncation_gets_through(saved, tmp_path_factory, data):
    good = (saved / FILE).read_bytes()
    path = tmp_path_factory.mktemp("cut") / FILE
    path.write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
    with pytest.raises(InputError, match=DAMAGED):
        SysVI.load(path)


def test_missing_genes_are_named(saved, adata):
    with pytest.raises(InputError, match=r"3 of the model's 100 genes .*\(gene_0, gene_1, gene_2\)"):
        SysVI.load(saved, adata[:, 3:].copy())


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("system", "zebrafish", r"obs\['system'\].*\(zebrafish\).*it knows system1, system2"),
        ("batch", "new donor", r"obs\['batch'\].*\(new donor\).*it knows system1_sample1"),
        ("sex", "x", r"obs\['sex'\].*\(x\).*it knows f, m"),
    ],
)
def test_unknown_categories_are_named(saved, adata, column, value, message):
    other = adata.copy()
    other.obs[column] = other.obs[column].astype(str)
    other.obs.loc[other.obs_names[0], column] = value
    with pytest.raises(InputError, match=message):
        SysVI.load(saved, other)


@pytest.mark.parametrize("column", ["system", "batch", "age"])
def test_missing_columns_are_named(saved, adata, column):
    with pytest.raises(InputError, match=f"'{column}' is not a column"):
        SysVI.load(saved, anndata.AnnData(adata.X, adata.obs.drop(columns=column), adata.var))


# -- names -----------------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
SOME = st.sampled_from(
    ["HLA-A/B", "5' UTR", 'a "b"', "β-cell", "naïve", "日本", "\\n", "{}", "{x}", "%s", "a\tb", "😀"]
)


def unique(n):
    return st.lists(NAMES | SOME, min_size=n, max_size=n, unique=True)


def categories(n):
    """Names that do not stand for a missing value."""
    return unique(n).filter(lambda names: not is_missing(pd.Series(names)).any())


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(unique(6), categories(2), categories(3), unique(3), st.integers(0, 99))
def test_any_names_survive(tmp_path_factory, genes, systems, batches, columns, seed):
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            columns[0]: rng.permutation(np.resize(systems, 60)),
            columns[1]: rng.permutation(np.resize(batches, 60)),
            columns[2]: rng.normal(size=60),
        },
        index=[f"cell{i}" for i in range(60)],
    )
    x = rng.gamma(1.0, size=(60, 6)).astype(np.float32)
    adata = anndata.AnnData(x, obs, pd.DataFrame(index=genes))
    SysVI.setup_anndata(adata, columns[0], None, [columns[1]], [columns[2]])
    model = SysVI(adata, n_hidden=4, n_layers=1, n_latent=2)
    model.train(max_epochs=1, progress=False, device="cpu")
    folder = tmp_path_factory.mktemp("names")
    model.save(folder)
    loaded = SysVI.load(folder, adata)
    assert_equal_models(model, loaded)
    assert list(loaded.vocabulary.genes) == genes
    assert set(loaded.vocabulary.systems) == set(systems)
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.dictionaries(NAMES, st.recursive(st.none() | st.integers() | st.text(), st.lists), max_size=5))
def test_any_description_survives(tmp_path_factory, description):
    path = tmp_path_factory.mktemp("description") / "file"
    description = {k: v for k, v in description.items() if k not in ("format", "format_version", "sha256")}
    write_file(path, {"a": torch.arange(6.0).reshape(2, 3).T}, description, overwrite=False)
    tensors, header = read_file(path)
    assert torch.equal(tensors["a"], torch.arange(6.0).reshape(2, 3).T)
    assert header == {"format": FORMAT, "format_version": FORMAT_VERSION, **description}
