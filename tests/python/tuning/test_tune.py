"""Tuning: what is measured, which setting is chosen, and that finished runs are kept and reused."""

import functools
import itertools
import json
import re
import shutil
import time

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import normalized_mutual_info_score

import sysvi
from sysvi import InputError
from sysvi.api.ensemble import CLOSENESS_OF_TWO
from sysvi.api.support import neighbor_support
from sysvi.cli import main
from sysvi.evaluation.scores import paper_scores
from sysvi.metrics import ilisi, moran_ratio, moran_reference, nearest_neighbors, shared_neighbors
from sysvi.metrics._clustering import kmeans
from sysvi.model.anchors import find_moves
from sysvi.model.combination import combine
from sysvi.training.loop import train
from sysvi.tuning.criterion import Criterion
from sysvi.tuning.explanation import choice_warnings

pytestmark = pytest.mark.filterwarnings(
    "ignore:System .* has fewer cells",
    "ignore:Only .* genes remain",
    "ignore:The integration leaves",
    "ignore:Some cells have no counterpart",
)

GRID = {"cycle_weights": [0, 5], "seeds": 2, "max_epochs": 2, "min_cells": 20, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def prepared():
    """Two systems that share three types and have one each of their own."""
    counts = sysvi.datasets.simulate_systems(500, 300, n_types=5, n_private=1, seed=2)
    return sysvi.prepare(counts, "system", "batch", min_cells=3)


@pytest.fixture
def cells(prepared):
    return prepared.copy()


def columns(adata):
    return (adata.obs[key].to_numpy().astype(str).astype(object) for key in ("system", "batch", "cell_type"))


def make_criterion(adata, label):
    system, batch, _ = columns(adata)
    return Criterion.from_cells(adata.X, np.arange(adata.n_obs), system, batch, label, min_cells=20)


def ideal_embedding(adata, seed=0):
    """Each cell type has a position of its own, the same in all systems."""
    places = 10 * np.eye(adata.obs["cell_type"].nunique())
    points = places[adata.obs["cell_type"].cat.codes]
    return points + np.random.default_rng(seed).normal(size=points.shape)


# -- what is measured -------------------------------------------------------------------------------------------------


def test_measures_with_labels_are_the_metrics(prepared):
    system, batch, label = columns(prepared)
    label[:30] = ""
    z = (
        np.random.default_rng(0).normal(size=(prepared.n_obs, 4))
        + 3 * np.eye(4)[prepared.obs["cell_type"].cat.codes % 4]
    )
    z[:, 3] /= 100
    found = make_criterion(prepared, label).measure(z)
    known = label != ""
    assert found["iLISI"] == pytest.approx(float(ilisi(nearest_neighbors(z), system)))
    clusters = kmeans(z[known], len(set(label[known])))
    assert found["NMI"] == pytest.approx(normalized_mutual_info_score(label[known], clusters))
    reference = moran_reference(prepared.X[known], label[known], batch[known], system[known], min_cells=20)
    assert found["Moran"] == pytest.approx(float(moran_ratio(reference, z[known])))
    scaled = (z - z.mean(0)) / z.std(0)
    assert found["iLISI, standardised"] == pytest.approx(float(ilisi(nearest_neighbors(scaled), system)))
    assert found["collapsed dimensions"] == 1


@pytest.mark.slow
def test_without_labels_neighbours_of_another_state_are_no_mixing(prepared):
    """Without labels, the metrics still distinguish right from wrong mixing."""
    system, _, _ = columns(prepared)
    criterion = make_criterion(prepared, None)
    assert not criterion.has_labels
    right = ideal_embedding(prepared)
    expected = shared_neighbors(right, system, criterion.group, min_cells=10).clip(upper=1).mean()
    assert criterion.measure(right)["shared mixing"] == pytest.approx(expected)
    assert expected > 0.9
    crossed = right.copy()  # cell types of system2 lie where the next cell type of system1 lies
    second = system == "system2"
    crossed[second] = crossed[second][:, [1, 2, 3, 4, 0]]
    assert criterion.measure(crossed)["shared mixing"] < 0.05
    assert float(ilisi(nearest_neighbors(crossed), system)) > 0.3  # iLISI, which ignores states, counts this as mixing
    apart = right + 30 * second[:, None]
    assert criterion.measure(apart)["shared mixing"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [True, False])
def test_a_private_type_moved_onto_another_one_scores_lower_and_is_found(prepared, labelled):
    system, _, label = columns(prepared)
    criterion = make_criterion(prepared, label if labelled else None)
    right = ideal_embedding(prepared)
    private = pd.crosstab(label, system).eq(0).any(axis=1)
    private = private.index[private][0]
    shared = pd.crosstab(label, system).gt(0).all(axis=1)
    shared = shared.index[shared][0]
    wrong = right.copy()
    wrong[label == private] += ideal_embedding(prepared)[label == shared].mean(0) - right[label == private].mean(0)
    assert criterion.private_groups(right)["foreign_neighbors"].max() < 0.05
    moved = criterion.private_groups(wrong)
    worst = moved["foreign_neighbors"].idxmax()
    assert moved.loc[worst, "foreign_neighbors"] > 0.5
    assert pd.Series(label[criterion.group == worst]).mode()[0] == private
    assert pd.Series(label[criterion.group == moved.loc[worst, "foreign_group"]]).mode()[0] == shared
    apart = right + 30 * (system == "system2")[:, None]
    rows = pd.DataFrame([criterion.measure(z) for z in (right, wrong, apart)])
    assert paper_scores(rows, batch=[criterion.mixing_metric])["overall"].idxmax() == 0


# -- what is chosen ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("label_key", [None, "cell_type"])
def test_tables_choice_and_embedding_of_a_tuning_agree(cells, label_key):
    found = sysvi.tune(cells, "system", "batch", label_key, kl_weights=[1, 2], **GRID)
    runs = found.runs
    assert runs[["cycle_weight", "kl_weight", "prior", "seed"]].values.tolist() == [
        [c, k, "vamp", s] for s in (0, 1) for c in (0, 5) for k in (1, 2)
    ]
    assert found.mixing == ("iLISI" if label_key else "shared mixing")
    scaled = {m: (runs[m] - runs[m].min()) / (np.ptp(runs[m]) or 1) for m in (found.mixing, "NMI", "Moran")}
    overall = 0.6 * (scaled["NMI"] + scaled["Moran"]) / 2 + 0.4 * scaled[found.mixing]
    np.testing.assert_allclose(runs["overall"], overall)
    means = overall.groupby([runs["cycle_weight"], runs["kl_weight"]]).mean()
    assert (found.cycle_weight, found.kl_weight) == means.idxmax()
    assert found.settings.index[0] == (*means.idxmax(), "vamp")
    np.testing.assert_allclose(found.settings["overall"].sort_index(), means)
    assert runs["chosen"].sum() == 2
    [representative] = runs.index[runs["representative"]]
    assert runs.loc[representative, ["cycle_weight", "kl_weight", "seed"]].tolist() == [
        found.cycle_weight,
        found.kl_weight,
        found.seed,
    ]
    np.testing.assert_array_equal(found.embedding, found.model.get_latent_representation())
    np.testing.assert_array_equal(found.embedding, cells.obsm["X_sysVI"])
    assert json.loads(cells.uns["sysvi"]["seed"]) == found.seed
    assert isinstance(found.model, sysvi.Ensemble)
    assert [member.seed for member in found.model.members] == [0, 1]
    for member in found.model.members:
        assert member.train_settings.cycle_weight.value == found.cycle_weight
        assert member.train_settings.kl_weight.value == found.kl_weight
    assert f"{found.cycle_weight:g}" in found.why
    assert found.why.count(". ") == 1  # two sentences
    assert not found.interrupted


@pytest.mark.slow
def test_priors_are_compared_like_weights(cells, tmp_path):
    """Finished runs of one prior are reused, each run has its own prior, and the explanation names the prior."""
    grid = {**GRID, "output": tmp_path, "seeds": 1}
    sysvi.tune(cells.copy(), "system", "batch", "cell_type", **grid)
    events = []
    both = {**grid, "priors": ["vamp", "standard_normal"], "progress": events.append}
    found = sysvi.tune(cells, "system", "batch", "cell_type", **both)
    assert trained(events) == 2
    runs = found.runs
    settings = [(0, "vamp"), (0, "standard_normal"), (5, "vamp"), (5, "standard_normal")]
    assert list(zip(runs["cycle_weight"], runs["prior"], strict=True)) == settings
    best = runs.loc[runs["overall"].idxmax()]
    assert (found.cycle_weight, found.prior) == (best["cycle_weight"], best["prior"])
    assert found.prior == found.model.model_settings.prior
    assert found.why.startswith(f"Cycle weight {best['cycle_weight']:g} with prior {best['prior']} has the highest")
    for weight, prior in settings:
        kept = np.load(tmp_path / f"{prior}_cycle{weight}_kl1_seed0" / "embedding.npy")
        np.testing.assert_array_equal(kept, alone(cells, cycle_weight=weight, prior=prior, max_epochs=2))


def alone(cells, **settings):
    """The embedding that integrate gives for a copy of the cells, in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        adata = cells.copy()
        sysvi.integrate(adata, "system", "batch", members=1, progress=False, device="cpu", **settings)
    finally:
        torch.set_num_threads(threads)
    return adata.obsm["X_sysVI"]


@pytest.mark.slow
def test_the_result_is_the_ensemble_of_what_integrate_gives(cells):
    found = sysvi.tune(cells, "system", "batch", n_latent=4, **GRID)
    chosen = {"cycle_weight": found.cycle_weight, "max_epochs": 2, "n_latent": 4}
    runs = [alone(cells, seed=seed, **chosen) for seed in (0, 1)]
    system = cells.obs["system"].to_numpy().astype(str).astype(object)
    combined, codes = combine(runs).apply(runs), np.unique(system, return_inverse=True)[1]
    moved = find_moves(runs, combined, codes, CLOSENESS_OF_TWO).apply(combined, codes)
    np.testing.assert_array_equal(found.embedding, moved.astype(np.float32))
    support = neighbor_support(runs, system)
    pd.testing.assert_frame_equal(cells.obsm["sysvi_support"].reset_index(drop=True), support)
    np.testing.assert_array_equal(cells.obs["sysvi_support"], support.max(axis=1).astype(np.float32))


@pytest.mark.slow
def test_a_single_run_is_the_result_itself(cells):
    """The support of an earlier ensemble is removed."""
    cells.obs["sysvi_support"], cells.obsm["sysvi_support"] = 1.0, np.ones((cells.n_obs, 2))
    found = sysvi.tune(cells, "system", "batch", n_latent=4, **{**GRID, "seeds": [7], "cycle_weights": [5]})
    assert isinstance(found.model, sysvi.SysVI)
    expected = alone(cells, seed=7, cycle_weight=5, max_epochs=2, n_latent=4)
    np.testing.assert_array_equal(found.embedding, expected)
    np.testing.assert_array_equal(cells.obsm["X_sysVI"], expected)
    assert "sysvi_support" not in cells.obs
    assert "sysvi_support" not in cells.obsm


@pytest.mark.slow
def test_a_run_that_failed_is_no_member(cells, monkeypatch):
    train = sysvi.SysVI.train

    @functools.wraps(train)  # the types of its arguments are looked up
    def fails_with_seed_1(self, *args, **kwargs):
        if self.seed == 1:
            raise sysvi.NonFiniteLossError("too large")
        train(self, *args, **kwargs)

    monkeypatch.setattr(sysvi.SysVI, "train", fails_with_seed_1)
    found = sysvi.tune(cells, "system", "batch", **{**GRID, "seeds": 3, "cycle_weights": [5]})
    assert found.runs["status"].tolist() == ["finished", "failed", "finished"]
    assert [member.seed for member in found.model.members] == [0, 2]


def test_cells_without_a_label_are_trained_on_but_not_measured_by_it(cells):
    label = cells.obs["cell_type"].astype(str)
    label[::7] = "unknown"
    cells.obs["partly"] = pd.Categorical(label)
    found = sysvi.tune(cells, "system", "batch", "partly", **{**GRID, "seeds": [3], "cycle_weights": [2]})
    known = (label != "unknown").to_numpy()
    clusters = kmeans(found.embedding[known], label[known].nunique())
    assert found.runs["NMI"][0] == pytest.approx(normalized_mutual_info_score(label[known], clusters))
    assert found.runs["seed"].tolist() == [3]
    assert "nothing was compared" in found.why


@pytest.mark.slow
def test_a_sample_is_measured_and_all_cells_are_trained_on(cells):
    whole = sysvi.tune(cells.copy(), "system", "batch", "cell_type", **GRID)
    part = sysvi.tune(cells, "system", "batch", "cell_type", max_cells=300, **GRID)
    assert (whole.runs["iLISI"] != part.runs["iLISI"]).any() or (whole.runs["NMI"] != part.runs["NMI"]).all()
    assert len(part.embedding) == cells.n_obs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixing", "standardised", "collapsed", "expected"),
    [
        (0.6, 0.5, 2, []),
        (0.02, 0.001, 2, ["stay apart in every setting"]),
        (0.6, 0.1, 2, ["falls from 0.60 to 0.10"]),
        (0.6, 0.5, 4, ["4 of 5 latent dimensions have collapsed"]),
        (0.6, 0.1, 4, ["falls from 0.60 to 0.10", "4 of 5 latent dimensions have collapsed"]),
    ],
)
def test_warnings(prepared, mixing, standardised, collapsed, expected):
    criterion = make_criterion(prepared, list(columns(prepared))[2])
    run = pd.Series({"iLISI": mixing, "iLISI, standardised": standardised, "collapsed dimensions": collapsed})
    found = list(choice_warnings(run, pd.DataFrame([run]), criterion, ideal_embedding(prepared)))
    assert len(found) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, found, strict=True))


def test_a_moved_private_type_is_warned_of_by_name(prepared):
    system, _, label = columns(prepared)
    counts = pd.crosstab(label, system)
    private = counts.index[(counts == 0).any(axis=1)][0]
    shared = counts.index[(counts > 0).all(axis=1)][0]
    z = ideal_embedding(prepared)
    z[label == private] += z[label == shared].mean(0) - z[label == private].mean(0)
    run = pd.Series({"iLISI": 0.6, "iLISI, standardised": 0.6, "collapsed dimensions": 0})
    [warning] = choice_warnings(run, pd.DataFrame([run]), make_criterion(prepared, label), z)
    home = counts.loc[private].idxmax()
    assert warning.startswith(f"{private} ({counts.loc[private].max()} cells in {home}, in it only)")
    assert f"most of them {shared}" in warning
    label[np.flatnonzero((label == shared) & (system != home))[:2]] = private  # two cells called so elsewhere
    [warning] = choice_warnings(run, pd.DataFrame([run]), make_criterion(prepared, label), z)
    assert warning.startswith(f"{private} ({counts.loc[private].max()} cells in {home}, 2 elsewhere)")


def test_a_choice_that_leaves_systems_apart_is_warned_of(prepared):
    """There is another warning for mixing that vanishes, but here there is none that could."""
    criterion = make_criterion(prepared, list(columns(prepared))[2])
    run = pd.Series({"iLISI": 0.003, "iLISI, standardised": 0.001, "collapsed dimensions": 0})
    [warning] = choice_warnings(run, pd.DataFrame({"iLISI": [0.003, 0.3]}), criterion, ideal_embedding(prepared))
    assert "The chosen setting leaves the systems apart" in warning


def test_labels_in_one_system_only_give_no_private_types(prepared):
    system, _, label = columns(prepared)
    label[system == "system2"] = ""
    assert make_criterion(prepared, label).private_groups(ideal_embedding(prepared)).empty


# -- no finished run is lost ------------------------------------------------------------------------------------------


class Stop:
    """Interrupts the training after some events of a kind."""

    def __init__(self, stage, n):
        self.stage, self.n, self.seen = stage, n, []

    def __call__(self, event):
        self.seen.append(event)
        if event.stage == self.stage and sum(e.stage == self.stage for e in self.seen) == self.n:
            raise KeyboardInterrupt


def trained(events):
    return sum(e.stage == "model" and e.values["status"] == "finished" for e in events)


@pytest.mark.slow
def test_an_interrupted_tuning_goes_on(prepared, tmp_path, monkeypatch):
    """All but the first two models wait for the interrupt, which would come too late if they were quick."""
    grid = {**GRID, "output": tmp_path / "runs"}
    grid.pop("progress")
    place = itertools.count()

    def wait(module, cells, settings, on_event, stop, *others):
        place_of_this = next(place)
        deadline = time.monotonic() + 600  # seconds that a busy machine may take
        while place_of_this >= 2 and not stop() and time.monotonic() < deadline:
            time.sleep(0.01)
        return train(module, cells, settings, on_event, stop, *others)

    with monkeypatch.context() as patch:
        patch.setattr("sysvi.api.sysvi.train", wait)
        stopped = Stop("model", 2)
        first = sysvi.tune(prepared.copy(), "system", "batch", progress=stopped, **grid)
    assert first.interrupted
    assert f"{first.n_without_result} of 4 runs have no result" in str(first)
    assert first.n_without_result == 4 - (first.runs["status"] == "finished").sum() > 0
    done = len(list((tmp_path / "runs").glob("*/run.json")))
    assert done == 2
    assert (first.runs["status"] == "finished").sum() == done
    events, resumed, uninterrupted = [], prepared.copy(), prepared.copy()
    second = sysvi.tune(resumed, "system", "batch", progress=events.append, **grid)
    assert trained(events) == 4 - done
    assert not second.interrupted
    assert events[-1].stage == "support"
    whole = sysvi.tune(uninterrupted, "system", "batch", **GRID)
    pd.testing.assert_frame_equal(second.runs, whole.runs)
    np.testing.assert_array_equal(second.embedding, whole.embedding)
    for name in ("center", "matrix"):
        combinations = (getattr(found.model.combination, name) for found in (second, whole))
        np.testing.assert_array_equal(*combinations)
    assert second.model.record() == whole.model.record()
    assert all(member.cells is second.model.members[0].cells for member in second.model.members)
    for part in ("obs", "obsm"):
        tables = (getattr(cells, part)["sysvi_support"] for cells in (resumed, uninterrupted))
        (pd.testing.assert_series_equal if part == "obs" else pd.testing.assert_frame_equal)(*tables)


@pytest.mark.slow
def test_more_weights_and_seeds_reuse_what_is_there(prepared, tmp_path):
    sysvi.tune(prepared.copy(), "system", "batch", output=tmp_path, **GRID)
    events = []
    grid = {**GRID, "cycle_weights": [0, 5, 10], "seeds": [0, 1], "progress": events.append}
    found = sysvi.tune(prepared.copy(), "system", "batch", output=tmp_path, **grid)
    assert trained(events) == 2
    assert len(found.runs) == 6


@pytest.mark.slow
def test_with_other_labels_runs_are_measured_again_but_not_trained_again(prepared, tmp_path):
    sysvi.tune(prepared.copy(), "system", "batch", output=tmp_path, **GRID)
    events = []
    grid = {**GRID, "progress": events.append}
    found = sysvi.tune(prepared.copy(), "system", "batch", "cell_type", output=tmp_path, **grid)
    assert trained(events) == 0
    whole = sysvi.tune(prepared.copy(), "system", "batch", "cell_type", **GRID)
    pd.testing.assert_frame_equal(found.runs, whole.runs)


@pytest.mark.slow
def test_an_incomplete_run_is_made_again(prepared, tmp_path):
    sysvi.tune(prepared.copy(), "system", "batch", output=tmp_path, **GRID)
    (tmp_path / "vamp_cycle5_kl1_seed1" / "run.json").unlink()
    (tmp_path / "vamp_cycle5_kl1_seed1" / "embedding.npy").write_bytes(b"half")
    events = []
    sysvi.tune(prepared.copy(), "system", "batch", output=tmp_path, **{**GRID, "progress": events.append})
    assert trained(events) == 1


@pytest.mark.slow
def test_settings_given_at_their_default_are_not_other_settings(prepared, tmp_path):
    sysvi.tune(prepared.copy(), "system", "batch", output=tmp_path, **GRID)
    events = []
    grid = {**GRID, "progress": events.append, "n_latent": 15, "weight_decay": 1e-6}
    sysvi.tune(prepared.copy(), "system", "batch", output=tmp_path, **grid)
    assert trained(events) == 0


@pytest.mark.slow
def test_other_data_or_settings_are_refused(prepared, tmp_path):
    sysvi.tune(prepared.copy(), "system", "batch", output=tmp_path, **{**GRID, "seeds": 1})
    other = prepared.copy()
    other.X.data[0] += 0.1
    with pytest.raises(InputError, match=r"runs with other data: choose another folder"):
        sysvi.tune(other, "system", "batch", output=tmp_path, **GRID)
    with pytest.raises(InputError, match=r"runs with other settings: choose another folder"):
        sysvi.tune(prepared.copy(), "system", "batch", output=tmp_path, **{**GRID, "max_epochs": 3})
    with pytest.raises(InputError, match=r"runs with other data, columns"):
        sysvi.tune(prepared.copy(), "system", output=tmp_path, **GRID)
    (tmp_path / "runs.json").write_text("{")
    with pytest.raises(InputError, match=r"runs\.json is damaged"):
        sysvi.tune(prepared.copy(), "system", "batch", output=tmp_path, **GRID)


@pytest.mark.slow
def test_data_in_files_are_distinguished(prepared, tmp_path):
    other = prepared.copy()
    other.X.data[0] += 0.1
    opened = []
    for k, adata in enumerate((prepared, other)):
        adata.write_h5ad(tmp_path / f"{k}.h5ad")
        opened.append(anndata.read_h5ad(tmp_path / f"{k}.h5ad", backed="r"))
    grid = {**GRID, "seeds": 1, "cycle_weights": [5], "output": tmp_path / "runs"}
    found = sysvi.tune(opened[0], "system", "batch", **grid)
    np.testing.assert_array_equal(found.embedding, sysvi.tune(prepared.copy(), "system", "batch", **grid).embedding)
    with pytest.raises(InputError, match=r"runs with other data: choose another folder"):
        sysvi.tune(opened[1], "system", "batch", **grid)


@pytest.mark.slow
def test_long_settings_are_distinguished(prepared, tmp_path):
    index = np.random.default_rng(0).integers(0, prepared.n_obs, 1001)
    grid = {**GRID, "seeds": 1, "cycle_weights": [5], "max_epochs": 1, "output": tmp_path, "n_prior_components": 1001}
    sysvi.tune(prepared.copy(), "system", "batch", pseudoinputs_data_indices=index, **grid)
    other = index.copy()
    other[500] += 1 if other[500] == 0 else -1
    with pytest.raises(InputError, match=r"runs with other settings"):
        sysvi.tune(prepared.copy(), "system", "batch", pseudoinputs_data_indices=other, **grid)


@pytest.mark.slow
def test_weights_that_nearly_agree_are_two_settings(prepared, tmp_path):
    grid = {**GRID, "seeds": 1, "max_epochs": 1, "output": tmp_path, "cycle_weights": [1 / 3, 0.333333]}
    found = sysvi.tune(prepared.copy(), "system", "batch", **grid)
    assert found.runs["cycle_weight"].tolist() == [1 / 3, 0.333333]


@pytest.mark.slow
def test_a_folder_without_finished_runs_can_be_used_with_other_settings(prepared, tmp_path):
    grid = {**GRID, "seeds": 1, "cycle_weights": [5], "output": tmp_path}
    with pytest.raises(InputError, match="pseudoinputs"):
        sysvi.tune(prepared.copy(), "system", "batch", pseudoinputs="noise", **grid)
    sysvi.tune(prepared.copy(), "system", "batch", **grid)
    with pytest.raises(InputError, match=r"runs with other settings"):
        sysvi.tune(prepared.copy(), "system", "batch", **{**grid, "max_epochs": 1})


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        *("no record", "cut record", "other record", "no embedding", "empty embedding", "no model", "empty model"),
        *("metric", "permuted rows", "flipped bit", "model of another run", "another run"),
    ],
)
def test_a_damaged_run_is_made_again(prepared, tmp_path, damage):
    grid = {**GRID, "seeds": 1, "output": tmp_path}
    whole = sysvi.tune(prepared.copy(), "system", "batch", **grid)
    run, other = tmp_path / "vamp_cycle5_kl1_seed0", tmp_path / "vamp_cycle0_kl1_seed0"
    if damage == "metric":
        record = (run / "run.json").read_text()
        (run / "run.json").write_text(record.replace('"NMI": 0.', '"NMI": 1.'))
        assert record != (run / "run.json").read_text()
    elif damage == "permuted rows":
        np.save(run / "embedding.npy", np.load(run / "embedding.npy")[::-1])
    elif damage == "flipped bit":
        content = bytearray((run / "model.safetensors").read_bytes())
        content[-100] ^= 1
        (run / "model.safetensors").write_bytes(content)
    elif damage == "model of another run":
        (run / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    elif damage == "another run":
        shutil.rmtree(run)
        shutil.copytree(other, run)
    elif damage in ("cut record", "other record"):
        (run / "run.json").write_text({"cut record": "{", "other record": "{}"}[damage])
    elif damage.startswith("empty"):
        (run / {"empty embedding": "embedding.npy", "empty model": "model.safetensors"}[damage]).write_bytes(b"")
    else:
        names = {"no record": "run.json", "no embedding": "embedding.npy", "no model": "model.safetensors"}
        (run / names[damage]).unlink()
    events = []
    repeated = sysvi.tune(prepared.copy(), "system", "batch", **{**grid, "progress": events.append})
    assert trained(events) == 1
    pd.testing.assert_frame_equal(whole.runs, repeated.runs)


@pytest.mark.slow
def test_runs_of_other_data_are_made_again_if_their_description_was_removed(prepared, tmp_path):
    grid = {**GRID, "seeds": 1, "output": tmp_path}
    sysvi.tune(prepared.copy(), "system", "batch", **grid)
    description = (tmp_path / "runs.json").read_text()
    (tmp_path / "runs.json").write_text(description.replace('"system"', '"sysTem"'))
    with pytest.raises(InputError, match=r"runs\.json is damaged: remove it"):
        sysvi.tune(prepared.copy(), "system", "batch", **grid)
    (tmp_path / "runs.json").unlink()
    events = []
    sysvi.tune(prepared[::2].copy(), "system", "batch", **{**grid, "progress": events.append})
    assert trained(events) == len(GRID["cycle_weights"])


@pytest.mark.slow
def test_a_reused_run_keeps_its_status(prepared, tmp_path):
    early = {"early_stopping": True, "train_size": 0.9, "patience": 1, "lr": 0.05, "max_epochs": 100}
    grid = {**GRID, **early, "seeds": 1, "cycle_weights": [0], "output": tmp_path}
    first = sysvi.tune(prepared.copy(), "system", "batch", **grid)
    assert first.runs["status"].tolist() == ["stopped_early"]
    pd.testing.assert_frame_equal(first.runs, sysvi.tune(prepared.copy(), "system", "batch", **grid).runs)


@pytest.mark.slow
def test_states_given_as_labels_are_labels(cells, tmp_path):
    """Also in a folder in which the same states were found without labels."""
    grid = {**GRID, "output": tmp_path}
    sysvi.tune(cells, "system", "batch", **grid)
    cells.obs["state"] = sysvi.metrics.find_states(cells.X, cells.obs["system"]).state
    assert "iLISI" in sysvi.tune(cells, "system", "batch", "state", **grid).runs


def test_one_labelled_cell_is_too_few(cells):
    cells.obs["type"] = np.where(np.arange(cells.n_obs) == 3, "beta", "unknown")
    with pytest.raises(InputError, match=r"adata.obs\['type'\] \(label_key\) labels only one cell"):
        sysvi.tune(cells, "system", "batch", "type", **GRID)


@pytest.mark.parametrize("label_key", [None, "cell_type"])
def test_values_that_are_not_finite_are_named(cells, label_key):
    cells.X.data[0] = np.nan
    with pytest.raises(InputError, match=f"{cells.var_names[cells.X.indices[0]]}.*{cells.obs_names[0]}"):
        sysvi.tune(cells, "system", "batch", label_key, **GRID)


def test_a_label_column_that_is_not_there_is_named(cells, tmp_path):
    with pytest.raises(InputError, match="pseudoinputs_label_key='nope' is not a column"):
        sysvi.tune(cells, "system", "batch", output=tmp_path, pseudoinputs_label_key="nope", **GRID)


@pytest.mark.slow
def test_runs_that_fail_do_not_end_the_others(prepared, monkeypatch):
    train = sysvi.SysVI.train

    @functools.wraps(train)
    def fails_at_5(self, *args, cycle_weight, **kwargs):
        if cycle_weight.value == 5:
            raise sysvi.NonFiniteLossError("too large")
        train(self, *args, cycle_weight=cycle_weight, **kwargs)

    monkeypatch.setattr(sysvi.SysVI, "train", fails_at_5)
    found = sysvi.tune(prepared.copy(), "system", "batch", **GRID)
    assert found.runs["status"].tolist() == ["finished", "failed", "finished", "failed"]
    assert found.runs["overall"].notna().tolist() == [True, False, True, False]
    assert found.runs["reason"].tolist() == ["", "too large", "", "too large"]
    assert found.cycle_weight == 0
    with pytest.raises(InputError, match=r"No run ended with an embedding.* 2 failed"):
        sysvi.tune(prepared.copy(), "system", "batch", **{**GRID, "cycle_weights": [5]})


# -- errors, files, the command line ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cycle_weight": 3}, r"give a list, cycle_weights=\[3\]"),
        ({"seed": 3}, r"give a list, seeds=\[3\]"),
        ({"prior": "gmm"}, r"give a list, priors=\['gmm'\]"),
        ({"priors": ["normal"]}, "prior is 'normal'"),
        ({"cycle_weights": []}, "at least one"),
        ({"cycle_weights": [sysvi.Ramp(5.0, 0.2, 0.4)]}, "must be numbers"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "none twice"),
        ({"key_added": "a/b"}, "slash"),
        ({"key_added": "sysvi_support"}, "under which the support is stored"),
        ({"members": 2}, "tune has no setting members"),
        ({"wrong": 1}, "tune has no setting wrong"),
        ({"label_key": "nothing"}, "label_key='nothing' is not a column"),
        ({"max_cells": 1}, "max_cells"),
    ],
)
def test_settings_that_cannot_be_used(cells, given, message):
    with pytest.raises(InputError, match=message):
        sysvi.tune(cells, "system", "batch", **{**GRID, **given})


def test_without_states_in_common_labels_are_asked_for():
    rng = np.random.default_rng(0)
    x = np.zeros((80, 30), np.float32)
    x[:40, :15] = rng.gamma(1, size=(40, 15))
    x[40:, 15:] = rng.gamma(1, size=(40, 15))
    system = np.array(["a"] * 40 + ["b"] * 40, dtype=object)
    with pytest.raises(InputError, match="give label_key"):
        Criterion.from_cells(x, np.arange(80), system, None, None, min_cells=20)


@pytest.mark.slow
def test_the_command_line(prepared, tmp_path):
    source, out = tmp_path / "cells.h5ad", tmp_path / "out"
    prepared.write_h5ad(source)
    command = ["tune", source, "--system", "system", "--batch", "batch", "-o", out, "--cycle-weight", 0]
    command += ["--cycle-weight", 5, "--seeds", 2, "--epochs", 2, "--min-cells", 20, "--device", "cpu"]
    command += ["--report", tmp_path / "tuning.html"]
    result = CliRunner().invoke(main, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    assert "has the highest score" in result.output
    assert re.search(
        r"\nDone in .*\. Compared 4 runs and chose cycle weight [05], KL weight 1, prior vamp\.", result.stderr
    )
    assert f"    sysvi report {out / 'integrated.h5ad'} -o {out / 'integrated.html'}\n" in result.stderr
    page = (tmp_path / "tuning.html").read_text(encoding="utf-8")
    assert "Chosen: Cycle weight" in page
    again = CliRunner().invoke(main, ["report", str(out), "-o", str(tmp_path / "again.html")])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page
    runs = pd.read_csv(out / "runs.csv")
    assert runs[["cycle_weight", "seed"]].values.tolist() == [[0, 0], [5, 0], [0, 1], [5, 1]]
    choice = json.loads((out / "tuning.json").read_text())
    [chosen] = runs.index[runs["representative"]]
    assert choice["cycle_weight"] == runs["cycle_weight"][chosen]
    written = anndata.read_h5ad(out / "integrated.h5ad")
    model = sysvi.load(out / "model", prepared.copy())
    assert [member.seed for member in model.members] == [0, 1]
    np.testing.assert_allclose(written.obsm["X_sysVI"], model.get_latent_representation(), atol=1e-6)
    assert written.obs["sysvi_support"].between(0, 1).all()
    assert list(written.obsm["sysvi_support"]) == ["system1", "system2"]
    assert "Counterparts on which the members agree" in result.stderr
    assert (out / "tuning.png").stat().st_size > 10_000
    assert choice["prior"] == "vamp"
    repeated = CliRunner().invoke(main, [str(part) for part in command])
    assert "4 of 4 runs are there already" in repeated.output
    priors = ["--prior", "vamp", "--prior", "standard_normal"]
    repeated = CliRunner().invoke(main, [str(part) for part in [*command, *priors]])
    assert "4 of 8 runs are there already" in repeated.output
    assert set(pd.read_csv(out / "runs.csv")["prior"]) == {"vamp", "standard_normal"}
    bad = CliRunner().invoke(main, [str(part) for part in [*command, "--label", "nothing"]])
    assert bad.exit_code == 1
    assert "no column 'nothing'" in bad.output


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_the_figure_shows_every_setting(cells, tmp_path, kind):
    found = sysvi.tune(cells, "system", "batch", kl_weights=[1, 3], priors=["vamp", "gmm"], **GRID)
    sysvi.plot_tuning(found, tmp_path / f"tuning.{kind}")
    assert (tmp_path / f"tuning.{kind}").stat().st_size > 5_000
    assert [p.name for p in sysvi.write_tuning(found, tmp_path / "out", kind)] == [
        "runs.csv",
        "settings.csv",
        "tuning.json",
        f"tuning.{kind}",
        "model",
    ]
