"""How often `sysvi.differential_expression` calls genes of groups that differ by their donors only, and which it finds.

    python benchmarks/differential_expression.py [--seeds 20]

Rows of finished simulations are kept in benchmarks/results/differential_expression.csv, so that an interrupted call
continues; the printed table has means over seeds.

Simulations (`sysvi.datasets.simulate_systems`): two systems with four donors each, three cell types, 1,200 cells, 300
genes. Compared are the cells of one type of one system, two donors with the two others. "unchanged": nothing differs
but the donors, so that each gene that is called is a false one. "planted": 30 genes are doubled in two of the donors.

Methods: "differential_expression" (mode "change"), as it is and "corrected" (`batch_correction`), of an ensemble of two
models; "Wilcoxon" over the cells; "donors", the moderated t-test of `sysvi.compare_systems` on the logarithms of the
mean normalised expression of each donor, two against two.

Columns: hits, genes at a false discovery rate of 0.05; false, hits that were not doubled; auprc, area under the
precision-recall curve of the doubled genes.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from anndata import AnnData
from common import RESULTS
from scipy.stats import false_discovery_control
from sklearn.metrics import average_precision_score

import sysvi
from sysvi.differences.moderated import moderate

TABLE = RESULTS / "differential_expression.csv"
N_PLANTED, MAX_FDR, LABEL = 30, 0.05, "type1"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for seed in range(args.seeds):
        for kind in ("unchanged", "planted"):
            run(kind, seed)
    table = pd.read_csv(TABLE)
    table["realised_fdr"] = table["false"] / table["hits"].clip(lower=1)
    table["found"] = (table["hits"] - table["false"]) / N_PLANTED
    columns = ["hits", "realised_fdr", "found", "auprc"]
    groups = table.groupby(["kind", "method"], sort=False)
    means = groups[columns].mean()
    means.insert(0, "simulations", groups["seed"].nunique())
    print(means.round(3).to_string())


def run(kind: str, seed: int) -> None:
    """Simulate, train, compare and add the rows of one simulation."""
    if TABLE.exists():
        done = pd.read_csv(TABLE)
        if ((done["kind"] == kind) & (done["seed"] == seed)).any():
            return
    cells = sysvi.datasets.simulate_systems(
        *(1200, 300), n_types=3, n_private=0, n_samples=4, n_markers=20, n_programme_genes=20, seed=seed
    )
    first = (cells.obs["system"] == "system1") & (cells.obs["cell_type"] == LABEL)
    donors = sorted(cells.obs["batch"][cells.obs["system"] == "system1"].unique())
    groups = [(first & cells.obs["batch"].isin(part)).to_numpy() for part in (donors[:2], donors[2:])]
    rng = np.random.default_rng([seed, 27])
    planted = rng.choice(cells.n_vars, N_PLANTED, replace=False) if kind == "planted" else np.empty(0, int)
    x = cells.X.toarray()
    x[np.ix_(groups[0], planted)] *= 2
    cells.X = x
    adata = sysvi.prepare(cells, "system", "batch", n_top_genes=cells.n_vars, min_cells=3)
    truth = adata.var_names.isin(cells.var_names[planted])
    rows = []
    for method, found in methods(adata, groups, seed):
        hits = found["called"].to_numpy()
        row = {"kind": kind, "seed": seed, "method": method, "genes": len(truth), "hits": int(hits.sum())}
        row |= {"false": int((hits & ~truth).sum())}
        row["auprc"] = average_precision_score(truth, found["score"]) if truth.any() else np.nan
        rows.append(row)
    table = pd.DataFrame(rows)
    if TABLE.exists():
        table = pd.concat([pd.read_csv(TABLE), table])
    table.to_csv(TABLE, index=False, float_format="%.4f")
    print(kind, seed, flush=True)


def methods(adata: AnnData, groups: list[np.ndarray], seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Score of each gene, and whether it is called, by each method."""
    model = sysvi.integrate(adata, "system", "batch", members=2, seed=seed, progress=False)
    for name, correct in (("differential_expression", False), ("differential_expression, corrected", True)):
        found = sysvi.differential_expression(
            *(model, adata), idx1=groups[0], idx2=groups[1], batch_correction=correct, all_stats=False, progress=False
        ).loc[adata.var_names]
        yield name, pd.DataFrame({"score": found["proba_de"], "called": found["is_de_fdr_0.05"]})
    yield "Wilcoxon", wilcoxon(adata, groups)
    values = np.expm1(adata.X.astype(float).toarray())
    donor = adata.obs["batch"].to_numpy()
    profiles = [np.stack([values[rows & (donor == d)].mean(axis=0) for d in np.unique(donor[rows])]) for rows in groups]
    first, second = (np.log2(profile + 1) for profile in profiles)
    p = moderate(first, second, np.vstack([first, second]).mean(axis=0)).two_sided_p((-1, 1))
    yield "donors", pd.DataFrame({"score": -np.log10(p), "called": false_discovery_control(p) < MAX_FDR})


def wilcoxon(adata: AnnData, groups: list[np.ndarray]) -> pd.DataFrame:
    """Wilcoxon's test over cells, by scanpy."""
    import scanpy as sc

    chosen = groups[0] | groups[1]
    cells = AnnData(adata.X[chosen], obs=adata.obs.loc[chosen, []], var=adata.var[[]])
    cells.obs["group"] = pd.Categorical(np.where(groups[0][chosen], "first", "second"))
    sc.tl.rank_genes_groups(cells, "group", groups=["first"], reference="second", method="wilcoxon")
    found = sc.get.rank_genes_groups_df(cells, "first").set_index("names").loc[adata.var_names]
    return pd.DataFrame({"score": found["scores"].abs(), "called": found["pvals_adj"] < MAX_FDR})


if __name__ == "__main__":
    main()
