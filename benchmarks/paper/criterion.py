"""Whether `sysvi.tune` chooses the same setting without labels as with them, after training of full length.

    python benchmarks/paper/criterion.py [--sets hard baron kang held_out]

Uses the models of `defaults.py` with the default prior and a full training, five seeds each (they are trained here if
the cache lacks them). Each gets the paper's score with cell types and the score of `tune` without. Writes
results/paper_criterion.csv and figures/criterion.png. `../criterion.py` does the same for short trainings over a grid
of weights.
"""

import argparse

import numpy as np
import pandas as pd
from defaults import settings_of
from runs import MIN_CELLS, TITLES, DataSet, panels, save_figure, save_table

from sysvi.evaluation.scores import paper_scores
from sysvi.tuning.criterion import Criterion

SEEDS = tuple(range(5))
ALL = ["default", "cycle 20", "KL ramp, prior comes in", "half the epochs"]
SETS = {"hard": ALL, "baron": ALL, "kang": ALL[:3], "held_out": ["default", "KL ramp, prior comes in"]}
COLORS = ["#d55e00", "#0072b2", "#009e73", "#e69f00"]
BOTH = ["with labels", "without labels"]


def main() -> None:
    """Measure the models, draw the figure and print the conclusion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=[*SETS], default=[*SETS])
    names = parser.parse_args().sets
    table = save_table(pd.concat([measure(DataSet(name)) for name in names]), "criterion")
    plot(table, names)
    for name in names:
        subset = table[table["data"] == name]
        means = subset.groupby("variant", sort=False)[[*BOTH, "NMI", "NMI of states"]].mean()
        chosen = ", ".join(f"{kind} chosen: {means[kind].idxmax()}" for kind in BOTH)
        print(f"\n{TITLES[name]}", means.round(2).to_string(), sep="\n")
        nmi_correlation = rank_correlation(subset, ["NMI", "NMI of states"])
        print(
            f"Correlation over runs {rank_correlation(subset):.2f} (NMI {nmi_correlation:.2f}), "
            f"over variants {rank_correlation(means):.2f}; {chosen}."
        )


def measure(cells: DataSet) -> pd.DataFrame:
    """One row for each run: metrics and scores with and without labels."""
    rows, runs = np.arange(cells.adata.n_obs), []
    metrics: dict[str, list[dict]] = {kind: [] for kind in BOTH}
    without = Criterion.from_cells(
        cells.adata.X, rows, cells.system, cells.batch, None, min_cells=MIN_CELLS[cells.name]
    )
    for variant in SETS[cells.name]:
        for seed, z in zip(SEEDS, cells.embeddings(SEEDS, **settings_of(cells, variant)), strict=True):
            runs.append({"data": cells.name, "variant": variant, "seed": seed})
            for kind, criterion in zip(BOTH, (cells.criterion, without), strict=True):
                metrics[kind].append(criterion.measure(z))
    paper = paper_scores(pd.DataFrame(metrics["with labels"]))
    ours = paper_scores(pd.DataFrame(metrics["without labels"]), batch=[without.mixing_metric])
    measures = {"with labels": paper["overall"], **paper[["iLISI", "NMI", "Moran"]], "without labels": ours["overall"]}
    states = {
        without.mixing_metric: ours[without.mixing_metric],
        "NMI of states": ours["NMI"],
        "Moran of states": ours["Moran"],
    }
    return pd.DataFrame(runs).assign(**measures, **states)


def rank_correlation(table: pd.DataFrame, columns: list[str] = BOTH) -> float:
    """Spearman's correlation of two columns."""
    return float(table[columns].corr("spearman").iloc[0, 1])


def plot(table: pd.DataFrame, names: list[str]) -> None:
    """Draw the score without labels against the score with labels, a point for each run."""
    figure, axes = panels(names, 1, height=3.9)
    for ax, name in zip(axes[0], names, strict=True):
        subset = table[table["data"] == name]
        for variant, color in zip(ALL, COLORS, strict=True):
            runs = subset[subset["variant"] == variant]
            ax.scatter(
                runs["with labels"], runs["without labels"], 26, color=color, alpha=0.8, linewidths=0, label=variant
            )
        ax.set_title(f"{TITLES[name]}\nrank correlation {rank_correlation(subset):.2f}", fontsize=10)
        ax.set(xlabel="score with labels", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    axes[0, 0].set_ylabel("score without labels")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, "criterion")


if __name__ == "__main__":
    main()
