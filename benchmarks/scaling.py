"""Time and peak memory by number of cells, on the CPU: sysvi, scvi-tools 1.5.1's SysVI and Harmony.

    python benchmarks/scaling.py [--cells 1000 3000 ...] [--methods sysvi ...] [--budget 600] [--again]
    python benchmarks/scaling.py --plot-only

Simulated cells of two systems x 2,000 genes, 11 % of the values non-zero. Time is from the prepared data in memory to
the embedding: 20 epochs with each method's default minibatch, or 30 principal components and Harmony (harmonypy 2).
Peak memory (peak_mb) is that of the process minus what it held after its imports, so it includes the data;
absolute_peak_mb is the total. Each point is measured once, in a separate process.

A point is expected to take longer than --budget seconds if the method's next smaller point says so. Then only one epoch
is measured and the time extrapolated to 20 ("extrapolated" in the table, an open mark in the figure); the point is left
out if even one epoch would take longer. Time in which the whole machine stood still (a virtual one whose host stopped
it) is subtracted and listed in still_seconds.

Results are written row by row to results/scaling.csv, and measured again only with --again, so an interrupted benchmark
continues where it stopped. The figure is docs/scaling.png.
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
    """Measure missing points, smallest first, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=CELLS, help="numbers of cells")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--budget", type=float, default=600, help="longest time of a point, in seconds")
    parser.add_argument("--threads", type=int, default=n_cores(), help="number of threads; default: all cores")
    parser.add_argument("--again", action="store_true", help="measure points again that the table has")
    parser.add_argument("--plot-only", action="store_true", help="only draw the figure")
    args = parser.parse_args()
    table = pd.read_csv(TABLE, keep_default_na=False) if TABLE.exists() else pd.DataFrame(columns=["method", "cells"])
    if not args.plot_only:
        make_peer_environment()
        RESULTS.mkdir(exist_ok=True)
        print(machine(args.threads), flush=True)
        for cells, method in product(sorted(args.cells), args.methods):
            is_point = (table["method"] == method) & (table["cells"] == cells)
            if is_point.any() and not args.again:
                continue
            row = point(table, method, cells, args.budget, args.threads)
            if row is not None:
                table = pd.DataFrame([*table[~is_point].to_dict("records"), row])
                table = table.sort_values(["method", "cells"], ignore_index=True)
                table.to_csv(TABLE, float_format="%.3f", index=False)
    if table.empty:
        raise SystemExit("Nothing is measured yet.")
    print(table.round(1).to_string(index=False))
    plot(table, FIGURE)


def point(table: pd.DataFrame, method: str, cells: int, budget: float, threads: int) -> dict | None:
    """A further row of the table; None, with a line that says why, if the budget or the memory is not enough."""
    smaller = table[(table["method"] == method) & (table["cells"] < cells)].sort_values("cells")
    expected = 0.0 if smaller.empty else smaller["seconds"].iloc[-1] * cells / smaller["cells"].iloc[-1]
    epochs = None if method == HARMONY else EPOCHS if expected <= budget else 1
    shortest = expected / EPOCHS if epochs == 1 else expected
    label = f"{method}, {cells:,} cells"
    if shortest > budget:
        print(f"{label}: left out, as it would take about {shortest:.0f} s, longer than {budget:.0f} s", flush=True)
        return None
    try:
        row = measure(method, cells, epochs, threads)
    except Failed as error:
        print(f"{label}: {error}", flush=True)
        return None
    print(f"{label}: {row['seconds']:.1f} s, {row['peak_mb']:,.0f} MB {row['extrapolated']}", flush=True)
    return row


def measure(method: str, cells: int, epochs: int | None, threads: int) -> dict:
    """Measure one point; with fewer epochs than 20, the time is extrapolated."""
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
    """Draw time and memory against the number of cells on logarithmic axes; open marks are extrapolated."""
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
    extrapolated = table["extrapolated"] != ""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for ax, (column, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        ax.set(xscale="log", yscale="log", title=title, xlabel="cells")
        for method, points in table.groupby("method"):
            ax.plot("cells", column, "-", data=points, color=colors[method], linewidth=2)
            is_open = extrapolated[points.index] & (column == "seconds")
            face = ["white" if o else colors[method] for o in is_open]
            ax.scatter("cells", column, 36, data=points, color=face, edgecolor=colors[method], linewidth=1.5, zorder=3)
        ends = table.groupby("method").tail(1).sort_values(column)
        for method, x, y, place in zip(
            ends["method"], ends["cells"], ends[column], spread_labels(ends[column]), strict=True
        ):
            style = {"color": colors[method], "weight": "bold", "va": "center"}
            ax.annotate(method, (x, y), (1.25 * x, place), textcoords="data", annotation_clip=False, **style)
        for axis, names in ((ax.xaxis, ticks["cells"]), (ax.yaxis, ticks[column])):
            axis.set_major_locator(FixedLocator(list(names)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _, names=names: names[value]))
        ax.grid(color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
        note = {"xycoords": "axes fraction", "color": "0.3", "fontsize": 9}
        if column == "seconds" and extrapolated.any():
            ax.annotate("open: extrapolated from one epoch", (0.03, 0.95), **note)
        if column == "peak_mb":
            sizes = table.drop_duplicates("cells")
            ax.plot("cells", "data_mb", ":", data=sizes, color="0.3", linewidth=1.2)
            ax.annotate("dotted: the data itself", (0.03, 0.95), **note)
    figure.savefig(path, dpi=150)


def spread_labels(values: pd.Series, factor: float = 1.45) -> list[float]:
    """Positions on a logarithmic axis for labels of increasing values, each at least `factor` times the previous."""
    positions: list[float] = []
    for value in values:
        positions.append(max(value, positions[-1] * factor) if positions else value)
    return positions


if __name__ == "__main__":
    main()
