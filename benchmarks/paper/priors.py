"""Finding 3 (Figs. 3, S7): VampPrior, Gaussian mixture and standard normal prior, by number of prior components.

    python benchmarks/paper/priors.py [--largest]

Without a cycle loss, so that the prior alone causes mixing. 1, 2, 5, 10 and 100 components, trainable and frozen, are
initialised at random cells; 5 components also at cells of one system, at equally many cells of each system, and (the
Gaussian mixture) at noise. Baron and the hard simulation, two seeds, half the default length of training. The paper's
largest number of components, 5,000, takes long, as all components are compared with all cells of a minibatch in every
latent dimension; it is run on Baron only, trainable, with one seed. With --largest only these runs are made, and the
other rows are kept. Writes results/paper_priors.csv, results/paper_prior_components.csv (which cells each component
represents) and figures/priors.png.
"""

import argparse
import itertools

import pandas as pd
from runs import AT_ONCE, RESULTS, TITLES, DataSet, panels, save_figure, save_table, set_log_ticks

SETS, COUNTS, SEEDS, LENGTH = ("baron", "hard"), (1, 2, 5, 10, 100), (0, 1), 0.5
MANY = 5_000
TITLE = {"vamp": "VampPrior", "gmm": "Gaussian mixture"}
COLORS = {"vamp": "#0072b2", "gmm": "#d55e00"}
MEASURES = ["iLISI", "iLISI, standardised", "NMI", "Moran"]


def main() -> None:
    """Train the models, measure them, draw the figure and print the conclusion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", action="store_true", help="measure only the largest number of components")
    if parser.parse_args().largest:
        table, component_table = (pd.read_csv(RESULTS / f"paper_{name}.csv") for name in ("priors", "prior_components"))
        others = table[table["components"] != MANY]
        table = save_table(pd.concat([others, pd.DataFrame(measure_largest(DataSet("baron")))]), "priors")
    else:
        rows, components = [], []
        for name in SETS:
            cells = DataSet(name)
            rows += measure(cells) + (measure_largest(cells) if name == "baron" else [])
            components += measure_components(cells)
        table = save_table(rows, "priors")
        component_table = save_table(pd.concat(components), "prior_components")
    plot(table)
    for name in SETS:
        conclude(name, table[table["data"] == name], component_table[component_table["data"] == name])


def measure(cells: DataSet) -> list[dict]:
    """One row for each model."""
    none = {"prior": "standard_normal"}
    rows = cells.measured(SEEDS, none, length=LENGTH, cycle_weight=0, **none)
    for prior, trainable, count in itertools.product(TITLE, (True, False), COUNTS):
        named = {"prior": prior, "start": "random cells", "trainable": trainable, "components": count}
        rows += cells.measured(SEEDS, named, **settings(prior, trainable, count))
    starts = {
        "cells of one system": {"pseudoinputs": "system", "pseudoinputs_system": min(cells.system)},
        "as many of each system": {"pseudoinputs": "balanced_system"},
        "noise": {"pseudoinputs": "noise"},
    }
    for prior, (start, given) in itertools.product(TITLE, starts.items()):
        if start != "noise" or prior == "gmm":
            named = {"prior": prior, "start": start, "trainable": True, "components": 5}
            rows += cells.measured(SEEDS, named, length=LENGTH, cycle_weight=0, prior=prior, **AT_ONCE, **given)
    return rows


def measure_largest(cells: DataSet) -> list[dict]:
    """One row for each prior, with 5,000 components (nearly as many as there are cells)."""
    rows = []
    for prior in TITLE:
        named = {"prior": prior, "start": "random cells", "trainable": True, "components": MANY}
        rows += cells.measured(SEEDS[:1], named, **settings(prior, True, MANY))
    return rows


def measure_components(cells: DataSet) -> list[pd.DataFrame]:
    """One row for each component of the trained priors."""
    tables = []
    for prior, count in itertools.product(TITLE, COUNTS[1:]):
        found = cells.components(SEEDS, **settings(prior, True, count))
        named = {"data": cells.name, "prior": prior, "components": count}
        tables += [table.assign(seed=seed, **named) for seed, table in zip(SEEDS, found, strict=True)]
    return tables


def settings(prior: str, trainable: bool, count: int) -> dict:
    """Settings of a model whose prior components are initialised at random cells."""
    return {
        **AT_ONCE,
        "length": LENGTH,
        "cycle_weight": 0,
        "prior": prior,
        "n_prior_components": count,
        "trainable_priors": trainable,
    }


def conclude(name: str, table: pd.DataFrame, components: pd.DataFrame) -> None:
    """Print means, the purity of components, and for which numbers of components the VampPrior is ahead."""
    groups = table.groupby(["prior", "start", "trainable", "components"], dropna=False)
    print(f"\n{TITLES[name]}", groups[MEASURES].mean().round(2).to_string(), sep="\n")
    for prior, of_prior in components[components["n_cells"] > 0].groupby("prior"):
        share = of_prior["share"]
        mixing, purity = ((of_prior[what] * share).sum() / share.sum() for what in ("system_mixing", "purity"))
        print(
            f"{TITLE[prior]}: the components' cells have a purity of {purity:.2f} in cell types and a mixing of "
            f"systems of {mixing:.2f}."
        )
    none = table[table["prior"] == "standard_normal"]
    trained = table[(table["start"] == "random cells") & (table["trainable"] == True)]  # noqa: E712 (it has NaN)
    for measure in ("iLISI", "NMI"):
        mean = trained.groupby(["components", "prior"])[measure].mean().unstack()
        ahead = mean.index[(mean["vamp"] > mean["gmm"]) & (mean["vamp"] > none[measure].mean())]
        counts = ", ".join(f"{count:.0f}" for count in ahead) or "no number of"
        print(f"{TITLES[name]}: the VampPrior is ahead of both others in {measure} with {counts} components.")


def plot(table: pd.DataFrame) -> None:
    """Draw mixing and biology against the number of components."""
    figure, axes = panels([*SETS], 2, height=6.4, sharex="col")
    for j, name in enumerate(SETS):
        subset = table[table["data"] == name]
        none = subset[subset["prior"] == "standard_normal"]
        for ax, column in zip(axes[:, j], ("iLISI", "NMI"), strict=True):
            for (prior, color), (trainable, line) in itertools.product(COLORS.items(), ((True, "-"), (False, "--"))):
                points = subset[(subset["prior"] == prior) & (subset["start"] == "random cells")]
                points = points[points["trainable"] == trainable]
                means = points.groupby("components")[column].mean()
                label = f"{TITLE[prior]}, {'trainable' if trainable else 'frozen'}"
                ax.scatter(points["components"], points[column], 14, color=color, alpha=0.5, linewidths=0)
                ax.plot(means.index, means, line, color=color, label=label)
            ax.axhline(none[column].mean(), color="0.3", linestyle=":", label="standard normal")
        axes[1, j].set_xlabel("components")
        set_log_ticks(axes[1, j], (*COUNTS, MANY) if name == "baron" else COUNTS)
    axes[0, 0].set_ylabel("mixing (iLISI)")
    axes[1, 0].set_ylabel("types kept (NMI)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, "priors")


if __name__ == "__main__":
    main()
