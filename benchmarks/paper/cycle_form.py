"""Finding 5: the cycle loss on the decoding in the other system, compared with a form that does not use it.

    python benchmarks/paper/cycle_form.py [--sets baron hard]

The paper decodes a cell in another system and encodes the result. scvi-tools (1.4.2, 1.5) encodes the reconstruction in
the cell's *own* system under the label of the other system, so no gradient of the cycle loss passes through the
decoding in the other system. Everything else is the same here: our training, the KL weight rising over the first tenth
of it, cycle weights 2, 10, 50, two seeds, on Baron and the hard simulation. Writes results/paper_cycle_form.csv and
figures/cycle_form.png.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pandas as pd
from runs import AT_ONCE, KL_RAMP, TITLES, DataSet, panels, save_figure, save_table, set_log_ticks

from sysvi._core.parallel import PairExecutor, Task
from sysvi.data.cells import Minibatch
from sysvi.model.networks import TrainingContext
from sysvi.model.objective import Losses, Objective, Weights, normal_like, weighted_mean
from sysvi.training import step as step_module

WEIGHTS, SEEDS = (2, 10, 50), (0, 1)
FORMS = {"decoded in the other system": "#0072b2", "decoded in its own (faulty)": "#d55e00"}


def backpropagate_faulty(
    objective: Objective,
    batch: Minibatch,
    weights: Weights,
    context: TrainingContext,
    run_pair: PairExecutor,
    prefetch: Task,
) -> Losses:
    """`backpropagate` of the faulty form: the reconstruction in the own system is encoded under the other's label."""
    model = objective.model
    c, c_swapped = model.code(batch.covariates), model.code(batch.swapped_covariates)
    mean, var = model.encoder(batch.x, c, context)
    z = mean + var.sqrt() * normal_like(mean, context)
    h = model.decoder(z, c, context)
    reconstruction = weighted_mean(model.likelihood.nll(batch.x.to_dense(), h), batch.weight)
    mean_cycled = None
    if weights.cycle > 0:
        mean_cycled, _ = model.encoder(model.likelihood.mean(h), c_swapped, context)
    latent = objective.latent_terms(batch, weights.mixture, mean, var, z, mean_cycled)
    losses = objective.losses(weights, reconstruction, *latent)
    losses.total.backward()
    prefetch()
    return losses


@contextmanager
def faulty() -> Iterator[None]:
    """Let the cycle loss encode the reconstruction in the cell's own system under the label of the other system."""
    with patch.object(step_module, "backpropagate", backpropagate_faulty):
        yield


def main() -> None:
    """Train the models, measure them, draw the figure and print the conclusion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=["baron", "hard"], default=["baron", "hard"])
    rows = []
    for name in parser.parse_args().sets:
        cells = DataSet(name)
        for weight in WEIGHTS:
            right, wrong = ({"form": form, "cycle_weight": weight} for form in FORMS)
            settings = {**AT_ONCE, "cycle_weight": weight, "kl_weight": KL_RAMP}
            rows += cells.measured(SEEDS, right, **settings)
            with faulty():
                rows += cells.measured(SEEDS, wrong, variant="faulty", **settings)
    table = save_table(rows, "cycle_form")
    plot(table)
    for name, subset in table.groupby("data"):
        means = subset.groupby(["form", "cycle_weight"])[["iLISI", "NMI", "Moran"]].mean()
        print(name, means.round(2).to_string(), sep="\n")
        right, wrong = (means.loc[form]["iLISI"].mean() for form in FORMS)
        print(f"{TITLES[name]}: mixing over all weights {right:.2f} as in the paper, {wrong:.2f} in the faulty form.\n")


def plot(table: pd.DataFrame) -> None:
    """Draw mixing and biology against the cycle weight."""
    names = list(dict.fromkeys(table["data"]))
    figure, axes = panels(names, 2, height=6.0, sharex=True)
    for pair, name in zip(axes.T, names, strict=True):
        for ax, column in zip(pair, ("iLISI", "NMI"), strict=True):
            for form, color in FORMS.items():
                points = table[(table["data"] == name) & (table["form"] == form)]
                means = points.groupby("cycle_weight")[column].mean()
                ax.scatter(points["cycle_weight"], points[column], 14, color=color, alpha=0.5, linewidths=0)
                ax.plot(means.index, means, color=color, label=form)
            ax.set(ylabel={"iLISI": "mixing (iLISI)", "NMI": "types kept (NMI)"}[column])
        pair[1].set_xlabel("cycle weight")
        set_log_ticks(pair[1], WEIGHTS)
    axes[0, 0].legend(frameon=False, fontsize=9)
    save_figure(figure, "cycle_form")


if __name__ == "__main__":
    main()
