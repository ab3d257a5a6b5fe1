"""Write docs/benchmarks.md, the page of benchmarks, from the tables in benchmarks/results.

    python benchmarks/page.py

Every number on the page is read from a committed table, so the page is never edited by hand; a test fails if it is not
what this script writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"

SETS = {
    "baron": "Baron islets, human and mouse",
    "baron_1000": "1,000 cells of them",
    "baron_few_shared": "1,800 of them with two shared types",
    "kang": "Kang, control and stimulated",
    "family_12": "simulation, strong effect, one private type each",
    "family_01": "simulation, strong effect, 8 shared and 6 private types",
    "family_23": "simulation, 2 shared and 4 private types",
    "family_10": "simulation, four systems, 2 shared and 8 private types",
    "family_20": "simulation, four systems, 7 shared and 8 private types",
}
METHOD_SETS = {"baron": "Baron islets", "hard": "hard simulation", "held_out": "held-out simulation"}


def read(name: str) -> pd.DataFrame:
    """The committed table of this name."""
    return pd.read_csv(RESULTS / f"{name}.csv")


def markdown(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown; missing values are empty."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join("" if pd.isna(cell) else str(cell) for cell in line) + " |" for line in lines)


def number(value: float, digits: int = 2) -> str | None:
    """A number with `digits` decimal places and separated thousands; None if it is missing."""
    return None if pd.isna(value) else f"{value:,.{digits}f}"


def span(values: pd.Series, digits: int = 2) -> str:
    """The mean, with the lowest and highest value in brackets."""
    return f"{number(values.mean(), digits)} ({number(values.min(), digits)} - {number(values.max(), digits)})"


def trust() -> str:
    """Mixing of shared and private types, and types kept, by data set."""
    table = read("paper_trust_summary").set_index(["set", "variant"])
    rows = []
    for name, title in SETS.items():
        default = table.loc[(name, "default")]
        row = [title, *(number(default[column]) for column in ("shared", "private", "worst private", "nmi", "nmi_pca"))]
        for variant in ("mixing", "Harmony"):
            found = (name, variant) in table.index
            row += [number(table.loc[(name, variant)][column]) if found else None for column in ("shared", "private")]
        rows.append(row)
    header = [
        "cells", "mixing of shared types", "of private types", "worst call", "NMI", "NMI of PCA",
        '`preset="mixing"`: shared', "private", "Harmony: shared", "private",
    ]  # fmt: skip
    return markdown(header, rows)


def methods() -> str:
    """The paper's overall score of each method, by data set."""
    scores = {}
    for name, title in METHOD_SETS.items():
        runs = read(f"paper_methods_{name}")
        groups = runs[runs["status"] == "finished"].groupby("title")["overall"]
        scores[title] = groups.agg(lambda s: f"{s.mean():.2f}" + (f" ± {s.std():.2f}" if len(s) > 1 else ""))
    table = pd.DataFrame(scores).sort_values("Baron islets", ascending=False)
    return markdown(["method", *table.columns], table.reset_index().itertuples(index=False))


def baron() -> str:
    """Metrics of the former default on Baron's islets, beside scvi-tools' SysVI."""
    table = read("baron_quality").set_index("Unnamed: 0")
    metrics = {"shared_neighbors": "shared neighbours", "label_transfer": "label transfer", "knn_purity": "same type",
               "iLISI": "iLISI", "nmi": "NMI", "ari": "ARI"}  # fmt: skip
    tools = {tool: table[table.index.str.startswith(tool)] for tool in ("PCA", "scvi-tools", "sysvi")}
    rows = [
        [title, number(tools["PCA"][name].iloc[0]), span(tools["scvi-tools"][name]), span(tools["sysvi"][name])]
        for name, title in metrics.items()
    ]
    return markdown(["mean (lowest - highest seed)", "PCA", "scvi-tools' SysVI", "sysVI"], rows)


def training() -> str:
    """Seconds an epoch beside scvi-tools' SysVI."""
    rows = []
    for (name, cells, genes), rounds in read("training").groupby(["data", "cells", "genes"], sort=False):
        ratio = rounds["times as fast"]
        rows.append(
            [f"{name.split(',')[0]}, {cells:,} x {genes:,}", number(rounds["sysvi"].median()),
             number(rounds["scvi-tools SysVI"].median()),
             f"{ratio.median():.1f} ({ratio.min():.1f} - {ratio.max():.1f})"]
        )  # fmt: skip
    return markdown(["data", "sysVI, s", "scvi-tools' SysVI, s", "times as fast (rounds)"], rows)


def scaling() -> str:
    """Seconds and memory by number of cells."""
    table = read("scaling")
    methods = list(dict.fromkeys(table["method"]))
    rows = []
    for cells, group in table.groupby("cells"):
        by_method = group.set_index("method")
        row: list[object] = [f"{cells:,}"]
        for method in methods:
            if method not in by_method.index:
                row += [None, None]
                continue
            point = by_method.loc[method]
            mark = "" if pd.isna(point["extrapolated"]) or not point["extrapolated"] else "*"
            row += [number(point["seconds"], 1 if point["seconds"] < 100 else 0) + mark, number(point["peak_mb"], 0)]
        rows.append(row)
    return markdown(["cells", *(f"{m}, {unit}" for m in methods for unit in ("s", "MB"))], rows)


def metrics() -> str:
    """Seconds of the metrics that scib-metrics has too."""
    table = read("metrics_speed_100000")
    rows = [[r.metric, number(r.sysvi, 1), number(r._4, 1), f"{r.ratio:.1f}"] for r in table.itertuples(index=False)]
    return markdown(["metric", "sysVI, s", "scib-metrics, s", "times as fast"], rows)


def gpu() -> str:
    """Milliseconds of a step on a GPU."""
    table = read("gpu_steps")
    best = table["ms"].min()
    rows = [
        [r.step, number(r.ms), f"{r.ms / best:.1f}", number(r.peak_gb)] for r in table.sort_values("ms").itertuples()
    ]
    return markdown(["a step with", "ms", "times the shortest", "peak memory, GB"], rows)


def mapping() -> str:
    """Mapping new cells, compared with training on all cells."""
    table = read("mapping")
    names = {"donors": "a donor of each species", "system": "all mouse cells", "third": "a simulated third system"}
    ways = {"mapped": "mapped", "retrained": "trained on all cells", "PCA and Harmony": "Harmony on all cells"}
    rows = []
    for (part, setting), group in table[table["part"].isin(names)].groupby(["part", "setting"], sort=False):
        if setting in ways:
            means = group[["accuracy_human", "accuracy_mouse", "accuracy", "shared"]].mean()
            rows.append([names[part], ways[setting], *(number(value, 3) for value in means)])
    return markdown(["held out", "", "accuracy, human", "accuracy, mouse", "accuracy", "shared neighbours"], rows)


def choice() -> str:
    """Whether tuning without labels chooses as with labels."""
    names = {"baron": "Baron islets", "kang": "Kang", "hard": "hard simulation"}
    rows = [
        [names[r["data"]], r["runs"], number(r["correlation over runs"]), number(r["correlation over settings"]),
         r["chosen with labels"], r["chosen without"]]
        for r in read("criterion").to_dict("records")
    ]  # fmt: skip
    header = ["data", "runs", "correlation over runs", "over settings", "chosen with labels", "chosen without"]
    return markdown(header, rows)


def page() -> str:
    """The page as Markdown."""
    return f"""<!-- Written by `python benchmarks/page.py` from benchmarks/results: do not edit. -->

# Benchmarks

Every number on this page is read from a table in [benchmarks/results](../benchmarks/results) by `python
benchmarks/page.py`. The heading of each section names the command that measured the table. Machines differ and are
noisy: read ratios rather than times. [All measurements](../benchmarks/README.md) describes the machine, the methods
and what was tried and dropped; [the paper's findings](../benchmarks/paper/README.md) has the study of quality.

## Are the right cells mixed?

`python benchmarks/paper/trust.py`, defaults. Mixing is 1 where neighbours are distributed as if there were no
systems; private types occur in one system only and should not mix; NMI says how well clusters match cell types.
"Worst call" is the highest mixing of private types in a single call.

{trust()}

[Can the result be trusted?](trust.md) explains the data sets and draws conclusions.

## Quality beside other methods

`python benchmarks/paper/methods.py`. The paper's overall score (0.6 biology + 0.4 batch correction, scaled over the
runs of a data set), mean ± standard deviation over five seeds; PCA was run once.

{methods()}

## Quality on Baron islets, beside scvi-tools

`python benchmarks/baron.py`, measured with a former default (one model from random weights) and scvi-tools 1.4.2,
three seeds.

{baron()}

## Training on a CPU

`python benchmarks/training.py`, measured with a former default (one model). Seconds an epoch, medians over rounds,
two cores.

{training()}

`python benchmarks/scaling.py`: seconds for 20 epochs and peak memory above that after the imports, 2,000 genes. A
star marks times that were extrapolated from one epoch.

{scaling()}

![Time and peak memory against the number of cells](scaling.png)

## Training on a GPU

`python benchmarks/gpu.py --parts steps`. One training step of 2,048 cells x 3,000 genes on an NVIDIA H200.

{gpu()}

## Metrics

`python benchmarks/metrics.py speed --cells 100000`. Seconds on 100,000 cells beside scib-metrics 0.5.10.

{metrics()}

## Mapping new cells

`python benchmarks/mapping.py`. Accuracy is the share of cells whose type is that of most of their nearest reference
cells, means over seeds; measured with ensembles of four models and a former start of training.

{mapping()}

[Labels for new cells](mapping.md) has the measurements of label transfer.

## Choosing without labels

`python benchmarks/criterion.py`. Spearman's correlation of the scores of runs with and without labels, and what
either chooses.

{choice()}

[Choosing the integration strength](tuning.md) explains the rule.
"""


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"Wrote {PAGE.relative_to(ROOT)}.")
