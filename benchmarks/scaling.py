"""Time and peak memory against the number of cells, on the CPU: ours, scvi-tools 1.4.2's SysVI, Harmony.

    python benchmarks/scaling.py [--cells 1000 3000 ...] [--methods sysvi ...] [--budget 600] [--again]
    python benchmarks/scaling.py --plot-only

Simulated cells of two systems x 2,000 genes, 11 % of the values above zero. Time is from the prepared data in memory to
the embedding: 20 epochs at each one's default minibatch, or 30 principal components and Harmony (harmonypy 2). Peak
memory is that of the process over what it held after its imports and before the data, so the data is part of it;
absolute_peak_mb holds the whole. Each point is measured once, in a process of its own.

A point that would take longer than --budget seconds, judged by the method's next smaller one, is measured over one
epoch and reckoned for 20 ("extrapolated" in the table, an open mark in the figure); it is left out if one epoch would
take longer too. Where the whole machine stood still for a while (a virtual one that its host stopped), that is taken
off and noted in still_seconds.

Results are kept row by row in results/scaling.csv, and what is there is not measured anew unless --again says so: an
interrupted run goes on where it was. The figure is docs/scaling.png.
"""

import argparse
from itertools import product
from pathlib import Path

import data
import pandas as pd
from common import CACHE, HERE, RESULTS, Failed, machine, make_peer_environment, n_cores, ours, peer

OURS, THEIRS, HARMONY = "sysvi", "scvi-tools SysVI", "Harmony"
METHODS = (OURS, HARMONY, THEIRS)
CELLS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
GENES, EPOCHS = 2_000, 20
TABLE, FIGURE = RESULTS / "scaling.csv", HERE.parent / "docs" / "scaling.png"


def main() -> None:
    """Measure what is missing, smallest first, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=CELLS, help="numbers of cells")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--budget", type=float, default=600, help="seconds that a point may take")
    parser.add_argument("--threads", type=int, default=n_cores(), help="default: all cores")
    parser.add_argument("--again", action="store_true", help="measure anew what the table has")
    parser.add_argument("--plot-only", action="store_true", help="only draw the figure from the table")
    args = parser.parse_args()
    table = pd.read_csv(TABLE, keep_default_na=False) if TABLE.exists() else pd.DataFrame(columns=["method", "cells"])
    if not args.plot_only:
        make_peer_environment()
        RESULTS.mkdir(exist_ok=True)
        print(machine(args.threads), flush=True)
        for cells, method in product(sorted(args.cells), args.methods):
            known = (table["method"] == method) & (table["cells"] == cells)
            if known.any() and not args.again:
                continue
            row = point(table, method, cells, args.budget, args.threads)
            if row is not None:
                table = pd.DataFrame([*table[~known].to_dict("records"), row])
                table = table.sort_values(["method", "cells"], ignore_index=True)
                table.to_csv(TABLE, float_format="%.3f", index=False)
    if table.empty:
        raise SystemExit("Nothing is measured yet.")
    print(table.round(1).to_string(index=False))
    plot(table, FIGURE)


def point(table: pd.DataFrame, method: str, cells: int, budget: float, threads: int) -> dict | None:
    """One more row of the table, or None (and a line that says why) where budget or memory does not do."""
    smaller = table[(table["method"] == method) & (table["cells"] < cells)].sort_values("cells")
    expected = 0.0 if smaller.empty else smaller["seconds"].iloc[-1] * cells / smaller["cells"].iloc[-1]
    epochs = None if method == HARMONY else EPOCHS if expected <= budget else 1
    at_least = expected / EPOCHS if epochs == 1 else expected
    what = f"{method}, {cells:,} cells"
    if at_least > budget:
        print(f"{what}: left out, it would take about {at_least:.0f} s, longer than {budget:.0f} s", flush=True)
        return None
    try:
        row = measure(method, cells, epochs, threads)
    except Failed as error:
        print(f"{what}: {error}", flush=True)
        return None
    print(f"{what}: {row['seconds']:.1f} s, {row['peak_mb']:,.0f} MB {row['extrapolated']}", flush=True)
    return row


def measure(method: str, cells: int, epochs: int | None, threads: int) -> dict:
    """One point; seconds are reckoned for all epochs where fewer are trained."""
    prepared, embedding = data.simulated(cells, GENES), CACHE / "embedding.npy"
    if method == OURS:
        result = ours("ours.py", prepared, embedding, "--epochs", epochs, threads=threads)
    elif method == THEIRS:
        result = peer("scvi_sysvi.py", prepared, embedding, "--epochs", epochs, "--train-size", 1.0, threads=threads)
    else:
        result = peer("harmony.py", prepared, embedding, "--threads", threads, threads=threads)
    seconds, extrapolated = result["total_seconds"], ""
    if epochs is not None and epochs < EPOCHS:
        seconds += (EPOCHS - epochs) * result["seconds_per_epoch"]
        extrapolated = f"extrapolated from {epochs} of {EPOCHS} epochs"
    size = data.size(prepared)
    return {
        "method": method,
        "cells": cells,
        "genes": size.genes,
        "density": size.density,
        "threads": threads,
        "seconds": seconds,
        "extrapolated": extrapolated,
        "measured_seconds": result["total_seconds"],
        "still_seconds": result["still_seconds"],
        "cpu_seconds": result["cpu_seconds"],
        "peak_mb": result["peak_mb"],
        "absolute_peak_mb": result["absolute_peak_mb"],
        "data_mb": size.csr_mb,
    }


def plot(table: pd.DataFrame, path: Path) -> None:
    """Time and memory against cells, log-log, each line named at its end; open marks are extrapolated."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    colors = {OURS: "#0072b2", THEIRS: "#d55e00", HARMONY: "#737373"}
    ticks = {
        "cells": {10**k: f"{10**k:,}" for k in range(3, 7)},
        "seconds": {0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h", 36000: "10 h"},
        "peak_mb": {1: "1 MB", 10: "10 MB", 100: "100 MB", 1000: "1 GB", 10000: "10 GB"},
    }
    titles = {"seconds": "Time", "peak_mb": "Peak memory"}
    table = table.sort_values("cells")
    estimated = table["extrapolated"] != ""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for ax, (column, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        ax.set(xscale="log", yscale="log", title=title, xlabel="cells")
        for method, points in table.groupby("method"):
            ax.plot("cells", column, "-", data=points, color=colors[method], linewidth=2)
            is_open = estimated[points.index] & (column == "seconds")
            face = ["white" if o else colors[method] for o in is_open]
            ax.scatter("cells", column, 36, data=points, color=face, edgecolor=colors[method], linewidth=1.5, zorder=3)
        ends = table.groupby("method").tail(1).sort_values(column)
        for method, x, y, place in zip(ends["method"], ends["cells"], ends[column], apart(ends[column]), strict=True):
            style = {"color": colors[method], "weight": "bold", "va": "center"}
            ax.annotate(method, (x, y), (1.25 * x, place), textcoords="data", annotation_clip=False, **style)
        for axis, names in ((ax.xaxis, ticks["cells"]), (ax.yaxis, ticks[column])):
            axis.set_major_locator(FixedLocator(list(names)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _, names=names: names[value]))
        ax.grid(color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
        note = {"xycoords": "axes fraction", "color": "0.3", "fontsize": 9}
        if column == "seconds" and estimated.any():
            ax.annotate("open: extrapolated from one epoch", (0.03, 0.95), **note)
        if column == "peak_mb":
            sizes = table.drop_duplicates("cells")
            ax.plot("cells", "data_mb", ":", data=sizes, color="0.3", linewidth=1.2)
            ax.annotate("dotted: the data itself", (0.03, 0.95), **note)
    figure.savefig(path, dpi=150)


def apart(values: pd.Series, factor: float = 1.45) -> list[float]:
    """Places on a log axis for the labels of rising values, each at least `factor` above the one before."""
    places: list[float] = []
    for value in values:
        places.append(max(value, places[-1] * factor) if places else value)
    return places


if __name__ == "__main__":
    main()
