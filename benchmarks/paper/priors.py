"""Finding 3 (Figs. 3, S7): VampPrior against Gaussian mixture against standard normal, over numbers of components.

    python benchmarks/paper/priors.py

No cycle, so that mixing is the prior's; 1, 2, 5, 10 and 100 components, trainable and frozen, starting at random cells;
5 components starting at cells of one system, at as many of each, and (the Gaussian mixture) at noise. Baron, two seeds,
half the default training.
The paper's 5,000 components are left out: they are encoded at every step and outnumber the cells of a minibatch
fivefold. Writes results/paper_priors.csv, results/paper_prior_components.csv (who shares each component) and
figures/priors.png.
"""

import pandas as pd
from runs import TITLES, DataSet, draw, mark, panels, save

COUNTS, SEEDS, SET, LENGTH = (1, 2, 5, 10, 100), (0, 1), "baron", 0.5
TITLE = {"vamp": "VampPrior", "gmm": "Gaussian mixture"}
COLORS = {"vamp": "#0072b2", "gmm": "#d55e00"}
STARTS = {
    "cells of human": {"pseudoinputs": "system", "pseudoinputs_system": "human"},
    "as many of each system": {"pseudoinputs": "balanced_system"},
    "noise": {"pseudoinputs": "noise"},
}
MEASURES = ["iLISI", "iLISI, standardised", "NMI", "Moran"]


def main() -> None:
    """Train, measure, draw, conclude."""
    cells = DataSet(SET)
    rows = cells.measured(SEEDS, {"prior": "standard_normal"}, prior="standard_normal", length=LENGTH, cycle_weight=0)
    components = []
    for prior in TITLE:
        for trainable in (True, False):
            for count in COUNTS:
                named = {"prior": prior, "start": "random cells", "trainable": trainable, "components": count}
                settings = {"prior": prior, "n_prior_components": count, "trainable_priors": trainable}
                rows += cells.measured(SEEDS, named, length=LENGTH, cycle_weight=0, **settings)
                for seed, table in zip(
                    SEEDS, cells.components(SEEDS, length=LENGTH, cycle_weight=0, **settings), strict=True
                ):
                    components.append(table.assign(seed=seed, **named))
        for start, settings in STARTS.items():
            if start != "noise" or prior == "gmm":
                named = {"prior": prior, "start": start, "trainable": True, "components": 5}
                rows += cells.measured(SEEDS, named, length=LENGTH, cycle_weight=0, prior=prior, **settings)
    table = save(rows, "priors")
    of_components = save(pd.concat(components), "prior_components")
    plot(table)
    print(
        table.groupby(["prior", "start", "trainable", "components"], dropna=False)[MEASURES].mean().round(2).to_string()
    )
    used = of_components[of_components["n_cells"] > 0]
    used = used[used["trainable"] & (used["components"] > 1)]
    for prior, of_prior in used.groupby("prior"):
        mixing, purity = (
            (of_prior[column] * of_prior["share"]).sum() / of_prior["share"].sum()
            for column in ("system_mixing", "purity")
        )
        print(
            f"{TITLE[prior]}: components' cells are of one type to {purity:.2f} and mixed over species to {mixing:.2f}."
        )
    best = table[table["start"].isin(["random cells"]) & table["trainable"].eq(True)]
    mean = best.groupby("prior")["iLISI"].mean() - table[table["prior"] == "standard_normal"]["iLISI"].mean()
    holds = mean["vamp"] > 0.05 and mean["vamp"] > mean["gmm"]
    print(f"{TITLES[SET]}: the VampPrior mixes more than the others: {'holds' if holds else 'does not hold'}.")


def plot(table: pd.DataFrame) -> None:
    """Mixing and biology against the number of components."""
    figure, axes = panels([SET], 2, height=6.0, sharex=True)
    none = table[table["prior"] == "standard_normal"]
    for ax, column in zip(axes[:, 0], ("iLISI", "NMI"), strict=True):
        for prior, color in COLORS.items():
            for trainable, line in ((True, "-"), (False, "--")):
                points = table[(table["prior"] == prior) & (table["start"] == "random cells")]
                points = points[points["trainable"] == trainable]
                means = points.groupby("components")[column].mean()
                label = f"{TITLE[prior]}, {'trainable' if trainable else 'frozen'}"
                ax.scatter(points["components"], points[column], 14, color=color, alpha=0.5, linewidths=0)
                ax.plot(means.index, means, line, color=color, label=label)
        ax.axhline(none[column].mean(), color="0.3", linestyle=":", label="standard normal")
        ax.set(ylabel={"iLISI": "mixing (iLISI)", "NMI": "types kept (NMI)"}[column])
    axes[1, 0].set_xlabel("components")
    mark(axes[1, 0], COUNTS)
    axes[0, 0].legend(frameon=False, fontsize=8)
    draw(figure, "priors")


if __name__ == "__main__":
    main()
