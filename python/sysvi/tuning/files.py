"""Draw a tuning and write it to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sysvi._core.arguments import check_types
from sysvi._core.files import create_folder, reading_results, write_atomically
from sysvi._core.tables import write_csv
from sysvi.tuning.results import SETTING
from sysvi.tuning.tune import Tuning

RUNS, SETTINGS, CHOICE, MODEL = "runs.csv", "settings.csv", "tuning.json", "model"
DIGITS = "%.6g"  # of numbers in the tables


class TuningTables(NamedTuple):
    """A tuning as its files tell it.

    Parameters
    ----------
    runs, settings
        Tables of runs and of settings, as in :class:`sysvi.tuning.tune.Tuning`, with settings in columns and numbers as
        in the files.
    document
        What `describe_tuning` returns.
    """

    runs: pd.DataFrame
    settings: pd.DataFrame
    document: dict[str, Any]


def describe_tuning(tuning: Tuning) -> dict[str, Any]:
    """What the tables do not tell: choice and why, warnings, arguments, numbers of cells, record of the model."""
    columns = tuning.model.columns
    groups = [name for name in (columns.system, columns.batch) if name is not None]
    assert tuning.model.adata is not None
    cells = tuning.model.adata.obs[groups].astype(str).set_axis(["system", "batch"][: len(groups)], axis=1)
    document = {**tuning.choice, "mixing": tuning.mixing, "why": tuning.why, "warnings": list(tuning.warnings)}
    document |= {"runs_without_result": tuning.n_without_result, "arguments": tuning.arguments}
    document["cells"] = cells.value_counts(sort=False).rename("cells").reset_index().to_dict("records")
    document["record"] = tuning.model.record()
    return json.loads(json.dumps(document, default=lambda number: number.item()))


def tuning_tables(tuning: Tuning) -> TuningTables:
    """A tuning in memory as its files would tell it."""
    return TuningTables(_as_in_files(tuning.runs), _as_in_files(tuning.settings.reset_index()), describe_tuning(tuning))


def read_tuning(folder: str | Path) -> TuningTables:
    """Read the files of a tuning.

    Raises
    ------
    InputError
        If one is missing or damaged, or was written by an earlier version.
    """
    folder = Path(folder)
    with reading_results(folder, "a tuning", "sysvi.tune"):
        runs, settings = (pd.read_csv(folder / name, float_precision="round_trip") for name in (RUNS, SETTINGS))
        document = json.loads((folder / CHOICE).read_text(encoding="utf-8"))
        _ = document["record"], document["arguments"], document["cells"], runs["reason"], settings["overall"]
    return TuningTables(_as_in_files(runs), _as_in_files(settings), document)


def _as_in_files(table: pd.DataFrame) -> pd.DataFrame:
    """A table with numbers as in the files, and "" for missing text."""
    result = table.copy()
    for name in table:
        if pd.api.types.is_float_dtype(table[name]) and name != "reason":
            result[name] = [float(DIGITS % value) for value in table[name]]
    return result.assign(reason=table["reason"].fillna("").astype(str)) if "reason" in table else result


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
        without a result, arguments, numbers of cells, and the record of the model), the figure tuning.png, and the
        folder model.
    """
    check_types(write_tuning, tuning=tuning, folder=folder, figures=figures)
    folder = create_folder(folder)
    document = json.dumps(describe_tuning(tuning), indent=1) + "\n"
    write_atomically(folder / RUNS, lambda path: write_csv(tuning.runs, path, index=False, float_format=DIGITS))
    write_atomically(folder / SETTINGS, lambda path: write_csv(tuning.settings, path, float_format=DIGITS))
    write_atomically(folder / CHOICE, lambda path: path.write_text(document, encoding="utf-8"))
    plot_tuning(tuning, folder / f"tuning.{figures}")
    tuning.model.save(folder / MODEL, overwrite=True)
    return [folder / name for name in (RUNS, SETTINGS, CHOICE, f"tuning.{figures}", MODEL)]


def _line_colors(n: int) -> np.ndarray:
    """Distinct colours as RGBA, shape (n, 4)."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.15, 0.8, n)) if n > 1 else np.array([[0.0, 0.447, 0.698, 1.0]])
