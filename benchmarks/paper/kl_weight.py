"""Finding 1 (the paper's Fig. 2a): raising the KL weight 'mixes' by collapsing dimensions; standardising undoes it.

    python benchmarks/paper/kl_weight.py

A plain cVAE (standard normal prior, no cycle) with KL weights 0.5 to 10 on Baron and the hard simulation, two seeds,
half the default training. Writes results/paper_kl_weight.csv and figures/kl_weight.png.
"""

import pandas as pd
from runs import TITLES, DataSet, panels, save_figure, save_table, set_log_ticks

WEIGHTS, SEEDS = (0.5, 1, 2, 5, 10), (0, 1)


def main() -> None:
    """Train the models, measure them, draw the figure and print the conclusion."""
    rows = []
    for name in ("baron", "hard"):
        cells = DataSet(name)
        for weight in WEIGHTS:
            model = {"prior": "standard_normal", "cycle_weight": 0, "kl_weight": weight, "length": 0.5}
            rows += cells.measured(SEEDS, {"kl_weight": weight}, **model)
    table = save_table(rows, "kl_weight")
    plot(table)
    for name, subset in table.groupby("data"):
        means = subset.groupby("kl_weight")[["iLISI", "iLISI, standardised", "NMI", "collapsed dimensions"]].mean()
        print(name, means.round(2).to_string(), sep="\n")
        raised = means.loc[2:]
        rises = (raised["iLISI"] > means.loc[1, "iLISI"] + 0.05).any()
        undone = (raised["iLISI, standardised"] < raised["iLISI"] / 2).all()
        print(
            f"{TITLES[name]}: that mixing rises with the KL weight {'holds' if rises else 'does not hold'}; "
            f"that standardising undoes the mixing at 2 and more {'holds' if undone else 'does not hold'}.\n"
        )


def plot(table: pd.DataFrame) -> None:
    """Draw mixing before and after standardising, and the number of collapsed dimensions, against the KL weight."""
    names = list(dict.fromkeys(table["data"]))
    figure, axes = panels(names, 2, height=5.2, sharex=True, height_ratios=(2, 1))
    for (top, bottom), name in zip(axes.T, names, strict=True):
        subset = table[table["data"] == name]
        means = subset.groupby("kl_weight").mean(numeric_only=True)
        for column, label, color in (
            ("iLISI", "as it is", "#0072b2"),
            ("iLISI, standardised", "dimensions standardised", "#d55e00"),
        ):
            top.scatter(subset["kl_weight"], subset[column], 14, color=color, alpha=0.5, linewidths=0)
            top.plot(means.index, means[column], color=color, label=label)
        top.set(ylabel="mixing (iLISI)", ylim=(-0.03, 1))
        bottom.plot(means.index, means["collapsed dimensions"], "o-", color="0.3", markersize=4)
        bottom.set(xlabel="KL weight", ylabel="collapsed\ndimensions", ylim=(-0.5, 15.5))
        set_log_ticks(bottom, WEIGHTS)
    axes[0, 0].legend(frameon=False, fontsize=9)
    save_figure(figure, "kl_weight")


if __name__ == "__main__":
    main()
