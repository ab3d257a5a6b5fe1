"""What 1 to 100 million cells cost, extrapolated from the measurements of scale_disk.py, reading.py and gpu.py.

    python benchmarks/scale_model.py

Every cost is linear in the number of cells. Constants for each cell are taken from the rows of results/scale_disk.csv
(2,000 genes, 11 % of the values non-zero, two cores): 1,000,000 cells for time, which no other program disturbed, and
the smallest and largest size for memory. The time of a step on a card is that of results/gpu_steps.csv. The parameters
are counted in a model of as many genes. Writes results/scale_model.csv, the constants into
results/scale_model_constants.csv, and docs/scale.png, which has the measured times beside the linear ones.
"""

import argparse
import warnings

import numpy as np
import pandas as pd
from common import HERE, RESULTS
from matplotlib.figure import Figure
from scale_disk import GENES, TABLE

SIZES = (1_000_000, 10_000_000, 100_000_000)  # cells
PASSES = 4  # over the store, beside the epochs: checks, two samples, embedding
NETWORK = 10e9 / 8  # bytes a second: a network of 10 Gbit/s
TITLES = {"prepare": "preparing 4 files", "memory": "training in memory, 1 epoch", "disk": "from disk, 1 epoch"}


def main() -> None:
    """Write the table of costs and the figure."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    measured = pd.read_csv(TABLE).query("store == 'zarr' and files == 4").set_index(["what", "cells"])
    constants = constants_for_a_cell(measured) | model_size()
    table = pd.DataFrame({cells: costs(cells, constants) for cells in SIZES})
    table.rename_axis("what").to_csv(RESULTS / "scale_model.csv", float_format="%.4g")
    pd.Series(constants).rename("value").rename_axis("constant").to_csv(
        RESULTS / "scale_model_constants.csv", float_format="%.6g"
    )
    print(pd.Series(constants).to_string(), table.to_string(), sep="\n\n")
    plot(measured)


def constants_for_a_cell(measured: pd.DataFrame) -> dict[str, float]:
    """Bytes, seconds and CPU seconds for each cell (and pass), and cells a second of a card."""
    size = 1_000_000
    at = {what: measured.loc[(what, size)] for what in TITLES}
    step = pd.read_csv(RESULTS / "gpu_steps.csv").sort_values("ms").iloc[0]
    reading = pd.read_csv(RESULTS / "reading.csv").set_index(["reader", "what"]).loc[("sysvi", "2500")]
    return {
        "bytes in the store": 1e6 * at["prepare"]["store_mb"] / size,
        "bytes of memory, expression in memory": bytes_for_a_cell(measured, "memory"),
        "bytes of memory, expression on disk": bytes_for_a_cell(measured, "disk"),
        "bytes of memory, preparing": bytes_for_a_cell(measured, "prepare"),
        "seconds of preparing": at["prepare"]["seconds"] / size,
        "CPU seconds of reading, each pass": reading["cpu_microseconds"] / 1e6,
        "seconds of training from disk, each epoch": 1 / at["disk"]["cells_per_second"],
        "seconds of training in memory, each epoch": 1 / at["memory"]["cells_per_second"],
        "cells a second of a card": 1000 * step["minibatch"] / step["ms"],
        "minibatch": at["disk"]["batch_size"],
    }


def bytes_for_a_cell(measured: pd.DataFrame, what: str) -> float:
    """Growth of the peak memory from the smallest to the largest size."""
    peak = measured.loc[what]["peak_mb"].sort_index()
    return float(1e6 * (peak.iloc[-1] - peak.iloc[0]) / (peak.index[-1] - peak.index[0]))


def model_size() -> dict[str, float]:
    """Parameters of a default model, its epochs, and the members of the default ensemble."""
    import scanpy as sc

    import sysvi
    from sysvi._core.settings import DEFAULT_PRESET

    cells = sysvi.datasets.simulate_systems(1000, GENES, seed=0)
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few cells, short training
        model = sysvi.integrate(cells, "system", "batch", members=1, max_epochs=1, progress=False)
    return {
        "parameters": sum(weight.numel() for weight in model.module.parameters() if weight.requires_grad),
        "epochs": DEFAULT_PRESET.settings["max_epochs"],
        "members": DEFAULT_PRESET.members,
    }


def costs(cells: int, of: dict[str, float]) -> dict[str, float]:
    """What so many cells cost; hours are those of two cores unless a card is named."""
    passes, hour = of["epochs"] + PASSES, 3600
    epochs_of_all = of["epochs"] * of["members"]
    gradient = 4 * of["parameters"]
    steps_per_second = of["cells a second of a card"] / of["minibatch"]
    return {
        "store, GB": cells * of["bytes in the store"] / 1e9,
        "memory, expression in memory, GB": cells * of["bytes of memory, expression in memory"] / 1e9,
        "memory, expression on disk, GB": cells * of["bytes of memory, expression on disk"] / 1e9,
        "memory of preparing, GB": cells * of["bytes of memory, preparing"] / 1e9,
        "preparing, hours": cells * of["seconds of preparing"] / hour,
        "bytes read for a member, TB": cells * of["bytes in the store"] * passes / 1e12,
        "a member from disk, hours": cells * of["seconds of training from disk, each epoch"] * of["epochs"] / hour,
        "all members from disk, hours": cells * of["seconds of training from disk, each epoch"] * epochs_of_all / hour,
        "all members on a card that never waits, hours": cells * epochs_of_all / of["cells a second of a card"] / hour,
        "cores that read for this card": of["cells a second of a card"] * of["CPU seconds of reading, each pass"],
        "steps of an epoch": np.ceil(cells / of["minibatch"]),
        "gradient of a step, MB": gradient / 1e6,
        "gradients of a card's steps, GB a second": gradient * steps_per_second / 1e9,
        "summing a gradient over 10 Gbit/s, steps": 2 * gradient * steps_per_second / NETWORK,
    }


def plot(measured: pd.DataFrame) -> None:
    """Draw measured CPU seconds by number of cells, and the line through those of one million cells."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    ax = figure.subplots()
    sizes = sorted(set(measured.index.get_level_values("cells")))
    ends = np.array([sizes[0], sizes[-1]])
    for (what, title), color in zip(TITLES.items(), ("#009e73", "#0072b2", "#d55e00"), strict=True):
        seconds = measured.loc[what]["cpu_seconds"].sort_index()
        ax.plot(ends, seconds[1_000_000] * ends / 1e6, color=color, linewidth=1)
        ax.scatter(seconds.index, seconds, color=color, label=title)
    ax.set(xscale="log", yscale="log", xlabel="cells", ylabel="CPU seconds")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.grid(color="0.92")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, title="points: measured, lines: in proportion")
    figure.savefig(HERE.parent / "docs" / "scale.png", dpi=120)


if __name__ == "__main__":
    main()
