"""`sysvi.compare_systems` end to end, against formulae written out."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import sysvi
from sysvi import InputError, SysVI
from sysvi.differences.moderated import moderate

pytestmark = pytest.mark.filterwarnings(
    "ignore:System .* has fewer cells",
    "ignore:The integration leaves",
    "ignore:Some cells have no counterpart",
    "ignore:Only .* genes remain",
)

SMALL = {"n_hidden": 16, "n_latent": 4, "max_epochs": 2, "batch_size": 100, "device": "cpu", "progress": False}
LABELS = ["type1", "type2", "type3", "type4"]


def simulated(n_systems=2):
    return sysvi.datasets.simulate_systems(
        600 * n_systems,
        150,
        n_systems=n_systems,
        n_types=4,
        n_private=0,
        n_samples=3,
        n_markers=10,
        n_programme_genes=10,
        interaction=0,
        depth=1000,
        seed=4,
    )


@pytest.fixture(scope="module")
def prepared():
    """Read-only: two systems of three donors, four labels, and 15 genes that are raised in type2 of system2."""
    cells = simulated()
    rows = ((cells.obs["system"] == "system2") & (cells.obs["cell_type"] == "type2")).to_numpy()
    x = cells.X.toarray()
    x[np.ix_(rows, range(15))] *= 4
    cells.X = x
    return sysvi.prepare(cells, "system", "batch", min_cells=3)


@pytest.fixture(scope="module")
def ensemble(prepared):
    """Read-only."""
    return sysvi.integrate(prepared.copy(), "system", "batch", members=2, seed=3, **SMALL)


@pytest.fixture(scope="module")
def table(ensemble, prepared):
    """Read-only."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return sysvi.compare_systems(ensemble, prepared, "cell_type", progress=False)


def compared(model, adata, **arguments):
    return sysvi.compare_systems(model, adata, "cell_type", progress=False, **arguments)


def weights_by_formulae(y, unit, system, usual):
    """Inverse of variances a + b / count, from the residuals of least squares of each gene."""
    n_donors, n_labels, n_genes = y.shape
    d, t = (index.ravel() for index in np.indices((n_donors, n_labels)))
    columns = [d == i for i in range(n_donors)]
    columns += [(system[d] == k) & (t == i) for k in (0, 1) for i in range(n_labels)]
    x = np.stack(columns, axis=1).astype(float)
    flat = y.reshape(-1, n_genes)
    fitted = np.stack([x @ np.linalg.lstsq(x, flat[:, g], rcond=None)[0] for g in range(n_genes)], axis=1)
    residual = (flat - fitted)[:, usual]
    residual -= np.median(residual, axis=1)[:, None]
    left = 1 - np.diag(x @ np.linalg.pinv(x))  # the share of the variance that is left in the residuals
    squares = (residual**2 / left[:, None]).ravel()
    per_count = unit.ravel()[:, None] / 2**fitted
    predictors = np.stack([np.ones(len(squares)), per_count[:, usual].ravel()], axis=1)
    variance = np.ones(len(squares))
    for _ in range(5):
        found = optimize.lsq_linear(predictors / variance[:, None], squares / variance, (0, np.inf), tol=1e-14).x
        variance = predictors @ found
    return 1 / (found[0] + found[1] * per_count).reshape(y.shape)


def contrast_by_formulae(y, system, usual):
    y = y - (y[system == 0].mean(axis=0) + y[system == 1].mean(axis=0)) / 2
    c = y[:, 0] - np.median(y[:, 1:], axis=1)
    return c - np.median(c[:, usual], axis=1)[:, None]


def test_every_number_by_formulae(table, prepared, ensemble):
    """Label type2, from the cells, in float64: all six donors have 10 cells of each label."""
    obs, x = prepared.obs, np.expm1(prepared.X.toarray().astype(float))
    decoded = sysvi.translate(ensemble, prepared, progress=False).layers["sysvi_translated"].astype(float)
    donors = sorted(obs["batch"].unique())
    system = np.array([0 if donor.startswith("system1") else 1 for donor in donors])
    order = ["type2", "type1", "type3", "type4"]
    mean, of_model = np.empty((2, 6, 4, prepared.n_vars))
    unit = np.empty((6, 4))
    for d, donor in enumerate(donors):
        for t, label in enumerate(order):
            rows = ((obs["batch"] == donor) & (obs["cell_type"] == label)).to_numpy()
            assert rows.sum() >= 10
            mean[d, t], of_model[d, t] = x[rows].mean(axis=0), np.expm1(decoded[rows]).mean(axis=0)
            unit[d, t] = np.median([row[row > 0].min() for row in x[rows]]) / rows.sum()
    found = table[table["label"] == "type2"].set_index("gene").loc[list(prepared.var_names)]
    is_tested = found["p"].notna().to_numpy()
    assert 30 < is_tested.sum() < len(is_tested)
    enough = np.stack([mean[system == k, 0].mean(axis=0) / unit[system == k, 0].mean() >= 3 for k in (0, 1)])
    assert is_tested[enough.all(axis=0)].all()

    y = np.log2(mean + np.where(is_tested, unit[:, :, None], np.median(unit)) / 2)
    weights = weights_by_formulae(y, unit, system, is_tested)
    w = 1 / (1 / weights[:, 0] + (1 / weights[:, 1:]).sum(axis=1) / 9)
    c = contrast_by_formulae(y, system, is_tested)
    first, second = (np.average(c[system == k], axis=0, weights=w[system == k]) for k in (0, 1))
    np.testing.assert_allclose(found["effect"], second - first, rtol=1e-3, atol=1e-4)
    c_model = contrast_by_formulae(np.log2(of_model + np.median(unit) / 2), system, is_tested)
    effect = c_model[system == 1].mean(axis=0) - c_model[system == 0].mean(axis=0)
    np.testing.assert_allclose(found["model_effect"], effect, rtol=1e-3, atol=1e-4)
    level = y[:, 0].mean(axis=0)
    groups = [c[system == k][:, is_tested] for k in (0, 1)]
    group_weights = tuple(w[system == k][:, is_tested] for k in (0, 1))
    fit = moderate(*groups, level[is_tested], group_weights)  # tested against limma
    per_weight = sum(1 / group.sum(axis=0) for group in group_weights)
    t = (second - first)[is_tested] / np.sqrt(fit.variance * per_weight)
    p = 2 * stats.t.sf(np.abs(t), fit.df)
    np.testing.assert_allclose(found["p"][is_tested], p, rtol=1e-2)
    ranks = np.argsort(np.argsort(p)) + 1
    fdr = np.array([min(min(1, q * len(p) / r) for q, r in zip(p, ranks, strict=True) if q >= own) for own in p])
    np.testing.assert_allclose(found["fdr"][is_tested], fdr, rtol=1e-2)

    m = y[:, 0] - y[:, 1:].mean(axis=1)
    m -= np.median(m[:, is_tested], axis=1)[:, None]
    means = [np.average(m[system == k], axis=0, weights=w[system == k]) for k in (0, 1)]
    for k in (0, 1):
        np.testing.assert_allclose(found[f"marker_{k + 1}"], means[k], rtol=1e-3, atol=1e-4)
    marked = found["marker_p"].notna().to_numpy()
    np.testing.assert_array_equal(marked, enough.all(axis=0))
    groups = [m[system == k][:, marked] for k in (0, 1)]
    group_weights = tuple(w[system == k][:, marked] for k in (0, 1))
    fit = moderate(*groups, level[marked], group_weights)
    one_sided = [
        stats.t.sf(mean[marked] / np.sqrt(fit.variance / group.sum(axis=0)), fit.df)
        for mean, group in zip(means, group_weights, strict=True)
    ]
    np.testing.assert_allclose(found["marker_p"][marked], np.maximum(*one_sided), rtol=1e-2)


def test_planted_differences_are_found_in_their_label(table, prepared):
    planted = table["gene"].isin(simulated().var_names[:15]) & (table["label"] == "type2")
    hits = table["fdr"] < 0.05
    assert (hits & planted).sum() >= 5
    assert (hits & ~planted).sum() <= 0.2 * hits.sum()
    tested = planted & table["p"].notna()
    assert table.loc[tested, "effect"].mean() == pytest.approx(2, abs=0.5)
    markers = pd.DataFrame(simulated().varm["type_effect"] > 0, index=simulated().var_names, columns=LABELS)
    found = table[table["marker_fdr"] < 0.05]
    assert len(found) >= 10
    true = [markers.loc[gene, label] for gene, label in zip(found["gene"], found["label"], strict=True)]
    assert np.mean(true) > 0.8


def test_shape_and_order(table, prepared, ensemble):
    assert table["label"].unique().tolist() == LABELS
    assert (table.groupby("label")["gene"].nunique() == prepared.n_vars).all()
    assert (table[["n_donors_1", "n_donors_2", "n_other_labels"]] == 3).all(axis=None)
    for _, rows in table.groupby("label"):
        assert rows["p"].dropna().is_monotonic_increasing
    swapped = compared(ensemble, prepared, systems=["system2", "system1"])
    keys = ["label", "gene"]
    a, b = table.sort_values(keys, ignore_index=True), swapped.sort_values(keys, ignore_index=True)
    np.testing.assert_allclose(a["effect"], -b["effect"], atol=1e-9)
    np.testing.assert_allclose(a["p"], b["p"], rtol=1e-9)
    np.testing.assert_allclose(a["marker_1"], b["marker_2"], atol=1e-9)


def test_counts_other_order_and_batches(table, prepared, ensemble):
    """Counts are normalised as those of the model, rows in any order; libraries of a donor are one replicate."""
    counts = prepared.copy()
    counts.X = counts.layers["counts"]
    again = compared(ensemble, counts[::-1, ::-1].copy())
    keys = ["label", "gene"]
    numbers = [
        frame.sort_values(keys).set_index(keys).drop(columns=["system_1", "system_2"]) for frame in (again, table)
    ]
    pd.testing.assert_frame_equal(*numbers, rtol=1e-3, atol=1e-3)
    renamed = prepared.copy()
    renamed.obs["donor"] = renamed.obs["batch"].astype(str).str.replace("sample3", "sample2")
    found = compared(ensemble, renamed, batch_key="donor")
    assert (found[["n_donors_1", "n_donors_2"]] == 2).all(axis=None)


def test_labels_that_cannot_be_compared_are_named(ensemble, prepared):
    cells = prepared.copy()
    label = cells.obs["cell_type"].astype(str).to_numpy(dtype=object)
    first = (cells.obs["system"] == "system1").to_numpy()
    label[first & (label == "type4")] = "private"
    few = np.flatnonzero(~first & (label == "type3"))[3:]
    label[few] = "type2"
    cells.obs["cell_type"] = label
    with pytest.warns(UserWarning, match="left out") as caught:
        found = compared(ensemble, cells)
    messages = [str(warning.message) for warning in caught]
    assert messages[0] == "Labels in one system only are left out: private (system1), type4 (system2)."
    assert messages[1].startswith("Labels are left out, since no donors of both systems have 10 cells")
    assert "type3. Lower min_cells" in messages[1]
    assert len(messages) == 2
    assert found["label"].unique().tolist() == ["type1", "type2"]


def test_too_few_donors_give_effects_without_p_values(ensemble, prepared, table, tmp_path):
    cells = prepared[~prepared.obs["batch"].isin(["system1_sample2", "system1_sample3"])].copy()
    with pytest.warns(UserWarning, match=r"no p-values, .* type1 \(1 of system1, 3 of system2\), type2 \(1"):
        found = compared(ensemble, cells)
    assert found[["p", "fdr", "marker_p", "marker_fdr"]].isna().all(axis=None)
    assert np.isfinite(found[["effect", "model_effect", "marker_1", "marker_2"]]).all(axis=None)
    keys = ["label", "gene"]
    both = found.merge(table, on=keys)
    assert np.corrcoef(both["effect_x"], both["effect_y"])[0, 1] > 0.5
    with pytest.raises(InputError, match="no p-values to draw: at least two donors"):
        sysvi.plot_volcano(found, tmp_path / "a.png")


def test_each_pair_of_three_systems():
    cells = sysvi.prepare(simulated(3), "system", "batch", min_cells=3)
    model = sysvi.integrate(cells, "system", "batch", members=1, **SMALL)
    found = compared(model, cells)
    pairs = [("system1", "system2"), ("system1", "system3"), ("system2", "system3")]
    assert list(found[["system_1", "system_2"]].drop_duplicates().itertuples(index=False, name=None)) == pairs
    one = compared(model, cells, systems=["system1", "system3"])
    of_pair = found[(found["system_1"] == "system1") & (found["system_2"] == "system3")]
    pd.testing.assert_frame_equal(one, of_pair.reset_index(drop=True))
    with pytest.raises(InputError, match=r"compares 3 pairs of systems .*choose the rows of one pair"):
        sysvi.plot_volcano(found, "a.png")


@pytest.mark.filterwarnings("ignore:Labels are left out")
def test_what_cannot_be_compared_is_refused(ensemble, prepared):
    refused = [
        ({"systems": ["system1", "rat"]}, r"systems names rat, but the model knows the systems system1, system2\."),
        ({"systems": ["system1"]}, "name two or more different systems of system1, system2"),
        ({"systems": ["system1", "system1"]}, "name two or more different systems"),
        ({"systems": "system1"}, "systems is the string 'system1'; it must be a list"),
        ({"min_cells": 0}, "min_cells is 0"),
        ({"min_cells": 10_000}, "Nothing can be compared: .* at least 10000 cells of the same two labels"),
        ({"batch_key": "donor"}, "batch_key='donor' is not a column"),
        ({"layer": "scaled"}, "no layer 'scaled'"),
    ]
    for arguments, words in refused:
        with pytest.raises(InputError, match=words):
            compared(ensemble, prepared, **arguments)
    with pytest.raises(InputError, match="'type' is not a column"):
        sysvi.compare_systems(ensemble, prepared, "type")
    one = prepared.copy()
    one.obs["cell_type"] = "beta"
    with pytest.raises(InputError, match="Nothing can be compared"):
        compared(ensemble, one)
    new = prepared.copy()
    new.obs["batch"] = "other"
    with pytest.raises(InputError, match=r"the model does not know .*sysvi\.extend_model first, and use the model"):
        compared(ensemble, new)
    model = sysvi.integrate(prepared.copy(), "system", members=1, **SMALL)
    with pytest.raises(InputError, match=r"no replicates: name the column of adata\.obs with the donors \(batch_key\)"):
        compared(model, prepared)
    assert len(compared(model, prepared, batch_key="batch"))
    copy = prepared.copy()
    SysVI.setup_anndata(copy, "system")
    with pytest.raises(InputError, match="train"):
        compared(SysVI(copy), prepared)


def test_figures(table, tmp_path):
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        sysvi.plot_volcano(table, tmp_path / f"volcano{suffix}")
        sysvi.plot_specific_genes(table, tmp_path / f"genes{suffix}", n_genes=3)
        for name in ("volcano", "genes"):
            assert (tmp_path / f"{name}{suffix}").read_bytes().startswith(start)
    with pytest.raises(InputError, match="No gene has a false discovery rate of at most 0"):
        sysvi.plot_specific_genes(table, tmp_path / "a.png", max_fdr=0)
    with pytest.raises(InputError, match=r"no column 'effect': give a table of sysvi\.compare_systems"):
        sysvi.plot_volcano(table.drop(columns="effect"), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_all_words_of_a_volcano_plot_of_one_label_are_on_the_page(table, monkeypatch):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawn = []
    monkeypatch.setattr("sysvi.differences.plots.save_figure", lambda figure, path: drawn.append(figure))
    sysvi.plot_volcano(table[table["label"] == "type2"], "volcano.png")
    canvas = FigureCanvasAgg(drawn[0])
    canvas.draw()
    for artist in (*drawn[0].legends, *drawn[0].texts, drawn[0]._supxlabel):
        box = artist.get_window_extent(canvas.get_renderer())
        assert 0 <= box.x0 < box.x1 <= drawn[0].bbox.width
