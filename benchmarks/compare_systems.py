"""Genes that differ between systems in one label (`sysvi.compare_systems`), on simulations with known differences.

    python benchmarks/compare_systems.py [--scenarios usual,weak,unequal,noisy] [--seeds 20] [--planted-seeds 10]
    python benchmarks/compare_systems.py --baron

Rows of finished simulations are kept in benchmarks/results/compare_systems.csv, so that an interrupted call continues;
the printed tables and docs/compare-systems.png have means over seeds.

Simulations: two systems with donors of their own, six cell types, 1,500 genes, negative binomial counts. On the log of
the mean, every gene has a random effect of each system (standard deviation 1, the same in all types), donor (0.2), and
type in a donor (0.2), and each type has 50 markers. "unchanged" has no difference of a single type. In "planted", 100
genes change up or down in type 0 of the second system, by 0.5 to 1.5.

usual    3 donors of each system, 2,400 cells.
weak     the same, but the change of a cell is a random share of the full one, from 0 to 1.
unequal  6 donors of each system, 6,000 cells, and types of which each is about half as frequent as the one before, in
         an order that differs between systems: profiles of 10 to 250 cells.
noisy    as usual, but donors differ more in type 0: by 0.5 (standard deviation), not by 0.2 as in the other types.

Methods: "pseudobulk", `sysvi.compare_systems`; "limma-voom" and "edgeR", on the sums of each donor, with a linear model
of donors, types, and the difference of the systems in each type (pseudobulk.R; needs R with Bioconductor's packages);
"Wilcoxon", scanpy's test of the systems over the cells of a type; "differential_expression",
`sysvi.differential_expression` of these cells, as they are and "corrected", with `batch_correction`; "decoded", the
test of `sysvi.compare_systems` on expression that the model decodes; "model effect" and "translated effect", genes
ranked by their decoded effect alone (the column `model_effect`, and the change by `sysvi.translate` to the other
system in the label minus the median change of other labels), which have no p-values. A model, an ensemble of two, is
trained in the first `--trained` seeds; in the others, the methods that need none are measured. Methods of which a
simulation has rows are not run again.

Columns: tested, number of genes with a p-value; hits, genes with a false discovery rate below 0.05; false, hits that
were not planted; auprc, area under the precision-recall curve of the planted genes among all genes (untested ones come
last), for type 0; auprc_tested, the same among the genes that "pseudobulk" tests.

With --baron (needs SYSVI_DATA), human and mouse islets of Baron et al. are compared instead, with the default settings
and seed 0: numbers of genes by type, the beta cells' genes in benchmarks/results/compare_systems_baron.csv, and the
figures docs/compare-systems-baron.png and docs/beta-cells.png.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from common import CACHE, HERE, RESULTS
from scipy import sparse
from sklearn.metrics import average_precision_score

import sysvi
from sysvi.differences.label_comparison import compare_label
from sysvi.differences.profiles import choose_others, donor_profiles

if TYPE_CHECKING:
    from anndata import AnnData

TABLE, FIGURE = RESULTS / "compare_systems.csv", HERE.parent / "docs" / "compare-systems.png"
LABELS = [f"type{i}" for i in range(6)]
PLANTED, N_GENES, N_PLANTED, MIN_CELLS, MAX_FDR = LABELS[0], 1500, 100, 10, 0.05
METHODS = {
    "donors": ("pseudobulk",),
    "Bioconductor": ("limma-voom", "edgeR"),
    "cells": ("Wilcoxon",),
    "model": (
        "model effect",
        "differential_expression",
        "differential_expression, corrected",
        "decoded",
        "translated effect",
    ),
}
SCENARIOS = {
    "usual": {},
    "weak": {"graded": True},
    "unequal": {"n_donors": 6, "n_cells": 6000, "imbalance": 0.45},
    "noisy": {"noise": (0.5**2 - 0.2**2) ** 0.5},
}


def main() -> None:
    """Run what is missing, print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--seeds", type=int, default=20, help="Number of simulations without a difference.")
    parser.add_argument("--planted-seeds", type=int, default=10, help="Number of simulations with differences.")
    parser.add_argument("--trained", type=int, default=2, help="Number of each of them with a trained model.")
    parser.add_argument("--baron", action="store_true", help="Compare human and mouse islets instead.")
    args = parser.parse_args()
    if args.baron:
        baron()
        return
    warnings.simplefilter("ignore")
    for scenario in args.scenarios.split(","):
        for kind, n_seeds in (("planted", args.planted_seeds), ("unchanged", args.seeds)):
            if (scenario, kind) == ("weak", "unchanged"):
                continue  # that of "usual"
            for seed in range(n_seeds):
                run(scenario, kind, seed, seed < args.trained)
    table = pd.read_csv(TABLE)
    summary = summarise(table)
    print(summary.round(3).to_string())
    plot(summary)


def run(scenario: str, kind: str, seed: int, trained: bool) -> None:
    """Simulate, train, compare and add the rows of one simulation."""
    done: set[str] = set()
    if TABLE.exists():
        rows_of = pd.read_csv(TABLE)
        is_run = (rows_of["scenario"] == scenario) & (rows_of["kind"] == kind) & (rows_of["seed"] == seed)
        done = set(rows_of["method"][is_run])
    missing = {name: set(methods) - done for name, methods in METHODS.items() if trained or name != "model"}
    if not any(missing.values()):
        return
    settings = SCENARIOS[scenario] | ({"planted": 0} if kind == "unchanged" else {})
    simulated = simulate(seed + 1000 * (kind == "planted"), **settings)
    planted, names = simulated.planted, simulated.genes
    ours = list(pseudobulk(simulated))
    tested = {label: names[np.isfinite(found["fdr"])] for _, label, found in ours}
    found_by = [ours] if missing["donors"] else []
    found_by += [bioconductor(simulated)] if missing["Bioconductor"] else []
    found_by += [over_cells(simulated, tested)] if missing["cells"] else []
    found_by += [of_model(simulated, seed)] if missing.get("model") else []
    rows = []
    for method, label, found in chain.from_iterable(found_by):
        if method in done or label not in tested:
            continue
        truth = planted if label == PLANTED else np.zeros(N_GENES, bool)
        score = found["score"].reindex(names).fillna(0).to_numpy()
        fdr = found["fdr"].reindex(names).to_numpy() if "fdr" in found else np.full(N_GENES, np.nan)
        among = names.isin(tested[label])
        hits = fdr < MAX_FDR
        row = {"scenario": scenario, "kind": kind, "seed": seed, "method": method, "label": label}
        row |= {"tested": int(np.isfinite(fdr).sum()), "hits": int(hits.sum()), "false": int((hits & ~truth).sum())}
        if truth.any():
            row["auprc"] = average_precision_score(truth, score)
            row["auprc_tested"] = average_precision_score(truth[among], score[among])
        rows.append(row)
    table = pd.DataFrame(rows)
    if TABLE.exists():
        table = pd.concat([pd.read_csv(TABLE), table])
    table.to_csv(TABLE, index=False, float_format="%.4f")
    print(scenario, kind, seed, flush=True)


def baron() -> None:
    """Compare human and mouse islets."""
    import anndata

    from sysvi.differences.files import format_differences

    cells = anndata.read_h5ad(Path(os.environ["SYSVI_DATA"]) / "baron_pancreas.h5ad")
    adata = sysvi.prepare(cells, "system", "batch")
    folder = CACHE / "compare_systems_baron"
    if not folder.exists():
        sysvi.integrate(adata, "system", "batch", seed=0, progress=False).save(folder)
    table = sysvi.compare_systems(sysvi.load(folder, adata), adata, "cell_type", progress=False)
    print(format_differences(table))
    beta = table[table["label"] == "beta"]
    beta.to_csv(RESULTS / "compare_systems_baron.csv", index=False, float_format="%.4g")
    columns = ["gene", "effect", "model_effect", "fdr", "marker_1", "marker_2", "marker_fdr"]
    known = [
        "MAFB",
        "UCN3",
        "SYTL4",
        "SLC30A8",
        "G6PC2",
        "NKX6-1",
        "PDX1",
        "IAPP",
        "MAFA",
        "GAD2",
        "PRLR",
        "GHR",
        "CNTFR",
    ]
    named = beta[beta["gene"].isin(known)]  # docs/beta-cells.md
    for rows in (beta.head(12), beta.sort_values("marker_p").head(12), named):
        print(rows[columns].round(3).to_string(index=False))
    sysvi.plot_volcano(table, HERE.parent / "docs" / "compare-systems-baron.png")
    sysvi.plot_volcano(beta, HERE.parent / "docs" / "beta-cells.png")


class Simulated(NamedTuple):
    """Counts (CSR, cells x genes), code of system, donor and type of each cell, and the genes that were changed."""

    counts: sparse.csr_matrix
    system: np.ndarray
    donor: np.ndarray
    label: np.ndarray
    planted: np.ndarray
    genes: pd.Index


def simulate(
    seed: int,
    *,
    n_cells: int = 2400,
    n_donors: int = 3,
    planted: int = N_PLANTED,
    graded: bool = False,
    imbalance: float = 0.25,
    noise: float = 0.0,
) -> Simulated:
    """Counts of two systems.

    `graded` gives each cell a random share of the planted change; `noise` is a further effect of each donor in type 0,
    from a generator of its own, so that the rest of a simulation is the same without.
    """
    rng = np.random.default_rng([27, seed])
    n_types, n_batches = len(LABELS), 2 * n_donors
    baseline = 1.5 * rng.standard_normal(N_GENES)
    markers = np.zeros((n_types, N_GENES))
    for row in markers:
        row[rng.choice(N_GENES, 50, replace=False)] = 1.5 * rng.uniform(0.5, 1.5, 50)
    system_effect = rng.standard_normal((2, N_GENES))
    donor_effect = 0.2 * rng.standard_normal((n_batches, 1, N_GENES))
    donor_effect = donor_effect + 0.2 * rng.standard_normal((n_batches, n_types, N_GENES))
    if noise:
        donor_effect[:, 0] += noise * np.random.default_rng([28, seed]).standard_normal(donor_effect.shape)[:, 0]
    change, genes = np.zeros(N_GENES), rng.choice(N_GENES, planted, replace=False)
    change[genes] = rng.uniform(0.5, 1.5, planted) * rng.choice([-1, 1], planted)
    system = np.repeat([0, 1], n_cells // 2)
    batch = system * n_donors + rng.integers(0, n_donors, n_cells)
    share = np.stack([(1 - imbalance) ** rng.permutation(n_types) for _ in range(2)])
    label = np.concatenate([rng.choice(n_types, n_cells // 2, p=row / row.sum()) for row in share])
    amount = np.where((system == 1) & (label == 0), rng.random(n_cells) if graded else 1.0, 0.0)
    depth = np.array([800, 1600])[system] * np.exp(0.3 * rng.standard_normal(n_cells))
    blocks = []
    for start in range(0, n_cells, 400):
        rows = slice(start, start + 400)
        log_mean = baseline + markers[label[rows]] + system_effect[system[rows]]
        log_mean = log_mean + donor_effect[batch[rows], label[rows]] + amount[rows, None] * change
        mean = np.exp(log_mean)
        mean *= (depth[rows] / mean.sum(axis=1))[:, None]
        blocks.append(sparse.csr_matrix(rng.poisson(rng.gamma(5, mean / 5)), dtype=np.float32))
    genes = pd.Index([f"gene{i}" for i in range(N_GENES)])
    return Simulated(sparse.vstack(blocks, format="csr"), system, batch, label, change != 0, genes)


def of_model(simulated: Simulated, seed: int) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Score and, where there is a test, false discovery rate of each gene, by methods that need a model."""
    import anndata

    obs = pd.DataFrame(
        {
            "system": np.array(["first", "second"])[simulated.system],
            "batch": [f"donor{i}" for i in simulated.donor],
            "cell_type": np.array(LABELS)[simulated.label],
        },
        index=[f"cell{i}" for i in range(len(simulated.system))],
    )
    cells = anndata.AnnData(simulated.counts, obs=obs, var=pd.DataFrame(index=simulated.genes))
    adata = sysvi.prepare(cells, "system", "batch", n_top_genes=N_GENES, min_cells=3)
    model = sysvi.integrate(adata, "system", "batch", members=2, seed=seed, progress=False)
    table = sysvi.compare_systems(model, adata, "cell_type", min_cells=MIN_CELLS, progress=False)
    compared = sorted(table["label"].unique())
    for label in compared:
        rows = table[table["label"] == label].set_index("gene")
        yield "model effect", label, pd.DataFrame({"score": rows["model_effect"].abs()})
    yield from of_posterior(model, adata, compared)
    decoded = sysvi.translate(model, adata, progress=False).layers["sysvi_translated"]
    system = (adata.obs["system"] == "second").to_numpy()
    cell_type = adata.obs["cell_type"].to_numpy().astype(str)
    yield from decoded_tests(adata, decoded, system, cell_type, compared)
    yield from translated_effects(model, adata, decoded, system, cell_type, compared)


def of_posterior(model: sysvi.Ensemble, adata: AnnData, compared: list[str]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """`sysvi.differential_expression` of the cells of a label between the systems, without and with correction."""
    system, cell_type = (adata.obs[key].to_numpy().astype(str) for key in ("system", "cell_type"))
    for method, correct in (("differential_expression", False), ("differential_expression, corrected", True)):
        for label in compared:
            groups = [(system == name) & (cell_type == label) for name in ("second", "first")]
            found = sysvi.differential_expression(
                *(model, adata),
                idx1=groups[0],
                idx2=groups[1],
                batch_correction=correct,
                fdr_target=MAX_FDR,
                all_stats=False,
                progress=False,
            )
            called = np.where(found["is_de_fdr_0.05"], 0.0, 1.0)
            yield method, label, pd.DataFrame({"score": found["proba_de"], "fdr": called}, index=found.index)


def bioconductor(simulated: Simulated) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """limma-voom and edgeR on the sums of each donor (pseudobulk.R), of profiles with enough cells."""
    n_types = len(LABELS)
    profile = simulated.donor * n_types + simulated.label
    kept = np.flatnonzero(np.bincount(profile) >= MIN_CELLS)
    members = sparse.csr_matrix((np.ones(len(profile)), (profile, np.arange(len(profile)))))
    sums = (members @ simulated.counts).toarray()[kept].astype(int)
    system = np.zeros(simulated.donor.max() + 1, int)
    system[simulated.donor] = simulated.system
    donor, label = kept // n_types, kept % n_types
    columns = {"donor": donor, "system": system[donor], "label": np.array(LABELS)[label]}
    with tempfile.TemporaryDirectory() as folder:
        pd.DataFrame(sums.T, simulated.genes, [f"profile{i}" for i in kept]).to_csv(f"{folder}/counts.csv")
        described = pd.DataFrame(columns).astype({"donor": str, "system": str})
        described.assign(donor="d" + described["donor"], system="s" + described["system"]).to_csv(
            f"{folder}/profiles.csv", index=False
        )
        done = subprocess.run(["Rscript", HERE / "pseudobulk.R", folder], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        found = pd.read_csv(f"{folder}/found.csv")
    for (method, name), rows in found.groupby(["method", "label"]):
        rows = rows.set_index("gene")
        yield str(method), str(name), pd.DataFrame({"score": -np.log10(rows["p"]), "fdr": rows["fdr"]})


def over_cells(simulated: Simulated, labels: Iterable[str]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Wilcoxon's test over the cells of each label."""
    import anndata

    x = normalised(simulated)
    for label in labels:
        rows = simulated.label == LABELS.index(label)
        obs = pd.DataFrame({"system": np.array(["first", "second"])[simulated.system[rows]]})
        obs.index = obs.index.astype(str)
        yield "Wilcoxon", label, wilcoxon(anndata.AnnData(x[rows], obs=obs, var=pd.DataFrame(index=simulated.genes)))


def normalised(simulated: Simulated) -> sparse.csr_matrix:
    """Log-normalised expression."""
    x = simulated.counts.astype(float)
    x = sparse.diags(1e4 / np.asarray(x.sum(axis=1)).ravel()) @ x
    return sparse.csr_matrix(x.log1p())


def pseudobulk(simulated: Simulated) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """What `sysvi.compare_systems` computes without its model, which its p-values do not depend on."""
    profiles = donor_profiles(normalised(simulated), simulated.donor, simulated.label)
    system = np.zeros(len(profiles.n_cells), int)
    system[simulated.donor] = simulated.system
    for i, label in enumerate(LABELS):
        donors, others = choose_others(profiles.n_cells >= MIN_CELLS, system, i)
        if len(donors):
            chosen = np.ix_(donors, [i, *others])
            found = compare_label(profiles.mean[chosen], profiles.mean[chosen], profiles.unit[chosen], system[donors])
            rows = pd.DataFrame({"score": -np.log10(found["p"]), "fdr": found["fdr"]}, index=simulated.genes)
            yield "pseudobulk", label, rows


def decoded_tests(
    adata: AnnData, decoded: np.ndarray, system: np.ndarray, cell_type: np.ndarray, compared: list[str]
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The test of `sysvi.compare_systems` on decoded expression."""
    donor, names = pd.factorize(adata.obs["batch"], sort=True)
    of_donor = np.array([system[donor == i][0] for i in range(len(names))]).astype(int)
    label = pd.Categorical(cell_type, LABELS).codes.astype(np.int64)
    measured = donor_profiles(adata.X, donor, label)
    mean = donor_profiles(sparse.csr_matrix(decoded), donor, label).mean
    for name in compared:
        donors, others = choose_others(measured.n_cells >= MIN_CELLS, of_donor, LABELS.index(name))
        chosen = np.ix_(donors, [LABELS.index(name), *others])
        found = compare_label(mean[chosen], mean[chosen], measured.unit[chosen], of_donor[donors])
        rows = pd.DataFrame({"score": -np.log10(found["p"]), "fdr": found["fdr"]}, index=adata.var_names)
        yield "decoded", name, rows


def translated_effects(
    model: sysvi.Ensemble,
    adata: AnnData,
    decoded: np.ndarray,
    system: np.ndarray,
    cell_type: np.ndarray,
    compared: list[str],
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Change of the cells of a label by translation to the other system, minus the median change of other labels."""
    change = np.zeros((len(LABELS), adata.n_vars))
    for rows, target, sign in ((~system, "second", 1), (system, "first", -1)):
        there = sysvi.translate(model, adata[rows].copy(), target, progress=False).layers["sysvi_translated"]
        for i, name in enumerate(LABELS):
            of_label = cell_type[rows] == name
            if of_label.any():
                change[i] += sign * (there[of_label] - decoded[rows][of_label]).mean(axis=0) / 2
    for name in compared:
        i = LABELS.index(name)
        effect = change[i] - np.median(np.delete(change, i, axis=0), axis=0)
        yield "translated effect", name, pd.DataFrame({"score": np.abs(effect)}, index=adata.var_names)


def wilcoxon(adata: AnnData) -> pd.DataFrame:
    """Wilcoxon's test of the systems over cells, by scanpy."""
    import anndata
    import scanpy as sc

    cells = anndata.AnnData(adata.X, obs=adata.obs[["system"]].astype("category"), var=adata.var[[]])
    sc.tl.rank_genes_groups(cells, "system", groups=["second"], reference="first", method="wilcoxon")
    found = sc.get.rank_genes_groups_df(cells, "second").set_index("names")
    return pd.DataFrame({"score": found["scores"].abs(), "fdr": found["pvals_adj"]})


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: false discovery rates, share of planted genes that are found, and areas under the curves."""
    table = table.assign(realised_fdr=table["false"] / table["hits"].clip(lower=1))
    unchanged, planted = table[table["kind"] == "unchanged"], table[table["kind"] == "planted"]
    home = planted[planted["label"] == PLANTED]
    keys = ["scenario", "method"]
    found = pd.DataFrame(
        {
            "unchanged: simulations": unchanged.groupby(keys)["seed"].nunique(),
            "unchanged: realised FDR": unchanged.groupby(keys)["realised_fdr"].mean(),
            "unchanged: hits per label": unchanged.groupby(keys)["hits"].mean(),
            "planted: simulations": home.groupby(keys)["seed"].nunique(),
            "planted: realised FDR": home.groupby(keys)["realised_fdr"].mean(),
            "planted: found": (home["hits"] - home["false"]).div(N_PLANTED).groupby([home[k] for k in keys]).mean(),
            "planted: hits in other labels": planted[planted["label"] != PLANTED].groupby(keys)["hits"].mean(),
            "AUPRC": home.groupby(keys)["auprc"].mean(),
            "AUPRC of tested": home.groupby(keys)["auprc_tested"].mean(),
        }
    )
    without_test = found.index.get_level_values("method").str.endswith("effect")
    found.loc[without_test, [c for c in found if "AUPRC" not in c and "simulations" not in c]] = np.nan
    return found


def plot(summary: pd.DataFrame) -> None:
    """Realised false discovery rate and area under the precision-recall curve, by scenario and method."""
    from matplotlib.figure import Figure

    measured = summary.index.get_level_values("method")
    methods = [method for group in METHODS.values() for method in group if method in measured]
    scenarios = [name for name in SCENARIOS if name in summary.index.get_level_values("scenario")]
    panels = {
        "unchanged: realised FDR": "Realised FDR, no difference",
        "planted: realised FDR": "Realised FDR, planted",
    }
    panels |= {"AUPRC of tested": "AUPRC (tested genes)"}
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for ax, (column, title) in zip(axes, panels.items(), strict=True):
        for k, scenario in enumerate(scenarios):
            values = summary[column].get(scenario)
            y = np.arange(len(methods)) + 0.22 * (k - (len(scenarios) - 1) / 2)
            ax.plot(values.reindex(methods), y, "o", color=f"C{k}", markersize=6, label=scenario)
        if "FDR" in column:
            ax.axvline(MAX_FDR, color="0.6", linewidth=1, linestyle=":")
        ax.set(title=title, xlim=(-0.03, 1.03), ylim=(len(methods) - 0.5, -0.5))
        ax.set_yticks(range(len(methods)), methods)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="0.93")
    axes[0].legend(title="simulation", fontsize=8, frameon=False)
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
