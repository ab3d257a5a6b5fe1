"""Sentences for users about the chosen setting: why it was chosen, and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from sysvi.api.separation import SEPARATION_THRESHOLD
from sysvi.evaluation.scores import BIOLOGY_METRICS
from sysvi.tuning.criterion import N_NEIGHBORS, Criterion

# Limits beyond which there is a warning.
LOST_MIXING = 0.5  # mixing with standardised dimensions, relative to mixing
MANY_COLLAPSED = 0.5  # share of collapsed latent dimensions
MOVED = 0.3  # neighbours of a private group from other systems, relative to full mixing


def explain_choice(settings: pd.DataFrame, mixing: str) -> str:
    """Why the first of the settings was chosen, in two sentences.

    Parameters
    ----------
    settings
        Table of settings, best first (`Tuning.settings`).
    mixing
        Name of the metric of mixing.
    """
    best = settings.iloc[0]
    name = _describe_setting(settings.index[0], settings)
    kept = [
        f"{metric} {best[metric]:.2f} ({settings[metric].min():.2f} to {settings[metric].max():.2f})"
        for metric in BIOLOGY_METRICS
        if not np.isnan(best[metric])
    ]
    metrics = (
        f"Its mixing ({mixing}) is {best[mixing]:.2f} in a range of {settings[mixing].min():.2f} to "
        f"{settings[mixing].max():.2f}, and of biology it keeps {' and '.join(kept)}."
    )
    if len(settings) == 1:
        return f"{name} is the only setting with a result, so nothing was compared. {metrics}"
    second = settings.iloc[1]
    spread = np.nanmax([best["overall SD"], second["overall SD"], 0.0])
    runs = "one run" if best["runs"] == 1 else f"the mean of {best['runs']:.0f} runs"
    score = f"{name} has the highest score, {best['overall']:.2f} ({runs})"
    second_name = _describe_setting(settings.index[1], settings)
    score += f"; next comes {second_name[0].lower()}{second_name[1:]} with {second['overall']:.2f}"
    if best["overall"] - second["overall"] <= spread:
        score += ", a difference no larger than that between seeds"
    return f"{score}. {metrics}"


def choice_warnings(
    run: pd.Series, settings: pd.DataFrame, criterion: Criterion, embedding: np.ndarray
) -> Iterator[str]:
    """What speaks against the choice, a sentence or two each.

    Parameters
    ----------
    run
        Metrics of the representative run.
    settings
        Table of settings (`Tuning.settings`).
    criterion
        Criterion by which runs were measured.
    embedding
        Embedding that results from the choice, all cells x latent dimensions.
    """
    metric = criterion.mixing_metric
    mixing, standardised = run[metric], run[f"{metric}, standardised"]
    highest = settings[metric].max()
    if highest < SEPARATION_THRESHOLD:
        yield (
            f"The systems stay apart in every setting ({metric} is {highest:.2f} at most): try longer training "
            "(max_epochs), other seeds, or the prior standard_normal."
        )
    elif mixing < SEPARATION_THRESHOLD:
        yield (
            f"The chosen setting leaves the systems apart ({metric} is {mixing:.2f}), because settings that mix them "
            "preserve less of the biology: look at those too, and try other seeds or the prior standard_normal."
        )
    elif standardised < LOST_MIXING * mixing:
        yield (
            f"The mixing is not real: {metric} falls from {mixing:.2f} to {standardised:.2f} when all latent "
            "dimensions are standardised. The dimensions that separate the systems were only shrunk: lower the KL "
            "weight."
        )
    n_latent = embedding.shape[1]
    if run["collapsed dimensions"] > MANY_COLLAPSED * n_latent:
        yield (
            f"{run['collapsed dimensions']:.0f} of {n_latent} latent dimensions have collapsed, so the embedding shows "
            "fewer differences between cells than the model could: a lower KL weight keeps more dimensions in use."
        )
    private = criterion.private_groups(embedding)
    moved = private[(private["foreign_neighbors"] > MOVED) & (private["n_cells"] > N_NEIGHBORS)]
    for name, group in moved.iterrows():
        elsewhere = f"{group['n_cells_elsewhere']} elsewhere" if group["n_cells_elsewhere"] else "in it only"
        yield (
            f"{name} ({group['n_cells']} cells in {group['system']}, {elsewhere}) lies among cells of other systems: "
            f"its neighbours from other systems, most of them {group['foreign_group']}, are "
            f"{100 * group['foreign_neighbors']:.0f} % of those that full mixing would give. Another cycle weight may "
            "keep it apart."
        )


def _describe_setting(setting: Any, settings: pd.DataFrame) -> str:
    """A setting in words; KL weight and prior are named if the settings differ in them."""
    cycle_weight, kl_weight, prior = setting
    words = {"kl_weight": f"KL weight {kl_weight:g}", "prior": f"prior {prior}"}
    varied = [words[name] for name in words if settings.index.get_level_values(name).nunique() > 1]
    return f"Cycle weight {cycle_weight:g}" + (f" with {' and '.join(varied)}" if varied else "")
