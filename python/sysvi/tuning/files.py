"""Draw a tuning and write it to files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sysvi._core.arguments import check_types
from sysvi._core.files import create_folder, write_atomically
from sysvi._core.tables import write_csv
from sysvi.tuning.results import SETTING
from sysvi.tuning.tune import Tuning

RUNS, SETTINGS, CHOICE, MODEL = "runs.csv", "settings.csv", "tuning.json", "model"


def plot_tuning(tuning: Tuning, path: str | Path) -> None:
    """Draw the biology that each setting preserves against its mixing of the systems; the chosen one is marked.

    Parameters
    ----------
    tuning
        Result of :func:`sysvi.tune`.
    path
        File to write; its name ends in .png, .pdf or .svg.

    Examples
    --------
    >>> import sysvi, tempfile
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> tuning = sysvi.tune(adata, "system", "batch", cycle_weights=[0, 5], seeds=2, max_epochs=1, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sysvi.plot_tuning(tuning, f"{folder}/tuning.png")
    """
    from matplotlib.figure import Figure

    from sysvi._core.figures import save_figure

    check_types(plot_tuning, tuning=tuning, path=path)
    mixing = tuning.mixing
    runs = tuning.runs[tuning.runs["overall"].notna()].groupby(SETTING[1:])
    settings = tuning.settings.reset_index()
    lines = settings.sort_values("cycle_weight").groupby(SETTING[1:])  # a line for each KL weight and prior
    figure = Figure(figsize=(6.4, 5.0), layout="constrained")
    ax = figure.subplots()
    for ((kl_weight, prior), means), color in zip(lines, _line_colors(lines.ngroups), strict=True):
        points = runs.get_group((kl_weight, prior))
        ax.scatter(points[mixing], points["biology"], 14, color=color, alpha=0.4, linewidths=0)
        label = f"prior {prior}, KL weight {kl_weight:g}"
        ax.plot(means[mixing], means["biology"], "o-", color=color, linewidth=1.2, markersize=6, label=label)
        for _, row in means.iterrows():
            position = (row[mixing], row["biology"])
            ax.annotate(f"{row['cycle_weight']:g}", position, (5, 5), textcoords="offset points", fontsize=9)
    chosen = settings[settings["chosen"]].iloc[0]
    position = (chosen[mixing], chosen["biology"])
    ax.plot(*position, "o", markersize=14, markerfacecolor="none", markeredgecolor="black", markeredgewidth=1.6)
    ax.annotate("chosen", position, (11, -13), textcoords="offset points", fontsize=9, weight="bold")
    ax.set(
        xlabel=f"mixing of the systems ({mixing})",
        ylabel="biology preserved (NMI and Moran's I, scaled over the runs)",
        title="Cycle weights: means over seeds; small dots are runs",
    )
    ax.title.set_fontsize(10)
    ax.grid(color="0.92")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if lines.ngroups > 1:
        ax.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def write_tuning(tuning: Tuning, folder: str | Path, figures: str = "png") -> list[Path]:
    """Write a tuning to a folder; no file is ever incomplete.

    Parameters
    ----------
    tuning
        Result of :func:`sysvi.tune`.
    folder
        Folder to write to; it is created if missing, and may be the one in which the runs are kept.
    figures
        Format of the figure: ``"png"``, ``"pdf"`` or ``"svg"``.

    Returns
    -------
    list of Path
        What was written: runs.csv, settings.csv, tuning.json (the choice, its explanation, warnings, number of runs
        without a result), the figure tuning.png, and the folder model.
    """
    check_types(write_tuning, tuning=tuning, folder=folder, figures=figures)
    folder = create_folder(folder)
    document = {**tuning.choice, "mixing": tuning.mixing, "why": tuning.why, "warnings": list(tuning.warnings)}
    document["runs_without_result"] = tuning.n_without_result
    write_atomically(folder / RUNS, lambda path: write_csv(tuning.runs, path, index=False, float_format="%.6g"))
    write_atomically(folder / SETTINGS, lambda path: write_csv(tuning.settings, path, float_format="%.6g"))
    write_atomically(folder / CHOICE, lambda path: path.write_text(json.dumps(document, indent=1) + "\n"))
    plot_tuning(tuning, folder / f"tuning.{figures}")
    tuning.model.save(folder / MODEL, overwrite=True)
    return [folder / name for name in (RUNS, SETTINGS, CHOICE, f"tuning.{figures}", MODEL)]


def _line_colors(n: int) -> np.ndarray:
    """Distinct colours as RGBA, shape (n, 4)."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.15, 0.8, n)) if n > 1 else np.array([[0.0, 0.447, 0.698, 1.0]])
