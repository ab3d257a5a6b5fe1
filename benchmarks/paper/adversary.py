"""Finding 2 (Figs. 2c, 4): an adversary mixes unrelated cell types as its weight grows; the cycle loss does not.

    python benchmarks/paper/adversary.py [--sets baron hard]

ADV (standard normal prior, no cycle) with adversarial weights 1, 50, 200, and VAMP+CYC with cycle weights 2, 10, 50, on
Baron, where acinar cells are human only, and on the hard simulation, two seeds, the KL weight rising over the first
tenth of training. "private mixed" is the share of the private types' neighbours from the other system, relative to
full mixing; "types kept" is the mean over cell types of the Jaccard index of the type and the clusters named after it.
Writes results/paper_adversary.csv and figures/adversary.png.
"""

import argparse

import pandas as pd
from runs import AT_ONCE, KL_RAMP, TITLES, DataSet, panels, save_figure, save_table

from sysvi.metrics import jaccard, leiden, name_clusters, nearest_neighbors

SEEDS = (0, 1)
MODELS = {
    "ADV": ("adversarial_weight", (1, 50, 200), {"prior": "standard_normal", "cycle_weight": 0}),
    "VAMP+CYC": ("cycle_weight", (2, 10, 50), AT_ONCE),
}
COLORS = {"ADV": "#d55e00", "VAMP+CYC": "#0072b2"}


def main() -> None:
    """Train the models, measure them, draw the figure and print the conclusion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=["baron", "hard"], default=["baron", "hard"])
    rows = []
    for name in parser.parse_args().sets:
        cells = DataSet(name)
        for model, (setting, weights, others) in MODELS.items():
            for weight in weights:
                settings = {**others, setting: weight, "kl_weight": KL_RAMP}
                measured = cells.measured(SEEDS, {"model": model, "weight": weight}, **settings)
                for row, z in zip(measured, cells.embeddings(SEEDS, **settings), strict=True):
                    row["private mixed"] = cells.private_mixed(z)
                    named = name_clusters(leiden(nearest_neighbors(z), 2.0), cells.label)
                    row["types kept"] = jaccard(cells.label, named).value
                rows += measured
    table = save_table(rows, "adversary")
    plot(table)
    columns = ["iLISI", "private mixed", "types kept", "NMI"]
    for name, subset in table.groupby("data"):
        means = subset.groupby(["model", "weight"])[columns].mean()
        print(name, means.round(2).to_string(), sep="\n")
        adversary, cycle = (grows(means.loc[model]["private mixed"]) for model in MODELS)
        print(f"{TITLES[name]}: {'holds' if adversary and not cycle else 'does not hold'}.\n")


def grows(values: pd.Series) -> bool:
    """Whether a value at a larger weight is clearly above the one at the smallest weight."""
    return values.max() > values.iloc[0] + 0.02


def plot(table: pd.DataFrame) -> None:
    """Draw the mixing of private types, and the types kept, against mixing."""
    names = list(dict.fromkeys(table["data"]))
    figure, axes = panels(names, 2, height=6.4, sharex="col")
    for pair, name in zip(axes.T, names, strict=True):
        for ax, column in zip(pair, ("private mixed", "types kept"), strict=True):
            for model, points in table[table["data"] == name].groupby("model"):
                means = points.groupby("weight")[["iLISI", column]].mean()
                ax.scatter(points["iLISI"], points[column], 14, color=COLORS[model], alpha=0.5, linewidths=0)
                ax.plot(means["iLISI"], means[column], "o-", color=COLORS[model], label=model)
                for weight, place in means.iterrows():
                    ax.annotate(f"{weight:g}", tuple(place), (4, 4), textcoords="offset points", fontsize=8)
            ax.set(ylabel={"private mixed": "private types mixed", "types kept": "types kept (Jaccard)"}[column])
        pair[1].set_xlabel("mixing (iLISI)")
    axes[0, 0].legend(frameon=False, fontsize=9)
    save_figure(figure, "adversary")


if __name__ == "__main__":
    main()
