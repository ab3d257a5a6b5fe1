"""A tuning as a figure and as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sysvi._core.figures import save_figure
from sysvi._core.files import write_atomically
from sysvi.tuning.tune import SETTING, Tuning

RUNS, SETTINGS, CHOICE, MODEL = "runs.csv", "settings.csv", "tuning.json", "model"


def plot_tuning(tuning: Tuning, path: str | Path) -> None:
    """Draw what the settings keep against what they mix, the chosen one marked.

    Parameters
    ----------
    tuning
        What :func:`sysvi.tune` returned.
    path
        Where the picture goes: PNG, PDF or SVG by its name.

    Examples
    --------
    >>> import sysvi, tempfile
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> found = sysvi.tune(adata, "system", "batch", cycle_weights=[0, 5], seeds=2, max_epochs=1, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sysvi.plot_tuning(found, f"{folder}/tuning.png")
    """
    runs, settings = tuning.runs[tuning.runs["overall"].notna()], tuning.settings.reset_index()
    figure = Figure(figsize=(6.4, 5.0), layout="constrained")
    ax = figure.subplots()
    lines = settings.sort_values("cycle_weight").groupby(SETTING[1:])
    single = runs.groupby(SETTING[1:])
    for (line, of_line), color in zip(lines, _colors(lines.ngroups), strict=True):
        kl_weight, prior = line
        points = single.get_group(line)
        ax.scatter(points[tuning.mixing], points["biology"], 14, color=color, alpha=0.4, linewidths=0)
        style = {"color": color, "linewidth": 1.2, "markersize": 6, "label": f"prior {prior}, KL weight {kl_weight:g}"}
        ax.plot(of_line[tuning.mixing], of_line["biology"], "o-", **style)
        for _, row in of_line.iterrows():
            place = (row[tuning.mixing], row["biology"])
            ax.annotate(f"{row['cycle_weight']:g}", place, (5, 5), textcoords="offset points", fontsize=9)
    chosen = settings[settings["chosen"]].iloc[0]
    place = (chosen[tuning.mixing], chosen["biology"])
    ax.plot(*place, "o", markersize=14, markerfacecolor="none", markeredgecolor="black", markeredgewidth=1.6)
    ax.annotate("chosen", place, (11, -13), textcoords="offset points", fontsize=9, weight="bold")
    ax.set(
        xlabel=f"mixing of the systems ({tuning.mixing})",
        ylabel="biology kept (NMI and Moran, scaled over the runs)",
        title="Cycle weights, means over seeds; small dots are runs",
    )
    ax.title.set_fontsize(10)
    ax.grid(color="0.92")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if lines.ngroups > 1:
        ax.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def write_tuning(tuning: Tuning, folder: str | Path, figures: str = "png") -> list[Path]:
    """Write a tuning into a folder, each file whole or not at all.

    Parameters
    ----------
    tuning
        What :func:`sysvi.tune` returned.
    folder
        Made if it is missing; may be the one that the runs are kept in.
    figures
        ``"png"``, ``"pdf"`` or ``"svg"``.

    Returns
    -------
    list of Path
        runs.csv, settings.csv, tuning.json (the choice, why, warnings, how many runs have no result), the figure
        tuning, the folder model.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    document = {**tuning.choice, "mixing": tuning.mixing, "why": tuning.why, "warnings": list(tuning.warnings)}
    document["runs_without_result"] = tuning.n_without_result
    write_atomically(folder / RUNS, lambda path: tuning.runs.to_csv(path, index=False, float_format="%.6g"))
    write_atomically(folder / SETTINGS, lambda path: tuning.settings.to_csv(path, float_format="%.6g"))
    write_atomically(folder / CHOICE, lambda path: path.write_text(json.dumps(document, indent=1) + "\n"))
    plot_tuning(tuning, folder / f"tuning.{figures}")
    tuning.model.save(folder / MODEL, overwrite=True)
    return [folder / name for name in (RUNS, SETTINGS, CHOICE, f"tuning.{figures}", MODEL)]


def _colors(n: int) -> np.ndarray:
    """Distinct colours, (n, 4)."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.15, 0.8, n)) if n > 1 else np.array([[0.0, 0.447, 0.698, 1.0]])
